"""What a checkpoint of a 124M GPT-2 costs the training loop, in shares of one training step.

    python benchmarks/checkpoint_pause.py --steps 40 --save-every 10

One run of ``plume pretrain`` on random words. Two figures: how long the loop stood still while a checkpoint was begun
(the call that takes the snapshot, timed; it also waits for the checkpoint before, where that is still being written),
and the excess of all steps of a checkpoint's interval over as many undisturbed ones: what hashing and the disk took
from the steps beside them, on a machine whose cores all train.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from plume.recipes import gpt
from plume.text.tokenizers import ByteLevelBPE
from plume.text.windows import PackedStream
from plume.training.pretraining import pretrain
from plume.training.saver import Saver


def seconds(metrics: Path) -> dict[int, float]:
    """Step -> seconds from the row before it to its own."""
    rows = [json.loads(line) for line in metrics.read_text("utf-8").splitlines()]
    at = {row["step"]: row["seconds"] for row in rows if row["split"] == "train"}
    return {step: at[step] - at[step - 1] for step in at if step - 1 in at}


def timed_saves() -> list[float]:
    """The seconds that each call of ``Saver.save`` takes from now on."""
    plain, taken = Saver.save, []

    def save(*given: Any) -> None:
        begun = time.perf_counter()
        plain(*given)
        taken.append(time.perf_counter() - begun)

    Saver.save = save  # type: ignore[method-assign]
    return taken


def report(taken: dict[int, float], stood: list[float], interval: int, warm: int) -> dict[str, float]:
    """``interval``: steps between two checkpoints; the first ``warm`` steps do not count."""
    last = max(taken)
    saves = [s for s in range(interval, last, interval) if s >= warm]
    # A checkpoint is written during the steps behind it; the last half of each interval is taken as undisturbed.
    calm = [t for s, t in taken.items() if s > warm and (s - 1) % interval >= interval // 2]
    step = statistics.median(calm)
    excess = [sum(taken[s + i] - step for i in range(1, interval + 1) if s + i in taken) for s in saves]
    return {
        "step_seconds": step,
        "pause_seconds": statistics.median(stood),
        "pause_of_a_step": statistics.median(stood) / step,
        "excess_of_a_step": statistics.median(excess) / step,
        "checkpoints": len(saves),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--save-every", type=int, default=10)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--num-layers", type=int, default=12)
    parser.add_argument("--d-model", type=int, default=768)
    options = parser.parse_args()
    draw = random.Random(0)
    words = ["".join(draw.choices("abcdefghij", k=draw.randint(2, 9))) for _ in range(4_000)]
    recipe = gpt.gpt2()
    recipe = replace(
        recipe,
        tokenizer=ByteLevelBPE(vocab_size=8_192),
        windows=PackedStream(length=options.length),
        model=replace(
            recipe.model,
            num_layers=options.num_layers,
            d_model=options.d_model,
            num_heads=options.d_model // 64,
            d_ff=4 * options.d_model,
            virtual_tokens=50_257 - 8_192,  # so that the model has GPT-2's 124M parameters without its text
        ),
        training=replace(
            recipe.training, steps=options.steps, batch_size=options.batch_size, warmup_steps=2,
            microbatch_size=options.batch_size, eval_every=None, save_every=options.save_every, keep=1,
        ),
        stages=(),
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        text = Path(folder) / "text.txt"
        text.write_text("\n".join(" ".join(draw.choices(words, k=200)) for _ in range(2_000)), "utf-8")
        stood = timed_saves()
        run = pretrain(recipe, data=[text], out=Path(folder) / "run")
        interval = options.save_every - options.save_every // 8
        result = report(seconds(run / "metrics.jsonl"), stood, interval, options.save_every)
    print(json.dumps({"threads": torch.get_num_threads(), **vars(options), **result}, indent=1))


if __name__ == "__main__":
    main()
