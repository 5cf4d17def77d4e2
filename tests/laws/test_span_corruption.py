"""T5's objective and the joint one before the laws; lengths and masks as in the paper (spec 18 section 8)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from itertools import combinations
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plume.objectives.joint import JointDenoising
from plume.objectives.span_corruption import SpanCorruption, cut_out
from plume.seeding import rng
from plume.slots import IGNORE, Example, Slots
from plume.vocabulary import Vocabulary
from tests.laws import laws
from tests.laws.laws import FIRST, LAWS, TEXT, WITH_SENTINELS, Case, window

SPANS = SpanCorruption()
JOINT = JointDenoising(mask_share=1.0, random_share=0.0)
T5 = Vocabulary(size=32_128, pad=0, eos=1, unk=2, mask=3, sentinels=tuple(range(32_099, 31_999, -1)))


def written(objective: SpanCorruption) -> Callable[[int], tuple[int, int]]:
    return lambda n: (sum(objective.sizes(n)) + 1,) * 2


def masked(n: int) -> tuple[int, int]:
    count = max(1, round((n - SPANS.sizes(n)[0]) * 0.15))
    return count, count


def spans_floor(v: int) -> float:
    """Of a window of 24 tokens 4 are hidden in one span; sentinel and end are known beforehand."""
    return 4 * math.log(v) / 6


DENSE = SpanCorruption(noise_density=0.5, mean_span_length=2.0)
CASES = [
    Case("spans", SPANS, rate={"next_token": written(SPANS)}, floor={"next_token": spans_floor},
         vocab=WITH_SENTINELS),
    Case("spans, dense", DENSE, rate={"next_token": written(DENSE)}, vocab=WITH_SENTINELS),
    Case("joint", JointDenoising(), rate={"next_token": written(SPANS), "masked_token": masked},
         hides=JointDenoising(mask_share=0.8, random_share=0.2), vocab=WITH_SENTINELS),
    Case("joint, all masked", JOINT, rate={"next_token": written(SPANS), "masked_token": masked},
         floor={"next_token": spans_floor, "masked_token": math.log}, vocab=WITH_SENTINELS),
]  # fmt: skip
texts = st.lists(st.integers(FIRST, TEXT - 1), min_size=1, max_size=14).map(
    lambda ids: np.array(ids, np.int64)
)


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
@pytest.mark.parametrize("law", LAWS, ids=lambda f: f.__name__)
@settings(max_examples=5, deadline=None)
@given(ids=texts, seed=st.integers(0, 2**31))
def test_law(law: Callable[[Case, np.ndarray, int], None], case: Case, ids: np.ndarray, seed: int) -> None:
    law(case, ids, seed)


@pytest.mark.parametrize(
    "case", [CASES[0], pytest.param(CASES[3], marks=pytest.mark.slow)], ids=["spans", "joint"]
)
def test_on_random_text_the_loss_stays_at_its_floor(case: Case) -> None:
    for head, (loss, floor) in laws.random_text(case).items():
        assert floor - 0.02 < loss < floor + 0.06, (head, loss, floor)


class KeepsTheSpans(SpanCorruption):
    """Shows in the first stack what the second is asked for."""

    def example(self, source: Any, vocab: Any, rng: Any) -> Example[Any] | None:
        found = super().example(source, vocab, rng)
        return found and replace(found, inputs=Slots.bidirectional(np.append(source.ids, 6)))


class Twice(JointDenoising):
    """Masks tokens without looking where the spans are, and so asks both stacks for the same ones."""

    def example(self, source: Any, vocab: Any, rng: Any) -> Example[Any] | None:
        found = super().example(source, vocab, rng)
        if found is None or found.decoder_inputs is None:
            return None
        labels = found.inputs.labels["masked_token"].copy()
        labels[labels != IGNORE] = found.decoder_inputs.labels["next_token"][1]
        return replace(found, inputs=replace(found.inputs, labels={"masked_token": labels}))


@pytest.mark.parametrize(
    ("law", "broken", "case"),
    [(laws.no_leak, KeepsTheSpans(), CASES[0]), (laws.restore, Twice(), CASES[2])],
    ids=["no_leak", "restore"],
)
def test_a_planted_defect_breaks_the_law(law: Any, broken: Any, case: Case) -> None:
    ids = np.arange(FIRST, FIRST + 14)
    law(replace(case, hides=None) if law is laws.restore else case, ids, 3)
    with pytest.raises(AssertionError):
        law(replace(case, objective=broken, hides=None), ids, 3)


# ------------------------------------------------------------------------------------ T5's arithmetic


def test_windows_fill_the_slots_exactly() -> None:
    """Spec 18 section 4.1, first and second sequence."""
    table = {32: (34, 8), 64: (70, 14), 128: (141, 29), 256: (284, 58), 512: (568, 114), 1024: (1137, 229)}
    ids = np.arange(100, 1300)
    for length, (read, target) in table.items():
        assert SPANS.window_length(length) == read
        example = SPANS.example(window(ids[:read]), replace(T5, sentinels=tuple(range(32_099, 31_900, -1))),
                                rng(length, "noise"))  # fmt: skip
        assert example is not None and example.decoder_inputs is not None
        assert (len(example.inputs), len(example.decoder_inputs)) == (length, target)
    half = SpanCorruption(noise_density=0.5)
    assert half.window_length(512) == 766 and sum(half.sizes(766)) + 1 == 512
    for length in range(1, 80):
        read = SPANS.window_length(length)
        hidden, spans = SPANS.sizes(read)
        assert read - hidden + spans + 1 <= max(length, 2)


def test_sentinels_stand_where_the_paper_puts_them() -> None:
    mask = np.array([0, 0, 1, 1, 0, 0, 0, 1, 0, 0, 1, 1], bool)
    shown, target = cut_out(np.arange(10, 22), mask, T5)
    assert shown.tolist() == [10, 11, 32099, 14, 15, 16, 32098, 18, 19, 32097, 1]
    assert target.tolist() == [32099, 12, 13, 32098, 17, 32097, 20, 21, 1]
    with pytest.raises(ValueError, match=r"only 2 sentinels.*needs 3.*--sentinels"):
        cut_out(np.arange(10, 22), mask, replace(T5, sentinels=(32_099, 32_098)))
    with pytest.raises(ValueError, match="no sentinels"):
        SPANS.example(window(np.arange(9)), replace(T5, sentinels=()), rng(0, "noise"))


def test_statistics_of_the_noise() -> None:
    """Spec 18 section 8.3: counts are fixed, ends are certain, and the rate grows towards the end."""
    draws = np.stack([SPANS.mask(568, rng(1, "noise", i)) for i in range(4_000)])
    begins = draws & ~np.pad(draws, ((0, 0), (1, 0)))[:, :-1]
    assert (draws.sum(1) == 85).all() and (begins.sum(1) == 28).all()
    assert not draws[:, 0].any() and draws[:, -1].all()
    assert draws[:, :10].mean() == pytest.approx(0.113, abs=0.01)
    assert draws[:, 250:320].mean() == pytest.approx(0.144, abs=0.005)
    assert draws[:, -10:].mean() == pytest.approx(0.375, abs=0.01)


def test_all_ways_of_cutting_are_equally_likely() -> None:
    """3 parts of 8 tokens: 21 outcomes."""
    half = SpanCorruption(noise_density=0.5, mean_span_length=8 / 3)
    assert half.sizes(16) == (8, 3)
    found = {}
    for i in range(8_400):
        runs = np.diff(np.flatnonzero(np.diff(np.pad(half.mask(16, rng(2, "noise", i)).astype(int), 1))))[::2]
        found[tuple(runs.tolist())] = found.get(tuple(runs.tolist()), 0) + 1
    assert len(found) == len(list(combinations(range(7), 2))) == 21
    assert sum((n - 400) ** 2 / 400 for n in found.values()) < 45.3  # 20 degrees of freedom, p = 0.001


@pytest.mark.parametrize("objective", [SPANS, DENSE, SpanCorruption(0.3, 1.0)], ids=str)
def test_texts_come_back(objective: SpanCorruption) -> None:
    for i in range(700):
        draw = rng(3, "text", i)
        ids = draw.integers(100, 31_000, draw.integers(2, 220))
        if objective.sizes(len(ids))[1] > 100:
            continue
        example = objective.example(window(ids), T5, rng(3, "noise", i))
        assert example is not None
        np.testing.assert_array_equal(objective.restore(example), ids)


def test_the_joint_objective_never_asks_twice_and_masks_what_it_says() -> None:
    """Ids name their places here, so that what both stacks are asked for can be compared."""
    kept = swapped = blank = 0
    for i in range(400):
        ids = np.arange(100, 240)
        example = JointDenoising().example(window(ids), T5, rng(4, "noise", i))
        assert example is not None and example.decoder_inputs is not None
        labels = example.inputs.labels["masked_token"]
        at = labels != IGNORE
        spans = example.decoder_inputs.labels["next_token"]
        assert not set(labels[at]) & set(spans) and at.sum() == round((140 - 21) * 0.15)
        shown = example.inputs.input_ids[at]
        blank += int((shown == 3).sum())
        kept += int((shown == labels[at]).sum())
        swapped += int(((shown != 3) & (shown != labels[at])).sum())
        assert not set(shown) & set(T5.sentinels)
    total = blank + kept + swapped
    assert [n / total for n in (blank, swapped, kept)] == pytest.approx([0.8, 0.1, 0.1], abs=0.012)


@pytest.mark.parametrize(
    ("kind", "fields"),
    [(SpanCorruption, {"noise_density": 0}), (SpanCorruption, {"mean_span_length": 0.5}),
     (JointDenoising, {"mask_density": 0}), (JointDenoising, {"mask_share": 0.8, "random_share": 0.3})],
)  # fmt: skip
def test_bad_settings_are_refused(kind: Any, fields: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must lie|at least"):
        kind(**fields)
