"""Word2Vec beside gensim: one sentence's updates number by number, and files in both directions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gensim.models import KeyedVectors, Word2Vec
from hypothesis import given, settings
from hypothesis import strategies as st

import plume
from plume.errors import UserError
from plume.models import skipgram_kernels as kernels
from plume.models.word_vectors import WordVectors

SENTENCE = ["the", "cat", "sat", "on", "the", "mat", "and", "the", "dog"]


class Known:
    """A generator that gives what was agreed on, in the order in which gensim asks."""

    def __init__(self) -> None:
        self.seed = 12345

    def randint(self, low: int, high: int, size: int | None = None) -> Any:
        return self.seed if size is None else np.zeros(size, int)


def draws(model: Word2Vec, count: int) -> list[list[int]]:
    """The noise words that gensim's compiled loop draws for each pair, from its own linear congruence."""
    state, mask = (2**24) * 12345 + 12345, (1 << 48) - 1
    found = []
    for _ in range(count):
        words = []
        for _ in range(model.negative):
            wanted = (state >> 16) % int(model.cum_table[-1])
            words.append(int(np.searchsorted(model.cum_table, wanted, side="left")))
            state = (state * 25214903917 + 11) & mask
        found.append(words)
    return found


@pytest.mark.parametrize("cbow", [False, True], ids=["skip-gram", "CBOW"])
@pytest.mark.parametrize("hierarchical", [False, True], ids=["noise", "tree"])
def test_one_sentence_changes_both_tables_as_gensim_changes_them(
    cbow: bool, hierarchical: bool, record_property: Any
) -> None:
    model = Word2Vec(vector_size=16, window=1, min_count=1, sample=0, sg=int(not cbow), hs=int(hierarchical),
                     negative=0 if hierarchical else 5, workers=1, cbow_mean=1, seed=3)  # fmt: skip
    model.build_vocab([SENTENCE, [f"word{i}" for i in range(3000)]])
    draw = np.random.default_rng(0)
    out = model.syn1 if hierarchical else model.syn1neg
    model.wv.vectors[:] = draw.normal(0, 0.2, model.wv.vectors.shape)
    out[:] = draw.normal(0, 0.2, out.shape)
    table, output = model.wv.vectors.copy(), out.copy()
    before = table.copy()
    ids = [model.wv.key_to_index[word] for word in SENTENCE]
    groups = []
    for t, centre in enumerate(ids):
        around = [ids[c] for c in (t - 1, t + 1) if 0 <= c < len(ids)]
        groups += [(around, centre)] if cbow else [([c], centre) for c in around]
    model.random = Known()
    from gensim.models.word2vec import train_batch_cbow, train_batch_sg

    work = np.zeros(16, np.float32)
    if cbow:
        train_batch_cbow(model, [SENTENCE], 0.3, work, work.copy(), False)
    else:
        train_batch_sg(model, [SENTENCE], 0.3, work, False)
    if hierarchical:
        paths = {w: model.wv.get_vecattr(word, "point") for word, w in model.wv.key_to_index.items()}
        codes = {w: model.wv.get_vecattr(word, "code") for word, w in model.wv.key_to_index.items()}
        size = max(map(len, paths.values()))
        asked = np.array([[*paths[c], *[0] * (size - len(paths[c]))] for _, c in groups], np.int32)
        labels = np.array(
            [[*(1 - np.asarray(codes[c], int)), *[-1] * (size - len(codes[c]))] for _, c in groups]
        )
    else:
        noise = draws(model, len(groups))
        # Of a word drawn twice for one pair gensim's second update sees its first, and ours does not.
        assert all(len(set(words)) == 5 for words in noise)
        asked = np.array([[c, *words] for (_, c), words in zip(groups, noise, strict=True)], np.int32)
        labels = np.where(asked == asked[:, :1], -1, 0)
        labels[:, 0] = 1
    rows = np.array([row for around, _ in groups for row in around], np.int32)
    ends = np.cumsum([0, *(len(around) for around, _ in groups)])
    # gensim gives every row of a bag the mean's whole gradient, and looks the sigmoid up in a table.
    kernels.replay(table, output, rows, ends, asked, labels.astype(np.int32), 0.3, int(cbow), 1, 0)
    error = max(float(np.abs(table - model.wv.vectors).max()), float(np.abs(output - out).max()))
    record_property("gradients", error)
    moved = float(np.abs(table - before).max())
    assert error < 1e-6 < 1e-2 < moved


