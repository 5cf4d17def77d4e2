"""One window of text: what an example is made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from plume.errors import UserError
from plume.text.marks import FLAGS, PART, Grain

Ints = np.ndarray[Any, np.dtype[np.int64]]
Bytes = np.ndarray[Any, np.dtype[np.uint8]]
Bools = np.ndarray[Any, np.dtype[np.bool_]]


@dataclass(frozen=True, slots=True)
class Window:
    """T tokens of text with the specials of their format.

    ids int64 [T]; marks uint8 [T], the units that begin at a token (``marks.WORD`` ...); special bool [T],
    true where a token was added by the window and is not text; token_type_ids int64 [T], the segment's number;
    labels: what the cutting itself knows, such as ``{"next_sentence": 0}``.
    """

    ids: Ints
    marks: Bytes
    special: Bools
    token_type_ids: Ints
    labels: Mapping[str, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.ids)

    def parts(self) -> list[Ints]:
        """The ids of each column of the row that this window holds: a source and its target, or one text alone."""
        if len(self) and self.special[0]:  # framed as one text
            return [self.ids]
        later = self.marks & PART
        return np.split(self.ids, np.flatnonzero(later)) if later.any() else [self.ids]

    def stretch(self, first: int, end: int) -> Window:
        """Its tokens from ``first`` to before ``end``, as far as there are any."""
        cut = slice(first, end)
        return replace(
            self,
            ids=self.ids[cut],
            marks=self.marks[cut],
            special=self.special[cut],
            token_type_ids=self.token_type_ids[cut],
        )

    def begins(self, grain: Grain) -> Bools:
        """Where a word (phrase, entity) begins, bool [T].

        A special token is a unit of its own; so is the rest of a word whose beginning was cut off.

        Raises:
            UserError: no phrase or entity is marked here, because the text was stored without them.
        """
        if grain == "token":
            return np.ones(len(self.ids), bool)
        begins: Bools = self.marks & FLAGS[grain] != 0
        if grain != "word" and not begins.any():
            raise UserError(
                f"the token store knows no {grain} boundaries, which objective.unit={grain} needs: use token or word"
            )
        begins |= self.special
        begins[1:] |= self.special[:-1]
        begins[:1] = True
        return begins

    def units(self, grain: Grain) -> Ints:
        """The number of each token's unit [T], ascending: tokens of one word (phrase, entity) share it (``begins``)."""
        return self.begins(grain).cumsum() - 1
