"""GPT-3's locally banded layers against the dense mask: forward, backward, packed, and with the cache (spec 15)."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from plume.models import tiles
from plume.models.attention import attend, attend_merged, look, seen
from plume.models.pretrained import PretrainedModel
from plume.models.transformer import TransformerConfig
from plume.slots import Example, Slots, collate
from plume.vocabulary import Vocabulary

H, D = 2, 4
VOCAB = Vocabulary(size=20, pad=0)
BAND = 3


def rows(lengths=(9, 4, 7), made=Slots.causal, packed=True):
    rng = np.random.default_rng(sum(lengths))
    return collate([Example(made(rng.integers(1, 20, n))) for n in lengths], packed=packed).inputs


def model(**changes):
    config = TransformerConfig(4, 8, H, 16, max_positions=64, **changes)
    built = PretrainedModel.build(config, VOCAB, lambda b: {}, seed=3).double().eval()
    for p in built.parameters():
        torch.nn.init.normal_(p, std=0.5)
    return built.backbone


def test_a_slot_sees_as_many_as_the_band_is_wide():
    """Spec 15, test 9: row i of a causal text has exactly min(i + 1, w) visible keys."""
    slots = rows((12,))
    mask = seen(slots, slots, band=5)[0]
    assert mask.sum(1).tolist() == [min(i + 1, 5) for i in range(12)]
    for i, j in mask.nonzero().tolist():
        assert 0 <= i - j < 5
    both = seen(rows((12,), Slots.bidirectional), rows((12,), Slots.bidirectional), band=2)[0]
    assert both.sum(1).tolist() == [2, *[3] * 10, 2]


@pytest.mark.parametrize("kernel", ["plain", "sdpa", "tiles"])
@pytest.mark.parametrize("made", [Slots.causal, Slots.bidirectional])
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("small", [False, True], ids=["one tile", "many tiles"])
def test_kernels_equal_the_dense_mask(monkeypatch, kernel, made, packed, small):
    if small:
        monkeypatch.setattr(tiles, "QUERIES", 4)
        monkeypatch.setattr(tiles, "RUN", 6)
        monkeypatch.setattr(tiles, "SCORES", 200)
    slots = rows((31, 3, 9, 17, 5), made, packed)
    shape = (*slots.input_ids.shape, 3, H, D)
    qkv = torch.randn(*shape, dtype=torch.float64, requires_grad=True)
    mask = seen(slots, slots)[:, None] & (
        (slots.position_ids[:, None, :, None] - slots.position_ids[:, None, None, :]).abs() < BAND
    )
    q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
    dense = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=0.5).transpose(1, 2)
    sight = look(slots, slots, num_heads=H, merged=True, band=BAND, kernel=kernel)
    ours = attend_merged(qkv, sight, scale=0.5)
    real = slots.document_ids >= 0
    torch.testing.assert_close(ours[real], dense[real], rtol=0, atol=1e-12)
    g = torch.randn_like(dense) * real[..., None, None]
    (expected,) = torch.autograd.grad(dense, qkv, g)
    (found,) = torch.autograd.grad(ours, qkv, g)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile:UserWarning")
def test_flex_attention_has_the_band():
    slots = rows((40, 12))
    q, k, v = torch.randn(3, len(slots.input_ids), H, len(slots), 16).unbind(0)
    both = [
        attend(q, k, v, look(slots, slots, num_heads=H, band=BAND, kernel=kernel), scale=0.25)
        for kernel in ("flex", "plain")
    ]
    torch.testing.assert_close(*both, rtol=0, atol=2e-5)


def test_tiles_leave_out_what_no_query_sees():
    slots = rows((1024,), packed=False)
    dense, banded = (
        sum(
            (t.queries.stop - t.queries.start) * (t.keys.stop - t.keys.start)
            for t in tiles.cut(slots, H, band).tiles
        )
        for band in (None, 64)
    )
    assert banded < 0.4 * dense
    apart = dataclasses.replace(slots, position_ids=slots.position_ids.flip(1))  # slots are no measure then
    assert sum(t.keys.stop - t.keys.start for t in tiles.cut(apart, H, 64).tiles) >= 1024


def test_alternating_layers_are_the_layers_with_alternating_masks(record_property):
    """The network with bands, and the dense network run layer by layer with each layer's own mask."""
    bands = (None, BAND, None, BAND)
    banded, dense = model(bands=bands), model()
    dense.load_state_dict(banded.state_dict())
    slots = rows((13, 6), packed=False)
    x = dense.embed(slots)
    for layer, band in zip(dense.stack.layers, bands, strict=True):
        mask = seen(slots, slots, band=band)[:, None]
        y = layer.qkv(layer.attention_norm(x)).view(*x.shape[:2], 3, H, -1).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(y[0], y[1], y[2], attn_mask=mask, scale=layer.scale)
        x = x + layer.attention_out(y.transpose(1, 2).flatten(2))
        x = x + layer.down(F.gelu(layer.up(layer.up_norm(x))))
    real = slots.document_ids >= 0
    expected, found = dense.stack.norm(x)[real], banded(slots).last[real]
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)
    record_property("precision", "fp64")
    record_property("hidden", (found - expected).abs().max().item())
    assert not torch.allclose(found, dense(slots).last[real])  # the bands do something
    g = torch.randn_like(found)
    theirs = torch.autograd.grad(expected, list(dense.stack.parameters()), g)
    ours = torch.autograd.grad(found, list(banded.stack.parameters()), g)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-9)
        record_property("gradients", (a - b).abs().max().item())


def test_a_band_as_wide_as_the_text_is_dense():
    slots = rows((9, 4))
    wide, dense = model(bands=(9,) * 4), model()
    dense.load_state_dict(wide.state_dict())
    real = slots.document_ids >= 0
    torch.testing.assert_close(wide(slots).last[real], dense(slots).last[real], rtol=0, atol=1e-12)


@pytest.mark.parametrize("step", [1, 4])
def test_with_the_cache_as_without(step):
    backbone = model(bands=(None, BAND, 2, 1))
    slots = rows((11, 11), packed=False)
    whole = backbone(slots).last
    names = ("input_ids", "position_ids", "token_type_ids", "visible_at", "sees_until", "document_ids",
             "example_ids")  # fmt: skip
    memory, states = None, []
    for at in range(0, 11, step):
        piece = dataclasses.replace(
            slots, layout=None, **{n: getattr(slots, n)[:, at : at + step] for n in names}
        )
        hidden = backbone(piece, memory=memory, use_memory=True)
        memory = hidden.memory
        states.append(hidden.last)
    torch.testing.assert_close(torch.cat(states, 1), whole, rtol=0, atol=1e-10)


@pytest.mark.parametrize(("bands", "match"), [((None, 2), "one entry a layer"), ((0,) * 4, "at least 1")])
def test_bands_that_do_not_fit_are_refused(bands, match):
    with pytest.raises(ValueError, match=match):
        TransformerConfig(4, 8, H, 16, bands=bands)
