"""RoBERTa's masks: fairseq's draws, number by number, and their shares (spec 07 section 3)."""

from __future__ import annotations

import numpy as np
import pytest

from plume.objectives.masked import MaskedLM
from plume.seeding import rng
from plume.slots import IGNORE
from plume.text.windows import Window
from plume.vocabulary import Vocabulary
from tests.objectives.test_masked import window

VOCAB = Vocabulary(size=100, bos=0, cls=0, pad=1, eos=2, sep=2, unk=3, mask=99)
ROUNDED = MaskedLM(selection="rounded", segments="separator")
GOLDEN = {
    1: {11: (20, 73), 14: (23, 99), 18: (27, 99), 20: (29, 58), 28: (37, 99)},
    2: {at: (at + 9, 99) for at in (1, 4, 18, 21, 26)},
    3: {2: (11, 99), 5: (14, 99), 10: (19, 99), 11: (20, 20)},
}


@pytest.mark.parametrize("epoch", GOLDEN)
def test_the_specs_golden_draws(epoch: int) -> None:
    """fairseq seeds numpy with hash((seed, epoch, index)) mod 1e6; ours is keyed otherwise, the draws are the same."""
    ids = np.concatenate([[0], np.arange(10, 38), [2]])
    special = np.zeros(30, bool)
    special[[0, -1]] = True
    source = Window(ids, np.ones(30, np.uint8), special, np.zeros(30, np.int64))
    seed = int(hash((1, epoch, 0)) % 1e6)  # a float, as theirs
    assert seed == 810_752 or epoch != 1
    example = ROUNDED.example(source, VOCAB, np.random.default_rng(seed))
    assert example is not None
    labels, shown = example.inputs.labels["masked_token"], example.inputs.input_ids
    found = {int(at): (int(labels[at]), int(shown[at])) for at in np.flatnonzero(labels != IGNORE)}
    assert found == GOLDEN[epoch]


def test_a_million_tokens_have_the_papers_shares() -> None:
    """4 sigma bands. Specials are chosen like all others; no replacement is one, [MASK] apart."""
    vocab = Vocabulary(size=1000, bos=0, cls=0, pad=1, eos=2, sep=2, unk=3, mask=999)
    source, counts, first, masked, same, swapped = window(511, start=10), [], 0, 0, 0, []
    for seed in range(2000):
        example = ROUNDED.example(source, vocab, rng(seed, "noise"))
        assert example is not None
        at = example.inputs.labels["masked_token"] != IGNORE
        shown, asked = example.inputs.input_ids[at], source.ids[at]
        assert (example.inputs.input_ids[~at] == source.ids[~at]).all()
        counts.append(int(at.sum()))
        first += int(at[0]) + int(at[-1])
        masked += int((shown == vocab.mask).sum())
        same += int((shown == asked).sum())
        swapped.append(shown[(shown != vocab.mask) & (shown != asked)])
    total = sum(counts)
    assert set(counts) == {76, 77}  # 76.65, rounded up or down by chance
    assert abs(np.mean(counts) - 76.65) < 4 * (0.65 * 0.35 / 2000) ** 0.5
    assert abs(first / 4000 - 0.15) < 4 * (0.15 * 0.85 / 4000) ** 0.5
    assert abs(masked / total - (0.8 + 0.1 / 996)) < 4 * (0.8 * 0.2 / total) ** 0.5
    assert abs(same / total - (0.1 + 0.1 / 996)) < 4 * (0.1 * 0.9 / total) ** 0.5
    drawn = np.concatenate(swapped)
    assert drawn.min() >= 4 and drawn.max() < 999


def test_the_next_epoch_masks_others_and_the_same_epoch_the_same() -> None:
    def chosen(epoch: int, index: int) -> np.ndarray:
        example = ROUNDED.example(window(512), VOCAB, rng(0, "noise", epoch, index))
        assert example is not None
        return example.inputs.labels["masked_token"] != IGNORE

    assert (chosen(1, 0) == chosen(1, 0)).all()
    overlap = np.mean([(chosen(0, i) & chosen(1, i)).sum() / chosen(0, i).sum() for i in range(200)])
    assert abs(overlap - 0.15) < 0.02


def test_texts_with_nothing_to_ask_are_dropped() -> None:
    assert ROUNDED.example(window(2), VOCAB, rng(0, "noise")) is None
    asked = [ROUNDED.example(window(3), VOCAB, rng(seed, "noise")) for seed in range(50)]
    assert any(e is None for e in asked) and any(e is not None for e in asked)  # 0.45 of a token on average


def test_two_segments_are_told_apart_by_two_separators() -> None:
    a, b = np.array([10, 11]), np.array([12])
    slots, at = ROUNDED.read([a, b], VOCAB)
    assert (slots.input_ids.tolist(), set(slots.token_type_ids.tolist()), at) == (
        [0, 10, 11, 2, 2, 12, 2],
        {0},
        0,
    )
    slots, _ = ROUNDED.read([a], VOCAB)
    assert slots.input_ids.tolist() == [0, 10, 11, 2]


def test_what_cannot_work_says_why() -> None:
    with pytest.raises(ValueError, match="unit=token"):
        MaskedLM(selection="rounded", unit="word")
    with pytest.raises(ValueError, match="mask"):
        ROUNDED.example(window(9), Vocabulary(size=1000), rng(0, "noise"))
