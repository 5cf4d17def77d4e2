"""Words as the units of a text, in any script: cut whole arrays at a time, never letter by letter.

A word is a run of letters and digits, apostrophes and hyphens inside it included ("don't", "well-known"); an
ideograph belongs to the word that rjieba finds; every other visible character is a word of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
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
    word_starts,
)
from plume.text.encoding import Flat
from plume.text.marks import SENTENCE, WORD

_INNER = np.array([ord(c) for c in "'’-"], np.uint32)


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
    sizes = np.fromiter(map(len, texts), np.int64, len(texts))
    last = np.cumsum(sizes + 1)  # one past the newline after each text
    lengths = np.diff(np.searchsorted(starts, last), prepend=0)
    sentences = np.searchsorted(starts, np.append(sentence_starts(text), last - sizes - 1))
    return Words(found, starts, ends, lengths, np.unique(sentences[sentences < len(starts)]))


def word_spans(texts: Sequence[str], *, lowercase: bool = False) -> tuple[str, Array, Array]:
    """The texts joined by newlines, and where the words in them begin and end, int64 [N] each.

    Raises:
        UserError: there is Chinese among them, and rjieba is not installed.
    """
    text = "\n".join(texts)
    characters = codepoints(text)
    kind = character_classes()[characters]
    begins = word_starts(characters, segmented=_segmented(text) if (kind == IDEOGRAPH).any() else None)
    letter = kind == LETTER
    inner = np.zeros(len(kind), bool)
    inner[1:-1] = np.isin(characters[1:-1], _INNER) & letter[:-2] & letter[2:]
    begins[inner] = False
    begins[1:][inner[:-1]] = False
    _adopt(begins, kind)
    starts = np.flatnonzero(begins)
    stops = np.append(np.flatnonzero(begins | (kind == SPACE)), len(kind))  # a word ends at the next of these
    ends = stops[np.searchsorted(stops, starts, "right")]
    return _lower(text) if lowercase else text, starts, ends


def _adopt(begins: Array, kind: Array) -> None:
    """Begin a word, in place, at visible characters that follow a joiner which is joined to nothing."""
    blank = kind == SPACE
    before = np.maximum.accumulate(np.where(begins | blank, np.arange(len(kind)), -1))
    nowhere = (before < 0) | blank[before]
    orphans = np.flatnonzero(nowhere & ~blank & (kind != JOINER))
    if len(orphans):
        begins[orphans[np.diff(before[orphans], prepend=-2) != 0]] = True


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
        self._ids, self._unknown, self._lowercase = ids, unknown, lowercase
        self._spelled = spelled or {}

    def __call__(self, texts: Sequence[str], *, segmented: bool = False) -> Flat:
        words = cut(texts, lowercase=self._lowercase)
        get, unknown = self._ids.get, self._unknown
        ids = np.fromiter((get(word, unknown) for word in words.words), np.uint32, len(words.words))
        if self._spelled and (ids == unknown).any():
            return self._spell(words, ids)
        marks = np.full(len(ids), WORD, np.uint8)
        marks[words.sentences] |= SENTENCE
        return Flat(ids, marks, words.lengths)

    def _spell(self, words: Words, ids: Array) -> Flat:
        table = self._spelled
        strange = np.flatnonzero(ids == self._unknown)
        spellings = [[table[c] for c in words.words[n] if c in table] for n in strange.tolist()]
        sizes = np.ones(len(ids), np.int64)
        sizes[strange] += [len(spelling) for spelling in spellings]
        begins = np.cumsum(sizes) - sizes
        flat = np.full(int(sizes.sum()), self._unknown, np.uint32)
        flat[begins] = ids
        for at, spelling in zip(begins[strange].tolist(), spellings, strict=True):
            flat[at + 1 : at + 1 + len(spelling)] = spelling
        marks = np.zeros(len(flat), np.uint8)
        marks[begins] = WORD
        marks[begins[words.sentences]] |= SENTENCE
        before = np.concatenate([[0], np.cumsum(sizes)])
        ends = np.cumsum(words.lengths)
        return Flat(flat, marks, before[ends] - before[ends - words.lengths])
