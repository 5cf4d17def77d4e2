"""The small parts: dropout, activations, positions, embeddings, initial weights, whole layers."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from plume.errors import UserError
from plume.models import activations
from plume.models.activations import activate, gated
from plume.models.dropout import add_dropped, dropout, gain, kept, random_bytes, threshold
from plume.models.embedding import Embedding
from plume.models.heads import PooledHead, TokenHead
from plume.models.norms import RMSNorm
from plume.models.positions import Absolute, Buckets, buckets, sinusoids
from plume.models.pretrained import PretrainedModel
from plume.models.recurrent import RecurrentConfig
from plume.models.transformer import TransformerConfig
from plume.objectives.masked import MaskedLM
from plume.slots import Example, Slots, collate
from plume.vocabulary import Vocabulary

VOCAB = Vocabulary(size=23, pad=0, cls=1, sep=2, mask=3)


# dropout


@given(st.floats(0, 1, exclude_max=True))
def test_a_rate_is_rounded_to_a_256th_and_rescaled_for_what_is_used(rate):
    t = threshold(rate)
    assert (t == 0) == (rate == 0) and t < 256
    assert abs(t / 256 - rate) <= 1 / 512 or t in (1, 255)
    assert gain(rate) * (1 - t / 256) == pytest.approx(1)


def test_bytes_are_uniform_and_neighbours_independent():
    random = random_bytes((8 * 40_000,))
    counts = torch.bincount(random.long(), minlength=256).double()
    assert ((counts - 1250).square() / 1250).sum() < 255 + 5 * math.sqrt(510)
    for lane in range(8):  # each byte of the 64-bit draws, the one with the sign too
        assert abs(random[lane::8].double().mean() - 127.5) < 5 * 74 / math.sqrt(40_000)
    pairs = torch.corrcoef(random.view(-1, 8).double().T) - torch.eye(8)
    assert pairs.abs().max() < 5 / math.sqrt(40_000)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_the_share_the_scale_and_the_gradient(dtype):
    x = torch.ones(300, 301, dtype=dtype, requires_grad=True)
    y = dropout(x, 0.1, True)
    share = (y == 0).double().mean().item()
    assert abs(share - 26 / 256) < 5 * math.sqrt(0.1 * 0.9 / 90_300)
    assert set(y.detach().unique().tolist()) == {0.0, torch.tensor(256 / 230, dtype=dtype).item()}
    y.sum().backward()
    assert torch.equal(x.grad, y.detach())
    assert dropout(x, 0.1, False) is x and dropout(x, 0.0, True) is x
    with pytest.raises(ValueError, match="rate"):
        dropout(x, 1.0, True)


@pytest.mark.parametrize("x_dtype", [torch.float32, torch.bfloat16])
def test_adding_in_one_pass_is_adding_what_was_dropped(x_dtype):
    residual = torch.randn(7, 9, requires_grad=True)
    x = torch.randn(7, 9).to(x_dtype).requires_grad_()
    torch.manual_seed(1)
    y = add_dropped(residual, x, 0.3, True)
    torch.manual_seed(1)
    keep = kept(random_bytes(x.shape), 0.3, torch.float32)
    torch.testing.assert_close(
        y, residual + x * keep * gain(0.3), rtol=1e-2 if x_dtype != torch.float32 else 1e-6, atol=1e-6
    )
    y.sum().backward()
    assert torch.equal(residual.grad, torch.ones(7, 9))
    torch.testing.assert_close(x.grad, (keep * gain(0.3)).to(x_dtype))


def test_a_step_is_a_function_of_the_seed_alone():
    """The same under activation checkpointing, whatever was drawn before."""
    config = TransformerConfig(2, 8, 2, 16, dropout=0.3, attention_dropout=0.3, embedding_dropout=0.2)
    objective = MaskedLM()
    model = PretrainedModel.build(config, VOCAB, lambda b: objective.heads(b, VOCAB), seed=1)
    labels = np.full(9, -100)
    labels[[2, 5]] = 4
    batch = collate([Example(Slots.bidirectional(np.arange(5, 14), labels={"masked_token": labels}))])

    def step(seed):
        torch.manual_seed(seed)
        loss = objective.losses(model, batch).heads["masked_token"].total
        loss.backward()
        grads = [p.grad.clone() for p in model.parameters()]
        model.zero_grad()
        return loss.detach(), grads

    plain, grads = step(5)
    torch.rand(17)
    again, _ = step(5)
    assert torch.equal(plain, again)
    assert not torch.equal(step(6)[0], plain)
    model.backbone.activation_checkpointing = True
    checked, recomputed = step(5)
    assert torch.equal(checked, plain)
    assert all(torch.equal(a, b) for a, b in zip(grads, recomputed, strict=True))


# activations


@pytest.mark.parametrize("name", ["gelu", "gelu_tanh", "relu"])
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-14), (torch.float32, 2e-6), (torch.bfloat16, 4e-2)]
)
def test_activations_equal_torchs(name, dtype, tolerance):
    reference = {"gelu": F.gelu, "relu": F.relu, "gelu_tanh": lambda x: F.gelu(x, approximate="tanh")}[name]
    x = torch.linspace(-12, 12, 2**11 + 3, dtype=torch.float64).to(dtype)
    g = torch.randn_like(x)
    values = []
    for function in (lambda t: activate(t * 1, name), reference):
        leaf = x.clone().requires_grad_()
        y = function(leaf)
        y.backward(g)
        values.append((y.detach(), leaf.grad))
    for ours, theirs in zip(*values, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance)
    extreme = torch.tensor([-1e4, 1e4], dtype=dtype, requires_grad=True)
    y = activate(extreme * 1, name)
    y.sum().backward()
    assert y.tolist() == [0.0, extreme[1].item()] and extreme.grad.tolist() == [0.0, 1.0]


@pytest.mark.parametrize("name", ["gelu", "gelu_tanh", "relu"])
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-14), (torch.float32, 4e-6), (torch.bfloat16, 4e-2)]
)
def test_a_gate_is_an_activation_times_the_other(name, dtype, tolerance, monkeypatch):
    monkeypatch.setattr(activations, "CHUNK", 100)  # many pieces, the last one shorter
    reference = {"gelu": F.gelu, "relu": F.relu, "gelu_tanh": lambda x: F.gelu(x, approximate="tanh")}[name]
    x = torch.linspace(-6, 6, 7 * 61, dtype=torch.float64).to(dtype).view(7, 61)
    up, g = torch.randn_like(x), torch.randn_like(x)
    values = []
    for function in (lambda a, b: gated(a * 1, b, name), lambda a, b: reference(a) * b):
        for grad in (g, g.T.contiguous().T):
            a, b = x.clone().requires_grad_(), up.clone().requires_grad_()
            y = function(a, b)
            y.backward(grad)
            values.append((y.detach(), a.grad, b.grad))
    for ours, theirs in zip(sum(values[:2], ()), sum(values[2:], ()), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance)
    with torch.no_grad():
        assert torch.equal(gated(x.clone(), up, name), reference(x) * up)


# positions


def test_sinusoids_are_the_papers():
    """Spec 05 section 3's golden."""
    table = sinusoids(2, 8)
    assert table[0].tolist() == [0, 1] * 4
    golden = torch.tensor(
        [0.841471, 0.540302, 0.099833, 0.995004, 0.01, 0.99995, 0.001, 1.0], dtype=torch.float64
    )
    torch.testing.assert_close(table[1], golden, rtol=0, atol=1e-6)
    assert torch.equal(
        sinusoids(9, 8, concat=True), torch.cat([sinusoids(9, 8)[:, ::2], sinusoids(9, 8)[:, 1::2]], 1)
    )
    with pytest.raises(ValueError, match="even"):
        sinusoids(2, 3)


