"""A mixture of objectives: one draw an example says which of them makes it (spec 18, 20 section 4).

UniLM's four masks, UL2's denoisers, and a prefix language model that stays a plain one are mixtures. So is
PPO with a share of pretraining: the members may have heads of their own. Where the text itself says which member it
is for (T5's tasks, of which each brings its own rows), that is the draw.
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
    from plume.models.backbone import Backbone
    from plume.slots import Array

MEMBER = "member"  # a window's label: the number of the member it was cut for


@dataclass(frozen=True)
class Mixture(Objective[Any]):
    """Each example is made by one of ``members``, chosen with a probability proportional to its ``shares`` entry.

    Without ``shares`` each window says which member it is for, by its label "member", and was cut for that one.
    Heads of one name are one head. A member that needs fewer tokens than another gets the beginning of the window,
    as if the windows had been cut for it. Losses are those of all members together: each head's sum is divided by
    that head's count. ``reads`` is the number of the member that frames finished texts, ``asks`` of the one that
    asks for a next token.
    """

    members: tuple[Objective[Any], ...]
    shares: tuple[float, ...] = ()
    reads: int = 0
    asks: int = 0

    def __post_init__(self) -> None:
        if not self.members or (self.shares and len(self.members) != len(self.shares)):
            raise ValueError(
                f"a mixture needs a share for each member: {len(self.members)} members, {len(self.shares)} shares"
            )
        if self.shares and (min(self.shares) < 0 or not sum(self.shares)):
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
        if self.shares:
            edges = self._edges
            chosen = bisect_right(edges, rng.random() * edges[-1])
            source = self._for(chosen, source)
        elif (told := source.labels.get(MEMBER)) is not None:
            chosen = told
        else:
            raise ValueError(
                "a mixture without shares reads windows that say which member they are for: set shares"
            )
        example = self.members[chosen].example(source, vocab, rng)
        if example is None:
            return None
        # A member that is a mixture has written its own down: both numbers are kept as one.
        number = example.member * len(self.members) + chosen
        return Example(example.inputs, example.decoder_inputs, member=number)

    def _for(self, chosen: int, source: Any) -> Any:
        """As much of a window as the member would have been given alone."""
        if not isinstance(source, Window):
            return source
        tokens = len(source)
        if tokens not in self._lengths:
            self._lengths[tokens] = _length(self, tokens)
        enough = self.members[chosen].window_length(self._lengths[tokens])
        return source if enough >= tokens else source.stretch(0, enough)

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
                        f"two members of a mixture have a head {name!r} of different shapes or settings: name them "
                        f"differently, or set them alike"
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
        inner = replace(example, member=example.member // len(self.members))
        return self.members[self.member(example)].restore(inner)

    def member(self, example: Example[Array]) -> int:
        """The number of the member that made ``example``."""
        return example.member % len(self.members)

    def read(self, segments: Sequence[Array], vocab: Vocabulary) -> tuple[Slots[Array], int]:
        return self.members[self.reads].read(segments, vocab)

    def ask_next(self, ids: Array, vocab: Vocabulary) -> tuple[Slots[Array], int]:
        return self.members[self.asks].ask_next(ids, vocab)

    @property
    def goes_on(self) -> bool:
        return self.members[self.asks].goes_on

    def prompt(self, ids: Array, vocab: Vocabulary) -> Example[Array] | None:
        return self.members[self.asks].prompt(ids, vocab)

    def read_decoder(self, inputs: Slots[Array], vocab: Vocabulary) -> Slots[Array] | None:
        return self.members[self.reads].read_decoder(inputs, vocab)

    def also(self, read: Slots[Array]) -> dict[str, Array]:
        return self.members[self.reads].also(read)

    def ask_hidden(self, ids: Array, vocab: Vocabulary) -> tuple[Slots[Array], Array]:
        return self.members[self.reads].ask_hidden(ids, vocab)


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


def _shape(head: Head) -> dict[str, Any]:
    """What two heads of one name must share: what they are, read and hold, and their settings."""
    parts = {name: tuple(p.shape) for name, p in head.named_parameters()}
    plain = {
        n: v for n, v in vars(head).items() if isinstance(v, bool | int | float | str) and n != "training"
    }
    return {"": type(head), "reads": head.reads, **plain, **parts}
