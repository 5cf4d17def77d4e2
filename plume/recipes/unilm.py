"""UniLM and the prefix language model (spec 20): one stack, and who sees whom says what it learns.

``base`` and ``large`` have the shapes of the published models and the values that Dong et al. 2019 give for their
pretraining, which began from BERT-large (``--from``); the paper trained the large one. ``seq2seq`` has the masking,
batch and smoothing of its summaries. Everything else of ``tiny``, ``seq2seq`` and ``prefix`` is ours, for a laptop
and a text of some megabytes.
"""

from __future__ import annotations

from plume.models.transformer import TransformerConfig
from plume.objectives.causal import CausalLM
from plume.objectives.mixture import Mixture
from plume.objectives.prefix import Cloze, PrefixLM, unilm
from plume.text.tokenizers import ByteLevelBPE, WordPiece
from plume.text.windows import PackedStream, SegmentPairs, TextPairs
from plume.training.settings import Pretraining, Training


def tiny() -> Pretraining:
    """2 layers of 128 under UniLM's four masks: minutes on a laptop."""
    return Pretraining(
        tokenizer=WordPiece(vocab_size=8_192),
        windows=SegmentPairs(length=128),
        objective=unilm(),
        model=_unilm(num_layers=2, d_model=128),
        training=Training(batch_size=64, steps=4_000, lr=2e-3, eps=1e-6),
    )


def base() -> Pretraining:
    """12 layers of 768, 28,996 cased tokens."""
    return _published(num_layers=12, d_model=768)


def large() -> Pretraining:
    """24 layers of 1,024."""
    return _published(num_layers=24, d_model=1_024)


def seq2seq() -> Pretraining:
    """``tiny`` tuned to write a target for a source (``--from`` a run of it), as the paper tunes for summaries."""
    return Pretraining(
        tokenizer=WordPiece(vocab_size=8_192),
        windows=TextPairs(length=128, overlong="cut"),
        objective=Cloze(
            "seq2seq",
            noise_density=0.7,
            ngram_share=0.0,
            target_only=True,
            max_predictions=48,
            label_smoothing=0.1,
        ),
        model=_unilm(num_layers=2, d_model=128),
        training=Training(batch_size=128, steps=4_000, lr=1e-3, warmup_steps=400, eps=1e-6),
    )


def prefix() -> Pretraining:
    """A prefix language model; half of its examples are plain causal ones, so that it stays a language model."""
    return Pretraining(
        tokenizer=ByteLevelBPE(vocab_size=8_192),
        windows=PackedStream(length=128),
        objective=Mixture(members=(PrefixLM(), CausalLM()), shares=(0.5, 0.5)),
        model=TransformerConfig(
            num_layers=2, d_model=128, num_heads=2, d_ff=512, norm_order="pre", max_positions=128,
            activation="gelu_tanh", dropout=0.0, attention_dropout=0.0,
        ),
        training=Training(
            batch_size=64, steps=4_000, lr=3e-3, schedule="cosine", min_lr_share=0.1, weight_decay=0.1,
            betas=(0.9, 0.95),
        ),
    )  # fmt: skip


def _published(*, num_layers: int, d_model: int) -> Pretraining:
    return Pretraining(
        tokenizer=WordPiece(vocab_size=28_996, lowercase=False),
        windows=SegmentPairs(length=512),
        objective=unilm(),
        model=_unilm(num_layers=num_layers, d_model=d_model),
        training=Training(
            batch_size=330, steps=770_000, lr=3e-5, warmup_steps=40_000, weight_decay=0.01,
            betas=(0.9, 0.999), eps=1e-6, eval_every=10_000, eval_batches=32, save_every=1_000,
        ),
    )  # fmt: skip


def _unilm(*, num_layers: int, d_model: int) -> TransformerConfig:
    """BERT's body with six segment rows, which tell the model its mask (spec 20 section 3)."""
    return TransformerConfig(
        num_layers=num_layers, d_model=d_model, num_heads=d_model // 64, d_ff=4 * d_model, norm_order="post",
        positions="learned", max_positions=512, token_types=6, embedding_norm=True, activation="gelu",
        dropout=0.1, attention_dropout=0.1, norm_eps=1e-12,
    )  # fmt: skip
