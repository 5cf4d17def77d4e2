"""Windows: how text is cut into what one example sees (spec 03, 06 section 4, 07 section 3)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol

import numpy as np

from plume.errors import UserError
from plume.seeding import Permutation, key, rng
from plume.text.cutting import ADVANCE as ADVANCE
from plume.text.cutting import (
    NOTHING,
    PairRows,
    Rows,
    Shuffled,
    Stream,
    Stretches,
    fill,
    framed,
    pair_table,
    sentence_cuts,
)
from plume.text.marks import PART
from plume.text.marks import Grain as Grain
from plume.text.pairs import Draws, Pair, Second, following_pairs, pairs_of
from plume.text.pairs import Grain as PairGrain
from plume.text.sentences import SentenceRows, sentence_table
from plume.text.tokens import Tokens
from plume.text.window import Window as Window
from plume.vocabulary import Vocabulary


class Plan(Protocol):
    """The windows of one epoch, already in the order in which they are to be read."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Window: ...

    def order(self, index: int) -> int:
        """Which window of the epoch stands at ``index``: a number that does not depend on the order."""
        ...

    def starts(self, index: int) -> bool:
        """Whether what was carried along in this row of the batch must begin anew here."""
        ...


@dataclass(frozen=True)
class Reading:
    """One reading of the text: windows of ``length`` tokens (the objective's ``window_length``), ``batch_size`` a step.

    ``epoch`` decides what is cut, ``order`` (default: the epoch) in which order it is read: static masking freezes the
    first and not the second.
    """

    length: int
    batch_size: int = 1
    seed: int = 0
    epoch: int = 0
    order: int | None = None

    def offset(self, most: int) -> int:
        """Where in the text to begin: anywhere from 0 to ``most``."""
        return int(rng(self.seed, "offset", self.epoch).integers(0, most + 1))

    def shuffled(self, count: int, window: Callable[[int], Window]) -> Plan:
        """``count`` windows in the order of this reading."""
        order = self.epoch if self.order is None else self.order
        return Shuffled(Permutation(count, key(self.seed, "order", order)), window)


@dataclass(frozen=True)
class Windows(ABC):
    """A way of cutting.

    ``carries``: row r of a batch goes on where row r of the batch before stopped. ``fills``: a window holds as much
    text as has room, and not one sentence or one row of a table.
    """

    length: int
    carries: ClassVar[bool] = False
    fills: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.length < 1:
            raise UserError(f"windows.length must be at least 1, not {self.length}")

    @property
    def columns(self) -> tuple[str, ...]:
        """What the documents are made of where they have several columns, in their order; else none."""
        return ()

    @abstractmethod
    def plan(self, tokens: Tokens, vocab: Vocabulary, reading: Reading) -> Plan:
        """The windows of one reading.

        Raises:
            UserError: the text is shorter than a window.
        """


@dataclass(frozen=True)
class PackedStream(Windows):
    """Documents one after the other, each closed by eos, cut every ``length`` tokens (spec 03 section 1.1).

    The cuts begin at a random offset, drawn anew each epoch. A window of ``length + 1`` tokens (causal models
    read one more, as the last label) shares that one token with the next window.
    """

    def plan(self, tokens: Tokens, vocab: Vocabulary, reading: Reading) -> Plan:
        length = reading.length
        stream, step = Stream(tokens, vocab.require("eos")), _step(self.length, length)
        spare = stream.size - length
        if spare < 0:
            raise too_short(tokens, stream.size, length)
        offset = reading.offset(min(step - 1, spare))
        count = (stream.size - offset - length) // step + 1
        return reading.shuffled(count, lambda n: stream.read(offset + n * step, length))


