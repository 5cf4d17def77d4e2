"""Skip-gram and CBOW obey the laws; on random text they learn nothing, unless they are shown the answer."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plume.models.lookup import LookupConfig
from plume.objectives.skipgram import HEAD, SkipGram
from plume.slots import Example
from tests.laws.laws import FIRST, LAWS, VOCAB, Case, no_leak, random_text


def pairs(window: int) -> Callable[[int], tuple[int, int]]:
    """As many as windows of 1 give at least, and windows of ``window`` at most."""

    def of(n: int) -> tuple[int, int]:
        return 2 * (n - 1), sum(2 * max(0, n - d) for d in range(1, window + 1))

    return of


def floor(negatives: int) -> Callable[[int], float]:
    """Of independent words: each pair is asked once as true and k times, less what equals the answer, as noise."""

    def of(v: int) -> float:
        k = negatives * (1 - 1 / v)
        return math.log(1 + k) + k * math.log(1 + 1 / k)

    return of


PLAIN = SkipGram(sample=0, noise_power=0, window=2, negatives=2)
CASES = [
    Case("skip-gram", PLAIN, rate={HEAD: pairs(2)}, floor={HEAD: floor(2)}, model=LookupConfig(16)),
    Case("skip-gram, noise of its own", replace(PLAIN, share_negatives=False), rate={HEAD: pairs(2)}),
    Case("skip-gram, tree", replace(PLAIN, output="hierarchical"), rate={HEAD: pairs(2)}, floor={HEAD: math.log},
         model=LookupConfig(16)),
    Case("CBOW", replace(PLAIN, cbow=True), rate={HEAD: lambda n: (n, n)}, model=LookupConfig(16, bag=True)),
    Case("CBOW, by attention", replace(PLAIN, cbow=True), rate={HEAD: lambda n: (n, n)}),
]  # fmt: skip
texts = st.lists(st.integers(FIRST, VOCAB.size - 1), min_size=1, max_size=9).map(
    lambda ids: np.array(ids, np.int64)
)


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
@pytest.mark.parametrize("law", LAWS, ids=lambda f: f.__name__)
@settings(max_examples=5, deadline=None)
@given(ids=texts, seed=st.integers(0, 2**31))
def test_law(law: Callable[[Case, np.ndarray, int], None], case: Case, ids: np.ndarray, seed: int) -> None:
    law(case, ids, seed)


class SeesItself(SkipGram):
    """A window that forgets to leave out the word in the middle."""

    def example(self, source: Any, vocab: Any, rng: Any) -> Example[Any] | None:
        example = super().example(source, vocab, rng)
        return example and replace(
            example, inputs=replace(example.inputs, input_ids=example.inputs.labels[HEAD])
        )


LEAKY = replace(CASES[0], objective=SeesItself(sample=0, noise_power=0, window=2, negatives=2))


def test_a_window_with_its_own_word_breaks_the_law() -> None:
    ids = np.arange(FIRST, FIRST + 9)
    no_leak(CASES[0], ids, 3)
    with pytest.raises(AssertionError):
        no_leak(LEAKY, ids, 3)


@pytest.mark.parametrize(
    "case", [CASES[0], pytest.param(CASES[2], marks=pytest.mark.slow)], ids=["skip-gram", "tree"]
)
def test_on_random_text_the_loss_stays_at_its_floor(case: Case) -> None:
    ((loss, least),) = random_text(case).values()
    assert abs(loss - least) < 0.02, (loss, least)


def test_a_leak_goes_through_the_floor() -> None:
    ((loss, least),) = random_text(LEAKY, steps=200).values()
    assert loss < least - 0.5
