"""A mixture: how often each member speaks, what it is given to read, and that sums and counts are theirs."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch

from plume import config
from plume.models.heads import PooledHead, TokenHead
from plume.models.pretrained import PretrainedModel
from plume.objectives.causal import CausalLM
from plume.objectives.masked import MaskedLM
from plume.objectives.mixture import MEMBER, Mixture
from plume.objectives.permuted import PermutedLM
from plume.objectives.prefix import Cloze, PrefixLM, unilm
from plume.objectives.sequence_to_sequence import SequenceToSequence
from plume.objectives.span_corruption import SpanCorruption
from plume.seeding import rng
from plume.slots import Example, Losses, collate
from plume.studies.laws import WITH_SENTINELS
from plume.text.marks import PART
from plume.text.windows import Window
from tests.laws.laws import VOCAB, framed, tiny, window


@dataclass(frozen=True)
class Says(CausalLM):
    """Costs nothing, so that it can be drawn often."""

    def example(self, source: Any, vocab: Any, rng: Any) -> Example[Any] | None:
        return source


def test_members_speak_as_often_as_their_shares_say() -> None:
    """Spec 20 test 5: a third, a third, a sixth, a sixth, over 20,000 draws."""
    mixed = Mixture((Says(),) * 4, (2.0, 2.0, 1.0, 1.0))
    nothing, draw = CausalLM().example(window(np.arange(7, 9)), VOCAB, rng(0, "x")), rng(0, "mixture")
    made = [mixed.example(nothing, VOCAB, draw) for _ in range(20_000)]
    shares = np.bincount([mixed.member(e) for e in made if e is not None]) / len(made)
    np.testing.assert_allclose(shares, [1 / 3, 1 / 3, 1 / 6, 1 / 6], atol=0.01)
    assert unilm().shares == mixed.shares


def test_a_member_reads_no_more_than_it_would_alone() -> None:
    """A causal window has one token more, as the last label; a masked model must not get it as a slot."""
    mixed = Mixture((CausalLM(), MaskedLM()), (1, 1))
    assert mixed.window_length(12) == 13
    for size in (13, 7, 2):  # full windows, and what the end of a text leaves
        lengths = set()
        for seed in range(20):
            made = mixed.example(window(np.arange(7, 7 + size)), VOCAB, rng(seed, "noise"))
            assert made is not None
            lengths.add((mixed.member(made), len(made.inputs)))
        assert lengths == {(0, size - 1), (1, size - 1)}


def test_sums_and_counts_are_the_members() -> None:
    """One batch of both: each head's sum is that of its members' examples alone, its count too."""
    mixed = Mixture((MaskedLM(next_sentence=True), CausalLM(), PrefixLM()), (1, 1, 1))
    network = tiny(mixed)
    assert set(network.heads) == {"masked_token", "next_sentence", "next_token"}
    made = [mixed.example(framed(np.arange(7, 15)), VOCAB, rng(s, "noise")) for s in range(12)]
    examples = [e for e in made if e is not None]
    assert {mixed.member(e) for e in examples} == {0, 1, 2}
    together = mixed.losses(network, collate(examples)).heads
    counts = mixed.counts(collate(examples), dict(network.heads.items()))
    for name in network.heads:
        alone = [mixed.losses(network, collate([e])).heads[name] for e in examples]
        torch.testing.assert_close(together[name].total, sum(loss.total for loss in alone), rtol=0, atol=1e-9)
        assert together[name].count == counts[name] == sum(loss.count for loss in alone)


def test_texts_are_read_and_continued_by_the_member_that_is_named() -> None:
    mixed = unilm()
    assert mixed.read([np.array([9, 8])], VOCAB)[0].token_type_ids.tolist() == [0, 0, 0, 0]
    slots, at = mixed.ask_next(np.array([9, 8]), VOCAB)
    assert slots.input_ids.tolist() == [VOCAB.cls, 9, 8, VOCAB.mask] and at == 3
    assert slots.token_type_ids.tolist() == [2] * 4 and not slots.sees()[0, 1:].any()


@dataclass(frozen=True)
class Other(CausalLM):
    """Has a head of another shape, and weighs it otherwise, under the same name."""

    def heads(self, backbone: Any, vocab: Any) -> Any:
        return {"next_token": TokenHead(backbone, bias=True), "label": PooledHead(backbone, 2)}

    def weights(self) -> Any:
        return {"next_token": 2.0}


@dataclass(frozen=True)
class Alone(CausalLM):
    def losses(self, model: Any, batch: Any) -> Losses:
        return super().losses(model, batch)


def test_what_cannot_be_mixed_is_refused() -> None:
    with pytest.raises(ValueError, match="share for each"):
        Mixture((CausalLM(),), (0.5, 0.5))
    with pytest.raises(ValueError, match="at least 0"):
        Mixture((CausalLM(), MaskedLM()), (1.0, -1.0))
    with pytest.raises(ValueError, match="asks=2"):
        Mixture((CausalLM(), MaskedLM()), (1.0, 1.0), asks=2)
    with pytest.raises(ValueError, match="Alone"):
        Mixture((CausalLM(), Alone()), (1.0, 1.0))
    with pytest.raises(ValueError, match="weigh"):
        Mixture((replace(Weighed(), weight=1.5), Weighed()), (1.0, 1.0))
    with pytest.raises(ValueError, match="different shapes"):
        tiny(Mixture((CausalLM(), Other()), (1.0, 1.0)))


@dataclass(frozen=True)
class Weighed(CausalLM):
    weight: float = 2.0

    def weights(self) -> Any:
        return {"next_token": self.weight}


def test_xlnets_order_can_be_one_of_several() -> None:
    """Query slots and plain ones in one batch, with the row that stands for the query."""
    mixed = Mixture((PermutedLM(), CausalLM()), (1, 1))
    made = [mixed.example(window(np.arange(7, 19)), VOCAB, rng(s, "noise")) for s in range(8)]
    examples = [e for e in made if e is not None]
    network: PretrainedModel = tiny(mixed, example=max(examples, key=lambda e: len(e.inputs)))
    losses = mixed.losses(network, collate(examples)).heads
    assert all(loss.count > 0 and bool(loss.total.isfinite()) for loss in losses.values())


def test_a_mixture_is_its_json() -> None:
    mixed = Mixture((unilm(), Cloze("seq2seq", noise_density=0.5), CausalLM()), (1, 2, 3))
    assert config.from_json(config.to_json(mixed)) == mixed


def cut_for(member: int, ids: np.ndarray, cut: int | None = None) -> Window:
    """A window that says which member it is for; with ``cut`` a row of two columns."""
    found = replace(window(ids), labels={MEMBER: member})
    if cut is not None:
        found.marks[cut] |= PART
    return found


def test_a_window_can_say_which_member_it_is_for() -> None:
    """T5's tasks: rows of two columns to the one, text to the other, and not a token of either is cut off."""
    mixed = Mixture((SpanCorruption(), SequenceToSequence()), asks=1)
    ids = np.arange(7, 27)
    for seed in range(5):
        row = mixed.example(cut_for(1, ids, 12), WITH_SENTINELS, rng(seed, "noise"))
        text = mixed.example(cut_for(0, ids), WITH_SENTINELS, rng(seed, "noise"))
        assert row is not None and text is not None
        assert (mixed.member(row), mixed.member(text)) == (1, 0)
        assert row.inputs.input_ids.tolist() == [*range(7, 19), WITH_SENTINELS.eos]
        for made in (row, text):
            np.testing.assert_array_equal(mixed.restore(made), ids)
    with pytest.raises(ValueError, match="say which member"):
        mixed.example(window(ids), WITH_SENTINELS, rng(0, "noise"))


