"""ELMo: a language model in each direction over characters, its state carried from window to window (spec 04).

``original`` has the network of Peters et al. 2018 and the training of the authors' program (bilm-tf). ``small`` has
the shape of their smallest published network (13.6 M parameters); ``tiny`` that of their test fixture, doubled. The
vocabulary, batch, steps and optimiser of both are ours, for a laptop and a text of some megabytes.
"""

from __future__ import annotations

from plume.models.bilstm import BiLSTMConfig
from plume.objectives.bidirectional import BidirectionalLM
from plume.text.tokenizers import Words
from plume.text.windows import SentenceStream
from plume.training.settings import Pretraining, Training


def tiny() -> Pretraining:
    """2 layers of 128 cells, 32 passed on."""
    model = BiLSTMConfig(
        d_model=32, d_cell=128, d_character=4, filters=((1, 4), (2, 8), (3, 16), (4, 32), (5, 64))
    )
    return _laptop(model, vocab_size=8_192, samples=None, steps=4_000, lr=3e-3)


def small() -> Pretraining:
    """2 layers of 1,024 cells, 128 passed on: the published "small" network."""
    model = BiLSTMConfig(d_model=128, d_cell=1_024, num_highways=1)
    return _laptop(model, vocab_size=30_000, samples=2_048, steps=20_000, lr=1e-3)


def original() -> Pretraining:
    """2 layers of 4,096 cells, 512 passed on: 93.6 M parameters, and 407 M in the table of 793,471 words.

    Ten passes over the 768,648,884 tokens of the 1B Word Benchmark, 3 x 128 rows of 20. The weight of each
    direction is its half times those 20 steps, as the program's loss before it is clipped at 10.
    """
    return Pretraining(
        tokenizer=Words(vocab_size=793_471, lowercase=False, spelled=True),
        windows=SentenceStream(length=20),
        objective=BidirectionalLM(samples=8_192, weight=10.0),
        model=BiLSTMConfig(),
        training=Training(
            batch_size=384, steps=1_000_845, optimizer="adagrad", lr=0.2, schedule="constant", warmup_steps=0,
            weight_decay=0.0, clip_norm=10.0, spike_sigma=None, eval_every=10_000, eval_batches=50, save_every=1_000,
        ),
    )  # fmt: skip


def _laptop(
    model: BiLSTMConfig, *, vocab_size: int, samples: int | None, steps: int, lr: float
) -> Pretraining:
    return Pretraining(
        tokenizer=Words(vocab_size=vocab_size, lowercase=False, spelled=True),
        windows=SentenceStream(length=20),
        objective=BidirectionalLM(samples=samples),
        model=model,
        training=Training(
            batch_size=32,
            steps=steps,
            lr=lr,
            schedule="cosine",
            min_lr_share=0.1,
            weight_decay=0.0,
            clip_norm=1.0,
        ),
    )
