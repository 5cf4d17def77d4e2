"""From texts to ids and marks, a batch at a time: the fast roads beside the ``tokenizers`` library.

Each encoder gives exactly the ids of the library (the tests compare them on random Unicode); what differs is
how little is left to it, and how the boundaries are found: by tables over ids and characters, whole arrays at
a time, never token by token.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
import tokenizers

from plume.text.boundaries import (
    IDEOGRAPH,
    IDEOGRAPHS,
    JOINER,
    LETTER,
    SPACE,
    SYMBOL,
    character_classes,
    codepoints,
    segment,
    sentence_starts,
    word_starts,
)  # fmt: skip
from plume.text.marks import PART, SENTENCE, WORD

Array = np.ndarray[Any, np.dtype[Any]]
Kind = Literal["wordpiece", "bpe", "unigram", "characters", "words"]


class Flat(NamedTuple):
    """A batch of documents end to end: ids uint32 [N], marks uint8 [N], lengths int64 [D]."""

    ids: Array
    marks: Array
    lengths: Array


def joined(flat: Flat, columns: int) -> Flat:
    """Documents of several columns each, where ``flat`` has a text a column; a PART mark begins each but the first.

    A document of which one column has no tokens has none at all.
    """
    if columns == 1:
        return flat
    lengths = flat.lengths.reshape(-1, columns)
    whole = (lengths > 0).all(1)
    kept = np.repeat(np.repeat(whole, columns), flat.lengths)
    starts = (np.cumsum(flat.lengths) - flat.lengths).reshape(-1, columns)[whole, 1:]
    marks = flat.marks.copy()
    marks[starts.ravel()] |= PART
    return Flat(flat.ids[kept], marks[kept], np.where(whole, lengths.sum(1), 0))


class Encoder(Protocol):
    """``segmented``: Chinese words as rjieba cuts them; else every ideograph is a word."""

    def __call__(self, texts: Sequence[str], *, segmented: bool = False) -> Flat: ...


def library_ids(
    library: tokenizers.Tokenizer, texts: Sequence[str], dtype: type = np.uint32
) -> tuple[Array, Array]:
    """The library's own ids, flat, and their number a text. It encodes ahead while Python unpacks the last part."""
    parts: list[list[str]] = [[]]
    size = 0
    for text in texts:
        if size > 2**18:
            parts.append([])
            size = 0
        parts[-1].append(text)
        size += len(text)

    def run(part: list[str]) -> list[tokenizers.Encoding]:
        return library.encode_batch_fast(part, add_special_tokens=False)

    flats: list[Array] = []
    lengths: list[Array] = []

    def unpack(encodings: list[tokenizers.Encoding]) -> None:
        counts = np.fromiter(map(len, encodings), np.int64, len(encodings))
        tokens = itertools.chain.from_iterable(e.ids for e in encodings)
        flats.append(np.fromiter(tokens, dtype, int(counts.sum())))
        lengths.append(counts)

    if len(parts) == 1:
        unpack(run(parts[0]))
    else:
        with ThreadPoolExecutor(1) as ahead:
            coming = ahead.submit(run, parts[0])
            for part in parts[1:]:
                done, coming = coming, ahead.submit(run, part)
                unpack(done.result())
            unpack(coming.result())
    return np.concatenate(flats), np.concatenate(lengths)


class _Joined:
    """Texts joined by newlines, and where each begins: one array pass serves all of them."""

    def __init__(self, texts: Sequence[str]) -> None:
        self.text = "\n".join(texts)
        self.characters = codepoints(self.text)
        sizes = np.fromiter(map(len, texts), np.int64, len(texts))
        self.ends = np.cumsum(sizes + 1) - 1
        self.starts = self.ends - sizes

    def byte_offsets(self) -> Array:
        """Where each character begins in UTF-8, and the end: int64 [T + 1]."""
        c = self.characters
        offsets = np.zeros(len(c) + 1, np.int64)
        np.cumsum(1 + (c >= 0x80) + (c >= 0x800) + (c >= 0x10000), out=offsets[1:])
        return offsets


