"""What a model must know about a tokenizer: how many ids there are and which of them are special."""

from __future__ import annotations

from dataclasses import dataclass, field

from plume.errors import Lacking


@dataclass(frozen=True, slots=True, kw_only=True)
class Vocabulary:
    """The ids of a tokenizer.

    ``size`` counts every id, special ones included. A special token that the tokenizer lacks is ``None``;
    ``require`` turns that into one sentence for the user. ``sentinels`` are T5's, in the order they are used.
    ``counts``, an entry an id, says how often each occurred in the text that the tokenizer was trained on; it
    is empty where that is not known. ``pieces`` are the spellings of all ids, given where tokens are words.
    """

    size: int
    pad: int | None = None
    bos: int | None = None
    eos: int | None = None
    unk: int | None = None
    cls: int | None = None
    sep: int | None = None
    mask: int | None = None
    sentinels: tuple[int, ...] = ()
    counts: tuple[int, ...] = ()
    pieces: tuple[str, ...] = field(default=(), compare=False, repr=False)

    @property
    def special(self) -> frozenset[int]:
        """Ids that never come from a user's text, the unknown token apart."""
        named = (self.pad, self.bos, self.eos, self.cls, self.sep, self.mask)
        return frozenset(i for i in named if i is not None) | frozenset(self.sentinels)

    def require(self, name: str) -> int:
        """The id of the special token ``name`` ("mask", "eos", ...).

        Raises:
            Lacking: the tokenizer has no such token.
        """
        value: int | None = getattr(self, name)
        if value is None:
            raise Lacking(
                f"this tokenizer has no {name!r} token, which the objective needs: "
                f"train one with `plume tokenizer` of a kind that has it (wordpiece has cls, sep and mask)"
            )
        return value

    def require_sentinels(self, count: int) -> tuple[int, ...]:
        """The first ``count`` sentinels.

        Raises:
            Lacking: the tokenizer has fewer.
        """
        if count > len(self.sentinels):
            has = f"only {len(self.sentinels)}" if self.sentinels else "no"
            raise Lacking(
                f"this tokenizer has {has} sentinels, but the objective needs {count} in one window: train one with "
                f"`plume tokenizer --sentinels {max(100, count)}`, or choose a shorter windows.length"
            )
        return self.sentinels[:count]
