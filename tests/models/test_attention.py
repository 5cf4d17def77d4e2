"""Masks four ways: dense = SDPA = tiles = one token at a time with the cache; FlexAttention forward."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from plume.models import tiles
from plume.models.attention import attend, attend_across, attend_merged, look, seen
from plume.models.positions import Positions
from plume.models.pretrained import PretrainedModel
from plume.models.transformer import TransformerConfig
from plume.slots import Example, Memory, Slots, collate
from plume.vocabulary import Vocabulary

H, D = 2, 4
UNCOMPILED = "ignore:flex_attention called without torch.compile:UserWarning"
VOCAB = Vocabulary(size=20, pad=0)


def by_hand(q, k, v, mask):
    """The formula of spec 05, slot by slot: [R, H, T, d]."""
    out = torch.zeros_like(q)
    for r, h, i in np.ndindex(*q.shape[:3]):
        keys = mask[r, i].nonzero().flatten()
        if len(keys):
            out[r, h, i] = F.softmax(k[r, h, keys] @ q[r, h, i] / D**0.5, 0) @ v[r, h, keys]
    return out


@st.composite
def examples(draw):
    """Documents of every family: bidirectional, causal, prefix, XLNet's permuted slots (its first row is blind)."""
    made = []
    for _ in range(draw(st.integers(1, 4))):
        n = draw(st.integers(1, 9))
        ids = np.full(n, 1)
        kind = draw(st.sampled_from(["bidirectional", "causal", "prefix", "permuted"]))
        if kind == "bidirectional":
            slots = Slots.bidirectional(ids)
        elif kind == "causal":
            slots = Slots.causal(ids)
        elif kind == "prefix":
            slots = Slots.prefix(ids, draw(st.integers(0, n)))
        else:
            ranks = np.array(draw(st.permutations(range(n)))) // draw(st.integers(1, 3))
            slots = Slots.permuted(ids, ranks, np.arange(draw(st.integers(1, n))), 19)
        made.append(Example(slots))
    return made


def outcome(run, qkv, g, real):
    """Values and gradients at the slots that are not padding."""
    qkv = qkv.clone().requires_grad_()
    out = run(qkv)
    out[real].backward(g[real])
    return out.detach()[real], qkv.grad[real]


@settings(max_examples=60, deadline=None)
@given(examples(), st.booleans(), st.booleans(), st.integers(0, 2**31))
def test_kernels_agree_forward_and_backward_on_any_ranks(made, packed, laid_out, seed):
    slots = collate(made, packed=packed).inputs
    real = slots.document_ids >= 0
    if not laid_out:
        slots = dataclasses.replace(slots, layout=None)
    generator = torch.Generator().manual_seed(seed)
    shape = slots.input_ids.shape
    qkv = torch.randn(*shape, 3, H, D, dtype=torch.float64, generator=generator)
    g = torch.randn(*shape, H, D, dtype=torch.float64, generator=generator)

    def through(kernel):
        sight = look(slots, slots, num_heads=H, merged=True, kernel=kernel)
        return lambda x: attend_merged(x, sight, scale=D**-0.5)

    mask = seen(slots, slots)
    assert torch.equal(mask, slots.sees())
    expected = outcome(
        lambda x: by_hand(*x.permute(2, 0, 3, 1, 4).unbind(0), mask).transpose(1, 2), qkv, g, real
    )
    for kernel in ("plain", "sdpa", "tiles"):
        for mine, right in zip(outcome(through(kernel), qkv, g, real), expected, strict=True):
            torch.testing.assert_close(mine, right, rtol=0, atol=1e-10, msg=lambda m, k=kernel: f"{k}: {m}")


