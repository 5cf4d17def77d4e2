"""A denoiser memorises its texts, and a target is copied and turned round only by who sees the source."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from plume.objectives.infilling import Denoising
from plume.objectives.sequence_to_sequence import SequenceToSequence
from plume.text.marks import PART
from plume.text.windows import Window
from tests.laws.laws import FIRST, VOCAB, window
from tests.learns.test_learns import POST, TINY, fit, right, sentences


def test_a_denoiser_memorises_its_texts() -> None:
    config = replace(POST, num_decoder_layers=2, position_offset=2)
    objective = Denoising(infilling=0.3, permute_sentences=1.0)
    model, batch = fit(objective, config, [window(s) for s in sentences()], 150, static=True)
    assert right(objective, model, batch(0), "next_token") > 0.98


class Backwards(SequenceToSequence):
    """Random tokens; the target is the source turned round."""

    def example(self, source: Any, vocab: Any, rng: np.random.Generator) -> Any:
        ids = rng.integers(FIRST, VOCAB.size, 5)
        marks = np.zeros(10, np.uint8)
        marks[5] = PART
        zeros = np.zeros(10, np.int64)
        return super().example(Window(np.concatenate([ids, ids[::-1]]), marks, zeros > 0, zeros), vocab, rng)


def test_what_was_read_is_turned_round() -> None:
    """Held-out random sources: nothing but cross-attention knows the answer."""
    config = replace(TINY, num_decoder_layers=1, num_layers=1, positions="learned")
    objective = Backwards(label_smoothing=0.1)
    model, batch = fit(objective, config, [None] * 32, 400, lr=1e-2)
    assert right(objective, model, batch(10_000), "next_token") > 0.9
