"""Windows: the stream and its rows as spec 03 counts them, whole sentences, and BERT's pairs (spec 06 section 4)."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plume.errors import UserError
from plume.text.marks import PART, SENTENCE, WORD
from plume.text.pairs import Pair, pairs_of
from plume.text.store import Tokens
from plume.text.window import Window
from plume.text.windows import (
    FullSentences,
    PackedStream,
    Plan,
    Reading,
    SegmentPairs,
    Sequential,
    TextPairs,
    Windows,
)
from plume.vocabulary import Vocabulary

VOCAB = Vocabulary(size=50_000, pad=0, bos=1, eos=1, unk=4, cls=2, sep=3, mask=5)
FIRST = 10  # the id of the first token of text: ids below are special


def tokens_of(documents: Sequence[Sequence[int]]) -> Tokens:
    """Documents of sentences of so many tokens; the ids count up, so that a window says where it was cut."""
    lengths = [n for document in documents for n in document]
    total = sum(lengths)
    marks = np.full(total, WORD, np.uint8)
    starts = np.cumsum([0, *lengths])[:-1]
    marks[starts.astype(int)] |= SENTENCE
    ends = np.cumsum([0, *(sum(d) for d in documents)])
    return Tokens(np.arange(FIRST, FIRST + total, dtype=np.uint32), marks, ends.astype(np.int64), total)


def plan_of(windows: Windows, tokens: Tokens, *, epoch: int = 0, batch_size: int = 1, extra: int = 0, seed: int = 0,
            order_epoch: int | None = None) -> Plan:  # fmt: skip
    length = windows.length + extra
    return windows.plan(tokens, VOCAB, Reading(length, batch_size, seed, epoch, order_epoch))


def all_of(plan: Plan) -> list[Window]:
    return [plan[i] for i in range(len(plan))]


# One document of 34 tokens and its eos are the stream 0..34 of spec 03 section 1.3.
def stream(length: int) -> tuple[Tokens, dict[int, int]]:
    tokens = tokens_of([[length - 1]])
    places = {FIRST + i: i for i in range(length - 1)} | {VOCAB.require("eos"): length - 1}
    return tokens, places


class TestStream:
    @settings(max_examples=40)
    @given(st.integers(2, 120), st.integers(1, 12), st.integers(1, 5), st.integers(0, 5))
    def test_labels_are_the_next_token_everywhere(self, total: int, n: int, batch: int, epoch: int) -> None:
        tokens, places = stream(total)
        for windows in (PackedStream(n), Sequential(n)):
            try:
                plan = plan_of(windows, tokens, epoch=epoch, batch_size=batch, extra=1)
            except UserError:
                assert total < (batch if windows.carries else 1) * n + 1
                continue
            assert len(plan) > 0
            for window in all_of(plan):
                at = [places[i] for i in window.ids.tolist()]
                assert at == list(range(at[0], at[0] + n + 1))

    def test_random_sampling_counts_as_the_spec(self) -> None:
        tokens, places = stream(35)
        seen = {}
        for epoch in range(200):
            plan = plan_of(PackedStream(5), tokens, epoch=epoch, extra=1)
            starts = sorted(places[int(w.ids[0])] for w in all_of(plan))
            offset = starts[0]
            assert starts == list(range(offset, 35 - 5, 5)), "congruent to the offset, each start once"
            assert len(plan) == (35 - 1 - offset) // 5 == 6
            seen[offset] = seen.get(offset, 0) + 1
        assert set(seen) == {0, 1, 2, 3, 4}
        assert max(seen.values()) < 3 * min(seen.values())

    def test_neighbours_in_the_order_are_not_neighbours_in_the_text(self) -> None:
        tokens, _ = stream(4001)
        plan = plan_of(PackedStream(4), tokens)
        numbers = [plan.order(i) for i in range(len(plan))]
        assert sorted(numbers) == list(range(len(plan)))
        assert np.mean(np.diff(numbers) != 1) > 0.9

    def test_sequential_rows_go_on_where_they_stopped(self) -> None:
        for epoch in range(20):
            tokens, places = stream(35)
            plan = plan_of(Sequential(5), tokens, epoch=epoch, batch_size=2, extra=1)
            grid = np.array([[places[i] for i in w.ids.tolist()] for w in all_of(plan)]).reshape(-1, 2, 6)
            offset = int(grid[0, 0, 0])
            row = (35 - offset - 1) // 2
            assert row == {0: 17, 1: 16, 2: 16, 3: 15, 4: 15}[offset]
            assert len(plan) == 6 and [plan.starts(i) for i in range(6)] == [True, True] + 4 * [False]
            assert grid[0, 1, 0] - grid[0, 0, 0] == row
            assert (grid[1:, :, 0] == grid[:-1, :, -1]).all(), "the last label is the next first input"

    def test_without_a_label_token_windows_do_not_overlap(self) -> None:
        tokens, places = stream(101)
        plan = plan_of(PackedStream(10), tokens)
        starts = sorted(places[int(w.ids[0])] for w in all_of(plan))
        assert np.diff(starts).tolist() == [10] * (len(starts) - 1)

    def test_a_longer_reading_than_the_window_is_the_step(self) -> None:
        # T5 reads 568 tokens to fill 512: nothing is read twice.
        tokens, places = stream(101)
        plan = PackedStream(10).plan(tokens, VOCAB, Reading(13))
        starts = sorted(places[int(w.ids[0])] for w in all_of(plan))
        assert np.diff(starts).tolist() == [13] * (len(starts) - 1)

    def test_documents_are_closed_by_eos(self) -> None:
        tokens = tokens_of([[2], [1], [3], [1]])
        plan = PackedStream(11).plan(tokens, VOCAB, Reading(11))
        window = plan[0]
        assert window.ids.tolist() == [10, 11, 1, 12, 1, 13, 14, 15, 1, 16, 1]
        assert window.special.tolist() == [i == 1 for i in window.ids.tolist()]
        assert (window.marks[window.special] == 0).all() and (window.marks[~window.special] > 0).all()

    @settings(max_examples=50)
    @given(st.lists(st.integers(1, 7), min_size=1, max_size=12), st.data())
    def test_every_place_of_the_stream_is_found(self, sizes: list[int], data: st.DataObject) -> None:
        tokens = tokens_of([[n] for n in sizes])
        whole: list[int] = []
        at = FIRST
        for n in sizes:
            whole += [*range(at, at + n), 1]
            at += n
        length = data.draw(st.integers(1, len(whole)))
        for epoch in range(3):
            plan = plan_of(PackedStream(length), tokens, epoch=epoch)
            for window in all_of(plan):
                text = window.ids.tolist()
                assert any(whole[i : i + length] == text for i in range(len(whole)))

    def test_same_seed_same_windows_other_epoch_others(self) -> None:
        tokens, _ = stream(500)

        def ids(**changes: int) -> list[list[int]]:
            return [w.ids.tolist() for w in all_of(plan_of(PackedStream(7), tokens, **changes))]

        assert ids(seed=3, epoch=2) == ids(seed=3, epoch=2)
        assert ids(seed=3, epoch=2)[5:] == ids(seed=3, epoch=2)[5:], "the middle is a function of its number"
        assert ids(seed=3, epoch=2) != ids(seed=3, epoch=1) != ids(seed=4, epoch=1)

    def test_static_masking_freezes_the_cut_and_not_the_order(self) -> None:
        for windows in (PackedStream(7), FullSentences(9), SegmentPairs(16)):
            tokens = tokens_of([[3, 4, 5, 2, 6], [4, 4, 3], [5, 6, 2, 2], [3, 3, 3]] * 8)
            one = plan_of(windows, tokens, epoch=0, order_epoch=1)
            two = plan_of(windows, tokens, epoch=0, order_epoch=2)
            assert [one.order(i) for i in range(len(one))] != [two.order(i) for i in range(len(two))]
            by_number = {one.order(i): one[i] for i in range(len(one))}
            for i in range(len(two)):
                assert np.array_equal(by_number[two.order(i)].ids, two[i].ids)

    def test_text_shorter_than_a_window_is_a_sentence(self) -> None:
        tokens, _ = stream(9)
        assert len(plan_of(PackedStream(9), tokens)) == 1
        with pytest.raises(UserError, match="train part of the text has 9 tokens, but a window needs 10"):
            plan_of(PackedStream(9), tokens, extra=1)
        with pytest.raises(UserError, match="4 rows of one window need 13.*batch_size"):
            plan_of(Sequential(3), tokens, batch_size=4, extra=1)
        for windows in (FullSentences(8), SegmentPairs(8), PackedStream(8)):
            with pytest.raises(UserError, match="has 0 tokens"):
                plan_of(windows, tokens_of([]))
        with pytest.raises(UserError, match="at least 1"):
            PackedStream(0)
        with pytest.raises(UserError, match="at least 5"):
            plan_of(SegmentPairs(4), tokens)
        with pytest.raises(UserError, match="at least 3"):
            plan_of(FullSentences(2), tokens)

    def test_windows_of_one_token(self) -> None:
        tokens, places = stream(4)
        plan = plan_of(PackedStream(1), tokens, extra=1)
        assert sorted(places[int(w.ids[0])] for w in all_of(plan)) == [0, 1, 2]


class TestUnits:
    def window(self) -> Window:
        marks = np.array([0, 0, WORD, 0, WORD, 0, 0], np.uint8)
        special = np.array([1, 0, 0, 0, 0, 1, 1], bool)
        return Window(np.arange(7), marks, special, np.zeros(7, np.int64))

    def test_words_are_groups_and_specials_stand_alone(self) -> None:
        # [CLS], the rest of a word cut off, a word of two, a word, [SEP], [SEP]
        assert self.window().units("word").tolist() == [0, 1, 2, 2, 3, 4, 5]
        assert self.window().units("token").tolist() == list(range(7))

    def test_phrases_that_nobody_marked_are_a_sentence(self) -> None:
        with pytest.raises(UserError, match=r"knows no phrase boundaries.*unit=phrase"):
            self.window().units("phrase")


class TestFullSentences:
    @settings(max_examples=60, deadline=None)
    @given(
        st.lists(st.lists(st.integers(1, 9), min_size=1, max_size=6), min_size=1, max_size=8),
        st.integers(3, 20),
        st.booleans(),
    )
    def test_nothing_lost_nothing_cut_that_fits(
        self, documents: list[list[int]], length: int, cross: bool
    ) -> None:
        tokens = tokens_of(documents)
        plan = plan_of(FullSentences(length, cross_documents=cross), tokens)
        windows = sorted(all_of(plan), key=lambda w: int(w.ids[1]))
        text = np.concatenate([w.ids[~w.special] for w in windows])
        assert text.tolist() == tokens.ids.tolist()
        begins = set(tokens.documents[:-1].tolist())
        for window, following in zip(windows, [*windows[1:], None], strict=True):
            assert len(window) <= length
            assert window.ids[0] == 2 and window.ids[-1] == 3
            places = window.ids[~window.special] - FIRST
            inside = [int(p) for p in places[1:] if int(p) in begins]
            assert int((window.ids == 3).sum()) == 1 + len(inside), "a separator for each document inside"
            assert cross or not inside
            whole = bool(tokens.marks[places[0]] & SENTENCE)
            if following is not None:
                nxt = int(following.ids[1]) - FIRST
                if whole and not tokens.marks[nxt] & SENTENCE:
                    # Cut inside a sentence: only one that does not fit alone.
                    assert len(places) == length - 2 and not (tokens.marks[places[1:]] & SENTENCE).any()
                elif cross or nxt not in begins:
                    # Greedy: the next sentence would not have fitted.
                    end = nxt + 1
                    while end < tokens.num_tokens and not tokens.marks[end] & SENTENCE:
                        end += 1
                    assert len(window) + (end - nxt) + (nxt in begins) > length

    def test_big_blocks_change_nothing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        from plume.text import cutting

        tokens = tokens_of([[3, 9, 4], [7, 7], [30, 2], [5]] * 40)
        for cross in (True, False):
            want = cutting.fill(tokens, 16, cross).tolist()
            monkeypatch.setattr(cutting, "_BLOCK", 64)
            assert cutting.fill(tokens, 16, cross).tolist() == want
            monkeypatch.undo()


class TestSegmentPairs:
    """Spec 06 section 8 test 5."""

    LENGTH = 64

    def documents(self, count: int) -> Tokens:
        draw = np.random.default_rng(1)
        return tokens_of([draw.integers(3, 20, draw.integers(1, 30)).tolist() for _ in range(count)])

    def test_statistics(self) -> None:
        tokens = self.documents(2000)
        plan = plan_of(SegmentPairs(self.LENGTH), tokens, seed=7)
        begins = {int(i) for i in np.flatnonzero(tokens.marks & SENTENCE)}
        document = np.repeat(np.arange(tokens.num_documents), np.diff(tokens.documents))
        random_next = fits = 0
        for window in all_of(plan):
            assert len(window) <= self.LENGTH
            seps = np.flatnonzero(window.ids == 3)
            assert window.ids[0] == 2 and len(seps) == 2 and seps[1] == len(window) - 1
            assert window.token_type_ids.tolist() == [0] * (seps[0] + 1) + [1] * (len(window) - seps[0] - 1)
            assert np.flatnonzero(window.special).tolist() == [0, *seps.tolist()]
            a, b = window.ids[1 : seps[0]] - FIRST, window.ids[seps[0] + 1 : -1] - FIRST
            assert (np.diff(a) == 1).all() and (np.diff(b) == 1).all()
            if window.labels["next_sentence"]:
                random_next += 1
                assert document[a[0]] != document[b[0]]
            else:
                assert document[a[0]] == document[b[0]] and b[0] > a[-1]
                if b[0] == a[-1] + 1:
                    assert int(b[0]) in begins
                    fits += 1
                else:  # only the truncation may have taken tokens between them
                    assert len(a) + len(b) == self.LENGTH - 3
        assert fits > 0.3 * (len(plan) - random_next)
        # Every chunk of one segment is random, half of the others are (within 3 sigma).
        ones = self._share_of_single_chunks(tokens)
        expected = ones + (1 - ones) / 2
        sigma = (expected * (1 - expected) / len(plan)) ** 0.5
        assert abs(random_next / len(plan) - expected) < 3 * sigma + 0.005

    def _share_of_single_chunks(self, tokens: Tokens) -> float:
        """How many pairs were forced: the builder draws for the halves only where there are two segments."""

        class Counting(random.Random):
            def __init__(self) -> None:
                super().__init__(5)
                self.splits = 0

            def randint(self, a: int, b: int) -> int:
                self.splits += a == 1
                return super().randint(a, b)

        draw = Counting()
        pairs = 0
        for d in range(tokens.num_documents):
            pairs += len(list(self._pairs(tokens, d, draw)))
        return 1 - draw.splits / pairs

    def _pairs(self, tokens: Tokens, document: int, draw: random.Random) -> list[Pair]:
        def segments(d: int) -> list[int]:
            a, b = int(tokens.documents[d]), int(tokens.documents[d + 1])
            return [*(np.flatnonzero(tokens.marks[a:b] & SENTENCE) + a).tolist(), b]

        return list(
            pairs_of(
                document, segments, tokens.num_documents, room=self.LENGTH - 3, short_share=0.1, draw=draw
            )
        )

    def test_short_documents_are_a_tenth(self) -> None:
        class Spy(random.Random):
            short = 0

            def randint(self, a: int, b: int) -> int:
                Spy.short += a == 2
                return super().randint(a, b)

        tokens, draw = tokens_of([[4, 5, 6]] * 4000), Spy(3)
        for d in range(tokens.num_documents):
            self._pairs(tokens, d, draw)
        assert abs(Spy.short / 4000 - 0.1) < 0.01

    def test_an_epoch_reads_all_text_and_epochs_differ(self) -> None:
        tokens = self.documents(60)
        covers = []
        for epoch in (0, 1):
            seen = np.zeros(tokens.num_tokens, bool)
            plan = plan_of(SegmentPairs(self.LENGTH), tokens, epoch=epoch)
            for window in all_of(plan):
                seen[window.ids[~window.special] - FIRST] = True
            assert seen.mean() > 0.8, "truncation loses a little"
            covers.append(sorted(tuple(w.ids.tolist()) for w in all_of(plan)))
        assert covers[0] != covers[1]
        again = plan_of(SegmentPairs(self.LENGTH), tokens, epoch=1)
        assert sorted(tuple(w.ids.tolist()) for w in all_of(again)) == covers[1]

    def test_one_document_still_gives_pairs(self) -> None:
        plan = plan_of(SegmentPairs(12), tokens_of([[4, 4, 4, 4]]))
        assert len(plan) and all(len(w) <= 12 for w in all_of(plan))
        assert len(plan_of(SegmentPairs(12), tokens_of([[1]]))) == 1

    def test_the_released_builder_bit_for_bit(self) -> None:
        """Spec 06 section 4.1: our pairs, the released code's masking draws, its SHA-256."""
        assert self.golden(12345) == "53e2f0359e624e31761be49828a0ff379d2cb9124a3c0a2eadc90a58a6a6f927"
        assert self.golden(12346) != self.golden(12345)

    def golden(self, seed: int) -> str:
        texts = [
            [[f"d{d}s{s}w{w}" for w in range(3 + (7 * d + 5 * s) % 9)] for s in range(6)] for d in range(5)
        ]
        vocab = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(t for d in texts for s in d for t in s)]
        assert len(vocab) == 215
        draw = random.Random(seed)
        draw.shuffle(texts)
        text = [t for d in texts for s in d for t in s]
        tokens = tokens_of([[len(s) for s in d] for d in texts])

        def segments(d: int) -> list[int]:
            a, b = int(tokens.documents[d]), int(tokens.documents[d + 1])
            return [*(np.flatnonzero(tokens.marks[a:b] & SENTENCE) + a).tolist(), b]

        instances = []
        for document in [*range(5), *range(5)]:
            for pair in pairs_of(document, segments, 5, room=29, short_share=0.1, draw=draw):
                a, b = text[slice(*pair.first)], text[slice(*pair.second)]
                words = ["[CLS]", *a, "[SEP]", *b, "[SEP]"]
                shown, chosen = list(words), []
                candidates = [i for i, w in enumerate(words) if w not in ("[CLS]", "[SEP]")]
                draw.shuffle(candidates)
                for i in candidates[: min(5, max(1, round(len(words) * 0.15)))]:
                    if draw.random() < 0.8:
                        shown[i] = "[MASK]"
                    elif draw.random() >= 0.5:
                        shown[i] = vocab[draw.randint(0, len(vocab) - 1)]
                    chosen.append(i)
                chosen.sort()
                types = [0] * (len(a) + 2) + [1] * (len(b) + 1)
                instances.append([shown, types, chosen, [words[i] for i in chosen], pair.random])
        draw.shuffle(instances)
        return hashlib.sha256(json.dumps(instances, separators=(",", ":")).encode()).hexdigest()


