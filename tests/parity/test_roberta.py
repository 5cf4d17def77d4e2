"""RoBERTa against ``transformers``: states, logits, losses, gradients, and folders both ways."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import (
    AutoModelForMaskedLM,
    AutoTokenizer,
    RobertaConfig,
    RobertaForMaskedLM,
    RobertaForSequenceClassification,
    RobertaModel,
)

import plume
from plume.errors import UserError
from plume.models import interop
from plume.models.interop import roberta
from plume.models.interop.folder import to_theirs
from plume.models.pretrained import PretrainedModel
from plume.objectives.masked import MaskedLM
from plume.recipes.roberta import tiny
from plume.slots import IGNORE, Example, Slots, collate
from plume.text.tokenizers import ByteLevelBPE
from plume.vocabulary import Vocabulary

VOCAB = Vocabulary(size=61, bos=0, cls=0, pad=1, eos=2, sep=2, unk=3, mask=60)
SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48,
         "vocab_size": 61, "max_position_embeddings": 26, "hidden_dropout_prob": 0.0, "type_vocab_size": 1,
         "attention_probs_dropout_prob": 0.0, "layer_norm_eps": 1e-5}  # fmt: skip
PRECISIONS = [(torch.float64, 1e-9), (torch.float32, 2e-5)]


def reference(kind=RobertaForMaskedLM, **settings):
    torch.manual_seed(5)
    model = kind(RobertaConfig(**SIZES | settings))
    for name, p in model.named_parameters():  # biases and gains too, or a mix-up of them would not show
        torch.nn.init.normal_(p, 1.0 if "orm.weight" in name else 0.0, 0.2)
    return model.eval()


def examples(lengths=(9, 4, 6, 3)):
    rng = np.random.default_rng(3)
    made = []
    for n in lengths:
        labels = np.where(rng.random(n) < 0.4, rng.integers(4, 61, n), IGNORE)
        labels[1] = 7
        made.append(Example(Slots.bidirectional(rng.integers(4, 61, n), labels={"masked_token": labels})))
    return made


def theirs_in(inputs):
    """No positions and no types: theirs count from the id of padding."""
    ids = torch.where(inputs.document_ids >= 0, inputs.input_ids, VOCAB.pad)
    return {"input_ids": ids, "attention_mask": (inputs.document_ids >= 0).long()}


def close(a, b, tolerance):
    torch.testing.assert_close(a, b, rtol=0, atol=tolerance)
    return float((a - b).detach().abs().max())


@pytest.mark.parametrize(("dtype", "tolerance"), PRECISIONS)
def test_states_logits_losses_and_gradients(tmp_path: Path, record_property, dtype, tolerance):
    theirs = reference()
    theirs.save_pretrained(tmp_path)
    read = interop.load(tmp_path)
    assert (read.config.max_positions, read.config.position_offset) == (24, 2)
    ours, theirs = read.model(VOCAB).to(dtype), theirs.to(dtype)
    made = examples()
    padded, packed = collate(made, packed=False, pad_id=1), collate(made, pad_id=1)
    labels = padded.inputs.labels["masked_token"]
    expected = theirs(**theirs_in(padded.inputs), labels=labels, output_hidden_states=True)
    hidden = ours.backbone(padded.inputs)
    real = padded.inputs.document_ids >= 0
    for state, other in zip(hidden.layers, expected.hidden_states, strict=True):
        record_property("hidden", close(state[real], other[real], tolerance))
    logits = ours.heads["masked_token"].logits(hidden.last)
    record_property("logits", close(logits[real], expected.logits[real], tolerance))
    [loss] = MaskedLM().losses(ours, packed).heads.values()
    total = loss.total / loss.count
    record_property("loss", close(total, expected.loss.to(total.dtype), tolerance))
    total.backward()
    expected.loss.backward()
    mine = to_theirs(roberta.rules(2), {name: p.grad for name, p in ours.named_parameters()})
    theirs_named = {n.removeprefix("roberta."): p for n, p in theirs.named_parameters()}
    assert mine.keys() == theirs_named.keys()
    for name, p in theirs_named.items():
        record_property("gradients", close(mine[name], p.grad, tolerance))


@pytest.mark.parametrize("kind", [RobertaForMaskedLM, RobertaForSequenceClassification, RobertaModel])
def test_both_directions_are_bit_exact(tmp_path: Path, kind):
    settings = {"num_labels": 3} if kind is RobertaForSequenceClassification else {}
    theirs = reference(kind, **settings)
    theirs.save_pretrained(tmp_path / "a")
    read = interop.load(tmp_path / "a")
    interop.save(read.model(VOCAB), VOCAB, tmp_path / "b", labels=read.labels)
    again, info = kind.from_pretrained(tmp_path / "b", output_loading_info=True)
    assert not info["unexpected_keys"] and not info["mismatched_keys"]
    state = again.state_dict()
    lost = {n for n in theirs.state_dict() if not torch.equal(state[n], theirs.state_dict()[n])}
    # RobertaModel's pooler was never pretrained, and no head of ours stands on it.
    assert lost == ({"pooler.dense.weight", "pooler.dense.bias"} if kind is RobertaModel else set())
    mine, config = (json.loads((tmp_path / f / "config.json").read_text()) for f in "ba")
    for name in mine.keys() & config.keys():
        assert mine[name] == config[name], name


@pytest.mark.parametrize(("dtype", "tolerance"), PRECISIONS)
def test_a_classifier_gives_their_logits(tmp_path: Path, record_property, dtype, tolerance):
    theirs = reference(RobertaForSequenceClassification, id2label={0: "坏", 1: "plain", 2: "好"}).to(dtype)
    theirs.save_pretrained(tmp_path)
    read = interop.load(tmp_path)
    assert read.labels == ("坏", "plain", "好") and read.heads == ("label",)
    inputs = collate(examples(), packed=False).inputs
    ours = read.model(VOCAB).to(dtype)
    logits = ours.heads["label"].logits(ours.backbone(inputs).last[:, 0])
    record_property("logits", close(logits, theirs(**theirs_in(inputs)).logits, tolerance))


@pytest.mark.parametrize(
    "texts", [("the old printer", "the lamp"), ("他拿着书", "看了很久")], ids=["en", "zh"]
)
def test_a_model_of_ours_opens_in_transformers_with_its_tokenizer(tmp_path: Path, texts):
    """The same ids for a text, for a pair with its two separators, and for a text with a mask in it."""
    tokenizer = ByteLevelBPE(vocab_size=320).train([" ".join(texts) * 9])
    tokenizer.save(tmp_path / "tokenizer")
    vocab = tokenizer.vocabulary
    recipe = tiny()
    model = PretrainedModel.build(
        recipe.model, vocab, lambda b: recipe.objective.heads(b, vocab), seed=4
    ).eval()
    interop.save(model, vocab, tmp_path / "out", tokenizer=tmp_path / "tokenizer")
    read = AutoTokenizer.from_pretrained(tmp_path / "out")
    given = read(*texts, return_tensors="pt")
    assert "token_type_ids" not in given
    slots, _ = recipe.objective.read([tokenizer.encode(t) for t in texts], vocab)
    assert given["input_ids"].tolist() == [slots.input_ids.tolist()]
    assert slots.input_ids.tolist().count(vocab.sep) == 3 and not slots.token_type_ids.any()
    theirs = AutoModelForMaskedLM.from_pretrained(tmp_path / "out").eval()
    assert theirs.config.model_type == "roberta"
    batch = collate([Example(slots)])
    ours = model.heads["masked_token"].logits(model.backbone(batch.inputs).last)
    torch.testing.assert_close(ours, theirs(**given).logits, rtol=0, atol=2e-5)

    loaded = plume.load(tmp_path / "out")
    masked = f"{texts[0]} <mask>"
    found = loaded.fill_mask(masked, top=3)
    ids = read(masked, return_tensors="pt")
    scores = theirs(**ids).logits[0, -2].detach()
    scores[list(vocab.special)] = -torch.inf
    assert [f.probability for f in found] == pytest.approx(
        scores.softmax(-1).topk(3).values.tolist(), abs=1e-5
    )


def test_their_positions_begin_after_the_id_of_padding() -> None:
    """Spec 07: ids [0, 5, 2, 1, 1, 1] stand at 2, 3, 4, and the table has two rows more than can be read."""
    theirs = reference()
    ids = torch.tensor([[0, 5, 2, 1, 1, 1]])
    positions = theirs.roberta.embeddings.create_position_ids_from_input_ids(ids, 1)
    assert positions.tolist() == [[2, 3, 4, 1, 1, 1]]


def test_what_roberta_cannot_hold_is_refused_in_one_sentence(tmp_path: Path):
    recipe = tiny()
    vocab = replace(VOCAB, pad=0)
    model = PretrainedModel.build(recipe.model, vocab, lambda b: recipe.objective.heads(b, vocab), seed=0)
    with pytest.raises(UserError, match="after the id of padding"):
        interop.save(model, vocab, tmp_path)
    reference().save_pretrained(tmp_path)
    tree = json.loads((tmp_path / "config.json").read_text())
    for bad, match in (({"hidden_act": "silu"}, "silu"), ({"pad_token_id": "x"}, "pad_token_id"),
                       ({"num_hidden_layers": 3}, "layer.2")):  # fmt: skip
        (tmp_path / "config.json").write_text(json.dumps(tree | bad))
        with pytest.raises(UserError, match=match):
            interop.load(tmp_path)