class _Remembered:
    """Stretches of text that the library tokenized once: it is asked again only for new ones."""

    _MOST = 2**24  # characters that are remembered

    def __init__(self, library: tokenizers.Tokenizer) -> None:
        self._library = library
        self._forget()

    def _forget(self) -> None:
        self._numbers: dict[str, int] = {}
        self._size = 0
        self._ids = np.zeros(0, np.uint32)
        self._begins = np.zeros(1, np.int64)

    def __call__(self, text: str, first: Array, end: Array) -> tuple[Array, Array]:
        """The ids of the stretches ``text[first:end]`` [R], flat, and their number in each."""
        runs = [text[a:b] for a, b in zip(first.tolist(), end.tolist(), strict=True)]
        if self._size > self._MOST:
            self._forget()
        known = self._numbers
        numbers = list(map(known.get, runs))
        if None in numbers:
            new = list(dict.fromkeys(run for run, n in zip(runs, numbers, strict=True) if n is None))
            ids, lengths = library_ids(self._library, new)
            known.update(zip(new, itertools.count(len(known))))
            self._size += sum(map(len, new))
            self._begins = np.concatenate([self._begins, self._begins[-1] + np.cumsum(lengths)])
            self._ids = np.concatenate([self._ids, ids])
            numbers = list(map(known.get, runs))
        number = np.array(numbers, np.int64)
        begins = self._begins[number]
        sizes = self._begins[number + 1] - begins
        return self._ids[np.repeat(begins, sizes) + _counted(sizes)], sizes


def _counted(sizes: Array) -> Array:
    """0, 1, ... within each of stretches of these sizes.

    >>> _counted(np.array([2, 0, 3])).tolist()
    [0, 1, 0, 1, 2]
    """
    ends = np.cumsum(sizes)
    counted: Array = np.arange(int(sizes.sum())) - np.repeat(ends - sizes, sizes)
    return counted


class WordPieceEncoder:
    """BERT's tokenization: blanks separate; ideographs and symbols stand alone; all else is cut and remembered.

    A run is what stands between two of those. The library tokenizes each run once; because nothing that
    separates runs is part of a word, the ids of a text are the ids of its parts.
    """

    _RUN, _BLANK, _ASK = -1, -2, -3
    _ALONE = (
        (0x21, 0x2F), (0x3A, 0x40), (0x5B, 0x60), (0x7B, 0x7E), (0xA1, 0xBF), (0x2010, 0x2027), (0x2030, 0x205E),
        (0x3000, 0x3003), (0x3008, 0x3011), (0x3014, 0x301F), (0xFF01, 0xFF0F), (0xFF1A, 0xFF20), (0xFF3B, 0xFF40),
        (0xFF5B, 0xFF65), (0x09, 0x0D), (0x20, 0x20), (0x85, 0x85), (0xA0, 0xA0), (0x1680, 0x1680),
        (0x2000, 0x200A), (0x2028, 0x2029), (0x205F, 0x205F),
    )  # fmt: skip

    def __init__(self, library: tokenizers.Tokenizer, continues: Array) -> None:
        self._library = library
        self._word = np.where(continues, 0, WORD).astype(np.uint8)  # by id: begins a word
        self._roles = np.full(0x110000, self._RUN, np.int32)
        for first, last in (*IDEOGRAPHS, *self._ALONE):
            self._roles[first : last + 1] = self._ASK
        self._remembered = _Remembered(library)

    def _ask(self, character: str) -> int:
        """What the library does with a character between two letters: an id of its own, nothing, or a word's part."""
        text = self._library.normalizer.normalize_str(f"a{character}b") if self._library.normalizer else ""
        pieces = [piece for piece, _ in self._library.pre_tokenizer.pre_tokenize_str(text)]
        alone = self._library.encode(character, add_special_tokens=False).ids
        if pieces == ["a", "b"] and not alone:
            return self._BLANK
        if len(pieces) == 3 and pieces[::2] == ["a", "b"] and len(alone) == 1:
            return int(alone[0])
        return self._RUN

    def __call__(self, texts: Sequence[str], *, segmented: bool = False) -> Flat:
        joined = _Joined(texts)
        characters = joined.characters
        roles = self._roles[characters]
        unknown = np.unique(characters[roles == self._ASK])
        if len(unknown):
            self._roles[unknown] = [self._ask(chr(c)) for c in unknown.tolist()]
            roles = self._roles[characters]
        inside = roles == self._RUN
        edges = np.flatnonzero(np.diff(inside, prepend=False, append=False))
        first, end = edges[::2], edges[1::2]
        text = joined.text
        run_ids, sizes = self._remembered(text, first, end)
        alone = np.flatnonzero(roles >= 0)
        # How many tokens stand before each character: all else follows from it.
        before = np.zeros(len(characters) + 1, np.int64)
        before[alone + 1] = 1
        before[first + 1] = sizes
        np.cumsum(before, out=before)
        ids = np.empty(int(before[-1]), np.uint32)
        ids[before[alone]] = roles[alone]
        ids[np.repeat(before[first], sizes) + _counted(sizes)] = run_ids
        marks = self._word[ids]
        if segmented:
            ideographs = alone[character_classes()[characters[alone]] == IDEOGRAPH]
            marks[before[ideographs]] = np.where(segment(text)[ideographs], WORD, 0)
        cuts = sentence_starts(text, characters)
        if len(first):  # a place inside a run is where the run begins: what stands before it is dropped
            run = np.searchsorted(first, cuts, "right") - 1
            cuts = np.where((run >= 0) & (cuts < end[run]), first[run], cuts)
        sentences = np.concatenate([before[cuts], before[joined.starts]])
        marks[sentences[sentences < len(marks)]] |= SENTENCE
        return Flat(ids, marks, before[joined.ends] - before[joined.starts])


