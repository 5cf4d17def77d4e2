"""Text in, text out, in two languages, with a real tokenizer and a model made of what it was told to say."""

import functools
from collections.abc import Sequence

import numpy as np
import pytest

from plume.errors import UserError
from plume.generation.chat import STYLES, Chat
from plume.generation.completion import complete, for_text, stream
from plume.generation.language_models import HistoryModel
from plume.generation.sampling import Decoding
from plume.slots import Array
from plume.text.tokenizers import ByteLevelBPE, Tokenizer, WordPiece

TEXTS = [
    "the film was good.\nUser: hello\nAssistant: hi, how are you?\n",
    "用户：你好\n助手：你好！电影很好看。\n",
] * 9


@functools.cache
def tokenizer(kind: str) -> Tokenizer:
    config = {"bpe": ByteLevelBPE(vocab_size=330), "wordpiece": WordPiece(vocab_size=110)}[kind]
    return config.train(TEXTS)


class Parrot(HistoryModel):
    """Says ``text`` after whatever it was asked, then the end token; remembers what it was asked."""

    def __init__(self, kind: str, text: str, context_length: int | None = None) -> None:
        super().__init__(self.answer)
        self.context_length = context_length
        self.vocab = tokenizer(kind).vocabulary
        self.lines = [*tokenizer(kind).encode(text).tolist(), self.vocab.eos]
        self.prompts: list[list[int]] = []
        self.asked: Sequence[int] = []
        self.last: list[int] | None = None

    def answer(self, ids: Array) -> Array:
        if list(ids[:-1]) != self.last:  # not the text it was asked about before, one token longer
            self.asked = ids.tolist()
            self.prompts.append(ids.tolist())
        self.last = ids.tolist()
        logits = np.full(self.vocab.size, -20.0)
        logits[self.lines[min(len(ids) - len(self.asked), len(self.lines) - 1)]] = 0
        logits[[self.vocab.pad, self.vocab.mask]] = 5.0  # a model that would rather say [MASK]
        return logits


GREEDY = Decoding(temperature=0)


@pytest.mark.parametrize("kind", ["bpe", "wordpiece"])
@pytest.mark.parametrize(
    ("prompt", "text"), [("the film", " was good."), ("电影", "很好看。"), ("the film", " 电影 was 好.")]
)
def test_a_text_is_continued_to_its_end_token_and_special_tokens_are_not_chosen(kind, prompt, text):
    found = complete(Parrot(kind, text), tokenizer(kind), [prompt], GREEDY)[0]
    expected = tokenizer(kind).decode(tokenizer(kind).encode(prompt + text))[len(prompt) :]
    assert found.text == expected
    assert found.finish == "eos"
    assert found.ids[-1] == tokenizer(kind).vocabulary.eos
    assert len(found.ids) == len(found.log_probs) == len(found.final)
    assert max(found.log_probs) < -5 < max(found.final)  # the model's own view, and what was drawn from


def test_streamed_text_equals_completed_text_for_every_row():
    how = Decoding(seed=3, max_new_tokens=40, suppress=())  # random bytes, special tokens and all
    model = HistoryModel(lambda ids: np.sin(np.arange(330) * (1 + len(ids)) + ids[-1]))
    prompts = ["the film", "电影", ""]
    whole = complete(model, tokenizer("bpe"), prompts, how, samples=2, batch_size=4)
    parts = [""] * 6
    ends = []
    for delta in stream(model, tokenizer("bpe"), prompts, how, samples=2, batch_size=3):
        parts[delta.row] += delta.text
        ends += [delta.row] * (delta.finish is not None)
    assert parts == [c.text for c in whole]
    assert sorted(ends) == list(range(6))
    for prompt, text in zip([p for p in prompts for _ in range(2)], whole, strict=True):
        ids = [i for i in text.ids if i not in (tokenizer("bpe").vocabulary.eos,)]
        assert text.text == tokenizer("bpe").decode([*tokenizer("bpe").encode(prompt), *ids])[len(prompt) :]


@pytest.mark.parametrize(
    ("stop", "include", "expected"),
    [
        (("good",), False, " was "),
        (("good",), True, " was good"),
        (("d.", "ood."), False, " was g"),
        (("zzz",), False, " was good.\n"),
        ((" was",), False, ""),
    ],
)
def test_stop_strings_end_a_text(stop, include, expected):
    how = Decoding(temperature=0, stop=stop, include_stop=include)
    model = Parrot("bpe", " was good.\n")
    found = complete(model, tokenizer("bpe"), ["the good film"], how)[0]
    assert found.text == expected
    assert found.finish == ("eos" if stop == ("zzz",) else "stop")


