"""The loops of sparse vectors, compiled: numba keeps what it compiled beside this file (spec 02 sections A to C)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba
import numpy as np
from numpy.typing import NDArray

F = TypeVar("F", bound=Callable[..., Any])
Ints = NDArray[np.int64]
Narrow = NDArray[np.int32]


def compiled(function: F) -> F:
    """Compiled without the interpreter's lock, so that threads run side by side."""
    return cast(F, numba.njit(cache=True, nogil=True, error_model="numpy")(function))


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