class ByteLevelEncoder:
    """Byte-level BPE: every token is a known number of bytes, so offsets are one running sum.

    Text with blanks between its words is cut before them, and each word tokenized once: no pre-token reaches
    from something visible over a blank, and none looks back (spec 14 section 3).
    """

    def __init__(self, library: tokenizers.Tokenizer, pieces: Sequence[bytes], *, words: bool) -> None:
        self._library = library
        self._remembered = _Remembered(library) if words else None  # words: the pre-tokenizer is GPT-2's
        self._sizes = np.array([len(p) for p in pieces], np.int64)
        self._blanks = np.array([len(p) - len(p.lstrip()) for p in pieces], np.int64)
        edges = [_edge_classes(p) for p in pieces]
        self._first = np.array([a for a, _ in edges], np.uint8)
        self._last = np.array([b for _, b in edges], np.uint8)

    def __call__(self, texts: Sequence[str], *, segmented: bool = False) -> Flat:
        joined = _Joined(texts)
        blank = joined.characters == ord(" ")
        if self._remembered is not None and int(blank.sum()) * 12 > len(blank):
            ids, lengths = self._by_words(self._remembered, joined, blank)
        else:
            ids, lengths = library_ids(self._library, texts)
        marks = np.zeros(len(ids), np.uint8)
        ends = np.cumsum(lengths)
        starts = ends - lengths
        sizes, blanks = self._sizes[ids], self._blanks[ids]
        # Where the first byte that is no blank of each token lies in the joined text.
        visible = np.cumsum(sizes) - sizes + np.repeat(np.arange(len(texts)), lengths) + blanks
        ascii_only = joined.text.isascii()
        offsets = None if ascii_only else joined.byte_offsets()
        if segmented:
            characters = np.flatnonzero(word_starts(joined.characters, segmented=segment(joined.text)))
            begins = np.zeros(len(joined.characters) + 1 if offsets is None else int(offsets[-1]) + 1, bool)
            begins[characters if offsets is None else offsets[characters]] = True
            word = begins[visible] | (blanks == sizes)
        else:
            # The same rule as ``word_starts``, read off the tokens: their first and last characters' classes.
            first = self._first[ids]
            word = (blanks > 0) | (first == SYMBOL) | (first == IDEOGRAPH)
            last = self._last[ids[:-1]]
            word[1:] |= (first[1:] != last) & (first[1:] != JOINER) & (last != JOINER)
        word[starts[lengths > 0]] = True
        marks[word] = WORD
        characters = sentence_starts(joined.text, joined.characters)
        begin = characters if offsets is None else offsets[characters]
        marks[_tokens_at(visible, blanks == sizes, begin)] |= SENTENCE
        marks[starts[lengths > 0]] |= SENTENCE
        return Flat(ids, marks, lengths)

    def _by_words(self, remembered: _Remembered, joined: _Joined, blank: Array) -> tuple[Array, Array]:
        visible = character_classes()[joined.characters] != SPACE
        cuts = np.flatnonzero(blank[1:] & visible[:-1]) + 1
        first = np.union1d(cuts, joined.starts[joined.starts < joined.ends])
        of = np.searchsorted(joined.starts, first, "right") - 1
        end = np.minimum(np.append(first[1:], len(blank)), joined.ends[of])
        ids, sizes = remembered(joined.text, first, end)
        return ids, np.bincount(of, sizes, len(joined.starts)).astype(np.int64)


