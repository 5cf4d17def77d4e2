"""The token store: documents as ids on disk, memory-mapped."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class Tokens:
    """The documents of one split, end to end, without separators.

    ids [N] uint16 or uint32; marks uint8 [N] (``marks``); documents int64 [D + 1], where each document
    begins, and the end; num_bytes: UTF-8 bytes of the text; name: "train", "dev" or "test".
    """

    ids: Array
    marks: Array
    documents: Array
    num_bytes: int
    name: str = "train"

    @property
    def num_tokens(self) -> int:
        return len(self.ids)

    @property
    def num_documents(self) -> int:
        return len(self.documents) - 1
