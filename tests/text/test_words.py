"""Words: cut alike in every script, counted whole, kept with their counts, and put together again."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plume.errors import UserError
from plume.text.boundaries import sentences
from plume.text.boundaries import words as spans
from plume.text.marks import SENTENCE, WORD
from plume.text.tokenizers import Tokenizer, Words
from plume.text.words import cut

TEXTS = ["The cat sat. The cat didn't well-know it!", "我们喜欢北京的天气。他说：“好！”", "İstanbul ünï 3.14"]
HARD = "ab'’- .,!\n\t中国北京。，\u3000\u00a0\u0301\u200bİΣς\U0001f600\U00020000[MASK]"
UNICODE = st.text(
    alphabet=st.one_of(st.characters(exclude_categories=["Cs"]), st.sampled_from(HARD)), max_size=40
)


def test_words_of_two_languages() -> None:
    found = cut(TEXTS, lowercase=True)
    assert found.words[:10] == ["the", "cat", "sat", ".", "the", "cat", "didn't", "well-know", "it", "!"]
    assert found.words[10:16] == ["我们", "喜欢", "北京", "的", "天气", "。"]
    assert found.lengths.tolist() == [10, 13, 5]
    assert found.sentences.tolist() == [0, 4, 10, 16, 23]


def test_they_are_the_words_of_the_slow_road() -> None:
    for text in TEXTS[:2]:
        assert cut([text]).words == [text[a:b] for a, b in spans(text)]
        firsts = [cut([text]).starts.tolist().index(a) for a, _ in sentences(text)]
        assert cut([text]).sentences.tolist() == firsts


@settings(max_examples=200, deadline=None)
@given(texts=st.lists(UNICODE, min_size=1, max_size=4), lowercase=st.booleans())
def test_any_text_is_cut_and_nothing_visible_is_lost(texts: list[str], lowercase: bool) -> None:
    together = cut(texts, lowercase=lowercase)
    alone = [cut([text], lowercase=lowercase) for text in texts]
    assert together.words == [word for part in alone for word in part.words]
    assert together.lengths.tolist() == [len(part.words) for part in alone]
    before = np.cumsum([0, *together.lengths])
    begun = [
        at + n for part, at in zip(alone, before.tolist(), strict=False) for n in part.sentences.tolist()
    ]
    assert together.sentences.tolist() == begun
    joined = "\n".join(texts)
    covered = np.zeros(len(joined), bool)
    for a, b in zip(together.starts.tolist(), together.ends.tolist(), strict=True):
        assert a < b and not covered[a:b].any() and "\n" not in joined[a:b]
        covered[a:b] = True
    assert not any(c.isalnum() for c, seen in zip(joined, covered, strict=True) if not seen)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Words(vocab_size=40, min_count=2).train(TEXTS[:2] * 3 + TEXTS[2:])


def test_the_vocabulary_is_by_count_and_keeps_the_counts(tokenizer: Tokenizer) -> None:
    seen = Counter(cut(TEXTS[:2] * 3 + TEXTS[2:], lowercase=True).words)
    vocabulary = tokenizer.vocabulary
    pieces = [tokenizer._pieces[i] for i in range(7, vocabulary.size)]
    assert list(vocabulary.counts[:7]) == [0] * 7
    assert (
        list(vocabulary.counts[7:])
        == [seen[p] for p in pieces]
        == sorted(vocabulary.counts[7:], reverse=True)
    )
    assert min(vocabulary.counts[7:]) >= 2 and "ünï" not in pieces


def test_encoded_decoded_saved_loaded_published(tokenizer: Tokenizer, tmp_path: Path) -> None:
    assert (
        tokenizer.decode(tokenizer.encode("The cat sat . 我们 喜欢北京的天气"))
        == "the cat sat.我们喜欢北京的天气"
    )
    (encoding,) = tokenizer.encode_batch(["the ünï [MASK] 北京。the"])
    assert tokenizer.pieces(encoding.ids) == ["the", "[UNK]", "[UNK]", "[UNK]", "[UNK]", "北京", "。", "the"]
    assert encoding.marks.tolist() == [WORD | SENTENCE, *[WORD] * 6, WORD | SENTENCE]
    tokenizer.save(tmp_path / "own")
    again = Tokenizer.load(tmp_path / "own")
    assert (again.kind, again.vocabulary, again.fingerprint) == (
        "words",
        tokenizer.vocabulary,
        tokenizer.fingerprint,
    )
    assert again.encode(TEXTS[1]).tolist() == tokenizer.encode(TEXTS[1]).tolist()
    tokenizer.to_hf(tmp_path / "published")
    read = Tokenizer.from_hf(tmp_path / "published")
    assert read.kind == "words" and read.encode(TEXTS[0]).tolist() == tokenizer.encode(TEXTS[0]).tolist()


@settings(max_examples=100, deadline=None)
@given(texts=st.lists(UNICODE | st.sampled_from(TEXTS), min_size=1, max_size=4), lowercase=st.booleans())
def test_encoded_words_are_those_that_are_cut(texts: list[str], lowercase: bool) -> None:
    """Sentences begin where they do in the text as it stands, not in small letters."""
    pieces = Words(vocab_size=60, lowercase=lowercase).train([*TEXTS, "ab 北京 c"])
    found, wanted = pieces.encode_flat(texts), cut(texts, lowercase=lowercase)
    known = {piece: n for n, piece in enumerate(pieces._pieces)}
    assert found.ids.tolist() == [known.get(word, pieces.vocabulary.unk) for word in wanted.words]
    assert found.lengths.tolist() == wanted.lengths.tolist()
    assert np.flatnonzero(found.marks & SENTENCE).tolist() == wanted.sentences.tolist()
    assert (found.marks & WORD == WORD).all()


def test_what_cannot_be_a_vocabulary_is_one_sentence() -> None:
    with pytest.raises(UserError, match="no text to train"):
        Words().train([" ", "\n"])
    with pytest.raises(UserError, match="no word of the text occurs 9 times"):
        Words(min_count=9).train(["a b"])
    with pytest.raises(UserError, match="at least 8 tokens"):
        Words(vocab_size=3).train(["a b"])
