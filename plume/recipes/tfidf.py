"""Counted words, the rare ones weighing more, under a linear classifier or k-means: what a network has to beat.

    plume adapt tfidf:words --data reviews.csv --out runs/mood
    plume adapt tfidf:characters --task clusters --data texts --out runs/topics clusters=5

Words of any script; Chinese is cut by rjieba, or read in runs of characters, which needs no dictionary.
"""

from __future__ import annotations

from plume.models.vectors import TfIdf
from plume.training.sparse import Sparse


def words() -> Sparse:
    """Words, each text of length 1, as scikit-learn's defaults weigh them (spec 02 section B)."""
    return Sparse()


def pairs() -> Sparse:
    """Words and pairs of neighbours, tf as 1 + ln tf: a strong baseline of sentiment."""
    return Sparse(ngrams=(1, 2), weights=TfIdf(sublinear_tf=True))


def characters() -> Sparse:
    """Runs of one to three characters."""
    return Sparse(analyzer="characters", ngrams=(1, 3), weights=TfIdf(sublinear_tf=True))
