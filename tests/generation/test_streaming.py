"""What is streamed adds up to what is decoded at once, whatever the bytes, tokens and stop strings are."""

import functools
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models

from plume.generation.streaming import Detokenizer, StopStrings, TextStream


class Decoder:
    """A tokenizer of the library as far as decoding goes."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.inner = tokenizer

    def decode(self, ids: Sequence[int]) -> str:
        return self.inner.decode(list(ids))


def byte_symbols() -> list[str]:
    """The printable stand-in of each byte, as byte-level BPE files write them (spec 14 section 3)."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [b for b in range(256) if b not in plain]
    symbols = {b: chr(b) for b in plain} | {b: chr(256 + n) for n, b in enumerate(rest)}
    return [symbols[b] for b in range(256)]


@functools.cache
def byte_level() -> Decoder:
    symbols = byte_symbols()
    vocab = {symbol: i for i, symbol in enumerate(symbols)}
    for text in (" film", "电", "影很", "👩‍👧", "END"):
        vocab.setdefault("".join(symbols[b] for b in text.encode()), len(vocab))
    vocab["".join(symbols[b] for b in "影".encode()[:2])] = len(vocab)  # half a character as a token
    inner = Tokenizer(models.BPE(vocab, []))
    inner.decoder = decoders.ByteLevel()
    inner.add_special_tokens([AddedToken("</s>", special=True)])
    return Decoder(inner)


@functools.cache
def word_piece() -> Decoder:
    words = [
        "[UNK]",
        "a",
        "b",
        "##c",
        "##d",
        "film",
        ".",
        ",",
        "'",
        "s",
        "n",
        "##'t",
        "电",
        "影",
        "!",
        "do",
        "not",
    ]
    inner = Tokenizer(models.WordPiece({w: i for i, w in enumerate(words)}, unk_token="[UNK]"))  # noqa: S106
    inner.decoder = decoders.WordPiece()
    inner.add_special_tokens([AddedToken("[SEP]", special=True)])
    return Decoder(inner)


@functools.cache
def unigram() -> Decoder:
    pieces = ["<unk>", "▁", "▁a", "b", "▁film", "s", "电", "▁电影", "。", "▁▁"]
    inner = Tokenizer(models.Unigram([(p, -1.0) for p in pieces], unk_id=0, byte_fallback=False))
    inner.decoder = decoders.Metaspace()
    inner.add_special_tokens([AddedToken("</s>", special=True)])
    return Decoder(inner)


KINDS = {"bytes": byte_level, "wordpiece": word_piece, "unigram": unigram}


def ids_of(kind: str) -> st.SearchStrategy[list[int]]:
    return st.lists(st.integers(0, KINDS[kind]().inner.get_vocab_size() - 1), max_size=60)


def bytes_of(text: str) -> list[int]:
    return list(text.encode())


def streamed(stream: Detokenizer | TextStream, ids: Sequence[int]) -> list[str]:
    return [*(stream.push(i) for i in ids), stream.finish()]


def offline(decoder: Decoder, prompt: Sequence[int], ids: Sequence[int]) -> str:
    """What follows the prompt in the text of both."""
    return decoder.decode([*prompt, *ids])[len(decoder.decode(prompt)) :]


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_deltas_of_any_ids_add_up_to_the_offline_decode(kind, data):
    decoder, ids = KINDS[kind](), data.draw(ids_of(kind))
    assert "".join(streamed(Detokenizer(decoder), ids)) == decoder.decode(ids)


@settings(max_examples=150, deadline=None)
@given(
    text=st.text(max_size=40),
    noise=st.lists(st.tuples(st.integers(0, 80), st.integers(128, 255)), max_size=3),
)
def test_broken_characters_are_replaced_exactly_where_the_whole_text_has_them(text, noise):
    ids = bytes_of(text)
    for at, byte in noise:
        ids.insert(min(at, len(ids)), byte)
    decoder = byte_level()
    whole, chunks = decoder.decode(ids), streamed(Detokenizer(decoder), ids)
    assert whole == bytes(ids).decode(errors="replace")
    assert "".join(chunks) == whole
    at = 0
    for chunk in chunks:  # never a replacement that the full text does not have there
        assert whole.startswith(chunk, at)
        at += len(chunk)


@pytest.mark.parametrize(
    "text", ["电影很好看。", "naïve 👩‍👧 résumé", "一\u0301二", "\ufffd is a character", "plain"]
)
def test_characters_are_whole_when_they_are_given_out_and_given_out_at_once(text):
    chunks = streamed(Detokenizer(byte_level()), bytes_of(text))
    assert "".join(chunks) == text
    assert chunks[-1] == ("" if text != "\ufffd" else text)
    if "\ufffd" not in text:
        assert [c for c in chunks if c] == list(text)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_a_continuation_is_what_follows_the_prompt_in_the_whole_text(kind, data):
    decoder, ids = KINDS[kind](), data.draw(ids_of(kind))
    prompt = {"bytes": bytes_of("The 电影 was "), "wordpiece": [13, 14, 1, 3], "unigram": [7, 3, 4, 5]}[kind]
    prompt *= data.draw(st.integers(1, 5))
    assert "".join(streamed(Detokenizer(decoder, prompt), ids)) == offline(decoder, prompt, ids)


def test_the_space_before_the_first_word_is_not_lost():
    assert streamed(Detokenizer(word_piece(), [1]), [5, 3, 6]) == [" film", "c", ".", ""]
    assert streamed(Detokenizer(unigram(), [2]), [4, 5]) == [" film", "s", ""]


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
    decoder, half = byte_level(), byte_level().inner.get_vocab_size() - 2
    ids = [*bytes_of("看电"), half, *"影".encode()[2:], *bytes_of("好 film")]
    stream = TextStream(decoder, stops=["电影"])
    assert "".join(streamed(stream, ids)) == "看"
    assert stream.stopped


def test_the_prompt_is_not_searched_for_stop_strings():
    stream = TextStream(byte_level(), bytes_of("END EN"), ["END"])
    assert "".join(streamed(stream, bytes_of("D and on"))) == "D and on"
    assert not stream.stopped


def test_long_texts_are_decoded_in_short_stretches():
    class Counting(Decoder):
        longest = 0

        def decode(self, ids: Sequence[int]) -> str:
            self.longest = max(self.longest, len(ids))
            return super().decode(ids)

    decoder = Counting(byte_level().inner)
    streamed(Detokenizer(decoder, bytes_of("电影" * 50)), bytes_of("一部很好看的电影 😀 " * 40))
    assert decoder.longest < 25