def table(runs):
    return {d: number for number, (first, last) in enumerate(runs) for d in range(first, last + 1)}


def test_buckets_are_t5s_tables():
    """Spec 18 section 2.1, every distance up to 400 in both directions, and the goldens of spec 05."""
    wide = [(8, 11), (12, 15), (16, 22), (23, 31), (32, 45), (46, 63), (64, 90), (91, 400)]
    both = table([*((d, d) for d in range(8)), *wide])
    far = [16, 19, 21, 24, 27, 31, 35, 40, 46, 52, 59, 67, 77, 87, 99, 113, 401]
    back = table([*((d, d) for d in range(16)), *((a, b - 1) for a, b in itertools.pairwise(far))])
    distances = torch.arange(-400, 401)
    assert buckets(distances, causal=False).tolist() == [
        both[abs(d)] + 16 * (d > 0) for d in range(-400, 401)
    ]
    assert buckets(distances, causal=True).tolist() == [back[max(-d, 0)] for d in range(-400, 401)]
    golden = torch.tensor(
        [-200, -128, -64, -20, -16, -15, -11, -8, -7, -1, 0, 1, 7, 8, 12, 16, 23, 32, 64, 91, 128]
    )
    right = [15, 15, 14, 10, 10, 9, 8, 8, 7, 1, 0, 17, 23, 24, 25, 26, 27, 28, 30, 31, 31]
    assert buckets(golden, causal=False).tolist() == right


