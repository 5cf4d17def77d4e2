"""Cross-entropy over a whole vocabulary without ever holding all its logits.

The output table is the largest matrix of a small model and N x V logits its largest activation: three
matmuls are the price, everything else here is kept small. A chunk of slots goes through logits, softmax and
both gradients before the next one starts; the backward pass then only scales what is already there.

N labelled slots, V = vocabulary, D = d_model, C slots a chunk.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

LOGITS = (
    2**22
)  # logits held at a time, about; twice as many in half precision, where adding gradients up costs more
CACHED = 2**18  # of them go through the softmax at a time
DEVICE_LOGITS = 2**27  # logits at a time on an accelerator, which is fast at nothing small


def token_loss(
    hidden: Tensor, table: Tensor, bias: Tensor | None, labels: Tensor, *, spread: float = 0.0
) -> Tensor:
    """-sum log softmax(hidden table^T + bias)[label] in nats, a scalar, fp32 or better.

    hidden [N, D], table [V, D], bias [V], labels [N] in [0, V). Matmuls run in autocast's type where it is on.
    ``spread``: the share of the answer that every id of the vocabulary gets, the label all that is left beside
    (label smoothing, spec 05 section 4.1).
    """
    return cast(Tensor, _TokenLoss.apply(hidden, table, bias, labels, spread))  # type: ignore[no-untyped-call]


class _TokenLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, table: Tensor, bias: Tensor | None, labels: Tensor, spread: float
    ) -> Tensor:
        device = hidden.device.type
        fast = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else table.dtype
        exact = torch.promote_types(fast, torch.float32)
        wants_hidden, wants_table, wants_bias, *_ = ctx.needs_input_grad
        right = 1 - spread * len(table)  # what the label gets beside its own share
        total = torch.zeros((), dtype=exact, device=hidden.device)
        to_hidden = torch.empty_like(hidden) if wants_hidden else None
        to_table = torch.zeros(table.shape, dtype=exact, device=hidden.device) if wants_table else None
        to_bias = torch.zeros(len(table), dtype=exact, device=hidden.device) if wants_bias else None
        with torch.autocast(device, enabled=False):
            weight, states = table.to(fast), hidden.to(fast)
            room = LOGITS * exact.itemsize // fast.itemsize if device == "cpu" else DEVICE_LOGITS
            for h, label, chunk in _chunks(max(64, room // len(table)), states, labels[:, None], to_hidden):
                logits = h @ weight.T if bias is None else torch.addmm(bias.to(fast), h, weight.T)
                loss, slope = (_in_blocks if device == "cpu" else _at_once)(logits, label, exact, spread)
                total += loss
                if not any(ctx.needs_input_grad):
                    continue
                slope.scatter_add_(1, label, slope.new_full((), -right).expand(label.shape))
                if spread:
                    slope -= spread
                if to_bias is not None:
                    to_bias += slope.sum(0)
                slope = slope.to(fast)
                if chunk is not None:
                    chunk.copy_(slope @ weight)
                if to_table is not None and fast == exact:
                    to_table.addmm_(slope.T, h)
                elif to_table is not None:
                    to_table += slope.T @ h
        ctx.save_for_backward(to_hidden, to_table, to_bias)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return *(None if t is None else (t * grad).to(t.dtype) for t in ctx.saved_tensors), None, None


def _at_once(logits: Tensor, label: Tensor, exact: torch.dtype, spread: float = 0.0) -> tuple[Tensor, Tensor]:
    """-sum log softmax(logits)[label] and the softmax [C, V]: few kernels, for an accelerator."""
    logs = torch.log_softmax(logits, 1, dtype=exact)
    total = -logs.gather(1, label).sum() * (1 - spread * logits.shape[1])
    return total - spread * logs.sum() if spread else total, logs.exp_()


def _in_blocks(
    logits: Tensor, label: Tensor, exact: torch.dtype, spread: float = 0.0
) -> tuple[Tensor, Tensor]:
    """The same where caches are small; ``logits`` may be overwritten."""
    total, weights = torch.zeros((), dtype=exact), logits.to(exact)
    for block, answer in _chunks(max(1, CACHED // logits.shape[1]), weights, label):
        block.sub_(block.amax(1, keepdim=True))
        right = block.gather(1, answer)
        if spread:  # all logits but for their shares weigh the label's, the rest is the same
            right = right * (1 - spread * block.shape[1]) + spread * block.sum(1, keepdim=True)
        sums = block.exp_().sum(1, keepdim=True)
        total += (sums.log() - right).sum()
        block.mul_(sums.reciprocal_())
    return total, weights


def _chunks(size: int, *tensors: Tensor | None) -> Iterator[tuple[Any, ...]]:
    length = next(len(t) for t in tensors if t is not None)
    for start in range(0, length, size):
        yield tuple(None if t is None else t[start : start + size] for t in tensors)
