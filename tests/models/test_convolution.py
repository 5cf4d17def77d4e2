"""The convolutional backbone: torch's convolution where all is seen, ranks, documents, and a cache."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from plume.models.convolution import ConvolutionConfig
from plume.models.pretrained import PretrainedModel
from plume.slots import Example, Slots, collate
from plume.vocabulary import Vocabulary

VOCAB = Vocabulary(size=20, pad=0)


def build(before=2, after=0, layers=3):
    config = ConvolutionConfig(layers, 6, before=before, after=after)
    made = PretrainedModel.build(config, VOCAB, lambda b: {}, seed=1).double().eval()
    for p in made.parameters():
        torch.nn.init.normal_(p, std=0.5)
    return made.backbone


def rows(lengths, made=Slots.causal, packed=False):
    draw = np.random.default_rng(sum(lengths))
    return collate([Example(made(draw.integers(1, 20, n))) for n in lengths], packed=packed).inputs


@pytest.mark.parametrize(("before", "after", "made"), [(2, 0, Slots.causal), (1, 2, Slots.bidirectional)])
def test_a_layer_is_torchs_convolution_forward_and_backward(before, after, made, record_property):
    backbone, slots = build(before, after, layers=1), rows((9,), made)
    layer, x = backbone.layers[0], backbone.embedding(slots)
    width, d = before + 1 + after, 6
    kernel = layer.window.weight.view(2 * d, d, width)
    read = F.pad(F.layer_norm(x, (d,), layer.norm.weight, layer.norm.bias), (0, 0, before, after))
    said = F.conv1d(read.transpose(1, 2), kernel, layer.window.bias).transpose(1, 2)
    expected = backbone.norm(x + said[..., :d] * said[..., d:].sigmoid())
    found = backbone(slots).last
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    record_property("precision", "fp64")
    record_property("hidden", (found - expected).abs().max().item())
    g, parameters = torch.randn_like(found), list(backbone.parameters())
    for a, b in zip(
        torch.autograd.grad(found, parameters, g), torch.autograd.grad(expected, parameters, g), strict=True
    ):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12)
        record_property("gradients", (a - b).abs().max().item())


def test_a_causal_text_stays_causal_even_where_the_window_looks_ahead():
    backbone, slots = build(2, 2), rows((12,))
    before = backbone(slots).last
    ids = slots.input_ids.clone()
    ids[0, 6] = ids[0, 6] % 18 + 1
    after = backbone(dataclasses.replace(slots, input_ids=ids)).last
    assert torch.equal(before[:, :6], after[:, :6])
    changed = (before != after).any(-1)[0].nonzero().flatten().tolist()
    assert changed == list(range(6, 12))  # 3 layers of 2 slots reach so far
    both = rows((12,), Slots.bidirectional)
    assert not torch.allclose(backbone(both).last[:, :6], before[:, :6])


@pytest.mark.parametrize("packed", [False, True])
def test_documents_of_a_row_do_not_mix(packed):
    backbone = build(2, 2)
    lengths = (7, 3, 5)
    slots = rows(lengths, Slots.bidirectional, packed)
    states = backbone(slots).last
    draw = np.random.default_rng(sum(lengths))
    for number, n in enumerate(lengths):
        alone = collate([Example(Slots.bidirectional(draw.integers(1, 20, n)))]).inputs
        torch.testing.assert_close(
            states[slots.example_ids == number], backbone(alone).last[0], rtol=0, atol=1e-12
        )


@pytest.mark.parametrize("step", [1, 3])
def test_with_the_cache_as_without(step):
    backbone, slots = build(), rows((11, 11))
    whole, memory, states = backbone(slots).last, None, []
    names = ("input_ids", "position_ids", "token_type_ids", "visible_at", "sees_until", "document_ids",
             "example_ids")  # fmt: skip
    for at in range(0, 11, step):
        cut = {n: getattr(slots, n)[:, at : at + step] for n in names}
        hidden = backbone(dataclasses.replace(slots, layout=None, **cut), memory=memory, use_memory=True)
        memory = hidden.memory
        states.append(hidden.last)
    torch.testing.assert_close(torch.cat(states, 1), whole, rtol=0, atol=1e-12)


def test_what_it_cannot_do_is_refused():
    with pytest.raises(ValueError, match="one stack"):
        build()(rows((3,)), rows((3,)))
    with pytest.raises(ValueError, match="before=0"):
        ConvolutionConfig(1, 4, before=0, after=0)
