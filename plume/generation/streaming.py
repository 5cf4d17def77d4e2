"""Text while it is being generated: deltas that add up to the offline decode, byte for byte (spec 21, 6)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from plume.text.detokenizing import Detokenizer


class Detokenizes(Protocol):
    """What is needed of a tokenizer: a detokenizer that is fed one id at a time."""

    def detokenizer(self) -> Detokenizer: ...


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
    """Ids in, text out. What goes on from ``prompt`` is streamed, and searched for stop strings; the prompt is not.

    The first word of a continuation needs its blank and a character cut in two its other half: so the prompt
    passes through the same detokenizer first.
    """

    def __init__(
        self,
        tokenizer: Detokenizes,
        prompt: Sequence[int] = (),
        stops: Sequence[str] = (),
        *,
        include: bool = False,
    ) -> None:
        self._detokenizer = tokenizer.detokenizer()
        for token in prompt:
            self._detokenizer.push(token)
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
