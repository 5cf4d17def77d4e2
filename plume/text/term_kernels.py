"""Runs of code points to numbers, compiled: a term is looked up where it stands, and no string is made of it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from plume.compiling import compiled

Ints = NDArray[np.int64]
Units = NDArray[np.uint32]

_FIRST, _PRIME, _SPREAD = np.uint64(0xCBF29CE484222325), np.uint64(0x100000001B3), np.uint64(32)
_NEWLINE = 10


@compiled
def _find(
    units: Units, first: int, end: int, h: np.uint64, slots: NDArray[np.int32], hashes: NDArray[np.uint64],
    begins: Ints, pool: Units,
) -> tuple[int, np.uint64]:  # fmt: skip
    """The number of a term whose hash is ``h``, -1 where it has none, and its place in the table, or the free one."""
    mask = np.uint64(len(slots) - 1)
    place = h & mask
    while True:
        term = slots[place]
        if term < 0:
            return -1, place
        begin = begins[term]
        if hashes[term] == h and begins[term + 1] - begin == end - first:
            at = 0
            while at < end - first and pool[begin + at] == units[first + at]:
                at += 1
            if at == end - first:
                return term, place
        place = (place + np.uint64(1)) & mask


@compiled
def _hash(units: Units, first: int, end: int) -> np.uint64:
    h = _FIRST
    for at in range(first, end):
        h = (h ^ np.uint64(units[at])) * _PRIME
    return h ^ (h >> _SPREAD)


@compiled
def runs(characters: Units, inside: NDArray[np.bool_], least: int, starts: Ints, ends: Ints) -> int:
    """Write where the longest runs of characters with ``inside[c]`` begin and end, those of ``least`` and more; their
    number."""
    found, begun = 0, -1
    for i in range(len(characters)):
        if inside[characters[i]]:
            if begun < 0:
                begun = i
        elif begun >= 0:
            if i - begun >= least:
                starts[found], ends[found] = begun, i
                found += 1
            begun = -1
    if begun >= 0 and len(characters) - begun >= least:
        starts[found], ends[found] = begun, len(characters)
        found += 1
    return found


@compiled
def holding(characters: Units, inside: NDArray[np.bool_], starts: Ints, ends: Ints) -> NDArray[np.bool_]:
    """Whether each span has a character with ``inside[c]``."""
    found = np.zeros(len(starts), np.bool_)
    for i in range(len(starts)):
        for at in range(starts[i], ends[i]):
            if inside[characters[at]]:
                found[i] = True
                break
    return found


@compiled
def number(
    units: Units, starts: Ints, ends: Ints, slots: NDArray[np.int32], hashes: NDArray[np.uint64], begins: Ints,
    pool: Units, count: int, codes: NDArray[np.int32],
) -> int:  # fmt: skip
    """Write the number of the term in each span of ``units``, new ones counting on from ``count``; the new count.

    slots: an open table of at least twice as many places as there can be terms, a power of two, -1 where empty.
    hashes [count], begins [count + 1] and pool (term t is pool[begins[t]:begins[t + 1]]) grow with it.
    """
    for i in range(len(starts)):
        first, end = starts[i], ends[i]
        h = _hash(units, first, end)
        term, place = _find(units, first, end, h, slots, hashes, begins, pool)
        if term < 0:
            term = count
            slots[place], hashes[term] = term, h
            begin = begins[term]
            for at in range(end - first):
                pool[begin + at] = units[first + at]
            count += 1
            begins[count] = begin + end - first
        codes[i] = term
    return count


@compiled
def known(
    units: Units, starts: Ints, ends: Ints, slots: NDArray[np.int32], hashes: NDArray[np.uint64], begins: Ints,
    pool: Units, codes: NDArray[np.int32],
) -> None:  # fmt: skip
    """Write the number of the term in each span of ``units``, -1 where it has none."""
    for i in range(len(starts)):
        h = _hash(units, starts[i], ends[i])
        codes[i] = _find(units, starts[i], ends[i], h, slots, hashes, begins, pool)[0]


@compiled
def known_lines(
    units: Units, blank: NDArray[np.bool_], slots: NDArray[np.int32], hashes: NDArray[np.uint64], begins: Ints,
    pool: Units, codes: NDArray[np.int32], ends: Ints,
) -> int:  # fmt: skip
    """Write the number of each term between blanks, -1 where it has none, and how many there are up to the end of each
    line; their number. A newline is a blank that ends a line; the last line ends where ``units`` do."""
    found = line = 0
    begun, h = -1, _FIRST
    for i in range(len(units)):
        unit = units[i]
        if not blank[unit]:
            if begun < 0:
                begun, h = i, _FIRST
            h = (h ^ np.uint64(unit)) * _PRIME
            continue
        if begun >= 0:
            codes[found] = _find(units, begun, i, h ^ (h >> _SPREAD), slots, hashes, begins, pool)[0]
            found += 1
            begun = -1
        if unit == _NEWLINE:
            ends[line] = found
            line += 1
    if begun >= 0:
        codes[found] = _find(units, begun, len(units), h ^ (h >> _SPREAD), slots, hashes, begins, pool)[0]
        found += 1
    ends[line] = found
    return found


@compiled
def words(
    characters: Units, kind: NDArray[np.uint8], inner: NDArray[np.bool_], segmented: NDArray[np.bool_], space: int,
    letter: int, ideograph: int, joiner: int, starts: Ints, ends: Ints,
) -> int:  # fmt: skip
    """Write where the words begin and end (``plume.text.words``); their number. kind: the class of each character.

    inner [0x110000]: what belongs to a word between two of its letters. segmented: where rjieba begins a word, asked
    about ideographs alone.
    """
    found = 0
    begun = False  # a word has begun since the last blank
    within = False  # the character before stands between letters
    for i in range(len(kind)):
        k = kind[i]
        if k == space:
            if begun:
                ends[found] = i
                found += 1
            begun = within = False
            continue
        new = False
        if k == letter:
            new = not within and (i == 0 or (kind[i - 1] != letter and kind[i - 1] != joiner))
            within = False
        elif k == ideograph:
            new, within = segmented[i], False
        elif k == joiner:
            within = False
        else:
            within = (
                0 < i < len(kind) - 1
                and inner[characters[i]]
                and kind[i - 1] == letter
                and kind[i + 1] == letter
            )
            new = not within
        # What follows a joiner that is joined to nothing is a word too.
        if new or (not begun and k != joiner):
            if begun:
                ends[found] = i
                found += 1
            starts[found] = i
            begun = True
    if begun:
        ends[found] = len(kind)
        found += 1
    return found


@compiled
def place_again(slots: NDArray[np.int32], hashes: NDArray[np.uint64], count: int) -> None:
    """Fill an empty table with the terms that there are."""
    mask = np.uint64(len(slots) - 1)
    for term in range(count):
        place = hashes[term] & mask
        while slots[place] >= 0:
            place = (place + np.uint64(1)) & mask
        slots[place] = term
