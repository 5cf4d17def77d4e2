"""Heads: what turns hidden states into answers. They belong to an objective and are thrown away with it.

N labelled slots, D = d_model, V = vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from plume.models.activations import activate
from plume.models.backbone import Backbone, Pool, Reads
from plume.models.dropout import dropout as random_dropout
from plume.models.embedding import SelfStarting
from plume.models.token_loss import token_loss
from plume.slots import Loss


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

    def answers(self, asked: Asked) -> tuple[Tensor, Tensor]:
        """Logits [E, K], and which example each of them is about [E]."""
        return self.logits(asked.hidden), asked.example

    def count(self, labels: Tensor, document: Tensor, example: Tensor, given: Mapping[str, Tensor]) -> Tensor:
        """What the loss is to be divided by; needs no hidden state, so it is known before the forward."""
        return torch.tensor(float(len(labels)), device=labels.device)


class TokenHead(Head):
    """Which token belongs here: h E^T, E the backbone's own token table (spec 06 section 3, spec 14 section 2).

    ``transform`` adds BERT's dense layer, activation and LayerNorm before it, ``bias`` a value a token. The backbone
    says whether E is its own table or one of the head's, and what h is multiplied by first (T5, spec 18 section 2).
    ``spread`` is label smoothing: while training, every id counts for that share of the right answer
    (``token_loss``). Where the table has another width than the states, the dense layer leads from one to the other
    (ELECTRA).

    With ``per_document`` the loss is the sum of documents' means instead of tokens' losses, and the count that of
    documents: GPT-1's auxiliary loss, to which a long text counts no more than a short one (spec 13 section 4).
    """

    def __init__(
        self, backbone: Backbone, *, transform: bool = False, bias: bool = False, spread: float = 0.0
    ) -> None:
        super().__init__()
        self.per_document = False
        # In a tuple, so that it is not a second copy in the state.
        self._table = (backbone.embedding if backbone.tie_head else None,)
        self.table = None if backbone.tie_head else nn.Parameter(torch.empty_like(backbone.embedding.weight))
        self.scale = backbone.head_scale
        self.spread = spread
        self.activation = backbone.activation
        size, width = backbone.embedding.weight.shape
        if not transform and width != backbone.d_model:
            raise ValueError(
                f"the token table is {width} wide and the states {backbone.d_model}: this objective's head "
                f"needs model.embedding_size=null"
            )
        self.dense = nn.Linear(backbone.d_model, width) if transform else None
        self.norm = nn.LayerNorm(width, backbone.norm_eps) if transform else None
        self.bias = nn.Parameter(torch.empty(size)) if bias else None

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
        if self.per_document:
            logits = self.logits(asked.hidden)
            logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
            _, where, sizes = asked.document.unique(return_inverse=True, return_counts=True)
            each = F.cross_entropy(logits, asked.labels, reduction="none")
            total = (each / sizes[where]).sum()
            return Loss(total, self.count(asked.labels, asked.document, asked.example, asked.given))
        spread = self.spread if self.training else 0.0
        total = token_loss(self.transform(asked.hidden), self.weight, self.bias, asked.labels, spread=spread)
        return Loss(total, self.count(asked.labels, asked.document, asked.example, asked.given))

    def count(self, labels: Tensor, document: Tensor, example: Tensor, given: Mapping[str, Tensor]) -> Tensor:
        """Tokens, or with ``per_document`` documents."""
        counted = document.unique() if self.per_document else labels
        return torch.tensor(float(len(counted)), device=labels.device)


class ScalarMix(SelfStarting):
    """gamma * sum_j softmax(w)_j h_j over L layers, all alike at first (spec 04 section 4)."""

    def __init__(self, layers: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(layers))
        self.gamma = nn.Parameter(torch.empty(1))

    def start(self, name: str, parameter: Tensor, generator: torch.Generator) -> None:
        parameter.fill_(1.0 if name == "gamma" else 0.0)

    def forward(self, states: Tensor) -> Tensor:
        """[..., L, D] -> [..., D]."""
        mixed: Tensor = self.weight.softmax(0) @ states
        return self.gamma * mixed


class PooledHead(Head):
    """One of ``num_labels`` for a slot that sums a text up: BERT's tanh pooler, dropout, a linear map.

    ``hidden=False`` leaves the linear map alone, without bias, as GPT-2's ``score`` (spec 14 section 2.2).
    ``pool`` makes one state of all slots of an example that carry its label, where no slot has seen all of the text
    or two have (spec 13 section 5: the sum over both orders of a pair). ``mix`` reads a learned mixture of all the
    backbone's layers (spec 04 section 4).
    ``activation`` "gelu" is ELECTRA's head, which also drops out before the dense layer (spec 09 section 5).
    """

    def __init__(
        self,
        backbone: Backbone,
        num_labels: int,
        *,
        hidden: bool = True,
        dropout: float = 0.0,
        pool: Pool = "slot",
        mix: bool = False,
        activation: Literal["tanh", "gelu"] = "tanh",
    ) -> None:
        super().__init__()
        layers, d = backbone.features if mix else (0, backbone.d_model)
        self.activation = activation
        self.pool = pool
        self.mix = ScalarMix(layers) if mix else None
        self.reads = "layers" if mix else "last"
        self.rate = dropout
        self.dense = nn.Linear(d, d) if hidden else None
        self.out = nn.Linear(d, num_labels, bias=hidden)

    def logits(self, hidden: Tensor) -> Tensor:
        """[..., D] -> [..., num_labels]; with ``mix`` [..., L, D]."""
        return self._answer(hidden if self.mix is None else self.mix(hidden))

    def answers(self, asked: Asked) -> tuple[Tensor, Tensor]:
        """Logits [E, num_labels] of the examples [E], each from the state that ``pool`` makes of its slots."""
        states = asked.hidden if self.mix is None else self.mix(asked.hidden)
        if self.pool == "slot":
            return self._answer(states), asked.example
        example, where = asked.example.unique(return_inverse=True)
        pooled = states.new_zeros(len(example), states.shape[-1])
        index = where[:, None].expand_as(states)
        if self.pool == "max":
            pooled = pooled.scatter_reduce(0, index, states, "amax", include_self=False)
        else:
            pooled = pooled.index_add(0, where, states)
        if self.pool == "mean":
            pooled = pooled / where.bincount(minlength=len(example))[:, None]
        return self._answer(pooled), example

    def loss(self, asked: Asked) -> Loss:
        """Cross-entropy in nats, summed over the examples, in fp32 or better."""
        logits, example = self.answers(asked)
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        labels = asked.labels
        if self.pool != "slot":  # every slot of an example has its label
            order = asked.example.unique(return_inverse=True)[1]
            labels = labels.new_zeros(len(example)).scatter(0, order, labels)
        return Loss(F.cross_entropy(logits, labels, reduction="sum"),
                    self.count(asked.labels, asked.document, asked.example, asked.given))  # fmt: skip

    def count(self, labels: Tensor, document: Tensor, example: Tensor, given: Mapping[str, Tensor]) -> Tensor:
        """Slots with a label, or with ``pool`` examples."""
        counted = labels if self.pool == "slot" else example.unique()
        return torch.tensor(float(len(counted)), device=labels.device)

    def _answer(self, hidden: Tensor) -> Tensor:
        if self.dense is not None:
            if self.activation == "tanh":
                hidden = torch.tanh(self.dense(hidden))
            else:
                hidden = F.gelu(self.dense(random_dropout(hidden, self.rate, self.training)))
        answers: Tensor = self.out(random_dropout(hidden, self.rate, self.training))
        return answers
