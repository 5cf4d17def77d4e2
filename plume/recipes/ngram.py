"""n-gram models: counts, and what is done about what was never seen (spec 01).

    plume pretrain ngram:kneser_ney --data texts --out runs/kn model.order=5
    plume pretrain ngram:kneser_ney --data texts --out runs/zh tokenizer=Characters tokenizer.vocab_size=6000

``notes`` are the formulas of the lecture notes as they stand there, three levels deep; the others generalise or
replace them. Any tokenizer will do; words are the default.
"""

from __future__ import annotations

from plume.models.smoothing import KneserNey, Laplace
from plume.text.tokenizers import Words
from plume.training.counting import Counting, NGramConfig


def notes() -> Counting:
    """The notes' three levels: raw counts, each level falling back to the unigram. Of the last n-gram of each text
    they lose some mass (``missing_mass`` says where). eps = 1 at every level is ours; the notes leave it open."""
    smoothing = Laplace(eps=(1.0, 1.0, 1.0), backoff="unigram", context="raw")
    return Counting(tokenizer=Words(), model=NGramConfig(order=3, smoothing=smoothing, ends=False))


def laplace() -> Counting:
    """The notes' formulas at any order, so that all sums are 1: each level falls back to the one below, and a
    context counts as often as something follows it. eps is ours."""
    return Counting(tokenizer=Words(), model=NGramConfig(smoothing=Laplace(eps=1.0)))


def mle() -> Counting:
    """Maximum likelihood: what was not seen is impossible."""
    return Counting(tokenizer=Words(), model=NGramConfig(smoothing=Laplace(eps=0.0)))


def kneser_ney() -> Counting:
    """Interpolated modified Kneser-Ney (Chen and Goodman 1999), as KenLM's ``lmplz`` estimates it. Order 3 and no
    pruning are ours: 5 and ``model.smoothing.prune=[0,0,1]`` suit large corpora."""
    return Counting(tokenizer=Words(), model=NGramConfig(smoothing=KneserNey()))
