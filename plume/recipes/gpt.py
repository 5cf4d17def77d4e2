"""GPT: ask every slot for the token after it (spec 14).

``gpt2`` has the shape, context, vocabulary and batch of Radford et al. 2019, who say nothing of their optimiser:
those values are this project's (spec 14 section 4). ``tiny`` and ``small`` are ours, in the shapes of ``bert:tiny``
and ``bert:small``, for a laptop and a text of some megabytes; they see little twice, so they do without dropout.
"""

from __future__ import annotations

from plume.models.transformer import TransformerConfig
from plume.objectives.causal import CausalLM
from plume.text.tokenizers import ByteLevelBPE
from plume.text.windows import PackedStream
from plume.training.settings import Pretraining, Training


def tiny() -> Pretraining:
    """2 layers of 128, 128 tokens at a time: minutes on a laptop."""
    return _laptop(num_layers=2, d_model=128, length=128, lr=3e-3, steps=4_000)


def small() -> Pretraining:
    """4 layers of 512, 256 tokens at a time."""
    return _laptop(num_layers=4, d_model=512, length=256, lr=1e-3, steps=20_000)


def gpt2() -> Pretraining:
    """12 layers of 768, 1,024 tokens at a time: the smallest of the four published sizes, 124 M parameters."""
    return Pretraining(
        tokenizer=ByteLevelBPE(vocab_size=50_257),
        windows=PackedStream(length=1_024),
        objective=CausalLM(),
        model=_model(num_layers=12, d_model=768, length=1_024, dropout=0.1),
        training=Training(
            batch_size=512, steps=100_000, lr=6e-4, schedule="cosine", warmup_steps=2_000, min_lr_share=0.1,
            weight_decay=0.1, betas=(0.9, 0.95), clip_norm=1.0, eval_every=1_000, eval_batches=8,
        ),
    )  # fmt: skip


def _laptop(*, num_layers: int, d_model: int, length: int, lr: float, steps: int) -> Pretraining:
    return Pretraining(
        tokenizer=ByteLevelBPE(vocab_size=8_192),
        windows=PackedStream(length=length),
        objective=CausalLM(),
        model=_model(num_layers=num_layers, d_model=d_model, length=length, dropout=0.0),
        training=Training(
            batch_size=64,
            steps=steps,
            lr=lr,
            schedule="cosine",
            min_lr_share=0.1,
            weight_decay=0.1,
            betas=(0.9, 0.95),
        ),
    )


def _model(*, num_layers: int, d_model: int, length: int, dropout: float) -> TransformerConfig:
    """Heads of 64, feed-forward four times as wide, norm before, tanh GELU (spec 14 section 2)."""
    return TransformerConfig(
        num_layers=num_layers, d_model=d_model, num_heads=d_model // 64, d_ff=4 * d_model, norm_order="pre",
        positions="learned", max_positions=length, activation="gelu_tanh", dropout=dropout,
        attention_dropout=dropout, norm_eps=1e-5,
    )  # fmt: skip
