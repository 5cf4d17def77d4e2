"""A mixture of objectives: one draw an example says which of them makes it (spec 18, 20 section 4).

UniLM's four masks, UL2's denoisers, and a prefix language model that stays a plain one are mixtures. So is
PPO with a share of pretraining: the members may have heads of their own.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate
from typing import TYPE_CHECKING, Any

import numpy as np

from plume.models.heads import Head
from plume.objectives.base import Objective
from plume.slots import Example, Slots
from plume.text.windows import Window
from plume.vocabulary import Vocabulary

if TYPE_CHECKING:
    from plume.models.pretrained import Backbone
    from plume.slots import Array

MEMBER = "member"  # given: the number of the member that made an example, at each of its slots


@dataclass(frozen=True)
class Mixture(Objective[Any]):
    """Each example is made by one of ``members``, chosen with a probability proportional to its ``shares`` entry.

    Heads of one name are one head. A member that needs fewer tokens than another gets the beginning of the window,
    as if the windows had been cut for it. Losses are those of all members together: each head's sum is divided by
    that head's count. ``reads`` is the number of the member that frames finished texts, ``asks`` of the one that
    asks for a next token.
    """

    members: tuple[Objective[Any], ...]
    shares: tuple[float, ...]
    reads: int = 0
    asks: int = 0

    def __post_init__(self) -> None:
        if not self.members or len(self.members) != len(self.shares):
            raise ValueError(
                f"a mixture needs a share for each member: {len(self.members)} members, {len(self.shares)} shares"
            )
        if min(self.shares) < 0 or not sum(self.shares):
            raise ValueError(f"shares must be at least 0 and one of them above, got {list(self.shares)}")
        for name in ("reads", "asks"):
            if not 0 <= getattr(self, name) < len(self.members):
                raise ValueError(f"{name}={getattr(self, name)} is the number of no member")
        for member in self.members:
            # The members' examples lie in one batch, which is read once: none can have it for itself.
            if type(member).losses is not Objective.losses or type(member).counts is not Objective.counts:
                raise ValueError(f"{type(member).__name__} computes its losses itself and cannot be mixed")
        self.weights()

    def window_length(self, length: int) -> int:
        return max(member.window_length(length) for member in self.members)

    def example(self, source: Any, vocab: Vocabulary, rng: np.random.Generator) -> Example[Array] | None:
        edges = self._edges
        chosen = bisect_right(edges, rng.random() * edges[-1])
        member = self.members[chosen]
        if isinstance(source, Window):
            tokens = len(source)
            if tokens not in self._lengths:
                self._lengths[tokens] = _length(self, tokens)
            enough = member.window_length(self._lengths[tokens])
            source = source if enough >= len(source) else source.stretch(0, enough)
        example = member.example(source, vocab, rng)
        return None if example is None else _mark(example, chosen)

    @cached_property
    def _edges(self) -> list[float]:
        return list(accumulate(self.shares))

    @cached_property
    def _lengths(self) -> dict[int, int]:
        """``_length`` of the windows that were met: to hash all members for each example would cost more."""
        return {}

    def heads(self, backbone: Backbone, vocab: Vocabulary) -> dict[str, Head]:
        united: dict[str, Head] = {}
        for member in self.members:
            for name, head in member.heads(backbone, vocab).items():
                if _shape(united.setdefault(name, head)) != _shape(head):
                    raise ValueError(
                        f"two members of a mixture have a head {name!r} of different shapes: name them differently"
                    )
        return united

    def weights(self) -> Mapping[str, float]:
        united: dict[str, float] = {}
        for member in self.members:
            for name, weight in member.weights().items():
                if united.setdefault(name, weight) != weight:
                    raise ValueError(f"two members of a mixture weigh the head {name!r} differently")
        return united

    def restore(self, example: Example[Array]) -> Array:
        return self.members[self.member(example)].restore(example)

    def member(self, example: Example[Array]) -> int:
        """The number of the member that made ``example``."""
        return int(example.inputs.given[MEMBER][0])

    def read(self, segments: Sequence[Array], vocab: Vocabulary) -> tuple[Slots[Array], int]:
        return self.members[self.reads].read(segments, vocab)

    def ask_next(self, ids: Array, vocab: Vocabulary) -> tuple[Slots[Array], int]:
        return self.members[self.asks].ask_next(ids, vocab)


def _length(mixture: Mixture, tokens: int) -> int:
    """The slots that a window of so many tokens was read for: the most for which it suffices."""
    low, high = 1, max(1, tokens)
    while low < high:
        middle = (low + high + 1) // 2
        if mixture.window_length(middle) <= tokens:
            low = middle
        else:
            high = middle - 1
    return low


def _mark(example: Example[Array], number: int) -> Example[Array]:
    inputs = example.inputs
    given = {**inputs.given, MEMBER: np.full(len(inputs), float(number), np.float32)}
    return Example(replace(inputs, given=given), example.decoder_inputs)


def _shape(head: Head) -> tuple[type, str, dict[str, Any]]:
    return type(head), head.reads, {name: tuple(p.shape) for name, p in head.named_parameters()}
