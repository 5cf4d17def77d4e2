"""ELECTRA: which of these tokens did a small generator put there? (spec 09)

``small``, ``base`` and ``large`` have the shapes and values of Clark et al. 2020. ``tiny`` is ours, in the shape of
``bert:tiny``, for a laptop and a text of some megabytes.
"""

from __future__ import annotations

from plume.models.transformer import TransformerConfig
from plume.objectives.replaced import ReplacedTokens
from plume.text.tokenizers import WordPiece
from plume.text.windows import FollowingSegments
from plume.training.settings import Pretraining, Training


def tiny() -> Pretraining:
    """2 layers of 128, a generator of half that width: minutes on a laptop."""
    return Pretraining(
        tokenizer=WordPiece(vocab_size=8_192),
        windows=FollowingSegments(length=128),
        objective=ReplacedTokens(noise_density=0.15, generator_share=0.5),
        model=_model(num_layers=2, d_model=128),
        training=Training(batch_size=64, steps=4_000, lr=2e-3, weight_decay=0.01, eps=1e-6),
    )


def small() -> Pretraining:
    """12 layers of 256, tables of 128, a generator of a quarter: 13.5 M parameters, length 128."""
    return Pretraining(
        tokenizer=WordPiece(vocab_size=30_522),
        windows=FollowingSegments(length=128),
        objective=ReplacedTokens(noise_density=0.15, generator_share=0.25),
        model=_model(num_layers=12, d_model=256, embedding_size=128),
        training=_training(batch_size=128, steps=1_000_000, lr=5e-4),
    )


def base() -> Pretraining:
    """12 layers of 768, a generator of a third: 109.5 M parameters, length 512."""
    return Pretraining(
        tokenizer=WordPiece(vocab_size=30_522),
        windows=FollowingSegments(length=512),
        objective=ReplacedTokens(noise_density=0.15, generator_share=1 / 3),
        model=_model(num_layers=12, d_model=768),
        training=_training(batch_size=256, steps=766_000, lr=2e-4),
    )


def large() -> Pretraining:
    """24 layers of 1024, a generator of a quarter: 335.1 M parameters, a quarter of the tokens masked."""
    return Pretraining(
        tokenizer=WordPiece(vocab_size=30_522),
        windows=FollowingSegments(length=512),
        objective=ReplacedTokens(noise_density=0.25, generator_share=0.25),
        model=_model(num_layers=24, d_model=1_024),
        training=_training(batch_size=2_048, steps=400_000, lr=2e-4),
    )


def _training(*, batch_size: int, steps: int, lr: float) -> Training:
    """Adam without bias correction, a decay that counts from the first step (spec 09 section 2)."""
    return Training(
        batch_size=batch_size, steps=steps, lr=lr, warmup_steps=10_000, schedule="linear_throughout",
        weight_decay=0.01, betas=(0.9, 0.999), eps=1e-6, bias_correction=False, clip_norm=1.0,
        eval_every=10_000, eval_batches=32, save_every=1_000,
    )  # fmt: skip


def _model(*, num_layers: int, d_model: int, embedding_size: int | None = None) -> TransformerConfig:
    """BERT's layers; heads of 64, feed-forward four times as wide (spec 09 section 2)."""
    return TransformerConfig(
        num_layers=num_layers, d_model=d_model, num_heads=d_model // 64, d_ff=4 * d_model, norm_order="post",
        positions="learned", max_positions=512, token_types=2, embedding_norm=True, activation="gelu",
        dropout=0.1, attention_dropout=0.1, norm_eps=1e-12, embedding_size=embedding_size,
    )  # fmt: skip
