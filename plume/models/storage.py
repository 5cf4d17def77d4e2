"""Weights on a disk that may be full."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from safetensors import SafetensorError

from plume.errors import UserError


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """While weights are written to ``path``: the safetensors library tells a full disk by an error of its own.

    Raises:
        UserError: it cannot be written.
    """
    try:
        yield
    except (OSError, SafetensorError) as error:
        raise UserError(
            f"{path} cannot be written ({error}): make room on its disk, or name another folder"
        ) from None
