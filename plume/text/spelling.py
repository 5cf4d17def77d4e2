"""Words as ELMo reads them: 50 character ids each, taken from the bytes of their spelling (spec 04 section 1)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from plume.vocabulary import Vocabulary

Array = np.ndarray[Any, np.dtype[Any]]

WIDTH = 50  # characters a word, its two ends included
INNER = "##"  # a piece that begins so continues the word before it

# Each is one more than in the papers' tables, because 0 is no word at all.
SENTENCE_BEGINS, SENTENCE_ENDS, WORD_BEGINS, WORD_ENDS, PADDING = 257, 258, 259, 260, 261


def characters(word: bytes) -> Array:
    """int32 [50]: the bytes of a word, at most 48 of them, between its ends, then padding.

    >>> characters(b"a")[:5].tolist()
    [259, 98, 260, 261, 261]
    """
    return _framed([byte + 1 for byte in word[: WIDTH - 2]])


def _framed(inside: Sequence[int]) -> Array:
    row = np.full(WIDTH, PADDING, np.int32)
    row[: len(inside) + 2] = [WORD_BEGINS, *inside, WORD_ENDS]
    return row


def shown(rows: Array) -> list[str]:
    """Characters [T, 50] as a person reads them: bytes that are no ASCII in hexadecimal, padding by its number.

    >>> shown(np.stack([characters(b"at"), characters("\u57ce".encode()), END]))
    ['⟨ a t ⟩ +46', '⟨ e5 9f 8e ⟩ +45', '⟨ ■ ⟩ +47']
    """
    marks = {SENTENCE_BEGINS: "□", SENTENCE_ENDS: "■", WORD_BEGINS: "⟨", WORD_ENDS: "⟩"}
    found = []
    for row in rows.tolist():
        inside = [i for i in row if i != PADDING]
        words = [marks.get(i) or (chr(i - 1) if 32 < i - 1 < 127 else f"{i - 1:02x}") for i in inside]
        found.append(" ".join([*words, f"+{len(row) - len(inside)}"]))
    return found


BEGIN = _framed([SENTENCE_BEGINS])
END = _framed([SENTENCE_ENDS])


def spell(ids: Array, vocab: Vocabulary) -> tuple[Array, Array]:
    """The words that tokens [T] make up: their ids int64 [W], and their characters int32 [W, 50].

    A word outside the vocabulary is the unknown token and then the pieces that spell it; pieces at the front, whose
    word was cut off, make one unknown word. A vocabulary that cannot spell names each id by its number.
    """
    inner = [
        bool(vocab.pieces) and vocab.pieces[i].startswith(INNER) and len(vocab.pieces[i]) > 2 for i in ids
    ]
    words: list[int] = []
    spelled: list[str] = []
    for token, continues in zip(ids.tolist(), inner, strict=True):
        if not continues:
            words.append(token)
            spelled.append("" if token == vocab.unk else vocab.pieces[token] if vocab.pieces else str(token))
            continue
        if not words:
            words.append(vocab.require("unk"))
            spelled.append("")
        spelled[-1] += vocab.pieces[token][len(INNER) :]
    rows = np.zeros((len(words), WIDTH), np.int32)
    for row, word, text in zip(rows, words, spelled, strict=True):
        row[:] = (
            BEGIN if word == vocab.bos
            else END if word == vocab.eos
            else characters(text.encode("utf-8", "ignore"))
        )  # fmt: skip
    return np.array(words, np.int64), rows