def test_root_mean_square_norm_keeps_the_mean_and_counts_in_fp32():
    norm = RMSNorm(4, 1e-6).double()
    torch.nn.init.constant_(norm.weight, 2.0)
    x = torch.tensor([[1.0, 2.0, 3.0, 4.0]], dtype=torch.float64)
    torch.testing.assert_close(norm(x), 2 * x / 7.5**0.5, rtol=1e-6, atol=0)
    assert norm(x).dtype == torch.float64 and norm.bfloat16()(x.bfloat16()).dtype == torch.bfloat16
    tiny = torch.full((1, 4), 1e-4, dtype=torch.float16)  # its square is 0 in fp16
    torch.testing.assert_close(
        norm.half()(tiny), torch.full((1, 4), 2 * 0.0995, dtype=torch.float16), rtol=1e-2, atol=0
    )


def test_the_parts_of_t5_have_its_initial_sizes():
    """Spec 18 section 2.2, each matrix within 5 standard errors."""
    config = TransformerConfig(
        1, 48, 2, 192, num_decoder_layers=1, positions="buckets", norm="rms", bias=False, d_head=12, gated=True,
        scale_attention=False, init="fan_in", init_std=1.0, tie_head=False,
    )  # fmt: skip
    model = PretrainedModel.build(config, VOCAB, lambda b: {"next_token": TokenHead(b)}, seed=4)
    assert not any("bias" in name for name in model.state())
    d, inner = 48, 24
    expected = {
        "backbone.embedding.weight": 1.0, "heads.next_token.table": 1.0, "backbone.positions.weight": d**-0.5,
        "backbone.stack.layers.0.attention_out.weight": inner**-0.5, "backbone.stack.layers.0.up.weight": d**-0.5,
        "backbone.stack.layers.0.gate.weight": d**-0.5, "backbone.stack.layers.0.down.weight": 192**-0.5,
        "backbone.decoder.layers.0.cross_q.weight": (d * 12) ** -0.5,
        "backbone.decoder.layers.0.cross_kv.weight": d**-0.5,
    }  # fmt: skip
    state = model.state()
    parts = [(state[name], std) for name, std in expected.items()]
    q, k, v = state["backbone.decoder.layers.0.qkv.weight"].chunk(3)
    parts += [(q, (d * 12) ** -0.5), (k, d**-0.5), (v, d**-0.5)]
    for drawn, std in parts:
        assert abs(drawn.std().item() / std - 1) < 5 / (2 * drawn.numel()) ** 0.5
    assert all(bool((t == 1).all()) for n, t in state.items() if t.ndim == 1)
    assert isinstance(model.backbone.decoder_positions, Buckets) and model.backbone.decoder_positions.causal
    assert not model.backbone.positions.causal


