"""Heads: what turns hidden states into answers. They belong to an objective and are thrown away with it.

N labelled slots, D = d_model, V = vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from plume.slots import Loss

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
        """Cross-entropy in nats, summed over the labelled slots, fp32."""
        logits = self.logits(asked.hidden).float()
        return Loss(F.cross_entropy(logits, asked.labels, reduction="sum"),
                    self.count(asked.labels, asked.document, asked.example, asked.given))  # fmt: skip

    def count(self, labels: Tensor, document: Tensor, example: Tensor, given: Mapping[str, Tensor]) -> Tensor:
        """What the loss is to be divided by; needs no hidden state, so it is known before the forward."""
        return torch.tensor(float(len(labels)), device=labels.device)
