"""Dropout from random bytes: one 64-bit draw decides eight elements (speed.md section 2).

The bytes come from torch's default generator, which the trainer reseeds from a key at every micro-batch, so
a step is the same under activation checkpointing, after a resume and on any number of ranks. What is kept
for the backward pass is the bytes, a quarter of a fp32 mask. Off the CPU, and where torch compiles, it is
torch's own dropout.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable


def threshold(rate: float) -> int:
    """How many of 256 bytes drop an element: ``rate`` rounded, but never to 0 nor to all for a rate between.

    Raises:
        ValueError: ``rate`` lies outside [0, 1).
    """
    if not 0 <= rate < 1:
        raise ValueError(f"a dropout rate lies in [0, 1), got {rate}")
    return 0 if rate == 0 else min(max(round(rate * 256), 1), 255)


def gain(rate: float) -> float:
    """What kept elements are multiplied by: exact for the rate that is used, not for the one asked for."""
    return 256 / (256 - threshold(rate))


def random_bytes(shape: Sequence[int], device: torch.device | str = "cpu") -> Tensor:
    """uint8 [shape], uniform, from the default generator."""
    size = math.prod(shape)
    # The whole range of int64: `random_()` alone would leave the sign bit, so the top bit of every eighth byte, 0.
    draws = torch.empty((size + 7) // 8, dtype=torch.int64, device=device).random_(-(2**63), None)
    return draws.view(torch.uint8)[:size].view(tuple(shape))


def kept(random: Tensor, rate: float, dtype: torch.dtype) -> Tensor:
    """1 where an element is kept and 0 where it is dropped, as floats: products of floats are far faster than masks."""
    out = torch.empty(random.shape, dtype=dtype, device=random.device)
    return torch.ge(random, threshold(rate), out=out)


def dropout(x: Tensor, rate: float, training: bool) -> Tensor:
    """``x`` with elements set to 0 and the others rescaled."""
    if not training or rate == 0:
        return x
    if x.device.type != "cpu" or torch.compiler.is_compiling():
        return F.dropout(x, rate)
    return cast(Tensor, _Dropout.apply(x, random_bytes(x.shape), rate))  # type: ignore[no-untyped-call]


def add_dropped(residual: Tensor, x: Tensor, rate: float, training: bool) -> Tensor:
    """``residual + dropout(x)`` in one pass."""
    if not training or rate == 0:
        return residual + x
    if x.device.type != "cpu" or torch.compiler.is_compiling():
        return residual + F.dropout(x, rate)
    return cast(Tensor, _AddDropped.apply(residual, x, random_bytes(x.shape), rate))  # type: ignore[no-untyped-call]


class _Dropout(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, random: Tensor, rate: float) -> Tensor:
        ctx.save_for_backward(random)
        ctx.rate = rate
        return kept(random, rate, x.dtype).mul_(x).mul_(gain(rate))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (random,) = ctx.saved_tensors
        return kept(random, ctx.rate, grad.dtype).mul_(grad).mul_(gain(ctx.rate)), None, None


class _AddDropped(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, residual: Tensor, x: Tensor, random: Tensor, rate: float) -> Tensor:
        ctx.save_for_backward(random)
        ctx.rate, ctx.dtype = rate, x.dtype
        if residual.dtype == x.dtype:
            return torch.addcmul(residual, x, kept(random, rate, x.dtype), value=gain(rate))
        return torch.add(residual, kept(random, rate, x.dtype).mul_(x), alpha=gain(rate))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None, None]:
        (random,) = ctx.saved_tensors
        below = kept(random, ctx.rate, ctx.dtype).mul_(grad).mul_(gain(ctx.rate))
        return grad, below, None, None
