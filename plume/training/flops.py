"""Useful FLOPs of a training step, from the shapes that a batch really has (spec 25 section 7).

A matrix of n elements costs 2n a slot forward and 4n backward; attention of a document of length T costs
12 T^2 D a layer (scores and mixing, forward and backward, the full square whatever the ranks hide in it). Of a layer
with a band it is the band of that square; slots that nobody sees (XLNet's queries) are no keys; relative positions
ask each pair a third time. Padding is not useful, nor are slots that a head was not asked about, nor what the last
layer does slot by slot for slots that no head reads, nor the recomputing of activations. Keys carried over from
earlier windows are left out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from torch import Tensor, nn

from plume.models.heads import TokenHead
from plume.models.pretrained import PretrainedModel
from plume.models.transformer import Layer, Stack, Transformer
from plume.slots import Batch, Slots

Floats = np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True)
class Flops:
    """Matrix elements that every slot of the first and second stack passes, those of each head, attention's width.

    ``widths``: for the first and the second stack, and for the second's view of the first, what a pair of slots costs
    by band: layers x heads x d_head x 2, or x 3 where positions are relative. ``tail``: elements that the last layer
    multiplies by only where a head reads. ``places``: elements that every distance between two slots passes, once a
    batch. ``both_ways`` is 3 where the backbone trains, 1 where it only reads.
    """

    matrices: tuple[int, int]
    heads: Mapping[str, int]
    widths: tuple[Mapping[int | None, int], ...] = ({}, {}, {})
    tail: int = 0
    places: int = 0
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
        last = cast(Layer, (first if second is None else second).layers[-1])
        reads = {head.reads for head in model.heads.values()}
        tail = _matrices(last) - last.qkv.weight.numel() if reads <= {"last", "encoder"} else 0
        if second is None:
            # A head may have a network of its own, which every slot passes too (ELECTRA's generator).
            networks = _networks(model)
            places = sum(_matrices(network.positions) for network in networks)
            widths: Counter[int | None] = Counter()
            for network in networks:
                widths.update(_widths(network, network.stack))
            every = sum(map(_matrices, networks)) - places
            return cls((every, 0), heads, (widths, {}, {}), tail, places, both_ways)
        # Cross-attention's keys and values are computed from the first stack's slots.
        crossing = sum(m.weight.numel() for n, m in second.named_modules() if n.endswith("cross_kv"))
        inner = backbone.config.num_heads * backbone.config.head_width
        across: dict[int | None, int] = {None: 2 * len(second.layers) * inner}
        if tail:  # the last cross-attention is computed for all slots
            tail -= sum(part.weight.numel() for part in (last.attention_out, last.cross_q, last.cross_kv))
        return cls(
            (_matrices(first) + crossing, _matrices(second) - crossing),
            heads,
            (_widths(backbone, first), _widths(backbone, second), across),
            tail,
            _matrices(backbone.positions) + _matrices(backbone.decoder_positions),
            both_ways,
        )

    def step(self, batch: Batch) -> float:
        """Forward and backward of a batch that ``collate`` made."""
        n, n_keys = _lengths(batch.inputs)
        m, m_keys = (n[:0], n[:0]) if batch.decoder_inputs is None else _lengths(batch.decoder_inputs)
        pairs = 2 * (self.matrices[0] * n.sum() + self.matrices[1] * m.sum())
        for widths, queries, keys in zip(self.widths, (n, m, m), (n_keys, m_keys, n_keys), strict=True):
            pairs += 2 * sum(width * _pairs(queries, keys, band) for band, width in widths.items())
        if self.places and len(n):
            pairs += 2 * self.places * (2 * n_keys.max() - 1)
        stack = batch.decoder_inputs or batch.inputs
        asked = sum(len(index) for name, index in batch.asked.items() if batch.labelled(name) is stack)
        if 2 * asked < stack.input_ids.numel():
            pairs -= 2 * self.tail * ((m if len(m) else n).sum() - asked)
        answers = sum(
            6 * self.heads[name] * len(index) for name, index in batch.asked.items() if name in self.heads
        )
        return float(self.both_ways * pairs + answers)


def _lengths(slots: Slots[Tensor]) -> tuple[Floats, Floats]:
    """How long each document is, and how many of its slots are ever seen."""
    layout = slots.layout
    if layout is None:
        return np.zeros(0), np.zeros(0)
    lengths = layout.documents[:, 2].astype(np.float64)
    return lengths, lengths if layout.seen is None else layout.seen.astype(np.float64)


def _pairs(queries: Floats, keys: Floats, band: int | None) -> float:
    """Pairs of a query and a key of one document; with a band those that lie fewer than so many slots apart."""
    if band is None:
        return float((queries * keys).sum())
    near = np.minimum(queries, band)
    return float((queries * (2 * near - 1) - near * (near - 1)).sum())


def _widths(network: Transformer, stack: Stack) -> Counter[int | None]:
    c = network.config
    width = c.num_heads * c.head_width * (3 if c.positions == "relative" else 2)
    found: Counter[int | None] = Counter()
    for band in c.bands or (None,) * len(stack.layers):
        found[band] += width
    return found


def _networks(head: nn.Module) -> list[Transformer]:
    return [module for module in head.modules() if isinstance(module, Transformer)]


def _matrices(module: nn.Module) -> int:
    """Elements of the matrices that every slot is multiplied by."""
    kinds = (nn.Linear, nn.RNNBase)
    return sum(
        p.numel() for m in module.modules() if isinstance(m, kinds) for p in m.parameters() if p.ndim >= 2
    )
