"""Classification: one label a text or pair of texts, read as the pretrained family reads (spec 11 section 2)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from plume.models.heads import Head, PooledHead
from plume.objectives.base import Objective
from plume.slots import IGNORE, Example, Slots
from plume.vocabulary import Vocabulary

if TYPE_CHECKING:
    from plume.models.pretrained import Backbone
    from plume.slots import Array


@dataclass(frozen=True, slots=True)
class Labelled:
    """A text of one or two segments [T] of ids, and the number of its label."""

    segments: tuple[np.ndarray[Any, np.dtype[np.int64]], ...]
    label: int


@dataclass(frozen=True)
class Classification(Objective[Labelled]):
    """Ask the slot that sums a text up for its label.

    ``reader`` is the objective of pretraining: it frames the text and says which slot answers, so that a
    bidirectional model answers at [CLS] and a causal one at the end. Texts longer than ``max_length`` slots
    are cut, of a pair the longer one first. ``hidden`` gives the head BERT's dense tanh layer.
    """

    reader: Objective[Any]
    labels: tuple[str, ...]
    max_length: int = 512
    hidden: bool = True
    dropout: float = 0.1

    def __post_init__(self) -> None:
        if len(self.labels) < 2:
            raise ValueError(f"classification needs at least two different labels, found {list(self.labels)}")

    def example(self, source: Labelled, vocab: Vocabulary, rng: np.random.Generator) -> Example[Array] | None:
        if not sum(len(s) for s in source.segments):
            return None
        inputs, slot = self.read(source.segments, vocab)
        labels = np.full(len(inputs), IGNORE)
        labels[slot] = source.label
        return Example(replace(inputs, labels={"label": labels}))

    def restore(self, example: Example[Array]) -> Array:
        return example.inputs.input_ids

    def heads(self, backbone: Backbone, vocab: Vocabulary) -> dict[str, Head]:
        return {"label": PooledHead(backbone, len(self.labels), hidden=self.hidden, dropout=self.dropout)}

    def read(self, segments: Sequence[Array], vocab: Vocabulary) -> tuple[Slots[Array], int]:
        framed, slot = self.reader.read(segments, vocab)
        excess = len(framed) - self.max_length
        if excess <= 0:
            return framed, slot
        return self.reader.read(_shorten(segments, excess), vocab)

    def ask_next(self, ids: Array, vocab: Vocabulary) -> tuple[Slots[Array], int]:
        return self.reader.ask_next(ids, vocab)


def _shorten(segments: Sequence[Array], excess: int) -> list[Array]:
    """The segments without ``excess`` tokens, taken from the end of whichever is longer (spec 06 section 4)."""
    lengths = [len(s) for s in segments]
    for _ in range(excess):
        lengths[int(np.argmax(lengths[::-1])) * -1 - 1] -= 1
    return [s[: max(0, n)] for s, n in zip(segments, lengths, strict=True)]
