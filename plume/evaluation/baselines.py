"""What a network must beat: the commonest label, and TF-IDF with logistic regression (spec 02, 26 section 7).

scikit-learn does the work. Both classifiers have the same two methods, so a table can hold either.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from plume.errors import UserError

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

    def __init__(self, vectorizer: Any, regression: Any, strength: float) -> None:
        self.strength = strength
        self._vectorizer = vectorizer
        self._regression = regression

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
        feature, linear = _scikit()
        if len(texts) != len(labels):
            raise ValueError(f"{len(texts)} texts and {len(labels)} labels: there must be one of each")
        if len(set(labels)) < 2:
            raise UserError(f"a classifier needs texts of two labels at least, found {sorted(set(labels))}")
        chinese = language == "zh" or (language == "auto" and is_chinese(texts))
        vectorizer = feature.TfidfVectorizer(
            analyzer=chinese_terms if chinese else english_terms,
            min_df=2 if len(texts) >= 1000 else 1,
            sublinear_tf=True,
            dtype=np.float32,
        )
        try:
            rows = vectorizer.fit_transform(texts)
        except ValueError as error:
            raise UserError(f"the labelled texts have no words to learn from ({error})") from None
        asked = None if dev is None else vectorizer.transform(dev[0])
        tried = strengths if dev is not None else [strengths[len(strengths) // 2]]
        best: tuple[float, float, Any] | None = None
        for strength in tried:
            regression = linear.LogisticRegression(C=strength, max_iter=1000).fit(rows, list(labels))
            right = 0.0
            if dev is not None:
                right = float((regression.predict(asked) == np.asarray(dev[1])).mean())
            if best is None or right > best[0]:
                best = (right, strength, regression)
        assert best is not None
        return TfIdf(vectorizer, best[2], best[1])

    @property
    def labels(self) -> list[str]:
        """The labels, in the order of ``probabilities``' columns."""
        return [str(label) for label in self._regression.classes_]

    def predict(self, texts: Sequence[str]) -> list[str]:
        return [str(label) for label in self._regression.predict(self._vectorizer.transform(texts))]

    def probabilities(self, texts: Sequence[str]) -> NDArray[np.float64]:
        """[n, K], a column a label."""
        return np.asarray(self._regression.predict_proba(self._vectorizer.transform(texts)), np.float64)


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


def _scikit() -> tuple[Any, Any]:
    try:
        from sklearn import linear_model
        from sklearn.feature_extraction import text
    except ImportError as error:
        raise UserError("this baseline needs scikit-learn: pip install 'plume-lm[eval]'") from error
    return text, linear_model
