"""The loops over n-grams that must not be Python's: numba compiles each at its first call and keeps the result.

An n-gram is an entry of the sorted array of its order; its context is the entry of the order below that it
begins with, and the entries of one context stand side by side. ``base[c >> shift] + offset[c]`` is where those
of context ``c`` begin. No lookup is ever for a token that is not below the vocabulary's size.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba
import numpy as np
from numpy.typing import NDArray

F = TypeVar("F", bound=Callable[..., Any])
Ints = NDArray[Any]
Floats = NDArray[np.float64]


def compiled(function: F) -> F:
    """Compiled without the interpreter's lock; two threads may run it side by side."""
    return cast(F, numba.njit(cache=True, nogil=True, error_model="numpy")(function))


@compiled
def distinct(packed: Ints, bits: int, end: int, inverse: bool) -> tuple[Ints, Ints, Ints, Ints]:
    """The distinct keys below ``end`` in ``packed``, which holds key << bits | position, ascending.

    Returns each key, the first position that has it, how many have it, and, where asked for, which one each
    position has (as many as there are: none).
    """
    mask = (1 << bits) - 1
    size = len(packed)
    valid = size
    while valid and packed[valid - 1] >> bits >= end:
        valid -= 1
    many = 0
    last = -1
    for i in range(valid):
        key = packed[i] >> bits
        many += key != last
        last = key
    keys = np.empty(many, np.int64)
    firsts = np.empty(many, np.int64)
    counts = np.zeros(many, np.int64)
    which = np.empty(size if inverse else 0, np.int64)
    last = -1
    at = -1
    for i in range(valid):
        key, position = packed[i] >> bits, packed[i] & mask
        if key != last:
            at += 1
            keys[at] = key
            firsts[at] = position
            last = key
        counts[at] += 1
        if inverse:
            which[position] = at
    if inverse:
        for i in range(valid, size):
            which[packed[i] & mask] = many
    return keys, firsts, counts, which


@compiled
def merged(a: Ints, a_count: Ints, b: Ints, b_count: Ints) -> tuple[Ints, Ints, Ints, Ints]:
    """Two ascending arrays of distinct keys as one, the counts of equal keys added; where each of a and b went."""
    key = np.empty(len(a) + len(b), np.int64)
    count = np.empty(len(key), np.int64)
    of_a, of_b = np.empty(len(a), np.int64), np.empty(len(b), np.int64)
    i = j = at = 0
    while i < len(a) or j < len(b):
        if j == len(b) or (i < len(a) and a[i] <= b[j]):
            key[at], count[at], of_a[i] = a[i], a_count[i], at
            if j < len(b) and b[j] == a[i]:
                count[at] += b_count[j]
                of_b[j] = at
                j += 1
            i += 1
        else:
            key[at], count[at], of_b[j] = b[j], b_count[j], at
            j += 1
        at += 1
    return key[:at].copy(), count[:at].copy(), of_a, of_b


@compiled
def children(keys: Ints, size: int, num_contexts: int) -> tuple[Ints, Ints]:
    """Ascending keys context * size + token taken apart: where each context's begin, [num_contexts + 1]; tokens."""
    start = np.empty(num_contexts + 1, np.int64)
    token = np.empty(len(keys), np.int64)
    done = 0
    for i in range(len(keys)):
        context = keys[i] // size
        token[i] = keys[i] - context * size
        while done <= context:
            start[done] = i
            done += 1
    start[done:] = len(keys)
    return start, token


@compiled
def follow(start: Ints, token: Ints, context: Ints, wanted: Ints) -> Ints:
    """Which entry each wanted token is in its context; -1 where there is none or the context is -1."""
    found = np.full(len(wanted), -1)
    for i in range(len(wanted)):
        if context[i] < 0:
            continue
        low, end = start[context[i]], start[context[i] + 1]
        left = end - low
        while left > 0:
            half = left >> 1
            if token[low + half] < wanted[i]:
                low += half + 1
                left -= half + 1
            else:
                left = half
        if low < end and token[low] == wanted[i]:
            found[i] = low
    return found


