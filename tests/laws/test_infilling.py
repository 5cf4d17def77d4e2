"""BART's noises, each alone and composed, before every law; and a shift that was forgotten."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plume.objectives.infilling import Denoising
from plume.slots import Example
from plume.text.marks import SENTENCE, WORD
from plume.text.windows import Window
from tests.laws import laws
from tests.laws.laws import FIRST, VOCAB, Case

BART = Denoising(permute_sentences=1.0, infilling=0.3)


def document(ids: np.ndarray) -> Window:
    """<s> ids </s>: words of two tokens, sentences of five."""
    n = len(ids)
    marks = np.zeros(n + 2, np.uint8)
    marks[1:-1:2] = WORD
    marks[1:-1:5] |= SENTENCE
    special = np.array([True] + [False] * n + [True])
    framed = np.concatenate([[VOCAB.bos], ids, [VOCAB.eos]])
    return Window(ids=framed, marks=marks, special=special, token_type_ids=np.zeros(n + 2, np.int64))


def case(name: str, objective: Denoising, **known: Any) -> Case:
    """All of the text is asked for, its marks too; what the noise leaves open may be copied."""
    return Case(name, objective, document, {"next_token": lambda n: (n, n)}, **{"shows": True} | known)


def hidden_floor(v: int) -> float:
    """24 tokens of which nothing is known, and two marks whose places are."""
    return 24 * math.log(v) / 26


CASES = [
    case("infilling", Denoising(infilling=0.3)),
    case("infilling of tokens", Denoising(infilling=0.5, unit="token", mean_span_length=1.5)),
    case("permutation", Denoising(permute_sentences=1.0)),
    case("deletion", Denoising(deletion=0.3)),
    case("masking", Denoising(masking=0.3)),
    case("rotation", Denoising(rotation=0.5)),
    case("as BART", BART),
    case("all five", Denoising(0.3, 2.0, 0.5, 0.2, 0.2, 0.5, output_bias=True)),
    case("nothing left", Denoising(deletion=1.0), shows=False, floor={"next_token": hidden_floor}),
    case("nothing but masks", Denoising(masking=1.0), shows=False, floor={"next_token": hidden_floor}),
]
texts = st.lists(st.integers(FIRST, VOCAB.size - 1), min_size=1, max_size=14).map(
    lambda ids: np.array(ids, np.int64)
)


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
@pytest.mark.parametrize("law", laws.LAWS, ids=lambda f: f.__name__)
@settings(max_examples=4, deadline=None)
@given(ids=texts, seed=st.integers(0, 2**31))
def test_law(law: Callable[[Case, np.ndarray, int], None], case: Case, ids: np.ndarray, seed: int) -> None:
    law(case, ids, seed)


class Unshifted(Denoising):
    """The second stack reads what it is asked for."""

    def example(self, source: Any, vocab: Any, rng: Any) -> Example[Any] | None:
        found = super().example(source, vocab, rng)
        assert found is not None and found.decoder_inputs is not None
        clean = found.decoder_inputs.labels["next_token"]
        return Example(found.inputs, replace(found.decoder_inputs, input_ids=clean))


class Spoilt(Denoising):
    """The classic of this family: the target is spoilt along with the source."""

    def example(self, source: Any, vocab: Any, rng: Any) -> Example[Any] | None:
        found = super().example(source, vocab, rng)
        assert found is not None and found.decoder_inputs is not None
        labels = found.inputs.input_ids[np.arange(len(found.decoder_inputs)) % len(found.inputs)]
        return Example(found.inputs, replace(found.decoder_inputs, labels={"next_token": labels}))


def test_planted_defects_break_their_laws() -> None:
    ids = np.arange(FIRST, FIRST + 14)
    strict, plain = CASES[-2], CASES[0]
    laws.no_leak(strict, ids, 3)
    with pytest.raises(AssertionError):
        laws.no_leak(replace(strict, objective=Unshifted(deletion=1.0)), ids, 3)
    laws.restore(plain, ids, 3)
    with pytest.raises(AssertionError):
        laws.restore(replace(plain, objective=Spoilt(infilling=0.3)), ids, 3)


def test_on_random_text_the_loss_stays_at_its_floor() -> None:
    [(loss, floor)] = laws.random_text(CASES[-2]).values()
    assert abs(loss - floor) < 0.02


def test_a_forgotten_shift_goes_through_the_floor() -> None:
    [(loss, floor)] = laws.random_text(replace(CASES[-2], objective=Unshifted(deletion=1.0)), 60).values()
    assert loss < floor - 0.5
