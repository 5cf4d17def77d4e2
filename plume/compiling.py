"""Loops that must not be Python's: numba compiles each at its first call and keeps the result beside its file."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba

F = TypeVar("F", bound=Callable[..., Any])


def compiled(function: F) -> F:
    """Compiled without the interpreter's lock, so that threads run it side by side."""
    return cast(F, numba.njit(cache=True, nogil=True, error_model="numpy")(function))


def compiled_loosely(function: F) -> F:
    """The same, and sums may be taken in another order than they are written in."""
    return cast(F, numba.njit(cache=True, nogil=True, fastmath=True, error_model="numpy")(function))


def threads() -> int:
    """How many threads to use: ``OMP_NUM_THREADS``, as torch has it, else a core each."""
    given = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0]
    return int(given) if given.isdigit() and int(given) else os.cpu_count() or 1