@settings(max_examples=20, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 9), st.integers(1, 5)), min_size=1, max_size=5), st.booleans())
def test_another_stack_is_seen_alike_by_all_kernels(sizes, packed):
    """Keys and values in one tensor, whose gradient is one too: the tiles' own way through cross-attention."""
    made = [Example(Slots.bidirectional(np.full(n, 1)), Slots.causal(np.full(m, 1))) for n, m in sizes]
    batch = collate(made, packed=packed)
    keys, queries = batch.inputs, batch.decoder_inputs
    q = torch.randn(*queries.input_ids.shape, H, D, dtype=torch.float64).transpose(1, 2)
    kv = torch.randn(*keys.input_ids.shape, 2, H, D, dtype=torch.float64)
    g = torch.randn_like(q) * (queries.document_ids >= 0)[:, None, :, None]
    found = []
    for kernel in ("tiles", "plain", "sdpa"):
        sight = look(queries, keys, num_heads=H, cross=True, kernel=kernel)
        a, b = q.clone().requires_grad_(), kv.clone().requires_grad_()
        out = attend_across(a, b.permute(0, 3, 2, 1, 4), sight, scale=0.5)
        found.append((out * (g != 0), *torch.autograd.grad(out, (a, b), g)))
    expected = by_hand(
        q * 0.5 * D**0.5, *kv.permute(2, 0, 3, 1, 4).unbind(0), seen(queries, keys, cross=True)
    )
    torch.testing.assert_close(found[0][0], expected * (g != 0), rtol=0, atol=1e-10)
    for others in found[1:]:
        for mine, right in zip(found[0], others, strict=True):
            torch.testing.assert_close(mine, right, rtol=0, atol=1e-10)


@pytest.mark.filterwarnings(UNCOMPILED)
@settings(max_examples=3, deadline=None)
@given(examples())
def test_flex_attention_agrees_forward(made):
    slots = collate(made).inputs
    qkv = torch.randn(*slots.input_ids.shape, 3, H, 16)  # it takes no fp64 and no heads under 16
    q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
    flex = attend(q, k, v, look(slots, slots, num_heads=H, kernel="flex"), scale=0.25)
    plain = attend(q, k, v, look(slots, slots, num_heads=H, kernel="plain"), scale=0.25)
    torch.testing.assert_close(flex, plain, rtol=0, atol=2e-5)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("made", [Slots.causal, Slots.bidirectional])
def test_long_rows_are_cut_into_blocks_and_documents(monkeypatch, packed, made):
    """At full constants this needs long rows; smaller ones cut the same code into many tiles."""
    monkeypatch.setattr(tiles, "QUERIES", 5)
    monkeypatch.setattr(tiles, "RUN", 8)
    monkeypatch.setattr(tiles, "SCORES", 600)
    lengths = (40, 3, 11, 5, 2, 2, 17, 4) if packed else (40,) * 4
    slots = collate([Example(made(np.full(n, 1))) for n in lengths], packed=packed).inputs
    tiling = tiles.cut(slots, H)
    assert len(tiling.tiles) > 6
    scores = sum((t.rows.stop - t.rows.start) * (t.queries.stop - t.queries.start) * (t.keys.stop - t.keys.start)
                 for t in tiling.tiles)  # fmt: skip
    assert scores < 0.8 * slots.input_ids.numel() * 40 or (made is Slots.bidirectional and not packed)
    qkv = torch.randn(*slots.input_ids.shape, 3, H, D, dtype=torch.float64)
    g = torch.randn(*slots.input_ids.shape, H, D, dtype=torch.float64)
    real = slots.document_ids >= 0
    results = []
    for kernel in ("plain", "tiles"):
        sight = look(slots, slots, num_heads=H, merged=True, kernel=kernel)
        results.append(outcome(lambda x, s=sight: attend_merged(x, s, scale=0.5), qkv, g, real))
    for plain, tiled in zip(*results, strict=True):
        torch.testing.assert_close(tiled, plain, rtol=0, atol=1e-10)


