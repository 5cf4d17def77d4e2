"""The loops of sparse vectors, compiled: numba keeps what it compiled beside this file (spec 02 sections A to C)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from plume.compiling import compiled

Ints = NDArray[np.int64]
Narrow = NDArray[np.int32]


@compiled
def count(
    codes: Narrow, lengths: Ints, place: Ints, seen: Narrow, rows: Ints, columns: Narrow, counts: Narrow
) -> None:
    """Write the entries of each document, by ascending column ``place[code]``. seen [V]: zeros, and zeros again."""
    read = written = 0
    for document in range(len(lengths)):
        first = written
        for at in range(read, read + lengths[document]):
            column = place[codes[at]]
            if seen[column] == 0:
                columns[written] = column
                written += 1
            seen[column] += 1
        read += lengths[document]
        columns[first:written].sort()
        for at in range(first, written):
            counts[at] = seen[columns[at]]
            seen[columns[at]] = 0
        rows[document + 1] = written


@compiled
def best(
    begins: Ints, documents: Narrow, weights: NDArray[np.float32], asked: Ints, factors: NDArray[np.float64],
    ends: Ints, scores: NDArray[np.float64], seen: NDArray[np.bool_], touched: Narrow, found: Narrow,
    values: NDArray[np.float64], sizes: Ints,
) -> None:  # fmt: skip
    """The documents with the highest scores for each question, descending, ties by the lower number.

    Question q asks for the terms asked[ends[q]:ends[q + 1]], each times its factor; found and values [Q, top], of which
    sizes[q] are filled. scores and seen [N]: zeros, and zeros again; touched [N]: room.
    """
    top = found.shape[1]
    for q in range(len(ends) - 1):
        entries = 0
        for i in range(ends[q], ends[q + 1]):
            entries += begins[asked[i] + 1] - begins[asked[i]]
        few = 4 * entries < len(
            scores
        )  # else it costs less to look at every document than to keep a list of some
        count = 0 if few else len(scores)
        for i in range(ends[q], ends[q + 1]):
            factor = factors[i]
            for at in range(begins[asked[i]], begins[asked[i] + 1]):
                document = documents[at]
                if few and not seen[document]:
                    seen[document] = True
                    touched[count] = document
                    count += 1
                scores[document] += factor * weights[at]
        size, least = 0, 0.0
        for i in range(count):
            document = touched[i] if few else i
            score = scores[document]
            scores[document] = 0.0
            if few:
                seen[document] = False
            if score <= 0.0 or score < least:
                continue
            place = size
            while place > 0 and (
                values[q, place - 1] < score
                or (values[q, place - 1] == score and found[q, place - 1] > document)
            ):
                place -= 1
            if place == top:
                continue
            if size < top:
                size += 1
            for at in range(size - 1, place, -1):
                values[q, at] = values[q, at - 1]
                found[q, at] = found[q, at - 1]
            values[q, place], found[q, place] = score, document
            if size == top:
                least = values[q, top - 1]
        sizes[q] = size
