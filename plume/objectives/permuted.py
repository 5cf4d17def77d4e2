"""XLNet: ask for tokens in a random order, each from what came before it there (spec 10).

The published model runs two streams through every layer. Here they are one: T content slots, and behind them a
query slot for each of the K tokens that are asked for, which stands where its token stands and does not know it.
Who sees whom is then the order and nothing else.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from plume.models.heads import Head, TokenHead
from plume.models.memory import FIELDS, follow
from plume.objectives.base import Objective
from plume.slots import IGNORE, NEVER, Batch, Example, Memory, Slots
from plume.text.marks import WORD
from plume.text.windows import ADVANCE, Window
from plume.vocabulary import Vocabulary

if TYPE_CHECKING:
    from plume.models.backbone import Backbone, Hidden
    from plume.slots import Array

REMEMBERED = "remembered"  # given: 1 at the slots that the next window of the row may look back to


@dataclass(frozen=True)
class PermutedLM(Objective[Window]):
    """max E_z sum log p(x_z[t] | x_z[<t]) over the last ``noise_density`` of each order z (spec 10 section 2).

    Chosen tokens come in spans of at most ``max_span_length``, 1/n as often as they are long, each in a stretch of
    1/``noise_density`` as many tokens; single ones fill up to ``round(density * length)``. All that is not chosen comes
    first and together, except [SEP] and [CLS], which have places in the order and are never asked for.

    With windows that advance by less than their length, what they advance by is a part of its own, which never
    sees what follows, and is remembered: the next ``memory_length`` slots of a row's past are seen by all of its
    next window (spec 10 section 4).
    """

    noise_density: float = 1 / 6
    max_span_length: int = 5
    memory_length: int = 384

    def __post_init__(self) -> None:
        if not 0 < self.noise_density <= 1:
            raise ValueError(f"noise_density must lie in (0, 1], got {self.noise_density}")
        if self.max_span_length < 1 or self.memory_length < 0:
            raise ValueError(
                f"max_span_length must be at least 1 and memory_length at least 0, got {self.max_span_length} and "
                f"{self.memory_length}"
            )

    def example(self, source: Window, vocab: Vocabulary, rng: np.random.Generator) -> Example[Array] | None:
        length = len(source.ids)
        advance = source.labels.get(ADVANCE, length)
        # The end of a document is text, which is to be learnt; [SEP] and [CLS] are the window's frame.
        framing = source.special & ((source.ids == vocab.sep) | (source.ids == vocab.cls))
        ranks = np.zeros(length, np.int64)
        chosen = np.zeros(length, bool)
        for number, (first, end) in enumerate(((0, advance), (advance, length))):
            part = slice(first, end)
            if first == end:
                continue
            goal = self._goal(end) - self._goal(first)
            chosen[part] = self.choose(source.marks[part] & WORD != 0, ~framing[part], goal, rng)
            # All of a part comes after all of the one before it; what is not chosen comes first in it, together.
            together = first + number
            order = together + 1 + rng.permutation(end - first)
            ranks[part] = np.where(chosen[part] | framing[part], order, together)
        targets = np.flatnonzero(chosen)
        if not len(targets):
            return None
        count = len(targets)
        labels = np.concatenate([np.full(length, IGNORE), source.ids[targets]])
        types = np.concatenate([source.token_type_ids, source.token_type_ids[targets]])
        remembered = np.zeros(length + count, np.float32)
        remembered[:advance] = 1
        return Example(
            Slots.permuted(
                source.ids,
                ranks,
                targets,
                vocab.size,
                token_type_ids=types,
                labels={"permuted_token": labels},
                given={REMEMBERED: remembered},
            )
        )

    def _goal(self, length: int) -> int:
        """How many of the first ``length`` tokens are to be asked for."""
        return max(1, round(self.noise_density * length)) if length else 0

    def choose(self, begins: Array, may: Array, goal: int, rng: np.random.Generator) -> Array:
        """Which tokens are asked for, bool [T]. begins: where a word begins; may: what may be chosen."""
        edges = list(accumulate(1 / n for n in range(1, self.max_span_length + 1)))
        # Plain lists: a few dozen looks at single tokens, each of which numpy would make a call of.
        first_of_word, open_slots, length = begins.tolist(), may.tolist(), len(begins)
        chosen = np.zeros(length, bool)
        at, left = 0, goal
        while at < length and left > 0:
            size = min(1 + bisect_right(edges, rng.random() * edges[-1]), left)
            context = max(1, round(size / self.noise_density))
            before = int(rng.integers(context))
            first = at + before
            while first < length and not first_of_word[first]:
                first += 1
            end = first + size
            if end >= length:
                break
            chosen[first:end] = may[first:end]
            left -= sum(open_slots[first:end])
            at = end + context - before
        if left > 0:
            rest = np.flatnonzero(may & ~chosen)
            chosen[rng.choice(rest, size=min(left, len(rest)), replace=False)] = True
        return chosen

    def heads(self, backbone: Backbone, vocab: Vocabulary) -> dict[str, Head]:
        return {"permuted_token": TokenHead(backbone, bias=True)}

    def restore(self, example: Example[Array]) -> Array:
        slots = example.inputs
        content = slots.visible_at != NEVER
        ids: Array = slots.input_ids[content]
        ids[slots.position_ids[~content]] = slots.labels["permuted_token"][~content]
        return ids

    def remember(self, batch: Batch, hidden: Hidden) -> Memory | None:
        """The slots a row advances by, as each layer read them, behind those it remembered before."""
        if batch.starts is None or not self.memory_length:
            return None
        return _remember(batch, hidden, self.memory_length)

    def read(self, segments: Sequence[Array], vocab: Vocabulary) -> tuple[Slots[Array], int]:
        """A [SEP] (B [SEP]) [CLS]: the sum stands last (spec 10 section 1)."""
        cls, sep = vocab.require("cls"), vocab.require("sep")
        ids = np.concatenate([*(np.append(s, sep) for s in segments), [cls]]).astype(np.int64)
        types = np.concatenate([*(np.full(len(s) + 1, i) for i, s in enumerate(segments)), [2]])
        return Slots.bidirectional(ids, token_type_ids=types.astype(np.int64)), len(ids) - 1

    def ask_next(self, ids: Array, vocab: Vocabulary) -> tuple[Slots[Array], int]:
        """The text, which sees itself, and a query slot behind it."""
        here = np.append(np.arange(len(ids)), len(ids))
        ranks = np.zeros(len(ids) + 1, np.int64)
        visible = np.append(ranks[:-1], NEVER)
        asked = Slots.ranked(np.append(ids, vocab.size), ranks, position_ids=here)
        return replace(asked, visible_at=visible), len(ids)

    def ask_hidden(self, ids: Array, vocab: Vocabulary) -> tuple[Slots[Array], Array]:
        framed, _ = self.read([ids], vocab)
        hidden = np.flatnonzero(framed.input_ids == vocab.mask)
        ranks = np.zeros(len(framed), np.int64)
        ranks[hidden] = 1  # after all that is known; none of them is seen
        types = np.concatenate([framed.token_type_ids, framed.token_type_ids[hidden]])
        asked = Slots.permuted(framed.input_ids, ranks, hidden, vocab.size, token_type_ids=types)
        return asked, len(framed) + np.arange(len(hidden))


def _remember(batch: Batch, hidden: Hidden, most: int) -> Memory | None:
    """``most`` past slots a row at most, renumbered so that the next window begins at position 0."""
    here = batch.inputs
    kept = here.given[REMEMBERED] > 0
    advance = int(kept.sum(-1).max())
    if not advance:
        return batch.memory
    # The remembered slots come first in a row. Whatever comes later in it sees them: their rank is below all.
    parts: dict[str, Any] = {name: getattr(here, name)[:, :advance] for name in FIELDS}
    kept = kept[:, :advance]
    ranks = torch.where(kept, -1, NEVER)
    new = Slots(**{**parts, "visible_at": ranks, "sees_until": ranks})
    past = None if batch.memory is None else batch.memory.slots
    slots = follow(past, new)
    slots = replace(slots, **{name: getattr(slots, name)[:, -most:] for name in FIELDS})
    slots = replace(slots, position_ids=slots.position_ids - advance)
    layers = []
    for number, states in enumerate(hidden.layers[:-1]):
        now = states[:, :advance]
        before = [] if batch.memory is None else [batch.memory.layers[number]]
        layers.append(torch.cat([*before, now], 1)[:, -most:])
    return Memory(slots, tuple(layers))
