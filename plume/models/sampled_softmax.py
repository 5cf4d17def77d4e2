"""Which word of a very large vocabulary: a softmax over a few sampled ones while training (spec 04 section 5).

N labelled slots, V words, most frequent first, D = d_model, K sampled words.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from plume.models.backbone import Reads
from plume.models.embedding import SelfStarting
from plume.models.heads import Asked, Head
from plume.models.token_loss import token_loss
from plume.slots import Loss


class OutputTable(SelfStarting):
    """A row and a bias a word; two heads may share it."""

    def __init__(self, size: int, d_model: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(size, d_model))
        self.bias = nn.Parameter(torch.empty(size))

    def start(self, name: str, parameter: Tensor, generator: torch.Generator) -> None:
        if name == "bias":
            parameter.zero_()
        else:
            parameter.normal_(0.0, parameter.shape[1] ** -0.5, generator=generator)


class Sample(NamedTuple):
    """ids [K] of different words, and how many times each word was to be expected in it, as a log: [V] -> by id."""

    ids: Tensor
    tries: int

    def log_expected(self, ids: Tensor, size: int) -> Tensor:
        """ln(1 - (1 - P(id))^tries), fp64."""
        return torch.log(-torch.expm1(self.tries * torch.log1p(-zipf(ids, size))))


def zipf(ids: Tensor, size: int) -> Tensor:
    """P(id) = (ln(id + 2) - ln(id + 1)) / ln(size + 1), fp64: log-uniform, for words in order of frequency."""
    return torch.log1p(1 / (ids.double() + 1)) / math.log(size + 1)


def draw(size: int, count: int, device: torch.device | str = "cpu") -> Sample:
    """``count`` different words, drawn one after the other by ``zipf`` until there are so many; default generator."""
    drawn = torch.empty(0, dtype=torch.long, device=device)
    while True:
        more = torch.rand(max(2 * count, 64), dtype=torch.float64, device=device)
        # floor(e^(u ln(V + 1))) - 1 has that law.
        ids = (more * math.log(size + 1)).exp().long().clamp(1, size) - 1
        drawn = torch.cat([drawn, ids])
        words, where = drawn.unique(return_inverse=True)
        if len(words) < count:
            continue
        at = torch.arange(len(drawn), device=device)
        first = torch.full_like(words, len(drawn)).scatter_reduce(0, where, at, "amin")
        first, order = first.sort()
        return Sample(words[order[:count]], int(first[count - 1]) + 1)


class SampledSoftmax(Head):
    """Cross-entropy over a vocabulary: in training against ``samples`` words, drawn anew each time, otherwise whole.

    A word's logit is lowered by the log of how often it was to be expected, so that in the mean over draws the
    sampled words stand for all of them; a sampled word that is the label is left out (spec 04 section 5).
    ``samples=None`` is the whole softmax always. ``table`` may be another head's.
    """

    def __init__(
        self,
        d_model: int,
        size: int,
        *,
        samples: int | None = None,
        table: OutputTable | None = None,
        reads: Reads = "last",
    ) -> None:
        super().__init__()
        self.samples = samples
        self.table = OutputTable(size, d_model) if table is None else table
        self.reads = reads

    def logits(self, hidden: Tensor) -> Tensor:
        """[..., D] -> [..., V]."""
        return F.linear(hidden, self.table.weight, self.table.bias)

    def loss(self, asked: Asked) -> Loss:
        """Cross-entropy in nats, summed, in fp32 or better; an estimate of it where words are sampled."""
        weight, bias, labels = self.table.weight, self.table.bias, asked.labels
        if not self.training or self.samples is None or self.samples >= len(weight) or not len(labels):
            total = token_loss(asked.hidden, weight, bias, labels)
        else:
            total = self._sampled(asked.hidden, labels, draw(len(weight), self.samples, weight.device))
        return Loss(total, self.count(labels, asked.document, asked.example, asked.given))

    def _sampled(self, hidden: Tensor, labels: Tensor, sample: Sample) -> Tensor:
        weight, bias, size = self.table.weight, self.table.bias, len(self.table.weight)
        ids = sample.ids
        exact = torch.promote_types(weight.dtype, torch.float32)
        right = (hidden * F.embedding(labels, weight)).sum(-1).to(exact) + bias[labels]
        others = F.linear(hidden, F.embedding(ids, weight), bias[ids]).to(exact)
        right = right - sample.log_expected(labels, size).to(exact)
        others = others - sample.log_expected(ids, size).to(exact)
        others = others.masked_fill(labels[:, None] == ids, -torch.inf)
        return (torch.cat([right[:, None], others], 1).logsumexp(1) - right).sum()
