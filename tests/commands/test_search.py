"""``plume search``: what it finds, in English and Chinese, from an index that is made once."""

from __future__ import annotations

from pathlib import Path

import pytest

import plume
from plume.commands.search import snippet
from tests.commands.conftest import call, ok

TEXTS = {
    "en": (
        ["The harbour lies in winter ice.", "A ship. A ship! Nothing else.", "The dog sleeps."],
        "ship",
        2,
    ),
    "zh": (["冬天的港口很安静。", "他们喜欢北京的天气。", "一只狗在睡觉。"], "北京 天气", 2),
}


def test_the_right_document_with_its_place(
    language: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    texts, query, line = TEXTS[language]
    data = tmp_path / "a.txt"
    data.write_text("\n".join(texts), encoding="utf-8")
    for method in ("bm25", "tfidf"):
        said = ok(capsys, "search", data, query, "--method", method, "--top", 2)
        assert [found["id"] for found in said["found"]] == [f"a.txt:{line}"]
        assert said["found"][0]["score"] > 0
        assert all(f"*{word}*" in said["found"][0]["snippet"] for word in query.split())
    code, out, err = call(capsys, "search", data, query)
    assert code == 0 and f"a.txt:{line}" in out and "making" not in err, "the index is there already"
    data.write_text("\n".join([*texts[::-1], texts[line - 1]]), encoding="utf-8")
    again = plume.search(data, query)
    assert [found.id for found in again] == ["a.txt:2", "a.txt:4"], "changed data makes it anew"
    assert plume.search(data, "xyzzy", out=tmp_path / "index") == []
    code, out, _ = call(capsys, "search", data, "xyzzy 犇犇 xyzzy")
    assert code == 0 and "no document can match" in out and "(xyzzy, 犇" in out and str(data) in out
    assert out.count("\n") == 1 and out.count("xyzzy") == 1


def test_what_cannot_be_searched_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = tmp_path / "a.txt"
    data.write_text("...\n", encoding="utf-8")
    for words, says in (
        ([data, "x"], "no document with a word"),
        ([tmp_path / "nothing", "x"], "does not exist"),
        ([data, "  "], "the query is empty"),
        ([data, "?! 。"], "no word in the query '?! 。'"),
        ([data, "x", "--top", 0], "--top must be at least 1"),
        ([data, "x", "--method", "bm26"], "bm25"),
    ):
        code, out, err = call(capsys, "search", *words)
        assert (code, out) == (2, "") and says in err and err.count("\n") <= 2, err


def test_a_snippet_is_the_densest_place() -> None:
    text = "cat " + "x " * 200 + "cat dog" + " y" * 200
    assert "*cat* *dog*" in snippet(text, ["cat", "dog"]) and snippet(text, ["cat", "dog"]).startswith("…")
    assert snippet("concatenate", ["cat"]) == "concatenate"
