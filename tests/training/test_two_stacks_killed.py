"""T5 and BART killed by the system, in the middle of a checkpoint and of a step, and the same command again (A1)."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForSeq2SeqLM

import plume
from plume.slots import Example, Slots, collate
from plume.training.checkpoints import Checkpoints
from plume.training.faults import VARIABLE
from plume.training.folder import RunFolder
from plume.training.meters import history
from tests.commands.test_tasks import SMALL, lay_out
from tests.training.test_resume import check_redone, environment

DEATHS = ("checkpoint.fsync@3", "accumulate@9", "checkpoint.rename@1", "load@12")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("recipe", "language", "tasks"),
    [("t5:tiny", "en", False), ("t5:tiny", "zh", True), ("bart:tiny", "zh", False)],
)
def test_a_killed_process_costs_no_bit(recipe: str, language: str, tasks: bool, tmp_path: Path) -> None:
    """Real processes of the command line and real SIGKILLs; then the folder that transformers opens."""
    text, file, _ = lay_out(tmp_path, language)
    heads = [w for w in SMALL if recipe.startswith("t5") or not w.startswith("model.d_head")]
    words = [
        sys.executable, "-m", "plume", "pretrain", recipe, *heads, "training.steps=16", "--data", str(text),
        *(["--tasks", str(file)] if tasks else []), "--out",
    ]  # fmt: skip
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    subprocess.run([*words, str(straight)], env=environment(), timeout=900, check=True)
    for death in DEATHS:
        died = subprocess.run(
            [*words, str(killed)], env=environment(**{VARIABLE: f"{death}=kill"}), timeout=900
        )
        assert died.returncode == -9, death
    subprocess.run([*words, str(killed)], env=environment(), timeout=900, check=True)
    for part in ("model", "optimizer"):
        a, b = (Checkpoints(RunFolder(f).checkpoints).require().tensors(part) for f in (straight, killed))
        assert a.keys() == b.keys() and all(torch.equal(a[n], b[n]) for n in a), part
    one, two = ([row["loss"] for row in history(RunFolder(f).metrics)] for f in (straight, killed))
    assert one == two and len(one) == 16
    check_redone(killed, 3)

    run = plume.load(killed)
    folder = tmp_path / "folder"
    export = [sys.executable, "-m", "plume", "export", str(killed), "--to", str(folder)]
    subprocess.run(export, env=environment(), timeout=600, check=True)
    theirs = AutoModelForSeq2SeqLM.from_pretrained(folder).eval()
    assert theirs.config.model_type == recipe.partition(":")[0]
    ids = run.tokenizer.encode({"en": "The quiet heron", "zh": "春天的江水"}[language])
    source, written = Slots.bidirectional(ids), Slots.causal(ids[:3])
    batch = collate([Example(source, written)])
    with torch.no_grad():
        ours = run.network.heads["next_token"].logits(
            run.network.backbone(batch.inputs, batch.decoder_inputs).last
        )
        logits = theirs(
            input_ids=batch.inputs.input_ids, decoder_input_ids=batch.decoder_inputs.input_ids
        ).logits
    torch.testing.assert_close(ours, logits, rtol=0, atol=2e-5)
