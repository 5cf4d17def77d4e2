"""How windows are looked up in memory-mapped tokens, and in what order."""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from plume.seeding import Permutation, rng
from plume.text.marks import SENTENCE
from plume.text.pairs import Draws, Pair
from plume.text.tokens import Tokens
from plume.text.window import Ints, Window

NOTHING = -100  # a window's label where there is nothing to ask
ADVANCE = "advance"  # a window's label: how many tokens further the next window of its row begins
_NEAR = 256  # tokens that are searched for the beginning of a sentence
_BLOCK = 2**22  # tokens looked at together when sentences are filled into windows


@dataclass(frozen=True)
class Shuffled:
    permutation: Permutation
    window: Callable[[int], Window]

    def __len__(self) -> int:
        return len(self.permutation)

    def __getitem__(self, index: int) -> Window:
        return self.window(self.order(index))

    def order(self, index: int) -> int:
        return self.permutation[index]

    def starts(self, index: int) -> bool:
        return True


@dataclass(frozen=True)
class Stream:
    """The documents with eos after each, as one sequence that is never made: its tokens are looked up."""

    tokens: Tokens
    eos: int

    @property
    def size(self) -> int:
        return self.tokens.num_tokens + self.tokens.num_documents

    def document(self, place: int, after: int = 0, before: int | None = None) -> int:
        """The document that ``place`` lies in, one from ``after`` to ``before``; its eos belongs to it."""
        starts = self.tokens.documents
        documents = range(len(starts) - 1)
        return bisect_right(documents, place, after, before, key=lambda d: int(starts[d]) + d) - 1

    def read(self, first: int, length: int) -> Window:
        before = self.document(first)
        # No document is shorter than its eos.
        last = self.document(first + length - 1, before, min(before + length, self.tokens.num_documents))
        ends = self.tokens.documents[before + 1 : last + 2] + np.arange(before - first, last + 1 - first)
        ends = ends[: np.searchsorted(ends, length)]
        text = np.ones(length, bool)
        text[ends] = False
        here = slice(first - before, first - before + length - len(ends))
        ids, marks = np.full(length, self.eos), np.zeros(length, np.uint8)
        ids[text], marks[text] = self.tokens.ids[here], self.tokens.marks[here]
        return Window(ids, marks, ~text, np.zeros(length, np.int64))


@dataclass(frozen=True)
class Rows:
    stream: Stream
    batch_size: int
    batches: int
    offset: int
    row: int  # tokens a row
    step: int
    length: int

    def __len__(self) -> int:
        return self.batches * self.batch_size

    def __getitem__(self, index: int) -> Window:
        if not 0 <= index < len(self):
            raise IndexError(index)
        batch, row = divmod(index, self.batch_size)
        return self.stream.read(self.offset + row * self.row + batch * self.step, self.length)

    def order(self, index: int) -> int:
        return index

    def starts(self, index: int) -> bool:
        return index < self.batch_size


@dataclass(frozen=True)
class Stretches:
    """Stretches of text one after the other, in the order of the text; ``cuts`` [W + 1] is where each begins."""

    tokens: Tokens
    cuts: Ints

    def __len__(self) -> int:
        return len(self.cuts) - 1

    def __getitem__(self, index: int) -> Window:
        if not 0 <= index < len(self):
            raise IndexError(index)
        a, b = self.cuts[index : index + 2].tolist()
        return Window(
            self.tokens.ids[a:b].astype(np.int64),
            np.asarray(self.tokens.marks[a:b]),
            np.zeros(b - a, bool),
            np.zeros(b - a, np.int64),
        )

    def order(self, index: int) -> int:
        return index

    def starts(self, index: int) -> bool:
        return True

    def read(self, first: int, end: int) -> tuple[Ints, Ints]:
        """Windows ``first`` to ``end`` at once: their ids end to end, int32, and where each begins in them [W + 1]."""
        cuts = self.cuts[first : end + 1]
        return np.asarray(self.tokens.ids[cuts[0] : cuts[-1]]).astype(np.int32), cuts - cuts[0]


