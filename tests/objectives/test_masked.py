"""BERT's corruption: how much, of what, and what stands there instead (spec 06 section 4, reliability C6)."""

from __future__ import annotations

import numpy as np
import pytest

from plume.objectives.masked import MaskedLM
from plume.seeding import rng
from plume.slots import IGNORE
from plume.text.windows import Window
from plume.vocabulary import Vocabulary

VOCAB = Vocabulary(size=1000, pad=0, unk=1, cls=2, sep=3, mask=4)


def window(length: int, *, words: int = 1, start: int = 5) -> Window:
    """[CLS] text [SEP] of ``length`` slots in all, words of ``words`` tokens."""
    ids = np.arange(length - 2) % 900 + start
    marks = np.ones(length, np.uint8)
    marks[1:-1] = np.arange(length - 2) % words == 0
    special = np.zeros(length, bool)
    special[[0, -1]] = True
    return Window(
        ids=np.concatenate([[2], ids, [3]]), marks=marks, special=special,
        token_type_ids=np.zeros(length, np.int64), labels={"next_sentence": 1},
    )  # fmt: skip


@pytest.mark.parametrize(
    ("length", "expected"), [(3, 1), (9, 1), (10, 2), (17, 3), (30, 4), (50, 8), (128, 19), (512, 77)]
)
def test_the_budget_counts_every_slot_and_rounds_half_to_even(length: int, expected: int) -> None:
    # 10 * .15 = 1.5 -> 2; 30 * .15 = 4.5 -> 4; 50 * .15 = 7.5 -> 8: what Python's round gives, and the released code.
    expected = min(expected, length - 2)
    for seed in range(20):
        chosen = MaskedLM().choose(window(length), rng(seed, "noise"))
        assert len(chosen) == expected
        assert 0 not in chosen and length - 1 not in chosen


def test_max_predictions_caps_the_budget() -> None:
    assert len(MaskedLM(max_predictions=20).choose(window(512), rng(0, "noise"))) == 20


def test_a_million_tokens_have_the_papers_shares() -> None:
    """4 sigma bands: chosen exactly; 80 +- 0.42, 10 +- 0.32, 10 +- 0.32 points; replacements uniform."""
    objective, source, chosen, masked, same, swapped = MaskedLM(), window(512), 0, 0, 0, []
    for seed in range(2000):
        example = objective.example(source, VOCAB, rng(seed, "noise"))
        assert example is not None
        at = example.inputs.labels["masked_token"] != IGNORE
        shown, asked = example.inputs.input_ids[at], source.ids[at]
        assert (example.inputs.input_ids[~at] == source.ids[~at]).all()
        chosen += int(at.sum())
        masked += int((shown == VOCAB.mask).sum())
        same += int((shown == asked).sum())
        swapped.append(shown[(shown != VOCAB.mask) & (shown != asked)])
    assert chosen == 2000 * 77
    assert abs(masked / chosen - (0.8 + 0.1 / 1000)) < 4 * (0.8 * 0.2 / chosen) ** 0.5
    assert abs(same / chosen - (0.1 + 0.1 / 1000)) < 4 * (0.1 * 0.9 / chosen) ** 0.5
    counts = np.bincount(np.concatenate(swapped), minlength=1000)
    expected = counts.sum() / 999  # every id but the label's own; [MASK] itself was counted above
    counts = np.delete(counts, VOCAB.mask or 0)
    chi_square = float(((counts - expected) ** 2 / expected).sum())
    assert abs(chi_square - 998) < 4 * (2 * 998) ** 0.5


def test_whole_words_are_chosen_whole_and_never_over_budget() -> None:
    objective = MaskedLM(unit="word")
    for seed in range(50):
        source = window(82, words=3)
        chosen = set(objective.choose(source, rng(seed, "noise")).tolist())
        assert 0 < len(chosen) <= round(82 * 0.15)
        for slot in chosen:
            first = 1 + (slot - 1) // 3 * 3
            assert set(range(first, min(first + 3, 81))) <= chosen


def test_each_token_of_a_word_draws_its_own_replacement() -> None:
    objective = MaskedLM(unit="word", noise_density=0.5)
    mixed = 0
    for seed in range(40):
        source = window(32, words=3)
        example = objective.example(source, VOCAB, rng(seed, "noise"))
        assert example is not None
        for first in range(1, 31, 3):
            at = slice(first, first + 3)
            if (example.inputs.labels["masked_token"][at] != IGNORE).all():
                mixed += len({bool(i == VOCAB.mask) for i in example.inputs.input_ids[at]}) == 2
    assert mixed > 20


def test_static_masks_stay_and_dynamic_masks_move() -> None:
    """They differ by the epoch number that feeds the seed, and by nothing else."""
    a, b, c = (MaskedLM().choose(window(128), rng(0, "noise", epoch, 7)) for epoch in (0, 0, 1))
    assert (a == b).all() and len(a) == len(c) and (a != c).any()


def test_texts_with_nothing_to_ask_are_dropped() -> None:
    assert MaskedLM().example(window(2), VOCAB, rng(0, "noise")) is None
    # One word of 10 tokens does not fit into a budget of 2: a unit is skipped, not cut.
    assert MaskedLM(unit="word").example(window(12, words=10), VOCAB, rng(0, "noise")) is None


def test_what_cannot_work_says_why() -> None:
    with pytest.raises(ValueError, match="noise_density"):
        MaskedLM(noise_density=0)
    with pytest.raises(ValueError, match="together"):
        MaskedLM(mask_share=0.8, random_share=0.3)
    with pytest.raises(ValueError, match="mask"):
        MaskedLM().example(window(9), Vocabulary(size=1000), rng(0, "noise"))
    bare = Window(
        ids=np.arange(5), marks=np.ones(5, np.uint8), special=np.zeros(5, bool),
        token_type_ids=np.zeros(5, np.int64), labels={},
    )  # fmt: skip
    with pytest.raises(ValueError, match="SegmentPairs"):
        MaskedLM(next_sentence=True).example(bare, VOCAB, rng(0, "noise"))


def test_next_sentence_is_asked_at_slot_0() -> None:
    example = MaskedLM(next_sentence=True).example(window(9), VOCAB, rng(0, "noise"))
    assert example is not None
    assert example.inputs.labels["next_sentence"].tolist() == [1] + [IGNORE] * 8


def test_a_finished_text_is_framed_and_answered_at_cls() -> None:
    a, b = np.array([10, 11]), np.array([12])
    slots, at = MaskedLM().read([a, b], VOCAB)
    assert (slots.input_ids.tolist(), slots.token_type_ids.tolist(), at) == (
        [2, 10, 11, 3, 12, 3],
        [0, 0, 0, 0, 1, 1],
        0,
    )
    asked, at = MaskedLM().ask_next(a, VOCAB)
    assert (asked.input_ids.tolist(), at) == ([2, 10, 11, 4, 3], 3)