def test_fixed_positions_are_computed_again_and_never_stored():
    config = TransformerConfig(1, 8, 2, 8, positions="sinusoidal", max_positions=6)
    model = PretrainedModel.build(config, VOCAB, lambda b: {}, seed=0)
    assert not any("positions" in name for name in model.state())
    torch.testing.assert_close(model.backbone.positions.weight, sinusoids(6, 8).float())
    assert isinstance(model.backbone.positions, Absolute)
    with pytest.raises(ValueError, match="max_positions 6"):
        model.backbone(collate([Example(Slots.causal(np.arange(7)))]).inputs)


def test_an_offset_leaves_the_tables_first_rows_unread():
    """RoBERTa's and BART's published tables: position p is row p + 2, and what can be read is as long as ever."""
    plain = TransformerConfig(1, 8, 2, 8, max_positions=6)
    shifted = TransformerConfig(1, 8, 2, 8, max_positions=6, position_offset=2)
    one, two = (PretrainedModel.build(c, VOCAB, lambda b: {}, seed=0) for c in (plain, shifted))
    state = one.state()
    table = torch.cat([torch.full((2, 8), torch.nan), state["backbone.positions.weight"]])
    two.load_state(state | {"backbone.positions.weight": table})
    full = collate([Example(Slots.causal(np.arange(6)))]).inputs
    assert torch.equal(one.eval().backbone(full).last, two.eval().backbone(full).last)
    with pytest.raises(ValueError, match="max_positions 6"):
        two.backbone(collate([Example(Slots.causal(np.arange(7)))]).inputs)
    with pytest.raises(ValueError, match="position_offset"):
        TransformerConfig(1, 8, 2, 8, positions="sinusoidal", position_offset=2)


def test_each_stack_has_positions_and_norms_of_its_own():
    config = TransformerConfig(1, 8, 2, 8, num_decoder_layers=1, embedding_norm=True, max_positions=6)
    model = PretrainedModel.build(config, VOCAB, lambda b: {}, seed=0)
    batch = collate([Example(Slots.bidirectional([3, 4, 5]), Slots.causal([3, 4, 5]))])
    hidden = model.eval().backbone(batch.inputs, batch.decoder_inputs)
    encoder, decoder = model.backbone.embed(batch.inputs), hidden.layers[0]
    assert not torch.equal(encoder, decoder)
    with torch.no_grad():
        for part in ("positions", "embedding_norm"):
            getattr(model.backbone, f"decoder_{part}").load_state_dict(
                getattr(model.backbone, part).state_dict()
            )
    again = model.backbone(batch.inputs, batch.decoder_inputs)
    assert torch.equal(encoder, again.layers[0])


# embeddings


def test_virtual_ids_have_learned_rows_that_no_head_answers():
    table = Embedding(VOCAB, 4, virtual_tokens=2)
    for p in table.parameters():
        nn.init.normal_(p)
    rows = table(collate([Example(Slots.causal([22, 23, 24, 0]))]).inputs)
    assert torch.equal(
        rows[0], torch.stack([table.weight[22], table.virtual[0], table.virtual[1], table.weight[0]])
    )
    rows.sum().backward()
    assert table.virtual.grad.tolist() == [[1.0] * 4] * 2
    assert table.weight.grad.sum(1).nonzero().flatten().tolist() == [0, 22]


# layers and initial weights


