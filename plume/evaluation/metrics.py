"""Metrics of classification with their intervals, and whether two systems really differ (spec 26 sections 1 to 4).

All are functions of the table of (gold label, predicted label): a bootstrap draws such tables at once instead of
texts one by one, which is the same distribution and a thousand times faster. n texts, K labels, S draws.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from plume.seeding import rng

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Name = Literal["accuracy", "macro_f1", "micro_f1", "matthews"]


@dataclass(frozen=True, slots=True)
class Estimate:
    """A value, its standard error, and the 95 % interval [low, high]."""

    value: float
    stderr: float
    low: float
    high: float

    def to_json(self) -> dict[str, Any]:
        return {"value": self.value, "stderr": self.stderr, "ci95": [self.low, self.high]}


def confusion(gold: ArrayLike, predicted: ArrayLike, num_labels: int | None = None) -> Ints:
    """How often label g was called p: [K, K].

    Raises:
        ValueError: the two differ in length, or there is nothing.
    """
    g, p = np.asarray(gold, np.int64), np.asarray(predicted, np.int64)
    if g.shape != p.shape or not g.size:
        raise ValueError(f"{g.size} labels and {p.size} predictions: there must be one of each a text")
    size = num_labels or int(max(g.max(), p.max())) + 1
    return np.bincount(g * size + p, minlength=size * size).reshape(size, size)


def accuracy(table: NDArray[Any]) -> Floats:
    """Share on the diagonal of tables [..., K, K]."""
    return np.asarray(np.trace(table, axis1=-2, axis2=-1) / table.sum((-2, -1)))


def f1_by_label(table: NDArray[Any]) -> Floats:
    """F1 of each label [..., K], nan where a label is neither gold nor predicted."""
    right = np.diagonal(table, axis1=-2, axis2=-1)
    both = table.sum(-1) + table.sum(-2)
    return np.asarray(np.divide(2 * right, both, out=np.full(right.shape, np.nan), where=both > 0))


def macro_f1(table: NDArray[Any]) -> Floats:
    """The mean F1 of the labels that occur, in the text or in the predictions."""
    f1 = f1_by_label(table)
    occurs = ~np.isnan(f1)
    return np.asarray(np.where(occurs, f1, 0.0).sum(-1) / occurs.sum(-1))


def micro_f1(table: NDArray[Any]) -> Floats:
    """F1 over all decisions; where each text has one label it equals accuracy."""
    return accuracy(table)


def matthews(table: NDArray[Any]) -> Floats:
    """Matthews' correlation for any number of labels; 0 where one side has one label only."""
    total, right = table.sum((-2, -1)), np.trace(table, axis1=-2, axis2=-1)
    gold, called = table.sum(-1).astype(float), table.sum(-2).astype(float)
    above = right * total - (gold * called).sum(-1)
    below = np.sqrt((total**2.0 - (called**2).sum(-1)) * (total**2.0 - (gold**2).sum(-1)))
    return np.asarray(np.divide(above, below, out=np.zeros(np.shape(above)), where=below > 0))


METRICS: dict[Name, Callable[[NDArray[Any]], Floats]] = {
    "accuracy": accuracy,
    "macro_f1": macro_f1,
    "micro_f1": micro_f1,
    "matthews": matthews,
}


