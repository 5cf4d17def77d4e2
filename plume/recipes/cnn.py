"""Convolutional networks: a language model, and an encoder that fills in words, before Transformers (spec 02, 03).

Ours, for a laptop, with the gate of Dauphin et al. 2017: the network of the time beside the same text and objectives.
"""

from __future__ import annotations

from plume.models.convolution import ConvolutionConfig
from plume.objectives.causal import CausalLM
from plume.objectives.masked import MaskedLM
from plume.text.tokenizers import ByteLevelBPE, WordPiece
from plume.text.windows import FullSentences, PackedStream
from plume.training.settings import Pretraining, Training


def tiny() -> Pretraining:
    """6 layers of 256 that look 3 slots back: 19 tokens in all."""
    return Pretraining(
        tokenizer=ByteLevelBPE(vocab_size=8_192),
        windows=PackedStream(length=128),
        objective=CausalLM(),
        model=ConvolutionConfig(num_layers=6, d_model=256, before=3),
        training=_training(),
    )


def encoder() -> Pretraining:
    """4 layers of 256 that look 2 slots both ways, asked for masked tokens; to be adapted to labels of texts."""
    return Pretraining(
        tokenizer=WordPiece(vocab_size=8_192),
        windows=FullSentences(length=128),
        objective=MaskedLM(noise_density=0.15),
        model=ConvolutionConfig(num_layers=4, d_model=256, before=2, after=2),
        training=_training(),
    )


def _training() -> Training:
    return Training(
        batch_size=64,
        steps=4_000,
        lr=2e-3,
        schedule="cosine",
        min_lr_share=0.1,
        weight_decay=0.01,
        clip_norm=1.0,
    )
