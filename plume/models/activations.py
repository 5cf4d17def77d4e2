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
    trains = torch.is_grad_enabled() and x.requires_grad and x.is_contiguous()
    if not trains or x.device.type != "cpu" or torch.compiler.is_compiling():
        return F.gelu(x, approximate="tanh")
    return cast(Tensor, _GeluTanh.apply(x))  # type: ignore[no-untyped-call]


class _GeluTanh(torch.autograd.Function):
    """0.5 x (1 + tanh(u)) is x sigmoid(2u), which is half the price; the derivative is got on the way.

    It overwrites ``x``, which nothing needs any more: memory as for a plain activation, one product backward.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        y = torch.empty_like(x)
        exact = torch.promote_types(x.dtype, torch.float32)  # bf16 is computed in fp32, as torch's kernels do
        offset = torch.tensor(_A, dtype=exact)
        inner, gate, rest = (torch.empty(min(CHUNK, x.numel()), dtype=exact) for _ in range(3))
        for into, out in zip(x.detach().view(-1).split(CHUNK), y.view(-1).split(CHUNK), strict=True):
            z, h, n = into.to(exact), out, len(into)
            if x.dtype != exact:
                h = torch.empty_like(z)
            q = torch.addcmul(
                offset, z, z, value=_B, out=inner[:n]
            )  # 2u = z q, and its derivative is 3 q - 2 A
            s = torch.mul(q, z, out=gate[:n]).sigmoid_()
            torch.mul(s, z, out=h)
            t = torch.addcmul(h, h, s, value=-1.0, out=rest[:n])  # h (1 - s)
            torch.add(s.addcmul_(t, q, value=3.0), t, alpha=-2 * _A, out=z)
            if x.dtype != exact:
                into.copy_(z)
                out.copy_(h)
        ctx.save_for_backward(x.detach())
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (slope,) = ctx.saved_tensors
        below: Tensor = grad * slope.to(grad.dtype)
        return below
