"""Segment pairs, as the data builders of BERT, ALBERT and ELECTRA make them (spec 06 section 4, spec 09 section 1)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from random import Random
from typing import Literal, NamedTuple, Protocol

Second = Literal["random", "swapped"]
Grain = Literal["segment", "sentence"]


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
    """Two stretches of tokens, each (first, end). ``random``: the second does not follow the first; None: there is
    no second, it is empty."""

    first: tuple[int, int]
    second: tuple[int, int]
    random: bool | None


def pairs_of(
    document: int,
    segments: Callable[[int], Sequence[int]],
    num_documents: int,
    *,
    room: int,
    short_share: float,
    draw: Draw,
    second: Second = "random",
    grain: Grain = "segment",
) -> Iterator[Pair]:
    """The pairs of one document, of ``room`` tokens at most.

    ``segments(d)`` are the places where the sentences of document d begin, and where its last one ends. The
    document is filled into chunks of about ``room`` tokens (with probability ``short_share`` of a shorter
    length, drawn once); a chunk is cut in two, and its second half is kept or, half of the time, replaced by
    sentences of another document; the unused ones go back. A chunk of one sentence always gets a random second.
    With ``second="swapped"`` the halves change places half of the time instead (ALBERT's sentence order), and a
    chunk of one sentence stays alone. With ``grain="sentence"`` both halves are one sentence each (spec 07).
    """
    target = room
    if grain == "segment" and draw.random() < short_share:
        target = draw.randint(2, room)
    cuts = segments(document)
    last = len(cuts) - 2
    begin = at = 0
    while at <= last:
        full = at > begin if grain == "sentence" else cuts[at + 1] - cuts[begin] >= target
        if at == last or full:
            count = at - begin + 1
            split = begin + (draw.randint(1, count - 1) if count >= 2 else 1)
            first = (cuts[begin], cuts[split])
            if second == "swapped":
                yield _ordered(first, (cuts[split], cuts[at + 1]), room, draw)
                begin, at = at + 1, at + 1
                continue
            random = count == 1 or draw.random() < 0.5
            if random:
                other = document
                for _ in range(10):
                    other = draw.randint(0, num_documents - 1)
                    if other != document:
                        break
                elsewhere = segments(other)
                start = end = draw.randint(0, len(elsewhere) - 2)
                wanted = 1 if grain == "sentence" else target - (first[1] - first[0])
                while end == start or (
                    elsewhere[end] - elsewhere[start] < wanted and end < len(elsewhere) - 1
                ):
                    end += 1
                other_half = (elsewhere[start], elsewhere[end])
                at = split - 1
            else:
                other_half = (cuts[split], cuts[at + 1])
            yield _fit(first, other_half, random, room, draw)
            begin = at + 1
        at += 1


def following_pairs(
    cuts: Sequence[int], *, length: int, single_share: float, short_share: float, draw: Draw
) -> Iterator[Pair]:
    """ELECTRA's inputs of one document: B always follows A (spec 09 section 1).

    ``cuts`` as ``segments`` gives them. Sentences are collected until there are ``length`` tokens (with
    probability ``short_share`` fewer); with probability ``single_share`` all of them are A. Otherwise A takes what
    fits into half of the room, and perhaps the sentence that crosses the middle. What exceeds ``length`` with its
    marks is cut off.
    """
    last, begin = len(cuts) - 2, 0
    target = length
    for at in range(last + 1):
        if at < last and cuts[at + 1] - cuts[begin] < target:
            continue
        middle = cuts[at + 1] + 1 if draw.random() < single_share else cuts[begin] + (target - 3) // 2
        split = begin + 1
        while split <= at and (cuts[split + 1] < middle or (cuts[split] < middle and draw.random() < 0.5)):
            split += 1
        first = (cuts[begin], min(cuts[split], cuts[begin] + length - 2))
        end = min(cuts[at + 1], cuts[split] + length - 3 - (first[1] - first[0]))
        yield Pair(first, (cuts[split], max(cuts[split], end)), False if end > cuts[split] else None)
        begin = at + 1
        target = draw.randint(5, length) if draw.random() < short_share else length


def _ordered(first: tuple[int, int], second: tuple[int, int], room: int, draw: Draw) -> Pair:
    if second[0] == second[1]:
        return Pair((first[0], min(first[1], first[0] + room)), second, None)
    fitted = _fit(first, second, False, room, draw)
    swapped = draw.random() < 0.5
    return Pair(fitted.second, fitted.first, True) if swapped else fitted


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
