"""Pairs beyond BERT's: in their order or swapped, sentence by sentence, ELECTRA's A and what follows it."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from plume.errors import UserError
from plume.objectives.masked import MaskedLM
from plume.seeding import rng
from plume.slots import IGNORE
from plume.text.marks import SENTENCE, WORD
from plume.text.tokens import Tokens
from plume.text.windows import FollowingSegments, Reading, SegmentPairs, Window
from plume.vocabulary import Vocabulary

VOCAB = Vocabulary(size=20_000, pad=0, cls=1, sep=2, mask=3)
COUNT = 9_000


def text(documents: int = 40, seed: int = 0, most: int = 12) -> Tokens:
    """Sentences of 3 to 9 tokens whose ids say where they stand in the text."""
    draw = np.random.default_rng(seed)
    ids = np.arange(10, COUNT)
    marks = np.full(len(ids), WORD, np.uint8)
    places, starts = [0], [0]
    for _ in range(documents):
        for _ in range(int(draw.integers(1, most))):
            marks[places[-1]] |= SENTENCE
            places.append(places[-1] + int(draw.integers(3, 10)))
        starts.append(places[-1])
    end = places[-1]
    return Tokens(ids[:end].astype(np.uint16), marks[:end], np.array(starts), end * 4)


def halves(window: Window) -> list[np.ndarray]:
    cuts = np.flatnonzero(window.ids == VOCAB.sep)
    return [window.ids[a + 1 : b] for a, b in pairwise([0, *cuts.tolist()])]


def all_windows(windows: SegmentPairs | FollowingSegments, tokens: Tokens, epoch: int = 0) -> list[Window]:
    plan = windows.plan(tokens, VOCAB, Reading(windows.length, epoch=epoch))
    return [plan[i] for i in range(len(plan))]


def test_swapped_segments_stand_in_the_other_order_and_say_so() -> None:
    """Half of the pairs; nothing is random, no token is lost but by the cut, a lone sentence is not asked."""
    tokens = text()
    found = [w for epoch in range(8) for w in all_windows(SegmentPairs(48, second="swapped"), tokens, epoch)]
    swapped = asked = 0
    for window in found:
        assert set(window.labels) == {"sentence_order"} and len(window) <= 48
        if window.labels["sentence_order"] == IGNORE:
            assert len(halves(window)) == 1 and not window.token_type_ids.any()
            continue
        a, b = halves(window)
        asked += 1
        swapped += window.labels["sentence_order"]
        before, after = (b, a) if window.labels["sentence_order"] else (a, b)
        assert before[-1] < after[0] < before[-1] + 48  # neighbours, in the text's own order
        document = np.searchsorted(tokens.documents, [before[0] - 10, after[-1] - 10], "right")
        assert document[0] == document[1]
    assert abs(swapped / asked - 0.5) < 4 * 0.5 / asked**0.5
    assert 0 < len(found) - asked < len(found) / 2


def test_sentence_order_is_asked_at_slot_0_where_there_is_one() -> None:
    objective = MaskedLM(sentence_order=True)
    for window in all_windows(SegmentPairs(48, second="swapped"), text())[:40]:
        example = objective.example(window, VOCAB, rng(0, "noise"))
        assert example is not None
        labels = example.inputs.labels["sentence_order"]
        assert labels[0] == window.labels["sentence_order"] and (labels[1:] == IGNORE).all()


def test_a_text_without_a_pair_is_refused_in_one_sentence() -> None:
    lone = text(most=2)
    with pytest.raises(UserError, match="two sentences whose order could be asked"):
        all_windows(SegmentPairs(48, second="swapped"), lone)
    assert all_windows(FollowingSegments(48), lone)  # it needs no second segment


def test_the_two_questions_exclude_each_other_and_need_their_windows() -> None:
    with pytest.raises(ValueError, match="use one"):
        MaskedLM(next_sentence=True, sentence_order=True)
    questions = (("next_sentence", SegmentPairs(48, second="swapped")), ("sentence_order", SegmentPairs(48)))
    for question, windows in questions:
        with pytest.raises(ValueError, match="windows.second"):
            MaskedLM(**{question: True}).example(all_windows(windows, text())[0], VOCAB, rng(0, "noise"))  # type: ignore[arg-type]


def test_sentence_pairs_are_of_one_sentence_each() -> None:
    tokens = text()
    starts = {int(i) for i in np.flatnonzero(tokens.marks & SENTENCE)} | {tokens.num_tokens}
    follows = total = 0
    for window in all_windows(SegmentPairs(64, grain="sentence"), tokens):
        for half in halves(window):
            assert {int(half[0]) - 10, int(half[-1]) - 9} <= starts
            assert not any(int(i) - 10 in starts for i in half[1:])
        a, b = halves(window)
        total += 1
        follows += window.labels["next_sentence"] == 0
        assert (window.labels["next_sentence"] == 0) <= (b[0] == a[-1] + 1)
    assert 0.3 < follows / total < 0.5  # half of those that have a next one


def test_electras_segments_follow_and_fill_the_window() -> None:
    tokens = text(documents=60)
    lone = pairs = 0
    found = [w for epoch in range(6) for w in all_windows(FollowingSegments(48), tokens, epoch)]
    for window in found:
        assert len(window) <= 48 and not window.labels
        parts = halves(window)
        if len(parts) == 1:
            lone += 1
            continue
        a, b = parts
        assert b[0] == a[-1] + 1 and (window.token_type_ids == 1).sum() == len(b) + 1
        pairs += 1
    assert lone and pairs  # what is left at the end of a document may fit into A
    # Every sentence begins in some window or was cut off at the end of one: none is read twice in an epoch.
    ids = np.concatenate([w.ids[~w.special] for w in all_windows(FollowingSegments(48), tokens)])
    assert len(ids) == len(set(ids.tolist())) > 0.9 * tokens.num_tokens


def test_a_tenth_of_electras_windows_is_one_segment() -> None:
    """One document, so that no end of one adds to them; sentences far shorter than the window."""
    ids = np.arange(10, 8_000)
    marks = np.where(np.arange(len(ids)) % 4 == 0, WORD | SENTENCE, WORD).astype(np.uint8)
    tokens = Tokens(ids.astype(np.uint16), marks, np.array([0, len(ids)]), len(ids))
    found = [w for epoch in range(12) for w in all_windows(FollowingSegments(64), tokens, epoch)]
    share = np.mean([len(halves(w)) == 1 for w in found])
    assert abs(share - 0.1) < 4 * (0.09 / len(found)) ** 0.5 + 0.01
    assert abs(np.mean([len(w) < 60 for w in found]) - 0.05) < 0.03
