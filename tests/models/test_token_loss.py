"""The chunked loss against the plain one: value and every gradient."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from plume.models import token_loss as module
from plume.models.heads import Asked, PooledHead, TokenHead
from plume.models.pretrained import PretrainedModel
from plume.models.token_loss import token_loss
from plume.models.transformer import TransformerConfig
from plume.slots import Loss
from plume.vocabulary import Vocabulary


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 9), st.integers(1, 7), st.booleans(), st.floats(0.1, 200), st.integers(0, 2**31))
def test_chunks_change_nothing(n, v, biased, spread, seed):
    generator = torch.Generator().manual_seed(seed)
    draw = lambda *shape: torch.randn(*shape, dtype=torch.float64, generator=generator)  # noqa: E731
    h, w, b = draw(n, 3) * spread, draw(v, 3), draw(v) if biased else None
    labels = torch.randint(v, (n,), generator=generator)
    g = draw(())

    def outcome(function):
        leaves = [t.clone().requires_grad_() for t in (h, w, b) if t is not None]
        loss = function(leaves[0], leaves[1], leaves[2] if biased else None, labels)
        return loss, *torch.autograd.grad(loss, leaves, g)

    expected = outcome(lambda h, w, b, y: F.cross_entropy(F.linear(h, w, b), y, reduction="sum"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "LOGITS", 1)  # 64 slots a chunk at least, which is more than there are
        patch.setattr(module, "CACHED", 2 * v)
        chunked = outcome(token_loss)
    for ours, plain in zip(chunked, expected, strict=True):
        torch.testing.assert_close(ours, plain, rtol=1e-10, atol=1e-10)


def test_several_chunks_of_logits_and_a_confident_wrong_guess(monkeypatch):
    monkeypatch.setattr(module, "LOGITS", 64 * 50)
    h, w = torch.randn(150, 8, dtype=torch.float64) * 40, torch.randn(50, 8, dtype=torch.float64)
    labels = torch.randint(50, (150,))
    results = []
    for function in (token_loss, lambda h, w, b, y: F.cross_entropy(h @ w.T, y, reduction="sum")):
        a, c = h.clone().requires_grad_(), w.clone().requires_grad_()
        loss = function(a, c, None, labels)
        assert loss > 1e4  # far beyond where exp underflows
        results.append((loss, *torch.autograd.grad(loss / 3, (a, c))))
    for ours, plain in zip(*results, strict=True):
        torch.testing.assert_close(ours, plain, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("way", [module._at_once, module._in_blocks])
def test_both_ways_through_the_softmax_agree(way, monkeypatch):
    monkeypatch.setattr(module, "CACHED", 18)
    logits, label = torch.randn(7, 9, dtype=torch.float64) * 30, torch.randint(9, (7, 1))
    loss, weights = way(logits.clone(), label, torch.float64)
    expected = F.cross_entropy(logits, label[:, 0], reduction="sum")
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=0)
    torch.testing.assert_close(weights, logits.softmax(1), rtol=1e-12, atol=1e-300)


def test_frozen_parts_get_no_gradient_and_two_backward_passes_agree():
    h, w = torch.randn(5, 4), torch.randn(7, 4, requires_grad=True)
    labels = torch.tensor([0, 1, 6, 3, 3])
    loss = token_loss(h, w, None, labels)
    (first,) = torch.autograd.grad(loss * 2, w, retain_graph=True)
    (second,) = torch.autograd.grad(loss, w)
    torch.testing.assert_close(first, second * 2)
    with torch.no_grad():
        torch.testing.assert_close(token_loss(h, w, None, labels), loss.detach())


def test_bf16_matmuls_under_autocast_stay_close_and_give_fp32():
    h = torch.randn(40, 16).bfloat16().requires_grad_()
    w, b = torch.randn(30, 16, requires_grad=True), torch.randn(30, requires_grad=True)
    labels = torch.randint(30, (40,))
    with torch.autocast("cpu", torch.bfloat16):
        loss = token_loss(h, w, b, labels)
    grads = torch.autograd.grad(loss, (h, w, b))
    assert loss.dtype == torch.float32
    assert [g.dtype for g in grads] == [torch.bfloat16, torch.float32, torch.float32]
    exact = F.cross_entropy(F.linear(h.float(), w, b), labels, reduction="sum")
    torch.testing.assert_close(loss, exact, rtol=1e-2, atol=0)
    for ours, plain in zip(grads, torch.autograd.grad(exact, (h, w, b)), strict=True):
        assert (ours.float() - plain.float()).norm() < 0.02 * plain.float().norm()


VOCAB = Vocabulary(size=31, pad=0)


@pytest.mark.parametrize("kind", ["token", "transform", "pooled"])
def test_a_heads_loss_is_the_cross_entropy_of_its_logits(kind):
    config = TransformerConfig(1, 8, 2, 8, virtual_tokens=2)
    makers = {
        "token": TokenHead,
        "transform": lambda b: TokenHead(b, transform=True, bias=True),
        "pooled": lambda b: PooledHead(b, 31, dropout=0.5),
    }
    model = PretrainedModel.build(config, VOCAB, lambda b: {"x": makers[kind](b)}, seed=0).double().eval()
    head = model.heads["x"]
    hidden = torch.randn(6, 8, dtype=torch.float64, requires_grad=True)
    labels = torch.from_numpy(np.random.default_rng(0).integers(0, 31, 6))
    asked = Asked(hidden, labels, labels, labels, {})
    loss = head.loss(asked)
    assert isinstance(loss, Loss) and loss.count.item() == 6
    expected = F.cross_entropy(head.logits(hidden), labels, reduction="sum")
    torch.testing.assert_close(loss.total, expected, rtol=1e-12, atol=0)
    leaves = [
        hidden,
        *(p for n, p in model.named_parameters() if n.startswith("heads.") or n.endswith("embedding.weight")),
    ]
    ours, plain = (torch.autograd.grad(x, leaves, materialize_grads=True) for x in (loss.total, expected))
    for a, b in zip(ours, plain, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


def test_a_head_that_is_asked_nothing_answers_0_and_gives_gradients_of_0():
    config = TransformerConfig(1, 8, 2, 8)
    model = PretrainedModel.build(config, VOCAB, lambda b: {"x": TokenHead(b)}, seed=0)
    empty = torch.zeros(0, dtype=torch.long)
    loss = model.heads["x"].loss(Asked(torch.zeros(0, 8, requires_grad=True), empty, empty, empty, {}))
    loss.total.backward()
    assert loss.total.item() == 0 and loss.count.item() == 0
    assert not model.backbone.embedding.weight.grad.any()


@pytest.mark.parametrize("mode", ["uniform", "others"])
def test_smoothed_labels_are_soft_targets(mode, monkeypatch):
    """Spec 05 section 4.1, both definitions, against explicit soft targets; each slot's gradient sums to 0."""
    eps, v = 0.1, 11
    draw = lambda *shape: torch.randn(*shape, dtype=torch.float64) * 3  # noqa: E731
    h, w, b, labels = draw(70, 4), draw(v, 4), draw(v), torch.randint(v, (70,))
    spread = eps / v if mode == "uniform" else eps / (v - 1)
    wanted = torch.full((70, v), spread, dtype=torch.float64)
    wanted[torch.arange(70), labels] = 1 - eps + (spread if mode == "uniform" else 0)
    torch.testing.assert_close(wanted.sum(1), torch.ones(70, dtype=torch.float64))
    monkeypatch.setattr(module, "LOGITS", 1)
    monkeypatch.setattr(module, "CACHED", 2 * v)
    outcomes = []
    for function in (
        lambda h, w, b: token_loss(h, w, b, labels, spread=spread),
        lambda h, w, b: F.cross_entropy(F.linear(h, w, b), wanted, reduction="sum"),
    ):
        leaves = [t.clone().requires_grad_() for t in (h, w, b)]
        loss = function(*leaves)
        outcomes.append((loss, *torch.autograd.grad(loss, leaves)))
    for ours, plain in zip(*outcomes, strict=True):
        torch.testing.assert_close(ours, plain, rtol=1e-10, atol=1e-10)
    assert outcomes[0][3].sum().abs() < 1e-10
    if mode == "uniform":
        torchs = F.cross_entropy(F.linear(h, w, b), labels, reduction="sum", label_smoothing=eps)
        torch.testing.assert_close(outcomes[0][0], torchs, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("spread", [0.0, 0.01])
def test_both_ways_through_the_softmax_smooth_alike(spread):
    logits, label = torch.randn(9, 6, dtype=torch.float64), torch.randint(6, (9, 1))
    one = module._at_once(logits, label, torch.float64, spread)
    two = module._in_blocks(logits.clone(), label, torch.float64, spread)
    for a, b in zip(one, two, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


def test_held_out_text_is_told_in_plain_nats():
    model = PretrainedModel.build(
        TransformerConfig(1, 8, 2, 8), Vocabulary(size=9), lambda b: {"t": TokenHead(b, spread=0.02)}, seed=0
    )
    asked = Asked(torch.randn(5, 8), torch.arange(5), torch.zeros(5), torch.zeros(5), {})
    head = model.heads["t"]
    plain = F.cross_entropy(head.logits(asked.hidden), asked.labels, reduction="sum")
    assert abs(head.eval().loss(asked).total - plain) < 1e-4
    assert abs(head.train().loss(asked).total - plain) > 1e-3
