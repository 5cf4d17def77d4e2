"""Which numbers a run multiplies: fp32, bf16 under autocast, or fp16 with a loss scale (spec 25 section 4)."""

from __future__ import annotations

import contextlib
import math
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch

from plume.training.settings import Precision

Numbers = Literal["fp32", "bf16", "fp16"]
_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def choose(precision: Precision, device: torch.device) -> Numbers:
    """bf16 where the processor multiplies it natively (a CPU with AMX, a GPU since Ampere), else fp32."""
    if precision != "auto":
        return precision
    if device.type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        native = torch.cpu._is_amx_tile_supported()
    return "bf16" if native else "fp32"


def autocast(numbers: Numbers, device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """The context of forward passes. Weights stay fp32, and so do the losses (heads see to that)."""
    if numbers == "fp32":
        return contextlib.nullcontext()
    return torch.autocast(device.type, _DTYPES[numbers])


@dataclass
class LossScale:
    """fp16's gradients vanish below 6e-8, so the loss is multiplied before backward and the norm divided after.

    2^16 at first; doubled after 2,000 clean steps, halved at each overflow. Other numbers keep it at 1.
    """

    numbers: Numbers
    value: float = 1.0
    clean: int = 0

    def __post_init__(self) -> None:
        if self.numbers == "fp16":
            self.value = 2.0**16

    def overflowed(self, norm: float) -> bool:
        """Whether this step must be skipped only because the scale is too high; lowers it then."""
        if self.numbers != "fp16" or math.isfinite(norm) or self.value <= 1:
            return False
        self.value /= 2
        self.clean = 0
        return True

    def accept(self) -> None:
        """A step was taken."""
        if self.numbers == "fp16":
            self.clean += 1
            if self.clean == 2000:
                self.value = min(self.value * 2, 2.0**24)
                self.clean = 0

    def state(self) -> dict[str, float]:
        """As JSON."""
        return {"value": self.value, "clean": self.clean}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Set what ``state`` gave."""
        self.value, self.clean = state["value"], state["clean"]


def matmul_peak(numbers: Numbers, device: torch.device, seconds: float = 0.2) -> float:
    """The best FLOP/s of a square matrix product on this machine: what MFU is measured against.

    On a CPU that has other work to do, a product waits; what counts is the time for which it was computed. Else the
    peak would be too low, and a step in a quieter minute use three times what there is.
    """
    size = 8192 if device.type == "cuda" else 1024
    a = torch.ones(size, size, dtype=_DTYPES[numbers], device=device)
    threads = min(torch.get_num_threads(), os.cpu_count() or 1)
    best, tries = 0.0, 0
    end = time.perf_counter() + seconds
    while tries < 3 or time.perf_counter() < end:
        tries += 1
        _wait(device)
        start, used = time.perf_counter(), time.process_time()
        torch.mm(a, a)
        _wait(device)
        took = time.perf_counter() - start
        if device.type == "cpu":
            took = min(took, (time.process_time() - used) / threads)
        best = max(best, 2 * size**3 / took)
    return best


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
