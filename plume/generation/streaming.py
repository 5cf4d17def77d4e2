"""Text while it is being generated: deltas that add up to the offline decode, byte for byte (spec 21, 6)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

_UNFINISHED = "\ufffd"  # what a decoder shows for bytes that are not, or not yet, a character
_CONTEXT = 8  # tokens a delta is decoded with; far more than any decoder looks back


class Decodes(Protocol):
    """What is needed of a tokenizer."""

    def decode(self, ids: Sequence[int]) -> str: ...


class Detokenizer:
    """Text of a growing list of ids. ``push`` gives what the new id settles, ``finish`` what was held back.

    The text is always a difference of two decoded prefixes, never a token by itself: WordPiece's spaces and
    Unigram's marks depend on what stands before. Only a short stretch of ids is decoded each time. At most one
    unfinished character is held back: bytes that later bytes may still complete.

    ``prompt``: the ids the text goes on from; they are not part of it.
    """

    def __init__(self, tokenizer: Decodes, prompt: Sequence[int] = ()) -> None:
        self._tokenizer = tokenizer
        self._ids = list(prompt[-_CONTEXT:])
        self._given = len(self._text())  # how much of this stretch's text is given out

    def push(self, token: int) -> str:
        self._ids.append(token)
        text = self._text()
        # A truncated sequence of bytes decodes to exactly one replacement character, and it is the last.
        settled = text.removesuffix(_UNFINISHED)
        delta = settled[self._given :]
        self._given += len(delta)
        if len(self._ids) > 2 * _CONTEXT and self._given == len(text):
            self._ids = self._ids[-_CONTEXT:]
            self._given = len(self._text())
        return delta

    def finish(self) -> str:
        delta = self._text()[self._given :]
        self._given += len(delta)
        return delta

    def _text(self) -> str:
        return self._tokenizer.decode(self._ids) if self._ids else ""


class StopStrings:
    """Holds back text that may be the beginning of a stop string, and ends where one is complete.

    Of several stop strings the one that is complete first counts, so that it does not matter how the text was
    cut into deltas; of those complete at the same place, the longest.

    >>> stops = StopStrings(["\\nUser:", "END"])
    >>> [stops.push(t) for t in ("Hello\\n", "Use", "ful EN", "D of it")], stops.stopped
    (['Hello', '', '\\nUseful ', ''], True)
    """

    def __init__(self, stops: Sequence[str], *, include: bool = False) -> None:
        self._stops = tuple(stops)
        self._include = include
        self._held = ""
        self.stopped = False

    def push(self, text: str) -> str:
        """The text that is certain now. After a stop string everything is dropped."""
        if self.stopped or not self._stops:
            return "" if self.stopped else text
        text = self._held + text
        found = [(at + len(stop), at) for stop in self._stops if (at := text.find(stop)) >= 0]
        if found:
            end, begin = min(found)
            self.stopped, self._held = True, ""
            return text[: end if self._include else begin]
        hold = max(_overlap(text, stop) for stop in self._stops)
        self._held = text[len(text) - hold :]
        return text[: len(text) - hold]

    def finish(self) -> str:
        """What was held back and turned out not to be a stop string."""
        held, self._held = self._held, ""
        return held


class TextStream:
    """Ids in, text out, with stop strings: ``Detokenizer`` and ``StopStrings`` in one."""

    def __init__(
        self,
        tokenizer: Decodes,
        prompt: Sequence[int] = (),
        stops: Sequence[str] = (),
        *,
        include: bool = False,
    ) -> None:
        self._detokenizer = Detokenizer(tokenizer, prompt)
        self._stops = StopStrings(stops, include=include)

    @property
    def stopped(self) -> bool:
        """Whether a stop string has come."""
        return self._stops.stopped

    def push(self, token: int) -> str:
        """The text that this token makes certain; may be empty."""
        return self._stops.push(self._detokenizer.push(token))

    def finish(self) -> str:
        """The rest, when no token follows."""
        return self._stops.push(self._detokenizer.finish()) + self._stops.finish()


def _overlap(text: str, stop: str) -> int:
    # Length of the longest end of text that is a proper beginning of stop.
    for size in range(min(len(stop) - 1, len(text)), 0, -1):
        if text.endswith(stop[:size]):
            return size
    return 0
