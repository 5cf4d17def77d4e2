"""What a model answers with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class Filled:
    """A token for a [MASK], its probability, and the text with it."""

    token: str
    probability: float
    text: str


@dataclass(frozen=True)
class Classified:
    """The likeliest label, and the probability of each."""

    label: str
    probabilities: dict[str, float]

    @property
    def probability(self) -> float:
        """That of ``label``."""
        return self.probabilities[self.label]

    @staticmethod
    def of(labels: Sequence[str], shares: Sequence[float]) -> Classified:
        """The answer where each label has its share; of equally likely ones the first.

        >>> Classified.of(["bad", "good"], [0.25, 0.75]).label
        'good'
        """
        table = dict(zip(labels, shares, strict=True))
        return Classified(max(table, key=lambda label: table[label]), table)


@dataclass(frozen=True)
class Tagged:
    """A word of a text, its likeliest label and how likely that is."""

    word: str
    label: str
    probability: float

    @staticmethod
    def of(words: Sequence[str], labels: Sequence[str], shares: Sequence[Sequence[float]]) -> list[Tagged]:
        """The answers for some words, each with the shares of the labels."""
        rows = [Classified.of(labels, row) for row in shares]
        return [Tagged(word, r.label, r.probability) for word, r in zip(words, rows, strict=True)]


def one_or_many(texts: Any, answer: Callable[[Sequence[Any]], list[T]]) -> Any:
    """``answer`` of many texts; of one text (or a pair of them) its only entry."""
    one = isinstance(texts, str) or (
        isinstance(texts, tuple) and len(texts) == 2 and all(isinstance(t, str) for t in texts)
    )
    return answer([texts])[0] if one else answer(list(texts))