def sentence_cuts(tokens: Tokens, room: int) -> Ints:
    """Where each sentence begins, and the end; longer ones are cut every ``room`` tokens. 8 bytes a sentence."""
    cuts = _sentences(tokens)
    pieces = -(-np.diff(cuts) // room)
    if not len(pieces) or pieces.max() == 1:
        return cuts
    first = np.cumsum(pieces) - pieces
    inside = np.arange(int(pieces.sum())) - np.repeat(first, pieces)
    return np.append(np.repeat(cuts[:-1], pieces) + inside * room, cuts[-1])


def _sentences(tokens: Tokens) -> Ints:
    places = [
        np.flatnonzero(np.asarray(tokens.marks[at : at + _BLOCK]) & SENTENCE) + at
        for at in range(0, tokens.num_tokens, _BLOCK)
    ]
    return np.union1d(np.concatenate([np.zeros(0, np.int64), *places]), tokens.documents)


@dataclass(frozen=True)
class PairRows:
    """``rows`` of ``advance`` tokens of the stream and some more, of which a pair is made (spec 10 section 4)."""

    rows: Rows
    advance: int
    cls: int
    sep: int
    seed: int
    epoch: int

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Window:
        here = self.rows[index]
        draw = rng(self.seed, "pairs", self.epoch, index)
        room = len(here) - self.advance
        # Sentences that begin in the second half, after its first token: A ends before one of them.
        ends = np.flatnonzero(here.marks[self.advance + 1 :] & SENTENCE) + 1
        split = int(ends[draw.integers(len(ends))]) if len(ends) else (room + 1) // 2
        random = not len(ends) or draw.random() < 0.5
        size, first = room - split, self.advance + split
        second, at = here, first
        if random:
            second, at = self.rows.stream.read(self._sentence(draw, size), size), 0
        length = len(here) + 3
        ids, marks = np.full(length, self.sep), np.zeros(length, np.uint8)
        special, types = np.ones(length, bool), np.zeros(length, np.int64)
        for part, a, b, to in ((here, 0, first, 0), (second, at, at + size, first + 1)):
            goes = slice(to, to + b - a)
            ids[goes], marks[goes], special[goes] = part.ids[a:b], part.marks[a:b], part.special[a:b]
        ids[-1] = self.cls
        types[first + 1 :] = 1
        types[-1] = 2
        return Window(ids, marks, special, types, {"next_sentence": int(random), ADVANCE: self.advance})

    def _sentence(self, draw: np.random.Generator, size: int) -> int:
        """Where to read ``size`` tokens: at a random place, or where the sentence around it begins, if that is near."""
        stream = self.rows.stream
        place = int(draw.integers(stream.size - size + 1))
        back = min(place, _NEAR)
        begins = np.flatnonzero(stream.read(place - back, back + 1).marks & SENTENCE)
        return place - back + int(begins[-1]) if len(begins) else place

    def order(self, index: int) -> int:
        return index

    def starts(self, index: int) -> bool:
        return self.rows.starts(index)


def framed(
    tokens: Tokens,
    spans: Sequence[tuple[int, int]],
    cls: int,
    sep: int,
    labels: Mapping[str, int],
    inside: Ints | None = None,
) -> Window:
    """[CLS] span [SEP] (span [SEP]); a further [SEP] before the tokens ``inside`` a span that is alone."""
    # Where text is taken, piece by piece; a [SEP] follows each.
    pieces = spans
    if inside is not None:
        ((start, stop),) = spans
        cuts = [start, *(inside + start).tolist(), stop]
        pieces = list(pairwise(cuts))
    length = 1 + sum(end - first + 1 for first, end in pieces)
    ids, marks = np.zeros(length, np.int64), np.zeros(length, np.uint8)
    special, types = np.zeros(length, bool), np.zeros(length, np.int64)
    ids[0], special[0] = cls, True
    at = 1
    for first, end in pieces:
        here = slice(at, at + end - first)
        ids[here], marks[here] = tokens.ids[first:end], tokens.marks[first:end]
        ids[here.stop], special[here.stop] = sep, True
        at = here.stop + 1
    if len(spans) > 1:
        types[pieces[0][1] - pieces[0][0] + 2 :] = 1
    return Window(ids, marks, special, types, labels)


def fill(tokens: Tokens, room: int, cross: bool) -> Ints:
    """Where windows of whole sentences begin, and the end: int64 [W + 1]. Bounded memory beside the result."""
    cuts = array("q", [0])
    at, total = 0, tokens.num_tokens
    block = max(_BLOCK, 4 * room)
    while at < total:
        high = min(at + block, total)
        ends = np.flatnonzero(np.asarray(tokens.marks[at:high]) & SENTENCE) + at
        ends = np.append(ends[ends > at], high)
        inner = np.asarray(
            tokens.documents[slice(*np.searchsorted(tokens.documents, (at + 1, high)).tolist())]
        )
        # A window from a to e has e - a tokens and a separator for each document that begins inside.
        size = ends + np.searchsorted(inner, ends, "left") * cross
        while at < high and (high == total or at + room < high):
            used = at + int(np.searchsorted(inner, at, "right")) * cross
            number = int(np.searchsorted(size, used + room, "right")) - 1
            end = int(ends[number]) if number >= 0 else at
            if not cross:
                later = int(np.searchsorted(inner, at, "right"))
                end = min(end, int(inner[later])) if later < len(inner) else end
            at = end if end > at else min(at + room, high)
            cuts.append(at)
    return np.frombuffer(cuts, np.int64)


Pairs = Callable[[int, Callable[[int], Sequence[int]], int, Draws], Iterable[Pair]]


def pair_table(tokens: Tokens, pairs: Pairs, number: int) -> Ints:
    """All pairs of an epoch, int64 [P, 5]: first, end, first, end, random. It takes 8 bytes a sentence.

    ``pairs``: those of a document, of its number, where the sentences of a document begin, the number of
    documents, and the chance to draw from. Where there is no second, ``random`` is -100 (ask nothing).
    """
    cuts = _sentences(tokens)
    index = np.searchsorted(cuts, tokens.documents).tolist()

    def segments(document: int) -> list[int]:
        found: list[int] = cuts[index[document] : index[document + 1] + 1].tolist()
        return found

    draw = Draws(number)
    rows = array("q")
    for document in range(tokens.num_documents):
        for pair in pairs(document, segments, tokens.num_documents, draw):
            rows.extend((*pair.first, *pair.second, NOTHING if pair.random is None else pair.random))
    return np.frombuffer(rows, np.int64).reshape(-1, 5)
