"""Every token of a text is scored exactly once, with the context its mode promises, by every kind of model."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from plume.errors import UserError
from plume.evaluation import answerers
from plume.evaluation.answerers import Answer, Question
from plume.evaluation.scorer import Mode, Perplexity, Scorer, spans
from plume.models.backbone import Backbone
from plume.models.heads import Head, PooledHead, TokenHead
from plume.models.ngrams import NGrams
from plume.models.pretrained import PretrainedModel
from plume.models.recurrent import RecurrentConfig
from plume.models.smoothing import KneserNey
from plume.models.transformer import TransformerConfig
from plume.objectives.causal import CausalLM
from plume.objectives.masked import MaskedLM
from plume.slots import Example, Slots, collate
from plume.vocabulary import Vocabulary

TEXT = "the cat sat on the mat; 猫坐在垫子上。"
LETTERS = {c: i for i, c in enumerate(sorted(set(TEXT)), 4)}
VOCAB = Vocabulary(size=4 + len(LETTERS), eos=0, cls=1, sep=2, mask=3)
CAUSAL = CausalLM()
MODES: tuple[Mode, ...] = ("rolling", "stride", "disjoint")


class Letters:
    def encode(self, text: str) -> np.ndarray[Any, np.dtype[Any]]:
        return np.array([LETTERS[c] for c in text], np.int64)


def model(objective: CausalLM | MaskedLM, *, zero: bool = False, max_positions: int = 64) -> PretrainedModel:
    config = TransformerConfig(num_layers=2, d_model=16, num_heads=2, d_ff=32, max_positions=max_positions,
                               init_std=0.5)  # fmt: skip
    built = PretrainedModel.build(config, VOCAB, lambda b: objective.heads(b, VOCAB), seed=0).double()
    if zero:
        with torch.no_grad():
            for parameter in built.parameters():
                parameter.zero_()
    return built


def scorer(objective: CausalLM | MaskedLM = CAUSAL, max_length: int | None = 64, **options: Any) -> Scorer:
    zero = options.pop("zero", False)
    network = answerers.network(
        model(objective, zero=zero), objective, VOCAB, max_length=max_length, **options
    )
    return Scorer(network, Letters())


@dataclass
class Recorded:
    """Answers -1 nat to everything and remembers what it was asked."""

    window: int | None
    prefix: int | None = -1
    pseudo: bool = False
    asked: tuple[Question, ...] = ()

    def answer(self, questions: Sequence[Question], *, greedy: bool = False) -> list[Answer]:
        self.asked += tuple(questions)
        return [Answer(np.full(q.scored, -1.0), np.ones(q.scored if greedy else 0, bool)) for q in questions]


def test_the_harness_example() -> None:
    seen = Recorded(window=4)
    Scorer(seen, Letters()).log_probs([np.arange(10)])
    assert [q.ids[:-1].tolist() for q in seen.asked] == [[-1, 0, 1, 2], [3, 4, 5, 6], [5, 6, 7, 8]]
    assert [q.ids[len(q.ids) - q.scored :].tolist() for q in seen.asked] == [
        [0, 1, 2, 3],
        [4, 5, 6, 7],
        [8, 9],
    ]


def test_the_other_modes_read_what_they_say() -> None:
    def read(mode: Mode, **options: int) -> list[tuple[list[int], int]]:
        seen = Recorded(window=4)
        Scorer(seen, Letters()).log_probs([np.arange(9)], mode=mode, **options)
        return [(q.ids[:-1].tolist(), q.scored) for q in seen.asked]

    assert read("disjoint") == [([-1, 0, 1, 2], 4), ([-1, 4, 5, 6], 4), ([-1], 1)]
    assert read("stride", stride=3) == [([-1, 0, 1, 2], 4), ([2, 3, 4, 5], 3), ([5, 6, 7], 2)]
    assert read("stride") == [([-1, 0, 1, 2], 4), ([1, 2, 3, 4], 2), ([3, 4, 5, 6], 2), ([5, 6, 7], 1)]
    assert read("rolling", context=3)[1:3] == [([1, 2, 3, 4], 2), ([3, 4, 5, 6], 2)]


@given(st.integers(0, 60), st.integers(1, 12), st.sampled_from(MODES), st.data())
def test_each_token_is_scored_once_and_no_window_is_too_long(
    size: int, window: int, mode: Mode, data: st.DataObject
) -> None:
    stride, context = data.draw(st.integers(1, window)), data.draw(st.integers(1, window))
    found = spans(size, window, mode, stride=stride, context=context)
    scored = [i for s in found for i in range(s.end - s.scored, s.end)]
    assert scored == list(range(size))
    assert all(0 <= s.start <= s.end - s.scored and s.end - s.start <= window for s in found)
    if mode == "stride":  # a token after the first window has at least window - stride tokens before it
        assert all(s.end - s.scored - s.start >= window - stride for s in found[1:])
    if mode == "rolling":
        assert all(s.end - s.start == window for s in found[1:])


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("size", [1, 7, 8, 9, 29])  # 1, W-1, W, W+1, 3W+5
def test_a_uniform_model_has_the_vocabulary_as_its_perplexity(mode: Mode, size: int) -> None:
    text = (TEXT * 2)[:size]
    for objective in (CausalLM(), MaskedLM()):
        found = scorer(objective, max_length=10 if objective == MaskedLM() else 8, zero=True).perplexity(
            [text], mode=mode
        )
        assert found.tokens == size
        assert found.token_perplexity == pytest.approx(VOCAB.size, rel=1e-12)
        assert found.pseudo == isinstance(objective, MaskedLM)


def by_hand(network: PretrainedModel, ids: list[int]) -> list[float]:
    """log p of ids[1:], each from all before it, in one pass."""
    inputs = collate([Example(Slots.causal(ids[:-1]))]).inputs
    with torch.no_grad():
        logits = network.eval().heads["next_token"].logits(network.backbone(inputs)["last"])[0]
    return [float(logits[t].log_softmax(-1)[ids[t + 1]]) for t in range(len(ids) - 1)]


def test_a_text_that_fits_scores_as_in_one_pass() -> None:
    ids = Letters().encode(TEXT)
    wanted = by_hand(model(CausalLM()), [0, *ids])
    for mode in MODES:
        [found] = scorer().log_probs([ids], mode=mode)
        np.testing.assert_allclose(found, wanted, atol=1e-10)
    assert scorer().loglikelihood_rolling([TEXT]) == pytest.approx([sum(wanted)])


def test_windows_score_as_the_same_windows_by_hand() -> None:
    ids = Letters().encode(TEXT)
    network = model(CausalLM())
    for mode in MODES:
        [found] = scorer(max_length=8).log_probs([ids], mode=mode)
        wanted: list[float] = []
        for span in spans(len(ids), 8, mode):
            read = [
                0 if span.fresh or span.start == 0 else int(ids[span.start - 1]),
                *ids[span.start : span.end],
            ]
            wanted += by_hand(network, read)[-span.scored :]
        np.testing.assert_allclose(found, wanted, atol=1e-10)


def test_batches_and_their_order_change_nothing() -> None:
    texts = [TEXT[i:] for i in range(0, len(TEXT), 2)]
    alone = [scorer().loglikelihood_rolling([text])[0] for text in texts]
    for batch_slots in (1, 50, 10_000):
        together = scorer(batch_slots=batch_slots).loglikelihood_rolling(texts[::-1])[::-1]
        np.testing.assert_allclose(together, alone, atol=1e-9)


def test_a_recurrent_network_scores_too() -> None:
    objective = CausalLM()
    network = PretrainedModel.build(RecurrentConfig(1, 8), VOCAB, lambda b: objective.heads(b, VOCAB), seed=0)
    texts = [TEXT, TEXT[3:9], TEXT[2:30]]
    answerer = answerers.network(network, objective, VOCAB, max_length=None)
    together = Scorer(answerer, Letters()).loglikelihood_rolling(texts)
    alone = [Scorer(answerer, Letters()).loglikelihood_rolling([t])[0] for t in texts]
    assert together == pytest.approx(alone, abs=1e-4)


def test_loglikelihood_of_a_continuation() -> None:
    context, continuation = "the cat", " sat on"
    [found] = scorer().loglikelihood([(context, continuation)])
    wanted = by_hand(model(CausalLM()), [0, *Letters().encode(context + continuation)])
    # A context that is there needs no prefix before it.
    wanted = by_hand(model(CausalLM()), [int(i) for i in Letters().encode(context + continuation)])[-7:]
    assert found.log_prob == pytest.approx(sum(wanted), abs=1e-10)
    assert found.num_tokens == 7


def test_blanks_between_belong_to_the_continuation() -> None:
    pairs = [("the cat", " sat"), ("the cat ", "sat"), ("猫", "坐在"), ("猫", "坐在")]
    first, second, third, fourth = scorer().loglikelihood(pairs)
    assert first == second and third == fourth


def test_an_empty_context_is_the_prefix_token() -> None:
    empty, blank = scorer().loglikelihood([("", "cat"), ("  ", "cat")])
    assert empty.log_prob == pytest.approx(sum(by_hand(model(CausalLM()), [0, *Letters().encode("cat")])))
    assert (empty.num_tokens, blank.num_tokens) == (3, 5)
    assert scorer().loglikelihood([("the", "")])[0].log_prob == 0


def test_continuations_add_up() -> None:
    whole, first, second = scorer().loglikelihood([("the", " cat sat"), ("the", " cat"), ("the cat", " sat")])
    assert whole.log_prob == pytest.approx(first.log_prob + second.log_prob, abs=1e-9)


@pytest.mark.parametrize("extra", [0, 1, 2])
def test_a_long_context_loses_its_beginning(extra: int) -> None:
    text = TEXT.replace(" ", "")
    context, continuation = text[: 5 + extra], text[5 + extra : 8 + extra]
    [found] = scorer(max_length=8).loglikelihood([(context, continuation)])
    kept = Letters().encode(context + continuation)[-9:]
    assert len(kept) == min(9, 8 + extra)
    assert found.log_prob == pytest.approx(sum(by_hand(model(CausalLM()), kept.tolist())[-3:]), abs=1e-10)


def test_greedy_says_whether_each_token_came_first() -> None:
    network, ids = model(CausalLM()), [0]
    for _ in range(3):
        ids.append(int(np.argmax([by_hand(network, [*ids, v])[-1] for v in range(VOCAB.size)])))

    class Spelled(Letters):
        def encode(self, text: str) -> np.ndarray[Any, np.dtype[Any]]:
            return np.array([int(word) for word in text.split()], np.int64)

    first = " ".join(map(str, ids))
    other = " ".join(map(str, [*ids[:2], (ids[2] + 1) % VOCAB.size, ids[3]]))
    asked = Scorer(answerers.network(network, CausalLM(), VOCAB, max_length=64), Spelled())
    yes, no = asked.loglikelihood(
        [(str(ids[0]), first[len(str(ids[0])) :]), (str(ids[0]), other[len(str(ids[0])) :])]
    )
    assert yes.greedy and not no.greedy


def test_a_masked_model_is_asked_with_only_the_token_itself_hidden() -> None:
    objective = MaskedLM()
    network = model(objective)
    ids = Letters().encode("the cat")
    wanted = []
    for i, token in enumerate(ids):
        shown = np.concatenate([[1], ids, [2]])
        shown[i + 1] = 3
        with torch.no_grad():
            states = network.eval().backbone(collate([Example(Slots.bidirectional(shown))]).inputs)["last"]
            logits = network.heads["masked_token"].logits(states)[0, i + 1]
        wanted.append(float(logits.log_softmax(-1)[token]))
    asked = Scorer(answerers.network(network, objective, VOCAB, max_length=64), Letters())
    np.testing.assert_allclose(asked.log_probs([ids])[0], wanted, atol=1e-10)
    assert asked.pseudo
    assert asked.loglikelihood([("the ", "cat")])[0].log_prob == pytest.approx(sum(wanted[3:]), abs=1e-10)


@dataclass(frozen=True)
class Asking(MaskedLM):
    """A family that is neither causal nor masked: it answers where its query stands."""

    def heads(self, backbone: Backbone, vocab: Vocabulary) -> dict[str, Head]:
        return {"permuted_token": TokenHead(backbone)}


def test_any_other_family_is_asked_token_by_token() -> None:
    objective = Asking()
    network = PretrainedModel.build(
        TransformerConfig(num_layers=1, d_model=8, num_heads=1, d_ff=8, max_positions=64),
        VOCAB, lambda b: objective.heads(b, VOCAB), seed=0,
    ).double()  # fmt: skip
    asked = Scorer(answerers.network(network, objective, VOCAB, max_length=12), Letters())
    ids = Letters().encode("the cat")
    [found] = asked.log_probs([ids])
    for t, token in enumerate(ids):
        slots, at = objective.ask_next(np.concatenate([[0], ids[:t]]), VOCAB)
        with torch.no_grad():
            states = network.eval().backbone(collate([Example(Slots.bidirectional(slots.input_ids))]).inputs)[
                "last"
            ]
            want = network.heads["permuted_token"].logits(states)[0, at].log_softmax(-1)[token]
        assert found[t] == pytest.approx(float(want), abs=1e-10)
    assert not asked.pseudo


def test_counts_answer_as_the_model_does() -> None:
    ngrams = NGrams.fit([Letters().encode(TEXT)], 3, VOCAB.size, KneserNey((0.5, 1.0, 1.5)), eos=0)
    asked = Scorer(answerers.counts(ngrams), Letters())
    found = asked.perplexity([TEXT, "the cat"], eos=0)
    wanted = [ngrams.log_probs([*Letters().encode(t), 0]).sum() for t in (TEXT, "the cat")]
    assert found.nats == pytest.approx(-sum(wanted))
    assert found.tokens == len(TEXT) + 1 + 7 + 1
    sure, unsure = asked.loglikelihood([("the c", "at"), ("the c", "猫")])
    assert sure.greedy and not unsure.greedy
    assert sure.log_prob == pytest.approx(
        ngrams.log_probs(Letters().encode("the cat"), begins=False)[-2:].sum()
    )


def test_units() -> None:
    worked = Perplexity(nats=120, tokens=40, words=20, bytes=100, characters=100)
    assert worked.word_perplexity == pytest.approx(403.4288, abs=1e-4)
    assert worked.byte_perplexity == pytest.approx(3.320117, abs=1e-6)
    assert worked.bits_per_byte == pytest.approx(1.731234, abs=1e-6)
    both = worked + Perplexity(nats=60, tokens=10, words=5, bytes=30, characters=10)
    assert (both.nats_per_token, both.documents) == (180 / 50, 2)
    assert both.token_perplexity != (worked.token_perplexity + math.exp(6)) / 2


def test_bytes_words_and_characters_are_the_texts_own() -> None:
    found = scorer().perplexity([" the cat ", "猫坐在"])
    assert (found.words, found.bytes, found.characters, found.documents) == (4 + 1, 9 + 9, 9 + 3, 2)
    assert found.bits_per_character * 12 == pytest.approx(found.bits_per_byte * 18)
    assert found.to_json()["bits_per_byte"] == found.bits_per_byte


def echoes(size: int, seed: int) -> Any:
    """Ids that mostly repeat what stood ten places before: more than half a window of context is worth much."""
    rng = np.random.default_rng(seed)
    ids = rng.integers(4, 12, size)
    for t in range(10, size):
        ids[t] = ids[t - 10] if rng.random() < 0.95 else ids[t]
    return ids


def test_more_context_never_hurts_a_trained_model() -> None:
    torch.manual_seed(0)
    objective, window = CausalLM(), 16
    config = TransformerConfig(num_layers=1, d_model=32, num_heads=2, d_ff=32, max_positions=window, dropout=0.0,
                               attention_dropout=0.0, init_std=0.1)  # fmt: skip
    network = PretrainedModel.build(config, VOCAB, lambda b: objective.heads(b, VOCAB), seed=0)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-2)
    for step in range(70):
        texts = [np.append(0, echoes(window, 16 * step + i)) for i in range(16)]
        batch = collate([Example(Slots.causal(t[:-1], labels={"next_token": t[1:]})) for t in texts])
        loss = objective.losses(network, batch).heads["next_token"]
        optimizer.zero_grad()
        (loss.total / loss.count).backward()
        optimizer.step()
    asked = Scorer(answerers.network(network, objective, VOCAB, max_length=window), Letters())

    def loss_of(mode: Mode, stride: int | None = None) -> float:
        return float(-asked.log_probs([echoes(400, -1 % 2**32)], mode=mode, stride=stride)[0].mean())

    disjoint, half, eighth = loss_of("disjoint"), loss_of("stride", 8), loss_of("stride", 2)
    assert math.log(8) > disjoint > half > eighth - 1e-3


def test_dropout_is_off_and_the_model_is_left_as_it_was() -> None:
    network = model(CausalLM()).train()
    asked = Scorer(answerers.network(network, CausalLM(), VOCAB, max_length=64), Letters())
    assert asked.loglikelihood_rolling([TEXT]) == asked.loglikelihood_rolling([TEXT])
    assert network.training


def test_what_cannot_be_scored_is_said() -> None:
    with pytest.raises(UserError, match="9 tokens does not fit into this model's window of 8"):
        scorer(max_length=8).loglikelihood([("the", TEXT[3:12])])
    with pytest.raises(UserError, match="at most 8 tokens"):
        scorer(max_length=8).log_probs([np.arange(4, 20)], window=9)
    with pytest.raises(UserError, match="no text to score"):
        scorer().perplexity([])
    bare = replace(VOCAB, eos=None)
    with pytest.raises(UserError, match="neither an eos nor a bos"):
        Scorer(answerers.network(model(CausalLM()), CausalLM(), bare, max_length=8), Letters()).perplexity(
            ["the"]
        )
    labeller = PretrainedModel(
        model(CausalLM()).backbone, {"label": PooledHead(model(CausalLM()).backbone, 2)}
    )
    with pytest.raises(UserError, match="cannot score text"):
        answerers.network(labeller, CausalLM(), VOCAB, max_length=8)
    with pytest.raises(ValueError, match="between 1 and the window"):
        spans(10, 4, "stride", stride=5)