def wilson(right: int, total: int, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson's interval of a proportion: honest for few texts and near 0 and 1.

    >>> [round(x, 4) for x in wilson(9, 10)]
    [0.5958, 0.9821]
    """
    if total < 1:
        raise ValueError("an interval needs at least one text")
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    p = right / total
    middle = (p + z * z / (2 * total)) / (1 + z * z / total)
    half = z / (1 + z * z / total) * math.sqrt(p * (1 - p) / total + z * z / (4 * total * total))
    # Exactly 0 or 1 at the ends, where rounding would leave a hair.
    return (0.0 if right == 0 else middle - half), (1.0 if right == total else middle + half)


def classification(
    gold: ArrayLike, predicted: ArrayLike, *, num_labels: int | None = None, draws: int = 2000, seed: int = 0
) -> dict[str, Estimate]:
    """Accuracy (Wilson's interval), macro F1, micro F1 and Matthews (bootstrap over texts)."""
    table = confusion(gold, predicted, num_labels)
    total = int(table.sum())
    drawn = rng(seed, "bootstrap").multinomial(total, table.ravel() / total, size=draws)
    drawn = drawn.reshape(draws, *table.shape)
    found: dict[str, Estimate] = {}
    for name, metric in METRICS.items():
        value, values = float(metric(table)), metric(drawn)
        if name in ("accuracy", "micro_f1"):
            low, high = wilson(int(np.trace(table)), total)
            stderr = math.sqrt(value * (1 - value) / max(1, total - 1))
        else:
            low, high = np.quantile(values, (0.025, 0.975)).tolist()
            stderr = float(values.std(ddof=1))
        found[name] = Estimate(value, stderr, low, high)
    return found


@dataclass(frozen=True, slots=True)
class Difference:
    """How much better ``a`` is than ``b``, its 95 % interval, and the chance of as much by luck alone."""

    value: float
    low: float
    high: float
    p: float


def paired_bootstrap(
    gold: ArrayLike,
    a: ArrayLike,
    b: ArrayLike,
    metric: Name = "accuracy",
    *,
    draws: int = 2000,
    seed: int = 0,
) -> Difference:
    """Compare two systems on the same texts, drawn with both their answers together."""
    g, first, second = (np.asarray(x, np.int64) for x in (gold, a, b))
    confusion(g, first), confusion(g, second)  # says what is wrong with them
    size = int(max(x.max() for x in (g, first, second))) + 1
    kinds, counts = np.unique(np.stack([g, first, second]), axis=1, return_counts=True)
    cells = (kinds[0] * size + kinds[1], kinds[0] * size + kinds[2])

    def value(weights: NDArray[Any]) -> Floats:
        tables = []
        for cell in cells:
            flat = np.zeros((len(weights), size * size))
            for column, at in enumerate(cell):  # two kinds of text may share a cell
                flat[:, at] += weights[:, column]
            tables.append(flat.reshape(-1, size, size))
        return METRICS[metric](tables[0]) - METRICS[metric](tables[1])

    seen = float(value(counts[None])[0])
    drawn = value(rng(seed, "bootstrap").multinomial(len(g), counts / len(g), size=draws))
    low, high = np.quantile(drawn, (0.025, 0.975)).tolist()
    as_much = int((np.abs(drawn - seen) >= abs(seen) - 1e-12).sum())
    return Difference(seen, low, high, (1 + as_much) / (1 + draws))


def mcnemar(gold: ArrayLike, a: ArrayLike, b: ArrayLike) -> float:
    """The exact two-sided p of McNemar's test: could texts that only one system gets right fall like this?

    >>> mcnemar([1] * 8, [1] * 7 + [0], [0] * 6 + [1, 1])  # six only a gets right, one only b
    0.125
    """
    g, first, second = (np.asarray(x) for x in (gold, a, b))
    only_a = int(((first == g) & (second != g)).sum())
    only_b = int(((first != g) & (second == g)).sum())
    n = only_a + only_b
    if n == 0:
        return 1.0
    fewer = range(min(only_a, only_b) + 1)
    logs = [math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1) - n * math.log(2) for k in fewer]
    return round(min(1.0, 2 * sum(math.exp(x) for x in logs)), 15)


def agreement(gold: ArrayLike, found: ArrayLike) -> dict[str, float]:
    """How well clusters [n] go with labels [n], whatever the clusters are called.

    purity: the share of texts whose cluster mostly has their label. mutual_information: normalised by the mean of both
    entropies. adjusted_rand: pairs that are together on both sides or on none, 0 by chance. The last two are
    scikit-learn's definitions.

    >>> agreement([0, 0, 1, 1], [5, 5, 3, 3])
    {'purity': 1.0, 'mutual_information': 1.0, 'adjusted_rand': 1.0}
    """
    g, c = (np.unique(np.asarray(x), return_inverse=True)[1] for x in (gold, found))
    table = confusion(g, c)[: g.max() + 1, : c.max() + 1].astype(float)
    n, rows, columns = table.sum(), table.sum(1), table.sum(0)

    def entropy(counts: NDArray[Any]) -> float:
        p = counts[counts > 0] / n
        return float(-(p * np.log(p)).sum())

    mean = (entropy(rows) + entropy(columns)) / 2
    shared = entropy(rows) + entropy(columns) - entropy(table)

    def pairs(counts: NDArray[Any]) -> float:
        return float((counts * (counts - 1) / 2).sum())

    chance = pairs(rows) * pairs(columns) / max(1.0, n * (n - 1) / 2)
    most = (pairs(rows) + pairs(columns)) / 2
    return {
        "purity": float(table.max(0).sum() / n),
        "mutual_information": shared / mean if mean > 1e-15 else 1.0,
        "adjusted_rand": float((pairs(table) - chance) / (most - chance)) if most > chance else 1.0,
    }


def spans(tags: Sequence[str]) -> set[tuple[str, int, int]]:
    """The (type, first word, last word) of each entity that BIO or BIOES tags mark, by conlleval's rules: an I- after O
    or after another type begins one (spec 11 section 7).

    >>> sorted(spans(["B-PER", "I-PER", "O", "I-LOC"]))
    [('LOC', 3, 3), ('PER', 0, 1)]
    """
    found: set[tuple[str, int, int]] = set()
    begun, before = -1, "O"
    for at, tag in enumerate([*tags, "O"]):
        mark, _, kind = tag.partition("-")
        last, _, old = before.partition("-")
        new = tag != "O" and (mark in "BS" or before == "O" or kind != old or last in "ES")
        if begun >= 0 and (tag == "O" or new):
            found.add((old, begun, at - 1))
            begun = -1
        if new:
            begun = at
        before = tag
    return found


def are_spans(labels: Sequence[str]) -> bool:
    """Whether labels mark entities: O, and the others B-, I-, E- or S- and a type."""
    return any(label[:2] in ("B-", "I-") for label in labels) and all(
        label == "O" or label[:2] in ("B-", "I-", "E-", "S-") for label in labels
    )


def span_scores(
    gold: Sequence[Sequence[str]], found: Sequence[Sequence[str]], *, draws: int = 2000, seed: int = 0
) -> dict[str, Estimate]:
    """Precision, recall and F1 of the entities in sentences, each right only as a whole, over all sentences together.

    The intervals are a bootstrap over sentences.
    """
    counts = []
    for own, said in zip(gold, found, strict=True):
        a, b = spans(own), spans(said)
        counts.append((len(a & b), len(b), len(a)))
    table = np.array(counts, float)

    def scores(sums: NDArray[Any]) -> NDArray[Any]:
        right, said, there = np.moveaxis(sums, -1, 0)
        parts = ((right, said), (right, there), (2 * right, said + there))
        return np.stack([np.divide(a, b, out=np.zeros(np.shape(a)), where=b > 0) for a, b in parts], -1)

    values = scores(table.sum(0))
    drawn = rng(seed, "bootstrap").multinomial(len(table), np.full(len(table), 1 / len(table)), size=draws)
    several = scores(drawn @ table)
    low, high = np.quantile(several, (0.025, 0.975), axis=0)
    errors = several.std(0, ddof=1)
    return {
        name: Estimate(*map(float, (values[i], errors[i], low[i], high[i])))
        for i, name in enumerate(("precision", "recall", "f1"))
    }


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's correction for several comparisons.

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    found = [0.0] * len(p_values)
    worst = 0.0
    for rank, i in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        worst = max(worst, min(1.0, p_values[i] * (len(p_values) - rank)))
        found[i] = worst
    return found


def calibration_error(confidence: ArrayLike, right: ArrayLike, bins: int = 10) -> float:
    """ECE over ``bins`` equal bins of (0, 1], closed on the right (spec 26 section 4).

    >>> round(calibration_error([0.95, 0.85, 0.75, 0.65], [1, 1, 0, 1]), 6)
    0.325
    """
    c, r = np.asarray(confidence, float), np.asarray(right, float)
    # 0.7 * 10 is a hair above 7: an edge must not move to the next bin by rounding.
    which = np.clip(np.ceil(np.round(c * bins, 9)).astype(int) - 1, 0, bins - 1)
    gap = np.bincount(which, r - c, bins)
    return float(np.abs(gap).sum() / len(c))


def brier(confidence: ArrayLike, right: ArrayLike) -> float:
    """The mean of (confidence - right)^2.

    >>> round(brier([0.95, 0.85, 0.75, 0.65], [1, 1, 0, 1]), 6)
    0.1775
    """
    return float(((np.asarray(confidence, float) - np.asarray(right, float)) ** 2).mean())
