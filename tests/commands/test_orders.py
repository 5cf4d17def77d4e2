"""XLNet, UniLM and the prefix model through the verbs: trained, stopped, resumed, loaded, adapted, exported."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import plume
from plume.evaluation.scorer import Scorer
from plume.training import faults
from plume.training.checkpoints import Checkpoints
from tests.commands.conftest import ADAPTING, SMALL, call, ok
from tests.conftest import documents

PROMPT = {"en": "The old printer", "zh": "城里的老人"}
GAP = {"en": "The old [MASK] wrote about the winter harbour.", "zh": "城里的老人写下了一封[MASK]信。"}


@pytest.fixture(autouse=True)
def _no_curve(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("plume.training.pretraining.draw_curve", lambda *_, **__: None)


# The English of the first two is in the documentation, whose commands run as well.
@pytest.mark.parametrize(
    ("recipe", "spoken"), [("xlnet:tiny", "zh"), ("unilm:tiny", "zh"), ("unilm:prefix", "en")]
)
def test_a_run_is_stopped_goes_on_and_can_be_used(
    recipe: str,
    spoken: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    text = tmp_path / "text.txt"
    text.write_text("\n".join(documents(spoken, 150)) + "\n", encoding="utf-8")
    words = [recipe, *SMALL, "training.microbatch_size=2", "--data", text, "--out"]
    straight, stopped = tmp_path / "straight", tmp_path / "stopped"
    assert ok(capsys, "pretrain", *words, straight)["step"] == 6
    faults.reset()
    monkeypatch.setenv(faults.VARIABLE, "accumulate@9=fail")  # between the two micro-batches of a step
    with pytest.raises(faults.InjectedFault):
        call(capsys, "pretrain", *words, stopped)
    monkeypatch.delenv(faults.VARIABLE)
    faults.reset()
    ok(capsys, "pretrain", *words, stopped)
    for part in ("model", "optimizer", "memory"):
        a, b = (
            Checkpoints(f / "checkpoints", say=print).require().tensors(part) for f in (straight, stopped)
        )
        assert a.keys() == b.keys() and all(torch.equal(a[n], b[n]) for n in a), part
        assert bool(a) or part == "memory"
        assert bool(a) == (recipe == "xlnet:tiny") or part != "memory"

    run = plume.load(stopped)
    assert isinstance(run.generate(PROMPT[spoken], max_new_tokens=3), str)
    assert {"generate", "loglikelihood"} <= set(run.can) and run.loglikelihood(PROMPT[spoken], "x") < 0
    if recipe != "unilm:prefix":
        filled = run.fill_mask(GAP[spoken], top=3)
        assert len(filled) == 3 and all(0 < f.probability <= 1 for f in filled)
    assert np.isfinite(run.embed(PROMPT[spoken])).all()
    assert isinstance(run.scorer, Scorer)
    if recipe == "xlnet:tiny":
        adapted = tmp_path / "adapted"
        labels = tmp_path / "labels.csv"
        rows = [f"{text}{'好坏'[i % 2]},{i % 2}" for i, text in enumerate(documents(spoken, 60, seed=1))]
        labels.write_text("\n".join(["text,label", *rows]), encoding="utf-8")
        ok(capsys, "adapt", stopped, "--data", labels, "--out", adapted, *ADAPTING)
        assert plume.load(adapted).classify(PROMPT[spoken]).label
    if recipe != "unilm:prefix":
        folder = tmp_path / "hf"
        ok(capsys, "export", stopped, "--to", folder)
        again = plume.load(folder)
        torch.testing.assert_close(again.hidden_states(PROMPT[spoken]), run.hidden_states(PROMPT[spoken]))
