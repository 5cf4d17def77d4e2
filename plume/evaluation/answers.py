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


def one_or_many(texts: Any, answer: Callable[[Sequence[Any]], list[T]]) -> Any:
    """``answer`` of many texts; of one text (or a pair of them) its only entry."""
    one = isinstance(texts, str) or (
        isinstance(texts, tuple) and len(texts) == 2 and all(isinstance(t, str) for t in texts)
    )
    return answer([texts])[0] if one else answer(list(texts))
