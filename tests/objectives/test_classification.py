"""Fine-tuning as GPT-1 did it: its input transformations, and lambda times the language model (spec 13)."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from plume.models.pretrained import PretrainedModel
from plume.models.transformer import TransformerConfig
from plume.objectives.causal import CausalLM
from plume.objectives.classification import Classification, Labelled
from plume.objectives.masked import MaskedLM
from plume.seeding import rng
from plume.slots import IGNORE, collate
from plume.vocabulary import Vocabulary

VOCAB = Vocabulary(size=40, pad=0, cls=1, sep=2, bos=3, eos=4, mask=5)
READER = CausalLM(delimited=True)
A, B = np.array([10, 11, 12]), np.array([20, 21])


def build(objective, seed=0, **changes):
    config = TransformerConfig(2, 16, 2, 32, norm_order="post", max_positions=32, dropout=0.0,
                               attention_dropout=0.0, **changes)  # fmt: skip
    made = PretrainedModel.build(config, VOCAB, lambda b: objective.heads(b, VOCAB), seed=seed).double()
    return made.eval()


def batch(objective, sources):
    drawn = [objective.example(s, VOCAB, rng(0, "x", i)) for i, s in enumerate(sources)]
    return collate(drawn)


def test_the_input_transformations():
    """Spec 13 section 5: S text E; S premise D hypothesis E; both orders of a pair."""
    one = Classification(READER, ("a", "b"))
    slots = one.example(Labelled((A,), 1), VOCAB, rng(0, "x")).inputs
    assert slots.input_ids.tolist() == [3, 10, 11, 12, 1]
    assert slots.labels["label"].tolist() == [IGNORE] * 4 + [1]
    pair = one.example(Labelled((A, B), 0), VOCAB, rng(0, "x")).inputs
    assert pair.input_ids.tolist() == [3, 10, 11, 12, 2, 20, 21, 1]
    both = Classification(READER, ("a", "b"), symmetric=True)
    slots = both.example(Labelled((A, B), 1), VOCAB, rng(0, "x")).inputs
    assert slots.input_ids.tolist() == [3, 10, 11, 12, 2, 20, 21, 1, 3, 20, 21, 2, 10, 11, 12, 1]
    assert np.flatnonzero(slots.labels["label"] == 1).tolist() == [7, 15]
    assert slots.position_ids.tolist() == [*range(8), *range(8)]
    assert not slots.sees()[8:, :8].any()
    short = Classification(READER, ("a", "b"), max_length=7)
    assert len(short.example(Labelled((A, B), 1), VOCAB, rng(0, "x")).inputs) == 7


def test_swapping_the_two_texts_changes_nothing():
    objective = Classification(READER, ("a", "b", "c"), symmetric=True, dropout=0.0)
    model = build(objective)
    found = []
    for pair in ((A, B), (B, A)):
        b = batch(objective, [Labelled((B, A), 0), Labelled(pair, 2), Labelled((A,), 1)])
        hidden = model.backbone(b.inputs)
        from plume.objectives.base import ask

        logits, example = model.heads["label"].answers(ask(b, "label", hidden["last"]))
        assert example.tolist() == [0, 1, 2]
        found.append(logits[1])
        last = hidden.last.flatten(0, 1)[b.asked["label"]]
        states = last[(b.inputs.example_ids.flatten()[b.asked["label"]] == 1)]
        torch.testing.assert_close(logits[1], model.heads["label"].logits(states.sum(0)), rtol=0, atol=1e-12)
    torch.testing.assert_close(*found, rtol=0, atol=1e-12)
    counts = objective.counts(b, dict(model.heads.items()))
    assert float(counts["label"]) == 3 == float(objective.losses(model, b).heads["label"].count)


def test_the_loss_is_the_tasks_plus_lambda_times_the_language_models():
    """L3 = L2 + lambda L1, where L1 is the mean over texts of each text's mean (spec 13, test 10)."""
    sources = [Labelled((A,), 0), Labelled((A, B), 1), Labelled((B,), 0)]
    alone = Classification(READER, ("a", "b"), dropout=0.0)
    joint = dataclasses.replace(alone, lm_weight=0.5)
    model, plain = build(joint), build(alone)
    assert set(plain.heads) == {"label"}  # at 0 there is no such head, so nothing is computed for it
    b = batch(joint, sources)
    losses = joint.losses(model, b).heads
    means = {name: loss.total / loss.count for name, loss in losses.items()}
    assert joint.weights() == {"next_token": 0.5}
    assert float(losses["next_token"].count) == 3

    each = []
    for source in sources:
        slots = joint.example(source, VOCAB, rng(0, "x")).inputs
        hidden = model.backbone(collate([joint.example(source, VOCAB, rng(0, "x"))]).inputs).last[0]
        logits = hidden @ model.backbone.embedding.weight.T
        ids = torch.from_numpy(slots.input_ids)
        each.append(F.cross_entropy(logits[:-1], ids[1:]))
    torch.testing.assert_close(means["next_token"], torch.stack(each).mean(), rtol=0, atol=1e-12)
    task = plain.state() and alone.losses(plain, batch(alone, sources)).heads["label"]
    torch.testing.assert_close(means["label"], task.total / task.count, rtol=0, atol=1e-12)
    total = sum(joint.weights().get(name, 1.0) * mean for name, mean in means.items())
    torch.testing.assert_close(total - means["label"], 0.5 * means["next_token"], rtol=0, atol=1e-12)
    with pytest.raises(ValueError, match="asks nothing of a text"):
        dataclasses.replace(joint, reader=MaskedLM()).example(sources[0], VOCAB, rng(0, "x"))


@pytest.mark.parametrize("pool", ["mean", "max"])
def test_all_slots_of_a_text_may_answer_together(pool):
    objective = Classification(READER, ("a", "b", "c"), pool=pool, dropout=0.0, mix=True)
    model = build(objective)
    sources = [Labelled((A,), 0), Labelled((B,), 2), Labelled((A, B), 1)]
    b = batch(objective, sources)
    loss = objective.losses(model, b).heads["label"]
    assert float(loss.count) == 3 == float(objective.counts(b, dict(model.heads.items()))["label"])
    head, total = model.heads["label"], 0.0
    for i, source in enumerate(sources):
        one = batch(objective, [source])
        layers = torch.stack(model.backbone(one.inputs).layers).mean(0)[0]  # weights alike, gamma 1
        state = layers.mean(0) if pool == "mean" else layers.amax(0)
        answer = head.out(torch.tanh(head.dense(state)))
        total += F.cross_entropy(answer, torch.tensor(source.label))
        del i
    torch.testing.assert_close(loss.total, total, rtol=0, atol=1e-12)
    loss.total.backward()
    assert abs(float(head.mix.weight.grad.sum())) < 1e-12  # a softmax's gradient sums to 0


def test_what_contradicts_itself_is_refused():
    with pytest.raises(ValueError, match="symmetric"):
        Classification(READER, ("a", "b"), symmetric=True, pool="max")
    with pytest.raises(ValueError, match="lm_weight"):
        Classification(READER, ("a", "b"), lm_weight=-1.0)
    with pytest.raises(ValueError, match="bos"):
        READER.read([A], Vocabulary(size=40, eos=1))