@compiled
def masses(start: Ints, seen: Ints, discount: Floats, kept: NDArray[np.bool_]) -> tuple[Floats, Floats]:
    """Of each context the sum of its entries' counts, and what discounts and dropped entries free of it."""
    total, free = np.zeros(len(start) - 1), np.zeros(len(start) - 1)
    for context in range(len(start) - 1):
        for i in range(start[context], start[context + 1]):
            total[context] += seen[i]
            free[context] += discount[seen[i] if seen[i] < 3 else 3] if kept[i] else seen[i]
    return total, free


@compiled
def pair_codes(a: Floats, b: Floats) -> tuple[Ints, Floats]:
    """A number for each pair (a[i], b[i]), equal for equal ones, and the pairs by number, [n, 2]."""
    room = 1024
    slots = np.full(room, -1)
    table = np.empty((room, 2))
    codes = np.empty(len(a), np.int64)
    bits_a, bits_b = a.view(np.uint64), b.view(np.uint64)
    known = 0
    for i in range(len(a)):
        mixed = (bits_a[i] ^ (bits_b[i] * np.uint64(0x9E3779B97F4A7C15))) * np.uint64(0xC2B2AE3D27D4EB4F)
        at = np.int64((mixed >> np.uint64(20)) & np.uint64(room - 1))
        while slots[at] >= 0 and (table[slots[at], 0] != a[i] or table[slots[at], 1] != b[i]):
            at = (at + 1) & (room - 1)
        if slots[at] < 0:
            slots[at] = known
            table[known, 0], table[known, 1] = a[i], b[i]
            known += 1
        codes[i] = slots[at]
        if 2 * known > room:  # half full: twice the room
            room *= 2
            wider = np.empty((room, 2))
            wider[:known] = table[:known]
            table, slots = wider, np.full(room, -1)
            bits = wider.view(np.uint64)
            for code in range(known):
                mixed = (bits[code, 0] ^ (bits[code, 1] * np.uint64(0x9E3779B97F4A7C15))) * np.uint64(
                    0xC2B2AE3D27D4EB4F
                )
                at = np.int64((mixed >> np.uint64(20)) & np.uint64(room - 1))
                while slots[at] >= 0:
                    at = (at + 1) & (room - 1)
                slots[at] = code
    return codes, table[:known].copy()


@compiled
def answer(
    tokens: Ints,
    context: Ints,
    lower: Floats,
    base: Ints,
    offset: Ints,
    shift: int,
    token: Ints,
    seen: Ints,
    many_at: Ints,
    many: Ints,
    listed: NDArray[np.float32],
    code: Ints,
    table: Floats,
    discount: Floats,
    prob: Floats,
    found: Ints,
) -> None:
    """One order's answers to each of ``tokens``: fills ``prob``, and ``found`` with the n-gram that ends there.

    ``context``: the entry of the order below that ends before the token, -1 for none, where ``prob`` stays as it
    is (the order below's answer). ``lower``: what the order below gives. ``seen``: counts as bytes, 255 for those
    that stand in ``many``; where it is empty, ``listed`` has log10 p instead. ``table[code]``: a context's total
    and weight.
    """
    ends = len(token)
    for t in range(len(tokens)):
        found[t] = -1
        c = context[t]
        if c < 0:
            continue
        low = base[c >> shift] + offset[c]
        end = base[(c + 1) >> shift] + offset[c + 1]
        wanted = tokens[t]
        left = end - low
        while left > 0:
            half = left >> 1
            right = token[low + half] < wanted
            low = low + half + 1 if right else low
            left = left - half - 1 if right else half
        weight = table[code[c], 1]
        if low >= end or low >= ends or token[low] != wanted:
            prob[t] = weight * lower[t]
            continue
        found[t] = low
        if len(listed):
            prob[t] = 10.0 ** np.float64(listed[low])
            continue
        n = np.int64(seen[low])
        if n == 255:
            n = many[np.searchsorted(many_at, low)]
        prob[t] = (n - discount[n if n < 3 else 3]) / table[code[c], 0] + weight * lower[t]
