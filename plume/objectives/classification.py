"""Classification: a label a text, a pair of texts or a word, read as the pretrained family reads (spec 11)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from plume.models.backbone import Pool
from plume.models.heads import Head, PooledHead, TokenHead
from plume.objectives.base import Objective
from plume.slots import IGNORE, Example, Slots
from plume.vocabulary import Vocabulary

if TYPE_CHECKING:
    from plume.models.backbone import Backbone
    from plume.slots import Array


@dataclass(frozen=True, slots=True)
class Labelled:
    """A text of one or two segments [T] of ids, and the number of its label; or one segment, and a number for each of
    its ids [T], IGNORE where nothing is asked (words of several tokens are asked at the first)."""

    segments: tuple[np.ndarray[Any, np.dtype[np.int64]], ...]
    label: int | np.ndarray[Any, np.dtype[np.int64]]


@dataclass(frozen=True)
class Classification(Objective[Labelled]):
    """Ask the slot that sums a text up for its label, or (``unit="word"``) every word for its own: a tagger.

    ``reader`` is the objective of pretraining: it frames the text and says which slot answers, so that a
    bidirectional model answers at [CLS] and a causal one at the end. Texts longer than ``max_length`` slots
    are cut, of a pair the longer one first. ``hidden`` gives the head BERT's dense tanh layer.

    ``pool`` asks all slots of the text instead, and makes one state of them; ``mix`` reads a learned mixture of all
    layers (ELMo, spec 04 section 4). ``symmetric`` reads a pair in both orders and sums what sums them up (spec 13
    section 5). ``lm_weight`` adds lambda times what pretraining asks of the same text, the mean over texts of the
    mean over tokens (spec 13 section 4); at 0 that head is not there at all. A tagger has none of these but ``mix``.
    """

    reader: Objective[Any]
    labels: tuple[str, ...]
    max_length: int = 512
    hidden: bool = True
    dropout: float = 0.1
    pool: Pool = "slot"
    mix: bool = False
    symmetric: bool = False
    lm_weight: float = 0.0
    unit: Literal["text", "word"] = "text"

    def __post_init__(self) -> None:
        if self.unit == "word" and (self.pool != "slot" or self.symmetric or self.lm_weight):
            raise ValueError("unit='word' asks every slot by itself: no pool, symmetric or lm_weight")
        if self.symmetric and self.pool != "slot":
            raise ValueError(f"symmetric sums two slots, so pool must be 'slot', not {self.pool!r}")
        if self.lm_weight < 0:
            raise ValueError(f"lm_weight must be at least 0, got {self.lm_weight}")
        if len(self.labels) < 2:
            raise ValueError(f"classification needs at least two different labels, found {list(self.labels)}")

    def example(self, source: Labelled, vocab: Vocabulary, rng: np.random.Generator) -> Example[Array] | None:
        if not sum(len(s) for s in source.segments):
            return None
        asked = self.ask(source, vocab)
        second = self.reader.read_decoder(asked, vocab)
        if second is None:
            return Example(asked)
        if self.unit == "word":
            raise ValueError(
                "words are asked where they are read, by families of one stack (BERT, GPT, Word2Vec)"
            )
        # Of two stacks the second answers, which has read the same text (BART, spec 19 section 5).
        return Example(replace(asked, labels={}), replace(second, labels=asked.labels))

    def read_decoder(self, inputs: Slots[Array], vocab: Vocabulary) -> Slots[Array] | None:
        return self.reader.read_decoder(inputs, vocab)

    def ask(self, source: Labelled, vocab: Vocabulary) -> Slots[Array]:
        """The text as it is read, with the labels where they are asked."""
        if self.unit == "word":
            inputs, at = self.reader.ask_each(source.segments[0], vocab)
            labels = np.full(len(inputs), IGNORE)
            labels[at] = source.label
            return replace(inputs, labels={"label": labels})
        assert isinstance(source.label, int)
        orders = [source.segments]
        if self.symmetric and len(source.segments) == 2:
            orders.append(source.segments[::-1])
        read = [self._ask(segments, source.label, vocab) for segments in orders]
        return read[0] if len(read) == 1 else _side_by_side(read)

    def pieces(self, source: Labelled, vocab: Vocabulary) -> list[Labelled]:
        """The source in parts that fit ``max_length``: a tagger reads a long sentence one part after the other, while a
        text that is asked as a whole is cut (``read``)."""
        if self.unit == "text":
            return [source]
        ids, labels = source.segments[0], np.asarray(source.label)
        room = max(1, self.max_length - len(self.reader.ask_each(ids[:0], vocab)[0]))
        return [
            Labelled((ids[at : at + room],), labels[at : at + room])
            for at in range(0, max(1, len(ids)), room)
        ]

    def _ask(self, segments: Sequence[Array], label: int, vocab: Vocabulary) -> Slots[Array]:
        inputs, slot = self.read(segments, vocab)
        labels = np.full(len(inputs), IGNORE)
        labels[slot if self.pool == "slot" else slice(None)] = label
        asked = {"label": labels}
        if self.lm_weight:
            also = self.reader.also(inputs)
            if not also:
                raise ValueError(
                    f"{type(self.reader).__name__} asks nothing of a text that is read as it is: lm_weight must be 0"
                )
            asked |= also
        return replace(inputs, labels=asked)

    def restore(self, example: Example[Array]) -> Array:
        return example.inputs.input_ids

    def heads(self, backbone: Backbone, vocab: Vocabulary) -> dict[str, Head]:
        pool: Pool = "sum" if self.symmetric else self.pool
        heads: dict[str, Head] = {
            "label": PooledHead(
                backbone,
                len(self.labels),
                hidden=self.hidden,
                dropout=self.dropout,
                pool=pool,
                mix=self.mix,
                activation=self.reader.label_activation,
            )
        }
        if self.lm_weight:
            for name, head in self.reader.heads(backbone, vocab).items():
                if isinstance(head, TokenHead):
                    head.per_document = True
                heads[name] = head
        return heads

    def weights(self) -> Mapping[str, float]:
        return {"next_token": self.lm_weight} if self.lm_weight else {}

    def read(self, segments: Sequence[Array], vocab: Vocabulary) -> tuple[Slots[Array], int]:
        framed, slot = self.reader.read(segments, vocab)
        excess = len(framed) - self.max_length
        if excess <= 0:
            return framed, slot
        return self.reader.read(_shorten(segments, excess), vocab)

    def ask_next(self, ids: Array, vocab: Vocabulary) -> tuple[Slots[Array], int]:
        return self.reader.ask_next(ids, vocab)


def _side_by_side(parts: Sequence[Slots[Array]]) -> Slots[Array]:
    """Several texts as documents of one example: none sees another."""

    def joined(name: str) -> Array:
        return np.concatenate([getattr(part, name) for part in parts])

    return Slots(
        input_ids=joined("input_ids"),
        position_ids=joined("position_ids"),
        token_type_ids=joined("token_type_ids"),
        visible_at=joined("visible_at"),
        sees_until=joined("sees_until"),
        document_ids=np.repeat(np.arange(len(parts)), [len(part) for part in parts]),
        example_ids=joined("example_ids"),
        labels={name: np.concatenate([part.labels[name] for part in parts]) for name in parts[0].labels},
    )


def _shorten(segments: Sequence[Array], excess: int) -> list[Array]:
    """The segments without ``excess`` tokens, taken from the end of whichever is longer (spec 06 section 4)."""
    lengths = [len(s) for s in segments]
    for _ in range(excess):
        lengths[int(np.argmax(lengths[::-1])) * -1 - 1] -= 1
    return [s[: max(0, n)] for s, n in zip(segments, lengths, strict=True)]
