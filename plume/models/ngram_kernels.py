"""The loops over n-grams that must not be Python's: numba compiles each at its first call and keeps the result.

An n-gram is an entry of the sorted array of its order; its context is the entry of the order below that it
begins with, and the entries of one context stand side by side. ``base[c >> shift] + offset[c]`` is where those
of context ``c`` begin. No lookup is ever for a token that is not below the vocabulary's size.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from plume.compiling import compiled

Ints = NDArray[Any]
Floats = NDArray[np.float64]
LANES = 16  # tokens that are looked up side by side
BLOCK_BITS = 8  # of the n-grams for which it is known how many frequent ones come before them


@compiled
def keyed(ends_here: Ints, tokens: Ints, size: int, bits: int, first: int, end: int, room: int) -> Ints:
    """``key << bits | position`` of every position with an n-gram whose context lies between ``first`` and ``end``.

    ``ends_here``: the n-gram of the order below at each position. A token of ``size`` is a mark, which ends none.
    There are at most ``room``. Key and position are one number since sorting numbers is several times faster than
    sorting positions by them.
    """
    packed = np.empty(room + 1, np.int64)
    many = 0
    for i in range(1, len(tokens)):
        context = ends_here[i - 1]
        packed[many] = (context * size + tokens[i]) << bits | i
        many += (context >= first) & (context < end) & (tokens[i] < size)
    return packed[:many]


@compiled
def kinds(packed: Ints, bits: int) -> int:
    """How many keys there are in what ``keyed`` gives, ascending."""
    many = 0
    last = -1
    for i in range(len(packed)):
        key = packed[i] >> bits
        many += key != last
        last = key
    return many


@compiled
def distinct(packed: Ints, bits: int, at: int, keys: Ints, firsts: Ints, counts: Ints, which: Ints) -> None:
    """The distinct keys of what ``keyed`` gives, ascending, as entries ``at`` and the following of an order.

    Fills ``keys``, the first position that has each, how many have it, and, where that is asked for, which entry each
    position has.
    """
    last = -1
    at -= 1
    for i in range(len(packed)):
        key, position = packed[i] >> bits, packed[i] & ((1 << bits) - 1)
        if key != last:
            at += 1
            keys[at] = key
            firsts[at] = position
            counts[at] = 0
            last = key
        counts[at] += 1
        if len(which):
            which[position] = at


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
def marked(ids: Ints, ends: Ints, mark: int, eos: int) -> tuple[Ints, Ints]:
    """Documents ``ids[ends[d]:ends[d + 1]]`` end to end, each behind a ``mark``, and where the marks are.

    With ``eos`` (-1: none) each is closed by one, unless it is already, and a new one begins behind one in its midst.
    """
    begins = len(ends) - 1
    size = ends[-1] - ends[0]
    for d in range(len(ends) - 1):
        if eos >= 0:
            for i in range(ends[d], ends[d + 1] - 1):
                begins += ids[i] == eos
            size += ends[d] == ends[d + 1] or ids[ends[d + 1] - 1] != eos
    tokens = np.empty(size + begins, np.int64)
    where = np.empty(begins, np.int64)
    at = number = 0
    for d in range(len(ends) - 1):
        tokens[at] = mark
        where[number] = at
        at += 1
        number += 1
        last = np.int64(-1)
        for i in range(ends[d], ends[d + 1]):
            if last == eos and eos >= 0:
                tokens[at] = mark
                where[number] = at
                at += 1
                number += 1
            last = ids[i]
            tokens[at] = last
            at += 1
        if eos >= 0 and last != eos:
            tokens[at] = eos
            at += 1
    return tokens, where


@compiled
def lowest(tokens: Ints, unigram: Floats, prob: Floats) -> None:
    """The lowest order's answers to each of ``tokens``: fills ``prob``; 1 where there is a mark."""
    for t in range(len(tokens)):
        prob[t] = unigram[tokens[t]] if tokens[t] < len(unigram) else 1.0


