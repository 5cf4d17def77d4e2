"""Word2Vec's updates, word after word, compiled: numba keeps what it compiled beside this file (spec 02 section E).

A *group* is what is updated together: C input rows, the K words (or tree nodes) that are asked about, and a label of
0 or 1 for each. Every gradient of a group is taken at the weights before it, so a group is one step of plain SGD on
the sum of its losses. Skip-gram's published program has groups of one pair; here all pairs of a centre word may share
their negatives, which makes a group a small matrix product and costs a third of the time.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from plume.compiling import compiled_loosely

Ints = NDArray[np.int32]
Floats = NDArray[np.float32]

CLIP, CELLS = 6.0, 1000  # word2vec.c's table of the sigmoid: its cells, and where it ends
CELL = ((np.arange(CELLS) / CELLS * 2) - 1) * CLIP
PER_UNIT = CELLS // 6 // 2  # whole numbers, as the program divides: a score is looked up at 0.996 of itself
SIGMOID = (np.exp(CELL) / (np.exp(CELL) + 1)).astype(np.float32)


class Tables(NamedTuple):
    """What a vocabulary's counts say, as arrays (``plume.objectives.skipgram`` makes them).

    keep [V]: the probability that an occurrence is read, 0 for what is no word. accept [V] and alias [V]: the noise
    distribution by Vose's method. begin [V + 1], nodes and bits: the path of each word in the Huffman tree.
    """

    keep: Floats
    accept: Floats
    alias: Ints
    begin: NDArray[np.int64]
    nodes: Ints
    bits: NDArray[np.int8]


class Rules(NamedTuple):
    """How a text is walked; all are numbers, so that one compiled function serves every setting."""

    window: int
    shrink: int
    negatives: int
    shared: int
    cbow: int
    full_error: int
    hierarchical: int
    exact: int


@compiled_loosely
def update(
    table: Floats, output: Floats, rows: Ints, count: int, asked: Ints, labels: Ints, size: int, rate: float,
    pool: int, full_error: int, exact: int, measure: int, hidden: Floats, answers: Floats, slopes: Floats,
) -> float:  # fmt: skip
    """Update ``count`` rows of ``table`` [V, D] and ``size`` of ``output`` in place by one group.

    pool: the rows' mean is the one input (CBOW). full_error: every row of it gets the mean's whole gradient, as in
    word2vec.c. measure: give the group's loss, else 0. hidden [>= C, D], answers [>= K, D] and slopes [>= C, >= K] are
    room to work in.
    """
    width = table.shape[1]
    inputs = count
    if pool:
        inputs = 1
        for x in range(width):
            hidden[0, x] = 0.0
        for i in range(count):
            row = rows[i]
            for x in range(width):
                hidden[0, x] += table[row, x]
        for x in range(width):
            hidden[0, x] *= np.float32(1.0 / count)
    else:
        for i in range(count):
            row = rows[i]
            for x in range(width):
                hidden[i, x] = table[row, x]
    for j in range(size):
        row = asked[j]
        for x in range(width):
            answers[j, x] = output[row, x]
    loss = 0.0
    for i in range(inputs):
        for j in range(size):
            score = np.float32(0.0)
            for x in range(width):
                score += hidden[i, x] * answers[j, x]
            if exact:
                share = np.float32(1.0) / (np.float32(1.0) + np.exp(-score))
                slope = labels[j] - share
            elif score >= CLIP or score <= -CLIP:
                slope = np.float32(0.0)
            else:
                slope = labels[j] - SIGMOID[int((score + CLIP) * PER_UNIT)]
            if measure:
                signed = -score if labels[j] else score
                loss += max(signed, 0.0) + np.log1p(np.exp(-abs(signed)))
            slopes[i, j] = np.float32(rate) * slope
    # What each row gets is a sum over the others as they were, so the order below does not matter.
    share = np.float32(1.0)
    if pool and not full_error:
        share = np.float32(1.0 / count)
    for i in range(count):
        row = rows[i]
        from_ = 0 if pool else i
        for j in range(0, size - 1, 2):
            a, b = slopes[from_, j] * share, slopes[from_, j + 1] * share
            for x in range(width):
                table[row, x] += a * answers[j, x] + b * answers[j + 1, x]
        if size % 2:
            a = slopes[from_, size - 1] * share
            for x in range(width):
                table[row, x] += a * answers[size - 1, x]
    for j in range(size):
        row = asked[j]
        for i in range(0, inputs - 1, 2):
            a, b = slopes[i, j], slopes[i + 1, j]
            for x in range(width):
                output[row, x] += a * hidden[i, x] + b * hidden[i + 1, x]
        if inputs % 2:
            a = slopes[inputs - 1, j]
            for x in range(width):
                output[row, x] += a * hidden[inputs - 1, x]
    return loss


@compiled_loosely
def replay(
    table: Floats, output: Floats, rows: Ints, ends: Ints, asked: Ints, labels: Ints, rate: float, pool: int,
    full_error: int, exact: int,
) -> float:  # fmt: skip
    """Update by given groups, one after the other; returns the sum of their losses.

    Group g has the input rows ``rows[ends[g]:ends[g + 1]]`` and asks ``asked[g]`` [K] with ``labels[g]`` [K]: 1, 0, or
    -1 where there is nothing to ask.
    """
    most = 1
    for g in range(len(ends) - 1):
        most = max(most, ends[g + 1] - ends[g])
    width, size = table.shape[1], asked.shape[1]
    hidden, answers = np.empty((most, width), np.float32), np.empty((size, width), np.float32)
    slopes = np.empty((most, size), np.float32)
    ask, label = np.empty(size, np.int32), np.empty(size, np.int32)
    loss = 0.0
    for g in range(len(ends) - 1):
        n = 0
        for j in range(size):
            if labels[g, j] >= 0:
                ask[n], label[n] = asked[g, j], labels[g, j]
                n += 1
        loss += update(table, output, rows[ends[g] : ends[g + 1]], ends[g + 1] - ends[g], ask, label, n, rate, pool,
                       full_error, exact, 1, hidden, answers, slopes)  # fmt: skip
    return loss


@compiled_loosely
def draw(state: Any) -> float:
    """A float in [0, 1) of 32 random bits; ``state`` uint64 [1] goes on (splitmix64)."""
    state[0] += np.uint64(0x9E3779B97F4A7C15)
    mixed = state[0]
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed = mixed ^ (mixed >> np.uint64(31))
    return float(mixed >> np.uint64(32)) * (1.0 / 4294967296.0)


@compiled_loosely
def noise(accept: Floats, alias: Ints, state: Any) -> int:
    """A word drawn from the noise distribution."""
    place = draw(state) * len(accept)
    word = int(place)
    return word if place - word < accept[word] else int(alias[word])


@compiled_loosely
def walk(
    table: Floats, output: Floats, ids: Ints, ends: NDArray[np.int64], keep: Floats, accept: Floats, alias: Ints,
    begin: NDArray[np.int64], nodes: Ints, bits: NDArray[np.int8], window: int, shrink: int, negatives: int,
    shared: int, cbow: int, full_error: int, hierarchical: int, exact: int, rate: float, seed: int,
) -> tuple[float, int, int]:  # fmt: skip
    """Read sentences ``ids[ends[s]:ends[s + 1]]`` and update ``table`` and ``output`` at every word, in order.

    Returns the loss of every 16th group, how many inputs those had, and how many all had. ``table`` and ``output`` are
    float32 and may be shared by threads that do the same (Hogwild: an update may be lost, none is torn).
    """
    width = table.shape[1]
    longest = 1
    for s in range(len(ends) - 1):
        longest = max(longest, ends[s + 1] - ends[s])
    sentence = np.empty(longest, np.int32)
    size = negatives + 1
    if hierarchical:
        for w in range(len(begin) - 1):
            size = max(size, begin[w + 1] - begin[w])
    rows = np.empty(2 * window, np.int32)
    asked, labels = np.empty(size, np.int32), np.empty(size, np.int32)
    hidden, answers = np.empty((2 * window, width), np.float32), np.empty((size, width), np.float32)
    slopes = np.empty((2 * window, size), np.float32)
    state = np.empty(1, np.uint64)
    state[0] = np.uint64(seed)
    loss, measured, total, groups = 0.0, 0, 0, 0
    for s in range(len(ends) - 1):
        length = 0
        for t in range(ends[s], ends[s + 1]):
            word = ids[t]
            chance = keep[word]
            if chance >= 1.0 or (chance > 0.0 and draw(state) < chance):
                sentence[length] = word
                length += 1
        for t in range(length):
            centre = sentence[t]
            radius = 1 + int(draw(state) * window) if shrink else window
            first, last = max(0, t - radius), min(length, t + radius + 1)
            count = 0
            for c in range(first, last):
                if c != t:
                    rows[count] = sentence[c]
                    count += 1
            if count == 0:
                continue
            apart = count if not (shared or cbow or hierarchical) else 1  # groups of this centre word
            together = 1 if apart > 1 else count
            for part in range(apart):
                if hierarchical:
                    k = begin[centre + 1] - begin[centre]
                    for step in range(k):
                        at = begin[centre] + step
                        asked[step], labels[step] = nodes[at], 1 - bits[at]
                else:
                    asked[0], labels[0] = centre, 1
                    k = 1
                    for _ in range(negatives):
                        word = noise(accept, alias, state)
                        if word != centre:
                            asked[k], labels[k] = word, 0
                            k += 1
                measure = 1 if groups % 16 == 0 else 0
                loss += update(table, output, rows[part : part + together], together, asked, labels, k, rate, cbow,
                               full_error, exact, measure, hidden, answers, slopes)  # fmt: skip
                inputs = 1 if cbow else together
                total += inputs
                measured += measure * inputs
                groups += 1
    return loss, measured, total
