"""A GRU language model that reads its text from beginning to end and carries its state along (spec 03).

Ours, for a laptop, in the shape of ``lstm:tiny``: the simpler cell beside the same text and the same objective.
"""

from __future__ import annotations

from plume.models.recurrent import RecurrentConfig
from plume.objectives.causal import CausalLM
from plume.text.tokenizers import ByteLevelBPE
from plume.text.windows import Sequential
from plume.training.settings import Pretraining, Training


def tiny() -> Pretraining:
    """1 layer of 256, 64 tokens at a time; each row goes on where it stopped."""
    return Pretraining(
        tokenizer=ByteLevelBPE(vocab_size=8_192),
        windows=Sequential(length=64),
        objective=CausalLM(),
        model=RecurrentConfig(num_layers=1, d_model=256, cell="gru"),
        training=Training(
            batch_size=32,
            steps=8_000,
            lr=3e-3,
            schedule="cosine",
            min_lr_share=0.1,
            weight_decay=0.0,
            clip_norm=1.0,
        ),
    )
