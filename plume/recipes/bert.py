"""BERT: hide tokens of two segments, ask for them, and whether the second follows the first (spec 06).

``base`` has the values of Devlin et al. 2019. The shapes of the smaller ones are those of Turc et al. 2019; their
vocabulary, batch, steps and learning rate are ours, for a laptop and a text of some megabytes.
"""

from __future__ import annotations

from plume.models.transformer import TransformerConfig
from plume.objectives.masked import MaskedLM
from plume.text.tokenizers import WordPiece
from plume.text.windows import SegmentPairs
from plume.training.settings import Pretraining, Stage, Training


def tiny() -> Pretraining:
    """2 layers of 128: minutes on a laptop."""
    return _laptop(num_layers=2, d_model=128, lr=2e-3, steps=4_000)


def mini() -> Pretraining:
    """4 layers of 256."""
    return _laptop(num_layers=4, d_model=256, lr=1e-3, steps=10_000)


def small() -> Pretraining:
    """4 layers of 512."""
    return _laptop(num_layers=4, d_model=512, lr=5e-4, steps=20_000)


def base() -> Pretraining:
    """12 layers of 768, a million steps: length 128 for nine tenths of them, then 512; static masks."""
    return Pretraining(
        tokenizer=WordPiece(vocab_size=30_522),
        windows=SegmentPairs(length=512),
        objective=MaskedLM(noise_density=0.15, next_sentence=True),
        masking="static",
        dupe_factor=10,
        model=_model(num_layers=12, d_model=768),
        training=Training(
            batch_size=256, steps=1_000_000, lr=1e-4, warmup_steps=10_000, schedule="linear_from_zero",
            weight_decay=0.01, betas=(0.9, 0.999), eps=1e-6, bias_correction=False, clip_norm=1.0,
            eval_every=10_000, eval_batches=32, save_every=1_000,
        ),
        stages=(Stage(until=900_000, windows=SegmentPairs(length=128)), Stage()),
    )  # fmt: skip


def _laptop(*, num_layers: int, d_model: int, lr: float, steps: int) -> Pretraining:
    return Pretraining(
        tokenizer=WordPiece(vocab_size=8_192),
        windows=SegmentPairs(length=128),
        objective=MaskedLM(noise_density=0.15, next_sentence=True),
        masking="dynamic",
        model=_model(num_layers=num_layers, d_model=d_model),
        training=Training(
            batch_size=64,
            steps=steps,
            lr=lr,
            weight_decay=0.01,
            betas=(0.9, 0.999),
            eps=1e-6,
        ),
    )


def _model(*, num_layers: int, d_model: int) -> TransformerConfig:
    """Heads of 64, feed-forward four times as wide, exact GELU, LayerNorm eps 1e-12 (spec 06 section 3)."""
    return TransformerConfig(
        num_layers=num_layers, d_model=d_model, num_heads=d_model // 64, d_ff=4 * d_model, norm_order="post",
        positions="learned", max_positions=512, token_types=2, embedding_norm=True, activation="gelu",
        dropout=0.1, attention_dropout=0.1, norm_eps=1e-12,
    )  # fmt: skip
