"""Where the loader stands is a function of the step and of nothing else (reliability A8, B2)."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from plume.errors import UserError
from plume.models.heads import Head
from plume.models.pretrained import PretrainedModel
from plume.objectives.causal import CausalLM
from plume.objectives.masked import MaskedLM
from plume.slots import Batch, Example
from plume.text.windows import PackedStream, Sequential, Window
from plume.training import stages
from plume.training.background import beside
from plume.training.loader import Epochs, Loader, Work
from plume.training.parallel import Ranks
from plume.training.settings import Pretraining, Stage
from plume.vocabulary import Vocabulary
from tests.training.small import RECIPES, VOCAB, Chunks, tokens

Shown = list[tuple[int, list[int], list[int]]]


def loader(
    recipe: Pretraining, *, ranks: Ranks | None = None, size: int = 2, packed: bool = True, depth: int = 2
) -> Loader:
    objective = recipe.objective
    model = PretrainedModel.build(recipe.model, VOCAB, lambda b: objective.heads(b, VOCAB), seed=0)
    found = stages.phases(recipe, tokens(700), VOCAB)
    return Loader(found, VOCAB, model.heads, size, packed, torch.device("cpu"), ranks or Ranks(), depth)


def content(batch: Batch) -> list[int]:
    """Every id and label of a batch."""
    return [v for t in (batch.inputs.input_ids, *batch.inputs.labels.values()) for v in t.flatten().tolist()]


def shown(works: Sequence[Work]) -> Shown:
    """(micro-batch, sample numbers, content) of everything that was read."""
    microbatches = [m for work in works for m in work.microbatches]
    return [
        (m.index, m.batch.sample_ids.tolist(), content(m.batch)) for m in microbatches if m.batch is not None
    ]


@pytest.mark.parametrize("kind", ["causal", "masked", "carried"])
def test_ranks_and_prefetch_only_slice_the_one_sequence(kind: str) -> None:
    recipe = RECIPES[kind]
    whole = shown(list(loader(recipe).from_step(0, 12)))
    assert [m for m, _, _ in whole[:4]] == [0, 1, 2, 3]
    assert [s for _, numbers, _ in whole for s in numbers] == list(range(96))
    for size in (2, 4):
        parts = [
            shown(list(loader(recipe, ranks=Ranks(r, size), depth=r + 1).from_step(0, 12)))
            for r in range(size)
        ]
        assert sorted(whole, key=lambda m: m[1]) == sorted(
            (m for part in parts for m in part), key=lambda m: m[1]
        )


@pytest.mark.parametrize("kind", ["causal", "masked", "carried"])
def test_going_on_from_any_step_gives_what_would_have_come(kind: str) -> None:
    whole = [shown([work]) for work in loader(RECIPES[kind]).from_step(0, 60)]
    again = loader(RECIPES[kind])
    for step in [1, 2, 3, 7, 8, 6, 30, 31, 14, 59]:  # consecutive ones, back again, across the ends of epochs
        assert [shown([work]) for work in again.from_step(step, min(step + 5, 60))] == whole[step : step + 5]


def test_the_text_of_real_windows_is_read_in_one_order() -> None:
    recipe = replace(RECIPES["causal"], windows=PackedStream(12))
    whole = [shown([work]) for work in loader(recipe).from_step(0, 40)]
    assert [shown([work]) for work in loader(recipe).from_step(17, 40)] == whole[17:]
    assert whole[0] != whole[20]


def test_each_sample_once_an_epoch_and_another_order_the_next() -> None:
    epochs = stages.phases(RECIPES["causal"], tokens(700), VOCAB)[0].epochs
    size = len(epochs.plan(0))
    assert epochs.locate(size - 1) == (0, size - 1)
    assert epochs.locate(size) == (1, 0)
    orders = [[epochs.plan(e).order(i) for i in range(len(epochs.plan(e)))] for e in range(3)]
    for order in orders:
        assert sorted(order) == list(range(len(order)))
    assert orders[0] != orders[1][:size]


def test_epochs_of_different_lengths_follow_one_another() -> None:
    class Short:
        def __init__(self, size: int) -> None:
            self.size = size

        def __len__(self) -> int:
            return self.size

        def __getitem__(self, index: int) -> int:
            return index

        def order(self, index: int) -> int:
            return index

        def starts(self, index: int) -> bool:
            return True

    epochs = Epochs(lambda epoch: Short([3, 1, 4][epoch % 3]))
    assert [epochs.locate(s) for s in range(9)] == [
        (0, 0), (0, 1), (0, 2), (1, 0), (2, 0), (2, 1), (2, 2), (2, 3), (3, 0),
    ]  # fmt: skip
    assert epochs.locate(0) == (0, 0)
    with pytest.raises(UserError, match="no example"):
        Epochs(lambda _: Short(0)).locate(0)


def masks(masking: str) -> dict[int, set[tuple[int, ...]]]:
    """Window -> the different sets of places that were hidden in it over three epochs."""
    recipe = replace(RECIPES["masked"], masking=masking, objective=MaskedLM(noise_density=0.3))
    phase = stages.phases(recipe, tokens(700), VOCAB)[0]
    found: dict[int, set[tuple[int, ...]]] = {}
    read = loader(recipe, packed=False)
    for sample in range(150):
        epoch, index = phase.epochs.locate(sample)
        batch = read.collate(phase, [sample])
        assert batch is not None
        hidden = tuple((batch.inputs.labels["masked_token"][0] != -100).nonzero().flatten().tolist())
        found.setdefault(phase.epochs.plan(epoch).order(index), set()).add(hidden)
    return found


def test_static_masks_stay_and_dynamic_ones_do_not() -> None:
    assert all(len(places) == 1 for places in masks("static").values())
    assert sum(len(places) > 1 for places in masks("dynamic").values()) > 40


def test_carried_rows_go_on_and_say_where_they_start() -> None:
    recipe = replace(RECIPES["carried"], windows=Sequential(8))
    works = list(loader(recipe, packed=False).from_step(0, 22))
    before: dict[int, np.ndarray[Any, Any]] = {}
    started = 0
    for work in works:
        for m in work.microbatches:
            assert m.batch is not None and m.batch.starts is not None
            ids, labels = m.batch.inputs.input_ids.numpy(), m.batch.inputs.labels["next_token"].numpy()
            for row, starts in enumerate(m.batch.starts.tolist()):
                if not starts:  # the first id of this window is what the last one was asked for
                    assert ids[row, 0] == before[m.index * 2 + row]
                started += starts
                before[m.index * 2 + row] = labels[row, -1]
    assert started in (16, 24)  # each row at the beginning of each epoch


def test_stages_change_windows_objective_and_batch_from_a_step_on() -> None:
    recipe = replace(
        RECIPES["masked"],
        stages=(
            Stage(until=3, windows=Chunks(6), batch_size=4),
            Stage(until=5, windows=Chunks(6), objective=MaskedLM(noise_density=0.5)),
            Stage(),
        ),
    )
    works = list(loader(recipe, packed=False).from_step(0, 8))
    assert [len(work.sample_ids) for work in works] == [4, 4, 4, 8, 8, 8, 8, 8]
    assert [s for work in works for s in work.sample_ids] == list(range(12 + 16 + 24))
    assert [max(len(m.batch.inputs) for m in work.microbatches if m.batch) for work in works][2:6] == [
        6,
        6,
        6,
        12,
    ]
    first, second, third = (work.phase for work in (works[0], works[3], works[5]))
    assert first.epochs is second.epochs and second.base == 0  # cut alike: one sequence
    assert third.base == 28 and third.seeds != second.seeds
    direct = list(loader(recipe, packed=False).from_step(4, 8))
    assert [shown([w]) for w in direct] == [shown([w]) for w in works[4:]]


def test_stages_that_end_early_leave_the_rest_to_the_recipe() -> None:
    recipe = replace(RECIPES["masked"], stages=(Stage(until=4, batch_size=2),))
    assert [(first, size) for first, _, _, size in stages.resolve(recipe)] == [(0, 2), (4, 8)]
    with pytest.raises(ValueError, match="one after the other"):
        replace(recipe, stages=(Stage(), Stage(until=4)))


@dataclass(frozen=True)
class Picky(CausalLM):
    """Drops every window that begins with an even id."""

    def example(self, source: Window, vocab: Vocabulary, rng: np.random.Generator) -> Example[Any] | None:
        return None if source.ids[0] % 2 == 0 else super().example(source, vocab, rng)


def test_dropped_examples_are_counted_and_shift_nothing() -> None:
    recipe = replace(RECIPES["causal"], objective=Picky())
    works = list(loader(recipe).from_step(0, 6))
    kept = sum(len(m.batch.sample_ids) for work in works for m in work.microbatches if m.batch)
    dropped = sum(m.dropped for work in works for m in work.microbatches)
    assert kept + dropped == 48 and 10 < dropped < 40
    empty = [m for work in works for m in work.microbatches if m.batch is None]
    assert empty and all(m.counts == {} and m.dropped == 2 for m in empty)
    all_of_it = {
        s: ids
        for _, numbers, ids in shown(list(loader(RECIPES["causal"], size=1).from_step(0, 6)))
        for s in numbers
    }
    for _, numbers, ids in shown(list(loader(recipe, size=1).from_step(0, 6))):
        assert ids == all_of_it[numbers[0]]
    carried = replace(RECIPES["carried"], objective=Picky())
    with pytest.raises(UserError, match="too short to carry"):
        list(loader(carried).from_step(0, 6))


@pytest.mark.parametrize("kind", ["causal", "masked", "carried"])
def test_counts_are_those_of_the_losses(kind: str) -> None:
    objective = RECIPES[kind].objective
    model = PretrainedModel.build(RECIPES[kind].model, VOCAB, lambda b: objective.heads(b, VOCAB), seed=0)
    for m in loader(RECIPES[kind]).work(0).microbatches:
        assert m.batch is not None
        losses = objective.losses(model, m.batch).heads
        assert {name: loss.count.item() for name, loss in losses.items()} == m.counts


def test_an_error_of_the_thread_reaches_the_trainer_and_leaving_early_ends_it() -> None:
    short = replace(RECIPES["causal"], windows=PackedStream(5000))
    with pytest.raises(UserError):
        next(loader(short).from_step(0, 12))
    works = loader(RECIPES["causal"]).from_step(0, 12)
    next(works)
    works.close()
    assert not any(thread.name == "loader" for thread in threading.enumerate())


def test_a_thread_beside_the_training_computes_alone() -> None:
    """A second team of OpenMP threads would put the training's own to sleep between its kernels."""
    before = torch.get_num_threads()
    used: dict[str, set[int]] = {}
    started = threading.Event()

    def note() -> None:
        used.setdefault(threading.current_thread().name, set()).add(torch.get_num_threads())

    def work() -> None:
        started.wait()
        note()

    class Noting(MaskedLM):
        def counts(self, batch: Batch, heads: Mapping[str, Head]) -> dict[str, Tensor]:
            note()
            return super().counts(batch, heads)

    torch.set_num_threads(2)
    try:
        thread = beside(work, "beside")
        started.set()
        thread.join()
        for _ in loader(replace(RECIPES["masked"], objective=Noting())).from_step(0, 3):
            note()
        later = threading.Thread(target=note, name="later")
        later.start()
        later.join()
    finally:
        torch.set_num_threads(before)
    assert used == {"beside": {1}, "loader": {1}, "MainThread": {2}, "later": {2}}
