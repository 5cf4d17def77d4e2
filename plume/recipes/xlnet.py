"""XLNet: ask for tokens in a random order, with memory from window to window (spec 10).

``large`` has the values of Yang et al. 2019, ``base`` the published smaller shape with the same data and
optimiser. Theirs reads half of the rows backwards (``bi_data``); here all rows run forwards. ``tiny`` is ours, for
a laptop and a text of some megabytes.
"""

from __future__ import annotations

from plume.models.transformer import TransformerConfig
from plume.objectives.permuted import PermutedLM
from plume.text.tokenizers import Unigram
from plume.text.windows import CarriedPairs
from plume.training.settings import Pretraining, Training


def tiny() -> Pretraining:
    """2 layers of 128, windows of 128 that advance by 64 and look back 64: minutes on a laptop."""
    return Pretraining(
        tokenizer=Unigram(vocab_size=8_192),
        windows=CarriedPairs(length=128),
        objective=PermutedLM(memory_length=64),
        model=_model(num_layers=2, d_model=128, num_heads=2),
        training=Training(batch_size=64, steps=4_000, lr=2e-3, eps=1e-6),
    )


def base() -> Pretraining:
    """12 layers of 768: 117 M parameters."""
    return _published(num_layers=12, d_model=768, num_heads=12)


def large() -> Pretraining:
    """24 layers of 1,024: 360 M parameters."""
    return _published(num_layers=24, d_model=1_024, num_heads=16)


def _published(*, num_layers: int, d_model: int, num_heads: int) -> Pretraining:
    """512 slots, of which 85 are asked for, in rows that advance by 256 and look back 384."""
    return Pretraining(
        tokenizer=Unigram(vocab_size=32_000),
        windows=CarriedPairs(length=512),
        objective=PermutedLM(noise_density=1 / 6, max_span_length=5, memory_length=384),
        model=_model(num_layers=num_layers, d_model=d_model, num_heads=num_heads),
        training=Training(
            batch_size=8_192, steps=500_000, lr=4e-4, warmup_steps=40_000, schedule="linear", weight_decay=0.01,
            eps=1e-6, clip_norm=1.0, eval_every=10_000, eval_batches=4, save_every=1_000,
        ),
    )  # fmt: skip


def _model(*, num_layers: int, d_model: int, num_heads: int) -> TransformerConfig:
    """Norm after, exact GELU, one learned row for every query (spec 10 section 3)."""
    return TransformerConfig(
        num_layers=num_layers, d_model=d_model, num_heads=num_heads, d_ff=4 * d_model, norm_order="post",
        positions="relative", virtual_tokens=1, activation="gelu", dropout=0.1, attention_dropout=0.1,
        activation_dropout=0.1, final_dropout=0.1, norm_eps=1e-12,
    )  # fmt: skip
