"""ERNIE against ``transformers``: with and without task embeddings, both activations, and folders both ways."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import (
    AutoModelForMaskedLM,
    ErnieConfig,
    ErnieForMaskedLM,
    ErnieForPreTraining,
    ErnieForSequenceClassification,
)

from plume.models import interop
from plume.models.interop import ernie
from plume.models.interop.folder import to_theirs
from plume.models.pretrained import PretrainedModel
from plume.objectives.masked import MaskedLM
from plume.recipes.ernie import tiny
from plume.slots import collate
from tests.parity.test_bert import SIZES, VOCAB, examples, theirs_in

PRECISIONS = [(torch.float64, 1e-9), (torch.float32, 2e-5)]


def reference(kind=ErnieForPreTraining, **settings):
    torch.manual_seed(5)
    model = kind(ErnieConfig(**SIZES | {"hidden_act": "relu", "layer_norm_eps": 1e-5} | settings))
    for name, p in model.named_parameters():  # biases and gains too, or a mix-up of them would not show
        torch.nn.init.normal_(p, 1.0 if "LayerNorm.weight" in name else 0.0, 0.2)
    return model.eval()


def close(a, b, tolerance):
    torch.testing.assert_close(a, b, rtol=0, atol=tolerance)
    return float((a - b).detach().abs().max())


@pytest.mark.parametrize("tasks", [False, True])
@pytest.mark.parametrize("act", ["relu", "gelu"])
@pytest.mark.parametrize(("dtype", "tolerance"), PRECISIONS)
def test_states_logits_losses_and_gradients(tmp_path: Path, record_property, dtype, tolerance, act, tasks):
    theirs = reference(hidden_act=act, use_task_id=tasks)
    theirs.save_pretrained(tmp_path)
    ours, theirs = interop.load(tmp_path).model(VOCAB).to(dtype), theirs.to(dtype)
    made = examples()
    padded, packed = collate(made, packed=False), collate(made)
    expected = theirs(**theirs_in(padded))
    hidden = ours.backbone(padded.inputs)
    real = padded.inputs.document_ids >= 0
    for state, other in zip(hidden.layers, expected.hidden_states, strict=True):
        record_property("hidden", close(state[real], other[real], tolerance))
    logits = ours.heads["masked_token"].logits(hidden.last)
    record_property("logits", close(logits[real], expected.prediction_logits[real], tolerance))
    losses = MaskedLM(next_sentence=True).losses(ours, packed).heads
    total = sum(loss.total / loss.count for loss in losses.values())
    record_property("loss", close(total, expected.loss.to(total.dtype), tolerance))
    total.backward()
    expected.loss.backward()
    mine = to_theirs(
        ernie.rules(2, "next_sentence", tasks=tasks), {n: p.grad for n, p in ours.named_parameters()}
    )
    named = {n.removeprefix("ernie."): p for n, p in theirs.named_parameters()}
    assert mine.keys() == named.keys()
    for name, p in named.items():
        record_property("gradients", close(mine[name], p.grad, tolerance))


@pytest.mark.parametrize("tasks", [False, True])
@pytest.mark.parametrize("kind", [ErnieForPreTraining, ErnieForMaskedLM, ErnieForSequenceClassification])
def test_both_directions_are_bit_exact(tmp_path: Path, kind, tasks):
    settings = {"num_labels": 3} if kind is ErnieForSequenceClassification else {}
    theirs = reference(kind, use_task_id=tasks, **settings)
    theirs.save_pretrained(tmp_path / "a")
    read = interop.load(tmp_path / "a")
    assert read.family == "ernie"
    interop.save(read.model(VOCAB), VOCAB, tmp_path / "b", labels=read.labels)
    again, info = kind.from_pretrained(tmp_path / "b", output_loading_info=True)
    assert not any(info.values())
    state = again.state_dict()
    assert all(torch.equal(state[n], t) for n, t in theirs.state_dict().items())
    mine, config = (json.loads((tmp_path / f / "config.json").read_text()) for f in "ba")
    for name in mine.keys() & config.keys() - {"pad_token_id"}:
        assert mine[name] == config[name], name


def test_a_model_of_the_recipe_opens_in_transformers(tmp_path: Path):
    recipe = tiny()
    model = PretrainedModel.build(
        recipe.model, VOCAB, lambda b: recipe.objective.heads(b, VOCAB), seed=4
    ).eval()
    interop.save(model, VOCAB, tmp_path)
    theirs = AutoModelForMaskedLM.from_pretrained(tmp_path).eval()
    assert theirs.config.model_type == "ernie"
    batch = collate(examples(), packed=False)
    real = batch.inputs.document_ids >= 0
    given = {n: v for n, v in theirs_in(batch).items() if "label" not in n}
    ours = model.heads["masked_token"].logits(model.backbone(batch.inputs).last)
    torch.testing.assert_close(ours[real], theirs(**given).logits[real], rtol=0, atol=2e-5)
