"""How often each set has its turn (spec 18 section 5, test 7): the formula by hand, its limits, and the draws."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import chisquare

from plume.text.mixing import DRAWS, Turns, rates

# GLUE's training sets (spec 18 section 5), and C4, which is larger than any cap.
GLUE = {"cola": 8_551, "sst2": 67_349, "mrpc": 3_668, "qqp": 363_849, "stsb": 5_749, "mnli": 392_702,
        "qnli": 104_743, "rte": 2_490}  # fmt: skip
SIZES = [364_868_892, *GLUE.values()]
ONES = [1.0] * len(SIZES)


def by_hand(cap: float, temperature: float, scales: list[float] = ONES) -> list[float]:
    weights = [min(e * s, cap) ** (1 / temperature) for e, s in zip(SIZES, scales, strict=True)]
    return [w / sum(weights) for w in weights]


@pytest.mark.parametrize("cap", [2**16, 2**19, 2**21])
@pytest.mark.parametrize("temperature", [1.0, 2.0, 8.0])
def test_the_rates_are_the_papers(cap: int, temperature: float) -> None:
    found = rates(SIZES, ONES, cap=cap, temperature=temperature)
    np.testing.assert_allclose(found, by_hand(cap, temperature), rtol=1e-12)
    assert math.isclose(sum(found), 1)
    # The other order, temperature before cap, is another formula.
    late = [min(e ** (1 / temperature), cap) for e in SIZES]
    assert np.allclose(found, np.array(late) / sum(late)) is (temperature == 1)


def test_the_limits() -> None:
    equal = [1 / len(SIZES)] * len(SIZES)
    assert np.allclose(rates(SIZES, ONES, cap=1, temperature=1.0), equal, rtol=1e-12)
    assert np.allclose(rates(SIZES, ONES, cap=None, temperature=1e9), equal, rtol=1e-6)
    proportional = np.array(SIZES) / sum(SIZES)
    for cap in (None, max(SIZES), 10**12):
        np.testing.assert_allclose(rates(SIZES, ONES, cap=cap, temperature=1.0), proportional, rtol=1e-12)
    assert rates([3, 10**300], [1, 1], cap=None, temperature=0.01)[1] == 1  # no power overflows


def test_a_task_that_is_there_twice_is_halved() -> None:
    """RTE, in joint mixtures of GLUE and SuperGLUE; a scale of 0 leaves a set out; scaling comes before the cap."""
    halves = [1.0] * (len(SIZES) - 1) + [0.5]
    found = rates(SIZES, halves, cap=2**19, temperature=1.0)
    np.testing.assert_allclose(found, by_hand(2**19, 1.0, halves), rtol=1e-12)
    assert math.isclose(found[-1] / found[1], 0.5 * GLUE["rte"] / GLUE["cola"])
    assert rates([9, 4], [0, 1], cap=None, temperature=2.0) == (0.0, 1.0)
    assert rates([100, 100], [0.5, 2], cap=60, temperature=1.0) == (50 / 110, 60 / 110)


def test_the_draws_are_as_often_as_the_rates_say_and_know_nothing_of_each_other() -> None:
    shares = np.array(rates(SIZES, ONES, cap=2**17, temperature=2.0))
    drawn = np.concatenate([Turns(shares.tolist(), seed=5).table(epoch)[0] for epoch in range(3)])
    counts = np.bincount(drawn, minlength=len(shares))
    assert chisquare(counts, shares * len(drawn)).pvalue > 1e-3
    assert (abs(counts - shares * len(drawn)) < 4 * np.sqrt(shares * (1 - shares) * len(drawn))).all()
    # The same test sees a rate that is wrong by a tenth ...
    wrong = shares * np.where(np.arange(len(shares)) == 1, 1.1, 1)
    assert chisquare(counts, wrong / wrong.sum() * len(drawn)).pvalue < 1e-3
    # ... and neighbours are independent: each pair as often as the product of its rates.
    pairs = np.bincount(drawn[:-1] * len(shares) + drawn[1:], minlength=len(shares) ** 2)
    assert chisquare(pairs, np.outer(shares, shares).ravel() * pairs.sum()).pvalue > 1e-3


def test_each_set_is_read_in_order_and_any_epoch_is_found_at_once() -> None:
    turns = Turns([0.7, 0.2, 0.1], seed=1)
    tables = [turns.table(epoch) for epoch in range(3)]
    for member in range(3):
        read = np.concatenate([numbers[drawn == member] for drawn, numbers in tables])
        np.testing.assert_array_equal(read, np.arange(len(read)))
    fresh = Turns([0.7, 0.2, 0.1], seed=1).table(2)  # as a resumed run asks for it
    assert all(np.array_equal(a, b) for a, b in zip(fresh, tables[2], strict=True))
    assert len(fresh[0]) == DRAWS
    other = Turns([0.7, 0.2, 0.1], seed=2).table(2)
    assert not np.array_equal(other[0], fresh[0])
