"""XLNet's windows: half a window of text that goes on, and a pair behind it (spec 10 section 4)."""

from __future__ import annotations

import numpy as np
import pytest

from plume.errors import UserError
from plume.text.windows import ADVANCE, CarriedPairs
from tests.text.test_windows import FIRST, VOCAB, all_of, plan_of, tokens_of

DOCUMENTS = [[5, 3, 6, 4, 7, 2, 8, 5, 6], [4, 4, 9, 3], [6] * 20]


def test_rows_go_on_and_the_pair_stands_behind() -> None:
    tokens = tokens_of(DOCUMENTS)
    plan = plan_of(CarriedPairs(24), tokens, batch_size=3)
    windows, kinds = all_of(plan), set()
    assert len(windows) % 3 == 0 and len(windows) >= 9
    for number, window in enumerate(windows):
        ids = window.ids.tolist()
        assert len(ids) == 24 and window.labels[ADVANCE] == 12
        assert ids[-2:] == [VOCAB.sep, VOCAB.cls] and ids.count(VOCAB.sep) == 2 and ids.count(VOCAB.cls) == 1
        middle = ids.index(VOCAB.sep)
        assert window.token_type_ids.tolist() == [0] * (middle + 1) + [1] * (22 - middle) + [2]
        np.testing.assert_array_equal(window.special, window.ids < FIRST)
        before, after = (
            [i for i in ids[:middle] if i >= FIRST],
            [i for i in ids[middle + 1 : -2] if i >= FIRST],
        )
        assert before == list(range(before[0], before[0] + len(before))), "the first half and A are one text"
        follows = bool(after) and after[0] == before[-1] + 1
        kinds.add(window.labels["next_sentence"])
        if not window.labels["next_sentence"]:
            assert follows
        assert plan.starts(number) == (number < 3)
        if number >= 3:  # the row's last window said where this one begins
            earlier = [i for i in windows[number - 3].ids.tolist()[12:] if i >= FIRST]
            assert earlier[0] == before[0]
    assert kinds == {0, 1}


def test_the_same_key_cuts_the_same_and_another_epoch_otherwise() -> None:
    tokens = tokens_of(DOCUMENTS)
    one, same, other = (all_of(plan_of(CarriedPairs(24), tokens, epoch=e, batch_size=2)) for e in (0, 0, 1))
    assert all(np.array_equal(a.ids, b.ids) for a, b in zip(one, same, strict=True))
    assert any(not np.array_equal(a.ids, b.ids) for a, b in zip(one, other, strict=False))


def test_half_of_the_pairs_are_random() -> None:
    plan = plan_of(CarriedPairs(24), tokens_of([[3] * 4000]), batch_size=4)
    shares = [plan[i].labels["next_sentence"] for i in range(600)]
    assert np.mean(shares) == pytest.approx(0.5, abs=0.06)


def test_a_text_without_sentences_is_cut_in_the_middle() -> None:
    for window in all_of(plan_of(CarriedPairs(15), tokens_of([[200]]), batch_size=2)):
        assert window.ids.tolist().index(VOCAB.sep) == 7 + 3 and window.labels["next_sentence"] == 1


def test_too_short_is_one_sentence() -> None:
    with pytest.raises(UserError, match="at least 9"):
        plan_of(CarriedPairs(8), tokens_of(DOCUMENTS))
    with pytest.raises(UserError, match="bring more text"):
        plan_of(CarriedPairs(24), tokens_of([[5, 5]]), batch_size=2)
