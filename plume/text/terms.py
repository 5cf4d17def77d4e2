"""From texts to the terms they are found by: words, or runs of characters (spec 02 section A).

``analyzer`` gives the terms of one text as strings; ``coded`` those of many as numbers, whole arrays at a time.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache
from typing import Literal, NamedTuple

import numpy as np

from plume.text.boundaries import Array, codepoints
from plume.text.numbering import Numbers
from plume.text.words import cut, word_spans

Analyzer = Literal["words", "characters", "pattern"]
_PATTERN = re.compile(r"(?u)\b\w\w+\b")
_BATCH = 2**20  # characters that are looked at at once


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


class Coded(NamedTuple):
    """The terms of many texts. names: each term once; codes int32 [N]: which of them stand in the texts, one text
    after the other; lengths int64 [D]: terms a text."""

    names: list[str]
    codes: Array
    lengths: Array


def coded(texts: Iterable[str], kind: Analyzer = "words", ngrams: tuple[int, int] = (1, 1)) -> Coded:
    """What ``analyzer`` finds in each text, as numbers; the order inside a text is another where n-grams are mixed.

    >>> coded(["a cat, a dog", "dog"])
    Coded(names=['a', 'cat', 'dog'], codes=array([0, 1, 0, 2, 2], dtype=int32), lengths=array([4, 1]))
    """
    low, high = ngrams
    terms, parts, sizes = Numbers(), [], []
    for batch in _batches(texts):
        units, starts, ends, owners = _spans(batch, kind)
        if kind == "characters":
            starts, ends, owners = _stretches(starts, ends, owners, low, high)
        parts.append(terms.number(units, starts, ends))
        sizes.append(np.bincount(owners, minlength=len(batch)))
    codes = np.concatenate(parts) if parts else np.zeros(0, np.int32)
    lengths = np.concatenate(sizes) if sizes else np.zeros(0, np.int64)
    names = terms.names()
    if kind == "characters" or high == 1:
        return Coded(names, codes, lengths)
    # Runs of words are runs of numbers, looked up by the same means.
    last = np.cumsum(lengths)
    starts, ends, owners = _stretches(last - lengths, last, np.arange(len(lengths)), max(low, 2), high)
    several = Numbers()
    more = several.number(codes.view(np.uint32), starts, ends)
    joined = [" ".join(names[c] for c in run.tolist()) for run in several.runs()]
    if low > 1:
        return Coded(joined, more, np.bincount(owners, minlength=len(lengths)))
    owners = np.concatenate([np.repeat(np.arange(len(lengths)), lengths), owners])
    order = np.argsort(owners, kind="stable")
    return Coded(
        names + joined,
        np.concatenate([codes, more + np.int32(len(names))])[order],
        np.bincount(owners, minlength=len(lengths)),
    )


def _batches(texts: Iterable[str]) -> Iterator[list[str]]:
    held: list[str] = []
    size = 0
    for text in texts:
        held.append(text)
        size += len(text)
        if size > _BATCH:
            yield held
            held, size = [], 0
    if held:
        yield held


@cache
def _letters() -> tuple[Array, Array]:
    """Which code points are alphanumeric, and which are so or "_", as regular expressions have it."""
    alphanumeric = np.fromiter((chr(c).isalnum() for c in range(0x110000)), bool, 0x110000)
    word = alphanumeric.copy()
    word[ord("_")] = True
    return alphanumeric, word


def _spans(texts: Sequence[str], kind: Analyzer) -> tuple[Array, Array, Array, Array]:
    """The characters of some texts, where their words (or runs of letters) begin and end, and whose they are."""
    from plume.text import term_kernels as kernels

    alphanumeric, word = _letters()
    if kind == "words":
        text, starts, ends = word_spans(texts, lowercase=True)
        units = codepoints(text)
        kept = kernels.holding(units, alphanumeric, starts, ends)
        starts, ends, sizes = starts[kept], ends[kept], [len(t) for t in texts]
    else:
        small = [text.lower() for text in texts]
        units, sizes = codepoints("\n".join(small)), [len(t) for t in small]
        starts, ends = np.empty((2, len(units) // 2 + 1), np.int64)
        pattern = kind == "pattern"
        found = kernels.runs(units, word if pattern else alphanumeric, 2 if pattern else 1, starts, ends)
        starts, ends = starts[:found], ends[:found]
    last = np.cumsum(np.array(sizes, np.int64) + 1)  # one past the newline after each text
    return units, starts, ends, np.searchsorted(last, starts, "right")


def _stretches(starts: Array, ends: Array, owners: Array, low: int, high: int) -> tuple[Array, Array, Array]:
    """Every stretch of ``low`` to ``high`` units inside the spans, in the order of their owners."""
    found = []
    for n in range(low, high + 1):
        room = np.maximum(ends - starts - n + 1, 0)
        which = np.repeat(np.arange(len(starts)), room)
        first = np.arange(len(which)) - np.repeat(np.cumsum(room) - room, room) + starts[which]
        found.append((first, first + n, owners[which]))
    first, end, owner = (np.concatenate(columns) for columns in zip(*found, strict=True))
    order = np.argsort(owner, kind="stable")
    return first[order], end[order], owner[order]