def _tokens_at(visible: Array, blank: Array, begins: Array) -> Array:
    """The tokens with which something begins: the first one that is not blank and begins there or later.

    ``visible`` [N], ascending, is where each token's text begins behind its blanks; ``blank`` [N]: it has none.
    """
    solid = np.flatnonzero(~blank)
    place = np.searchsorted(visible[solid], begins)
    return solid[place[place < len(solid)]]


_APOSTROPHES = frozenset((b"'s", b"'t", b"'re", b"'ve", b"'m", b"'ll", b"'d"))


def _edge_classes(piece: bytes) -> tuple[int, int]:
    """Classes of a token's first and last visible characters; of broken ones as far as a byte tells."""
    visible = piece.strip()
    if not visible:
        return SPACE, SPACE
    if visible in _APOSTROPHES:
        return JOINER, LETTER
    table = character_classes()
    if visible[0] & 0xC0 == 0x80:
        first = JOINER  # goes on inside a character
    else:
        whole = visible.decode(errors="ignore")
        lead = visible[0]
        broken = IDEOGRAPH if 0xE3 <= lead <= 0xE9 or lead == 0xF0 else SYMBOL if lead == 0xE2 else LETTER
        first = int(table[ord(whole[0])]) if whole and visible.startswith(whole[0].encode()) else broken
    if piece[-1:].isspace():
        return first, SPACE
    tail = visible[-4:].decode(errors="replace")[-1]
    return first, JOINER if tail == "\ufffd" else int(table[ord(tail)])


class CharacterEncoder:
    """One token a character: a table from code points to ids."""

    def __init__(self, ids: dict[str, int], unknown: int) -> None:
        self._table = np.full(0x110000, unknown, np.uint32)
        for character, number in ids.items():
            self._table[ord(character)] = number

    def __call__(self, texts: Sequence[str], *, segmented: bool = False) -> Flat:
        joined = _Joined(texts)
        characters = joined.characters
        cuts = segment(joined.text) if segmented else None
        marks = np.zeros(len(characters) + 1, np.uint8)
        blank = character_classes()[characters] == SPACE
        marks[:-1][word_starts(characters, segmented=cuts) | blank] = WORD
        marks[sentence_starts(joined.text, characters)] |= SENTENCE
        marks[joined.starts] |= WORD | SENTENCE
        kept = np.ones(len(characters), bool)
        kept[joined.ends[:-1]] = False  # the newlines between texts
        return Flat(self._table[characters][kept], marks[:-1][kept], joined.ends - joined.starts)


class OffsetsEncoder:
    """Any other tokenizer: the library's own offsets, slower and always right."""

    def __init__(self, library: tokenizers.Tokenizer) -> None:
        self._library = library

    def __call__(self, texts: Sequence[str], *, segmented: bool = False) -> Flat:
        encodings = self._library.encode_batch(list(texts), add_special_tokens=False)
        joined = _Joined(texts)
        lengths = np.fromiter(map(len, encodings), np.int64, len(encodings))
        total = int(lengths.sum())
        ids = np.fromiter(itertools.chain.from_iterable(e.ids for e in encodings), np.uint32, total)
        pairs = itertools.chain.from_iterable(itertools.chain.from_iterable(e.offsets for e in encodings))
        spans = (
            np.fromiter(pairs, np.int64, 2 * total).reshape(-1, 2)
            + np.repeat(joined.starts, lengths)[:, None]
        )
        visible = np.flatnonzero(character_classes()[joined.characters] != SPACE)
        # The first visible character of each token; one that has none is a unit of its own.
        place = np.searchsorted(visible, spans[:, 0])
        begin = np.append(visible, len(joined.characters))[place]
        begins = np.zeros(len(joined.characters) + 1, bool)
        cuts = segment(joined.text) if segmented else None
        begins[:-1] = word_starts(joined.characters, segmented=cuts)
        marks = np.where(begins[begin] | (begin >= spans[:, 1]), WORD, 0).astype(np.uint8)
        starts = (np.cumsum(lengths) - lengths)[lengths > 0]
        sentences = sentence_starts(joined.text, joined.characters)
        marks[_tokens_at(np.maximum.accumulate(begin), begin >= spans[:, 1], sentences)] |= SENTENCE
        marks[starts] |= WORD | SENTENCE
        return Flat(ids, marks, lengths)
