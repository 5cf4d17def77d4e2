"""``adapt``: labelled texts in, a classifier out (spec 11 section 2)."""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from plume.config import from_json
from plume.errors import UserError
from plume.objectives.causal import CausalLM
from plume.text.splits import split_of
from plume.training import identity
from plume.training.adaptation import adapt, suitable
from plume.training.checkpoints import Checkpoints
from plume.training.faults import InjectedFault
from plume.training.folder import RunFolder
from plume.training.labelled import LabelledText, choose, read_labelled
from plume.training.meters import history
from plume.training.pretraining import pretrain
from plume.training.settings import Adaptation, Training
from tests.conftest import documents, sentences
from tests.training.conftest import Arm
from tests.training.test_pretraining import BERT, GPT, LSTM

QUICK = Training(
    steps=12, batch_size=8, microbatch_size=8, lr=5e-3, warmup_steps=2, eval_every=3, save_every=4, keep=1,
    precision="fp32", spike_sigma=None,
)  # fmt: skip
LONG = replace(
    QUICK,
    steps=60,
    batch_size=32,
    microbatch_size=None,
    lr=2e-2,
    warmup_steps=5,
    eval_every=20,
    save_every=60,
)


@pytest.fixture(scope="module", params=["en", "zh"])
def parent(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """A language, and a BERT of a few steps in it."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp(request.param)
    (folder / "text.txt").write_text("\n".join(documents(request.param, 150)), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("plume.training.pretraining.draw_curve", lambda *_: None)
        return request.param, pretrain(BERT, data=[folder / "text.txt"], out=folder / "bert")


@pytest.fixture(autouse=True)
def _code_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(1)
    monkeypatch.setattr("plume.training.precision.matmul_peak", lambda *_: 1e12)
    monkeypatch.setattr("plume.training.pretraining.draw_curve", lambda *_: None)
    monkeypatch.setattr(identity, "code", lambda: "c" * 64)


def labelled(folder: Path, language: str, count: int = 200) -> Path:
    """A csv whose label one word decides."""
    words = ("lanterns", "lit", "dark") if language == "en" else ("灯笼", "亮", "暗")
    file = folder / "labelled.csv"
    with file.open("w", encoding="utf-8", newline="") as stream:
        table = csv.writer(stream)
        table.writerow(["text", "label"])
        for i, text in enumerate(sentences(language, count)):
            table.writerow([f"{text} {i}", words[1] if words[0] in text else words[2]])
    return file


def weights(run: Path) -> dict[str, Tensor]:
    return Checkpoints(RunFolder(run).checkpoints).require().tensors("model")


def scores(run: Path) -> Mapping[str, Any]:
    found: dict[str, Any] = RunFolder(run).read_run()["scores"]
    return found


def test_it_learns_what_the_label_hangs_on(parent: tuple[str, Path], tmp_path: Path) -> None:
    language, run = parent
    data = labelled(tmp_path, language, 300)
    other = tmp_path / "other"
    other.mkdir()
    out = adapt(
        run, data=[data], evaluation=[labelled(other, language, 60)], out=tmp_path / "out", training=LONG
    )
    assert scores(out)["dev"]["accuracy"] > 0.9 and scores(out)["test"]["accuracy"] > 0.9
    assert scores(out)["test"]["texts"] == 60
    recipe = from_json(RunFolder(out).read_config())
    assert isinstance(recipe, Adaptation) and set(recipe.objective.labels) == (
        {"lit", "dark"} if language == "en" else {"亮", "暗"}
    )
    assert weights(out).keys() >= {"heads.label.out.weight"} and "heads.masked_token.bias" not in weights(out)
    assert RunFolder(out).read_run()["parent"]["path"] == str(run)


def test_frozen_leaves_the_backbone_bit_identical_and_scratch_begins_elsewhere(
    parent: tuple[str, Path], tmp_path: Path
) -> None:
    language, run = parent
    data = labelled(tmp_path, language)
    before = weights(run)
    frozen = weights(adapt(run, data=[data], out=tmp_path / "frozen", training=QUICK, mode="frozen"))
    backbone = [name for name in before if name.startswith("backbone.")]
    assert backbone and all(torch.equal(frozen[name], before[name]) for name in backbone)
    full = weights(adapt(run, data=[data], out=tmp_path / "full", training=QUICK))
    assert not any(torch.equal(full[name], before[name]) for name in backbone if "weight" in name)
    scratch = weights(adapt(run, data=[data], out=tmp_path / "scratch", training=QUICK, mode="scratch"))
    name = "backbone.embedding.weight"
    assert (scratch[name] - before[name]).abs().max() > 2 * (full[name] - before[name]).abs().max() * 0.2
    assert not torch.equal(scratch[name], full[name])


def test_a_killed_adaptation_goes_on_bit_for_bit(parent: tuple[str, Path], tmp_path: Path, arm: Arm) -> None:
    language, run = parent
    data = labelled(tmp_path, language, 120)
    straight = adapt(run, data=[data], out=tmp_path / "straight", training=QUICK)
    for death in ("step@10", "checkpoint.rename@1", "step@2"):
        arm(f"{death}=fail")
        with pytest.raises(InjectedFault):
            adapt(run, data=[data], out=tmp_path / "died", training=QUICK)
    arm(None)
    died = adapt(run, data=[data], out=tmp_path / "died", training=QUICK)
    assert all(torch.equal(t, weights(straight)[name]) for name, t in weights(died).items())
    rows = [[row["loss"] for row in history(RunFolder(out).metrics)] for out in (straight, died)]
    assert rows[0] == rows[1] and scores(straight) == scores(died)


def test_dev_picks_and_test_is_never_seen(parent: tuple[str, Path], tmp_path: Path) -> None:
    language, run = parent
    data = labelled(tmp_path, language)
    rows = read_labelled([data])
    assert {row.split for row in rows} == {"train", "dev", "test"}
    assert all(row.split == split_of(row.segments[0]) for row in rows)
    # The same file with every test label turned round gives the same model.
    first = adapt(run, data=[data], out=tmp_path / "first", training=QUICK)
    lines = data.read_text(encoding="utf-8").splitlines()
    labels = sorted({row.label for row in rows})
    turned = [
        line if split_of(line.rpartition(",")[0]) != "test"
        else f"{line.rpartition(',')[0]},{labels[0] if line.endswith(labels[1]) else labels[1]}"
        for line in lines
    ]  # fmt: skip
    assert turned != lines
    (tmp_path / "turned.csv").write_text("\n".join(turned), encoding="utf-8")
    second = adapt(run, data=[tmp_path / "turned.csv"], out=tmp_path / "second", training=QUICK)
    assert all(torch.equal(t, weights(first)[name]) for name, t in weights(second).items())


def test_a_few_examples_are_spread_evenly_and_drawn_by_the_seed() -> None:
    rows = [LabelledText((f"t{i}",), "rare" if i % 10 == 0 else "a" if i % 2 else "b") for i in range(200)]
    labels = ("a", "b", "rare")
    chosen = choose(rows, labels, 16, 0, "examples")
    assert Counter(row.label for row in chosen) == {"a": 6, "b": 5, "rare": 5}
    assert chosen == choose(rows, labels, 16, 0, "examples") != choose(rows, labels, 16, 1, "examples")
    many = choose(rows, labels, 150, 0, "examples")
    assert (
        Counter(row.label for row in many)["rare"] == 20 and len(set(many)) == 150
    )  # all there are of the rare ones
    assert choose(rows, labels, None, 0, "examples") == rows == choose(rows, labels, 999, 0, "examples")
    assert set(choose(rows, labels, 16, 0, "examples")) <= set(choose(rows, labels, 64, 0, "examples"))


def test_few_shot_by_a_causal_and_a_recurrent_model(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("\n".join(documents("en", 120)), encoding="utf-8")
    data = labelled(tmp_path, "en")
    for recipe in (GPT, LSTM):
        run = pretrain(recipe, data=[tmp_path / "text.txt"], out=tmp_path / type(recipe.model).__name__)
        short = Training(steps=4, batch_size=8, lr=1e-3, eval_every=2, precision="fp32")
        out = adapt(run, data=[data], out=tmp_path / f"{run.name}-16", examples=16, training=short)
        assert scores(out)["dev"]["texts"] <= 16
        adapted = from_json(RunFolder(out).read_config())
        assert adapted.objective.reader == CausalLM() and adapted.examples == 16
        again = adapt(
            out, data=[data], out=tmp_path / f"{run.name}-again", examples=16, training=short
        )  # of an adapted one
        assert from_json(RunFolder(again).read_config()).objective.reader == CausalLM()


def test_pairs_of_texts(parent: tuple[str, Path], tmp_path: Path) -> None:
    language, run = parent
    texts = sentences(language, 80)
    rows = [{"premise": a, "hypothesis": b, "gold": "same" if i % 2 else "other"} for i, (a, b) in
            enumerate(zip(texts, reversed(texts), strict=True))]  # fmt: skip
    data = tmp_path / "pairs.jsonl"
    data.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows), encoding="utf-8")
    short = Training(steps=3, batch_size=8, lr=1e-3, precision="fp32")
    columns = {"text_column": "premise", "pair_column": "hypothesis", "label_column": "gold"}
    out = adapt(run, data=[data], out=tmp_path / "out", training=short, **columns)
    assert RunFolder(out).read_run()["finished"] == 3


@pytest.mark.parametrize(
    ("lines", "match"),
    [
        ("text,sentiment\nfine,good\n", r"label.*sentiment"),
        ("text,label\nfine,good\nfiner,good\n", "at least two"),
        ("text,label\n,good\n ,\n", "no row with both"),
        ("text,label\n" + "\n".join(f"t{i},l{i}" for i in range(200)), "--label-column"),
    ],
    ids=["no column", "one label", "nothing", "a label a row"],
)
def test_bad_labels_are_one_sentence(
    parent: tuple[str, Path], tmp_path: Path, lines: str, match: str
) -> None:
    (tmp_path / "bad.csv").write_text(lines, encoding="utf-8")
    with pytest.raises(UserError, match=match):
        adapt(parent[1], data=[tmp_path / "bad.csv"], out=tmp_path / "out", training=QUICK)
    assert not RunFolder(tmp_path / "out").exists()


def test_strange_labels_in_the_evaluation_are_told_before_training(
    parent: tuple[str, Path], tmp_path: Path
) -> None:
    data = labelled(tmp_path, parent[0])
    (tmp_path / "eval.csv").write_text("text,label\nfine,unheard-of\n", encoding="utf-8")
    with pytest.raises(UserError, match="unheard-of"):
        adapt(
            parent[1], data=[data], evaluation=[tmp_path / "eval.csv"], out=tmp_path / "out", training=QUICK
        )
    assert not list(tmp_path.glob("out/checkpoints"))


def test_suitable_values_depend_on_the_data_and_the_network() -> None:
    few, many = suitable(16, BERT.model, "full"), suitable(20_000, BERT.model, "full")
    assert (few.batch_size, few.steps) == (16, 150) and (many.batch_size, many.steps) == (32, 1875)
    assert few.lr == pytest.approx(5e-5 * 768 / 16) and suitable(16, BERT.model, "frozen").lr == 1e-3
