"""RoBERTa: BERT's masked tokens with new masks every epoch, full sentences and no second question (spec 07).

``base`` and ``large`` have the values of Liu et al. 2019; a batch of 8,192 sequences is accumulated from what fits
into memory. ``tiny`` is ours, in the shape of ``bert:tiny``, for a laptop and a text of some megabytes.

The paper's four kinds of input are windows: ``FullSentences(512)``, ``FullSentences(512, cross_documents=False)``
(DOC-SENTENCES), and with ``objective.next_sentence=true`` ``SegmentPairs(512)`` (SEGMENT-PAIR) and ``SegmentPairs(512,
grain="sentence")`` (SENTENCE-PAIR). Static masking is ``masking=static dupe_factor=10``.
"""

from __future__ import annotations

from plume.models.transformer import TransformerConfig
from plume.objectives.masked import MaskedLM
from plume.text.tokenizers import ByteLevelBPE
from plume.text.windows import FullSentences
from plume.training.settings import Pretraining, Training


def tiny() -> Pretraining:
    """2 layers of 128: minutes on a laptop."""
    return Pretraining(
        tokenizer=ByteLevelBPE(vocab_size=8_192),
        windows=FullSentences(length=128),
        objective=_objective(),
        model=_model(num_layers=2, d_model=128),
        training=Training(batch_size=64, steps=4_000, lr=2e-3, betas=(0.9, 0.98), eps=1e-6),
    )


def base() -> Pretraining:
    """12 layers of 768, 500,000 steps of 8,192 sequences of 512: 124.7 M parameters."""
    return _published(num_layers=12, d_model=768, lr=6e-4, warmup_steps=24_000)


def large() -> Pretraining:
    """24 layers of 1024: 355.4 M parameters."""
    return _published(num_layers=24, d_model=1_024, lr=4e-4, warmup_steps=30_000)


def _published(*, num_layers: int, d_model: int, lr: float, warmup_steps: int) -> Pretraining:
    return Pretraining(
        tokenizer=ByteLevelBPE(vocab_size=50_265),
        windows=FullSentences(length=512),
        objective=_objective(),
        model=_model(num_layers=num_layers, d_model=d_model),
        training=Training(
            batch_size=8_192, steps=500_000, lr=lr, warmup_steps=warmup_steps, schedule="linear",
            weight_decay=0.01, betas=(0.9, 0.98), eps=1e-6, clip_norm=None, eval_every=5_000, eval_batches=2,
            save_every=500,
        ),
    )  # fmt: skip


def _objective() -> MaskedLM:
    return MaskedLM(noise_density=0.15, selection="rounded", segments="separator")


def _model(*, num_layers: int, d_model: int) -> TransformerConfig:
    """BERT's layers; two rows before the first position, one segment row, eps 1e-5 (spec 07 section 2)."""
    return TransformerConfig(
        num_layers=num_layers, d_model=d_model, num_heads=d_model // 64, d_ff=4 * d_model, norm_order="post",
        positions="learned", max_positions=512, position_offset=2, token_types=1, embedding_norm=True,
        activation="gelu", dropout=0.1, attention_dropout=0.1, norm_eps=1e-5,
    )  # fmt: skip
