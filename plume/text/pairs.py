"""Segment pairs and the next-sentence draw, as BERT's data builder makes them (spec 06 section 4)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from random import Random
from typing import NamedTuple, Protocol


class Draw(Protocol):
    """Where chance comes from; ``random.Random`` is one."""

    def random(self) -> float: ...

    def randint(self, a: int, b: int) -> int: ...


class Draws:
    """Draws from a key. Only ``random()`` of Python's generator is promised to stay the same, so only it is used."""

    def __init__(self, key: int) -> None:
        self.random = Random(key).random  # noqa: S311 - no secret hangs on it

    def randint(self, a: int, b: int) -> int:
        return a + int(self.random() * (b - a + 1))


class Pair(NamedTuple):
    """Two stretches of tokens, each (first, end). ``random``: the second does not follow the first."""

    first: tuple[int, int]
    second: tuple[int, int]
    random: bool


def pairs_of(
    document: int,
    segments: Callable[[int], Sequence[int]],
    num_documents: int,
    *,
    room: int,
    short_share: float,
    draw: Draw,
) -> Iterator[Pair]:
    """The pairs of one document, of ``room`` tokens at most.

    ``segments(d)`` are the places where the sentences of document d begin, and where its last one ends. The
    document is filled into chunks of about ``room`` tokens (with probability ``short_share`` of a shorter
    length, drawn once); a chunk is cut in two, and its second half is kept or, half of the time, replaced by
    sentences of another document; the unused ones go back. A chunk of one sentence always gets a random second.
    """
    target = room
    if draw.random() < short_share:
        target = draw.randint(2, room)
    cuts = segments(document)
    last = len(cuts) - 2
    begin = at = 0
    while at <= last:
        if at == last or cuts[at + 1] - cuts[begin] >= target:
            count = at - begin + 1
            split = begin + (draw.randint(1, count - 1) if count >= 2 else 1)
            first = (cuts[begin], cuts[split])
            random = count == 1 or draw.random() < 0.5
            if random:
                other = document
                for _ in range(10):
                    other = draw.randint(0, num_documents - 1)
                    if other != document:
                        break
                elsewhere = segments(other)
                start = end = draw.randint(0, len(elsewhere) - 2)
                while end == start or (
                    elsewhere[end] - elsewhere[start] < target - (first[1] - first[0])
                    and end < len(elsewhere) - 1
                ):
                    end += 1
                second = (elsewhere[start], elsewhere[end])
                at = split - 1
            else:
                second = (cuts[split], cuts[at + 1])
            yield _fit(first, second, random, room, draw)
            begin = at + 1
        at += 1


def _fit(first: tuple[int, int], second: tuple[int, int], random: bool, room: int, draw: Draw) -> Pair:
    """Cut token by token from the longer one (the second on a tie), front or back, until both fit."""
    (a, b), (c, d) = first, second
    draws = draw.random
    for _ in range(b - a + d - c - room):
        front = draws() < 0.5
        if b - a > d - c:
            if front:
                a += 1
            else:
                b -= 1
        elif front:
            c += 1
        else:
            d -= 1
    return Pair((a, b), (c, d), random)
