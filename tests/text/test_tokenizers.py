"""Tokenizers: the library's ids on any text, exact round trips, control tokens that stay text, published files."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import regex
import tokenizers as library
from hypothesis import given, settings
from hypothesis import strategies as st

from plume.errors import UserError
from plume.text.encoding import OffsetsEncoder
from plume.text.marks import SENTENCE, WORD
from plume.text.readers import clean
from plume.text.tokenizers import (
    ByteLevelBPE,
    Characters,
    Tokenizer,
    TokenizerConfig,
    Unigram,
    WordBPE,
    WordPiece,
)
from plume.vocabulary import Vocabulary

ROOT = str(Path(__file__).parents[2])
TEXTS = [
    "The quick brown fox jumps over the lazy dog. Don't panic, Mr. Smith! It's 3.14.\nA new line here.",
    "我们喜欢北京的天气。他说：“好！”然后走了。今天的天气非常好，我们去图书馆吧？",
    "Naïve café, Ünïcode. Mixed 中文 and English words, 2026 年。",
] * 20
CONFIGS: dict[str, TokenizerConfig] = {
    "wordpiece": WordPiece(260),
    "cased": WordPiece(280, lowercase=False),
    "bpe": ByteLevelBPE(480),
    "of words": WordBPE(480),
    "unigram": Unigram(200),
    "characters": Characters(120),
}
HARD = (
    "ab .,!\n\r\t中国。，\u3000\u00a0\u0301\u200b\x00éΣςσİ[MASK]<mask></s>##▁Ġ\U0001f600\U00020000\u2b820≠ﬁ"
)
UNICODE = st.text(alphabet=st.one_of(st.characters(), st.sampled_from(HARD)), max_size=40)


@pytest.fixture(scope="module")
def trained() -> dict[str, Tokenizer]:
    return {name: config.train(TEXTS) for name, config in CONFIGS.items()}


@pytest.mark.parametrize("name", CONFIGS)
class TestEveryKind:
    def test_specials_and_sizes(self, trained: dict[str, Tokenizer], name: str) -> None:
        tokenizer = trained[name]
        vocabulary = tokenizer.vocabulary
        for role in ("pad", "bos", "eos", "unk", "cls", "sep", "mask"):
            assert vocabulary.require(role) < vocabulary.size
        assert tokenizer.kind == {"cased": "wordpiece", "of words": "bpe"}.get(name, name)
        assert vocabulary.size <= CONFIGS[name].vocab_size  # type: ignore[attr-defined]

    def test_training_again_gives_the_same(self, trained: dict[str, Tokenizer], name: str) -> None:
        assert CONFIGS[name].train(iter(TEXTS)).fingerprint == trained[name].fingerprint

    def test_saved_and_loaded(self, trained: dict[str, Tokenizer], name: str, tmp_path: Path) -> None:
        tokenizer = trained[name]
        tokenizer.save(tmp_path / "t")
        again = Tokenizer.load(tmp_path / "t")
        assert (again.fingerprint, again.kind, again.vocabulary) == (
            tokenizer.fingerprint, tokenizer.kind, tokenizer.vocabulary,
        )  # fmt: skip
        for text in TEXTS[:3]:
            assert again.encode(text).tolist() == tokenizer.encode(text).tolist()

    @settings(max_examples=120, deadline=None)
    @given(texts=st.lists(UNICODE, min_size=1, max_size=4))
    def test_ids_are_the_librarys(self, trained: dict[str, Tokenizer], name: str, texts: list[str]) -> None:
        tokenizer = trained[name]
        got = tokenizer.encode_batch(texts)
        control = tokenizer.vocabulary.special - {tokenizer.vocabulary.unk}
        for text, encoding in zip(texts, got, strict=True):
            want = tokenizer._inner.encode(
                clean(text) if _broken(text) else text, add_special_tokens=False
            ).ids
            if not control & set(want):
                assert encoding.ids.tolist() == want
            assert not control & set(encoding.ids.tolist()), "control tokens in a user's text stay text"
            assert encoding.ids.dtype == np.int64 and len(encoding.marks) == len(encoding.ids)
            if len(encoding.ids):
                assert encoding.marks[0] & SENTENCE and encoding.marks[0] & WORD

    @settings(max_examples=60, deadline=None)
    @given(texts=st.lists(UNICODE, min_size=1, max_size=4))
    def test_marks_are_those_of_the_offsets(
        self, trained: dict[str, Tokenizer], name: str, texts: list[str]
    ) -> None:
        """The tables against the slow road, which looks up every token's place in the text."""
        tokenizer = trained[name]
        texts = [t.replace("\u0301", "").replace("\x00", "") for t in texts if not _broken(t)] or ["x"]
        fast, slow = tokenizer._encoder(texts), OffsetsEncoder(tokenizer._inner)(texts)
        if np.array_equal(fast.ids, slow.ids):
            assert (fast.marks & SENTENCE).tolist() == (slow.marks & SENTENCE).tolist()

    @settings(max_examples=60, deadline=None)
    @given(data=st.data())
    def test_streamed_text_is_the_decoded_text(
        self, trained: dict[str, Tokenizer], name: str, data: st.DataObject
    ) -> None:
        tokenizer = trained[name]
        ids = data.draw(st.lists(st.integers(0, tokenizer.vocabulary.size - 1), max_size=30))
        stream = tokenizer.detokenizer()
        shown = ""
        for number, id in enumerate(ids):
            shown += stream.push(id)
            assert tokenizer.decode(ids[: number + 1]).startswith(shown), "text that was shown stays"
        assert shown + stream.finish() == tokenizer.decode(ids)
        assert len(tokenizer.pieces(ids)) == len(ids) and all(tokenizer.pieces(ids))

    def test_nothing_in_nothing_out(self, trained: dict[str, Tokenizer], name: str) -> None:
        tokenizer = trained[name]
        assert (
            tokenizer.encode("").tolist() == []
            and tokenizer.decode([]) == ""
            and tokenizer.encode_batch([]) == []
        )
        assert [e.ids.tolist() for e in tokenizer.encode_batch(["", "a", ""])][::2] == [[], []]


