"""Several sets of examples in one stream: how often each has its turn, and whose turn it is (T5, spec 18 section 5)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from plume.seeding import rng

Ints = np.ndarray[Any, np.dtype[np.int64]]

DRAWS = 2**16  # a mixture has no end of its own: so many draws are one of its epochs


def rates(
    sizes: Sequence[int], scales: Sequence[float], *, cap: int | None, temperature: float
) -> tuple[float, ...]:
    """The share of each set: min(size * scale, cap) to the power 1 / temperature, over the sum of these.

    ``cap``, the paper's K, keeps a large set from drowning the others (None: no cap); with ``cap=1`` all are equal,
    and so they are where the temperature has no bound. The cap comes before the temperature.

    >>> [round(rate, 6) for rate in rates([100, 300, 9_000], [1, 1, 1], cap=600, temperature=1.0)]
    [0.1, 0.3, 0.6]
    >>> rates([100, 300, 9_000], [1, 1, 1], cap=1, temperature=1.0)[2] == 1 / 3
    True
    >>> rates([100, 1_600], [1, 1], cap=None, temperature=2.0)
    (0.2, 0.8)
    """
    large = np.array(sizes, float) * np.array(scales, float)
    capped = np.minimum(large, np.inf if cap is None else cap)
    # Over the largest, so that no power of a size is too small a number.
    weights = (capped / capped.max()) ** (1 / temperature)
    return tuple((weights / weights.sum()).tolist())


class Turns:
    """Whose turn each draw is: independent draws by ``shares``, a pure function of (seed, epoch, index).

    Every set is read in an order of its own from its beginning to its end and again, so a draw says which of the set's
    examples it is: how many draws the set had before. What it had in earlier epochs is drawn as one number an
    epoch, so that the millionth batch is found without the batches before it.
    """

    def __init__(self, shares: Sequence[float], seed: int) -> None:
        self.shares, self.seed = np.array(shares), seed
        self._before: list[Ints] = [np.zeros(len(shares), np.int64)]  # draws a set had before each epoch

    def counts(self, epoch: int) -> Ints:
        """How many of an epoch's draws each set has: int64 [M]."""
        return rng(self.seed, "turns", epoch).multinomial(DRAWS, self.shares)

    def table(self, epoch: int) -> tuple[Ints, Ints]:
        """Of each draw the set, and the number of its example: int64 [DRAWS] each."""
        while len(self._before) <= epoch:
            self._before.append(self._before[-1] + self.counts(len(self._before) - 1))
        counts = self.counts(epoch)
        turns = rng(self.seed, "turn", epoch).permutation(np.repeat(np.arange(len(counts)), counts))
        numbers = np.empty(DRAWS, np.int64)
        for member, before in enumerate(self._before[epoch].tolist()):
            mine = np.flatnonzero(turns == member)
            numbers[mine] = before + np.arange(len(mine))
        return turns, numbers
