"""Terms as numbers, by a table that compares their units one by one: no term is ever taken for another.

``Numbers`` grows with what it is shown; ``BlankWords`` looks up the words of whole texts in one pass.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any

import numpy as np

from plume.text.boundaries import Array

BLANKS = b"\0\t\n\r "  # what parts the words of ARPA files and of KenLM's text (spec 01 sections 1 and 5)
_PIECE = 2**18  # bytes that are worth a thread


class Numbers:
    """A table of terms that grows. Terms are runs of units, uint32: characters, or numbers of other terms."""

    def __init__(self, unit: type[np.unsignedinteger[Any]] = np.uint32) -> None:
        self._count = 0
        self._slots = np.full(2**12, -1, np.int32)
        self._hashes = np.empty(2**11, np.uint64)
        self._begins = np.zeros(2**11 + 1, np.int64)
        self._pool = np.empty(2**14, unit)

    def __len__(self) -> int:
        return self._count

    def number(self, units: Array, starts: Array, ends: Array) -> Array:
        """The numbers of the terms in some spans, int32."""
        from plume.text import term_kernels as kernels

        codes = np.empty(len(starts), np.int32)
        step = 2**16  # so that room is made for what may come next, not for all there is
        for at in range(0, len(starts), step):
            here = slice(at, at + step)
            self._make_room(len(starts[here]), int((ends[here] - starts[here]).sum()))
            self._count = kernels.number(
                units, starts[here], ends[here], self._slots, self._hashes, self._begins, self._pool,
                self._count, codes[here],
            )  # fmt: skip
        return codes

    def known(self, units: Array, starts: Array, ends: Array) -> Array:
        """The same of terms that are there, -1 for all others."""
        from plume.text import term_kernels as kernels

        codes = np.empty(len(starts), np.int32)
        kernels.known(units, starts, ends, self._slots, self._hashes, self._begins, self._pool, codes)
        return codes

    def known_lines(self, units: Array, blank: Array) -> tuple[Array, Array]:
        """The numbers of the terms between blanks, and how many there are up to the end of each line."""
        from plume.text import term_kernels as kernels

        codes = np.empty(len(units) // 2 + 1, np.int32)
        ends = np.empty(int((units == 10).sum()) + 1, np.int64)
        found = kernels.known_lines(
            units, blank, self._slots, self._hashes, self._begins, self._pool, codes, ends
        )
        return codes[:found], ends

    def _make_room(self, terms: int, units: int) -> None:
        from plume.text import term_kernels as kernels

        wanted, used = self._count + terms, int(self._begins[self._count])
        if wanted > len(self._hashes):
            self._hashes = _grown(self._hashes, max(wanted, 2 * len(self._hashes)))
            self._begins = _grown(self._begins, len(self._hashes) + 1)
        if used + units > len(self._pool):
            self._pool = _grown(self._pool, max(used + units, 2 * len(self._pool)))
        if 2 * wanted > len(self._slots):
            self._slots = np.full(2 ** int(2 * wanted).bit_length(), -1, np.int32)
            kernels.place_again(self._slots, self._hashes, self._count)

    def runs(self) -> list[Array]:
        """The units of each term."""
        return np.split(self._pool[: self._begins[self._count]], self._begins[1 : self._count])[: self._count]

    def names(self) -> list[str]:
        """The terms as strings, where their units are characters."""
        ends = self._begins[: self._count + 1].tolist()
        text = self._pool[: ends[-1]].tobytes().decode("utf-32-le", "surrogatepass")
        return [text[a:b] for a, b in pairwise(ends)]


class BlankWords:
    """Words as whatever stands between blanks, looked up in UTF-8 as it is: no string is made of a word.

    ``ids``: what each word is numbered; every other word is ``unknown``.

    >>> number = BlankWords({"the": 5, "猫": 7}, unknown=0)
    >>> number(["the 猫\tsat", "", " the"])
    (array([5, 7, 0, 5]), array([0, 3, 3, 4]))
    """

    def __init__(self, ids: Mapping[str, int], unknown: int) -> None:
        names = [name.encode("utf-8", "surrogatepass") for name in ids]
        text, ends = np.frombuffer(b"".join(names), np.uint8), np.cumsum([0, *map(len, names)])
        self._table = Numbers(np.uint8)
        self._table.number(text, ends[:-1], ends[1:])
        self._ids = np.array([*ids.values(), unknown], np.int64)  # the last one is that of -1
        self._blank = np.zeros(256, bool)
        self._blank[list(BLANKS)] = True

    def __call__(self, texts: Sequence[str]) -> tuple[Array, Array]:
        """The ids of the texts' words end to end, int64 [N], and where each text begins, and the end, int64 [D + 1]."""
        from plume.compiling import threads

        if not texts:
            return np.zeros(0, np.int64), np.zeros(1, np.int64)
        text = "\n".join(texts)
        if text.count("\n") >= len(texts):  # a newline inside a text is a blank like any other
            text = "\n".join([text.replace("\n", " ") for text in texts])
        data = text.encode("utf-8", "surrogatepass")
        size = max(_PIECE, -(-len(data) // threads()))
        cuts = [0]
        while cuts[-1] <= len(data):
            cuts.append((data.find(b"\n", cuts[-1] + size) + 1) or len(data) + 1)
        whole = np.frombuffer(data, np.uint8)
        parts = [whole[first : end - 1] for first, end in pairwise(cuts)]
        with ThreadPoolExecutor(len(parts)) as pool:
            found = list(pool.map(self._part, parts)) if len(parts) > 1 else [self._part(parts[0])]
        before = np.cumsum([0, *(len(ids) for ids, _ in found)])
        ends = [end + many for (_, end), many in zip(found, before[:-1].tolist(), strict=True)]
        return np.concatenate([ids for ids, _ in found]), np.concatenate([np.zeros(1, np.int64), *ends])

    def _part(self, units: Array) -> tuple[Array, Array]:
        codes, ends = self._table.known_lines(units, self._blank)
        return self._ids[codes], ends


def _grown(array: Array, size: int) -> Array:
    larger = np.zeros(size, array.dtype)
    larger[: len(array)] = array
    return larger
