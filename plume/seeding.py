"""Keyed randomness: every random decision is a pure function of (seed, stream, numbers).

Nothing draws from a global generator, so restarts, worker counts and prefetch depth cannot change a run
(DESIGN section 7). A stream is a word ("order", "noise", "model", ...): two streams never share draws.
"""

from __future__ import annotations

import hashlib
import struct
from typing import Any

import numpy as np
from numpy.random.bit_generator import ISeedSequence

_START = np.zeros(4, np.uint64)  # where Philox begins anyway: as an array it need not be made from an int
_START.flags.writeable = False


def key(seed: int, stream: str, *numbers: int) -> int:
    """A 63-bit key for ``torch.manual_seed``: equal arguments give equal keys, all others differ."""
    packed = struct.pack(f"<{len(numbers) + 1}q", seed, *numbers)
    digest = hashlib.blake2b(packed, digest_size=8, person=stream.encode()[:16]).digest()
    return int.from_bytes(digest, "little") >> 1


def rng(seed: int, stream: str, *numbers: int) -> np.random.Generator:
    """A numpy generator of its own for one decision, for example ``rng(seed, "noise", epoch, index)``."""
    known: Any = _Key(key(seed, stream, *numbers))  # numpy's types know no seeds but its own
    return np.random.Generator(np.random.Philox(known, counter=_START))


class _Key(ISeedSequence):
    """The key as a seed: ``Philox(key=...)`` would first ask the system for entropy, at twice the whole cost."""

    def __init__(self, key: int) -> None:
        self._key = key

    def generate_state(self, n_words: int, dtype: Any = np.uint32) -> np.ndarray[Any, Any]:
        state = np.zeros(n_words, dtype)
        state[0] = self._key
        return state


class Permutation:
    """A keyed permutation of ``range(size)`` in O(sqrt(size)) memory: a Feistel network with cycle walking.

    ``Permutation(n, k)[i]`` is where the i-th draw of a shuffled epoch lies. Four rounds over a domain of
    4**b >= size; a value outside ``size`` is walked on until it falls inside, fewer than 4 times on average.
    """

    def __init__(self, size: int, key: int) -> None:
        if size < 1:
            raise ValueError(f"a permutation needs at least one element, got {size}")
        self.size = size
        self._half_bits = max(1, (max(size - 1, 1).bit_length() + 1) // 2)
        self._mask = (1 << self._half_bits) - 1
        # What each round makes of each half, looked up ever after: a window more is four looks more.
        keys = [(key >> (16 * r)) * 0x9E3779B97F4A7C15 + r & 0xFFFFFFFFFFFFFFFF for r in range(4)]
        half = np.arange(1, self._mask + 2, dtype=np.uint64) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = half ^ np.array(keys, np.uint64)[:, None]
        mixed = (mixed ^ mixed >> np.uint64(30)) * np.uint64(0x94D049BB133111EB)
        self._rounds = ((mixed ^ mixed >> np.uint64(29)) & np.uint64(self._mask)).tolist()

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> int:
        if not 0 <= index < self.size:
            raise IndexError(index)
        while True:
            left, right = index >> self._half_bits, index & self._mask
            for mixed in self._rounds:
                left, right = right, left ^ mixed[right]
            index = left << self._half_bits | right
            if index < self.size:
                return index
