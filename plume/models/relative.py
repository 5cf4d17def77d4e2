"""Relative positions and segments in the scores: Transformer-XL's and XLNet's (spec 10 section 3).

    score(i, j) = (q_i + u) k_j + (q_i + v) W_r R(i - j) + (q_i + w) s(same segment?)      over sqrt(d)

u, v, w, W_r and the two rows of s are a layer's own; R are sinusoids of the distance. What lies between a query
and a key is looked up by their positions, not by their places in the row, so memory, query slots and padding need
no rule of their own.

R rows, H heads, Q queries, K keys, N distances, D = d_model, d = d_head.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from plume.models.dropout import dropout
from plume.models.embedding import Linear
from plume.models.positions import Positions, Relate, waves
from plume.slots import NEVER, Slots


class Relation(nn.Module):
    """What one layer has learnt of distances and segments; the biases are a vector a head, [H, d]."""

    def __init__(self, d_model: int, num_heads: int, d_head: int) -> None:
        super().__init__()
        self.distance = Linear(d_model, num_heads * d_head, bias=False)
        self.content_bias = nn.Parameter(torch.empty(num_heads, d_head))
        self.distance_bias = nn.Parameter(torch.empty(num_heads, d_head))
        self.segment_bias = nn.Parameter(torch.empty(num_heads, d_head))
        self.segments = nn.Parameter(torch.empty(2, num_heads, d_head))  # the same one, another one


class Relative(Positions):
    """Nothing is added to the embeddings, and there is no longest text. Token types are only compared.

    The past is kept as what each layer read (``remembers_inputs``): its keys are made anew with the weights of
    the day. ``rate``: dropout on the sinusoids, drawn once for all layers.
    """

    remembers_inputs = True

    def __init__(self, num_layers: int, num_heads: int, d_model: int, d_head: int, rate: float) -> None:
        super().__init__()
        self.d_model = d_model
        self.rate = rate
        self.layers = nn.ModuleList(Relation(d_model, num_heads, d_head) for _ in range(num_layers))

    def prepare(self, queries: Slots[Tensor], keys: Slots[Tensor]) -> Relate:
        distances = queries.position_ids[:, :, None] - keys.position_ids[:, None, :]
        nearest, furthest = int(distances.min()), int(distances.max())
        relations = cast(Sequence[Relation], self.layers)
        weight = relations[0].content_bias
        places = torch.arange(nearest, furthest + 1, device=weight.device)
        table = dropout(waves(places, self.d_model).to(weight.dtype), self.rate, self.training).flip(0)
        other = queries.token_type_ids[:, :, None] != keys.token_type_ids[:, None, :]
        layout = _lay(furthest - distances, keys, other.to(weight.dtype))

        def relate(q: Tensor, k: Tensor, layer: int) -> tuple[Tensor, Tensor, Tensor]:
            own = relations[layer]
            rows, heads, count, d = q.shape
            far = own.distance(table).view(-1, heads, d).permute(1, 2, 0)  # [H, d, N]
            near = own.segments.permute(1, 2, 0)  # [H, d, 2]
            # All that is asked of a distance or a segment in one matmul: what a query is has no part in the constant.
            const = torch.cat([own.distance_bias[:, None] @ far, own.segment_bias[:, None] @ near], 2)
            asked = torch.baddbmm(
                const * d**-0.5,
                q.transpose(0, 1).reshape(heads, rows * count, d),
                torch.cat([far, near], 2) * d**-0.5,
            )
            told = cast(Tensor, _Shift.apply(asked.view(heads, rows, count, -1), layout))  # type: ignore[no-untyped-call]
            return q + own.content_bias[:, None], k, told.transpose(0, 1)

        return relate


@dataclass(frozen=True, slots=True)
class _Layout:
    """Which of N distances lies between a query and a key, [R, Q, K] in all.

    Of the first ``lead`` queries and the first ``known`` keys the positions grow by one from slot to slot, in every
    row: there query i is number ``first`` - i + j to key j. For the other queries ``index`` [R, Q - lead, known] says
    it. Keys from ``known`` on are seen by nobody. other: float [R, Q, known], 1 where the segments differ.
    """

    keys: int
    lead: int
    known: int
    first: int
    index: Tensor
    other: Tensor


def _lay(index: Tensor, keys: Slots[Tensor], other: Tensor) -> _Layout:
    used = ((keys.visible_at != NEVER) & (keys.document_ids >= 0)).any(0).nonzero()
    known = int(used[-1]) + 1 if len(used) else index.shape[2]
    index, first = index[:, :, :known], int(index[0, 0, 0])
    here = torch.arange(known, device=index.device) + first
    shifted = (index == here - torch.arange(index.shape[1], device=index.device)[:, None]).all(2).all(0)
    lead = int(shifted.int().cumprod(0).sum())
    return _Layout(len(keys), lead, known, first, index[:, lead:], other[:, :, :known])


class _Shift(torch.autograd.Function):
    """What is said of N distances and of two segments, [H, R, Q, N + 2] -> of the keys, [H, R, Q, K].

    Row i of what lies at ``first`` - i + j is read where it is, one place further to the left than the row before:
    Transformer-XL's shift, without a copy and without an index.
    """

    @staticmethod
    def forward(ctx: Any, asked: Tensor, layout: _Layout) -> Tensor:
        lead, known = layout.lead, layout.known
        heads, rows, count, _ = asked.shape
        whole = asked.new_empty(heads, rows, count, layout.keys)
        whole[..., known:] = 0
        told = whole[..., :known]
        told[:, :, :lead] = _shifted(asked, layout)
        if lead < count:
            rest = layout.index.expand(heads, -1, -1, -1)
            told[:, :, lead:] = asked[:, :, lead:].gather(3, rest)
        same = asked[..., -2:-1]
        ctx.layout, ctx.width = layout, asked.shape[3]
        told.addcmul_(asked[..., -1:] - same, layout.other).add_(same)
        return whole

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        layout: _Layout = ctx.layout
        lead, grad = layout.lead, grad[..., : layout.known]
        below = grad.new_zeros(*grad.shape[:3], ctx.width)
        _shifted(below, layout).copy_(grad[:, :, :lead])
        if lead < grad.shape[2]:
            # Where documents are packed, two keys may lie equally far from a query that sees one of them.
            below[:, :, lead:].scatter_add_(3, layout.index.expand(len(grad), -1, -1, -1), grad[:, :, lead:])
        apart = (grad * layout.other).sum(-1)
        below[..., -1] = apart
        below[..., -2] = grad.sum(-1) - apart
        return below, None


def _shifted(t: Tensor, layout: _Layout) -> Tensor:
    heads, rows, count, width = t.shape
    size = (heads, rows, layout.lead, layout.known)
    return t.as_strided(size, (rows * count * width, count * width, width - 1, 1), layout.first)
