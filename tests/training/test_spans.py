"""T5 through the trainer: stopped half way it resumes to the same bits, Adafactor's state too; Chinese and English."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

import pytest
import torch

import plume
from plume import config
from plume.training.checkpoints import Checkpoints
from plume.training.folder import RunFolder
from plume.training.pretraining import pretrain

TOY = [
    "tokenizer.vocab_size=500", "windows.length=32", "model.d_model=32", "model.d_ff=64", "model.d_head=16",
    "model.num_layers=1", "model.num_decoder_layers=1", "training.batch_size=8", "training.eval_every=null",
    "training.save_every=3", "training.precision=fp32", "training.warmup_steps=2", "training.microbatch_size=4",
]  # fmt: skip


@pytest.mark.parametrize(("recipe", "name"), [("t5:tiny", "shakespeare.txt"), ("joint:tiny", "sanguo.txt")])
def test_a_run_that_grows_is_the_run_that_never_stopped(recipe: str, name: str, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    whole = resources.files("plume.studies").joinpath("texts", name).read_text("utf-8")
    text.write_text(whole[:12_000], "utf-8")

    def run(out: str, steps: int) -> dict[str, torch.Tensor]:
        asked = config.override(config.resolve(recipe), [*TOY, f"training.steps={steps}"])
        pretrain(asked, data=[text], out=tmp_path / out)
        newest = Checkpoints(RunFolder(tmp_path / out).checkpoints).require()
        return {f"{part}.{n}": t for part in ("model", "optimizer") for n, t in newest.tensors(part).items()}

    straight = run("straight", 6)
    run("stopped", 3)
    resumed = run("stopped", 6)
    assert straight.keys() == resumed.keys() and any(n.startswith("optimizer.row.") for n in straight)
    assert all(torch.equal(t, resumed[n]) for n, t in straight.items())
    loaded = plume.load(tmp_path / "straight")
    assert isinstance(loaded.generate("一 king", max_new_tokens=3), str)
