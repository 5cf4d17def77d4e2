"""Normalisation of hidden states: LayerNorm, or RMSNorm (spec 05 section 2, spec 18 section 2)."""

from __future__ import annotations

from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

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
        exact = x.dtype == self.weight.dtype and x.dtype in (torch.float32, torch.float64)
        plain = exact and x.device.type == "cpu" and not torch.compiler.is_compiling()
        if plain and torch.is_grad_enabled():
            return cast(Tensor, _RMS.apply(x, self.weight, self.eps))  # type: ignore[no-untyped-call]
        square = x.float().pow(2).mean(-1, keepdim=True)
        scaled: Tensor = (x * torch.rsqrt(square + self.eps)).to(x.dtype)
        return self.weight * scaled


class _RMS(torch.autograd.Function):
    """The same with the way back by hand: half as many passes over memory. It rounds where autograd would."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        root = torch.rsqrt(x.float().pow(2).mean(-1, keepdim=True) + eps)
        ctx.save_for_backward(x, weight, root)
        return (x * root).mul_(weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        x, weight, root = ctx.saved_tensors
        product = grad * x
        to_root = (product @ weight)[..., None].float()
        to_square = to_root * -0.5 * root.pow(3)
        below = (grad * weight).mul_(root).add_(x.float() * (to_square / x.shape[-1] * 2))
        to_weight = root.flatten().to(x.dtype) @ product.flatten(0, -2)
        return below, to_weight, None


def norm(kind: Norm, width: int, eps: float, *, bias: bool = True) -> nn.LayerNorm | RMSNorm:
    """A norm over the last axis."""
    return RMSNorm(width, eps) if kind == "rms" else nn.LayerNorm(width, eps, bias=bias)