@compiled
def asked(tokens: Ints, below: Ints, mark: int, bits: int, token_bits: int, drop: int, packed: Ints) -> int:
    """Which of ``tokens`` an order is asked about, as context, token and position in one number; how many.

    Those are all but marks, behind an n-gram of the order ``below``. Of a token's ``token_bits`` the lowest are dropped
    where there is no room for all.
    """
    many = 0
    for t in range(1, len(tokens)):
        packed[many] = ((below[t - 1] << token_bits | tokens[t]) >> drop) << bits | t
        many += (below[t - 1] >= 0) & (tokens[t] < mark)
    return many


@compiled
def answer(
    packed: Ints,
    bits: int,
    tokens: Ints,
    below: Ints,
    lower: Floats,
    base: Ints,
    offset: Ints,
    shift: int,
    token: Ints,
    seen: Ints,
    many_at: Ints,
    many: Ints,
    rank: Ints,
    listed: NDArray[np.float32],
    code: Ints,
    table: Floats,
    discount: Floats,
    prob: Floats,
    found: Ints,
) -> None:
    """One order's answers to what it is ``asked``: fills ``prob``, and ``found`` with the n-gram that ends there.

    ``packed`` ends in positions of ``bits`` bits, ascending by what stands before them: so the model's memory is read
    from front to back. Of other ``tokens`` ``prob`` stays as it is (the order below's answer). ``below``: the n-gram of
    the order below at each position. ``lower``: what the order below gives. ``seen``: counts as bytes, 255 for those
    that stand in ``many``, of which ``rank`` come before each block; where it is empty, ``listed`` has log10 p instead.
    ``table[code]``: a context's total and weight.

    Sixteen tokens are looked up side by side and without branches, so that the processor waits for their memory at
    once and not for each in turn.
    """
    known = token if len(token) else np.zeros(1, token.dtype)
    last = len(known) - 1
    low, left, end = np.empty(LANES, np.int64), np.empty(LANES, np.int64), np.empty(LANES, np.int64)
    place = np.empty(LANES, np.int64)
    wanted, context = np.empty(LANES, np.int64), np.empty(LANES, np.int64)
    here, count, which = np.empty(LANES, np.int64), np.empty(LANES, np.int64), np.empty(LANES, np.int64)
    for first in range(0, len(packed), LANES):
        lanes = min(LANES, len(packed) - first)
        most = np.int64(0)
        for j in range(lanes):
            t = packed[first + j] & ((1 << bits) - 1)
            place[j], wanted[j], c = t, tokens[t], below[t - 1]
            context[j] = c
            low[j] = np.int64(base[c >> shift]) + np.int64(offset[c])
            end[j] = np.int64(base[(c + 1) >> shift]) + np.int64(offset[c + 1])
            left[j] = end[j] - low[j]
            most = max(most, left[j])
        while most > 1:
            for j in range(lanes):
                half = left[j] >> 1
                low[j] += half * (known[max(low[j] + half - 1, 0)] < wanted[j])
                left[j] -= half
            most -= most >> 1
        frequent = 0
        for j in range(lanes):
            low[j] += (left[j] > 0) & (known[min(low[j], last)] < wanted[j])
            at = min(low[j], last)
            here[j] = (low[j] < end[j]) & (known[at] == wanted[j])
            low[j] = at
            found[place[j]] = here[j] * (at + 1) - 1
            count[j] = seen[at] if len(seen) else 0
            which[frequent] = j
            frequent += here[j] & (count[j] == 255)
        for k in range(frequent):
            at = low[which[k]]
            number = rank[at >> BLOCK_BITS]
            while many_at[number] != at:
                number += 1
            count[which[k]] = many[number]
        for j in range(lanes):
            t, c = place[j], code[context[j]]
            passed = table[c, 1] * lower[t]
            if len(listed):
                passed = 10.0 ** np.float64(listed[low[j]]) if here[j] else passed
            else:
                passed += here[j] * ((count[j] - discount[min(count[j], 3)]) / table[c, 0])
            prob[t] = passed
