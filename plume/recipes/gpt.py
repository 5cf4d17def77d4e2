"""GPT: ask every slot for the token after it (spec 13, 14, 15).

``gpt1`` has the values of Radford et al. 2018; of its 100 epochs we know the number, not the tokens, so its steps are
those of 0.8 G tokens an epoch. ``gpt2`` has the shape, context, vocabulary and batch of Radford et al. 2019, who say
nothing of their optimiser: those values are this project's (spec 14 section 4). ``gpt3_125m`` to ``gpt3_175b`` are
those of Brown et al. 2020, their shapes a table below; the band of 256 and the steps of the ramp are ours, for the
paper gives none. ``tiny`` and ``small`` are ours, in the shapes of ``bert:tiny`` and ``bert:small``, for a laptop and
a text of some megabytes; they see little twice, so they do without dropout.
"""

from __future__ import annotations

from typing import NamedTuple

from plume.models.transformer import TransformerConfig
from plume.objectives.causal import CausalLM
from plume.text.tokenizers import ByteLevelBPE, WordBPE
from plume.text.windows import PackedStream
from plume.training.settings import Pretraining, Stage, Training


def tiny() -> Pretraining:
    """2 layers of 128, 128 tokens at a time, 33 M of them: for a laptop."""
    return _laptop(num_layers=2, d_model=128, length=128, lr=3e-3, steps=4_000)


def small() -> Pretraining:
    """4 layers of 512, 256 tokens at a time."""
    return _laptop(num_layers=4, d_model=512, length=256, lr=1e-3, steps=20_000)


def gpt1() -> Pretraining:
    """12 layers of 768, norms last, 512 tokens at a time: 116.5 M parameters."""
    return Pretraining(
        tokenizer=WordBPE(vocab_size=40_478),
        windows=PackedStream(length=512),
        objective=CausalLM(delimited=True),
        model=TransformerConfig(
            num_layers=12, d_model=768, num_heads=12, d_ff=3072, norm_order="post", positions="learned",
            max_positions=512, activation="gelu_tanh", dropout=0.1, attention_dropout=0.1, norm_eps=1e-5,
        ),
        training=Training(
            batch_size=64, steps=2_400_000, lr=2.5e-4, schedule="cosine", warmup_steps=2_000, weight_decay=0.01,
            betas=(0.9, 0.999), bias_correction="in_rate", clip_norm=1.0, eval_every=10_000, eval_batches=64,
            save_every=1_000,
        ),
    )  # fmt: skip


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


class _Size(NamedTuple):
    """A row of the paper's table 2.1: batch in sequences of 2,048; ramp: over how many tokens it grows."""

    num_layers: int
    d_model: int
    num_heads: int
    batch_size: int
    lr: float
    ramp: float


# The paper prints 24 heads for 1.3B, whose width has 16 of 128, and a width of 5,140 for 13B, which 40 does not
# divide: 5,120 (spec 15 section 2). It ramps over 4 to 12 G tokens, "depending on the model size".
_GPT3 = {
    "125m": _Size(12, 768, 12, 256, 6.0e-4, 4e9),
    "350m": _Size(24, 1024, 16, 256, 3.0e-4, 4e9),
    "760m": _Size(24, 1536, 16, 256, 2.5e-4, 4e9),
    "1_3b": _Size(24, 2048, 16, 512, 2.0e-4, 6e9),
    "2_7b": _Size(32, 2560, 32, 512, 1.6e-4, 6e9),
    "6_7b": _Size(32, 4096, 32, 1024, 1.2e-4, 8e9),
    "13b": _Size(40, 5120, 40, 1024, 1.0e-4, 8e9),
    "175b": _Size(96, 12288, 96, 1568, 0.6e-4, 12e9),
}


def gpt3_125m() -> Pretraining:
    """12 layers of 768."""
    return _gpt3("125m")


def gpt3_350m() -> Pretraining:
    """24 layers of 1,024."""
    return _gpt3("350m")


def gpt3_760m() -> Pretraining:
    """24 layers of 1,536."""
    return _gpt3("760m")


def gpt3_1_3b() -> Pretraining:
    """24 layers of 2,048."""
    return _gpt3("1_3b")


def gpt3_2_7b() -> Pretraining:
    """32 layers of 2,560."""
    return _gpt3("2_7b")


def gpt3_6_7b() -> Pretraining:
    """32 layers of 4,096."""
    return _gpt3("6_7b")


def gpt3_13b() -> Pretraining:
    """40 layers of 5,120."""
    return _gpt3("13b")


def gpt3_175b() -> Pretraining:
    """96 layers of 12,288."""
    return _gpt3("175b")


def _gpt3(name: str) -> Pretraining:
    """Dense and banded layers in turn; 300 G tokens; a batch that grows from 32 k tokens, a rate that warms up over
    375 M, falls to a tenth at 260 G and stays there."""
    size, length = _GPT3[name], 2_048
    ramp, grown = _ramp(16, size.batch_size, size.ramp, length)
    model = _model(num_layers=size.num_layers, d_model=size.d_model, length=length, dropout=0.0,
                   num_heads=size.num_heads, bands=(None, 256) * (size.num_layers // 2))  # fmt: skip
    return Pretraining(
        tokenizer=ByteLevelBPE(vocab_size=50_257),
        windows=PackedStream(length=length),
        objective=CausalLM(),
        model=model,
        training=Training(
            batch_size=size.batch_size, steps=grown + round((300e9 - size.ramp) / (size.batch_size * length)),
            lr=size.lr, schedule="cosine", warmup_steps=0, warmup_tokens=375_000_000, decay_tokens=260_000_000_000,
            min_lr_share=0.1, weight_decay=0.1, betas=(0.9, 0.95), eps=1e-8, clip_norm=1.0, eval_every=1_000,
            eval_batches=8, save_every=1_000,
        ),
        stages=ramp,
    )  # fmt: skip


def _ramp(first: int, last: int, tokens: float, length: int) -> tuple[tuple[Stage, ...], int]:
    """A batch that grows from ``first`` to ``last`` sequences over so many tokens, in 15 equal parts of them; and the
    steps that takes."""
    stages, step = [], 0
    for part in range(15):
        batch_size = first + (last - first) * part // 15
        step += round(tokens / 15 / (batch_size * length))
        stages.append(Stage(until=step, batch_size=batch_size))
    return (*stages, Stage(batch_size=last)), step


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


def _model(
    *,
    num_layers: int,
    d_model: int,
    length: int,
    dropout: float,
    num_heads: int | None = None,
    bands: tuple[int | None, ...] | None = None,
) -> TransformerConfig:
    """Heads of 64 unless said, feed-forward four times as wide, norm before, tanh GELU (spec 14 section 2)."""
    return TransformerConfig(
        num_layers=num_layers, d_model=d_model, num_heads=num_heads or d_model // 64, d_ff=4 * d_model,
        norm_order="pre", positions="learned", max_positions=length, activation="gelu_tanh", dropout=dropout,
        attention_dropout=dropout, norm_eps=1e-5, bands=bands,
    )  # fmt: skip