@dataclass(frozen=True)
class Sequential(Windows):
    """The same stream in ``batch_size`` rows read side by side, memory carried along (spec 03 section 1.2)."""

    carries: ClassVar[bool] = True

    def plan(self, tokens: Tokens, vocab: Vocabulary, reading: Reading) -> Plan:
        length, batch_size = reading.length, reading.batch_size
        stream, step = Stream(tokens, vocab.require("eos")), _step(self.length, length)
        shared = length - step  # 1 where the last token is only a label
        spare = stream.size - shared - batch_size * step
        if spare < 0:
            raise too_short(tokens, stream.size, batch_size * step + shared, rows=batch_size)
        offset = reading.offset(min(step - 1, spare))
        row = (stream.size - offset - shared) // batch_size
        return Rows(stream, batch_size, row // step, offset, row, step, length)


@dataclass(frozen=True)
class SentenceStream(Windows):
    """Sentence after sentence, each between bos and eos, in ``batch_size`` rows read side by side, memory carried
    along (spec 04 section 5).

    A step's ``length`` counts what is asked: every word and the end of every sentence. A window holds the whole
    sentences that it touches; its labels say which of these are its own: ``count`` from ``first`` on.
    """

    length: int = 20
    carries: ClassVar[bool] = True

    def plan(self, tokens: Tokens, vocab: Vocabulary, reading: Reading) -> Plan:
        length, batch_size = reading.length, reading.batch_size
        starts, asked = sentence_table(tokens)
        total = int(asked[-1])
        spare = total - batch_size * length
        if spare < 0:
            raise too_short(tokens, total, batch_size * length, rows=batch_size)
        offset = reading.offset(min(length - 1, spare))
        row = (total - offset) // batch_size
        marks = vocab.require("bos"), vocab.require("eos")
        return SentenceRows(tokens, starts, asked, marks, batch_size, offset, row, length)


@dataclass(frozen=True)
class FullSentences(Windows):
    """Whole sentences up to ``length`` tokens, [CLS] before and [SEP] after (spec 07 section 3).

    Across documents a further [SEP] stands between them; with ``cross_documents=False`` a document's end ends
    the window (RoBERTa's DOC-SENTENCES). A sentence that does not fit alone is cut. Nothing is lost.
    """

    cross_documents: bool = True

    def plan(self, tokens: Tokens, vocab: Vocabulary, reading: Reading) -> Plan:
        length = reading.length
        if length < 3:
            raise UserError(
                f"full sentences need windows.length of at least 3 ([CLS], a token, [SEP]), not {length}"
            )
        if not tokens.num_tokens:
            raise too_short(tokens, 0, 1)
        cls, sep = vocab.require("cls"), vocab.require("sep")
        cuts = fill(tokens, length - 2, self.cross_documents)

        def window(number: int) -> Window:
            first, end = int(cuts[number]), int(cuts[number + 1])
            a, b = np.searchsorted(tokens.documents, (first, end - 1), "right").tolist()
            inside = np.asarray(tokens.documents[a:b]) - first  # where a document begins after the first one
            return framed(tokens, [(first, end)], cls, sep, {}, inside)

        return reading.shuffled(len(cuts) - 1, window)


@dataclass(frozen=True)
class Sentences(Windows):
    """A sentence a window, longer ones cut every ``length`` tokens, nothing added (spec 02 section E.1).

    They come in the order of the text, so that thousands can be read at once, or ``shuffled`` anew each epoch.
    """

    fills: ClassVar[bool] = False
    shuffled: bool = False

    def plan(self, tokens: Tokens, vocab: Vocabulary, reading: Reading) -> Plan:
        length = reading.length
        if not tokens.num_tokens:
            raise too_short(tokens, 0, 1)
        inside = Stretches(tokens, sentence_cuts(tokens, length))
        return reading.shuffled(len(inside), inside.__getitem__) if self.shuffled else inside


@dataclass(frozen=True)
class SegmentPairs(Windows):
    """[CLS] A [SEP] B [SEP] and whether B follows A: 0, or 1 where it is random (spec 06 section 4).

    The draw is 50/50 among chunks of two sentences or more; a chunk of one sentence is followed by a random
    one. ``short_share`` of the documents are filled to a shorter length. ``second="swapped"``: B is never random, but
    A and B change places half of the time, and the label is "sentence_order" (ALBERT); a sentence without another
    one beside it is not asked. ``grain="sentence"``: A and B are one sentence each (RoBERTa's SENTENCE-PAIR).
    """

    short_share: float = 0.1
    second: Second = "random"
    grain: PairGrain = "segment"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.short_share <= 1:
            raise UserError(f"short_share is a share between 0 and 1, not {self.short_share}")

    def plan(self, tokens: Tokens, vocab: Vocabulary, reading: Reading) -> Plan:
        length = reading.length
        if length < 5:
            raise UserError(
                f"segment pairs need windows.length of at least 5 ([CLS] A [SEP] B [SEP]), not {length}"
            )
        if not tokens.num_tokens:
            raise too_short(tokens, 0, 2)
        cls, sep = vocab.require("cls"), vocab.require("sep")

        def pairs(
            document: int, segments: Callable[[int], Sequence[int]], count: int, draw: Draws
        ) -> Iterator[Pair]:
            return pairs_of(
                document, segments, count, room=length - 3, short_share=self.short_share, draw=draw,
                second=self.second, grain=self.grain,
            )  # fmt: skip

        table = pair_table(tokens, pairs, key(reading.seed, "pairs", reading.epoch))
        label = "next_sentence" if self.second == "random" else "sentence_order"
        if (table[:, 4] == NOTHING).all():
            raise UserError(
                f"no document of the {tokens.name} part of the text has two sentences whose order could be asked: "
                f"bring longer documents, or use windows=FullSentences and objective.sentence_order=false"
            )

        def window(number: int) -> Window:
            a, b, c, d, random = table[number].tolist()
            return framed(tokens, [(a, b), (c, d)] if d > c else [(a, b)], cls, sep, {label: random})

        return reading.shuffled(len(table), window)


@dataclass(frozen=True)
class FollowingSegments(Windows):
    """[CLS] A [SEP] B [SEP] where B always follows A, or [CLS] A [SEP] alone: ELECTRA's inputs (spec 09 section 1).

    ``single_share`` of them are one segment, ``short_share`` are filled to a shorter length.
    """

    single_share: float = 0.1
    short_share: float = 0.05

    def plan(self, tokens: Tokens, vocab: Vocabulary, reading: Reading) -> Plan:
        length = reading.length
        if length < 5:
            raise UserError(
                f"two segments need windows.length of at least 5 ([CLS] A [SEP] B [SEP]), not {length}"
            )
        if not tokens.num_tokens:
            raise too_short(tokens, 0, 1)
        cls, sep = vocab.require("cls"), vocab.require("sep")

        def pairs(
            document: int, segments: Callable[[int], Sequence[int]], count: int, draw: Draws
        ) -> Iterator[Pair]:
            return following_pairs(
                segments(document), length=length, single_share=self.single_share,
                short_share=self.short_share, draw=draw,
            )  # fmt: skip

        table = pair_table(tokens, pairs, key(reading.seed, "pairs", reading.epoch))

        def window(number: int) -> Window:
            a, b, c, d, _ = table[number].tolist()
            return framed(tokens, [(a, b), (c, d)] if d > c else [(a, b)], cls, sep, {})

        return reading.shuffled(len(table), window)


@dataclass(frozen=True)
class TextPairs(Windows):
    """Pairs of texts, one a document: what is read and what is to be written, each of at most ``length`` tokens.

    ``source`` and ``target`` name the columns. An objective adds its own marks, for which it reads fewer. Of a pair
    with a longer text, ``overlong="drop"`` makes an empty window, which no objective can use (half a sentence is
    not the translation of half a sentence); ``"cut"`` takes what fits of both (summaries, T5).
    """

    fills: ClassVar[bool] = False
    source: str = "source"
    target: str = "target"
    overlong: Literal["drop", "cut"] = "drop"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.source == self.target:
            raise UserError(f"source and target are both the column {self.source!r}: name two different ones")

    @property
    def columns(self) -> tuple[str, ...]:
        return (self.source, self.target)

    def plan(self, tokens: Tokens, vocab: Vocabulary, reading: Reading) -> Plan:
        length = reading.length
        if not tokens.num_tokens:
            raise too_short(tokens, 0, 1)

        def window(number: int) -> Window:
            first, end = tokens.documents[number : number + 2].tolist()
            ids = np.asarray(tokens.ids[first:end]).astype(np.int64)
            marks = np.asarray(tokens.marks[first:end])
            parts = np.split(np.arange(len(ids)), np.flatnonzero(marks & PART))
            if self.overlong == "drop" and max(map(len, parts)) > length:
                parts = []
            kept = np.concatenate([np.zeros(0, np.int64), *(part[:length] for part in parts)])
            return Window(ids[kept], marks[kept], np.zeros(len(kept), bool), np.zeros(len(kept), np.int64))

        if not any(len(window(number)) for number in range(tokens.num_documents)):
            raise UserError(
                f"no pair of the {tokens.name} part of the text has both sides within {length} tokens: raise "
                f"windows.length, or cut them with windows.overlong=cut"
            )
        return reading.shuffled(tokens.num_documents, window)


@dataclass(frozen=True)
class CarriedPairs(Windows):
    """XLNet's: text that goes on from window to window, and behind it a pair, [CLS] last (spec 10 section 4).

        half a window of the stream, A [SEP] B [SEP] [CLS]

    A is the text after that half, cut at the end of a sentence; B follows A or, half of the time, is text from
    anywhere. The next window of a row begins with the stream's next half, where A began. ``labels`` say how far that
    is ("advance") and whether B is random ("next_sentence").
    """

    carries: ClassVar[bool] = True

    def plan(self, tokens: Tokens, vocab: Vocabulary, reading: Reading) -> Plan:
        length, batch_size = reading.length, reading.batch_size
        advance = length // 2
        room = length - advance - 3
        if room < 2:
            raise UserError(f"carried pairs need windows.length of at least 9, not {length}")
        stream = Stream(tokens, vocab.require("eos"))
        spare = stream.size - room - batch_size * advance
        if spare < 0:
            raise too_short(tokens, stream.size, batch_size * advance + room, rows=batch_size)
        offset = reading.offset(min(advance - 1, spare))
        row = (stream.size - offset - room) // batch_size
        inner = Rows(stream, batch_size, row // advance, offset, row, advance, advance + room)
        return PairRows(
            inner, advance, vocab.require("cls"), vocab.require("sep"), reading.seed, reading.epoch
        )


def _step(length: int, read: int) -> int:
    """How far windows of ``read`` tokens lie apart: the one token more of a causal model is the next one's first."""
    return length if read == length + 1 else read


def too_short(tokens: Tokens, have: int, need: int, *, rows: int = 1) -> UserError:
    """What to say of a text that has less than is read at once."""
    what = f"{rows} rows of one window need" if rows > 1 else "a window needs"
    fewer = (
        ", shorten windows.length or lower training.batch_size" if rows > 1 else " or shorten windows.length"
    )
    return UserError(
        f"the {tokens.name} part of the text has {have} tokens, but {what} {need}: bring more text{fewer}"
    )
