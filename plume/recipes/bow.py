"""Bags of words: a text is how often each word is in it, and nothing else (spec 02 section A).

plume adapt bow:words --data reviews.csv --out runs/mood
"""

from __future__ import annotations

from plume.models.vectors import TfIdf
from plume.training.sparse import Sparse


def words() -> Sparse:
    """Counts as they are: no weights, no lengths."""
    return Sparse(weights=TfIdf(norm=None, use_idf=False))


def characters() -> Sparse:
    """Counts of single characters and pairs of them, for scripts without blanks between words."""
    return Sparse(analyzer="characters", ngrams=(1, 2), weights=TfIdf(norm=None, use_idf=False))
