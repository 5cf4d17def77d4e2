"""The feed-forward activations, exact and fast in both directions (spec 05 section 2)."""

from __future__ import annotations

import math
from collections.abc import Iterator
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
    if _by_hand(x):
        return cast(Tensor, _GeluTanh.apply(x, None))  # type: ignore[no-untyped-call]
    return F.gelu(x, approximate="tanh")


def gated(x: Tensor, up: Tensor, activation: Activation) -> Tensor:
    """``activate(x) * up``, T5 v1.1's gate; of ``up``'s shape and type. ``x``'s memory is taken over likewise."""
    if activation == "gelu_tanh" and _by_hand(x) and up.is_contiguous() and up.requires_grad:
        return cast(Tensor, _GeluTanh.apply(x, up))  # type: ignore[no-untyped-call]
    return activate(x, activation) * up


def _by_hand(x: Tensor) -> bool:
    trains = torch.is_grad_enabled() and x.requires_grad and x.is_contiguous()
    return trains and x.device.type == "cpu" and not torch.compiler.is_compiling()


class _GeluTanh(torch.autograd.Function):
    """0.5 x (1 + tanh(u)) is x sigmoid(2u), which is half the price; the derivative is got on the way.

    It overwrites ``x``, which nothing needs any more: memory as for a plain activation, one product backward. With
    ``up`` what it is multiplied by goes into both, so that ``up`` is not kept and each way back is one product too.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, up: Tensor | None) -> Tensor:
        told = torch.empty_like(x)
        y = told if up is None else torch.empty_like(x)
        exact = torch.promote_types(x.dtype, torch.float32)  # bf16 is computed in fp32, as torch's kernels do
        offset = torch.tensor(_A, dtype=exact)
        inner, gate, rest = (torch.empty(min(CHUNK, x.numel()), dtype=exact) for _ in range(3))
        for into, out, times, product in _chunks(x, told, x if up is None else up, y):
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
            if up is not None:
                torch.mul(h, times, out=product)
                z.mul_(times)
            if x.dtype != exact:
                into.copy_(z)
                out.copy_(h)
        ctx.save_for_backward(x.detach(), None if up is None else told)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor | None]:
        slope, told = ctx.saved_tensors
        if told is None:
            return grad * slope.to(grad.dtype), None
        to_gate, to_up = torch.empty_like(slope), torch.empty_like(told)
        for g, by, other, below, beside in _chunks(grad.contiguous(), slope, told, to_gate, to_up):
            torch.mul(g, by, out=below)
            torch.mul(g, other, out=beside)
        return to_gate, to_up


def _chunks(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    return zip(*(t.detach().view(-1).split(CHUNK) for t in tensors), strict=True)
