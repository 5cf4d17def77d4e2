"""Prefix language models and UniLM's cloze: the masks, the numbers of spec 20, its four ways to read."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from plume.objectives.prefix import SEGMENTS, Cloze, PrefixLM, runs
from plume.seeding import rng
from plume.slots import IGNORE, Example, Slots
from plume.text.marks import PART
from plume.text.windows import Window
from tests.laws.laws import VOCAB, framed, window


def pair(a: int, b: int) -> Window:
    """[CLS] a [SEP] b [SEP]."""
    ids = np.concatenate(
        [[VOCAB.cls], np.arange(7, 7 + a) % 30 + 7, [VOCAB.sep], np.arange(b) % 30 + 7, [VOCAB.sep]]
    )
    special = np.isin(ids, (VOCAB.cls, VOCAB.sep))
    types = (np.arange(len(ids)) >= a + 2).astype(np.int64)
    return Window(ids, np.ones(len(ids), np.uint8), special, types, {"next_sentence": 0})


def drawn(objective: Any, source: Window, seed: int = 0) -> Example[Any]:
    example = objective.example(source, VOCAB, rng(seed, "noise"))
    assert example is not None
    return example


def test_the_prefix_mask_of_the_spec() -> None:
    """Spec 20 test 1: T = 6, P = 3."""
    assert Slots.prefix(np.arange(6), 3).sees().sum(1).tolist() == [3, 3, 3, 4, 5, 6]


@pytest.mark.parametrize("mode", SEGMENTS)
def test_every_mode_sees_what_its_formula_says(mode: Any) -> None:
    for a, b in ((1, 1), (5, 3), (2, 9)):
        slots = drawn(Cloze(mode), pair(a, b)).inputs
        j, i = np.arange(len(slots)), np.arange(len(slots))[:, None]
        expected = {
            "bidirectional": (i >= 0) & (j >= 0),
            "seq2seq": (j < a + 2) | (j <= i),
            "left_to_right": j <= i,
            "right_to_left": j >= i,
        }[mode]
        np.testing.assert_array_equal(slots.sees(), expected)
        first, second = SEGMENTS[mode]
        assert slots.token_type_ids.tolist() == [first] * (a + 2) + [second] * (b + 1)


def test_a_window_of_one_segment_is_parted_somewhere() -> None:
    source = replace(framed(np.arange(7, 19)), token_type_ids=np.zeros(14, np.int64))
    lengths = {int((drawn(Cloze("seq2seq"), source, s).inputs.token_type_ids == 4).sum()) for s in range(150)}
    assert lengths == set(range(2, 13)), "[CLS] and a token at least stand before, a token and [SEP] behind"
    single = replace(framed(np.array([9])), token_type_ids=np.zeros(3, np.int64))
    assert Cloze("seq2seq").example(single, VOCAB, rng(0, "x")) is None


def test_the_split_of_a_prefix_is_uniform() -> None:
    """Spec 20 test 9: P uniform on [1, T), by chi squared; T = 2 has one choice."""
    count = np.zeros(10)
    draw = rng(0, "split")
    for _ in range(3600):
        made = PrefixLM().example(window(np.arange(7, 17)), VOCAB, draw)
        assert made is not None
        labels = made.inputs.labels["next_token"]
        count[int((labels == IGNORE).sum()) + 1] += 1
        assert made.inputs.sees()[0].sum() == (labels == IGNORE).sum() + 1, (
            "the prefix sees itself and no more"
        )
    assert count[0] == 0
    assert ((count[1:] - 400) ** 2 / 400).sum() < 26.1  # 8 degrees of freedom, 0.1 %
    two = drawn(PrefixLM(), window(np.array([7, 8])))
    assert two.inputs.labels["next_token"].tolist() == [8]
    assert PrefixLM().example(window(np.array([7])), VOCAB, rng(0, "x")) is None


def test_how_much_is_hidden_and_how() -> None:
    """Spec 20 test 5: 15 % of the slots, 80/10/10, a fifth of the draws two or three in a row; never [CLS]."""
    draw, source = rng(1, "cloze"), pair(60, 60)
    asked = masked = kept = 0
    for _ in range(600):
        made = Cloze("left_to_right").example(source, VOCAB, draw)
        assert made is not None
        slots, labels = made.inputs, made.inputs.labels["masked_token"]
        at = labels != IGNORE
        asked += int(at.sum())
        masked += int((slots.input_ids[at] == VOCAB.mask).sum())
        kept += int((slots.input_ids[at] == labels[at]).sum())
        assert not at[[0, 61]].any() and at.any()
    assert asked / (600 * len(source)) == pytest.approx(0.15, abs=0.003)
    assert masked / asked == pytest.approx(0.8 + 0.1 / VOCAB.size, abs=0.01)
    assert kept / asked == pytest.approx(0.1 + 0.1 / VOCAB.size, abs=0.01)
    found: list[int] = []
    for _ in range(900):
        found += [len(run) for run in runs(~source.special, 18, 0.2, draw)]
    assert np.mean(np.array(found) > 1) == pytest.approx(0.2, abs=0.01)
    assert set(found) == {1, 2, 3}
    assert found.count(2) / (found.count(2) + found.count(3)) == pytest.approx(0.5, abs=0.04)


def test_runs_fill_small_places_one_by_one() -> None:
    nowhere_two = np.arange(8) % 2 == 0
    assert sorted(int(r[0]) for r in runs(nowhere_two, 4, 1.0, rng(0, "x"))) == [0, 2, 4, 6]


@pytest.mark.parametrize(("length", "wanted"), [(10, 7), (1, 1), (100, 48), (4, 3)])
def test_fine_tuning_asks_for_its_share_of_the_target(length: int, wanted: int) -> None:
    """Spec 20 test 6: round(0.7 len(b)), one at least, 48 at most; the last [SEP] too, the source never."""
    objective = Cloze("seq2seq", noise_density=0.7, ngram_share=0.0, target_only=True, max_predictions=48)
    asked = np.zeros(length + 7, int)
    for seed in range(60):
        labels = drawn(objective, pair(4, length), seed).inputs.labels["masked_token"]
        assert (labels != IGNORE).sum() == wanted
        asked += labels != IGNORE
    assert not asked[:6].any() and asked[-1]


def test_a_pair_of_texts_is_framed_and_its_target_asked_for() -> None:
    """Windows of ``TextPairs`` hold a source and its target bare."""
    objective = Cloze("seq2seq", noise_density=0.7, ngram_share=0.0, target_only=True, label_smoothing=0.1)
    ids = np.arange(10, 19)
    marks = np.ones(9, np.uint8)
    marks[6] |= PART
    slots = drawn(objective, replace(window(ids), marks=marks)).inputs
    restored = objective.restore(Example(slots))
    assert restored.tolist() == [VOCAB.cls, *range(10, 16), VOCAB.sep, 16, 17, 18, VOCAB.sep]
    assert slots.token_type_ids.tolist() == [4] * 8 + [5] * 4
    assert (slots.labels["masked_token"] != IGNORE).sum() == 2


def test_the_end_of_a_text_is_learnt_where_it_is_read_from_its_beginning() -> None:
    for mode in SEGMENTS:
        objective, learns = Cloze(mode, noise_density=0.6), mode in ("left_to_right", "seq2seq")
        ends = [drawn(objective, pair(4, 4), s).inputs.labels["masked_token"][-1] for s in range(40)]
        assert any(end == VOCAB.sep for end in ends) == learns, mode


def test_how_each_mode_is_asked_for_a_token() -> None:
    ids, (cls, sep, mask) = np.array([9, 8]), (VOCAB.cls, VOCAB.sep, VOCAB.mask)
    expected = {
        "bidirectional": ([cls, 9, 8, mask, sep], 3, [0, 0, 0, 0, 0]),
        "seq2seq": ([cls, 9, 8, sep, mask], 4, [4, 4, 4, 4, 5]),
        "left_to_right": ([cls, 9, 8, mask], 3, [2, 2, 2, 2]),
        "right_to_left": ([cls, mask, 8, 9, sep], 1, [3, 3, 3, 3, 3]),
    }
    for mode, (shown, at, types) in expected.items():
        slots, slot = Cloze(mode).ask_next(ids, VOCAB)  # type: ignore[arg-type]
        assert (slots.input_ids.tolist(), slot, slots.token_type_ids.tolist()) == (shown, at, types), mode
    slots, slot = Cloze("seq2seq").ask_next(np.array([9, sep, 8]), VOCAB)  # a target that has begun
    assert (slots.input_ids.tolist(), slot) == ([cls, 9, sep, 8, mask], 4)
    assert slots.token_type_ids.tolist() == [4, 4, 4, 5, 5]
    assert slots.sees().sum(1).tolist() == [3, 3, 3, 4, 5]
    prefix, slot = PrefixLM().ask_next(ids, VOCAB)
    assert slot == 1 and prefix.sees().all()


@pytest.mark.parametrize("mode", SEGMENTS)
def test_the_slot_that_sums_a_text_up_has_seen_all_of_it(mode: Any) -> None:
    for segments in ([np.array([9, 8])], [np.array([9, 8]), np.array([7])]):
        slots, at = Cloze(mode).read(segments, VOCAB)
        assert slots.sees()[at].all(), (mode, len(segments))


def test_settings_that_make_no_sense_are_refused() -> None:
    for wrong in ({"noise_density": 0.0}, {"ngram_share": 2.0}, {"mask_share": 0.8, "random_share": 0.3}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            Cloze("seq2seq", **wrong)
    with pytest.raises(ValueError, match="target_only"):
        Cloze("left_to_right", target_only=True)
    with pytest.raises(ValueError, match="next_sentence"):
        Cloze("bidirectional", next_sentence=True).example(window(np.arange(7, 12)), VOCAB, rng(0, "x"))
