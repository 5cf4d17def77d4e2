"""The laws of labels on words: the classification objective that asks every word (spec 11 section 7)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plume.models.convolution import ConvolutionConfig
from plume.models.lookup import LookupConfig
from plume.models.recurrent import RecurrentConfig
from plume.objectives.causal import CausalLM
from plume.objectives.classification import Classification, Labelled
from plume.objectives.masked import MaskedLM
from plume.objectives.skipgram import SkipGram
from plume.slots import IGNORE
from tests.laws import laws
from tests.laws.laws import FIRST, VOCAB, Case

texts = st.lists(st.integers(FIRST, VOCAB.size - 1), min_size=1, max_size=14).map(
    lambda ids: np.array(ids, np.int64)
)
WORDS = replace(VOCAB, counts=tuple(range(VOCAB.size)))
BOTH = RecurrentConfig(num_layers=2, d_model=16, both_ways=True)
CASES = {
    "causal": (CausalLM(), None),
    "masked": (MaskedLM(), None),
    "vectors": (SkipGram(), LookupConfig(d_model=16)),
    "cnn": (SkipGram(), ConvolutionConfig(num_layers=2, d_model=16, before=2, after=2)),
    "bilstm": (SkipGram(), BOTH),
}


def tagged(ids: np.ndarray) -> Labelled:
    """Every third token goes on with a word, so it has no label."""
    return Labelled((ids,), np.where(np.arange(len(ids)) % 3 == 2, IGNORE, ids % 4))


def case(name: str, objective: Any = None) -> Case:
    reader, model = CASES[name]
    own = objective or Classification(reader, tuple("abcd"), unit="word", hidden=False, dropout=0.0)

    return Case(name, own, tagged, None, {}, vocab=WORDS, model=model)


def labels_stand_at_their_words(here: Case, ids: np.ndarray, seed: int) -> None:
    """Restore and no leak, for labels: each stands at its token, and what is read does not depend on them."""
    example = laws.draw(here, ids, seed)
    assert example is not None
    slots, given_labels = example.inputs, np.asarray(tagged(ids).label)
    asked, wanted = np.flatnonzero(slots.labels["label"] != IGNORE), np.flatnonzero(given_labels != IGNORE)
    assert slots.input_ids[asked].tolist() == ids[wanted].tolist()
    assert slots.labels["label"][asked].tolist() == (ids[wanted] % 4).tolist()
    other = here.objective.ask(Labelled((ids,), given_labels * 0), WORDS)
    np.testing.assert_array_equal(slots.input_ids, other.input_ids)
    np.testing.assert_array_equal(slots.sees(), other.sees())


@pytest.mark.parametrize("name", CASES)
@settings(max_examples=6, deadline=None)
@given(ids=texts, seed=st.integers(0, 2**31))
def test_tagging_obeys_the_laws(name: str, ids: np.ndarray, seed: int) -> None:
    for law in (laws.determinism, laws.heads, laws.packing, labels_stand_at_their_words):
        law(case(name), ids, seed)


class OneTooFar(Classification):
    """Tags the word before: the classic defect of framed text."""

    def ask(self, source: Labelled, vocab: Any) -> Any:
        slots = super().ask(source, vocab)
        return replace(slots, labels={"label": np.roll(slots.labels["label"], 1)})


class Reads(Classification):
    """Reads what it is asked for."""

    def ask(self, source: Labelled, vocab: Any) -> Any:
        slots = super().ask(source, vocab)
        label = slots.labels["label"]
        return replace(slots, input_ids=np.where(label > 0, FIRST + label, slots.input_ids))


@pytest.mark.parametrize("defect", [OneTooFar, Reads])
def test_a_planted_defect_breaks_the_law(defect: type[Classification]) -> None:
    ids = np.arange(FIRST, FIRST + 12)
    broken = defect(MaskedLM(), tuple("abcd"), unit="word", hidden=False, dropout=0.0)
    labels_stand_at_their_words(case("masked"), ids, 0)
    with pytest.raises(AssertionError):
        labels_stand_at_their_words(case("masked", broken), ids, 0)


def test_long_sentences_are_asked_part_by_part() -> None:
    """No word is lost and none asked twice, whatever fits."""
    ids = np.arange(FIRST, FIRST + 14)
    objective = Classification(MaskedLM(), tuple("abcd"), max_length=7, unit="word", hidden=False)
    parts = objective.pieces(tagged(ids), WORDS)
    assert np.concatenate([part.segments[0] for part in parts]).tolist() == ids.tolist()
    assert np.concatenate([part.label for part in parts]).tolist() == np.asarray(tagged(ids).label).tolist()
    assert all(len(objective.ask(part, WORDS)) <= 7 for part in parts) and len(parts) == 3
    with pytest.raises(ValueError, match="no pool"):
        Classification(MaskedLM(), ("a", "b"), unit="word", pool="max")
