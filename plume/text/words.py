"""Words as the units of a text, in any script: cut whole arrays at a time, never letter by letter.

A word is a run of letters and digits, apostrophes and hyphens inside it included ("don't", "well-known"); an
ideograph belongs to the word that rjieba finds; every other visible character is a word of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

import numpy as np

from plume.errors import UserError
from plume.text.boundaries import (
    IDEOGRAPH,
    JOINER,
    LETTER,
    SPACE,
    Array,
    character_classes,
    codepoints,
    segment,
    sentence_starts,
)
from plume.text.encoding import Flat
from plume.text.marks import SENTENCE, WORD
from plume.text.numbering import Numbers


class Words(NamedTuple):
    """The words of a batch of texts end to end.

    words [N]; starts and ends int64 [N]: where each stands in the texts joined by newlines; lengths int64 [D]: words a
    text; sentences int64 [S]: the words that begin a sentence.
    """

    words: list[str]
    starts: Array
    ends: Array
    lengths: Array
    sentences: Array


def cut(texts: Sequence[str], *, lowercase: bool = False) -> Words:
    """The words of ``texts``.

    >>> cut(["Don't panic: 我们喜欢北京。"]).words
    ["Don't", 'panic', ':', '我们', '喜欢', '北京', '。']

    Raises:
        UserError: there is Chinese among them, and rjieba is not installed.
    """
    text, starts, ends = word_spans(texts)
    spelled = _lower(text) if lowercase else text
    found = [spelled[a:b] for a, b in zip(starts.tolist(), ends.tolist(), strict=True)]
    return Words(found, starts, ends, *_divided(texts, text, starts))


def _divided(texts: Sequence[str], text: str, starts: Array) -> tuple[Array, Array]:
    """``Words.lengths`` and ``Words.sentences`` of texts joined by newlines, given where their words begin."""
    sizes = np.fromiter(map(len, texts), np.int64, len(texts))
    last = np.cumsum(sizes + 1)  # one past the newline after each text
    lengths = np.diff(np.searchsorted(starts, last), prepend=0)
    characters = codepoints(text).copy()
    # Between texts nobody need look whether a sentence ends: a text begins.
    characters[last[:-1] - 1] = ord("0")
    sentences = np.searchsorted(starts, np.append(sentence_starts(text, characters), last - sizes - 1))
    return lengths, np.unique(sentences[sentences < len(starts)])


def numbered(texts: Sequence[str], table: Numbers, *, lowercase: bool) -> Array:
    """The words of ``texts`` as numbers of ``table``, which learns the new ones: int32 [N]."""
    text, starts, ends = word_spans(texts, lowercase=lowercase)
    return table.number(codepoints(text), starts, ends)


def word_spans(texts: Sequence[str], *, lowercase: bool = False) -> tuple[str, Array, Array]:
    """The texts joined by newlines, and where the words in them begin and end, int64 [N] each.

    Raises:
        UserError: there is Chinese among them, and rjieba is not installed.
    """
    from plume.text import term_kernels as kernels

    text = "\n".join(texts)
    characters = codepoints(text)
    kind = character_classes()[characters]
    segmented = _segmented(text) if (kind == IDEOGRAPH).any() else np.zeros(0, bool)
    starts, ends = np.empty((2, len(kind)), np.int64)
    found = kernels.words(
        characters, kind, _inner(), segmented, SPACE, LETTER, IDEOGRAPH, JOINER, starts, ends
    )
    return _lower(text) if lowercase else text, starts[:found].copy(), ends[:found].copy()


@cache
def _inner() -> Array:
    """Which code points stay inside a word when letters stand on both of their sides."""
    table = np.zeros(0x110000, bool)
    table[[ord(c) for c in "'’-"]] = True
    return table


def _segmented(text: str) -> Array:
    try:
        return segment(text)
    except ImportError as error:
        raise UserError("Chinese is cut into words by rjieba: pip install 'plume-lm[data]'") from error


def _lower(text: str) -> str:
    """``text`` in small letters, each as long as before ("İ" would become two characters)."""
    small = text.lower()
    if len(small) == len(text):
        return small
    return "".join(low if len(low := c.lower()) == 1 else c for c in text)


class WordsEncoder:
    """One token a word: a dictionary from words to ids.

    ``spelled``, character -> id: after the unknown token stand the characters of the word, as far as they are known.
    """

    def __init__(
        self, ids: dict[str, int], unknown: int, *, lowercase: bool, spelled: dict[str, int] | None = None
    ) -> None:
        self._unknown, self._lowercase = unknown, lowercase
        self._spelled = spelled or {}
        self._table = Numbers()
        self._ids = np.array([*ids.values(), unknown], np.uint32)  # the last: that of -1
        lengths = np.fromiter(map(len, ids), np.int64, len(ids))
        ends = np.cumsum(lengths)
        self._table.number(codepoints("".join(ids)), ends - lengths, ends)

    def __call__(self, texts: Sequence[str], *, segmented: bool = False) -> Flat:
        text, starts, ends = word_spans(texts)
        lengths, sentences = _divided(texts, text, starts)  # where capitals tell
        text = _lower(text) if self._lowercase else text
        ids = self._ids[self._table.known(codepoints(text), starts, ends)]
        if self._spelled and (strange := np.flatnonzero(ids == self._unknown)).size:
            places = zip(starts[strange].tolist(), ends[strange].tolist(), strict=True)
            return self._spell(ids, strange, [text[a:b] for a, b in places], lengths, sentences)
        marks = np.full(len(ids), WORD, np.uint8)
        marks[sentences] |= SENTENCE
        return Flat(ids, marks, lengths)

    def _spell(self, ids: Array, strange: Array, words: list[str], lengths: Array, sentences: Array) -> Flat:
        """``strange``: which of ``ids`` are unknown, ``words`` what they are."""
        table = self._spelled
        spellings = [[table[c] for c in word if c in table] for word in words]
        sizes = np.ones(len(ids), np.int64)
        sizes[strange] += [len(spelling) for spelling in spellings]
        begins = np.cumsum(sizes) - sizes
        flat = np.full(int(sizes.sum()), self._unknown, np.uint32)
        flat[begins] = ids
        for at, spelling in zip(begins[strange].tolist(), spellings, strict=True):
            flat[at + 1 : at + 1 + len(spelling)] = spelling
        marks = np.zeros(len(flat), np.uint8)
        marks[begins] = WORD
        marks[begins[sentences]] |= SENTENCE
        before = np.concatenate([[0], np.cumsum(sizes)])
        ends = np.cumsum(lengths)
        return Flat(flat, marks, before[ends] - before[ends - lengths])
