"""ELECTRA's two networks: the generator, which is a token head with a Transformer of its own, and the question
that the discriminator answers (spec 09 section 2).

So a model that is trained on replaced tokens is a backbone with two heads like any other: what is kept is the
backbone, and the generator goes with the heads that pretraining leaves behind.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from plume.models.activations import activate
from plume.models.heads import Asked, Head, TokenHead
from plume.models.transformer import Transformer
from plume.slots import Loss

if TYPE_CHECKING:
    from plume.models.backbone import Backbone

ROWS = 512  # of logits at a time: all of them [N, V] would not always fit


class Generator(TokenHead):
    """A masked language model. ``network`` is small and shares its tables with the backbone that it writes for."""

    def __init__(self, network: Transformer) -> None:
        super().__init__(network, transform=True, bias=True)
        self.network = network

    @torch.no_grad()
    def sample(self, hidden: Tensor, uniform: Tensor, temperature: float = 1.0) -> Tensor:
        """A token [N] for each state [N, D], drawn from softmax(logits / temperature) by inverse transform.

        ``uniform`` [N] in [0, 1) is the chance: the same numbers give the same tokens in any batch. No gradient.
        """
        drawn = []
        for states, u in zip(hidden.split(ROWS), uniform.split(ROWS), strict=True):
            logits = self.logits(states)
            logits = logits.to(torch.promote_types(logits.dtype, torch.float32)) / temperature
            below = logits.softmax(-1).cumsum(-1)
            place = u.to(below.dtype)[:, None] * below[:, -1:]
            drawn.append(
                torch.searchsorted(below, place, right=True).squeeze(1).clamp(max=below.shape[1] - 1)
            )
        return torch.cat(drawn) if drawn else torch.zeros(0, dtype=torch.long, device=hidden.device)


class ReplacedHead(Head):
    """Is this token another than stood here? One logit a slot, above 0 for yes; the loss is in nats."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.activation = backbone.activation
        self.dense = nn.Linear(backbone.d_model, backbone.d_model)
        self.prediction = nn.Linear(backbone.d_model, 1)

    def logits(self, hidden: Tensor) -> Tensor:
        """[..., D] -> [...]."""
        answers: Tensor = self.prediction(activate(self.dense(hidden), self.activation))
        return answers.squeeze(-1)

    def loss(self, asked: Asked) -> Loss:
        """Binary cross-entropy, summed over the asked slots. Labels are 0 (original) and 1 (replaced)."""
        logits = self.logits(asked.hidden)
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        total = F.binary_cross_entropy_with_logits(logits, asked.labels.to(logits.dtype), reduction="sum")
        return Loss(total, self.count(asked.labels, asked.document, asked.example, asked.given))
