"""Normalisation of hidden states: LayerNorm, or RMSNorm (spec 05 section 2, spec 18 section 2)."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

Norm = Literal["layer", "rms"]


class RMSNorm(nn.Module):
    """T5's: x / sqrt(mean(x^2) + eps) * g; no mean is taken off, nothing is added.

    The mean square is computed in fp32 whatever the model's type, as T5 does: fp16 and bf16 would lose it, and
    fp64 would differ from the reference by 1e-8.
    """

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """[..., D] -> [..., D]."""
        square = x.float().pow(2).mean(-1, keepdim=True)
        scaled: Tensor = (x * torch.rsqrt(square + self.eps)).to(x.dtype)
        return self.weight * scaled


def norm(kind: Norm, width: int, eps: float, *, bias: bool = True) -> nn.LayerNorm | RMSNorm:
    """A norm over the last axis."""
    return RMSNorm(width, eps) if kind == "rms" else nn.LayerNorm(width, eps, bias=bias)
