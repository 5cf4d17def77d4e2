"""The loop: lengths, ends, windows, batches, with a model made of counts instead of weights."""

from collections.abc import Sequence

import numpy as np
import pytest

from plume.errors import UserError
from plume.generation.decoding import Session, generate
from plume.generation.language_models import HistoryModel
from plume.generation.sampling import Decoding, Row
from plume.slots import Array

V = 12


def log_probs(ids: Array) -> Array:
    """A distribution that depends on all ids and their order: no two histories share it."""
    code = int(sum((i + 2) * int(t + 1) * 31 for i, t in enumerate(ids)))
    logits = np.random.default_rng(code).normal(size=V) * 2
    return logits - np.log(np.exp(logits).sum())


class Counted(HistoryModel):
    """Counts questions, and remembers the longest text it was asked about."""

    def __init__(self, context_length: int | None = None) -> None:
        super().__init__(self.answer)
        self.context_length = context_length
        self.longest = 0
        self.questions = 0

    def answer(self, ids: Array) -> Array:
        self.questions += 1
        self.longest = max(self.longest, len(ids))
        return log_probs(ids)


def greedy(prompt: Sequence[int], count: int) -> tuple[int, ...]:
    ids = list(prompt)
    for _ in range(count):
        ids.append(int(log_probs(np.array(ids)).argmax()))
    return tuple(ids[len(prompt) :])


PROMPTS = [[1], [3, 4, 5], [2] * 9, [7, 1], [3, 4, 5]]


def test_greedy_takes_the_likeliest_token_each_time_whatever_the_lengths_of_the_prompts():
    found = generate(Counted(), PROMPTS, Decoding(temperature=0, max_new_tokens=7))
    assert [g.ids for g in found] == [greedy(p, 7) for p in PROMPTS]
    assert {g.finish for g in found} == {"length"}
    expected = log_probs(np.array(PROMPTS[1]))[found[1].ids[0]]
    assert found[1].log_probs[0] == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("batch_size", [1, 2, 3, 32])
def test_neighbours_never_change_a_text(batch_size):
    how = Decoding(max_new_tokens=9, top_p=0.9, seed=4, eos=(0,), repetition_penalty=1.2)
    alone = [generate(Counted(), [p], how)[0] for p in PROMPTS]
    assert generate(Counted(), PROMPTS, how, batch_size=batch_size) == alone
    assert generate(Counted(), PROMPTS[::-1], how, batch_size=batch_size) == alone[::-1]
    assert len({g.finish for g in alone}) == 2  # some rows left the batch before others


def test_samples_of_one_prompt_differ_and_come_prompt_by_prompt():
    how = Decoding(max_new_tokens=6)
    several = generate(Counted(), [[1], [2]], how, samples=4)
    assert len(set(several[:4])) == 4
    assert several[4:] == generate(Counted(), [[2]], how, samples=4)


def test_frequencies_of_generated_tokens_follow_the_model():
    how = Decoding(max_new_tokens=1)
    firsts = [g.ids[0] for g in generate(Counted(), [[5, 6]], how, samples=2000, batch_size=500)]
    expected = np.exp(log_probs(np.array([5, 6]))) * 2000
    observed = np.bincount(firsts, minlength=V)
    assert ((observed - expected) ** 2 / expected).sum() < 31.3  # chi-square with 11 degrees, p = 1e-3


def test_rows_of_one_batch_may_have_settings_of_their_own():
    settings = [
        Decoding(temperature=0, max_new_tokens=3),
        Decoding(seed=1, max_new_tokens=5),
        Decoding(top_k=2),
    ]
    rows = [Row(p, how) for p, how in zip(PROMPTS, settings, strict=False)]
    session, counts = Session(Counted(), rows), [0, 0, 0]
    while session.live:
        for token in session.step():
            counts[token.row] += 1
    assert counts == [3, 5, 50]
    for row, prompt, how in zip(rows, PROMPTS, settings, strict=False):
        assert tuple(row.ids[len(prompt) :]) == generate(Counted(), [prompt], how)[0].ids


def test_a_text_ends_with_its_end_token_and_the_prompt_may_hold_one():
    first = greedy([1], 6)
    how = Decoding(temperature=0, max_new_tokens=6, eos=(first[2], 99))
    found = generate(Counted(), [[1]], how)[0]
    assert (found.ids, found.finish) == (first[:3], "eos")
    again = generate(Counted(), [[1, *first[:3]]], how)[0]
    assert again.ids[0] == first[3]


def test_no_token_asked_for_means_no_question_to_the_model():
    model = Counted()
    found = generate(model, PROMPTS[:2], Decoding(max_new_tokens=0))
    assert [(g.ids, g.finish) for g in found] == [((), "length")] * 2
    assert model.questions == 0


def test_the_last_token_is_not_read_again():
    model = Counted()
    generate(model, [[1, 2]], Decoding(max_new_tokens=4))
    assert (model.questions, model.longest) == (4, 5)


def test_a_row_that_was_ended_gets_no_more_tokens():
    session = Session(Counted(), [Row(p, Decoding(temperature=0, max_new_tokens=5)) for p in PROMPTS[:2]])
    session.step()
    session.end(0)
    session.end(0)
    assert [t.row for t in session.step()] == [1]
    session.end(1)
    assert not session.live
    assert session.step() == []


def test_an_empty_prompt_is_one_sentence():
    with pytest.raises(UserError, match="prompt 2 is empty"):
        generate(Counted(), [[1], []])


def test_a_text_that_would_outgrow_the_model_is_refused_before_anything_is_generated():
    model = Counted(context_length=8)
    assert len(generate(model, [[1] * 5], Decoding(max_new_tokens=4))[0].ids) == 4
    asked = model.questions
    with pytest.raises(
        UserError, match="5 tokens and max_new_tokens is 5.* at most 8.* at most 4 new tokens"
    ):
        generate(model, [[1], [1] * 5], Decoding(max_new_tokens=5))
    assert model.questions == asked


def test_a_sliding_window_reads_the_last_ids_and_never_more_than_the_model_can():
    how = Decoding(temperature=0, max_new_tokens=30, overflow="slide")
    model = Counted(context_length=8)
    found = generate(model, [[1, 2, 3], list(range(11))], how)
    assert model.longest == 8
    for prompt, text in zip(([1, 2, 3], list(range(11))), found, strict=True):
        ids, size = list(prompt), len(prompt)
        for token in text.ids:  # a quarter of the window is let go whenever it is full
            size = size if size <= 8 else 6
            assert token == int(log_probs(np.array(ids[-size:])).argmax())
            ids.append(token)
            size += 1


def test_history_models_accept_single_precision():
    model = HistoryModel(lambda ids: np.log(np.full(4, 0.25, np.float32)))
    answer = generate(model, [[0]], Decoding(temperature=0, max_new_tokens=1))[0]
    assert answer.log_probs[0] == pytest.approx(np.log(0.25), abs=1e-6)


@pytest.mark.parametrize("temperature", [0, 1])
def test_a_model_whose_weights_are_damaged_says_so(temperature):
    model = HistoryModel(lambda ids: np.full(4, np.nan))
    with pytest.raises(UserError, match="training diverged or its weights are damaged"):
        generate(model, [[0]], Decoding(temperature=temperature))
