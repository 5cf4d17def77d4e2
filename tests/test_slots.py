"""Ranks, packing and collating: what everything else stands on."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from plume.slots import IGNORE, NEVER, Example, Slots, collate, pack


def seen(slots: Slots[np.ndarray]) -> list[str]:
    return ["".join("x" if s else "." for s in row) for row in slots.sees()]


def test_every_constructor_draws_the_grid_of_its_paper() -> None:
    assert seen(Slots.bidirectional([5, 6, 7])) == ["xxx", "xxx", "xxx"]
    assert seen(Slots.causal([5, 6, 7])) == ["x..", "xx.", "xxx"]
    assert seen(Slots.prefix([5, 6, 7, 8], 2)) == ["xx..", "xx..", "xxx.", "xxxx"]
    assert seen(Slots.prefix([5, 6, 7], 0)) == seen(Slots.causal([5, 6, 7]))


def test_permuted_is_two_streams_in_one() -> None:
    # Order of the factorisation: position 2, then 0, then 1. Queries ask for positions 2 (first in the order) and 1.
    slots = Slots.permuted([10, 11, 12], ranks=[1, 2, 0], targets=[2, 1], query_id=99)
    assert slots.input_ids.tolist() == [10, 11, 12, 99, 99]
    assert slots.position_ids.tolist() == [0, 1, 2, 2, 1]
    assert seen(slots) == [
        "x.x..",  # position 0 came second: sees itself and 2
        "xxx..",
        "..x..",
        ".....",  # the query of the first in the order sees nothing at all
        "x.x..",  # the query of position 1 sees what came before it, not position 1 itself
    ]


def test_slots_of_one_rank_see_one_another() -> None:
    assert seen(Slots.ranked([5, 6, 7], [1, 0, 1])) == ["xxx", ".x.", "xxx"]
    together = Slots.permuted([10, 11, 12], ranks=[0, 1, 0], targets=[1], query_id=99)
    assert seen(together) == ["x.x.", "xxx.", "x.x.", "x.x."]


def test_fields_of_the_wrong_length_are_refused() -> None:
    with pytest.raises(ValueError, match="labels|next"):
        Slots.causal([1, 2, 3], labels={"next_token": np.zeros(2)})
    with pytest.raises(ValueError, match="token_type_ids"):
        Slots.causal([1, 2, 3], token_type_ids=np.zeros(2))


lengths = st.lists(st.integers(1, 12), min_size=1, max_size=12)


@given(lengths=st.lists(st.tuples(st.integers(1, 9), st.integers(0, 9)), min_size=1, max_size=30))
def test_packing_loses_nothing_and_respects_both_budgets(lengths: list[tuple[int, int]]) -> None:
    capacity = (max(a for a, _ in lengths), max(b for _, b in lengths))
    rows = pack(lengths, capacity)
    assert sorted(i for row in rows for i in row) == list(range(len(lengths)))
    for row in rows:
        assert sum(lengths[i][0] for i in row) <= capacity[0]
        assert sum(lengths[i][1] for i in row) <= capacity[1]


@settings(max_examples=60, deadline=None)
@given(lengths=lengths, packed=st.booleans(), data=st.data())
def test_collate_keeps_every_example_and_its_visibility(
    lengths: list[int], packed: bool, data: st.DataObject
) -> None:
    make = [Slots.causal, Slots.bidirectional, lambda ids, **f: Slots.prefix(ids, len(ids) // 2, **f)]
    examples = []
    for number, length in enumerate(lengths):
        kind = data.draw(st.sampled_from(make))
        labels = {f"head{number % 2}": np.arange(length) + 100 * number}
        examples.append(Example(kind(np.arange(length) + 1 + 20 * number, labels=labels)))
    batch = collate(examples, pad_id=0, packed=packed)
    grid = batch.inputs.sees().numpy()
    for number, example in enumerate(examples):
        row, at = np.nonzero(batch.inputs.example_ids.numpy() == number)
        assert len(set(row)) == 1 and at.tolist() == list(range(at[0], at[0] + len(at)))
        here = (row[0], slice(at[0], at[-1] + 1))
        assert (batch.inputs.input_ids[here].numpy() == example.inputs.input_ids).all()
        assert (batch.inputs.position_ids[here].numpy() == np.arange(len(at))).all()
        assert (grid[row[0], at[0] : at[-1] + 1, at[0] : at[-1] + 1] == example.inputs.sees()).all()
        outside = np.ones(grid.shape[2], bool)
        outside[at] = False
        assert not grid[row[0]][np.ix_(at, outside)].any()  # nothing leaks between examples or from padding
        assert (batch.labelled(f"head{number % 2}").labels[f"head{number % 2}"][here].numpy() >= 0).all()
    padding = batch.inputs.document_ids.numpy() < 0
    assert (batch.inputs.visible_at.numpy()[padding] == NEVER).all()
    assert grid.any(-1).all()  # no empty rows: padding sees padding
    assert sum(len(index) for index in batch.asked.values()) == sum(lengths) == batch.num_tokens
    layout = batch.inputs.layout
    assert layout is not None
    assert layout.documents[:, 2].sum() == sum(lengths)
    for r, start, length in layout.documents:
        assert len(set(batch.inputs.document_ids[r, start : start + length].tolist())) == 1
        inside = grid[r, start : start + length, start : start + length]
        if layout.pattern == "causal":
            assert (inside == np.tril(np.ones_like(inside))).all()
        if layout.pattern == "bidirectional":
            assert inside.all()


def test_layout_names_the_pattern_that_kernels_may_rely_on() -> None:
    def of(*slots: Slots[np.ndarray], packed: bool = True) -> tuple[str, bool]:
        layout = collate([Example(s) for s in slots], packed=packed).inputs.layout
        assert layout is not None
        return layout.pattern, layout.single

    assert of(Slots.causal([1, 2, 3]), Slots.causal([4, 5, 6])) == ("causal", True)
    assert of(Slots.causal([1, 2, 3, 4]), Slots.causal([4, 5]), Slots.causal([6, 7])) == ("causal", False)
    assert of(Slots.bidirectional([1, 2, 3]), Slots.bidirectional([4])) == ("bidirectional", False)
    assert of(Slots.causal([1, 2, 3]), Slots.bidirectional([4, 5, 6])) == ("ranked", True)
    assert of(Slots.prefix([1, 2, 3, 4], 2)) == ("ranked", True)


def test_a_batch_tells_which_slots_are_asked_and_by_whom() -> None:
    a = Slots.bidirectional([1, 2, 3], labels={"masked_token": np.array([IGNORE, 7, IGNORE])})
    decoder = Slots.causal([4, 5], labels={"next_token": np.array([5, 6])})
    batch = collate([Example(a, decoder), Example(a, decoder)], packed=False, sample_ids=[40, 41])
    assert batch.asked["masked_token"].tolist() == [1, 4]
    assert batch.asked["next_token"].tolist() == [0, 1, 2, 3]
    assert batch.labelled("next_token") is batch.decoder_inputs
    assert batch.sample_ids.tolist() == [40, 41]
    both = Slots.causal([4], labels={"masked_token": np.array([5])})
    with pytest.raises(ValueError, match="both stacks"):
        collate([Example(a, both)])
    with pytest.raises(ValueError, match="decoder"):
        collate([Example(a, decoder), Example(a)])
    with pytest.raises(ValueError, match="at least one"):
        collate([])


def test_given_floats_are_zero_in_padding() -> None:
    long = Example(Slots.causal([1, 2, 3], given={"advantage": np.array([0.5, 1.5, 2.5])}))
    batch = collate([long, Example(Slots.causal([1, 2]))], packed=False)
    assert batch.inputs.given["advantage"].tolist() == [[0.5, 1.5, 2.5], [0, 0, 0]]
    assert batch.inputs.given["advantage"].dtype == torch.float32


def test_what_examples_share_is_not_written_to() -> None:
    one = Slots.causal([1, 2, 3])
    with pytest.raises(ValueError, match="read-only"):
        one.position_ids[0] = 7
    batch = collate([Example(one)])
    for tensor in (batch.inputs.position_ids, batch.inputs.token_type_ids, batch.inputs.sees_until):
        tensor += 7  # a batch's own
    assert Slots.causal([1, 2]).position_ids.tolist() == Slots.causal([1, 2]).sees_until.tolist() == [0, 1]
    assert Slots.bidirectional([1, 2]).token_type_ids.tolist() == [0, 0]
    assert Slots.causal(np.zeros(5_000, int)).position_ids[-1] == 4_999  # longer than what is shared


def test_documents_of_several_to_an_example_are_counted_on_within_a_row() -> None:
    def two(a: int, b: int) -> Example[np.ndarray]:
        return Example(Slots.bidirectional(np.ones(a + b, int), document_ids=np.repeat([0, 1], [a, b])))

    inputs = collate([two(3, 4), two(2, 1), two(2, 1), two(1, 5)]).inputs
    assert inputs.document_ids.tolist() == [
        [0, 0, 0, 1, 1, 1, 1],
        [0, 0, 1, 2, 2, 3, -1],
        [0, 1, 1, 1, 1, 1, -1],
    ]
    assert inputs.layout is not None
    assert inputs.layout.documents.tolist() == [
        [0, 0, 3], [0, 3, 4], [1, 0, 2], [1, 2, 1], [1, 3, 2], [1, 5, 1], [2, 0, 1], [2, 1, 5],
    ]  # fmt: skip


def test_a_field_of_another_length_is_refused() -> None:
    short = replace(Slots.causal([1, 2]), labels={"a": np.array([1])})
    for other in ([1, 2, 3], [1, 2]):  # beside padding, and without any
        with pytest.raises(ValueError):
            collate([Example(short), Example(Slots.causal(other))])