@pytest.mark.filterwarnings(UNCOMPILED)
@pytest.mark.parametrize("kernel", ["plain", "sdpa", "tiles", "flex"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_row_that_sees_nothing_gives_0_and_never_nan(kernel, dtype):
    order = np.array([2, 0, 1])
    slots = collate([Example(Slots.permuted(np.full(3, 1), order.argsort(), order, 19))]).inputs
    blind = 3  # the query slot of the first in order
    assert not bool(slots.sees()[0, blind].any())
    qkv = torch.randn(1, 6, 3, H, 16, dtype=dtype, requires_grad=kernel != "flex")
    sight = look(slots, slots, num_heads=H, merged=True, kernel=kernel)
    out = attend_merged(qkv, sight, scale=0.25)
    assert not bool(out[0, blind].any()) and bool(out.isfinite().all())
    if kernel != "flex":
        out.float().square().sum().backward()
        assert bool(qkv.grad.isfinite().all()) and not bool(qkv.grad[0, blind].any())


def test_attention_equals_torchs():
    """Spec 05 test 1, with a causal and with a padding mask, gradients too."""
    layer = torch.nn.MultiheadAttention(8, H, batch_first=True, dtype=torch.float64)
    for n in (layer.in_proj_bias, layer.out_proj.bias):
        torch.nn.init.normal_(n)
    for made, mask, padding in (
        (Slots.causal, torch.ones(5, 5).triu(1).bool(), None),
        (Slots.bidirectional, None, torch.tensor([[False] * 5, [False] * 3 + [True] * 2])),
    ):
        lengths = (5, 5) if padding is None else (5, 3)
        slots = collate([Example(made(np.full(n, 1))) for n in lengths], packed=False).inputs
        x = torch.randn(2, 5, 8, dtype=torch.float64, requires_grad=True)
        theirs, _ = layer(x, x, x, attn_mask=mask, key_padding_mask=padding, need_weights=False)
        qkv = F.linear(x, layer.in_proj_weight, layer.in_proj_bias).view(2, 5, 3, H, 4)
        mixed = attend_merged(qkv, look(slots, slots, num_heads=H, merged=True), scale=0.5)
        ours = layer.out_proj(mixed.flatten(2))
        real = slots.document_ids >= 0
        torch.testing.assert_close(ours[real], theirs[real], rtol=0, atol=1e-10)
        g = torch.randn(int(real.sum()), 8, dtype=torch.float64)
        (a,) = torch.autograd.grad(ours[real], x, g, retain_graph=True)
        (b,) = torch.autograd.grad(theirs[real], x, g)
        torch.testing.assert_close(a, b, rtol=0, atol=1e-10)


def test_dropped_weights_are_rescaled_and_their_gradient_is_that_of_what_was_drawn():
    slots = collate([Example(Slots.causal(np.full(6, 1)))]).inputs
    qkv = torch.randn(1, 6, 3, H, D, dtype=torch.float64, requires_grad=True)
    sight = look(slots, slots, num_heads=H, merged=True)

    def run(x):
        torch.manual_seed(3)
        return attend_merged(x, sight, scale=0.5, rate=0.3)

    assert not torch.equal(run(qkv), attend_merged(qkv, sight, scale=0.5))
    assert torch.autograd.gradcheck(run, qkv, atol=1e-7)
    with torch.no_grad():
        mean = sum(attend_merged(qkv, sight, scale=0.5, rate=0.3) for _ in range(3000)) / 3000
    torch.testing.assert_close(mean, attend_merged(qkv, sight, scale=0.5), rtol=0, atol=0.15)


def model(**settings):
    config = TransformerConfig(2, 8, H, 16, max_positions=32, **settings)
    built = PretrainedModel.build(config, VOCAB, lambda b: {}, seed=3).double().eval()
    for p in built.parameters():
        torch.nn.init.normal_(p, std=0.5)
    return built.backbone


def part(slots, start, stop):
    ints = (
        "input_ids",
        "position_ids",
        "token_type_ids",
        "visible_at",
        "sees_until",
        "document_ids",
        "example_ids",
    )
    return dataclasses.replace(slots, layout=None, **{n: getattr(slots, n)[:, start:stop] for n in ints})


@settings(max_examples=15, deadline=None)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=3), st.sampled_from(["pre", "post"]), st.data())
def test_piece_by_piece_with_the_cache_equals_all_at_once(lengths, order, data):
    """Rows of several lengths, padded on either side, read in pieces of any size."""
    backbone = model(norm_order=order)
    rng = np.random.default_rng(sum(lengths))
    slots = collate([Example(Slots.causal(rng.integers(1, 20, n))) for n in lengths], packed=False).inputs
    if data.draw(st.booleans(), label="padding on the left"):
        ints = {
            n: torch.stack([
                torch.cat([row[real:], row[:real]])
                for row, real in zip(getattr(slots, n), lengths, strict=True)
            ])
            for n in ("input_ids", "position_ids", "visible_at", "sees_until", "document_ids")
        }  # fmt: skip
        slots = dataclasses.replace(slots, layout=None, **ints)
    whole = backbone(slots).last
    memory, states, at = None, [], 0
    while at < len(slots):
        step = data.draw(st.integers(1, len(slots) - at), label="step")
        with torch.no_grad():
            hidden = backbone(part(slots, at, at + step), memory=memory, use_memory=True)
        states.append(hidden.last)
        memory, at = hidden.memory, at + step
    real = slots.document_ids >= 0
    torch.testing.assert_close(torch.cat(states, 1)[real], whole[real], rtol=0, atol=1e-10)