def vectors() -> WordVectors:
    draw = np.random.default_rng(5)
    words = ("the", "café", "北京", "new_york", "\u00a0blank", "😀", "don't")
    return WordVectors(words, draw.normal(size=(7, 9)).astype(np.float32))


@pytest.mark.parametrize("binary", [True, False], ids=["binary", "text"])
def test_gensim_reads_ours_and_we_read_gensims(binary: bool, tmp_path: Path) -> None:
    ours = vectors()
    path = tmp_path / "v"
    (ours.save_binary if binary else ours.save_text)(path)
    theirs = KeyedVectors.load_word2vec_format(str(path), binary=binary)
    assert tuple(theirs.index_to_key) == ours.words
    np.testing.assert_array_equal(theirs.vectors, ours.table)
    theirs.save_word2vec_format(str(tmp_path / "w"), binary=binary)
    again = WordVectors.read(tmp_path / "w")
    assert again.words == ours.words
    np.testing.assert_array_equal(again.table, ours.table)
    for word in ("café", "北京"):
        for (a, x), (b, y) in zip(ours.nearest(word, 3), theirs.most_similar(word, topn=3), strict=True):
            assert a == b and x == pytest.approx(y, abs=1e-6)
    found = theirs.most_similar(positive=["café", "北京"], negative=["the"], topn=3)
    assert [word for word, _ in ours.analogy("the", "café", "北京", 3)] == [word for word, _ in found]


NAMES = st.text(st.characters(exclude_characters=" \n\r", exclude_categories=["Cs"]), min_size=1, max_size=8)


@settings(max_examples=60, deadline=None)
@given(
    words=st.lists(NAMES, min_size=1, max_size=6, unique=True), width=st.integers(1, 5), binary=st.booleans()
)
def test_any_words_come_back(tmp_path_factory: Any, words: list[str], width: int, binary: bool) -> None:
    path = tmp_path_factory.mktemp("v") / "v"
    ours = WordVectors(
        tuple(words), np.random.default_rng(0).normal(size=(len(words), width)).astype(np.float32)
    )
    (ours.save_binary if binary else ours.save_text)(path)
    again = WordVectors.read(path)
    assert again.words == ours.words
    np.testing.assert_array_equal(again.table, ours.table)


def test_other_peoples_files(tmp_path: Path) -> None:
    ours, path = vectors(), tmp_path / "v"
    rows = [w.encode() + b" " + r.tobytes() for w, r in zip(ours.words, ours.table, strict=True)]
    path.write_bytes(b"7 9\n" + b"".join(rows))  # Google News' file has no newlines between words
    assert WordVectors.read(path).words == ours.words
    path.write_text("the 0.1 0.2\n北京 -1 2e-3\n", encoding="utf-8")  # GloVe has no first line
    assert WordVectors.read(path).table.tolist() == np.array([[0.1, 0.2], [-1, 2e-3]], np.float32).tolist()
    path.write_text("2 3 \nthe 1 2 3 \ncat 4 5 6 \n", encoding="utf-8")  # word2vec.c ends lines with a blank
    assert WordVectors.read(path).words == ("the", "cat")


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "no file of word vectors"),
        (b"hello there\n", "no file of word vectors"),
        (b"0 5\n", "there is nothing"),
        (b"3 2\na 1 2\nb 1\n", "line 3: expected a word and 2 numbers"),
        (b"3 2\na 1 2\nb 1 2\n", "3 words, but 2 are there"),
        (b"9999 100\n" + b"ab \x00\x01", "too short for that"),
        (b"2 1\na \x00\x00\x80?\nbbbbbbbbbbbbb", "breaks off at word 2 of 2"),
        (b"1 1\na \x00\x00\xc0\x7f\n", "not finite"),
        (b"1 1\n\xff\xfe 0.5\n", "no UTF-8"),
    ],
)
def test_a_malformed_file_is_one_sentence(data: bytes, says: str, tmp_path: Path) -> None:
    path = tmp_path / "broken.bin"
    path.write_bytes(data)
    with pytest.raises(UserError, match=says) as raised:
        plume.import_folder(path, out=tmp_path / "run")
    assert "broken.bin" in str(raised.value) and not (tmp_path / "run" / "config.json").exists()


def test_a_missing_file_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be read"):
        WordVectors.read(tmp_path / "nothing.bin")
