"""Draws follow the distribution, and depend on nothing but the request."""

import numpy as np
import pytest
import torch
from scipy.stats import chisquare

from plume.errors import UserError
from plume.generation.sampling import Decoding, Row, choose, invert, warp
from plume.seeding import rng

LOGITS = torch.tensor([2.0, 1.0, 0.5, 0.0, -1.0, -1.0], dtype=torch.float64)


@pytest.mark.parametrize(
    "how",
    [
        Decoding(),
        Decoding(temperature=0.5),
        Decoding(temperature=2.0, top_k=3),
        Decoding(top_p=0.8),
        Decoding(min_p=0.2),
        Decoding(typical_p=0.6),
        Decoding(epsilon=0.1),
        Decoding(eta=0.3),
        Decoding(temperature=1.5, top_k=5, top_p=0.9, min_p=0.05),
    ],
    ids=str,
)
def test_frequencies_follow_the_filtered_distribution(how):
    draws = 200_000
    probs = warp(LOGITS[None], how).softmax(-1)
    uniform = torch.from_numpy(rng(3, "sampling").random(draws))
    ids = invert(probs.expand(draws, -1), uniform)
    observed = torch.bincount(ids, minlength=6).numpy()
    expected = probs[0].numpy() * draws
    assert not observed[expected == 0].any()
    assert chisquare(observed[expected > 0], expected[expected > 0]).pvalue > 1e-3


def test_the_chi_square_test_sees_a_wrong_distribution():
    uniform = torch.from_numpy(rng(3, "sampling").random(200_000))
    observed = torch.bincount(
        invert((LOGITS / 1.02).softmax(-1).expand(200_000, -1), uniform), minlength=6
    ).numpy()
    assert chisquare(observed, LOGITS.softmax(-1).numpy() * 200_000).pvalue < 1e-6


def test_the_draw_inverts_the_cumulative_distribution_in_id_order():
    probs = torch.tensor([[0.0, 0.25, 0.0, 0.5, 0.25, 0.0]], dtype=torch.float64)
    points = torch.tensor([0.0, 0.2499, 0.25, 0.7499, 0.75, 1 - 2**-53], dtype=torch.float64)
    assert invert(probs.expand(6, -1), points).tolist() == [1, 1, 3, 3, 4, 4]


def test_greedy_takes_the_lowest_id_of_a_tie_and_never_divides_by_zero():
    logits = torch.tensor([[0.0, 3.0, 1.0, 3.0]])
    chosen = choose(logits, [Row([1], Decoding(temperature=0))])
    assert chosen.ids.tolist() == [1]
    assert chosen.log_probs.item() == pytest.approx(logits.log_softmax(-1)[0, 1].item(), abs=1e-6)


def test_log_probs_are_told_apart_before_and_after_processing():
    how = Decoding(temperature=0.5, top_k=2, seed=1)
    chosen = choose(LOGITS[None], [Row([0], how)])
    token = int(chosen.ids)
    assert chosen.log_probs.item() == pytest.approx(LOGITS.log_softmax(-1)[token].item(), abs=1e-12)
    kept = (LOGITS[:2] / 0.5).log_softmax(-1)
    assert chosen.final.item() == pytest.approx(kept[token].item(), abs=1e-12)


def test_a_stream_depends_on_seed_sample_and_prompt():
    how = Decoding(seed=5)
    first = [Row([1, 2], how).uniform() for _ in range(2)]
    assert first[0] == first[1]
    others = [Row([1, 2], how, 1), Row([1, 3], how), Row([1, 2], Decoding(seed=6))]
    assert len({first[0], *(row.uniform() for row in others)}) == 4


def test_uniform_numbers_of_a_stream_are_uniform():
    row = Row([0], Decoding())
    counts = np.histogram([row.uniform() for _ in range(5000)], bins=10, range=(0, 1))[0]
    assert chisquare(counts).pvalue > 1e-3


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"temperature": -1}, "temperature must be 0 or more"),
        ({"top_p": 1.5}, "top_p is a probability"),
        ({"max_new_tokens": -1}, "max_new_tokens must be 0 or more"),
        ({"repetition_penalty": 0}, "repetition_penalty must be more than 0"),
        ({"stop": ("a", "")}, "stop string must not be empty"),
        ({"temperature": float("nan")}, "temperature must be 0 or more"),
    ],
)
def test_settings_out_of_range_are_one_sentence(settings, message):
    with pytest.raises(UserError, match=message):
        Decoding(**settings)


def test_one_stop_string_or_a_list_of_them_will_do():
    assert Decoding(stop="END").stop == ("END",)  # type: ignore[arg-type]
    assert hash(Decoding(stop=["a", "b"], eos=[1])) == hash(Decoding(stop=("a", "b"), eos=(1,)))  # type: ignore[arg-type]


def test_a_very_cold_distribution_is_greedy_and_a_cold_one_stays_finite():
    for temperature in (1e-300, 1e-7):
        chosen = choose(LOGITS[None] * 1e4, [Row([0], Decoding(temperature=temperature))])
        assert chosen.ids.tolist() == [0]
        assert chosen.final.isfinite().all()
