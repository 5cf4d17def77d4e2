"""ELMo through the command line and back: what it can do, and what it says of the rest."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import plume
from tests.commands.conftest import House, call, ok

TINY = [
    "training.steps=2", "training.batch_size=2", "training.eval_every=2", "training.eval_batches=1",
    "windows.length=8", "tokenizer.vocab_size=200", "model.d_cell=12", "model.d_model=8",
]  # fmt: skip


def test_elmo_comes_back_from_its_authors_format(
    house: House, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, files, back = (tmp_path / name for name in ("run", "files", "back"))
    ok(capsys, "pretrain", "elmo:tiny", *TINY, "--data", house.text, "--out", run)
    ok(capsys, "export", run, "--to", files)
    ok(capsys, "import", files, "--out", back)
    text = house.text.read_text(encoding="utf-8").splitlines()[0]
    ours, theirs = plume.load(run), plume.load(back)
    assert np.array_equal(ours.embed(text), theirs.embed(text))
    for words in (["generate", run], ["evaluate", run, "--data", house.text]):
        code, _, sentence = call(capsys, *words)
        assert code == 2 and "that takes a head that says how likely each token is" in sentence
