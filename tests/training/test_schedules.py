"""Golden values of spec 25 section 3 and spec 06 section 6."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import get_args

import pytest

from plume.training.schedules import learning_rate, same_until, share
from plume.training.settings import Schedule, Training

RUN = Training(steps=100, batch_size=1, lr=2.0, warmup_steps=10)


@pytest.mark.parametrize(
    ("schedule", "golden"),
    [
        ("linear", {0: 0, 5: 0.5, 9: 0.9, 10: 1.0, 55: 0.5, 100: 0}),
        ("linear_from_zero", {0: 0, 5: 0.5, 9: 0.9, 10: 0.9, 55: 0.45, 100: 0}),
        ("cosine", {0: 0, 5: 0.5, 10: 1.0, 55: 0.5, 100: 0}),
        ("inverse_sqrt", {0: 0, 5: 0.5, 10: 1.0, 40: 0.5, 90: 1 / 3}),
        ("wsd", {0: 0, 10: 1.0, 90: 1.0, 92.5: 0.5, 100: 0}),
        ("constant", {0: 0, 5: 0.5, 10: 1.0, 100: 1.0}),
    ],
)
def test_golden_shares(schedule: Schedule, golden: dict[float, float]) -> None:
    for step, value in golden.items():
        assert share(schedule, step, steps=100, warmup_steps=10) == pytest.approx(value, abs=1e-12)


def test_floors_are_reached_at_the_end() -> None:
    for schedule in ("linear", "linear_from_zero", "cosine", "wsd"):
        assert share(schedule, 100, steps=100, warmup_steps=10, floor=0.1) == pytest.approx(0.1)
    middle = share("cosine", 55, steps=100, warmup_steps=10, floor=0.1)
    assert middle == pytest.approx(0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi / 2)))


@pytest.mark.parametrize("schedule", get_args(Schedule))
def test_no_step_is_read_for_nothing(schedule: Schedule) -> None:
    rates = [learning_rate(replace(RUN, schedule=schedule), step) for step in range(100)]
    assert all(0 < rate <= 2.0 for rate in rates)
    begin = 2.0 if schedule == "constant_inverse_sqrt" else 0.2
    assert rates[0] == pytest.approx(begin, rel=0.011)  # linear_throughout has begun to decay
    assert rates[9] == pytest.approx(
        1.8 if schedule in ("linear_from_zero", "linear_throughout") else 2.0
    )  # BERT jumps down at its peak


def test_only_some_schedules_look_the_same_with_more_steps() -> None:
    longer = replace(RUN, steps=200)
    for schedule in ("constant", "inverse_sqrt"):
        assert same_until(replace(RUN, schedule=schedule), replace(longer, schedule=schedule), 100) == 100
    wsd = replace(RUN, schedule="wsd")
    assert same_until(wsd, replace(longer, schedule="wsd"), 100) == 91  # the decay begins after step 90
    assert same_until(RUN, longer, 100) == 11  # linear: from the first step after the peak


TOKENS = replace(RUN, schedule="cosine", warmup_tokens=1_000, decay_tokens=9_000, min_lr_share=0.1)


def test_a_schedule_in_tokens_does_not_care_for_steps() -> None:
    """GPT-3: linear to the peak, half a wave to a tenth of it, and then constant (spec 15, test 10)."""
    golden = {0: 0.2, 900: 2.0, 1_000: 2.0, 5_000: 1.1, 9_000: 0.2, 20_000: 0.2}
    for tokens, rate in golden.items():
        for step in (0, 7, 99):
            assert learning_rate(TOKENS, step, tokens, 100) == pytest.approx(rate, abs=1e-12)
    assert learning_rate(TOKENS, 0, 990, 100) == pytest.approx(2.0)  # a batch that reaches beyond the peak
    rates = [learning_rate(TOKENS, 0, tokens, 50) for tokens in range(0, 12_000, 50)]
    peak = rates.index(max(rates))
    assert rates[: peak + 1] == sorted(rates[: peak + 1]) and rates[peak:] == sorted(rates[peak:])[::-1]
    assert same_until(TOKENS, replace(TOKENS, steps=500), 100) == 100  # so more steps change no rate


@pytest.mark.parametrize(("warmup", "end"), [(10, None), (10, 9), (-1, 9)])
def test_a_warm_up_in_tokens_needs_an_end_in_tokens(warmup: int, end: int | None) -> None:
    with pytest.raises(ValueError, match="decay_tokens"):
        replace(RUN, warmup_tokens=warmup, decay_tokens=end)


def test_warm_up_is_a_twentieth_if_nothing_is_said() -> None:
    assert Training(steps=100, batch_size=1, lr=1.0).warmup == 5
    with pytest.raises(ValueError, match="warmup_steps"):
        Training(steps=5, batch_size=1, lr=1.0, warmup_steps=6)