def _broken(text: str) -> bool:
    return any(0xD800 <= ord(c) < 0xE000 for c in text)


@settings(max_examples=300, deadline=None)
@given(text=st.text())
def test_byte_level_comes_back_exactly(trained: dict[str, Tokenizer], text: str) -> None:
    tokenizer = trained["bpe"]
    ids = tokenizer.encode(text)
    want = clean(text) if _broken(text) else text
    assert tokenizer.decode(ids) == want
    assert b"".join(tokenizer.token_bytes(int(i)) or b"" for i in ids) == want.encode()


@pytest.mark.parametrize("name", CONFIGS)
def test_control_tokens_in_text_stay_text(trained: dict[str, Tokenizer], name: str) -> None:
    """Reliability E7: no control id inside content, and the text preserved."""
    tokenizer = trained[name]
    controls = [
        "[PAD]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        "[BOS]",
        "[EOS]",
        "<s>",
        "</s>",
        "<pad>",
        "<mask>",
        "<|endoftext|>",
    ]
    silent = tokenizer.vocabulary.special - {tokenizer.vocabulary.unk}
    for control in controls:
        for text in (control, f"the {control} dog", f"天气{control}好", control * 3):
            ids = tokenizer.encode(text).tolist()
            assert ids and not silent & set(ids), (text, ids)
            if name == "bpe":
                assert tokenizer.decode(ids) == text


@pytest.fixture(scope="module")
def blanks() -> Tokenizer:
    """Its vocabulary has runs of blanks, so that a wrong cut between them shows."""
    return ByteLevelBPE(330).train(
        ["if a:\n    b = 1\n\n\n        c  =   2\n", "\u3000\u3000中  \n \n  文"] * 30
    )


SPACED = st.lists(
    st.one_of(
        st.characters(exclude_categories=["Cs"]),
        st.sampled_from(
            [
                "a",
                "if",
                "  ",
                "   ",
                "\n    ",
                "\t ",
                ".",
                "'s",
                "中",
                "\u3000",
                "\u00a0 ",
                "\x85",
                "\x1c ",
                "\u2028",
            ]
        ),
    ),
    max_size=15,
).map("".join)


