"""Windows: how text is cut into what one example sees (spec 03, 06 section 4, 07 section 3)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

import numpy as np

from plume.text.marks import FLAGS
from plume.text.marks import Grain as Grain
from plume.text.tokens import Tokens
from plume.vocabulary import Vocabulary

Ints = np.ndarray[Any, np.dtype[np.int64]]
Bytes = np.ndarray[Any, np.dtype[np.uint8]]
Bools = np.ndarray[Any, np.dtype[np.bool_]]


@dataclass(frozen=True, slots=True)
class Window:
    """T tokens of text with the specials of their format.

    ids int64 [T]; marks uint8 [T], the units that begin at a token (``marks.WORD`` ...); special bool [T],
    true where a token was added by the window and is not text; token_type_ids int64 [T], 0 or 1; labels: what
    the cutting itself knows, such as ``{"next_sentence": 0}``.
    """

    ids: Ints
    marks: Bytes
    special: Bools
    token_type_ids: Ints
    labels: Mapping[str, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.ids)

    def units(self, grain: Grain) -> Ints:
        """The group number of each token [T], ascending: tokens of one word (phrase, entity) share it.

        A special token is a group of its own; so is the rest of a word whose beginning was cut off.
        """
        if grain == "token":
            return np.arange(len(self.ids))
        begins = (self.marks & FLAGS[grain] != 0) | self.special
        begins[1:] |= self.special[:-1]
        begins[:1] = True
        return np.cumsum(begins) - 1


class Plan(Protocol):
    """The windows of one epoch, already in the order in which they are to be read."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Window: ...

    def order(self, index: int) -> int:
        """Which window of the epoch stands at ``index``: a number that does not depend on the order."""
        ...

    def starts(self, index: int) -> bool:
        """Whether what was carried along in this row of the batch must begin anew here."""
        ...


class Windows(Protocol):
    """A way of cutting. ``carries``: row r of a batch goes on where row r of the batch before stopped."""

    carries: ClassVar[bool]

    @property
    def length(self) -> int: ...

    def plan(
        self,
        tokens: Tokens,
        vocab: Vocabulary,
        *,
        length: int,
        batch_size: int,
        seed: int,
        epoch: int,
        order_epoch: int | None = None,
    ) -> Plan:
        """The windows of ``epoch``, each of ``length`` tokens (the objective's ``window_length``).

        ``epoch`` decides what is cut, ``order_epoch`` (default: the same) in which order it is read: static
        masking freezes the first and not the second.

        Raises:
            UserError: the text is shorter than a window.
        """
        ...


@dataclass(frozen=True)
class PackedStream:
    """Documents one after the other, each closed by eos, cut every ``length`` tokens (spec 03 section 1.1)."""

    length: int
    carries: ClassVar[bool] = False

    def plan(self, tokens: Tokens, vocab: Vocabulary, *, length: int, batch_size: int, seed: int, epoch: int,
             order_epoch: int | None = None) -> Plan:  # fmt: skip
        raise NotImplementedError


@dataclass(frozen=True)
class Sequential:
    """The same stream in ``batch_size`` rows read side by side, memory carried along (spec 03 section 1.2)."""

    length: int
    carries: ClassVar[bool] = True

    def plan(self, tokens: Tokens, vocab: Vocabulary, *, length: int, batch_size: int, seed: int, epoch: int,
             order_epoch: int | None = None) -> Plan:  # fmt: skip
        raise NotImplementedError


@dataclass(frozen=True)
class FullSentences:
    """Whole sentences up to ``length`` tokens, [CLS] before and [SEP] after (spec 07 section 3)."""

    length: int
    cross_documents: bool = True
    carries: ClassVar[bool] = False

    def plan(self, tokens: Tokens, vocab: Vocabulary, *, length: int, batch_size: int, seed: int, epoch: int,
             order_epoch: int | None = None) -> Plan:  # fmt: skip
        raise NotImplementedError


@dataclass(frozen=True)
class SegmentPairs:
    """[CLS] A [SEP] B [SEP] with the next-sentence draw: 0 if B follows A, 1 if it is random (spec 06 section 4)."""

    length: int
    short_share: float = 0.1
    carries: ClassVar[bool] = False

    def plan(self, tokens: Tokens, vocab: Vocabulary, *, length: int, batch_size: int, seed: int, epoch: int,
             order_epoch: int | None = None) -> Plan:  # fmt: skip
        raise NotImplementedError
