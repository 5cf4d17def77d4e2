"""Useful FLOPs of a training step, from the shapes that a batch really has (spec 25 section 7).

A matrix of n elements costs 2n a slot forward and 4n backward; attention of a document of length T costs
12 T^2 D a layer (scores and mixing, forward and backward, the full square). Padding is not useful, nor are slots
that a head was not asked about, nor the recomputing of activations.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from torch import nn

from plume.models.heads import TokenHead
from plume.models.pretrained import PretrainedModel
from plume.models.transformer import Transformer
from plume.slots import Batch


@dataclass(frozen=True)
class Flops:
    """Matrix elements that every slot of the first and second stack passes, those of each head, attention's width.

    ``widths`` are layers x heads x d_head of the first and the second stack. ``both_ways`` is 3 where the
    backbone trains, 1 where it only reads.
    """

    matrices: tuple[int, int]
    heads: Mapping[str, int]
    widths: tuple[int, int] = (0, 0)
    both_ways: int = 3

    @classmethod
    def of(cls, model: PretrainedModel) -> Flops:
        """The counts of a model; embeddings and positions are looked up, not multiplied."""
        backbone = model.backbone
        heads = {
            name: _matrices(head) - sum(_matrices(network) for network in _networks(head))
            + (head.weight.numel() if isinstance(head, TokenHead) else 0)
            for name, head in model.heads.items()
        }  # fmt: skip
        both_ways = 3 if any(p.requires_grad for p in backbone.parameters()) else 1
        if not isinstance(backbone, Transformer):
            return cls((_matrices(backbone), 0), heads, both_ways=both_ways)
        first, second = backbone.stack, backbone.decoder
        width = backbone.config.num_heads * backbone.config.head_width
        if second is None:
            # A head may have a network of its own, which every slot passes too (ELECTRA's generator).
            networks = _networks(model)
            return cls(
                (sum(map(_matrices, networks)), 0),
                heads,
                (sum(len(n.stack.layers) * n.d_model for n in networks), 0),
                both_ways,
            )
        # Cross-attention's keys and values are computed from the first stack's slots.
        crossing = sum(m.weight.numel() for n, m in second.named_modules() if n.endswith("cross_kv"))
        return cls(
            (_matrices(first) + crossing, _matrices(second) - crossing),
            heads,
            (len(first.layers) * width, len(second.layers) * width),
            both_ways,
        )

    def step(self, batch: Batch) -> float:
        """Forward and backward of a batch that ``collate`` made."""
        inputs, asked = batch.inputs.layout, batch.decoder_inputs
        n = np.zeros(0) if inputs is None else inputs.documents[:, 2].astype(np.float64)
        m = (
            np.zeros(0)
            if asked is None or asked.layout is None
            else asked.layout.documents[:, 2].astype(np.float64)
        )
        body = 2 * (self.matrices[0] * n.sum() + self.matrices[1] * m.sum())
        body += 4 * (self.widths[0] * (n**2).sum() + self.widths[1] * (m**2).sum())
        if len(m):
            body += 4 * self.widths[1] * (m * n).sum()
        answers = sum(
            6 * self.heads[name] * len(index) for name, index in batch.asked.items() if name in self.heads
        )
        return float(self.both_ways * body + answers)


def _networks(head: nn.Module) -> list[Transformer]:
    return [module for module in head.modules() if isinstance(module, Transformer)]


def _matrices(module: nn.Module) -> int:
    """Elements of the matrices that every slot is multiplied by."""
    kinds = (nn.Linear, nn.RNNBase)
    return sum(
        p.numel() for m in module.modules() if isinstance(m, kinds) for p in m.parameters() if p.ndim >= 2
    )
