"""T5: hide spans of a text behind sentinels and write them; then every task is text to text (spec 18).

``small`` to ``xxl`` have the shapes, the batch and the optimiser of Raffel et al. 2020; ``v1_1_*`` are the later
checkpoints: gated GELU, an output table of its own, no dropout in pretraining. Their vocabulary is SentencePiece of
32,000 pieces and 100 sentinels in a table of 32,128 rows; ours fills all 32,128. They join documents without a
mark; ours have eos between them.

The output table of v1.1 begins as N(0, 1), as published (``transformers`` too; spec 18 section 2.2), and meets states
of length sqrt(d_model): the first loss is some 37 nats for ``tiny`` and not ln V = 9, which the first steps take off.

``tiny`` is ours, in T5 v1.1's form and the size of ``gpt:tiny``, for a laptop and a text of some megabytes.
"""

from __future__ import annotations

from plume.models.transformer import TransformerConfig
from plume.objectives.span_corruption import SpanCorruption
from plume.text.tokenizers import ByteLevelBPE, Unigram
from plume.text.windows import PackedStream
from plume.training.settings import Pretraining, Training


def tiny() -> Pretraining:
    """2 + 2 layers of 128, 128 tokens at a time: minutes on a laptop."""
    return Pretraining(
        tokenizer=ByteLevelBPE(vocab_size=8_192, sentinels=100),
        windows=PackedStream(length=128),
        objective=SpanCorruption(),
        model=_later(num_layers=2, d_model=128, num_heads=2, d_ff=256),
        training=Training(
            batch_size=64, steps=4_000, optimizer="adafactor", lr=1e-2, schedule="constant_inverse_sqrt",
            warmup_steps=None, weight_decay=0.0, clip_norm=None,
        ),
    )  # fmt: skip


def small() -> Pretraining:
    """6 + 6 layers of 512: 60.5 M parameters."""
    return _published(_first(num_layers=6, d_model=512, num_heads=8, d_ff=2_048))


def base() -> Pretraining:
    """12 + 12 layers of 768: 223 M parameters."""
    return _published(_first(num_layers=12, d_model=768, num_heads=12, d_ff=3_072))


def large() -> Pretraining:
    """24 + 24 layers of 1,024: 738 M parameters."""
    return _published(_first(num_layers=24, d_model=1_024, num_heads=16, d_ff=4_096))


def xl() -> Pretraining:
    """The paper's 3B: as ``large``, with 32 heads of 128 and a feed-forward of 16,384."""
    return _published(_first(num_layers=24, d_model=1_024, num_heads=32, d_ff=16_384, d_head=128))


def xxl() -> Pretraining:
    """The paper's 11B: 128 heads of 128, a feed-forward of 65,536."""
    return _published(_first(num_layers=24, d_model=1_024, num_heads=128, d_ff=65_536, d_head=128))


def v1_1_small() -> Pretraining:
    """8 + 8 layers of 512: 77 M parameters."""
    return _published(_later(num_layers=8, d_model=512, num_heads=6, d_ff=1_024))


def v1_1_base() -> Pretraining:
    """12 + 12 layers of 768: 248 M parameters."""
    return _published(_later(num_layers=12, d_model=768, num_heads=12, d_ff=2_048))


def v1_1_large() -> Pretraining:
    """24 + 24 layers of 1,024: 783 M parameters."""
    return _published(_later(num_layers=24, d_model=1_024, num_heads=16, d_ff=2_816))


def v1_1_xl() -> Pretraining:
    """24 + 24 layers of 2,048: 2.8 B parameters."""
    return _published(_later(num_layers=24, d_model=2_048, num_heads=32, d_ff=5_120))


def v1_1_xxl() -> Pretraining:
    """24 + 24 layers of 4,096: 11 B parameters."""
    return _published(_later(num_layers=24, d_model=4_096, num_heads=64, d_ff=10_240))


def _first(
    *, num_layers: int, d_model: int, num_heads: int, d_ff: int, d_head: int = 64
) -> TransformerConfig:
    """T5 v1.0: ReLU, one table for input and output, states rescaled before it, dropout 0.1 everywhere."""
    return TransformerConfig(
        num_layers=num_layers, num_decoder_layers=num_layers, d_model=d_model, num_heads=num_heads, d_ff=d_ff,
        d_head=d_head, norm_order="pre", norm="rms", norm_eps=1e-6, bias=False, positions="buckets",
        scale_attention=False, activation="relu", scale_head=True, init="fan_in", init_std=1.0, dropout=0.1,
        attention_dropout=0.1, activation_dropout=0.1, final_dropout=0.1,
    )  # fmt: skip


def _later(*, num_layers: int, d_model: int, num_heads: int, d_ff: int) -> TransformerConfig:
    """T5 v1.1: gated GELU, an output table of its own, no dropout."""
    return TransformerConfig(
        num_layers=num_layers, num_decoder_layers=num_layers, d_model=d_model, num_heads=num_heads, d_ff=d_ff,
        d_head=64, norm_order="pre", norm="rms", norm_eps=1e-6, bias=False, positions="buckets",
        scale_attention=False, activation="gelu_tanh", gated=True, tie_head=False, init="fan_in", init_std=1.0,
        dropout=0.0, attention_dropout=0.0,
    )  # fmt: skip


def _published(model: TransformerConfig) -> Pretraining:
    """The baseline of the paper: 2^19 steps of 128 windows of 512 slots; Adafactor, 0.01 for 10,000 steps."""
    return Pretraining(
        tokenizer=Unigram(vocab_size=32_128, sentinels=100),
        windows=PackedStream(length=512),
        objective=SpanCorruption(),
        model=model,
        training=Training(
            batch_size=128, steps=2**19, optimizer="adafactor", lr=1e-2, schedule="constant_inverse_sqrt",
            warmup_steps=10_000, weight_decay=0.0, clip_norm=None, eval_every=5_000, save_every=5_000,
        ),
    )  # fmt: skip
