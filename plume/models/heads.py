"""Heads: what turns hidden states into answers. They belong to an objective and are thrown away with it.

N labelled slots, D = d_model, V = vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from plume.models.activations import activate
from plume.models.dropout import dropout as random_dropout
from plume.models.token_loss import token_loss
from plume.slots import Loss

if TYPE_CHECKING:
    from plume.models.pretrained import Backbone

Reads = Literal["last", "encoder", "backward"]


class Asked(NamedTuple):
    """What a head sees: only the slots that have its label.

    hidden [N, D]; labels [N] int; document and example [N], equal where two slots lie in one document or
    example; given: name -> float [N].
    """

    hidden: Tensor
    labels: Tensor
    document: Tensor
    example: Tensor
    given: Mapping[str, Tensor]


class Head(nn.Module):
    """Answers at labelled slots. ``reads`` names the hidden states it wants (``Hidden``'s fields)."""

    reads: Reads = "last"

    def logits(self, hidden: Tensor) -> Tensor:
        """Answers for hidden [..., D]."""
        raise NotImplementedError

    def loss(self, asked: Asked) -> Loss:
        """Cross-entropy in nats, summed over the labelled slots, in fp32 or better."""
        logits = self.logits(asked.hidden)
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        return Loss(F.cross_entropy(logits, asked.labels, reduction="sum"),
                    self.count(asked.labels, asked.document, asked.example, asked.given))  # fmt: skip

    def count(self, labels: Tensor, document: Tensor, example: Tensor, given: Mapping[str, Tensor]) -> Tensor:
        """What the loss is to be divided by; needs no hidden state, so it is known before the forward."""
        return torch.tensor(float(len(labels)), device=labels.device)


class TokenHead(Head):
    """Which token belongs here: h E^T, E the backbone's own token table (spec 06 section 3, spec 14 section 2).

    ``transform`` adds BERT's dense layer, activation and LayerNorm before it, ``bias`` a value a token. The backbone
    says whether E is its own table or one of the head's, and what h is multiplied by first (T5, spec 18 section 2).
    ``spread`` is label smoothing: while training, every id counts for that share of the right answer
    (``token_loss``).
    """

    def __init__(
        self, backbone: Backbone, *, transform: bool = False, bias: bool = False, spread: float = 0.0
    ) -> None:
        super().__init__()
        # In a tuple, so that it is not a second copy in the state.
        self._table = (backbone.embedding if backbone.tie_head else None,)
        self.table = None if backbone.tie_head else nn.Parameter(torch.empty_like(backbone.embedding.weight))
        self.scale = backbone.head_scale
        self.spread = spread
        self.activation = backbone.activation
        d = backbone.d_model
        self.dense = nn.Linear(d, d) if transform else None
        self.norm = nn.LayerNorm(d, backbone.norm_eps) if transform else None
        self.bias = nn.Parameter(torch.empty(len(backbone.embedding.weight))) if bias else None

    @property
    def weight(self) -> Tensor:
        """The token table [V, D] that hidden states are compared with."""
        shared = self._table[0]
        if shared is not None:
            return shared.weight
        assert self.table is not None
        return self.table

    def transform(self, hidden: Tensor) -> Tensor:
        """What the table is compared with, [..., D]."""
        if self.dense is not None and self.norm is not None:
            hidden = self.norm(activate(self.dense(hidden), self.activation))
        return hidden if self.scale == 1 else hidden * self.scale

    def logits(self, hidden: Tensor) -> Tensor:
        """[..., D] -> [..., V]."""
        return F.linear(self.transform(hidden), self.weight, self.bias)

    def loss(self, asked: Asked) -> Loss:
        """Cross-entropy in nats, summed, without ever holding all logits (``plume.models.token_loss``).

        It is smoothed in training alone: what is held out is told in plain nats.
        """
        spread = self.spread if self.training else 0.0
        total = token_loss(self.transform(asked.hidden), self.weight, self.bias, asked.labels, spread=spread)
        return Loss(total, self.count(asked.labels, asked.document, asked.example, asked.given))


class PooledHead(Head):
    """One of ``num_labels`` for a slot that sums a text up: BERT's tanh pooler, dropout, a linear map.

    ``hidden=False`` leaves the linear map alone, without bias, as GPT-2's ``score`` (spec 14 section 2.2).
    """

    def __init__(
        self, backbone: Backbone, num_labels: int, *, hidden: bool = True, dropout: float = 0.0
    ) -> None:
        super().__init__()
        d = backbone.d_model
        self.rate = dropout
        self.dense = nn.Linear(d, d) if hidden else None
        self.out = nn.Linear(d, num_labels, bias=hidden)

    def logits(self, hidden: Tensor) -> Tensor:
        """[..., D] -> [..., num_labels]."""
        if self.dense is not None:
            hidden = torch.tanh(self.dense(hidden))
        answers: Tensor = self.out(random_dropout(hidden, self.rate, self.training))
        return answers
