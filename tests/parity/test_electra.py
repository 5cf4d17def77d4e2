"""ELECTRA against ``transformers``: both networks, the joint loss and its gradients, and folders both ways."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import (
    AutoModelForMaskedLM,
    AutoModelForPreTraining,
    AutoModelForSequenceClassification,
    ElectraConfig,
    ElectraForMaskedLM,
    ElectraForPreTraining,
    ElectraForSequenceClassification,
    ElectraModel,
)

from plume.errors import UserError
from plume.models import interop
from plume.models.interop import electra
from plume.models.interop.folder import to_theirs
from plume.models.pretrained import PretrainedModel
from plume.models.transformer import TransformerConfig
from plume.objectives.replaced import ReplacedTokens
from plume.seeding import rng
from plume.slots import IGNORE, collate
from plume.text.window import Window
from plume.vocabulary import Vocabulary

VOCAB = Vocabulary(size=61, pad=0, cls=1, sep=2, mask=3)
SIZES = {"hidden_size": 32, "embedding_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4,
         "intermediate_size": 48, "vocab_size": 61, "max_position_embeddings": 24, "hidden_dropout_prob": 0.0,
         "attention_probs_dropout_prob": 0.0}  # fmt: skip
PRECISIONS = [(torch.float64, 1e-9), (torch.float32, 2e-5)]


def reference(kind=ElectraForPreTraining, **settings):
    torch.manual_seed(5)
    model = kind(ElectraConfig(**SIZES | settings))
    for name, p in model.named_parameters():  # biases and gains too, or a mix-up of them would not show
        torch.nn.init.normal_(p, 1.0 if "LayerNorm.weight" in name else 0.0, 0.2)
    return model.eval()


def window(length, seed):
    ids = np.concatenate([[1], rng(seed, "text").integers(4, 61, length - 2), [2]])
    special = np.zeros(length, bool)
    special[[0, -1]] = True
    return Window(ids, np.ones(length, np.uint8), special, (np.arange(length) > length // 2).astype(np.int64))


def examples(objective, lengths=(9, 4, 6, 3)):
    return [objective.example(window(n, i), VOCAB, rng(i, "noise")) for i, n in enumerate(lengths)]


def theirs_in(inputs):
    return {"input_ids": inputs.input_ids, "token_type_ids": inputs.token_type_ids,
            "attention_mask": (inputs.document_ids >= 0).long()}  # fmt: skip


def close(a, b, tolerance):
    torch.testing.assert_close(a, b, rtol=0, atol=tolerance)
    return float((a - b).detach().abs().max())


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("width", [24, 32])
@pytest.mark.parametrize(("dtype", "tolerance"), PRECISIONS)
def test_the_joint_loss_and_its_gradients(tmp_path: Path, record_property, dtype, tolerance, width, packed):
    """Their two models with tables tied by hand, fed by our samples, against our one objective."""
    disc = reference(embedding_size=width)
    gen = reference(ElectraForMaskedLM, embedding_size=width, hidden_size=16, num_attention_heads=1,
                    intermediate_size=64)  # fmt: skip
    gen.electra.embeddings = disc.electra.embeddings
    gen.generator_lm_head.weight = disc.electra.embeddings.word_embeddings.weight
    disc.save_pretrained(tmp_path / "disc")
    gen.save_pretrained(tmp_path / "gen")
    kept, wrote = interop.load(tmp_path / "disc"), interop.load(tmp_path / "gen")

    objective = ReplacedTokens(noise_density=0.4, generator_share=0.5)
    ours = PretrainedModel.build(kept.config, VOCAB, lambda b: objective.heads(b, VOCAB), seed=0)
    parts = objective.parts(ours)
    parts["discriminator"].load_state(kept.state)
    parts["generator"].load_state(wrote.state)
    ours, disc, gen = ours.eval().to(dtype), disc.to(dtype), gen.to(dtype)

    made = examples(objective)
    padded, batch = collate(made, packed=False), collate(made, packed=packed)
    assert (len(batch.inputs.input_ids) < 4) == packed
    generator = ours.heads["masked_token"]
    hidden = generator.network(padded.inputs)
    theirs = gen(**theirs_in(padded.inputs), output_hidden_states=True)
    real = padded.inputs.document_ids >= 0
    for state, other in zip(hidden.layers, theirs.hidden_states, strict=True):
        record_property("hidden", close(state[real], other[real], tolerance))
    record_property("logits", close(generator.logits(hidden.last)[real], theirs.logits[real], tolerance))

    at = padded.asked["masked_token"]
    corrupted = objective.corrupt(generator, padded, hidden.last.flatten(0, 1)[at]).inputs
    states = ours.backbone(corrupted)
    judged = disc(**theirs_in(corrupted), output_hidden_states=True)
    for state, other in zip(states.layers, judged.hidden_states, strict=True):
        record_property("hidden", close(state[real], other[real], tolerance))
    logits = ours.heads["replaced"].logits(states.last)
    record_property("logits", close(logits[real], judged.logits[real], tolerance))

    asked = padded.inputs.labels["masked_token"] != IGNORE
    expected = torch.nn.functional.cross_entropy(
        theirs.logits[asked], padded.inputs.labels["masked_token"][asked]
    )
    said = corrupted.labels["replaced"]
    assert 0 < said[real].sum() < real.sum()
    expected = expected + 50 * torch.nn.functional.binary_cross_entropy_with_logits(
        judged.logits[real], said[real].to(dtype)
    )
    losses, weights = objective.losses(ours, batch).heads, objective.weights()
    total = sum(weights.get(n, 1.0) * loss.total / loss.count for n, loss in losses.items())
    record_property("loss", close(total, expected, tolerance))
    total.backward()
    expected.backward()
    compared = 0
    for part, model in (("discriminator", disc), ("generator", gen)):
        grads = {name: p.grad for name, p in parts[part].named_parameters()}
        mine = to_theirs(electra.rules(2), grads)
        for name, p in model.named_parameters():
            name = name.removeprefix("electra.")
            record_property("gradients", close(mine[name], p.grad, tolerance))
            compared += 1
        assert len(mine) == len(dict(model.named_parameters()))
    assert compared > 60


@pytest.mark.parametrize("width", [24, 32])
@pytest.mark.parametrize(
    "kind", [ElectraForPreTraining, ElectraForMaskedLM, ElectraForSequenceClassification]
)
def test_both_directions_are_bit_exact(tmp_path: Path, kind, width):
    theirs = reference(
        kind, embedding_size=width, **({"num_labels": 3} if "Sequence" in kind.__name__ else {})
    )
    theirs.save_pretrained(tmp_path / "a")
    read = interop.load(tmp_path / "a")
    assert read.family == "electra" and len(read.heads) == 1
    interop.save(read.model(VOCAB), VOCAB, tmp_path / "b", labels=read.labels)
    again, info = kind.from_pretrained(tmp_path / "b", output_loading_info=True)
    assert not any(info.values())
    state = again.state_dict()
    assert all(torch.equal(state[n], t) for n, t in theirs.state_dict().items())
    mine, config = (json.loads((tmp_path / f / "config.json").read_text()) for f in "ba")
    for name in mine.keys() & config.keys() - {"pad_token_id"}:
        assert mine[name] == config[name], name


def test_a_bare_electra_starts_a_model_and_comes_back(tmp_path: Path):
    theirs = reference(ElectraModel)
    theirs.save_pretrained(tmp_path / "a")
    read = interop.load(tmp_path / "a")
    assert read.heads == ()
    objective = ReplacedTokens()
    model = PretrainedModel.build(read.config, VOCAB, lambda b: objective.heads(b, VOCAB), seed=1)
    left = model.start_from(read.state)
    assert left and all(name.startswith("heads.") for name in left)
    interop.save(read.model(VOCAB), VOCAB, tmp_path / "b")
    again = ElectraModel.from_pretrained(tmp_path / "b").state_dict()
    assert all(torch.equal(again[n], t) for n, t in theirs.state_dict().items())


@pytest.mark.parametrize(("dtype", "tolerance"), PRECISIONS)
def test_a_classifier_gives_their_logits(tmp_path: Path, record_property, dtype, tolerance):
    theirs = reference(ElectraForSequenceClassification, id2label={0: "坏", 1: "plain", 2: "好"}).to(dtype)
    theirs.save_pretrained(tmp_path)
    read = interop.load(tmp_path)
    assert read.labels == ("坏", "plain", "好") and read.heads == ("label",)
    inputs = collate(examples(ReplacedTokens()), packed=False).inputs
    ours = read.model(VOCAB).to(dtype)
    logits = ours.heads["label"].logits(ours.backbone(inputs).last[:, 0])
    record_property("logits", close(logits, theirs(**theirs_in(inputs)).logits, tolerance))
    interop.save(ours, VOCAB, tmp_path / "out", labels=read.labels)
    assert AutoModelForSequenceClassification.from_pretrained(tmp_path / "out").config.id2label[2] == "好"


def test_both_parts_of_a_trained_model_open_in_transformers(tmp_path: Path):
    config = TransformerConfig(2, 32, 2, 64, "post", token_types=2, embedding_norm=True, norm_eps=1e-12)
    objective = ReplacedTokens(generator_share=0.5)
    model = PretrainedModel.build(config, VOCAB, lambda b: objective.heads(b, VOCAB), seed=4).eval()
    inputs = collate(examples(objective), packed=False).inputs
    real = inputs.document_ids >= 0
    for (name, part), opener in zip(objective.parts(model).items(), (AutoModelForPreTraining, AutoModelForMaskedLM),
                                    strict=True):  # fmt: skip
        interop.save(part, VOCAB, tmp_path / name)
        theirs = opener.from_pretrained(tmp_path / name).eval()
        assert theirs.config.model_type == "electra"
        [head] = part.heads.values()
        ours = head.logits(part.backbone(inputs).last)
        torch.testing.assert_close(ours[real], theirs(**theirs_in(inputs)).logits[real], rtol=0, atol=2e-5)
    assert (
        "electra.embeddings_project.weight" in theirs.state_dict()
    )  # the generator's alone: E == H of the other


def test_what_electra_cannot_hold_is_refused_in_one_sentence(tmp_path: Path):
    objective = ReplacedTokens()
    config = TransformerConfig(1, 8, 2, 8, "post", embedding_norm=True)
    model = PretrainedModel.build(config, VOCAB, lambda b: objective.heads(b, VOCAB), seed=0)
    with pytest.raises(UserError, match="no ELECTRA class has the heads"):
        interop.save(model, VOCAB, tmp_path)
    shifted = PretrainedModel.build(
        replace(config, position_offset=2), VOCAB, lambda b: objective.heads(b, VOCAB), seed=0
    )
    with pytest.raises(UserError, match="offset"):
        interop.save(objective.parts(shifted)["discriminator"], VOCAB, tmp_path)
    reference().save_pretrained(tmp_path)
    tree = json.loads((tmp_path / "config.json").read_text())
    for bad, match in (({"hidden_act": "silu"}, "silu"), ({"embedding_size": "x"}, "embedding_size"),
                       ({"num_hidden_layers": 3}, "layer.2")):  # fmt: skip
        (tmp_path / "config.json").write_text(json.dumps(tree | bad))
        with pytest.raises(UserError, match=match):
            interop.load(tmp_path)
