"""The Transformer of 2017: translate, two stacks, trained on pairs of texts (spec 05 section 4).

``base`` and ``big`` have the values of Vaswani et al. 2017. Its batches are counted in tokens, 25,000 of each side;
ours in sentences, about as many. Of both sides one vocabulary of byte-level BPE (theirs was BPE over characters).
The sinusoids lie all sines first, as in Marian's files, which is the paper's network with its columns in another
order. ``tiny`` is ours: the shape of spec 05's toy preset, for tests and a laptop.

The data is a table with the columns "source" and "target", or those that ``windows.source`` and
``windows.target`` name; turned round they make the way back.
"""

from __future__ import annotations

from plume.models.transformer import TransformerConfig
from plume.objectives.sequence_to_sequence import SequenceToSequence
from plume.text.tokenizers import ByteLevelBPE
from plume.text.windows import TextPairs
from plume.training.schedules import noam_peak
from plume.training.settings import Pretraining, Training


def tiny() -> Pretraining:
    """2 + 2 layers of 64: minutes on a laptop."""
    return _recipe(
        vocab_size=4_096, length=64, num_layers=2, d_model=64, num_heads=4, dropout=0.1,
        batch_size=64, steps=4_000, warmup_steps=800, every=200,
    )  # fmt: skip


def base() -> Pretraining:
    """6 + 6 layers of 512, 65 M parameters with the paper's 37,000 tokens of English and German."""
    return _recipe(
        vocab_size=37_000, length=256, num_layers=6, d_model=512, num_heads=8, dropout=0.1,
        batch_size=896, steps=100_000, warmup_steps=4_000, every=1_000,
    )  # fmt: skip


def big() -> Pretraining:
    """6 + 6 layers of 1,024, 213 M parameters, dropout 0.3 as for English to German (0.1 for French)."""
    return _recipe(
        vocab_size=37_000, length=256, num_layers=6, d_model=1_024, num_heads=16, dropout=0.3,
        batch_size=896, steps=300_000, warmup_steps=4_000, every=1_000,
    )  # fmt: skip


def _recipe(
    *, vocab_size: int, length: int, num_layers: int, d_model: int, num_heads: int, dropout: float,
    batch_size: int, steps: int, warmup_steps: int, every: int,
) -> Pretraining:  # fmt: skip
    return Pretraining(
        tokenizer=ByteLevelBPE(vocab_size=vocab_size),
        windows=TextPairs(length=length),
        objective=SequenceToSequence(label_smoothing=0.1, smoothing="others"),
        model=TransformerConfig(
            num_layers=num_layers, num_decoder_layers=num_layers, d_model=d_model, num_heads=num_heads,
            d_ff=4 * d_model, norm_order="post", positions="sinusoidal_concat", max_positions=1_024,
            scale_embedding=True, activation="relu", dropout=dropout, attention_dropout=0.0, init="xavier",
            init_std=d_model**-0.5,
        ),
        training=Training(
            batch_size=batch_size, steps=steps, lr=noam_peak(d_model, warmup_steps), schedule="noam",
            warmup_steps=warmup_steps, weight_decay=0.0, betas=(0.9, 0.98), eps=1e-9, clip_norm=None,
            eval_every=every, save_every=every,
        ),
    )  # fmt: skip
