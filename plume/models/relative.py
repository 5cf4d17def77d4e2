"""Relative positions and segments in the scores: Transformer-XL's and XLNet's (spec 10 section 3).

    score(i, j) = (q_i + u) k_j + (q_i + v) W_r R(i - j) + (q_i + w) s(same segment?)      over sqrt(d)

u, v, w, W_r and the two rows of s are a layer's own; R are sinusoids of the distance. What lies between a query
and a key is looked up by their positions, not by their places in the row, so memory, query slots and padding need
no rule of their own.

R rows, H heads, Q queries, K keys, N distances, D = d_model, d = d_head.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from plume.models.dropout import dropout
from plume.models.embedding import Linear
from plume.models.positions import Positions, Relate, waves
from plume.slots import Slots


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
        index = (distances - nearest)[:, None]
        other = (queries.token_type_ids[:, :, None] != keys.token_type_ids[:, None, :])[:, None]
        relations = cast(Sequence[Relation], self.layers)
        weight = relations[0].content_bias
        places = torch.arange(nearest, furthest + 1, device=weight.device)
        table = dropout(waves(places, self.d_model).to(weight.dtype), self.rate, self.training)

        def relate(q: Tensor, k: Tensor, layer: int) -> tuple[Tensor, Tensor, Tensor]:
            own = relations[layer]
            rows, heads, count, d = q.shape
            far = own.distance(table).view(-1, heads, d).permute(1, 2, 0)  # [H, d, N]
            bias = (q + own.distance_bias[:, None]) @ far
            bias = bias.gather(-1, index.expand(rows, heads, count, k.shape[2]))
            segment = (q + own.segment_bias[:, None]) @ own.segments.permute(1, 2, 0)  # [R, H, Q, 2]
            bias = bias + torch.where(other, segment[..., 1:], segment[..., :1])
            return q + own.content_bias[:, None], k, bias * d**-0.5

        return relate
