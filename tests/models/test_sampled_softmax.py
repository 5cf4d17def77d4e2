"""The sampled softmax: what is drawn, what it estimates, and what its gradient touches (spec 04 section 5, test 8)."""

from __future__ import annotations

import math

import pytest
import torch

from plume.models.heads import Asked
from plume.models.sampled_softmax import SampledSoftmax, draw, zipf

V, D, N = 200, 6, 40


def asked(seed=0):
    g = torch.Generator().manual_seed(seed)
    hidden = torch.randn(N, D, generator=g, dtype=torch.float64)
    labels = torch.randint(0, V, (N,), generator=g)
    none = torch.zeros(N, dtype=torch.long)
    return Asked(hidden, labels, none, none, {})


def head(samples, seed=1):
    made = SampledSoftmax(D, V, samples=samples).double()
    g = torch.Generator().manual_seed(seed)
    for p in made.parameters():
        p.data.copy_(torch.randn(p.shape, generator=g, dtype=torch.float64) * 0.3)
    return made


def test_single_draws_follow_zipfs_law():
    assert float(zipf(torch.arange(V), V).sum()) == pytest.approx(1, abs=1e-12)
    torch.manual_seed(0)
    drawn = (torch.rand(1_000_000, dtype=torch.float64) * math.log(V + 1)).exp().long().clamp(1, V) - 1
    share = drawn.bincount(minlength=V) / len(drawn)
    expected = zipf(torch.arange(V), V)
    assert float((share - expected).abs().max()) < 4 * math.sqrt(float(expected[0]) / len(drawn))


def test_words_are_different_and_each_stands_in_as_often_as_expected():
    torch.manual_seed(0)
    seen, expected = torch.zeros(V, dtype=torch.float64), torch.zeros(V, dtype=torch.float64)
    for _ in range(2_000):
        sample = draw(V, 20)
        assert len(sample.ids.unique()) == 20 <= sample.tries
        seen[sample.ids] += 1
        expected += sample.log_expected(torch.arange(V), V).exp()
    assert float(expected.sum() / 2_000) == pytest.approx(20, rel=0.05)
    often = expected > 300
    assert float((seen / expected - 1)[often].abs().max()) < 0.25
    assert float(seen[often].sum() / expected[often].sum()) == pytest.approx(1, abs=0.03)


def test_the_sum_over_all_words_is_estimated_without_bias():
    """E[ sum over sampled of e^logit / expected ] is the whole sum: what the corrected softmax rests on."""
    made, question = head(30), asked()
    logits = made.logits(question.hidden).detach()
    whole = logits.exp().sum(1)
    torch.manual_seed(3)
    estimates = []
    for _ in range(3_000):
        sample = draw(V, 30)
        estimates.append((logits[:, sample.ids] - sample.log_expected(sample.ids, V)).exp().sum(1))
    found = torch.stack(estimates)
    error = found.std(0) / math.sqrt(len(found))
    assert float(((found.mean(0) - whole) / whole).abs().mean()) < 0.03
    assert float((found.mean(0) - whole).abs().max()) < 6 * float(error.max()) + 0.03 * float(whole.max())
    plain = torch.stack([logits[:, draw(V, 30).ids].exp().sum(1) for _ in range(50)]).mean(0)
    assert (
        float((plain / whole).max()) < 0.5
    )  # the negative control: without the correction it is far too small


def test_with_almost_all_words_it_is_the_whole_softmax():
    question = asked()
    whole = head(None).loss(question).total.item()
    torch.manual_seed(0)
    near = head(V - 1).train().loss(question).total.item()
    assert near == pytest.approx(whole, rel=0.05)
    assert head(30).eval().loss(question).total.item() == pytest.approx(
        whole, abs=1e-9
    )  # held-out text: always


def test_the_gradient_touches_sampled_words_and_labels_alone():
    made, question = head(10).train(), asked()
    torch.manual_seed(5)
    ids = draw(V, 10).ids
    torch.manual_seed(5)
    made.loss(question).total.backward()
    touched = made.table.weight.grad.abs().sum(1).nonzero().flatten().tolist()
    assert set(touched) == set(ids.tolist()) | set(question.labels.tolist())


def test_a_sampled_word_that_is_the_label_is_left_out():
    made, question = head(10).train(), asked()
    sample = draw(V, 10)
    labels = sample.ids[:1].expand(N)
    loss = made._sampled(question.hidden, labels, sample)
    without = sample._replace(ids=sample.ids[1:])
    torch.testing.assert_close(loss, made._sampled(question.hidden, labels, without), rtol=0, atol=1e-10)
