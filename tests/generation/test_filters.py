"""Each filter against the class of `transformers` that does the same, and the golden numbers of spec 21."""

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers.generation import logits_process as hf

from plume.generation import filters
from plume.generation.sampling import Decoding, Row, penalize

GOLDEN = torch.tensor([0.5, 0.25, 0.125, 0.0625, 0.0625], dtype=torch.float64)
NO_IDS = torch.zeros(200, 1, dtype=torch.long)


@pytest.fixture(scope="module")
def rows() -> Tensor:
    """200 rows of random logits, from flat to peaked."""
    draw = torch.Generator().manual_seed(0)
    scale = torch.linspace(0.1, 6, 200, dtype=torch.float64)[:, None]
    return torch.randn(200, 50, generator=draw, dtype=torch.float64) * scale


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (lambda x: filters.top_k(x, 1), hf.TopKLogitsWarper(1)),
        (lambda x: filters.top_k(x, 7), hf.TopKLogitsWarper(7)),
        (lambda x: filters.top_p(x, 0.1), hf.TopPLogitsWarper(0.1)),
        (lambda x: filters.top_p(x, 0.9), hf.TopPLogitsWarper(0.9)),
        (lambda x: filters.top_p(x, 0.999), hf.TopPLogitsWarper(0.999)),
        (lambda x: filters.min_p(x, 0.05), hf.MinPLogitsWarper(0.05)),
        (lambda x: filters.min_p(x, 0.5), hf.MinPLogitsWarper(0.5)),
        (lambda x: filters.typical(x, 0.2), hf.TypicalLogitsWarper(0.2)),
        (lambda x: filters.typical(x, 0.95), hf.TypicalLogitsWarper(0.95)),
        (lambda x: filters.epsilon(x, 0.02), hf.EpsilonLogitsWarper(0.02)),
        (lambda x: filters.eta(x, 0.02), hf.EtaLogitsWarper(0.02)),
    ],
    ids=lambda case: type(case).__name__,
)
def test_kept_sets_equal_those_of_transformers(ours, theirs, rows):
    for scores in (rows, rows.float()):
        expected = theirs(NO_IDS, scores)
        assert torch.equal(ours(scores), expected)
        assert not torch.equal(expected, scores)


def test_top_k_beyond_the_vocabulary_keeps_everything(rows):
    assert torch.equal(filters.top_k(rows, 99), rows)


def test_top_p_looks_beyond_its_first_256_tokens_where_it_must():
    flat = torch.randn(3, 5000, generator=torch.Generator().manual_seed(1), dtype=torch.float64) * 0.1
    kept = filters.top_p(flat, 0.9)
    assert torch.equal(kept, hf.TopPLogitsWarper(0.9)(NO_IDS[:3], flat))
    assert int(kept.isfinite().sum(-1).min()) > 256


@pytest.mark.parametrize(
    ("kept", "expected"),
    [
        (filters.top_p(GOLDEN.log(), 0.8), [0, 1, 2]),
        (filters.top_p(GOLDEN.log(), 0.75), [0, 1]),
        (filters.top_p(GOLDEN.log(), 0.8, rule="gpt2_original"), [0, 1]),
        (filters.top_p(GOLDEN.log(), 0.1, rule="gpt2_original"), [0]),
        (filters.top_p(GOLDEN.log(), 0.0), [0]),
        (filters.min_p(GOLDEN.log(), 0.2), [0, 1, 2]),
        (filters.typical(GOLDEN.log(), 0.5), [0, 1]),
        (filters.top_k(GOLDEN.log(), 4), [0, 1, 2, 3, 4]),  # the tie with the fourth survives
        (filters.epsilon(GOLDEN.log(), 0.9), [0]),
    ],
)
def test_goldens(kept, expected):
    assert kept.isfinite().nonzero().flatten().tolist() == expected


def test_p_of_one_keeps_every_token_although_sums_of_floats_do_not_reach_one():
    flat = torch.zeros(1, 10_001, dtype=torch.float32)
    assert filters.top_p(flat, 1.0).isfinite().all()
    assert filters.typical(flat, 1.0).isfinite().all()


def test_repetition_penalty_counts_each_token_once_and_equals_transformers(rows):
    ids = torch.randint(0, 50, (200, 30), generator=torch.Generator().manual_seed(2))
    expected = hf.RepetitionPenaltyLogitsProcessor(1.3)(ids, rows)
    how = Decoding(repetition_penalty=1.3)
    assert torch.equal(penalize(rows, [Row(r.tolist(), how) for r in ids]), expected)
    seen = torch.tensor([True, True, False])
    assert filters.penalize_repetition(torch.tensor([1.0, -1.0, 0.5]), seen, 2.0).tolist() == [0.5, -2.0, 0.5]


@pytest.mark.parametrize("size", [1, 2, 3])
def test_repeated_ngrams_are_banned_as_in_transformers_also_while_the_text_grows(size):
    draw = np.random.default_rng(size)
    row = Row(draw.integers(0, 4, 5).tolist(), Decoding(no_repeat_ngram=size))
    for _ in range(40):
        scores = torch.zeros(1, 6, dtype=torch.float64)
        expected = hf.NoRepeatNGramLogitsProcessor(size)(torch.tensor([row.ids]), scores.clone())
        assert torch.equal(penalize(scores, [row]), expected)
        row.append(int(draw.integers(0, 4)))


def test_a_text_does_not_end_before_its_least_length():
    row = Row([1, 2, 3], Decoding(min_new_tokens=2, eos=(0, 4)))
    kept = []
    for _ in range(3):
        kept.append(penalize(torch.zeros(1, 5), [row])[0].isfinite().tolist())
        row.append(1)
    assert kept == [[False, True, True, True, False]] * 2 + [[True] * 5]


def test_count_penalties_see_generated_tokens_only():
    row = Row([3, 3, 3], Decoding(frequency_penalty=0.5, presence_penalty=0.25))
    for token in (1, 1, 2):
        row.append(token)
    assert penalize(torch.zeros(1, 4), [row]).tolist() == [[0.0, -1.25, -0.75, 0.0]]


def test_bans_that_leave_nothing_are_not_applied():
    scores = torch.tensor([[1.0, 2.0], [1.0, 2.0]])
    assert filters.ban(scores, [[0, 1], [1]]).tolist() == [[1.0, 2.0], [1.0, -float("inf")]]