def test_a_holder_of_an_older_memory_never_notices():
    backbone = model()
    ids = np.random.default_rng(0).integers(1, 20, (2, 12))
    slots = collate([Example(Slots.causal(row)) for row in ids]).inputs
    with torch.no_grad():
        old = backbone(part(slots, 0, 5), use_memory=True).memory
        before = [layer.clone() for layer in old.layers]
        first = backbone(part(slots, 5, 9), memory=old, use_memory=True)
        assert first.memory.layers[0].data_ptr() == old.layers[0].data_ptr()  # appended, not copied
        other = dataclasses.replace(part(slots, 5, 9), input_ids=part(slots, 0, 4).input_ids)
        second = backbone(other, memory=old, use_memory=True)  # a second continuation of the same past
        again = backbone(part(slots, 9, 12), memory=first.memory, use_memory=True)
        selected = Memory(part(old.slots, 0, 5), tuple(layer[[1, 0]] for layer in old.layers))
        swapped = backbone(part(slots, 5, 9), memory=selected)
    assert all(torch.equal(a, b) for a, b in zip(before, old.layers, strict=True))
    assert len(old.slots) == 5 and len(again.memory.slots) == 12
    whole = backbone(slots).last
    torch.testing.assert_close(torch.cat([first.last, again.last], 1), whole[:, 5:], rtol=0, atol=1e-10)
    assert not torch.allclose(second.last, first.last) and not torch.allclose(swapped.last, first.last)


def test_memory_in_training_carries_gradients():
    backbone = model()
    slots = collate([Example(Slots.causal(np.arange(1, 9)))]).inputs
    whole = backbone(slots).last[:, 4:].square().sum()
    first = backbone(part(slots, 0, 4), use_memory=True)
    second = backbone(part(slots, 4, 8), memory=first.memory).last.square().sum()
    names = [n for n, _ in backbone.named_parameters()]
    for name, a, b in zip(
        names, *(torch.autograd.grad(x, list(backbone.parameters())) for x in (whole, second)), strict=True
    ):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-9, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("packed", [False, True])
