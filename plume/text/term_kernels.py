"""Runs of code points to numbers, compiled: a term is looked up where it stands, and no string is made of it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from plume.compiling import compiled

Ints = NDArray[np.int64]
Units = NDArray[np.uint32]

_FIRST, _PRIME, _SPREAD = np.uint64(0xCBF29CE484222325), np.uint64(0x100000001B3), np.uint64(32)


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
    mask = np.uint64(len(slots) - 1)
    for i in range(len(starts)):
        first, length = starts[i], ends[i] - starts[i]
        h = _FIRST
        for at in range(first, first + length):
            h = (h ^ np.uint64(units[at])) * _PRIME
        h ^= h >> _SPREAD
        place = h & mask
        while True:
            term = slots[place]
            if term < 0:
                slots[place], hashes[count], codes[i] = count, h, count
                begin = begins[count]
                for at in range(length):
                    pool[begin + at] = units[first + at]
                count += 1
                begins[count] = begin + length
                break
            begin = begins[term]
            if hashes[term] == h and begins[term + 1] - begin == length:
                same = True
                for at in range(length):
                    if pool[begin + at] != units[first + at]:
                        same = False
                        break
                if same:
                    codes[i] = term
                    break
            place = (place + np.uint64(1)) & mask
    return count


@compiled
def place_again(slots: NDArray[np.int32], hashes: NDArray[np.uint64], count: int) -> None:
    """Fill an empty table with the terms that there are."""
    mask = np.uint64(len(slots) - 1)
    for term in range(count):
        place = hashes[term] & mask
        while slots[place] >= 0:
            place = (place + np.uint64(1)) & mask
        slots[place] = term