@settings(max_examples=150, deadline=None)
@given(texts=st.lists(SPACED, min_size=1, max_size=4))
def test_words_that_are_remembered_give_the_same_ids(blanks: Tokenizer, texts: list[str]) -> None:
    """Byte-level text with blanks is cut before them, whatever stands around them."""
    tokenizer = blanks
    texts = [text + " a" * 40 for text in texts] + [""]
    want = [tokenizer._inner.encode(text, add_special_tokens=False).ids for text in texts]
    flat = tokenizer.encode_flat(texts)
    assert flat.ids.tolist() == [i for ids in want for i in ids] and flat.lengths.tolist() == [
        len(w) for w in want
    ]


def test_a_model_that_knows_control_words_is_kept_from_them() -> None:
    """A published Unigram holds "[MASK]" as a piece like others; its ids must not come from a user's text."""
    pieces = ["[UNK]", "[MASK]", "▁", *"[]MASKabc", "▁ab"]
    inner = library.Tokenizer(
        library.models.Unigram([(p, -float(i + 1)) for i, p in enumerate(pieces)], unk_id=0)
    )
    inner.pre_tokenizer = library.pre_tokenizers.Metaspace(prepend_scheme="never")
    inner.decoder = library.decoders.Metaspace(prepend_scheme="never")
    tokenizer = Tokenizer(inner, "unigram", Vocabulary(size=len(pieces), unk=0, mask=1))
    assert inner.encode("a[MASK]b").tokens == ["a", "[MASK]", "b"], "the library would"
    for text in ("a[MASK]b", "[MASK]", "c [MASK][MASK] ab"):
        (encoding,) = tokenizer.encode_batch([text])
        assert 1 not in encoding.ids and tokenizer.decode(encoding.ids) == text
        assert (encoding.marks & SENTENCE).nonzero()[0].tolist() == [0]
    assert [e.ids.tolist() for e in tokenizer.encode_batch(["ab", "[MASK]", "ba"])][::2] == [
        tokenizer.encode("ab").tolist(), tokenizer.encode("ba").tolist(),
    ]  # fmt: skip


def test_readable_text(trained: dict[str, Tokenizer]) -> None:
    lower, cased = trained["wordpiece"], trained["cased"]
    for text in (
        "don't panic, mr. smith! it's 3.14.",
        "我们喜欢北京的天气。他说：“好！”然后走了。",
        "mixed 中文 and english words, 2026 年。".replace(" 中文 ", "中文").replace(" 年", "年"),
    ):
        assert lower.decode(lower.encode(text)) == text
    assert cased.decode(cased.encode("Don't panic")) == "Don't panic"
    assert lower.decode(lower.encode("CAFÉ 中文")) == "cafe中文"
    assert "[UNK]" in lower.decode(lower.encode("龘"))
    assert lower.decode([lower.vocabulary.require("cls"), *lower.encode("the dog")]) == "the dog"


def test_pieces_for_people(trained: dict[str, Tokenizer]) -> None:
    bpe = trained["bpe"]
    pieces = bpe.pieces([*bpe.encode("the dog\n龘"), bpe.vocabulary.require("mask")])
    assert pieces[-1] == "<mask>" and "␣dog" in "".join(pieces) and "↵" in pieces
    assert any(p.startswith("⟨") for p in pieces)
    lower = trained["wordpiece"]
    assert lower.pieces(lower.encode("foxes"))[0] == "fox" and lower.pieces([0]) == ["[PAD]"]


def test_marks_by_hand(trained: dict[str, Tokenizer]) -> None:
    def show(name: str, text: str, segmented: bool = False) -> list[str]:
        tokenizer = trained[name]
        (encoding,) = tokenizer.encode_batch([text], segment_words=segmented)
        flags = ["S" * bool(m & SENTENCE) + "W" * bool(m & WORD) for m in encoding.marks]
        return [f + p for f, p in zip(flags, tokenizer.pieces(encoding.ids), strict=True)]

    assert show("wordpiece", "The foxes. 我们喜欢。好") == (
        ["SWthe", "Wfox", "##e", "##s", "W.", "SW我", "W们", "W喜", "W欢", "W。", "SW好"]
    )
    assert show("wordpiece", "我们喜欢北京", segmented=True) == ["SW我", "们", "W喜", "欢", "W北", "京"]
    assert show("characters", "a b我们", segmented=True) == ["SWa", "W␣", "Wb", "W我", "们"]
    assert show("bpe", "The dog. The fox") == ["SWThe", "W␣dog", "W.", "W␣", "SWThe", "W␣fox"]
    joined = "".join(show("bpe", "喜欢北京", segmented=True))
    assert joined.startswith("SW") and joined.count("W") <= 2


