"""Span corruption: hide spans behind sentinels and write what was hidden (T5, spec 18 section 4)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from plume.models.heads import Head, TokenHead
from plume.objectives.base import Objective
from plume.slots import Example, Slots
from plume.text.windows import Window
from plume.vocabulary import Vocabulary

if TYPE_CHECKING:
    from plume.models.backbone import Backbone
    from plume.slots import Array


@dataclass(frozen=True)
class SpanCorruption(Objective[Window]):
    """The first stack reads the text with a sentinel for each span; the second writes the spans, each behind its own.

    Of n tokens exactly ``round(noise_density * n)`` are hidden, in ``round(hidden / mean_span_length)`` spans; every
    way of cutting that is equally likely. A window begins with a token that is shown and ends with one that is
    hidden, so there is no sentinel after the last span. Both sequences end with eos; the second stack begins
    with ``start``.

    >>> from plume.text.window import Window
    >>> vocab = Vocabulary(size=40, pad=0, eos=1, sentinels=(39, 38))
    >>> mask = np.array([0, 0, 1, 1, 0, 0, 1], bool)
    >>> [ids.tolist() for ids in cut_out(np.arange(10, 17), mask, vocab)]
    [[10, 11, 39, 14, 15, 38, 1], [39, 12, 13, 38, 16, 1]]
    """

    noise_density: float = 0.15
    mean_span_length: float = 3.0

    def __post_init__(self) -> None:
        if not 0 < self.noise_density < 1:
            raise ValueError(f"noise_density must lie between 0 and 1, got {self.noise_density}")
        if self.mean_span_length < 1:
            raise ValueError(f"mean_span_length must be at least 1, got {self.mean_span_length}")

    def sizes(self, length: int) -> tuple[int, int]:
        """How many of ``length`` tokens are hidden, and in how many spans."""
        if length < 2:
            return 0, 0
        hidden = min(max(round(length * self.noise_density), 1), length - 1)
        return hidden, min(max(round(hidden / self.mean_span_length), 1), hidden, length - hidden)

    def window_length(self, length: int) -> int:
        """The most tokens whose first sequence fits ``length`` slots: 568 for 512 (spec 18 section 4.1).

        >>> [SpanCorruption().window_length(n) for n in (32, 64, 128, 256, 512, 1024)]
        [34, 70, 141, 284, 568, 1137]
        """

        def shown(n: int) -> int:
            hidden, spans = self.sizes(n)
            return n - hidden + spans + 1

        n = max(length - 1, 1)
        while shown(n + 1) <= length:
            n += 1
        hidden, spans = self.sizes(n)
        return n - 1 if self.noise_density == 0.5 and hidden + spans + 1 > length else n

    def mask(self, length: int, rng: np.random.Generator) -> Array:
        """Which tokens are hidden: bool [length]."""
        hidden, spans = self.sizes(length)
        mask = np.zeros(length, bool)
        if not spans:
            return mask
        turns = np.empty(2 * spans, np.int64)  # shown, hidden, shown, hidden ...
        turns[::2], turns[1::2] = _parts(length - hidden, spans, rng), _parts(hidden, spans, rng)
        edges = np.cumsum(turns)
        steps = np.zeros(length + 1, np.int8)
        steps[edges[::2]], steps[edges[1::2]] = 1, -1
        return np.cumsum(steps[:-1]).astype(bool)

    def example(self, source: Window, vocab: Vocabulary, rng: np.random.Generator) -> Example[Array] | None:
        mask = self.mask(len(source.ids), rng)
        if not mask.any():
            return None
        shown, target = cut_out(source.ids, mask, vocab)
        return Example(Slots.bidirectional(shown), writes(target, vocab))

    def restore(self, example: Example[Array]) -> Array:
        assert example.decoder_inputs is not None
        return self.put_back(example.inputs.input_ids, example.decoder_inputs.labels["next_token"])

    def put_back(self, shown: Array, target: Array) -> Array:
        """The text of the two sequences, whose sentinels are numbered downwards, as T5's are."""
        room = len(shown) + len(target) - 2
        spans = next(s for s in range(room // 2 + 1) if self.sizes(room - 2 * s)[1] == s)
        sentinels = target[0] - np.arange(spans)
        outer = np.split(shown[:-1], np.flatnonzero(np.isin(shown[:-1], sentinels)))
        inner = np.split(target[:-1], np.flatnonzero(np.isin(target[:-1], sentinels)))[1:]
        pieces = [outer[0]]
        for hidden, after in zip(inner, outer[1:], strict=True):
            pieces += [hidden[1:], after[1:]]
        return np.concatenate(pieces)

    def heads(self, backbone: Backbone, vocab: Vocabulary) -> dict[str, Head]:
        return {"next_token": TokenHead(backbone)}

    def read(self, segments: Sequence[Array], vocab: Vocabulary) -> tuple[Slots[Array], int]:
        """A text as the first stack reads it, each segment closed by eos."""
        ids = np.concatenate([np.append(s, vocab.require("eos")) for s in segments]).astype(np.int64)
        return Slots.bidirectional(ids), len(ids) - 1

    def read_decoder(self, inputs: Slots[Array], vocab: Vocabulary) -> Slots[Array]:
        """The same text behind the padding token, as T5's classifiers read it."""
        return Slots.causal(np.concatenate([[vocab.require("pad")], inputs.input_ids[:-1]]))

    def prompt(self, ids: Array, vocab: Vocabulary) -> Example[Array]:
        """A text that ends in a hidden span: what the second stack writes there goes on with the text."""
        (mark,) = vocab.require_sentinels(1)
        shown = np.concatenate([ids, [mark, vocab.require("eos")]]).astype(np.int64)
        return Example(Slots.bidirectional(shown), Slots.causal([vocab.require("pad"), mark]))


def cut_out(ids: Array, mask: Array, vocab: Vocabulary) -> tuple[Array, Array]:
    """Two sequences, each closed by eos: ``ids`` with a sentinel for each hidden run, and the runs behind theirs.

    Raises:
        ValueError: there are more runs than sentinels, or no eos.
    """
    eos = vocab.require("eos")
    begins = mask & ~np.concatenate([[False], mask[:-1]])
    number = np.cumsum(begins)
    sentinels = np.array([0, *vocab.require_sentinels(int(number[-1]))], np.int64)
    shown = np.where(begins, sentinels[number], ids)[~mask | begins]
    hidden, runs = np.flatnonzero(mask), np.flatnonzero(begins)
    # A sentinel before the first token of each run.
    target = np.insert(ids[hidden], np.searchsorted(hidden, runs), sentinels[1:])
    return np.append(shown, eos), np.append(target, eos)


def writes(target: Array, vocab: Vocabulary) -> Slots[Array]:
    """The second stack asked for ``target``: it reads it shifted by one, behind the padding token, as T5 does."""
    shown = np.concatenate([[vocab.require("pad")], target[:-1]])
    return Slots.causal(shown, labels={"next_token": target})


def _parts(items: int, count: int, rng: np.random.Generator) -> Array:
    """The sizes of ``count`` non-empty parts of ``items``; all ways of cutting are equally likely."""
    cuts = np.sort(rng.permutation(items - 1)[: count - 1]) + 1
    return np.diff(np.concatenate([[0], cuts, [items]]))
