"""GPT-1 and the networks before attention through the verbs: trained, stopped, resumed, exported, loaded."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

import plume
from plume.errors import UserError
from plume.training import faults
from plume.training.checkpoints import Checkpoints
from tests.commands.conftest import SMALL, call, ok
from tests.conftest import documents

PROMPT = {"en": "The old printer", "zh": "城里的老人"}
RECURRENT = [word for word in SMALL if not word.startswith(("model.num_heads", "model.d_ff"))]
LIVES = {
    "gpt:gpt1": [*(w for w in SMALL if w != "model.d_ff=64"), "model.d_ff=128", "training.warmup_steps=2"],
    "gru:tiny": RECURRENT,
    "cnn:tiny": RECURRENT,
    "elmo:tiny": [*RECURRENT, "model.d_cell=24", "model.filters=[[1,8],[3,24]]"],
}
SPEAKS = {"generate", "loglikelihood", "loglikelihood_rolling", "logits", "embed", "hidden_states"}
CAN = {"elmo:tiny": {"logits", "embed", "hidden_states"}}


@pytest.fixture(autouse=True)
def _no_curve(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("plume.training.pretraining.draw_curve", lambda *_, **__: None)


def command(recipe: str, spoken: str, folder: Path) -> list[object]:
    text = folder / "text.txt"
    text.write_text("\n".join(documents(spoken, 150)) + "\n", encoding="utf-8")
    return [
        "pretrain",
        recipe,
        *LIVES.get(recipe, SMALL),
        "training.microbatch_size=2",
        "--data",
        text,
        "--out",
    ]


def check_same(one: Path, other: Path) -> set[str]:
    """The last checkpoints are equal to the last bit; returns the parts that hold something."""
    held = set()
    for part in ("model", "optimizer", "memory"):
        a, b = (Checkpoints(f / "checkpoints", say=print).require().tensors(part) for f in (one, other))
        assert a.keys() == b.keys() and all(torch.equal(a[n], b[n]) for n in a), part
        held |= {part} if a else set()
    return held


@pytest.mark.parametrize("spoken", ["en", "zh"])
@pytest.mark.parametrize("recipe", LIVES)
def test_a_run_is_stopped_goes_on_and_can_be_used(
    recipe: str,
    spoken: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    words, straight, stopped = command(recipe, spoken, tmp_path), tmp_path / "straight", tmp_path / "stopped"
    assert ok(capsys, *words, straight)["step"] == 6
    faults.reset()
    monkeypatch.setenv(faults.VARIABLE, "accumulate@9=fail")  # between the two micro-batches of a step
    with pytest.raises(faults.InjectedFault):
        call(capsys, *words, stopped)
    monkeypatch.delenv(faults.VARIABLE)
    faults.reset()
    ok(capsys, *words, stopped)
    carried = {"memory"} if recipe in ("gru:tiny", "elmo:tiny") else set()
    assert check_same(straight, stopped) == {"model", "optimizer"} | carried

    run, text = plume.load(stopped), PROMPT[spoken]
    check_can(run, CAN.get(recipe, SPEAKS), text)
    folder = tmp_path / "out"
    if recipe in ("gru:tiny", "cnn:tiny"):  # nobody publishes such networks, so there is no format to write
        code, _, err = call(capsys, "export", stopped, "--to", folder)
        assert code == 2 and type(run.network.backbone).__name__ in err and not folder.exists()
        return
    ok(capsys, "export", stopped, "--to", folder)
    ok(capsys, "import", folder, "--out", tmp_path / "back")
    for again in (plume.load(folder), plume.load(tmp_path / "back")):
        assert torch.equal(again.hidden_states(text), run.hidden_states(text))
        assert torch.equal(again.logits(text), run.logits(text))
        assert again.can == run.can


def check_can(run: plume.Run, expected: set[str], text: str) -> None:
    """What a run says it can it can, and the rest is refused in one sentence."""
    tries: dict[str, Any] = {
        "generate": lambda: isinstance(run.generate(text, max_new_tokens=3), str),
        "loglikelihood": lambda: run.loglikelihood(text, "x") < 0,
        "loglikelihood_rolling": lambda: run.loglikelihood_rolling(text) < 0,
        "logits": lambda: run.logits(text).shape[1] == run.tokenizer.vocabulary.size,
        "embed": lambda: torch.tensor(run.embed(text)).isfinite().all(),
        "hidden_states": lambda: run.hidden_states(text).ndim == 3,
        "fill_mask": lambda: run.fill_mask(f"{text} [MASK]"),
        "classify": lambda: run.classify(text),
    }
    assert set(run.can) == expected <= set(tries)
    for name, attempt in tries.items():
        if name in run.can:
            assert attempt(), name
            continue
        with pytest.raises(UserError, match="cannot (generate|fill|say|embed|give|classify)"):
            attempt()


KILLED = ("electra:tiny", "xlnet:tiny", "unilm:tiny", "roberta:tiny", "ernie:tiny", *LIVES)


@pytest.mark.slow
@pytest.mark.parametrize("recipe", KILLED)
def test_a_real_kill_changes_no_bit(
    recipe: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """SIGKILL at whatever the process is doing, a while after its first checkpoint; then the same command again."""
    words = [str(word).replace("steps=6", "steps=60") for word in command(recipe, "zh", tmp_path)]
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    torch.set_num_threads(1)
    program = [sys.executable, "-m", "plume", *words]
    subprocess.run([*program, straight], env=environment, check=True, capture_output=True)
    process = subprocess.Popen([*program, killed], env=environment, stdout=subprocess.DEVNULL)
    metrics = killed / "metrics.jsonl"
    while process.poll() is None and not (metrics.is_file() and metrics.read_bytes().count(b"\n") > 8):
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "it was done before it could be killed"
    subprocess.run([*program, killed], env=environment, check=True, capture_output=True)
    check_same(straight, killed)
