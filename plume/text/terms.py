"""From a text to the terms it is found by: words, or runs of characters (spec 02 section A)."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Literal

from plume.text.words import cut

Analyzer = Literal["words", "characters", "pattern"]
_PATTERN = re.compile(r"(?u)\b\w\w+\b")


def analyzer(kind: Analyzer = "words", ngrams: tuple[int, int] = (1, 1)) -> Callable[[str], list[str]]:
    """A function from texts to terms, all in small letters.

    "words": words of any script, Chinese by rjieba, symbols left out. "characters": runs of letters, for texts
    without word boundaries. "pattern": scikit-learn's default, words of two letters and more, which takes a
    Chinese clause for one word.

    >>> analyzer()("The cat sat, 我们喜欢北京。")
    ['the', 'cat', 'sat', '我们', '喜欢', '北京']
    >>> analyzer("characters", (2, 2))("北京 ok")
    ['北京', 'ok']
    """

    def terms(text: str) -> list[str]:
        if kind == "pattern":
            return _runs(_PATTERN.findall(text.lower()), ngrams, " ")
        if kind == "words":
            words = [word for word in cut([text], lowercase=True).words if any(map(str.isalnum, word))]
            return _runs(words, ngrams, " ")
        parts = "".join(c if c.isalnum() else " " for c in text.lower()).split()
        return [term for part in parts for term in _runs(part, ngrams, "")]

    return terms


def _runs(units: Sequence[str], ngrams: tuple[int, int], join: str) -> list[str]:
    low, high = ngrams
    found = list(units) if low == 1 else []
    for n in range(max(low, 2), high + 1):
        found += [join.join(units[i : i + n]) for i in range(len(units) - n + 1)]
    return found