def test_two_stacks_see_only_their_own_pair_and_decode_with_a_cache(packed):
    backbone = model(num_decoder_layers=2, positions="sinusoidal")
    rng = np.random.default_rng(1)
    pairs = [(rng.integers(1, 20, a), rng.integers(1, 20, b)) for a, b in ((6, 5), (2, 3), (3, 2))]
    batch = collate([Example(Slots.bidirectional(a), Slots.causal(b)) for a, b in pairs], packed=packed)
    hidden = backbone(batch.inputs, batch.decoder_inputs)
    for number, (a, b) in enumerate(pairs):
        alone = collate([Example(Slots.bidirectional(a), Slots.causal(b))])
        expected = backbone(alone.inputs, alone.decoder_inputs)
        at = batch.decoder_inputs.example_ids == number
        torch.testing.assert_close(hidden.last[at], expected.last[0], rtol=0, atol=1e-10)
        at = batch.inputs.example_ids == number
        torch.testing.assert_close(hidden["encoder"][at], expected.encoder[0], rtol=0, atol=1e-10)
        memory, states = None, []
        for t in range(len(b)):
            with torch.no_grad():
                step = backbone(
                    alone.inputs, part(alone.decoder_inputs, t, t + 1), memory=memory, use_memory=True
                )
            states.append(step.last)
            memory = step.memory
        torch.testing.assert_close(torch.cat(states, 1), expected.last, rtol=0, atol=1e-10)
    with pytest.raises(ValueError, match="two stacks"):
        backbone(batch.inputs)


class Rotating(Positions):
    """Stands for what later families bring: turns queries and keys by position, and biases the scores."""

    def prepare(self, queries, keys):
        def turn(x, slots):
            angle = slots.position_ids[:, None, :, None].double() * 0.3
            a, b = x.chunk(2, -1)
            return torch.cat([a * angle.cos() - b * angle.sin(), a * angle.sin() + b * angle.cos()], -1)

        def relate(q, k, layer):
            distance = queries.position_ids[:, None, :, None] - keys.position_ids[:, None, None, :]
            return turn(q, queries), turn(k, keys), -0.1 * distance.abs().double()

        return relate


def test_a_kind_of_positions_may_turn_queries_and_keys_and_bias_the_scores(monkeypatch):
    """Rotation depends on differences of positions only; so does the bias: shifted documents look the same."""
    backbone = model(positions="sinusoidal")
    backbone.positions.__class__ = Rotating
    monkeypatch.setattr(Rotating, "embed", lambda self, ids: torch.zeros(*ids.shape, 8, dtype=torch.float64))
    ids = np.random.default_rng(2).integers(1, 20, 7)
    here = collate([Example(Slots.causal(ids))]).inputs
    there = dataclasses.replace(here, position_ids=here.position_ids + 11)
    plain = backbone(here).last
    torch.testing.assert_close(backbone(there).last, plain, rtol=0, atol=1e-10)
    spread = dataclasses.replace(here, position_ids=here.position_ids * 2)
    assert not torch.allclose(backbone(spread).last, plain)
    with torch.no_grad():
        first = backbone(part(here, 0, 4), use_memory=True)
        second = backbone(part(here, 4, 7), memory=first.memory)
    torch.testing.assert_close(torch.cat([first.last, second.last], 1), plain, rtol=0, atol=1e-10)


@pytest.mark.parametrize("order", ["pre", "post"])
@pytest.mark.parametrize("layers", [0, 2])
def test_the_last_layer_may_answer_for_wanted_slots_alone(order, layers):
    backbone = model(norm_order=order, num_decoder_layers=layers, positions="sinusoidal")
    rng = np.random.default_rng(4)
    pairs = [(rng.integers(1, 20, a), rng.integers(1, 20, b)) for a, b in ((6, 7), (2, 3), (3, 2))]
    if layers:
        batch = collate([Example(Slots.bidirectional(a), Slots.causal(b)) for a, b in pairs])
    else:
        batch = collate([Example(Slots.bidirectional(b)) for _, b in pairs])
    wanted = torch.tensor([12, 1, 5])
    results = []
    for only in (None, wanted):
        hidden = backbone(batch.inputs, batch.decoder_inputs, wanted=only)
        states = hidden.last.flatten(0, 1)
        if only is not None:
            assert not states[[0, 2, 3, 4]].any() and torch.equal(hidden.layers[-1], hidden.last)
        loss = (states[wanted] ** 2 * torch.arange(8)).sum()
        grads = torch.autograd.grad(loss, list(backbone.parameters()))
        results.append((states[wanted], *grads))
    for mine, full in zip(*results, strict=True):
        torch.testing.assert_close(mine, full, rtol=0, atol=1e-9)
    many = backbone(batch.inputs, batch.decoder_inputs, wanted=torch.arange(8))  # not worth it: all are there
    torch.testing.assert_close(many.last, backbone(batch.inputs, batch.decoder_inputs).last, rtol=0, atol=0)


