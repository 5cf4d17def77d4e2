"""The whole demo at toy size: a real kill, real runs, a report that shows them. In both languages."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from plume.errors import UserError
from plume.studies import corpora, demo
from plume.studies.words import WORDS

TOY = demo.Budget(gpt=4.0, bert=3.0, characters=60_000, sizes=(16, None), seeds=(1, 1), heldout=40)


@pytest.mark.slow
@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_demo_ends_with_a_report(
    language: demo.Language,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    opinions = {"en": ("a good film", "a bad film"), "zh": ("很好的书", "很差的书")}[language]

    def toy(folder: Path) -> corpora.Corpus:
        text = corpora.fallback(language, folder).text
        labelled = folder / "sentiment.jsonl"
        rows = [{"text": f"{opinions[i % 2]} {i}", "label": "+-"[i % 2]} for i in range(160)]
        labelled.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")
        return corpora.Corpus("toy", text, labelled)

    def nothing(folder: Path) -> Path:
        raise UserError("no package index here")

    monkeypatch.setattr(corpora, "english", toy)
    monkeypatch.setattr(corpora, "chinese", toy)
    monkeypatch.setattr(corpora, "minilm", nothing)
    out = tmp_path / "demo"
    page = demo.demo(language, out, TOY).read_text("utf-8")
    words = WORDS[language]
    for text in (
        words["title"],
        words["labels"]["title"],
        words["labels"]["ours"],
        words["labels"]["vectors"],
        words["masks"],
        words["samples"],
    ):
        assert text in page
    assert "<script" not in page and "http://" not in page.replace("http://www.w3.org", "")
    kill = demo._compare(demo._rows(out / "gpt"))
    assert kill is not None and kill.identical == kill.compared > 0
    assert (out / "overtaking.png").stat().st_size > 10_000
    # A second call does nothing again, least of all a kill.
    before = (out / "gpt" / "metrics.jsonl").read_bytes()
    demo.demo(language, out, TOY)
    assert (out / "gpt" / "metrics.jsonl").read_bytes() == before


@pytest.mark.slow
def test_without_a_network_the_demo_goes_on_without_labels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nothing(folder: Path) -> corpora.Corpus:
        raise UserError("no package index here")

    monkeypatch.setattr(corpora, "english", nothing)
    page = demo.demo("en", tmp_path, TOY).read_text("utf-8")
    assert WORDS["en"]["title"] in page and WORDS["en"]["labels"]["title"] not in page
