"""Word2Vec: a word is known by its neighbours (Mikolov et al. 2013; spec 02 section E).

Widths, window, noise words, thinning and rates are those of the published program. Ours are: sentences and not
lines, punctuation as words, noise words that the pairs of a word share, and a number of steps instead of epochs; a
step reads a thousand sentences.
"""

from __future__ import annotations

from plume.models.lookup import LookupConfig
from plume.objectives.skipgram import SkipGram
from plume.text.tokenizers import Words
from plume.text.windows import Sentences
from plume.training.settings import Pretraining, Training


def tiny() -> Pretraining:
    """Skip-gram, 32 wide: seconds on a text of some megabytes."""
    return _word2vec(SkipGram(), LookupConfig(d_model=32), lr=0.05, steps=200, batch_size=100, min_count=2)


def skipgram() -> Pretraining:
    """Each neighbour alone says which word it is: 100 wide, window 5, 5 noise words, rate 0.025."""
    return _word2vec(SkipGram(), LookupConfig(d_model=100), lr=0.025)


def cbow() -> Pretraining:
    """The mean of the neighbours says it: rate 0.05, and every neighbour gets the whole gradient, as published."""
    return _word2vec(SkipGram(cbow=True), LookupConfig(d_model=100, bag=True, full_error=True), lr=0.05)


def _word2vec(
    objective: SkipGram,
    model: LookupConfig,
    *,
    lr: float,
    steps: int = 2_000,
    batch_size: int = 1_000,
    min_count: int = 5,
) -> Pretraining:
    return Pretraining(
        tokenizer=Words(vocab_size=1_000_000, min_count=min_count),
        windows=Sentences(length=1_000),
        objective=objective,
        model=model,
        training=Training(
            batch_size=batch_size,
            microbatch_size=min(50, batch_size),
            steps=steps,
            lr=lr,
            schedule="linear",
            warmup_steps=0,
            min_lr_share=1e-4,
            weight_decay=0.0,
            clip_norm=None,
            spike_sigma=None,
            precision="fp32",
            updates="word",
            eval_every=max(20, steps // 10),
            eval_batches=1,
            save_every=max(20, steps // 10),
        ),
    )
