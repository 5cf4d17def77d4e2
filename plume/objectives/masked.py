"""Masked language modelling: BERT, RoBERTa, ERNIE (spec 06, 07, 08).

Static and dynamic masking are the same code: they differ by the epoch number that feeds ``rng``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Literal

import numpy as np

from plume.models.heads import Head, PooledHead, TokenHead
from plume.objectives.base import Objective
from plume.objectives.noise import check_shares, corrupt, swap
from plume.slots import IGNORE, Example, Slots, unasked
from plume.text.windows import Grain, Window
from plume.vocabulary import Vocabulary

if TYPE_CHECKING:
    from plume.models.backbone import Backbone
    from plume.slots import Array


@dataclass(frozen=True)
class MaskedLM(Objective[Window]):
    """Hide a share of the tokens and ask for them; with ``next_sentence`` ask at slot 0 whether B follows A, with
    ``sentence_order`` whether A and B stand in their order (what ALBERT asks instead).

    ``noise_density`` of *all* slots, specials counted, are chosen among those that are not special, as BERT
    does: exactly ``max(1, round(density * length))`` of them an example (``"exact"``; a unit that no longer
    fits is skipped, not cut), or each unit on its own with that probability (``"bernoulli"``, as
    ``transformers``' collator). A chosen token becomes [MASK] with probability ``mask_share``, a uniform
    draw over the whole vocabulary with ``random_share``, and stays as it is otherwise, each token by itself.
    ``"rounded"`` is RoBERTa's: density * length, rounded up or down by chance, among *all* slots, [CLS] and [SEP]
    too, and no random draw is a special token other than [MASK] (spec 07 section 3).

    ``segments`` says what tells two segments apart: "types" (BERT) or a second "separator" between them, all types
    being 0 (RoBERTa).
    """

    noise_density: float = 0.15
    mask_share: float = 0.8
    random_share: float = 0.1
    unit: Grain = "token"
    selection: Literal["exact", "bernoulli", "rounded"] = "exact"
    max_predictions: int | None = None
    next_sentence: bool = False
    sentence_order: bool = False
    segments: Literal["types", "separator"] = "types"

    def __post_init__(self) -> None:
        if self.next_sentence and self.sentence_order:
            raise ValueError(
                "next_sentence and sentence_order ask different things of different pairs: use one"
            )
        if self.selection == "rounded" and (self.unit != "token" or self.max_predictions is not None):
            raise ValueError(
                "selection='rounded' chooses single tokens and has no cap: set unit=token and max_predictions=null"
            )
        if not 0 < self.noise_density <= 1:
            raise ValueError(f"noise_density must lie in (0, 1], got {self.noise_density}")
        check_shares(self.mask_share, self.random_share)

    def example(self, source: Window, vocab: Vocabulary, rng: np.random.Generator) -> Example[Array] | None:
        if self.selection == "rounded":
            chosen, ids = self._rounded(source, vocab, rng)
        elif self.selection == "bernoulli":
            chosen, ids = self._independent(source, vocab, rng)
        else:
            chosen = self.choose(source, rng)
            shares = (self.mask_share, self.random_share)
            ids = corrupt(source.ids, chosen, vocab, rng, *shares)
        if not len(chosen):
            return None
        labels = {"masked_token": unasked(len(ids))}
        labels["masked_token"][chosen] = source.ids[chosen]
        if question := self._question:
            if question not in source.labels:
                raise ValueError(_WRONG_WINDOWS[question])
            labels[question] = unasked(len(ids))
            labels[question][0] = source.labels[question]
        types = source.token_type_ids if self.segments == "types" else np.zeros_like(ids)
        return Example(Slots.bidirectional(ids, token_type_ids=types, labels=labels))

    def choose(self, source: Window, rng: np.random.Generator) -> Array:
        """The chosen slots, ascending. Units are chosen whole; specials never."""
        open_slots: Array = (~source.special).nonzero()[0]
        if not len(open_slots):
            return open_slots
        unit, count = np.arange(len(open_slots)), len(open_slots)
        if self.unit != "token":
            unit = source.begins(self.unit)[open_slots].cumsum() - 1
            count = int(unit[-1]) + 1
        if self.selection == "bernoulli":
            return open_slots[(rng.random(count) < self.noise_density)[unit]]
        budget = max(1, round(len(source.ids) * self.noise_density))
        if self.max_predictions is not None:
            budget = min(budget, self.max_predictions)
        order = rng.permutation(count)
        taken = np.zeros(count, bool)
        if count == len(unit):  # every unit is one token
            taken[order[:budget]] = True
            return open_slots[taken]
        sizes = np.bincount(unit).tolist()
        for u in order.tolist():
            if sizes[u] <= budget:
                taken[u] = True
                budget -= sizes[u]
        return open_slots[taken[unit]]

    def _independent(
        self, source: Window, vocab: Vocabulary, rng: np.random.Generator
    ) -> tuple[Array, Array]:
        """The chosen slots and the ids with the noise in them, by one uniform number a token (spec 08 section 3).

        A unit is chosen by its first token's number, which, being below ``noise_density`` then, decides what becomes
        of that token too; the others' decide of them.
        """
        uniform, first = rng.random(len(source)), source.begins(self.unit)
        taken = (uniform[first] <= self.noise_density)[first.cumsum() - 1]
        chosen = (taken & ~source.special).nonzero()[0]
        scaled = uniform[chosen]
        scaled[first[chosen]] /= self.noise_density
        not_masked = 1 - self.mask_share
        masked, kept = scaled > not_masked, scaled <= not_masked - self.random_share
        ids = source.ids.copy()
        ids[chosen[masked]] = vocab.require("mask")
        swap(ids, chosen[~(masked | kept)], vocab, rng)
        return chosen, ids

    def _rounded(self, source: Window, vocab: Vocabulary, rng: np.random.Generator) -> tuple[Array, Array]:
        """The chosen slots, ascending, and the ids with the noise in them: fairseq's draws in their order."""
        length = len(source)
        if source.special.all():
            return np.zeros(0, np.int64), source.ids
        count = int(self.noise_density * length + rng.random())
        chosen = np.zeros(length, bool)
        chosen[rng.choice(length, count, replace=False)] = True
        not_masked = 1 - self.mask_share
        odd = chosen & (rng.random(length) < not_masked)
        swapped = odd & (rng.random(length) >= (not_masked - self.random_share) / (not_masked or 1))
        ids = np.where(chosen & ~odd, vocab.require("mask"), source.ids)
        pool = _ordinary(vocab)
        ids[swapped] = pool[(rng.random(int(swapped.sum())) * len(pool)).astype(np.int64)]
        return np.flatnonzero(chosen), ids

    def restore(self, example: Example[Array]) -> Array:
        labels = example.inputs.labels["masked_token"]
        return np.where(labels == IGNORE, example.inputs.input_ids, labels)

    def heads(self, backbone: Backbone, vocab: Vocabulary) -> dict[str, Head]:
        heads: dict[str, Head] = {"masked_token": TokenHead(backbone, transform=True, bias=True)}
        if question := self._question:
            heads[question] = PooledHead(backbone, 2)
        return heads

    @property
    def _question(self) -> str:
        return "next_sentence" if self.next_sentence else "sentence_order" if self.sentence_order else ""

    def read(self, segments: Sequence[Array], vocab: Vocabulary) -> tuple[Slots[Array], int]:
        cls, sep = vocab.require("cls"), vocab.require("sep")
        if self.segments == "separator" and len(segments) > 1:
            between = [part for s in segments for part in ([sep, sep], s)][1:]
            return Slots.bidirectional(np.concatenate([[cls], *between, [sep]]).astype(np.int64)), 0
        ids = np.concatenate([[cls], *(np.append(s, sep) for s in segments)]).astype(np.int64)
        types = np.concatenate([[0], *(np.full(len(s) + 1, i) for i, s in enumerate(segments))]).astype(
            np.int64
        )
        return Slots.bidirectional(ids, token_type_ids=types), 0

    def ask_next(self, ids: Array, vocab: Vocabulary) -> tuple[Slots[Array], int]:
        framed, _ = self.read([np.append(ids, vocab.require("mask"))], vocab)
        return framed, len(ids) + 1


@cache
def _ordinary(vocab: Vocabulary) -> Array:
    """The ids that a random replacement may be: all but the special ones, [MASK] among them."""
    never = vocab.special | {vocab.unk}
    return np.array([i for i in range(vocab.size) if i == vocab.mask or i not in never], np.int64)


_WRONG_WINDOWS = {
    "next_sentence": (
        "next_sentence asks whether segment B follows segment A, which only windows=SegmentPairs can say: use those "
        "windows (with windows.second=random), or set objective.next_sentence=false"
    ),
    "sentence_order": (
        "sentence_order asks whether two segments stand in their order, which only windows=SegmentPairs with "
        "windows.second=swapped can say: use those windows, or set objective.sentence_order=false"
    ),
}