T5 = {"positions": "buckets", "norm": "rms", "bias": False, "gated": True, "scale_attention": False, "d_head": 3,
          "num_buckets": 8, "max_distance": 9}  # fmt: skip


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("layers", [0, 2])
def test_relative_positions_four_ways(monkeypatch, packed, layers):
    """Dense by hand = SDPA = tiles = one at a time with the cache; forward and backward, packed and padded."""
    backbone = model(num_decoder_layers=layers, **T5)
    rng = np.random.default_rng(7)
    pairs = [(rng.integers(1, 20, a), rng.integers(1, 20, b)) for a, b in ((16, 15), (2, 3), (5, 2), (9, 1))]
    made = [
        Example(Slots.bidirectional(a), Slots.causal(b)) if layers else Example(Slots.causal(b))
        for a, b in pairs
    ]
    batch = collate(made, packed=packed)
    asked = batch.decoder_inputs or batch.inputs
    real = asked.document_ids >= 0
    weights = torch.randn(int(real.sum()), 8, dtype=torch.float64)

    def run():
        last = backbone(batch.inputs, batch.decoder_inputs).last[real]
        return last.detach(), torch.autograd.grad((last * weights).sum(), list(backbone.parameters()))

    def dense(q, k, v, sight, *, scale, bias=None, rate=0.0):
        scores = q @ k.transpose(-1, -2) * scale
        scores = scores if bias is None else scores + bias
        mask = sight.mask if sight.mask is not None else torch.ones(scores.shape[-2:], dtype=torch.bool)
        if sight.causal:
            mask = mask.tril()
        return (scores - 1e9 * ~mask).softmax(-1) @ v

    def sdpa(q, k, v, sight, *, scale, bias=None, rate=0.0):
        mask = (
            sight.mask if sight.mask is not None else torch.ones(q.shape[-2], k.shape[-2], dtype=torch.bool)
        )
        if sight.causal:
            mask = mask.tril()
        extra = torch.zeros(()).masked_fill(~mask, -1e9).double()
        return F.scaled_dot_product_attention(q, k, v, extra + (0 if bias is None else bias), scale=scale)

    states, grads = run()
    names = [n for n, _ in backbone.named_parameters()]
    for kernel in (dense, sdpa):
        with monkeypatch.context() as patch:
            patch.setattr("plume.models.attention._choose", lambda *_: "plain")  # so that there is a mask
            patch.setattr("plume.models.attention.attend", kernel)
            patch.setattr("plume.models.transformer.attend", kernel)
            theirs, their_grads = run()
        torch.testing.assert_close(states, theirs, rtol=0, atol=1e-10)
        for name, a, b in zip(names, grads, their_grads, strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=1e-9, msg=lambda m, n=name: f"{n}: {m}")
    assert all(g.any() for n, g in zip(names, grads, strict=True) if "positions" in n)

    for number, example in enumerate(made):
        alone = collate([example])
        slots = alone.decoder_inputs or alone.inputs
        memory, steps = None, []
        for t in range(len(slots)):
            new = part(slots, t, t + 1)
            with torch.no_grad():
                if layers:
                    step = backbone(alone.inputs, new, memory=memory, use_memory=True)
                else:
                    step = backbone(new, memory=memory, use_memory=True)
            steps.append(step.last[0])
            memory = step.memory
        at = asked.example_ids[real] == number
        torch.testing.assert_close(torch.cat(steps), states[at], rtol=0, atol=1e-10)
