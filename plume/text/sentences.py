"""Sentence after sentence, as ELMo reads its text: rows that are measured in what is asked (spec 04 section 5)."""

from __future__ import annotations

from array import array
from dataclasses import dataclass

import numpy as np

from plume.text.marks import SENTENCE, WORD
from plume.text.tokens import Tokens
from plume.text.window import Ints, Window

_BLOCK = 2**22  # tokens looked at together


@dataclass(frozen=True)
class SentenceRows:
    """Rows of sentences, measured in what is asked: ``asked[s]`` is how much comes before sentence ``s``."""

    tokens: Tokens
    begins: Ints
    asked: Ints
    marks: tuple[int, int]  # begin and end of a sentence
    batch_size: int
    offset: int
    row: int
    length: int

    def __len__(self) -> int:
        return self.row // self.length * self.batch_size

    def __getitem__(self, index: int) -> Window:
        if not 0 <= index < len(self):
            raise IndexError(index)
        batch, row = divmod(index, self.batch_size)
        at = self.offset + row * self.row + batch * self.length
        first, last = (np.searchsorted(self.asked, (at, at + self.length - 1), "right") - 1).tolist()
        cuts = self.begins[first : last + 2] - self.begins[first]
        text = slice(int(self.begins[first]), int(self.begins[last + 1]))
        number = len(cuts) - 1
        ends = cuts[1:] + 2 * np.arange(number) + 1  # where each sentence's end mark comes to stand
        special = np.zeros(int(cuts[-1]) + 2 * number, bool)
        ids, marks = np.zeros(len(special), np.int64), np.zeros(len(special), np.uint8)
        special[ends] = True
        special[np.concatenate([[0], ends[:-1] + 1])] = True
        ids[special] = np.tile(self.marks, number)
        ids[~special] = self.tokens.ids[text]
        marks[~special] = self.tokens.marks[text]
        labels = {"first": at - int(self.asked[first]), "count": self.length}
        return Window(ids, marks, special, np.zeros(len(ids), np.int64), labels)

    def order(self, index: int) -> int:
        return index

    def starts(self, index: int) -> bool:
        return index < self.batch_size


def sentence_table(tokens: Tokens) -> tuple[Ints, Ints]:
    """Where each sentence begins, and the end; and how much is asked before it, its words and one end each: [S + 1]."""
    starts, before, words = array("q"), array("q"), 0
    for at in range(0, tokens.num_tokens, _BLOCK):
        marks = np.asarray(tokens.marks[at : at + _BLOCK])
        begins = marks & SENTENCE != 0
        inside = np.asarray(
            tokens.documents[slice(*np.searchsorted(tokens.documents, (at, at + len(marks))).tolist())]
        )
        begins[inside - at] = True
        word = marks & WORD != 0
        here = np.flatnonzero(begins)
        counted = np.cumsum(word) - word + words
        starts.frombytes((here + at).tobytes())
        before.frombytes(counted[here].astype(np.int64).tobytes())
        words += int(word.sum())
    number = len(starts)
    asked = np.append(np.frombuffer(before, np.int64), words) + np.arange(number + 1)
    return np.append(np.frombuffer(starts, np.int64), tokens.num_tokens), asked