# Published files

GOLDEN = (
    "[PAD] [UNK] [CLS] [SEP] [MASK] un ##aff ##able want ##want ##ed wa ##nt runn ##ing , low lowest "
    "中 国 人 ! ' s a ##b"
)


@pytest.fixture
def bert(tmp_path: Path) -> Path:
    (tmp_path / "vocab.txt").write_text("\n".join(GOLDEN.split()) + "\n", encoding="utf-8")
    return tmp_path


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("UNwant\u00e9d,running", "un ##want ##ed , runn ##ing"),
        ("中国人!", "中 国 人 !"),
        ("ab a's", "a ##b a ' s"),
        ("xyz ab", "[UNK] a ##b"),
        ("un\u00adaffable \u200bab", "un ##aff ##able a ##b"),
        ("a\u3000b", "a [UNK]"),
        ("x" * 101, "[UNK]"),
    ],
)
def test_berts_golden_pieces(bert: Path, text: str, pieces: str) -> None:
    """Spec 06 section 1."""
    tokenizer = Tokenizer.from_hf(bert)
    assert tokenizer.pieces(tokenizer.encode(text)) == pieces.split()
    assert tokenizer.encode("unaffable").tolist() == [5, 6, 7]
    assert (tokenizer.kind, tokenizer.vocabulary.cls, tokenizer.vocabulary.mask) == ("wordpiece", 2, 4)


