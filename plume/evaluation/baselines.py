"""What a network must beat: the commonest label, and TF-IDF with logistic regression (spec 02, 26 section 7).

Both classifiers have the same two methods, so a table can hold either.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from plume.errors import UserError
from plume.models import vectors
from plume.models.sparse import Linear, SparseModel

Language = Literal["auto", "en", "zh"]


class Classifier(Protocol):
    """Texts to labels."""

    def predict(self, texts: Sequence[str]) -> list[str]: ...


@dataclass(frozen=True)
class Commonest:
    """Always the commonest label of the training texts; of equally common ones the first in the alphabet."""

    label: str

    @staticmethod
    def fit(labels: Sequence[str]) -> Commonest:
        """
        >>> Commonest.fit(["good", "bad", "good"]).predict(["a text"])
        ['good']
        """
        if not labels:
            raise UserError("a classifier needs labelled texts: there are none")
        seen = Counter(labels)
        return Commonest(min(seen, key=lambda label: (-seen[label], label)))

    def predict(self, texts: Sequence[str]) -> list[str]:
        return [self.label] * len(texts)


class TfIdf:
    """Words and pairs of words, weighted by TF-IDF (tf as 1 + ln tf, idf as ln((1 + N)/(1 + df)) + 1, length 1),
    into logistic regression.

    Chinese is cut into words by rjieba, and its single characters are counted too, because a shop review's
    spelling is no dictionary's.
    """

    def __init__(self, model: SparseModel, terms: Callable[[str], list[str]], strength: float) -> None:
        self.strength = strength
        self._model = model
        self._terms = terms

    @staticmethod
    def fit(
        texts: Sequence[str],
        labels: Sequence[str],
        *,
        language: Language = "auto",
        dev: tuple[Sequence[str], Sequence[str]] | None = None,
        strengths: Sequence[float] = (0.3, 3.0, 30.0),
    ) -> TfIdf:
        """Fit on labelled texts. Of ``strengths`` (inverse regularisation) the one is kept that does best on ``dev``
        (texts, labels); without ``dev`` the middle one is used. Equal input gives an equal classifier.

        Raises:
            UserError: fewer than two labels, no words at all, or scikit-learn is not installed.
        """
        if len(texts) != len(labels):
            raise ValueError(f"{len(texts)} texts and {len(labels)} labels: there must be one of each")
        if len(set(labels)) < 2:
            raise UserError(f"a classifier needs texts of two labels at least, found {sorted(set(labels))}")
        chinese = language == "zh" or (language == "auto" and is_chinese(texts))
        terms = chinese_terms if chinese else english_terms
        weighting = vectors.TfIdf(sublinear_tf=True)
        try:
            bags = vectors.Bags.of(map(terms, texts), min_df=2 if len(texts) >= 1000 else 1)
        except ValueError as error:
            raise UserError(f"the labelled texts have no words to learn from ({error})") from None
        idf, names = weighting.idf(bags), tuple(sorted(set(labels)))
        rows = bags.matrix(weighting.weights(bags, idf))
        numbers = np.array([names.index(label) for label in labels])
        tried = strengths if dev is not None else [strengths[len(strengths) // 2]]
        best: tuple[float, TfIdf] | None = None
        for strength in tried:
            top = Linear.fit(rows, numbers, strength=strength)
            found = TfIdf(SparseModel(bags.terms, idf, weighting, names, top), terms, strength)
            right = 0.0
            if dev is not None:
                right = float((np.array(found.predict(dev[0])) == np.asarray(dev[1])).mean())
            if best is None or right > best[0]:
                best = (right, found)
        assert best is not None
        return best[1]

    @property
    def labels(self) -> list[str]:
        """The labels, in the order of ``probabilities``' columns."""
        return list(self._model.labels)

    def predict(self, texts: Sequence[str]) -> list[str]:
        return [self._model.labels[number] for number in self.probabilities(texts).argmax(1).tolist()]

    def probabilities(self, texts: Sequence[str]) -> NDArray[np.float64]:
        """[n, K], a column a label."""
        return self._model.top.shares(self._model.rows_of(map(self._terms, texts)))


def english_terms(text: str) -> list[str]:
    """Lower-case words, emphatic marks, and pairs of neighbours.

    >>> english_terms("Not good!")
    ['not', 'good', '!', 'not good', 'good !']
    """
    return _with_pairs(re.findall(r"\w+(?:'\w+)?|[!?]", text.lower()))


def chinese_terms(text: str) -> list[str]:
    """Words by rjieba and their pairs; single characters, marked so that they differ from words.

    Without rjieba, which is an extra, characters and their pairs: on shop reviews that is as good.
    """
    characters = [c for c in text.lower() if not c.isspace()]
    try:
        import rjieba
    except ImportError:
        return _with_pairs(characters)
    words = [word for word in rjieba.cut(text.lower()) if not word.isspace()]
    return [*_with_pairs(words), *("." + c for c in characters)]


def _with_pairs(words: list[str]) -> list[str]:
    return [*words, *(f"{a} {b}" for a, b in pairwise(words))]


def is_chinese(texts: Sequence[str]) -> bool:
    """Whether a fifth of the first characters are Chinese."""
    shown = "".join(texts[:1000])[:100_000]
    return sum("\u4e00" <= c <= "\u9fff" for c in shown) > 0.2 * len(shown)
