"""The recurrent backbone against torch's cells, and its carried state (spec 03 section 4)."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from plume.models.pretrained import PretrainedModel
from plume.models.recurrent import RecurrentConfig
from plume.objectives.causal import CausalLM
from plume.slots import Example, Memory, Slots, collate
from plume.vocabulary import Vocabulary

VOCAB = Vocabulary(size=11, pad=0)


def build(cell="lstm", dropout=0.0):
    config = RecurrentConfig(2, 6, cell, dropout)
    return PretrainedModel.build(config, VOCAB, lambda b: CausalLM().heads(b, VOCAB), seed=1).double()


def rows(ids, labels=False):
    made = [Slots.causal(r[:-1], labels={"next_token": r[1:]}) if labels else Slots.causal(r) for r in ids]
    return collate([Example(s) for s in made], packed=False)


IDS = np.random.default_rng(0).integers(1, 11, (3, 9))


@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn"])
def test_states_and_gradients_are_torchs(cell):
    model = build(cell)
    theirs = {"lstm": nn.LSTM, "gru": nn.GRU, "rnn": nn.RNN}[cell](
        6, 6, 2, batch_first=True, dtype=torch.float64
    )
    for name, p in theirs.named_parameters():
        part, layer = name.rsplit("_l", 1)
        p.data.copy_(getattr(model.backbone.layers[int(layer)], f"{part}_l0"))
    hidden = model.backbone(rows(IDS).inputs)
    out, state = theirs(model.backbone.embedding.weight[torch.from_numpy(IDS)])
    torch.testing.assert_close(hidden.last, out, rtol=0, atol=1e-12)
    parts = state if cell == "lstm" else (state,)
    assert len(hidden.memory.layers) == len(parts) and hidden.memory.slots is None
    for mine, other in zip(hidden.memory.layers, parts, strict=True):
        torch.testing.assert_close(mine, other.transpose(0, 1), rtol=0, atol=1e-12)
    g = torch.randn_like(out)
    weights = [model.backbone.embedding.weight]
    for a, b in zip(
        torch.autograd.grad(hidden.last, weights, g), torch.autograd.grad(out, weights, g), strict=True
    ):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12)


@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn"])
def test_chunks_with_carried_state_equal_one_run(cell):
    backbone = build(cell).backbone
    whole = backbone(rows(IDS).inputs)
    first = backbone(rows(IDS[:, :4]).inputs)
    second = backbone(rows(IDS[:, 4:]).inputs, memory=first.memory)
    torch.testing.assert_close(torch.cat([first.last, second.last], 1), whole.last, rtol=0, atol=1e-12)
    fresh = backbone(rows(IDS[:, 4:]).inputs)
    assert not torch.allclose(fresh.last, second.last)
    zeroed = Memory(
        None, tuple(torch.zeros_like(t) for t in first.memory.layers)
    )  # how the trainer resets rows
    assert torch.equal(backbone(rows(IDS[:, 4:]).inputs, memory=zeroed).last, fresh.last)


def test_gradients_stop_where_the_state_is_detached():
    model = build()
    first = rows(IDS[:, :5], labels=True)
    memory = CausalLM().losses(model, first).memory
    detached = Memory(None, tuple(t.detach() for t in memory.layers))
    second = rows(np.where(IDS[:, 4:] < 5, IDS[:, 4:], 4), labels=True)
    import dataclasses

    loss = CausalLM().losses(model, dataclasses.replace(second, memory=detached)).heads["next_token"].total
    rows_of = model.backbone.embedding.weight
    (grad,) = torch.autograd.grad(loss, rows_of, retain_graph=True)
    assert bool(grad.any())
    assert all(not t.requires_grad for t in detached.layers) and memory.layers[0].requires_grad


def test_rows_with_two_documents_and_second_stacks_are_refused():
    backbone = build().backbone
    packed = collate(
        [Example(Slots.causal([1, 2])), Example(Slots.causal([3])), Example(Slots.causal([4, 5, 6]))]
    )
    with pytest.raises(ValueError, match="packed=False"):
        backbone(packed.inputs)
    with pytest.raises(ValueError, match="one stack"):
        backbone(rows(IDS).inputs, rows(IDS).inputs)
    assert not backbone.packs


def test_dropout_lies_between_the_layers_and_follows_the_seed():
    backbone = build(dropout=0.5).backbone
    outs = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        outs.append(backbone(rows(IDS).inputs).last)
    assert torch.equal(outs[0], outs[1]) and not torch.equal(outs[0], outs[2])
    backbone.eval()
    assert torch.equal(backbone(rows(IDS).inputs).last, backbone(rows(IDS).inputs).last)
