"""XLNet's objective: the published masks, its statistics, what its memory holds and does not (spec 10)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from plume.models.pretrained import PretrainedModel
from plume.objectives.permuted import PermutedLM
from plume.seeding import rng
from plume.slots import IGNORE, NEVER, Example, Slots, collate
from plume.text.windows import ADVANCE, Window
from tests.laws.laws import VOCAB, window
from tests.laws.test_permuted import RELATIVE, cls_last


@dataclass(frozen=True)
class Golden(PermutedLM):
    """Chooses what the golden example chooses."""

    def choose(self, begins: Any, may: Any, goal: int, rng: Any) -> np.ndarray:
        return np.isin(np.arange(len(begins)), (1, 4, 5))


class Permutes:
    """A generator that only permutes, as the golden example says."""

    def permutation(self, size: int) -> np.ndarray:
        return np.array([5, 2, 7, 0, 4, 1, 6, 3])


def test_the_published_permutation_mask() -> None:
    """Spec 10 section 4, the original's: blocked(i, j) for targets as their queries see, for the others as they do."""
    ids = np.array([10, 11, 12, 4, 13, 14, 4, 3])
    vocab = replace(VOCAB, sep=4, cls=3, mask=2)
    source = replace(window(ids), special=np.isin(ids, (3, 4)))
    made = Golden().example(source, vocab, Permutes())  # type: ignore[arg-type]
    assert made is not None
    slots = made.inputs
    assert slots.position_ids[8:].tolist() == [1, 4, 5] and set(slots.input_ids[8:].tolist()) == {vocab.size}
    sees = slots.sees()
    assert not sees[:, 8:].any(), "a query is never seen"
    blocked = ~sees[:8, :8]
    assert not blocked.diagonal().any(), "a content slot sees itself"
    blocked[[1, 4, 5]] = ~sees[8:, :8]
    assert ["".join("01"[int(b)] for b in row) for row in blocked] == [
        "01011111", "01001011", "01011111", "01001111", "00001010", "01001111", "00000000", "00001010",
    ]  # fmt: skip
    assert slots.labels["permuted_token"].tolist() == [IGNORE] * 8 + [11, 13, 14]


def spans_of(chosen: np.ndarray) -> list[int]:
    edges = np.flatnonzero(np.diff(np.concatenate([[0], chosen.astype(int), [0]])))
    return list((edges[1::2] - edges[::2]).tolist())


def test_spans_are_as_often_as_they_are_short() -> None:
    """p(n) ~ 1/n for n = 1..5 (spec 10 test 6); a goal that the spans reach alone, so that nothing is filled up."""
    draw, found = rng(0, "spans"), []
    begins, may = np.ones(3000, bool), np.ones(3000, bool)
    for _ in range(60):
        chosen = PermutedLM().choose(begins, may, 300, draw)
        assert chosen.sum() == 300
        found += spans_of(chosen)[:-1]  # the last one is cut to what is left
    shares = np.bincount(found, minlength=6)[1:] / len(found)
    expected = (1 / np.arange(1, 6)) / (1 / np.arange(1, 6)).sum()
    np.testing.assert_allclose(shares, expected, atol=0.02)


def test_85_of_512_are_asked_for_and_never_a_separator() -> None:
    for seed in range(20):
        draw = rng(seed, "text")
        source = replace(cls_last(draw.integers(7, 40, 510)), labels={ADVANCE: 256})
        made = PermutedLM().example(source, VOCAB, rng(seed, "noise"))
        assert made is not None
        labels, at = made.inputs.labels["permuted_token"][512:], made.inputs.position_ids[512:]
        assert len(labels) == 85 and (at < 256).sum() == 43
        assert not np.isin(labels, (VOCAB.sep, VOCAB.cls)).any()


def test_what_the_row_advances_by_never_sees_the_rest() -> None:
    source = replace(cls_last(np.arange(7, 31)), labels={ADVANCE: 11})
    made = PermutedLM(noise_density=0.5).example(source, VOCAB, rng(3, "noise"))
    assert made is not None
    slots, sees = made.inputs, made.inputs.sees()
    first = slots.position_ids < 11
    content = slots.visible_at != NEVER
    assert not sees[np.ix_(first, ~first & content)].any()
    assert sees[np.ix_(~first, first & content)].all()
    np.testing.assert_array_equal(slots.given["remembered"], first & content)


def model(objective: PermutedLM) -> PretrainedModel:
    built = PretrainedModel.build(RELATIVE, VOCAB, lambda b: objective.heads(b, VOCAB), seed=1)
    return built.double().eval()