@pytest.mark.parametrize("order", ["pre", "post"])
@pytest.mark.parametrize("act", ["gelu", "relu"])
def test_a_layer_is_torchs(order, act):
    config = TransformerConfig(1, 8, 2, 16, norm_order=order, activation=act, positions="sinusoidal")
    ours = PretrainedModel.build(config, VOCAB, lambda b: {}, seed=0).double().eval()
    theirs = nn.TransformerEncoderLayer(
        8, 2, 16, 0.0, act, batch_first=True, norm_first=order == "pre", dtype=torch.float64
    )
    layer = ours.backbone.stack.layers[0]
    pairs = {layer.qkv: theirs.self_attn, layer.attention_out: theirs.self_attn.out_proj, layer.up: theirs.linear1,
             layer.down: theirs.linear2, layer.attention_norm: theirs.norm1, layer.up_norm: theirs.norm2}  # fmt: skip
    for mine, other in pairs.items():
        for name in ("weight", "bias"):
            source = getattr(other, f"in_proj_{name}" if mine is layer.qkv else name)
            nn.init.normal_(source, std=0.5)
            getattr(mine, name).data.copy_(source)
    slots = collate([Example(Slots.causal(np.arange(1, 8)))]).inputs
    hidden = ours.backbone(slots)
    expected = theirs(hidden.layers[0], src_mask=torch.ones(7, 7).triu(1).bool())
    mine = hidden.last
    if order == "pre":
        expected = F.layer_norm(expected, (8,))
    torch.testing.assert_close(mine, expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("order", ["pre", "post"])
def test_a_layer_of_a_second_stack_is_torchs(order):
    config = TransformerConfig(1, 8, 2, 16, norm_order=order, activation="relu", num_decoder_layers=1)
    ours = PretrainedModel.build(config, VOCAB, lambda b: {}, seed=0).double().eval().backbone
    theirs = nn.TransformerDecoderLayer(
        8, 2, 16, 0.0, "relu", batch_first=True, norm_first=order == "pre", dtype=torch.float64
    )
    layer = ours.decoder.layers[0]
    pairs = {layer.qkv: theirs.self_attn, layer.attention_out: theirs.self_attn.out_proj, layer.up: theirs.linear1,
             layer.down: theirs.linear2, layer.cross_out: theirs.multihead_attn.out_proj,
             layer.attention_norm: theirs.norm1, layer.cross_norm: theirs.norm2,
             layer.up_norm: theirs.norm3}  # fmt: skip
    for mine, other in pairs.items():
        for name in ("weight", "bias"):
            source = getattr(other, f"in_proj_{name}" if mine is layer.qkv else name)
            nn.init.normal_(source, std=0.5)
            getattr(mine, name).data.copy_(source)
    for name in ("weight", "bias"):
        source = getattr(theirs.multihead_attn, f"in_proj_{name}")
        nn.init.normal_(source, std=0.5)
        getattr(layer.cross_q, name).data.copy_(source[:8])
        getattr(layer.cross_kv, name).data.copy_(source[8:])
    pairs_of = [(np.arange(1, 8), np.arange(3, 9)), (np.arange(1, 5), np.arange(3, 7))]
    batch = collate([Example(Slots.bidirectional(a), Slots.causal(b)) for a, b in pairs_of], packed=False)
    hidden = ours(batch.inputs, batch.decoder_inputs)
    expected = theirs(
        hidden.layers[0], hidden["encoder"], tgt_mask=torch.ones(6, 6).triu(1).bool(),
        memory_key_padding_mask=batch.inputs.document_ids < 0,
    )  # fmt: skip
    if order == "pre":
        expected = F.layer_norm(expected, (8,))
    real = batch.decoder_inputs.document_ids >= 0
    torch.testing.assert_close(hidden.last[real], expected[real], rtol=0, atol=1e-10)


def heads(backbone):
    return {"a": TokenHead(backbone, transform=True, bias=True), "b": PooledHead(backbone, 3)}


def test_initial_weights_depend_on_names_not_on_order():
    config = TransformerConfig(2, 8, 2, 16)
    one = PretrainedModel.build(config, VOCAB, heads, seed=7).state()
    torch.rand(3)
    two = PretrainedModel.build(config, VOCAB, lambda b: dict(reversed(heads(b).items())), seed=7).state()
    assert all(torch.equal(one[n], two[n]) for n in two) and one.keys() == two.keys()
    drawn = [t for t in one.values() if t.ndim > 1]  # no two alike, not even where names are of one length
    assert not any(torch.equal(a, b) for i, a in enumerate(drawn) for b in drawn[:i] if a.shape == b.shape)
    deeper = PretrainedModel.build(TransformerConfig(3, 8, 2, 16), VOCAB, heads, seed=7).state()
    assert torch.equal(one["backbone.stack.layers.1.up.weight"], deeper["backbone.stack.layers.1.up.weight"])
    other = PretrainedModel.build(config, VOCAB, heads, seed=8).state()
    assert not torch.equal(one["backbone.embedding.weight"], other["backbone.embedding.weight"])
    state = torch.get_rng_state()
    PretrainedModel.build(config, VOCAB, heads, seed=7)
    assert torch.equal(state, torch.get_rng_state())  # nothing drawn from the default generator


def test_a_state_that_does_not_fit_says_what_differs(tmp_path):
    model = PretrainedModel.build(TransformerConfig(1, 8, 2, 16), VOCAB, heads, seed=0)
    model.save(tmp_path / "model.safetensors")
    again = PretrainedModel.build(TransformerConfig(1, 8, 2, 16), VOCAB, heads, seed=1)
    again.load(tmp_path / "model.safetensors")
    assert all(torch.equal(t, again.state()[n]) for n, t in model.state().items())
    wider = PretrainedModel.build(TransformerConfig(1, 8, 2, 16), Vocabulary(size=24), heads, seed=1)
    with pytest.raises(UserError, match=r"model\.safetensors.*\[23, 8\] there and \[24, 8\] here"):
        wider.load(tmp_path / "model.safetensors")
    with pytest.raises(UserError, match="missing"):
        model.load_state({})
    with pytest.raises(UserError, match="not of this model"):
        model.load_state(model.state() | {"x": torch.zeros(1)})
    (tmp_path / "model.safetensors").write_bytes(b"\x08\0\0\0\0\0\0\0{}")
    with pytest.raises(UserError, match="safetensors"):
        model.load(tmp_path / "model.safetensors")
    with pytest.raises(UserError, match="not there"):
        model.load(tmp_path / "none.safetensors")


def test_the_tied_table_stays_one_tensor():
    model = PretrainedModel.build(TransformerConfig(1, 8, 2, 16), VOCAB, heads, seed=0)

    def tied():
        return model.heads["a"].weight is model.backbone.embedding.weight

    assert tied()
    model.load_state(model.state())
    assert tied()
    model.double().to("meta").to_empty(device="cpu")
    assert tied() and model.heads["a"].weight.dtype == torch.float64
    names = [n for n, _ in model.named_parameters(remove_duplicate=False)]
    assert names.count("backbone.embedding.weight") == 1 and not any(
        n.startswith("heads.a.table") for n in names
    )
    assert model.ties == {}
    model.heads["c"] = model.heads["b"]  # a module used twice is stored once, and both names load it
    assert model.ties["heads.c.out.bias"] == "heads.b.out.bias"
    given = {model.ties.get(n, n): t for n, t in model.state().items()}
    model.load_state({n.replace("heads.b", "heads.c"): t for n, t in given.items()})


@settings(deadline=None, max_examples=5)
@given(st.sampled_from(["lstm", "gru", "rnn"]))
def test_recurrent_initial_weights_are_bounded(cell):
    state = PretrainedModel.build(RecurrentConfig(2, 16, cell), VOCAB, lambda b: {}, seed=0).state()
    cells = torch.cat([t.flatten() for n, t in state.items() if "layers" in n])
    assert 0.2 < cells.abs().max() <= 0.25