def test_a_cased_vocabulary_says_so(bert: Path) -> None:
    (bert / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": False, "unk_token": "[UNK]"}))
    tokenizer = Tokenizer.from_hf(bert)
    assert tokenizer.pieces(tokenizer.encode("AB ab")) == ["[UNK]", "a", "##b"]


def test_gpt2s_files(tmp_path: Path) -> None:
    alphabet = sorted(library.pre_tokenizers.ByteLevel.alphabet())
    pieces = [*alphabet, "he", "ll", "hell", "Ġw", "<|endoftext|>"]
    (tmp_path / "vocab.json").write_text(json.dumps({p: i for i, p in enumerate(pieces)}), encoding="utf-8")
    (tmp_path / "merges.txt").write_text("#version: 0.2\nh e\nl l\nhe ll\nĠ w\n", encoding="utf-8")
    tokenizer = Tokenizer.from_hf(tmp_path)
    assert tokenizer.pieces(tokenizer.encode("hello world")) == ["hell", "o", "␣w", "o", "r", "l", "d"]
    assert tokenizer.decode(tokenizer.encode("hello <|endoftext|> 世界\n")) == "hello <|endoftext|> 世界\n"
    end = len(pieces) - 1
    assert (tokenizer.vocabulary.eos, tokenizer.vocabulary.bos, tokenizer.vocabulary.pad) == (end, end, None)
    assert end not in tokenizer.encode("a <|endoftext|>")


@pytest.mark.parametrize("text", ["I'LL don't", "  two spaces", "123abc", "a\n\n\nb  \t c", "中文,。 ok"])
def test_gpt2s_cuts(trained: dict[str, Tokenizer], text: str) -> None:
    """Spec 14 section 3: the pre-token pattern, written out here with Python's ``regex`` classes."""
    pattern = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
    inner = trained["bpe"]._inner
    want = [library.pre_tokenizers.ByteLevel(False, use_regex=False).pre_tokenize_str(p)[0][0]
            for p in regex.findall(pattern, text)]  # fmt: skip
    assert [piece for piece, _ in inner.pre_tokenizer.pre_tokenize_str(text)] == want


@pytest.mark.parametrize("name", ["wordpiece", "bpe", "unigram", "characters"])
def test_there_and_back_through_published_files(
    trained: dict[str, Tokenizer], name: str, tmp_path: Path
) -> None:
    tokenizer = trained[name]
    tokenizer.to_hf(tmp_path)
    again = Tokenizer.from_hf(tmp_path)
    assert (again.kind, again.vocabulary) == (tokenizer.kind, tokenizer.vocabulary)
    for text in TEXTS[:3]:
        assert again.encode(text).tolist() == tokenizer.encode(text).tolist()
        assert again.decode(again.encode(text)) == tokenizer.decode(tokenizer.encode(text))
    if name in ("wordpiece", "bpe"):  # from the older files alone
        (tmp_path / "tokenizer.json").unlink()
        old = Tokenizer.from_hf(tmp_path)
        assert old.encode(TEXTS[1]).tolist() == tokenizer.encode(TEXTS[1]).tolist()


def test_transformers_reads_what_we_write(trained: dict[str, Tokenizer], tmp_path: Path) -> None:
    from transformers import AutoTokenizer, BertTokenizer

    tokenizer = trained["wordpiece"]
    tokenizer.to_hf(tmp_path / "framed")
    theirs = AutoTokenizer.from_pretrained(tmp_path / "framed")
    a, b = tokenizer.encode("the dog").tolist(), tokenizer.encode("天气好").tolist()
    cls, sep = tokenizer.vocabulary.require("cls"), tokenizer.vocabulary.require("sep")
    both = theirs("the dog", "天气好")
    assert both["input_ids"] == [cls, *a, sep, *b, sep] and theirs.mask_token_id == tokenizer.vocabulary.mask
    assert both["token_type_ids"] == [0] * (len(a) + 2) + [1] * (len(b) + 1)
    published = BertTokenizer.from_pretrained(tmp_path / "framed")
    draw = random.Random(4)
    signs = (
        "the|Naïve|CAFÉ|中|国人|，|。| | |\t|\x00|\u200b|😀|é|e\u0301|[MASK|'|-|\u3000|\xad|ß|Σ|한국|かな|1234|"
        + "x" * 99
    ).split("|")
    for text in ("".join(draw.choices(signs, k=draw.randint(1, 12))) for _ in range(500)):
        assert tokenizer.encode(text).tolist() == published.encode(text, add_special_tokens=False), repr(text)
    trained["bpe"].to_hf(tmp_path / "plain", framed=False)
    theirs = AutoTokenizer.from_pretrained(tmp_path / "plain")
    assert theirs("the dog")["input_ids"] == trained["bpe"].encode("the dog").tolist()


# What a person can mend


def test_what_cannot_be_loaded_is_one_sentence(tmp_path: Path, trained: dict[str, Tokenizer]) -> None:
    with pytest.raises(UserError, match=r"holds no tokenizer: vocabulary\.json is missing"):
        Tokenizer.load(tmp_path)
    with pytest.raises(UserError, match=r"there must be a tokenizer\.json, or a vocab\.txt"):
        Tokenizer.from_hf(tmp_path)
    trained["bpe"].save(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(UserError, match=r"tokenizer\.json cannot be read"):
        Tokenizer.load(tmp_path)
    with pytest.raises(UserError, match="cannot be read"):
        Tokenizer.from_hf(tmp_path)
    (tmp_path / "vocabulary.json").write_text('{"format": 99')
    with pytest.raises(UserError, match="is damaged"):
        Tokenizer.load(tmp_path)
    for config in CONFIGS.values():
        with pytest.raises(UserError, match="no text to train a tokenizer on"):
            config.train([" ", "\n"])
    with pytest.raises(UserError, match="at least 261 tokens, not 100"):
        ByteLevelBPE(100).train(TEXTS)


def test_a_fork_after_encoding_is_silent() -> None:
    code = (
        "import os\nfrom plume.text.tokenizers import ByteLevelBPE\n"
        "t = ByteLevelBPE(300).train(['the cat sat'] * 99)\nt.encode_batch(['the cat'] * 99)\n"
        "pid = os.fork()\n"
        "if not pid:\n    t.encode_batch(['the cat'] * 99)\n    os._exit(0)\n"
        "assert os.waitpid(pid, 0)[1] == 0"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        capture_output=True, text=True, check=True, timeout=60, env={"PYTHONPATH": ROOT},
    )  # fmt: skip
    assert not done.stderr and not done.stdout


def test_a_unigram_vocabulary_smaller_than_its_alphabet_is_one_sentence() -> None:
    text = "".join(chr(0x4E00 + i) for i in range(200))
    with pytest.raises(UserError, match="every character.* 200 different ones.* 400 or more"):
        Unigram(60).train([text] * 3)
