"""Words looked up in UTF-8: the ids of a dictionary and ``str.split``, whatever the text, on any number of threads."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plume.text import numbering
from plume.text.boundaries import codepoints
from plume.text.numbering import BlankWords, Numbers
from plume.text.tokenizers import blank_separated

WORDS = [
    "a",
    "b",
    "aa",
    "ab",
    "ba",
    "the",
    "北",
    "北京",
    "猫\u3000",
    "x\x0by",
    "e\u0301",
    "\U00020000",
    "w" * 300,
]
PARTS = [*WORDS, *[w + "a" for w in WORDS], " ", "\t", "\n", "\r", "\0", "  ", "京", "\u3000", "<s>", "<unk>"]
TEXTS = st.lists(st.lists(st.sampled_from(PARTS), max_size=9).map("".join), max_size=6)


def split(text: str) -> list[str]:
    return [word for word in re.split("[\0\t\n\r ]+", text) if word]


@settings(max_examples=150, deadline=None)
@given(texts=TEXTS, piece=st.sampled_from([1, 7, 2**18]))
def test_they_are_the_words_of_a_dictionary(texts: list[str], piece: int) -> None:
    ids = {word: 10 + n for n, word in enumerate(WORDS)}
    wanted = [[ids.get(word, 3) for word in split(text)] for text in texts]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(numbering, "_PIECE", piece)
        patch.setenv("OMP_NUM_THREADS", "3")
        found, ends = BlankWords(ids, unknown=3)(texts)
    assert found.tolist() == [id for row in wanted for id in row] and found.dtype == np.int64
    assert ends.tolist() == [0, *np.cumsum([len(row) for row in wanted]).tolist()]


def test_no_word_is_taken_for_another_of_the_same_hash() -> None:
    number = BlankWords({"cat": 1, "dog": 2}, unknown=0)
    number._table._hashes[:2] = number._table._hashes[1]  # now "dog" has the hash of both
    number._table._slots[number._table._slots >= 0] = 0  # and wherever one looks "cat" stands first
    assert number(["dog"])[0].tolist() == [0]
    number = BlankWords({"cat": 1, "ca": 2}, unknown=0)  # nor is what another begins with
    number._table._hashes[:2] = number._table._hashes[1]
    number._table._slots[number._table._slots >= 0] = 0
    assert number(["ca"])[0].tolist() == [0]


def test_a_table_that_grows_forgets_nothing() -> None:
    table = Numbers()
    for count in (5, 1_500, 3_000, 9_000):
        words = [f"w{i}" for i in range(count)]
        ends = np.cumsum([len(word) for word in words])
        spans = codepoints("".join(words)), ends - [len(word) for word in words], ends
        assert table.number(*spans).tolist() == table.known(*spans).tolist() == list(range(count))
    assert table.names() == words and len(table) == count
    assert table.known(codepoints("w9000w1"), np.array([0, 5]), np.array([5, 7])).tolist() == [-1, 1]


@settings(max_examples=50, deadline=None)
@given(texts=TEXTS.filter(bool))
def test_a_tokenizer_numbers_as_it_encodes(texts: list[str]) -> None:
    pieces = blank_separated(WORDS, unknown="<unk>", begin="<s>", end="</s>")
    flat = pieces.encode_flat(texts)
    ids, ends = pieces.number(texts)
    assert ids.tolist() == flat.ids.tolist() and np.diff(ends).tolist() == flat.lengths.tolist()
    assert not set(ids.tolist()) & {pieces.vocabulary.bos, pieces.vocabulary.eos}  # "<s>" in a text is text


def test_other_blanks_stand_inside_words_as_in_the_files() -> None:
    pieces = blank_separated(["猫\u3000", "x\x0by"], unknown="<unk>", begin="<s>", end="</s>")
    assert pieces.number(["猫\u3000 x\x0by 猫"])[0].tolist() == [3, 4, 0]
