"""``plume pretrain gpt:tiny`` on an idle machine and beside another program, by how OpenMP's threads wait.

    python benchmarks/busy.py [--steps 12] [--rounds 2]

Threads that wait for each other spin for a while before they sleep. The default of libgomp (GCC's OpenMP, torch's on
Linux) is long; ``plume`` makes it short. Beside a second program that keeps every core busy, a network trains in
turns with the default, with plume's choice, and with threads that sleep at once; then the same without that program.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

WAYS: dict[str, dict[str, str]] = {
    "libgomp's default": {"GOMP_SPINCOUNT": "300000"},
    "plume's": {},
    "asleep at once": {"OMP_WAIT_POLICY": "passive"},
}
OTHER = "import torch\na = torch.ones(512, 512)\nwhile True: a @ a"


def plume(*words: str, way: dict[str, str]) -> None:
    subprocess.run(
        [sys.executable, "-m", "plume", *words], env={**os.environ, **way}, check=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip


def speed(data: Path, tokenizer: Path, steps: int, way: dict[str, str]) -> float:
    """Tokens a second, the median over steps but the first."""
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        plume("pretrain", "gpt:tiny", f"training.steps={steps}", "training.eval_every=none",
              f"training.save_every={steps}", "training.microbatch_size=16", "training.batch_size=16",
              "--tokenizer", str(tokenizer), "--data", str(data), "--out", str(run), way=way)  # fmt: skip
        rows = [json.loads(line) for line in (run / "metrics.jsonl").open(encoding="utf-8")]
    rows = [row for row in rows if row["split"] == "train"]
    pairs = itertools.pairwise(rows[1:])
    return statistics.median((b["tokens"] - a["tokens"]) / (b["seconds"] - a["seconds"]) for a, b in pairs)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=2)
    asked = parser.parse_args()
    draw = np.random.default_rng(0)
    words = np.array(["".join(draw.choice(list("etaoinshrdlu"), n)) for n in draw.integers(2, 9, 2_000)])
    with tempfile.TemporaryDirectory() as folder:
        data, tokenizer = Path(folder) / "text.txt", Path(folder) / "tokenizer"
        data.write_text("\n".join(" ".join(draw.choice(words, 40)) for _ in range(3_000)), "utf-8")
        plume(
            "tokenizer", str(data), "--kind", "bpe", "--vocab-size", "4000", "--out", str(tokenizer), way={}
        )
        for place in ("beside another program", "alone"):
            other = subprocess.Popen([sys.executable, "-c", OTHER]) if place != "alone" else None
            try:
                seen: dict[str, list[float]] = {name: [] for name in WAYS}
                for _ in range(asked.rounds):
                    for name, way in WAYS.items():
                        seen[name].append(speed(data, tokenizer, asked.steps, way))
            finally:
                if other is not None:
                    other.kill()
            base = seen["libgomp's default"]
            for name, found in seen.items():
                ratio = statistics.median(a / b for a, b in zip(found, base, strict=True))
                print(
                    f"{place:24s}{name:20s}{statistics.median(found):8,.0f} tokens/s  x{ratio:.2f}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