def test_a_query_depends_on_exactly_what_comes_before_it() -> None:
    """Spec 10 test 3, by gradients through the whole network: no more and no less than the order says."""
    objective = PermutedLM(noise_density=0.6)
    network = model(objective)
    for seed in range(3):
        made = objective.example(window(np.arange(8, 17)), VOCAB, rng(seed, "order"))
        assert made is not None
        batch = collate([made])
        read = network.backbone.embedding(batch.inputs).detach().requires_grad_()
        network.backbone.embedding.forward = lambda slots, read=read: read  # type: ignore[method-assign]
        last = network.backbone(batch.inputs).last[0]
        depends = torch.stack([torch.autograd.grad(s.sum(), read, retain_graph=True)[0][0].abs().sum(-1) > 0
                               for s in last * torch.randn_like(last)])  # fmt: skip
        sees = made.inputs.sees()
        np.fill_diagonal(sees, True)  # a query starts from its own row
        np.testing.assert_array_equal(depends.numpy(), sees)


def test_asked_in_order_it_is_an_autoregressive_model() -> None:
    """Spec 10 test 8: all tokens asked for from left to right is one question a prefix, each on its own."""
    objective, ids = PermutedLM(), np.arange(9, 16)
    network = model(objective)
    whole = Slots.permuted(ids, np.arange(7), np.arange(7), VOCAB.size)
    together = network.backbone(collate([Example(whole)]).inputs).last[0, 7:]
    for t in range(7):
        asked = Slots.permuted(ids[: t + 1], np.arange(t + 1), [t], VOCAB.size)
        alone = network.backbone(collate([Example(asked)]).inputs).last[0, -1]
        torch.testing.assert_close(alone, together[t], rtol=0, atol=1e-9)


def carried(objective: PermutedLM, ids: np.ndarray, network: PretrainedModel) -> Any:
    source = replace(cls_last(ids), labels={ADVANCE: 6})
    made = objective.example(source, VOCAB, rng(5, "noise"))
    assert made is not None
    batch = replace(collate([made], packed=False), starts=torch.tensor([True]))
    with torch.no_grad():
        return objective.losses(network, batch).memory


def test_memory_knows_nothing_of_what_the_next_window_is_asked() -> None:
    objective = PermutedLM(noise_density=0.4, memory_length=4)
    network, ids = model(objective), np.arange(7, 21)
    memory = carried(objective, ids, network)
    assert memory.slots.input_ids[0].tolist() == ids[2:6].tolist(), (
        "the last four of what the row advances by"
    )
    assert memory.slots.position_ids[0].tolist() == [-4, -3, -2, -1]
    later, earlier = ids.copy(), ids.copy()
    later[6:], earlier[0] = later[6:][::-1], 30
    same = [
        torch.equal(a, b)
        for a, b in zip(memory.layers, carried(objective, later, network).layers, strict=True)
    ]
    assert all(same), "a state that saw what comes next would give it away there"
    changed = carried(objective, earlier, network).layers[1]
    assert not torch.equal(memory.layers[1], changed)


def test_without_memory_nothing_is_kept() -> None:
    assert carried(PermutedLM(memory_length=0), np.arange(7, 21), model(PermutedLM())) is None


def test_texts_too_short_are_dropped() -> None:
    nothing = Window(
        np.array([VOCAB.sep, VOCAB.cls]), np.zeros(2, np.uint8), np.ones(2, bool), np.zeros(2, np.int64)
    )
    assert PermutedLM().example(nothing, VOCAB, rng(0, "x")) is None


def test_how_a_text_is_read_continued_and_filled() -> None:
    objective, ids = PermutedLM(), np.array([9, VOCAB.mask, 11])
    read, slot = objective.read([np.array([9, 8]), np.array([7])], VOCAB)
    assert read.input_ids.tolist() == [9, 8, VOCAB.sep, 7, VOCAB.sep, VOCAB.cls] and slot == 5
    assert read.token_type_ids.tolist() == [0, 0, 0, 1, 1, 2]
    asked, at = objective.ask_next(ids, VOCAB)
    assert (asked.position_ids.tolist(), at) == ([0, 1, 2, 3], 3)
    assert ["".join("x" if s else "." for s in row) for row in asked.sees()] == [
        "xxx.",
        "xxx.",
        "xxx.",
        "xxx.",
    ]
    hidden, slots = objective.ask_hidden(ids, VOCAB)
    assert slots.tolist() == [5] and hidden.position_ids[5] == 1
    assert not hidden.sees()[[0, 2, 3, 4, 5], 1].any(), (
        "who is asked does not see the [MASK], nor does anyone else"
    )
