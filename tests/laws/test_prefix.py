"""The laws on prefix language models and on UniLM's mixture of masks, with planted defects."""

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
from plume.objectives.mixture import Mixture
from plume.objectives.prefix import Cloze, PrefixLM, unilm
from plume.slots import Example
from tests.laws import laws
from tests.laws.laws import FIRST, LAWS, VOCAB, Case

SIX_SEGMENTS = TransformerConfig(
    num_layers=2, d_model=16, num_heads=2, d_ff=32, norm_order="pre", max_positions=64, token_types=6,
    dropout=0.0, attention_dropout=0.0,
)  # fmt: skip


def hidden(objective: Cloze) -> Cloze:
    """The same without tokens that stay as they are."""
    return replace(objective, mask_share=0.8, random_share=0.2)


def about(density: float) -> Callable[[int], tuple[int, int]]:
    """The last run of two or three may go beyond; a short text has no more."""

    def of(length: int) -> tuple[int, int]:
        budget = max(1, round(density * length))
        return min(budget, length - 2), budget + 2

    return of


MIXED = unilm()
CASES = [
    Case("prefix", PrefixLM(), laws.window, {"next_token": lambda n: (1, n - 1)}, {"next_token": math.log}),
    *(
        Case(f"cloze, {member.mode}", member, laws.framed,
             {"masked_token": about(0.15)} | ({"next_sentence": lambda n: (1, 1)} if member.next_sentence else {}),
             hides=hidden(member), model=SIX_SEGMENTS)
        for member in MIXED.members
        if isinstance(member, Cloze)
    ),
    Case("cloze, fine-tuning", Cloze("seq2seq", noise_density=0.7, ngram_share=0.0, target_only=True), laws.framed,
         {"masked_token": lambda n: (1, n)}, model=SIX_SEGMENTS,
         hides=hidden(Cloze("seq2seq", noise_density=0.7, ngram_share=0.0, target_only=True))),
    Case("mixture", replace(MIXED, members=tuple(hidden(m) for m in MIXED.members if isinstance(m, Cloze))),
         laws.framed, model=SIX_SEGMENTS),
]  # fmt: skip
texts = st.lists(st.integers(FIRST, VOCAB.size - 1), min_size=1, max_size=11).map(
    lambda ids: np.array(ids, np.int64)
)


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
@pytest.mark.parametrize("law", LAWS, ids=lambda f: f.__name__)
@settings(max_examples=4, deadline=None)
@given(ids=texts, seed=st.integers(0, 2**31))
def test_law(law: Callable[[Case, np.ndarray, int], None], case: Case, ids: np.ndarray, seed: int) -> None:
    law(case, ids, seed)


class PrefixSeesTarget(PrefixLM):
    """The most common bug (spec 20 section 6): prefix rows attend to targets."""

    def example(self, source: Any, vocab: Any, rng: Any) -> Example[Any] | None:
        example = super().example(source, vocab, rng)
        if example is None:
            return None
        slots = example.inputs
        return Example(replace(slots, sees_until=slots.sees_until + 30 * (slots.sees_until == 0)))


class Forgets(Cloze):
    """What was hidden is not given back."""

    def restore(self, example: Example[Any]) -> Any:
        return example.inputs.input_ids


@pytest.mark.parametrize(
    ("law", "case", "broken"),
    [
        (laws.no_leak, CASES[0], PrefixSeesTarget()),
        (laws.restore, CASES[1], Forgets("bidirectional", next_sentence=True)),
    ],
)
def test_planted_defects_are_caught(law: Any, case: Case, broken: Any) -> None:
    ids = np.arange(FIRST, FIRST + 10)
    for seed in range(6):
        law(case, ids, seed)
    with pytest.raises(AssertionError):
        for seed in range(6):
            law(replace(case, objective=broken, hides=None), ids, seed)


@pytest.mark.slow
@pytest.mark.parametrize("case", [CASES[0]], ids=lambda c: c.name)
def test_on_random_text_the_loss_stays_at_its_floor(case: Case) -> None:
    for head, (loss, floor) in laws.random_text(case).items():
        assert abs(loss - floor) < 0.02, (head, loss, floor)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["bidirectional", "seq2seq", "left_to_right", "right_to_left"])
def test_a_cloze_of_random_text_cannot_be_filled(mode: Any) -> None:
    objective = Cloze(mode, mask_share=1.0, random_share=0.0)
    case = Case("cloze", objective, laws.framed, floor={"masked_token": math.log}, model=SIX_SEGMENTS)
    ((loss, floor),) = laws.random_text(case).values()
    # The closing [SEP], one slot in 25 of those that may be asked, can be told by its place.
    known = floor / 25 if mode in ("seq2seq", "left_to_right") else 0.0
    assert floor - known - 0.02 < loss < floor + 0.03, (loss, floor)


def test_a_mixture_is_an_objective_like_any_other() -> None:
    """Prefix and causal examples share a head, a batch and its count."""
    from plume.objectives.causal import CausalLM

    case = Case("mixed", Mixture((PrefixLM(), CausalLM()), (0.5, 0.5)), laws.window)
    for law in LAWS:
        law(case, np.arange(FIRST, FIRST + 9), 11)
