"""The feed-forward activations, exact and fast in both directions (spec 05 section 2)."""

from __future__ import annotations

import math
from typing import Any, Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

Activation = Literal["gelu", "gelu_tanh", "relu"]

CHUNK = 2**19  # elements at a time: the dozen passes below stay in the cache
_A = math.sqrt(8 / math.pi)
_B = 0.044715 * _A


def activate(x: Tensor, activation: Activation) -> Tensor:
    """gelu is x Phi(x); gelu_tanh the approximation of Google's BERT and of GPT-2; both elementwise.

    With gradients on a CPU ``x``'s memory is taken over: hand in a fresh result, as a linear layer's.
    """
    if activation == "relu":
        return F.relu(x)
    if activation == "gelu":
        return F.gelu(x)
    if x.device.type != "cpu" or not (torch.is_grad_enabled() and x.requires_grad) or not x.is_contiguous():
        return F.gelu(x, approximate="tanh")
    return cast(Tensor, _GeluTanh.apply(x))  # type: ignore[no-untyped-call]


class _GeluTanh(torch.autograd.Function):
    """0.5 x (1 + tanh(u)) is x sigmoid(2u), which is half the price; the derivative is got on the way.

    It overwrites ``x``, which nothing needs any more: memory as for a plain activation, one product backward.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        y = torch.empty_like(x)
        exact = torch.promote_types(
            x.dtype, torch.float32
        )  # a chunk of bf16 is computed in fp32, as torch's kernels do
        for chunk, out in zip(x.detach().view(-1).split(CHUNK), y.view(-1).split(CHUNK), strict=True):
            z = chunk.to(exact)
            slope = z.square()
            slope.mul_(_B).add_(_A)  # 2u = z (A + B z^2)
            s = torch.mul(slope, z).sigmoid_()
            h = s * z
            # d/dz = s + z s (1 - s) (A + 3 B z^2) and A + 3 B z^2 = 3 slope - 2 A
            slope.mul_(3.0).sub_(2 * _A).mul_(torch.addcmul(h, h, s, value=-1.0)).add_(s)
            out.copy_(h)
            chunk.copy_(slope)
        ctx.save_for_backward(x.detach())
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (slope,) = ctx.saved_tensors
        below: Tensor = grad * slope.to(grad.dtype)
        return below
