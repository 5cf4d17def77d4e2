"""ERNIE 1.0: first single tokens are masked, then phrases, then entities (spec 08).

``base`` has the shape, vocabulary size and values of the published model and script (Sun et al. 2019); the three
stages are the paper's, their lengths, a third each, and the warm-up are ours. ``tiny`` is ours, in the
shape of ``bert:tiny``. Chinese words come from a segmenter; phrases and entities from the dictionary that ``--units``
names, or phrases from their statistics.
"""

from __future__ import annotations

from plume.models.transformer import TransformerConfig
from plume.objectives.masked import MaskedLM
from plume.text.marks import Grain
from plume.text.tokenizers import WordPiece
from plume.text.windows import SegmentPairs
from plume.training.settings import Pretraining, Stage, Training


def tiny() -> Pretraining:
    """2 layers of 128: minutes on a laptop."""
    steps = 4_000
    return Pretraining(
        tokenizer=WordPiece(vocab_size=8_192),
        windows=SegmentPairs(length=128),
        objective=_masks("entity"),
        model=_model(num_layers=2, d_model=128),
        training=Training(batch_size=64, steps=steps, lr=2e-3, weight_decay=0.01, eps=1e-6),
        stages=_stages(steps),
    )


def base() -> Pretraining:
    """12 layers of 768 over 18,000 tokens, a million steps; 16 sequences of 512 are the script's 8,192 tokens."""
    steps = 1_000_000
    return Pretraining(
        tokenizer=WordPiece(vocab_size=18_000),
        windows=SegmentPairs(length=512),
        objective=_masks("entity"),
        model=_model(num_layers=12, d_model=768),
        training=Training(
            batch_size=16, steps=steps, lr=1e-4, warmup_steps=4_000, weight_decay=0.01, eps=1e-6,
            eval_every=10_000, eval_batches=32, save_every=1_000,
        ),
        stages=_stages(steps),
    )  # fmt: skip


def _stages(steps: int) -> tuple[Stage, ...]:
    return (
        Stage(until=steps // 3, objective=_masks("token")),
        Stage(until=2 * steps // 3, objective=_masks("phrase")),
        Stage(),
    )


def _masks(unit: Grain) -> MaskedLM:
    """Each unit by itself with probability 0.15, and whether B follows A."""
    return MaskedLM(noise_density=0.15, unit=unit, selection="bernoulli", next_sentence=True)


def _model(*, num_layers: int, d_model: int) -> TransformerConfig:
    """BERT's layers with ReLU, 513 positions and eps 1e-5 (spec 08 section 2)."""
    return TransformerConfig(
        num_layers=num_layers, d_model=d_model, num_heads=d_model // 64, d_ff=4 * d_model, norm_order="post",
        positions="learned", max_positions=513, token_types=2, embedding_norm=True, activation="relu",
        dropout=0.1, attention_dropout=0.1, norm_eps=1e-5,
    )  # fmt: skip
