"""Training word by word: a run like any other, stopped and resumed to the same bits, in English and Chinese."""

from __future__ import annotations

import json
import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from plume.errors import UserError
from plume.recipes import word2vec
from plume.text.tokenizers import Words
from plume.text.windows import Sentences
from plume.training import pretraining
from plume.training.checkpoints import Checkpoints
from plume.training.folder import RunFolder
from plume.training.meters import history
from plume.training.settings import Pretraining
from plume.training.walker import Walker


@pytest.fixture(autouse=True)
def _no_curve(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("plume.training.pretraining.draw_curve", lambda *_, **__: None)


def recipe(**changes: Any) -> Pretraining:
    tiny = word2vec.tiny()
    small = {
        "steps": 12,
        "batch_size": 60,
        "eval_every": 6,
        "save_every": 4,
        "keep": None,
        "lr": 0.1,
        **changes,
    }
    return replace(tiny, tokenizer=Words(min_count=1), training=replace(tiny.training, **small))


def weights(out: Path) -> dict[str, torch.Tensor]:
    return Checkpoints(out / "checkpoints").require().tensors("model")


def test_a_run_learns_and_says_so(corpus: Path, tmp_path: Path) -> None:
    out = pretraining.pretrain(recipe(), data=[corpus], out=tmp_path / "run")
    folder = RunFolder(out)
    rows = list(history(folder.metrics, "train"))
    assert [row["step"] for row in rows] == list(range(1, 13))
    assert (
        rows[-1]["loss"] < 0.95 * rows[0]["loss"]
        and rows[0]["lr"] == 0.1
        and rows[6]["lr"] == pytest.approx(0.05, rel=1e-3)
    )
    dev = list(history(folder.metrics, "dev"))
    assert dev[-1]["step"] == 12 and dev[-1]["loss"] < dev[0]["loss"], (
        "the trainer's road judges what was learnt"
    )
    assert json.loads(folder.run.read_text(encoding="utf-8"))["finished"] == 12


def test_stopped_by_a_signal_it_goes_on_to_the_same_bits(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    straight = pretraining.pretrain(recipe(), data=[corpus], out=tmp_path / "straight")
    update = Walker._update

    def interrupted(self: Walker, work: Any) -> bool:
        if work.step == 7:
            os.kill(os.getpid(), signal.SIGTERM)
        return update(self, work)

    monkeypatch.setattr(Walker, "_update", interrupted)
    with pytest.raises(SystemExit):
        pretraining.pretrain(recipe(), data=[corpus], out=tmp_path / "stopped")
    monkeypatch.setattr(Walker, "_update", update)
    assert Checkpoints(tmp_path / "stopped" / "checkpoints").require().step == 7
    again = pretraining.pretrain(recipe(), data=[corpus], out=tmp_path / "stopped")
    one, other = weights(straight), weights(again)
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
    losses = [[row["loss"] for row in history(RunFolder(out).metrics, "train")] for out in (straight, again)]
    assert losses[0] == losses[1]


def test_the_same_objective_trains_by_batches_too(corpus: Path, tmp_path: Path) -> None:
    slow = recipe(updates="batch", lr=0.1, steps=10, batch_size=20, microbatch_size=20)
    slow = replace(slow, windows=Sentences(length=100, shuffled=True))
    out = pretraining.pretrain(slow, data=[corpus], out=tmp_path / "run")
    rows = list(history(RunFolder(out).metrics, "train"))
    assert rows[-1]["loss"] < rows[0]["loss"] < 6 * 0.6932


def test_what_does_not_fit_is_one_sentence(corpus: Path, tmp_path: Path) -> None:
    shuffled = replace(recipe(), windows=Sentences(length=100, shuffled=True))
    with pytest.raises(UserError, match=r"windows\.shuffled=false"):
        pretraining.pretrain(shuffled, data=[corpus], out=tmp_path / "a")
    from plume.recipes import lstm

    tiny = lstm.tiny()
    wrong = replace(tiny, training=replace(tiny.training, updates="word", steps=4))
    with pytest.raises(UserError, match=r"training\.updates=batch"):
        pretraining.pretrain(wrong, data=[corpus], out=tmp_path / "b")
