"""Keyed randomness: no draw depends on any other draw."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from plume.seeding import Permutation, key, rng


def test_equal_keys_draw_the_same_and_any_change_draws_otherwise() -> None:
    draws = {
        tuple(rng(*k).integers(1 << 40, size=3))
        for k in [(0, "a", 1, 2), (0, "a", 2, 1), (1, "a", 1, 2), (0, "b", 1, 2), (0, "a", 1)]
    }
    assert len(draws) == 5
    assert rng(3, "noise", 1, 9).random() == rng(3, "noise", 1, 9).random()


def test_a_generator_is_philox_under_its_key() -> None:
    ours, plain = rng(0, "noise", 1, 2), np.random.Generator(np.random.Philox(key=key(0, "noise", 1, 2)))
    assert (ours.integers(1 << 40, size=100) == plain.integers(1 << 40, size=100)).all()


def test_a_hundred_thousand_keys_do_not_collide() -> None:
    keys = {key(0, "model", step, i) for step in range(1000) for i in range(100)}
    assert len(keys) == 100_000
    assert all(0 <= k < 2**63 for k in list(keys)[:1000])


def test_the_draws_of_a_stream_never_change_between_versions() -> None:
    # A changed value silently changes every run that is resumed: it needs a new format_version.
    assert key(0, "order", 1, 2) == 6126629039053769211
    assert rng(0, "noise", 0, 0).integers(1000, size=3).tolist() == [640, 199, 433]


@given(size=st.integers(1, 3000), k=st.integers(0, 2**63 - 1))
def test_a_permutation_visits_everything_once(size: int, k: int) -> None:
    p = Permutation(size, k)
    assert sorted(p[i] for i in range(len(p))) == list(range(size))


def test_a_permutation_shuffles() -> None:
    a = np.array([Permutation(1000, 1)[i] for i in range(1000)])
    b = np.array([Permutation(1000, 2)[i] for i in range(1000)])
    assert abs(np.corrcoef(a, np.arange(1000))[0, 1]) < 0.1
    assert abs(np.corrcoef(a, b)[0, 1]) < 0.1
    assert (np.abs(np.diff(a)) == 1).mean() < 0.02
    with pytest.raises(IndexError):
        Permutation(10, 0)[10]
    with pytest.raises(ValueError, match="at least one"):
        Permutation(0, 0)