def test_a_mixture_in_a_mixture_keeps_both_draws() -> None:
    mixed = Mixture((CausalLM(), Mixture((PrefixLM(), CausalLM(), CausalLM()), (1, 1, 1))), (1, 2))
    ids, members = np.arange(7, 19), set()
    for seed in range(30):
        made = mixed.example(window(ids), VOCAB, rng(seed, "noise"))
        assert made is not None
        np.testing.assert_array_equal(mixed.restore(made), ids)
        members.add(made.member)
    assert members == {0, 1, 3, 5}


def test_a_mixture_of_two_stacks_is_asked_as_its_members_are() -> None:
    """It once had no prompt at all, so that a run of two stacks was asked as if it had one."""
    spans, answers = SpanCorruption(), SequenceToSequence()
    ids = np.arange(7, 12)
    for asks, alone in enumerate((spans, answers)):
        prompt = Mixture((spans, answers), (1, 1), asks=asks).prompt(ids, WITH_SENTINELS)
        wanted = alone.prompt(ids, WITH_SENTINELS)
        assert prompt is not None and prompt.decoder_inputs is not None and wanted.decoder_inputs is not None
        assert prompt.inputs.input_ids.tolist() == wanted.inputs.input_ids.tolist()
        assert prompt.decoder_inputs.input_ids.tolist() == wanted.decoder_inputs.input_ids.tolist()
    mixed = Mixture((spans, answers), (1, 1))
    read, _ = mixed.read([ids], WITH_SENTINELS)
    decoder = mixed.read_decoder(read, WITH_SENTINELS)
    assert decoder is not None and decoder.input_ids.tolist() == [WITH_SENTINELS.pad, *ids]


def test_heads_of_one_name_have_one_setting() -> None:
    """Label smoothing of the one would silently be dropped, or become the other's."""
    mixed = Mixture((CausalLM(), Smoothed()), (1, 1))
    with pytest.raises(ValueError, match="shapes or settings"):
        tiny(mixed)


@dataclass(frozen=True)
class Smoothed(CausalLM):
    def heads(self, backbone: Any, vocab: Any) -> Any:
        return {"next_token": TokenHead(backbone, spread=0.1)}
