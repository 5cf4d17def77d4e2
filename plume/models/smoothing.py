"""From counts to probabilities: Kneser-Ney, Laplace, the lecture notes' formulas, maximum likelihood (spec 01)."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from plume.errors import UserError
from plume.models.counts import Counts

Ints = NDArray[Any]
Floats = NDArray[np.float64]
Discounts = tuple[float, float, float]


@dataclass(frozen=True, slots=True)
class KneserNey:
    """Interpolated modified Kneser-Ney, as ``lmplz`` has it (spec 01 section 3; Chen and Goodman 1999).

    ``fallback`` stands in for the discounts of an order whose counts of counts give none, as in a tiny
    corpus: three numbers are used quietly, ``"warn"`` uses (0.5, 1, 1.5) and says so, ``"error"`` raises.
    ``prune``: n-grams of order k that occur at most ``prune[k - 1]`` times are dropped, the last entry holding for
    all higher orders; what they had goes to the order below. Tokens themselves are never dropped: a tokenizer's
    size limits those.
    """

    fallback: Discounts | Literal["warn", "error"] = "warn"
    prune: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if list(self.prune) != sorted(self.prune) or (self.prune and self.prune[0] != 0):
            raise ValueError(f"prune begins with 0 and never falls, such as [0,0,1], got {list(self.prune)}")

    def threshold(self, order: int) -> int:
        """The largest count that is dropped."""
        return self.prune[min(order, len(self.prune)) - 1] if self.prune else 0


@dataclass(frozen=True, slots=True)
class Laplace:
    """Laplace-type smoothing with pseudo-counts (spec 01 section 2). ``eps=0`` is maximum likelihood.

    ``eps`` is one number for all orders or one an order. ``backoff="chain"`` smooths towards the model one
    order lower, ``"unigram"`` towards the unigram. ``context="raw"`` divides by the raw count of the context,
    which loses the mass of an occurrence that nothing follows; ``"continuations"`` always sums to 1.
    """

    eps: float | tuple[float, ...] = 1.0
    backoff: Literal["chain", "unigram"] = "chain"
    context: Literal["continuations", "raw"] = "continuations"

    def __post_init__(self) -> None:
        eps = self.eps if isinstance(self.eps, tuple) else (self.eps,)
        if not eps or not min(eps) >= 0 or max(eps) == float("inf"):
            raise ValueError(
                f"eps are pseudo-counts, so none may be negative and none infinite, got {self.eps}"
            )

    def pseudo_count(self, order: int) -> float:
        """Of n-grams of that order; the last of ``eps`` holds for all higher ones."""
        return self.eps[min(order, len(self.eps)) - 1] if isinstance(self.eps, tuple) else self.eps


Smoothing = KneserNey | Laplace
NAMES: dict[str, Smoothing] = {"kneser_ney": KneserNey(), "mle": Laplace(0.0), "laplace": Laplace()}


@dataclass(frozen=True)
class Smoothed:
    """One order of a model: what is kept of each n-gram, and what each context divides by and passes down.

    p(w | h) = (seen - discount[min(seen, 3)]) / total[h] + weight[h] * (the order below's answer).
    ``kept`` is False for pruned n-grams.
    """

    seen: Ints
    kept: NDArray[np.bool_]
    discount: Floats
    total: Floats
    weight: Floats
    estimated: bool


def smooth(counts: Counts, smoothing: Smoothing, order: int, support: NDArray[np.bool_]) -> list[Smoothed]:
    """Each order of the model, the lowest first. ``support`` [V]: the tokens that may occur at all."""
    from plume.models import ngram_kernels as kernels

    found = []
    for k in range(1, order + 1):
        level = counts.levels[k - 1]
        if k == 1:
            seen = np.where(support, (level.count if order == 1 else level.left)[:-1], 0)
            raw = np.where(support, level.count[:-1], 0)
            start = np.array([0, counts.vocab_size])
        else:
            start, _ = level.children
            seen, raw = level.count if k == order else level.left, level.count
        kept, discount, estimated = np.ones(len(seen), bool), np.zeros(4), True
        if isinstance(smoothing, KneserNey):
            discount[1:], estimated = _discounts(seen, k, smoothing.fallback)
            if limit := smoothing.threshold(k):
                kept = raw > limit
            total, free = kernels.masses(start, seen, discount, kept)
        else:
            seen, eps = raw, smoothing.pseudo_count(k)
            total, _ = kernels.masses(start, seen, discount, kept)
            if smoothing.context == "raw" and k > 1:
                total = counts.levels[k - 2].count.astype(np.float64)
            total, free = total + eps, np.full(len(total), eps)
        # A context that nothing follows, or an empty sum, leaves everything to the order below.
        weight = np.divide(free, total, out=np.ones(len(total)), where=total > 0)
        found.append(Smoothed(seen, kept, discount, np.where(total > 0, total, 1.0), weight, estimated))
    return found


def discounts(counts_of_counts: Sequence[float]) -> Discounts | None:
    """D1, D2 and D3+ from t1..t4, the numbers of n-grams seen once to four times (rule 4 of spec 01 section 3).

    ``None`` where they say nothing: one of t1..t3 is 0, or a discount falls outside [0, its count].

    >>> [round(d, 7) for d in discounts([40, 15, 8, 5])]
    [0.5714286, 1.0857143, 1.5714286]
    """
    t = counts_of_counts
    if min(t[:3]) <= 0:
        return None
    y = t[0] / (t[0] + 2 * t[1])
    d1, d2, d3 = (j - (j + 1) * y * t[j] / t[j - 1] for j in (1, 2, 3))
    return (d1, d2, d3) if 0 <= d1 <= 1 and 0 <= d2 <= 2 and 0 <= d3 <= 3 else None


def _discounts(seen: Ints, order: int, fallback: Discounts | str) -> tuple[Discounts, bool]:
    tallies: list[int] = np.bincount(np.minimum(seen, 5), minlength=6)[1:5].tolist()
    if (found := discounts(tallies)) is not None:
        return found, True
    if not isinstance(fallback, str):
        return fallback, False
    once, twice, thrice, _ = tallies
    what = f"Kneser-Ney's discounts of order {order} cannot be estimated: {once}, {twice} and {thrice} n-grams " \
           "occur once, twice and three times"  # fmt: skip
    if fallback == "error":
        raise UserError(f"{what}; give more text, or a fallback, for example (0.5, 1.0, 1.5)")
    if once or twice or thrice:  # a vocabulary of frequent tokens only: any discount does
        warnings.warn(f"{what} (a small text?); 0.5, 1 and 1.5 are used instead", stacklevel=6)
    return (0.5, 1.0, 1.5), False
