"""Dropout from random bytes: one 64-bit draw decides eight elements (speed.md section 2).

The bytes come from torch's default generator, which the trainer reseeds from a key at every micro-batch, so
a step is the same under activation checkpointing, after a resume and on any number of ranks.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def effective_rate(rate: float) -> float:
    """``rate`` rounded to the 1/256 that a byte can say; a rate above 0 is never rounded to 0, nor to 1.

    Raises:
        ValueError: ``rate`` lies outside [0, 1).
    """
    if not 0 <= rate < 1:
        raise ValueError(f"a dropout rate lies in [0, 1), got {rate}")
    return 0.0 if rate == 0 else min(max(round(rate * 256), 1), 255) / 256


def keep_mask(shape: torch.Size | tuple[int, ...], rate: float, device: torch.device) -> Tensor:
    """bool [shape], false with probability ``effective_rate(rate)``, from the default generator."""
    size = 1
    for n in shape:
        size *= n
    draws = torch.empty((size + 7) // 8, dtype=torch.int64, device=device)
    # The whole range of int64: `random_()` alone would leave the sign bit, and so every eighth byte's top bit, 0.
    draws.random_(-(2**63), None)
    return draws.view(torch.uint8)[:size].view(shape) >= round(effective_rate(rate) * 256)


def dropout(x: Tensor, rate: float, training: bool) -> Tensor:
    """``x`` with elements set to 0 and the rest rescaled exactly by the rate that was used."""
    if not training or rate == 0:
        return x
    if x.device.type != "cpu":
        return F.dropout(x, rate)
    return x * (keep_mask(x.shape, rate, x.device) / (1 - effective_rate(rate))).to(x.dtype)