def test_plans_work_on_memory_maps(tmp_path: object) -> None:
    import pathlib

    tokens = tokens_of([[3, 4, 5, 2, 6], [4, 4, 3], [5, 6, 2, 2], [3, 3, 3]] * 8)
    mapped = []
    for name in ("ids", "marks", "documents"):
        path = pathlib.Path(str(tmp_path)) / name
        values = getattr(tokens, name)
        values.tofile(path)
        mapped.append(np.memmap(path, values.dtype, "r"))
    same = Tokens(*mapped, num_bytes=tokens.num_bytes)
    for windows in (PackedStream(7), Sequential(7), FullSentences(9), SegmentPairs(16)):
        for a, b in zip(all_of(plan_of(windows, tokens)), all_of(plan_of(windows, same)), strict=True):
            assert np.array_equal(a.ids, b.ids) and np.array_equal(a.marks, b.marks)
            assert a.ids.dtype == np.int64 and a.ids.flags.writeable


class TestTextPairs:
    def pairs(self, *sizes: tuple[int, int]) -> Tokens:
        tokens = tokens_of([list(size) for size in sizes])
        inside = np.cumsum([n for size in sizes for n in size])[::2] - 0
        tokens.marks[inside] |= PART
        return tokens

    def test_a_window_is_a_row_in_two_parts(self) -> None:
        plan = plan_of(TextPairs(5), self.pairs((2, 3), (5, 1)))
        found = sorted([part.tolist() for part in w.parts()] for w in all_of(plan))
        assert found == [[[10, 11], [12, 13, 14]], [[15, 16, 17, 18, 19], [20]]]
        assert not any(w.special.any() for w in all_of(plan))
        assert TextPairs(5, source="en", target="zh").columns == ("en", "zh")
        assert PackedStream(5).columns == ()

    def test_a_longer_text_drops_its_pair_or_is_cut(self) -> None:
        tokens = self.pairs((2, 6), (6, 2), (5, 5))
        assert sorted(len(w) for w in all_of(plan_of(TextPairs(5), tokens))) == [0, 0, 10]
        cut = all_of(plan_of(TextPairs(5, overlong="cut"), tokens))
        assert sorted([len(part) for part in w.parts()] for w in cut) == [[2, 5], [5, 2], [5, 5]]

    def test_what_makes_no_pairs_is_refused(self) -> None:
        with pytest.raises(UserError, match="both the column 'text'"):
            TextPairs(5, source="text", target="text")
        with pytest.raises(UserError, match="bring more text"):
            plan_of(TextPairs(5), tokens_of([]))
        with pytest.raises(UserError, match="both sides within 5 tokens"):
            plan_of(TextPairs(5), self.pairs((2, 6), (9, 2)))
