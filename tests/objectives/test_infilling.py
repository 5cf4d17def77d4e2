"""BART's noises: the spec's statistics and golden numbers (spec 19 section 7)."""

from __future__ import annotations

from collections import Counter
from itertools import chain, permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from plume.objectives.infilling import Denoising, infilled, permuted, span_lengths
from plume.seeding import rng
from plume.text.marks import SENTENCE, WORD
from plume.text.tokenizers import ByteLevelBPE
from plume.text.tokens import Tokens
from plume.text.windows import FullSentences, Reading, Window
from plume.vocabulary import Vocabulary

VOCAB = Vocabulary(size=1000, pad=1, bos=0, cls=0, eos=2, sep=2, unk=3, mask=4)
TEXT = np.arange(200) + 10
WORDS = np.ones(200, bool)


def window(length: int, *, sentence: int = 5, word: int = 1) -> Window:
    marks = np.zeros(length + 2, np.uint8)
    marks[1:-1:word] = WORD
    marks[1:-1:sentence] |= SENTENCE
    special = np.zeros(length + 2, bool)
    special[[0, -1]] = True
    ids = np.concatenate([[0], np.arange(length) % 900 + 10, [2]])
    return Window(ids=ids, marks=marks, special=special, token_type_ids=np.zeros(length + 2, np.int64))


def test_infilling_has_the_simulated_statistics() -> None:
    """Spec 19 sections 3 and 7: 200 words, 0.3, Poisson(3)."""
    drawn, zeros, spans, gone, sizes = 0, 0, 0, [], []
    rounds = 3_000
    for seed in range(rounds):
        lengths = span_lengths(60, 3.0, rng(seed, "lengths"))
        assert lengths.sum() == 60 and lengths[-1] > 0
        drawn += len(lengths)
        zeros += int((lengths == 0).sum())
        left = infilled(TEXT, WORDS, 0.3, 3.0, 4, rng(seed, "noise"))
        spans += int((left == 4).sum())
        gone.append(200 - int((left != 4).sum()))
        sizes.append(len(left))
    masks = spans / rounds
    assert zeros / drawn == pytest.approx(
        0.0507, abs=0.01
    )  # a little above P(0) = 0.0498: the last one is never 0
    assert drawn / rounds == pytest.approx(20.5, abs=0.2)
    assert zeros / rounds == pytest.approx(1.04, abs=0.1)
    assert masks == pytest.approx(16.0 + 1.04, abs=0.35)  # those of spans that survive, and the inserted ones
    assert np.mean(gone) == pytest.approx(53.5, abs=0.4) and max(gone) <= 60
    assert np.mean(sizes) == pytest.approx(163.5, abs=0.5)


def test_span_lengths_are_poisson() -> None:
    lengths = np.concatenate([span_lengths(3_000, 3.0, rng(s, "x"))[:-1] for s in range(20)])
    assert (lengths == 0).mean() == pytest.approx(0.0498, abs=0.006)
    assert (lengths <= 3).mean() == pytest.approx(0.6472, abs=0.015)
    assert lengths.mean() == pytest.approx(3, abs=0.06)


