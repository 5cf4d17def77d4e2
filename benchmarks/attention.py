"""Attention kernels of the CPU, forward and backward, side by side in one process.

    python benchmarks/attention.py [--repeats 7] [--threads 2] [--heads 8] [--head 64]

"packed" rows hold documents of 30 to 250 slots; "dense" is one mask over the whole row, through SDPA or through
matmul and softmax; "tiles" is what a Transformer of ours does by itself. Every repeat runs all kernels in turn;
reported are medians and how many times the tiles' time (and CPU time) each takes.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent.parent))

from plume.models.attention import Kernel, attend_merged, look
from plume.slots import Example, Slots, collate

KERNELS: dict[str, Kernel] = {"tiles": "tiles", "SDPA": "sdpa", "matmul and softmax": "plain"}


def packed(rows: int, length: int, *, causal: bool) -> Slots[Tensor]:
    """Rows of ``length`` slots, each full of whole documents."""
    rng = np.random.default_rng(0)
    make = Slots.causal if causal else Slots.bidirectional
    examples = []
    for _ in range(rows):
        owners = np.repeat(np.arange(length), rng.integers(30, 250, length))[:length]
        examples.append(Example(make(np.ones(length, int), document_ids=owners)))
    return collate(examples).inputs


def whole(rows: int, length: int, *, causal: bool) -> Slots[Tensor]:
    """Rows of one document each."""
    make = Slots.causal if causal else Slots.bidirectional
    return collate([Example(make(np.ones(length, int)))] * rows).inputs


def compare(name: str, slots: Slots[Tensor], heads: int, d: int, rate: float, repeats: int) -> None:
    """Print one line: every kernel on the same values and gradients."""
    rows, length = slots.input_ids.shape
    qkv = torch.randn(rows, length, 3, heads, d, requires_grad=True)
    grad = torch.randn(rows, length, heads, d)
    scale = d**-0.5

    def through(kernel: Kernel) -> Callable[[], None]:
        sight = look(slots, slots, num_heads=heads, merged=True, rate=rate, kernel=kernel)

        def run() -> None:
            qkv.grad = None
            attend_merged(qkv, sight, scale=scale, rate=rate).backward(grad)

        return run

    runs = {label: through(kernel) for label, kernel in KERNELS.items()}
    wall: dict[str, list[float]] = {label: [] for label in runs}
    busy: dict[str, list[float]] = {label: [] for label in runs}
    for repeat in range(repeats + 1):
        for label, run in runs.items():
            start, used = time.perf_counter(), time.process_time()
            run()
            if repeat:
                wall[label].append(time.perf_counter() - start)
                busy[label].append(time.process_time() - used)

    def ratio(taken: dict[str, list[float]], label: str) -> float:
        pairs: Sequence[tuple[float, float]] = list(zip(taken["tiles"], taken[label], strict=True))
        return statistics.median(b / a for a, b in pairs)

    row = f"{name:38s} tiles {statistics.median(wall['tiles']) * 1e3:7.1f} ms"
    for label in list(runs)[1:]:
        row += f" | {label} x{ratio(wall, label):.2f} (CPU x{ratio(busy, label):.2f})"
    print(row, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--heads", type=int, default=8)
    parser.add_argument("--head", type=int, default=64)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    print(
        f"fp32, {args.heads} heads of {args.head}, {args.threads} threads, forward + backward, "
        f"medians of {args.repeats}"
    )
    for rate in (0.0, 0.1):
        for causal in (False, True):
            kind = "causal" if causal else "bidirectional"
            sizes: tuple[tuple[str, int, int], ...] = (
                ("packed", 4, 1024),
                ("whole", 16, 128),
                ("whole", 4, 512),
                ("whole", 2, 1024),
            )
            for label, rows, length in sizes:
                make = packed if label == "packed" else whole
                name = f"{label} {kind} {rows} x {length}, dropout {rate}"
                compare(name, make(rows, length, causal=causal), args.heads, args.head, rate, args.repeats)


if __name__ == "__main__":
    main()
