"""The laws on XLNet's objective, on its own network and on another, with a planted defect."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plume.models.transformer import TransformerConfig
from plume.objectives.permuted import PermutedLM
from plume.slots import NEVER, Example
from plume.text.windows import ADVANCE, Window
from tests.laws import laws
from tests.laws.laws import FIRST, LAWS, VOCAB, Case

RELATIVE = TransformerConfig(
    num_layers=2, d_model=16, num_heads=2, d_ff=32, norm_order="post", positions="relative", virtual_tokens=1,
    dropout=0.0, attention_dropout=0.0, norm_eps=1e-12,
)  # fmt: skip


def cls_last(ids: np.ndarray) -> Window:
    """ids [SEP] [CLS], words of two tokens."""
    n = len(ids)
    marks = (np.arange(n + 2) % 2 == 0).astype(np.uint8)
    types = np.append(np.zeros(n + 1, np.int64), 2)
    ids = np.concatenate([ids, [VOCAB.sep, VOCAB.cls]])
    return Window(ids, marks, np.arange(n + 2) >= n, types, {})


def in_halves(ids: np.ndarray) -> Window:
    """The same, and the row advances by half of the text."""
    return replace(cls_last(ids), labels={ADVANCE: len(ids) // 2})


def exactly(density: float, text: int) -> Callable[[int], tuple[int, int]]:
    def of(length: int) -> tuple[int, int]:
        wanted = min(max(1, round(density * length)), length - text)
        return wanted, wanted

    return of


CASES = [
    Case("permuted", PermutedLM(), cls_last, {"permuted_token": exactly(1 / 6, 2)},
         {"permuted_token": math.log}, model=RELATIVE),
    Case("permuted, memory", PermutedLM(noise_density=0.4), in_halves,
         {"permuted_token": lambda n: (1, round(0.4 * n))}, model=RELATIVE),
    # All are asked for: the first in order sees nothing at all.
    Case("permuted, everything", PermutedLM(noise_density=1.0), laws.window, {"permuted_token": lambda n: (n, n)},
         model=RELATIVE),
    Case("permuted, learned positions", PermutedLM(noise_density=0.5), laws.window,
         {"permuted_token": exactly(0.5, 0)}),
]  # fmt: skip
texts = st.lists(st.integers(FIRST, VOCAB.size - 1), min_size=1, max_size=11).map(
    lambda ids: np.array(ids, np.int64)
)


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
@pytest.mark.parametrize("law", LAWS, ids=lambda f: f.__name__)
@settings(max_examples=5, deadline=None)
@given(ids=texts, seed=st.integers(0, 2**31))
def test_law(law: Callable[[Case, np.ndarray, int], None], case: Case, ids: np.ndarray, seed: int) -> None:
    law(case, ids, seed)


class SeesItself(PermutedLM):
    """The classic slip of two streams: a query may look at its own place."""

    def example(self, source: Any, vocab: Any, rng: Any) -> Example[Any] | None:
        example = super().example(source, vocab, rng)
        if example is None:
            return None
        slots = example.inputs
        return Example(replace(slots, sees_until=slots.sees_until + (slots.visible_at == NEVER)))


def test_a_query_that_sees_its_own_place_is_caught() -> None:
    ids = np.arange(FIRST, FIRST + 10)
    laws.no_leak(CASES[2], ids, 3)
    with pytest.raises(AssertionError):
        laws.no_leak(replace(CASES[2], objective=SeesItself(noise_density=1.0)), ids, 3)


def test_on_random_text_the_loss_stays_at_its_floor() -> None:
    for head, (loss, floor) in laws.random_text(CASES[0]).items():
        assert abs(loss - floor) < 0.02, (head, loss, floor)


@pytest.mark.slow
def test_the_planted_leak_goes_through_the_floor() -> None:
    ((loss, floor),) = laws.random_text(replace(CASES[0], objective=SeesItself())).values()
    assert loss < floor - 0.5
