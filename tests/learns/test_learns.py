"""Every family memorises 32 sentences in seconds, and only the right visibility solves a task made for it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from plume.models.pretrained import PretrainedModel
from plume.models.recurrent import RecurrentConfig
from plume.models.transformer import TransformerConfig
from plume.objectives.base import Objective
from plume.objectives.causal import CausalLM
from plume.objectives.classification import Classification, Labelled
from plume.objectives.masked import MaskedLM
from plume.seeding import rng
from plume.slots import IGNORE, Example, Slots, collate
from tests.laws.laws import FIRST, VOCAB, framed, window

TINY = TransformerConfig(
    num_layers=2, d_model=32, num_heads=2, d_ff=64, norm_order="pre", positions="learned", max_positions=32,
    token_types=2, dropout=0.0, attention_dropout=0.0,
)  # fmt: skip
POST = replace(TINY, norm_order="post", embedding_norm=True)
LSTM = RecurrentConfig(cell="lstm", num_layers=1, d_model=48, dropout=0.0)


def sentences(count: int = 32) -> list[np.ndarray]:
    draw = rng(0, "sentences")
    return [draw.integers(FIRST, VOCAB.size, draw.integers(5, 12)) for _ in range(count)]


def fit(
    objective: Objective[Any],
    config: Any,
    sources: list[Any],
    steps: int,
    *,
    lr: float = 8e-3,
    packed: bool = True,
    static: bool = False,
) -> tuple[PretrainedModel, Callable[[int], Any]]:
    model = PretrainedModel.build(config, VOCAB, lambda b: objective.heads(b, VOCAB), seed=0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=0.0)

    def batch(epoch: int) -> Any:
        drawn = [
            objective.example(s, VOCAB, rng(0, "noise", 0 if static else epoch, i))
            for i, s in enumerate(sources)
        ]
        return collate([e for e in drawn if e is not None], packed=packed)

    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = lr * min(1.0, (step + 1) / 10) * (1 - step / steps)
        losses = objective.losses(model, batch(step)).heads
        optimizer.zero_grad()
        sum(loss.total / loss.count.clamp(min=1) for loss in losses.values()).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    return model.eval(), batch


@torch.no_grad()
def right(objective: Objective[Any], model: PretrainedModel, batch: Any, head: str) -> float:
    """The share of ``head``'s labels that its best answer hits."""
    hidden = model.backbone(batch.inputs, batch.decoder_inputs)
    logits = model.heads[head].logits(hidden[model.heads[head].reads])
    labels = batch.labelled(head).labels[head]
    at = labels != IGNORE
    return float((logits.argmax(-1)[at] == labels[at]).float().mean())


@pytest.mark.parametrize(
    ("config", "packed"), [(TINY, True), (POST, True), (LSTM, False)], ids=["pre-norm", "post-norm", "lstm"]
)
def test_a_causal_model_memorises(config: Any, packed: bool) -> None:
    """The first token of a sentence names it here, so that everything after it can be known."""
    sources = [window(np.concatenate([[FIRST + i], s])) for i, s in enumerate(sentences())]
    objective = CausalLM()
    model, batch = fit(objective, config, sources, 150, packed=packed)
    assert right(objective, model, batch(0), "next_token") > 0.98


@pytest.mark.parametrize("config", [TINY, POST], ids=["pre-norm", "post-norm"])
def test_a_masked_model_memorises_words_and_which_segment_follows(config: TransformerConfig) -> None:
    objective = MaskedLM(noise_density=0.2, mask_share=1.0, random_share=0.0, next_sentence=True)
    sources = [framed(s) for s in sentences()]
    model, batch = fit(objective, config, sources, 150, static=True)
    assert right(objective, model, batch(0), "masked_token") > 0.95
    assert right(objective, model, batch(0), "next_sentence") > 0.95


@pytest.mark.parametrize("reader", [CausalLM(), MaskedLM()], ids=["causal", "masked"])
def test_labels_are_memorised(reader: Any) -> None:
    objective = Classification(reader, ("a", "b", "c"), max_length=32, dropout=0.0)
    sources = [Labelled((s,), i % 3) for i, s in enumerate(sentences())]
    model, batch = fit(objective, POST, sources, 100, lr=4e-3)
    assert right(objective, model, batch(0), "label") == 1.0


class AnswerLies(CausalLM):
    """Random tokens; every second slot asks for the token that stands ``offset`` slots away."""

    offset = 1

    def example(self, source: Any, vocab: Any, rng: np.random.Generator) -> Example[Any]:
        ids = rng.integers(FIRST, VOCAB.size, 12)
        labels = np.full(12, IGNORE)
        at = np.arange(2, 10, 2)
        labels[at] = ids[at + self.offset]
        return Example(self.slots(ids, labels={"next_token": labels}))

    slots = staticmethod(Slots.causal)


class Ahead(AnswerLies):
    """One slot to the right, and seen only by who looks both ways."""

    slots = staticmethod(Slots.bidirectional)


class Behind(AnswerLies):
    offset = -2


def test_only_who_sees_both_ways_can_answer_from_the_right() -> None:
    """The same task, the same network, the same steps: they differ by the ranks and by nothing else."""
    outcome = {}
    for objective in (Ahead(), AnswerLies(), Behind()):
        model, batch = fit(objective, TINY, [None] * 16, 200, lr=8e-3)
        held_out = batch(10_000)
        with torch.no_grad():
            loss = objective.losses(model, held_out).heads["next_token"]
        outcome[type(objective).__name__] = float(loss.total / loss.count)
    floor = math.log(VOCAB.size - FIRST)
    assert outcome["Ahead"] < 0.2 * floor  # bidirectional, the answer to the right
    assert outcome["Behind"] < 0.2 * floor  # causal, the answer to the left
    assert outcome["AnswerLies"] > 0.97 * floor  # causal, the answer to the right: nothing to be known
