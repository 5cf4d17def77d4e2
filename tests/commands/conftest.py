"""A house in each language, lived in once for all tests of a process: text, labels, and the runs made of them."""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from plume.__main__ import main
from plume.training.pretraining import draw_curve as DRAW_CURVE
from tests.conftest import documents

SMALL = [
    "training.steps=6",
    "training.batch_size=4",
    "training.eval_every=3",
    "training.eval_batches=1",
    "training.save_every=3",
    "model.num_layers=1",
    "model.d_model=32",
    "model.num_heads=2",
    "model.d_ff=64",
    "windows.length=32",
    "tokenizer.vocab_size=400",
]
ADAPTING = ["training.steps=4", "training.batch_size=4", "training.eval_every=2", "training.save_every=2"]


@dataclass(frozen=True)
class House:
    """``text`` and ``labels`` are data, ``gpt``, ``bert`` and ``mood`` runs, ``said`` what --json gave for each."""

    language: str
    root: Path
    said: dict[str, Any]

    @property
    def text(self) -> Path:
        return self.root / "text.txt"

    @property
    def labels(self) -> Path:
        return self.root / "labels.csv"

    def __getattr__(self, run: str) -> Path:
        return self.root / run


def call(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    """(exit code, standard output, standard error) of a command line."""
    capsys.readouterr()
    code = main([str(word) for word in words])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def ok(capsys: pytest.CaptureFixture[str], *words: object) -> Any:
    """The JSON object that a command prints."""
    code, out, err = call(capsys, *words, "--json")
    assert code == 0, err
    assert out.count("\n") == 1, "--json prints one line"
    return json.loads(out)


_built: dict[str, House] = {}


@pytest.fixture
def house(
    language: str, tmp_path_factory: pytest.TempPathFactory, capsys: pytest.CaptureFixture[str]
) -> House:
    if language not in _built:
        # Whichever test comes first: its patches are not the house's.
        with pytest.MonkeyPatch.context() as plain:
            plain.setattr("plume.training.pretraining.draw_curve", DRAW_CURVE)
            _built[language] = _build(language, tmp_path_factory.mktemp(language), capsys)
    return _built[language]


def _build(language: str, root: Path, capsys: pytest.CaptureFixture[str]) -> House:
    house = House(language, root, {})
    house.text.write_text("\n".join(documents(language, 150)) + "\n", encoding="utf-8")
    good, bad = {"en": (" good", " bad"), "zh": ("好", "坏")}[language]
    rows = [
        (text + (good if i % 2 else bad), ("bad", "good")[i % 2])
        for i, text in enumerate(documents(language, 80, seed=1))
    ]
    with house.labels.open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file)
        table.writerow(("text", "label"))
        table.writerows(rows)
    for name in ("gpt", "bert"):
        words = [f"{name}:tiny", *SMALL, "--data", house.text, "--out", root / name]
        house.said[name] = ok(capsys, "pretrain", *words)
    words = ["--data", house.labels, "--out", root / "mood", *ADAPTING]
    house.said["mood"] = ok(capsys, "adapt", root / "bert", *words)
    return house
