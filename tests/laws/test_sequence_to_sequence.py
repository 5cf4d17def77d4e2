"""Supervised text to text obeys the laws it can break: its second stack never reads what it is asked for."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from plume.models.pretrained import PretrainedModel
from plume.models.transformer import TransformerConfig
from plume.objectives.sequence_to_sequence import SequenceToSequence
from plume.seeding import rng
from plume.slots import Example, Slots, collate
from plume.text.marks import PART
from plume.text.window import Window
from tests.laws.laws import FIRST, VOCAB, window

OBJECTIVES = [
    SequenceToSequence(),
    SequenceToSequence(start="eos", label_smoothing=0.1, smoothing="others"),
    SequenceToSequence(bos=True, output_bias=True),
]
SHAPE = TransformerConfig(
    num_layers=1, d_model=16, num_heads=2, d_ff=32, num_decoder_layers=2, max_positions=64, dropout=0.0,
    attention_dropout=0.0,
)  # fmt: skip
texts = st.lists(st.integers(FIRST, VOCAB.size - 1), min_size=2, max_size=10).map(
    lambda ids: np.array(ids, np.int64)
)


def pair(ids: np.ndarray, cut: int) -> Window:
    made = window(ids)
    made.marks[cut] |= PART
    return made


@cache
def model_of(objective: SequenceToSequence) -> PretrainedModel:
    built = PretrainedModel.build(SHAPE, VOCAB, lambda b: objective.heads(b, VOCAB), seed=0)
    return built.double().eval()


def drawn(objective: SequenceToSequence, ids: np.ndarray, cut: int, seed: int = 0) -> Example[Any]:
    example = objective.example(pair(ids, cut), VOCAB, rng(seed, "noise"))
    assert example is not None
    return example


@pytest.mark.parametrize("objective", OBJECTIVES, ids=["plain", "smoothed", "framed"])
@settings(max_examples=8, deadline=None)
@given(ids=texts, share=st.floats(0, 1), seed=st.integers(0, 99))
def test_laws(objective: SequenceToSequence, ids: np.ndarray, share: float, seed: int) -> None:
    cut = 1 + int(share * (len(ids) - 2))
    example = drawn(objective, ids, cut, seed)
    source, decoder = example.inputs, example.decoder_inputs
    assert decoder is not None
    np.testing.assert_array_equal(objective.restore(example), ids)
    # Every token of the target is asked for once, and its end; nothing of the source is.
    assert source.labels == {} and (decoder.labels["next_token"] >= 0).all()
    extra = 1 + objective.bos
    assert (len(source), len(decoder)) == (cut + extra, len(ids) - cut + extra)
    again = drawn(objective, ids, cut, seed + 1)
    np.testing.assert_array_equal(again.inputs.input_ids, source.input_ids)  # nothing is drawn
    no_leak(objective, ids, cut)
    packing(objective, ids, cut)


def no_leak(objective: SequenceToSequence, ids: np.ndarray, cut: int) -> None:
    """A changed target token leaves everything up to the slot that is asked for it as it was, to the last bit."""
    model = model_of(objective)

    @torch.no_grad()
    def last(example: Example[Any]) -> Any:
        batch = collate([example])
        return model.backbone(batch.inputs, batch.decoder_inputs).last[0]

    before = last(drawn(objective, ids, cut))
    for at in range(cut, len(ids)):
        other = ids.copy()
        other[at] = FIRST + (ids[at] - FIRST + 1) % (VOCAB.size - FIRST)
        asked = at - cut + objective.bos
        assert (last(drawn(objective, other, cut))[: asked + 1] == before[: asked + 1]).all(), asked


@torch.no_grad()
def packing(objective: SequenceToSequence, ids: np.ndarray, cut: int) -> None:
    model = model_of(objective)
    parts = [drawn(objective, ids[:n], min(cut, n - 1)) for n in range(2, len(ids) + 1)]
    alone = [objective.losses(model, collate([e])).heads["next_token"] for e in parts]
    for packed in (True, False):
        batch = collate(parts, packed=packed)
        loss = objective.losses(model, batch).heads["next_token"]
        assert abs(float(loss.total) - sum(float(a.total) for a in alone)) < 1e-8
        assert float(loss.count) == float(objective.counts(batch, dict(model.heads))["next_token"])


class Unshifted(SequenceToSequence):
    """The classic leak: labels that were never shifted."""

    def example(self, source: Any, vocab: Any, rng: Any) -> Example[Any] | None:
        found = super().example(source, vocab, rng)
        assert found is not None and found.decoder_inputs is not None
        labels = found.decoder_inputs.labels
        return Example(found.inputs, replace(found.decoder_inputs, input_ids=labels["next_token"]))


class SeesAhead(SequenceToSequence):
    def example(self, source: Any, vocab: Any, rng: Any) -> Example[Any] | None:
        found = super().example(source, vocab, rng)
        assert found is not None and found.decoder_inputs is not None
        decoder = found.decoder_inputs
        return Example(found.inputs, Slots.bidirectional(decoder.input_ids, labels=decoder.labels))


@pytest.mark.parametrize("broken", [Unshifted(), SeesAhead()], ids=lambda o: type(o).__name__)
def test_a_planted_leak_breaks_the_law(broken: SequenceToSequence) -> None:
    ids = np.arange(FIRST, FIRST + 9)
    no_leak(SequenceToSequence(), ids, 4)
    with pytest.raises(AssertionError):
        no_leak(broken, ids, 4)


def test_what_is_no_pair_is_refused_or_dropped() -> None:
    ids = np.arange(FIRST, FIRST + 5)
    with pytest.raises(ValueError, match="windows=TextPairs"):
        SequenceToSequence().example(window(ids), VOCAB, rng(0, "noise"))
    assert (
        SequenceToSequence().example(window(ids[:0]), VOCAB, rng(0, "noise")) is None
    )  # an overlong pair's window
    with pytest.raises(ValueError, match="label_smoothing"):
        SequenceToSequence(label_smoothing=1.0)
