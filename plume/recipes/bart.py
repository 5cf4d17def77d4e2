"""BART: a document is spoilt, and the whole of it written again (spec 19).

``base`` and ``large`` have the shapes of Lewis et al. 2020 and the training that they give for large: batches of 8,000
sequences of 512, half a million steps. Their optimiser is RoBERTa's, which the paper builds on; that their dropout
was off for the last tenth is not done here. Documents are cut into whole sentences up to 512 tokens.
``tiny`` is ours, in the shape of ``bert:tiny`` twice, for a laptop and a text of some megabytes.
"""

from __future__ import annotations

from plume.models.transformer import TransformerConfig
from plume.objectives.infilling import Denoising
from plume.text.tokenizers import ByteLevelBPE
from plume.text.windows import FullSentences
from plume.training.settings import Pretraining, Training


def tiny() -> Pretraining:
    """2 + 2 layers of 128: minutes on a laptop."""
    return Pretraining(
        tokenizer=ByteLevelBPE(vocab_size=8_192),
        windows=FullSentences(length=128, cross_documents=False),
        objective=_kept(),
        model=_model(num_layers=2, d_model=128, num_heads=2, max_positions=512),
        training=Training(
            batch_size=64, steps=4_000, lr=2e-3, weight_decay=0.01, betas=(0.9, 0.98), eps=1e-6
        ),
    )


def base() -> Pretraining:
    """6 + 6 layers of 768, 139 M parameters."""
    return _published(num_layers=6, d_model=768, num_heads=12, lr=6e-4)


def large() -> Pretraining:
    """12 + 12 layers of 1,024, 406 M parameters."""
    return _published(num_layers=12, d_model=1_024, num_heads=16, lr=4e-4)


def _kept() -> Denoising:
    """The noise that the paper kept after trying all five."""
    return Denoising(permute_sentences=1.0, infilling=0.3, mean_span_length=3.0)


def _published(*, num_layers: int, d_model: int, num_heads: int, lr: float) -> Pretraining:
    return Pretraining(
        tokenizer=ByteLevelBPE(vocab_size=50_265),
        windows=FullSentences(length=512, cross_documents=False),
        objective=_kept(),
        model=_model(num_layers=num_layers, d_model=d_model, num_heads=num_heads, max_positions=1_024),
        training=Training(
            batch_size=8_000, steps=500_000, lr=lr, warmup_steps=10_000, weight_decay=0.01, betas=(0.9, 0.98),
            eps=1e-6, clip_norm=None, eval_every=5_000, save_every=1_000,
        ),
    )  # fmt: skip


def _model(*, num_layers: int, d_model: int, num_heads: int, max_positions: int) -> TransformerConfig:
    """Post-norm, exact GELU, a norm on the embeddings of both stacks, tables two rows longer (spec 19 section 2)."""
    return TransformerConfig(
        num_layers=num_layers, num_decoder_layers=num_layers, d_model=d_model, num_heads=num_heads,
        d_ff=4 * d_model, norm_order="post", positions="learned", max_positions=max_positions, position_offset=2,
        embedding_norm=True, activation="gelu", dropout=0.1, attention_dropout=0.1, norm_eps=1e-5,
    )  # fmt: skip
