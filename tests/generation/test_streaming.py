"""What is streamed adds up to what is decoded at once, whatever the bytes, tokens and stop strings are."""

import functools
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plume.generation.streaming import StopStrings, TextStream
from plume.text.tokenizers import ByteLevelBPE, Characters, Tokenizer, Unigram, WordPiece

TEXTS = [
    "The film was a good film, wasn't it? END (of the film).",
    "电影很好看，我们都喜欢。",
    "naïve 👩‍👧 END\n\n",
] * 9
CONFIGS = {
    "bpe": ByteLevelBPE(vocab_size=300),
    "wordpiece": WordPiece(vocab_size=90),
    "unigram": Unigram(vocab_size=90),
    "characters": Characters(vocab_size=70),
}


@functools.cache
def tokenizer(kind: str) -> Tokenizer:
    return CONFIGS[kind].train(TEXTS)


def ids_of(kind: str) -> st.SearchStrategy[list[int]]:
    return st.lists(st.integers(0, tokenizer(kind).vocabulary.size - 1), max_size=60)


@functools.cache
def byte_ids() -> list[int]:
    """The id of each byte alone."""
    of = {tokenizer("bpe").token_bytes(i): i for i in range(tokenizer("bpe").vocabulary.size)}
    return [of[bytes([b])] for b in range(256)]


def bytes_of(text: str) -> list[int]:
    return [byte_ids()[b] for b in text.encode()]


def streamed(stream: TextStream, ids: Sequence[int]) -> list[str]:
    return [*(stream.push(i) for i in ids), stream.finish()]


@pytest.mark.parametrize("kind", CONFIGS)
@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_deltas_of_any_ids_add_up_to_the_offline_decode(kind, data):
    """Any ids: broken characters, special tokens and pieces that never stand side by side among them."""
    decoder, ids = tokenizer(kind), data.draw(ids_of(kind))
    assert "".join(streamed(TextStream(decoder), ids)) == decoder.decode(ids)


@pytest.mark.parametrize("kind", CONFIGS)
@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_a_continuation_is_what_follows_the_prompt_in_the_whole_text(kind, data):
    decoder, ids = tokenizer(kind), data.draw(ids_of(kind))
    prompt = decoder.encode(
        data.draw(st.sampled_from(["The film was ", "电影很", "a (good", "it wasn't", ""]))
    ).tolist()
    whole, before = decoder.decode([*prompt, *ids]), decoder.decode(prompt)
    assert before + "".join(streamed(TextStream(decoder, prompt), ids)) == whole


def test_the_first_word_of_a_continuation_has_its_blank():
    for kind in CONFIGS:
        words = tokenizer(kind).encode("The film").tolist()
        first = tokenizer(kind).encode("The").tolist()
        assert "".join(streamed(TextStream(tokenizer(kind), first), words[len(first) :])).lower() == " film"


@settings(max_examples=150, deadline=None)
@given(
    text=st.text(max_size=40),
    noise=st.lists(st.tuples(st.integers(0, 80), st.integers(128, 255)), max_size=3),
)
def test_broken_characters_are_replaced_exactly_where_the_whole_text_has_them(text, noise):
    raw = list(text.encode())
    for at, byte in noise:
        raw.insert(min(at, len(raw)), byte)
    whole = bytes(raw).decode(errors="replace")
    chunks = streamed(TextStream(tokenizer("bpe")), [byte_ids()[b] for b in raw])
    assert "".join(chunks) == whole
    at = 0
    for chunk in chunks:  # never a replacement that the full text does not have there
        assert whole.startswith(chunk, at)
        at += len(chunk)


@pytest.mark.parametrize(
    "text", ["电影很好看。", "naïve 👩‍👧 résumé", "一\u0301二", "plain", "\ufffd is a character"]
)
def test_characters_are_given_out_whole_and_as_soon_as_they_are(text):
    chunks = streamed(TextStream(tokenizer("bpe")), bytes_of(text))
    assert [c for c in chunks if c] == list(text)
    assert chunks[-1] == ""


def cut(text: str, stops: Sequence[str], include: bool) -> str:
    """The definition, letter by letter: the text as soon as it ends with a stop string, without that string."""
    for end in range(len(text) + 1):
        here = [s for s in stops if text[:end].endswith(s)]
        if here:
            return text[:end] if include else text[: end - max(map(len, here))]
    return text


@settings(max_examples=300, deadline=None)
@given(
    chunks=st.lists(st.text("ab电影", max_size=4), max_size=12),
    stops=st.lists(st.text("ab电影", min_size=1, max_size=4), max_size=3),
    include=st.booleans(),
)
def test_stop_strings_cut_the_same_place_however_the_text_was_chunked(chunks, stops, include):
    stream = StopStrings(stops, include=include)
    given_out = ""
    for chunk in chunks:
        given_out += stream.push(chunk)
        assert cut("".join(chunks), stops, include).startswith(given_out)
    given_out += stream.finish()
    assert given_out == cut("".join(chunks), stops, include)
    assert stream.stopped == any(s in "".join(chunks) for s in stops)


@pytest.mark.parametrize(
    ("chunks", "stops", "expected"),
    [
        (["sto", "pper"], ["stop"], ["", "", ""]),  # begins and ends inside a token
        (["stop"], ["stop"], ["", ""]),  # at the first token
        (["a s", "t", "o", "ne"], ["stop"], ["a ", "", "", "stone", ""]),  # held back for nothing
        (["abc", "d"], ["bcd", "cd"], ["a", "", ""]),  # two end at one place: the longer one
        (["好，", "再", "见。"], ["再见"], ["好，", "", "", ""]),
        (["x\nUs"], ["\nUser:"], ["x", "\nUs"]),  # the end of the text lets go of it
    ],
)
def test_stop_strings_over_several_tokens(chunks, stops, expected):
    stream = StopStrings(stops)
    assert [*(stream.push(c) for c in chunks), stream.finish()] == expected


def test_a_stop_string_may_end_in_the_middle_of_a_token_and_split_a_character_into_tokens():
    decoder = tokenizer("bpe")
    stream = TextStream(decoder, stops=["电影"])
    assert "".join(streamed(stream, [*bytes_of("看电影"), *decoder.encode(" film")])) == "看"
    assert stream.stopped
    film = next(i for i in range(decoder.vocabulary.size) if decoder.token_bytes(i) == b" film")
    stream = TextStream(decoder, stops=["fi"])
    assert "".join(streamed(stream, [*bytes_of("a"), film])) == "a "


def test_the_prompt_is_not_searched_for_stop_strings():
    stream = TextStream(tokenizer("bpe"), bytes_of("END EN"), ["END"])
    assert "".join(streamed(stream, bytes_of("D and on"))) == "D and on"
    assert not stream.stopped