def test_what_was_held_back_for_a_stop_string_is_given_out_at_the_length_limit():
    found = complete(
        Parrot("bpe", " was"),
        tokenizer("bpe"),
        ["x"],
        Decoding(temperature=0, max_new_tokens=1, stop=(" wash",)),
    )
    assert (found[0].finish, found[0].text) == ("length", tokenizer("bpe").decode(found[0].ids))


def test_an_empty_prompt_begins_where_texts_begin():
    model = Parrot("bpe", "the film")
    assert complete(model, tokenizer("bpe"), [""], GREEDY)[0].text == "the film"
    assert model.prompts == [[tokenizer("bpe").vocabulary.eos]]


def test_what_cannot_be_continued_is_refused_by_the_call_itself():
    model = Parrot("bpe", "x", context_length=6)
    with pytest.raises(UserError, match="prompt 2 has .* at most 6"):
        stream(model, tokenizer("bpe"), ["the", "the film was good"], Decoding(max_new_tokens=5))
    assert not model.prompts


def test_no_new_tokens_is_no_text():
    found = complete(Parrot("bpe", "x"), tokenizer("bpe"), ["a", "b"], Decoding(max_new_tokens=0))
    assert [(c.text, c.ids, c.finish) for c in found] == [("", (), "length")] * 2


def test_the_end_token_can_be_turned_off_and_special_tokens_can_be_allowed():
    vocab = tokenizer("bpe").vocabulary
    assert for_text(Decoding(), vocab).eos == (vocab.eos,)
    assert vocab.mask in (for_text(Decoding(), vocab).suppress or ())
    assert vocab.eos not in (for_text(Decoding(), vocab).suppress or ())
    free = for_text(Decoding(eos=(), suppress=()), vocab)
    assert (free.eos, free.suppress) == ((), ())


@pytest.mark.parametrize(
    ("message", "reply", "transcript"),
    [
        ("hello", " hi, how are you?\nUser: x", "User: hello\nAssistant:"),
        ("你好", "电影很好看。\n用户：", "用户：你好\n助手："),
    ],
)
def test_a_reply_is_streamed_and_ends_before_the_next_turn(message, reply, transcript):
    model = Parrot("bpe", reply)
    chat = Chat(model, tokenizer("bpe"), GREEDY)
    said = list(chat.say(message))
    assert "".join(said) == reply.split("\n")[0].strip()
    assert len(said) > 1
    assert chat.turns == [(message, "".join(said))]
    assert model.prompts[0] == tokenizer("bpe").encode(transcript).tolist()
    list(chat.say(message))
    assert (
        tokenizer("bpe").decode(model.prompts[-1])
        == f"{transcript}{' ' * (message == 'hello')}{''.join(said)}\n{transcript}"
    )


def test_a_lower_casing_tokenizer_ends_a_reply_too():
    chat = Chat(Parrot("wordpiece", " hi user: hello"), tokenizer("wordpiece"), GREEDY)
    assert "".join(chat.say("hello")).strip() == "hi"


def test_the_oldest_turns_are_left_out_when_the_transcript_outgrows_the_model():
    how = Decoding(temperature=0, max_new_tokens=8)
    model = Parrot("bpe", " hi\n", context_length=70)
    chat = Chat(model, tokenizer("bpe"), how)
    for _ in range(6):
        assert "".join(chat.say("hello, how are you?")) == "hi"
    assert len(chat.turns) == 6
    longest = max(len(p) for p in model.prompts)
    assert longest + 7 <= 70
    assert tokenizer("bpe").decode(model.prompts[-1]).startswith("User: hello")
    with pytest.raises(UserError, match="reads at most 70: write a shorter message"):
        list(chat.say("电影" * 60))
    assert len(chat.turns) == 6


def test_the_same_question_may_get_another_answer_and_the_same_seed_the_same_conversation():
    model = HistoryModel(lambda ids: np.where(np.arange(330) < 300, 0.0, -9.0))
    how = Decoding(max_new_tokens=5, suppress=(), eos=())

    def conversation() -> list[str]:
        chat = Chat(model, tokenizer("bpe"), how, style=STYLES["en"])
        return ["".join(chat.say("hello")) for _ in range(3)]

    first = conversation()
    assert len(set(first)) == 3
    assert conversation() == first
