"""Prefix language models: T5's, and UniLM's cloze under four masks (spec 20).

A prefix sees itself in both directions, what follows sees the prefix and its own past. ``PrefixLM`` asks each
slot for the token after it; ``Cloze`` hides tokens as BERT does and lets who sees whom say what kind of language
model is trained. UniLM is a ``Mixture`` of four of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Literal

import numpy as np

from plume.models.heads import Head, PooledHead, TokenHead
from plume.objectives.base import Objective
from plume.objectives.mixture import Mixture
from plume.objectives.noise import check_shares, corrupt
from plume.slots import IGNORE, Example, Slots, unasked
from plume.text.windows import Window
from plume.vocabulary import Vocabulary

if TYPE_CHECKING:
    from plume.models.backbone import Backbone
    from plume.slots import Array

Mode = Literal["bidirectional", "seq2seq", "left_to_right", "right_to_left"]

# The segment rows of a first and a second segment (UniLM's "new_segment_ids"): the model is told which mask it wears.
SEGMENTS: dict[Mode, tuple[int, int]] = {
    "bidirectional": (0, 1),
    "seq2seq": (4, 5),
    "left_to_right": (2, 2),
    "right_to_left": (3, 3),
}


@dataclass(frozen=True)
class PrefixLM(Objective[Window]):
    """T5's: -sum log p(x_t | x_<t) over t >= P, P uniform in [1, T); the prefix carries no loss (spec 20 section 4)."""

    def window_length(self, length: int) -> int:
        return length + 1

    def example(self, source: Window, vocab: Vocabulary, rng: np.random.Generator) -> Example[Array] | None:
        ids = source.ids
        if len(ids) < 2:
            return None
        prefix = int(rng.integers(1, len(ids)))
        labels = np.where(np.arange(1, len(ids)) >= prefix, ids[1:], IGNORE)
        return Example(Slots.prefix(ids[:-1], prefix, labels={"next_token": labels}))

    def heads(self, backbone: Backbone, vocab: Vocabulary) -> dict[str, Head]:
        return {"next_token": TokenHead(backbone)}

    def restore(self, example: Example[Array]) -> Array:
        return np.append(example.inputs.input_ids, example.inputs.labels["next_token"][-1])

    def read(self, segments: Sequence[Array], vocab: Vocabulary) -> tuple[Slots[Array], int]:
        ids = np.concatenate([np.append(s, vocab.require("eos")) for s in segments])
        return Slots.bidirectional(ids), len(ids) - 1

    def ask_next(self, ids: Array, vocab: Vocabulary) -> tuple[Slots[Array], int]:
        return Slots.prefix(ids, len(ids)), len(ids) - 1