def test_a_span_covers_whole_words_and_leaves_one_mask() -> None:
    """Continuations go with their word; what is left stands in its order."""
    begins = np.arange(40) % 4 == 0
    ids = np.arange(40) + 10
    for seed in range(200):
        left = infilled(ids, begins, 0.4, 2.0, 4, rng(seed, "noise"))
        kept = left[left != 4]
        assert (np.diff(kept) > 0).all()
        words = Counter(((kept - 10) // 4).tolist())
        assert set(words.values()) == {4}  # no word is half there
        assert 10 - len(words) <= 4  # ceil(0.4 * 10) words at most


@given(st.integers(1, 12), st.floats(0, 1), st.floats(0.2, 6), st.integers(0, 2**31))
def test_any_length_and_share_goes(length: int, share: float, mean: float, seed: int) -> None:
    left = infilled(TEXT[:length], WORDS[:length], share, mean, 4, rng(seed, "noise"))
    kept = left[left != 4]
    assert set(kept.tolist()) <= set(TEXT[:length].tolist())
    assert length - len(kept) <= int(np.ceil(share * length))


def test_with_all_shares_at_zero_nothing_changes() -> None:
    example = Denoising().example(window(30), VOCAB, rng(0, "noise"))
    assert example is not None and example.decoder_inputs is not None
    np.testing.assert_array_equal(example.inputs.input_ids, window(30).ids)
    for objective in (Denoising(infilling=1.0), Denoising(1.0, 3.0, 1.0, 1.0, 1.0, 1.0)):
        for length in (1, 2, 3):
            assert objective.example(window(length), VOCAB, rng(length, "noise")) is not None


def test_the_second_stack_begins_with_the_end_and_is_asked_for_all() -> None:
    """Spec 19 section 7: labels <s> 5 6 </s> are read as </s> <s> 5 6."""
    source = window(2)
    example = Denoising(masking=1.0).example(source, VOCAB, rng(0, "noise"))
    assert example is not None and example.decoder_inputs is not None
    assert example.inputs.input_ids.tolist() == [0, 4, 4, 2]
    assert example.decoder_inputs.input_ids.tolist() == [2, 0, 10, 11]
    assert example.decoder_inputs.labels["next_token"].tolist() == [0, 10, 11, 2]
    assert Denoising(infilling=0.3).example(window(0), VOCAB, rng(0, "noise")) is None


def test_sentences_change_places_uniformly() -> None:
    """Three sentences, six orders, chi-square at p = 0.001 with 5 degrees of freedom."""
    begins = np.zeros(9, bool)
    begins[[0, 2, 5]] = True
    rounds = 6_000
    seen = Counter(tuple(permuted(begins, 1.0, rng(s, "order")).tolist()) for s in range(rounds))
    parts = ([0, 1], [2, 3, 4], [5, 6, 7, 8])
    assert set(seen) == {tuple(chain(*order)) for order in permutations(parts)}
    assert sum((n - rounds / 6) ** 2 / (rounds / 6) for n in seen.values()) < 20.5


def test_only_so_many_sentences_move_and_one_alone_stays() -> None:
    assert permuted(np.zeros(5, bool), 1.0, rng(0, "order")).tolist() == [0, 1, 2, 3, 4]
    begins = np.arange(40) % 4 == 0
    for seed in range(50):
        order = permuted(begins, 0.3, rng(seed, "order")).reshape(10, 4)
        assert (np.sort(order.ravel()) == np.arange(40)).all() and (np.diff(order) == 1).all()
        assert (order[:, 0] != np.arange(10) * 4).sum() <= 3


def test_rotation_keeps_the_cyclic_order_and_begins_anywhere() -> None:
    starts = Counter()
    for seed in range(2_000):
        example = Denoising(rotation=1.0).example(window(5), VOCAB, rng(seed, "noise"))
        assert example is not None
        inside = example.inputs.input_ids[1:-1]
        assert example.inputs.input_ids[[0, -1]].tolist() == [0, 2]
        np.testing.assert_array_equal(np.roll(inside, int(inside[0] - 10)), window(5).ids[1:-1])
        starts[int(inside[0])] += 1
    # The offset is uniform over 0 ... 5, and both ends leave the text as it is.
    assert starts[10] / 2_000 == pytest.approx(2 / 6, abs=0.04)
    assert all(starts[10 + i] / 2_000 == pytest.approx(1 / 6, abs=0.035) for i in range(1, 5))
    turned = [Denoising(rotation=0.3).example(window(9), VOCAB, rng(s, "noise")) for s in range(1_000)]
    moved = sum(not np.array_equal(e.inputs.input_ids, window(9).ids) for e in turned if e is not None)
    assert moved / 1_000 == pytest.approx(0.3 * 8 / 10, abs=0.05)


def test_masking_and_deletion_take_units_by_themselves() -> None:
    masked = deleted = 0
    source = window(200, word=2)
    for seed in range(300):
        example = Denoising(masking=0.2).example(source, VOCAB, rng(seed, "noise"))
        assert example is not None
        inside = example.inputs.input_ids[1:-1]
        assert len(inside) == 200 and ((inside == 4).reshape(100, 2).sum(1) != 1).all()
        masked += int((inside == 4).sum())
        example = Denoising(deletion=0.2, unit="token").example(source, VOCAB, rng(seed, "noise"))
        assert example is not None and 4 not in example.inputs.input_ids
        deleted += 202 - len(example.inputs)
    assert masked / 60_000 == pytest.approx(0.2, abs=0.01)
    assert deleted / 60_000 == pytest.approx(0.2, abs=0.01)


@pytest.mark.parametrize(
    "text",
    ["The cat sat. A dog ran off! Who saw it?", "猫坐下了。一只狗跑了！谁看见了？他说：“好。”"],
    ids=["en", "zh"],
)
def test_real_sentences_move_whole(text: str) -> None:
    tokenizer = ByteLevelBPE(vocab_size=300).train([text])
    windows = FullSentences(128, cross_documents=False)
    vocab = tokenizer.vocabulary
    plan = windows.plan(Tokens.of(tokenizer, [text]), vocab, Reading(128))
    found = set()
    for seed in range(60):
        example = Denoising(permute_sentences=1.0).example(plan[0], vocab, rng(seed, "noise"))
        assert example is not None and example.decoder_inputs is not None
        assert example.inputs.input_ids[0] == vocab.bos and example.inputs.input_ids[-1] == vocab.eos
        assert tokenizer.decode(example.decoder_inputs.labels["next_token"]) == text
        found.add(tokenizer.decode(example.inputs.input_ids))
    assert len(found) >= 6 and all(sorted(f) == sorted(text) for f in found)


def test_wrong_values_are_told() -> None:
    with pytest.raises(ValueError, match="infilling is a share"):
        Denoising(infilling=1.5)
    with pytest.raises(ValueError, match="mean_span_length"):
        Denoising(mean_span_length=0)
    with pytest.raises(ValueError, match="'mask'"):
        Denoising(infilling=0.3).example(window(5), Vocabulary(size=99, bos=0, eos=1), rng(0, "noise"))
