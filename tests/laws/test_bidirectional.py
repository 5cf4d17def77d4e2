"""ELMo's objective before the laws, on its own backbone; and what its two streams are."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plume.models.bilstm import BiLSTMConfig
from plume.objectives.bidirectional import BidirectionalLM
from plume.seeding import rng
from plume.slots import Example
from plume.studies import laws
from plume.studies.laws import FIRST, TEXT, VOCAB, Case
from plume.text.spelling import spell
from plume.text.window import Window

MODEL = BiLSTMConfig(
    d_model=12, d_cell=24, d_character=4, filters=((1, 8), (2, 16)), num_highways=1, dropout=0.0
)
CASE = Case(
    "bidirectional",
    BidirectionalLM(),
    laws.window,
    {head: lambda n: (n - 1, n - 1) for head in ("next_token", "previous_token")},
    dict.fromkeys(("next_token", "previous_token"), math.log),
    model=MODEL,
)
LAWS = [laws.restore, laws.determinism, laws.rate, laws.heads, laws.packing, laws.no_leak]
texts = st.lists(st.integers(FIRST, TEXT - 1), min_size=1, max_size=9).map(
    lambda ids: np.array(ids, np.int64)
)


@pytest.mark.parametrize("law", LAWS, ids=lambda f: f.__name__)
@settings(max_examples=6, deadline=None)
@given(ids=texts, seed=st.integers(0, 2**31))
def test_law(law: Any, ids: np.ndarray, seed: int) -> None:
    law(CASE, ids, seed)


def test_nothing_is_to_be_learnt_of_random_text() -> None:
    for head, (loss, floor) in laws.random_text(CASE, steps=60).items():
        assert loss > floor - 0.02, head


class SeesItsLabel(BidirectionalLM):
    """The planted defect: the backward stream is read one word too early."""

    def example(self, source: Any, vocab: Any, rng: Any) -> Example[Any] | None:
        example = super().example(source, vocab, rng)
        if example is None or example.decoder_inputs is None:
            return example
        back = example.decoder_inputs
        assert back.features is not None
        early = np.concatenate([back.features[1:], spell(source.ids[:1], vocab)[1]])
        return replace(example, decoder_inputs=replace(back, features=early))


def test_a_stream_that_shows_its_label_breaks_the_law() -> None:
    broken = replace(CASE, objective=SeesItsLabel())
    with pytest.raises(AssertionError):
        laws.no_leak(broken, np.arange(FIRST, FIRST + 6), 0)


def sentences(words: list[list[int]], **labels: int) -> Window:
    ids = np.concatenate([[VOCAB.bos, *w, VOCAB.eos] for w in words]).astype(np.int64)
    special = (ids == VOCAB.bos) | (ids == VOCAB.eos)
    return Window(ids, (~special).astype(np.uint8), special, np.zeros(len(ids), np.int64), labels)


def test_each_sentence_is_turned_round_and_nothing_is_asked_between_two() -> None:
    """Spec 04 section 5."""
    b, e = VOCAB.bos, VOCAB.eos
    example = BidirectionalLM().example(sentences([[10, 11], [12]]), VOCAB, rng(0, "x"))
    assert example is not None and example.decoder_inputs is not None
    ahead, back = example.inputs, example.decoder_inputs
    assert ahead.input_ids.tolist() == [b, 10, 11, b, 12]
    assert ahead.labels["next_token"].tolist() == [10, 11, e, 12, e]
    assert back.input_ids.tolist() == [e, 11, 10, e, 12]
    assert back.labels["previous_token"].tolist() == [11, 10, b, 12, b]
    assert BidirectionalLM().restore(example).tolist() == [b, 10, 11, e, b, 12, e]
    part = BidirectionalLM().example(sentences([[10, 11], [12]], first=2, count=2), VOCAB, rng(0, "x"))
    assert part is not None and part.decoder_inputs is not None
    assert part.inputs.input_ids.tolist() == [11, b] and part.decoder_inputs.input_ids.tolist() == [10, e]


def test_unknown_words_keep_their_characters() -> None:
    pieces = ("[PAD]", "[UNK]", "the", "猫", "##x", "##猫", "##y")
    vocab = replace(VOCAB, size=7, bos=None, eos=None, pieces=pieces)
    ids, characters = spell(np.array([2, 1, 4, 5, 6, 3, 1]), vocab)
    assert ids.tolist() == [2, 1, 3, 1]
    spelled = [bytes(int(c) - 1 for c in row[1:] if c < 257).decode() for row in characters]
    assert spelled == ["the", "x猫y", "猫", ""]
    assert characters.shape == (4, 50) and characters[0].tolist()[:6] == [259, 117, 105, 102, 260, 261]
    whole, _ = spell(np.array([4, 2]), vocab)  # a word whose beginning was cut off
    assert whole.tolist() == [1, 2]