@dataclass(frozen=True)
class Cloze(Objective[Window]):
    """Tokens are hidden, and asked for where they stood, under one of UniLM's masks (spec 20 section 4).

    ``noise_density`` of all slots are chosen, one by one or, with probability ``ngram_share``, two or three in a
    row; then 80/10/10 as BERT's. Where a text is read from its beginning the [SEP] that ends it is a token like any
    other, so that the model learns when to stop. In "seq2seq" the first segment is the prefix; a window without a
    second one is parted at a random place. ``next_sentence`` asks at slot 0 whether B follows A.

    ``target_only`` is fine-tuning: tokens of the second segment are chosen, ``noise_density`` of its length without
    the [SEP], at most ``max_predictions`` (spec 20 section 5). Windows of ``TextPairs``, a source and its target, are
    framed as [CLS] source [SEP] target [SEP], each of at most half the slots. ``label_smoothing`` is the share of the
    right answer that goes to all ids, in training.
    """

    mode: Mode
    noise_density: float = 0.15
    mask_share: float = 0.8
    random_share: float = 0.1
    ngram_share: float = 0.2
    next_sentence: bool = False
    target_only: bool = False
    max_predictions: int | None = None
    label_smoothing: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.label_smoothing < 1:
            raise ValueError(f"label_smoothing must lie in [0, 1), got {self.label_smoothing}")
        if not 0 < self.noise_density <= 1:
            raise ValueError(f"noise_density must lie in (0, 1], got {self.noise_density}")
        if not 0 <= self.ngram_share <= 1:
            raise ValueError(f"ngram_share must lie in [0, 1], got {self.ngram_share}")
        check_shares(self.mask_share, self.random_share)
        if self.target_only and self.mode != "seq2seq":
            raise ValueError(f"target_only asks for the target of mode seq2seq, and mode is {self.mode}")

    def window_length(self, length: int) -> int:
        # In fine-tuning a window holds two texts, each of at most so many tokens, and three marks join them.
        return max(1, (length - 3) // 2) if self.target_only else length

    def example(self, source: Window, vocab: Vocabulary, rng: np.random.Generator) -> Example[Array] | None:
        if len(texts := source.parts()) == 2:
            source = _pair(texts, vocab)
        length = len(source.ids)
        prefix = self._prefix(source, rng)
        if prefix is None:
            return None
        chosen = np.array(sorted(chain(*self._choose(source, prefix, vocab, rng))), np.int64)
        if not len(chosen):
            return None
        ids = corrupt(source.ids, chosen, vocab, rng, self.mask_share, self.random_share)
        labels = {"masked_token": unasked(length)}
        labels["masked_token"][chosen] = source.ids[chosen]
        if self.next_sentence:
            if "next_sentence" not in source.labels:
                raise ValueError(
                    "next_sentence asks whether segment B follows segment A, which only windows=SegmentPairs "
                    "can say: use those windows, or set next_sentence=false"
                )
            labels["next_sentence"] = unasked(length)
            labels["next_sentence"][0] = source.labels["next_sentence"]
        second = _second(source) if self.mode == "bidirectional" else prefix
        return Example(_slots(self.mode, ids, prefix, second, labels))

    def _prefix(self, source: Window, rng: np.random.Generator) -> int | None:
        """How many slots the prefix has; 0 where the mask has none, ``None`` where there is nothing to part."""
        if self.mode != "seq2seq":
            return 0
        if (second := _second(source)) < len(source):
            return second
        text = np.flatnonzero(~source.special)
        return int(text[1 + rng.integers(len(text) - 1)]) if len(text) > 1 else None

    def _choose(
        self, source: Window, prefix: int, vocab: Vocabulary, rng: np.random.Generator
    ) -> list[range]:
        """The chosen runs of slots, each one to three long."""
        open_slots = ~source.special
        if self.mode in ("left_to_right", "seq2seq") and source.ids[-1] == vocab.sep:
            open_slots[-1] = True
        size = len(source.ids)
        if self.target_only:
            open_slots[:prefix] = False
            size = int((open_slots & ~source.special).sum())
        budget = max(1, round(size * self.noise_density))
        if self.max_predictions is not None:
            budget = min(budget, self.max_predictions)
        return runs(open_slots, budget, self.ngram_share, rng)

    def restore(self, example: Example[Array]) -> Array:
        labels = example.inputs.labels["masked_token"]
        return np.where(labels == IGNORE, example.inputs.input_ids, labels)

    def heads(self, backbone: Backbone, vocab: Vocabulary) -> dict[str, Head]:
        spread = self.label_smoothing / vocab.size
        heads: dict[str, Head] = {
            "masked_token": TokenHead(backbone, transform=True, bias=True, spread=spread)
        }
        if self.next_sentence:
            heads["next_sentence"] = PooledHead(backbone, 2)
        return heads

    def read(self, segments: Sequence[Array], vocab: Vocabulary) -> tuple[Slots[Array], int]:
        cls, sep = vocab.require("cls"), vocab.require("sep")
        ids = np.concatenate([[cls], *(np.append(s, sep) for s in segments)]).astype(np.int64)
        first = len(segments[0]) + 2
        slots = _slots(self.mode, ids, first, first, {})
        reads_on = self.mode == "left_to_right" or (self.mode == "seq2seq" and len(segments) > 1)
        return slots, len(ids) - 1 if reads_on else 0

    def ask_next(self, ids: Array, vocab: Vocabulary) -> tuple[Slots[Array], int]:
        """[MASK] where the next token would stand: after the text, or before it ("right_to_left": ``ids`` then come
        from the end of the text to its beginning). In "seq2seq" the source ends with the first [SEP] among
        ``ids``, the target so far follows; without a [SEP] all is source.
        """
        cls, sep, mask = (vocab.require(name) for name in ("cls", "sep", "mask"))
        before, after, prefix = [cls], [mask], 0
        if self.mode == "bidirectional":
            after = [mask, sep]
        elif self.mode == "right_to_left":
            ids, before, after = ids[::-1], [cls, mask], [sep]
        elif self.mode == "seq2seq":
            ids = ids if sep in ids else np.append(ids, sep)
            prefix = int(np.flatnonzero(ids == sep)[0]) + 2
        framed = np.concatenate([before, ids, after]).astype(np.int64)
        at = 1 if self.mode == "right_to_left" else len(ids) + 1
        return _slots(self.mode, framed, prefix, prefix or len(framed), {}), at


def unilm(*, next_sentence: bool = True) -> Mixture:
    """UniLM's pretraining: a third bidirectional, a third from segment to segment, a sixth each way (spec 20).

    Texts are read by the bidirectional member and continued by the one that reads from left to right.
    """
    return Mixture(
        members=(
            Cloze("bidirectional", next_sentence=next_sentence),
            Cloze("seq2seq"),
            Cloze("left_to_right"),
            Cloze("right_to_left"),
        ),
        shares=(2.0, 2.0, 1.0, 1.0),
        reads=0,
        asks=2,
    )


def runs(open_slots: Array, budget: int, ngram_share: float, rng: np.random.Generator) -> list[range]:
    """Runs of one, or with probability ``ngram_share`` of two or three, open slots until ``budget`` slots are in.

    open_slots: bool [T]. The last run may go beyond the budget, and no run is cut, so that the share holds.
    """
    # Plain lists: a dozen looks at single slots, each of which numpy would make a call of.
    free, total = open_slots.tolist(), 0
    found: list[range] = []
    starts = rng.permutation(open_slots.nonzero()[0]).tolist()
    # A run takes a slot at least: there is a length for each. Half of those that are not one are two.
    drawn = [1 if d >= ngram_share else 2 if 2 * d < ngram_share else 3 for d in rng.random(budget).tolist()]
    for lengths in (drawn, [1] * budget):  # what no longer run fits into is filled one by one
        for start in starts:
            if total >= budget:
                return found
            stop = start + lengths[len(found)]
            if stop <= len(free) and False not in free[start:stop]:
                free[start:stop] = [False] * (stop - start)
                found.append(range(start, stop))
                total += stop - start
    return found


def _pair(texts: Sequence[Array], vocab: Vocabulary) -> Window:
    """[CLS] source [SEP] target [SEP]."""
    cls, sep = vocab.require("cls"), vocab.require("sep")
    ids = np.concatenate([[cls], texts[0], [sep], texts[1], [sep]]).astype(np.int64)
    special = np.zeros(len(ids), bool)
    special[[0, len(texts[0]) + 1, -1]] = True
    types = (np.arange(len(ids)) >= len(texts[0]) + 2).astype(np.int64)
    return Window(ids, np.zeros(len(ids), np.uint8), special, types)


def _second(source: Window) -> int:
    """Where the second segment begins, which is the end of a window; its length where there is none."""
    return len(source) - int(np.count_nonzero(source.token_type_ids))


def _slots(mode: Mode, ids: Array, prefix: int, second: int, labels: dict[str, Array]) -> Slots[Array]:
    """``second``: where the second segment begins."""
    types = np.empty(len(ids), np.int64)
    types[:second], types[second:] = SEGMENTS[mode]
    if mode == "bidirectional":
        return Slots.bidirectional(ids, token_type_ids=types, labels=labels)
    if mode == "right_to_left":
        ranks = np.arange(len(ids))[::-1].copy()
        return Slots.ranked(ids, ranks, token_type_ids=types, labels=labels)
    return Slots.prefix(ids, prefix if mode == "seq2seq" else 0, token_type_ids=types, labels=labels)
