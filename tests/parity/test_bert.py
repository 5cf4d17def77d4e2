"""BERT against ``transformers``: states, logits, losses, gradients, and folders both ways."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModel,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    BertConfig,
    BertForMaskedLM,
    BertForPreTraining,
    BertForSequenceClassification,
    BertModel,
)

from plume.errors import UserError
from plume.models import interop
from plume.models.interop import bert
from plume.models.interop.folder import to_theirs
from plume.models.pretrained import PretrainedModel
from plume.models.transformer import TransformerConfig
from plume.objectives.masked import MaskedLM
from plume.slots import IGNORE, Example, Slots, collate
from plume.vocabulary import Vocabulary

VOCAB = Vocabulary(size=61, pad=0, cls=1, sep=2, mask=3)
SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48,
         "vocab_size": 61, "max_position_embeddings": 24, "hidden_dropout_prob": 0.0,
         "attention_probs_dropout_prob": 0.0}  # fmt: skip


def reference(kind=BertForPreTraining, **settings):
    torch.manual_seed(5)
    model = kind(BertConfig(**SIZES | settings))
    for name, p in model.named_parameters():  # biases and gains too, or a mix-up of them would not show
        torch.nn.init.normal_(p, 1.0 if "LayerNorm.weight" in name else 0.0, 0.2)
    return model.eval()


def examples(lengths=(9, 4, 6, 3)):
    rng = np.random.default_rng(3)
    made = []
    for n in lengths:
        ids = rng.integers(4, 61, n)
        labels = np.where(rng.random(n) < 0.4, rng.integers(4, 61, n), IGNORE)
        labels[1] = 7
        following = np.full(n, IGNORE)
        following[0] = rng.integers(2)
        types = (np.arange(n) > n // 2).astype(np.int64)
        made.append(Example(Slots.bidirectional(
            ids, token_type_ids=types, labels={"masked_token": labels, "next_sentence": following})))  # fmt: skip
    return made


def theirs_in(batch):
    s = batch.inputs
    return {"input_ids": s.input_ids, "token_type_ids": s.token_type_ids,
            "attention_mask": (s.document_ids >= 0).long(), "output_hidden_states": True,
            "labels": s.labels["masked_token"], "next_sentence_label": s.labels["next_sentence"][:, 0]}  # fmt: skip


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 2e-5)])
@pytest.mark.parametrize("act", ["gelu", "gelu_new", "relu"])
@pytest.mark.parametrize("packed", [False, True])
def test_states_logits_losses_and_gradients(tmp_path: Path, dtype, tolerance, act, packed, record_property):
    theirs = reference(hidden_act=act)
    theirs.save_pretrained(tmp_path)
    ours = interop.load(tmp_path).model(VOCAB).to(dtype)
    theirs = theirs.to(dtype)
    made = examples()
    padded, batch = collate(made, packed=False), collate(made, packed=packed)
    assert (len(batch.inputs.input_ids) < 4) == packed
    expected = theirs(**theirs_in(padded))

    hidden = ours.backbone(batch.inputs)
    real, placed = padded.inputs.document_ids >= 0, []
    for number in range(len(made)):  # every example's slots, wherever packing put them
        placed.append((batch.inputs.example_ids == number).nonzero())
    at = torch.cat(placed).unbind(1)
    assert len(hidden.layers) == len(expected.hidden_states) == 3
    for state, other in zip(hidden.layers, expected.hidden_states, strict=True):
        torch.testing.assert_close(state[at], other[real], rtol=0, atol=tolerance)
        record_property("hidden", (state[at] - other[real]).abs().max().item())
    logits = ours.heads["masked_token"].logits(hidden.last)
    torch.testing.assert_close(logits[at], expected.prediction_logits[real], rtol=0, atol=tolerance)

    record_property("logits", (logits[at] - expected.prediction_logits[real]).abs().max().item())

    losses = MaskedLM(next_sentence=True).losses(ours, batch).heads
    total = sum(loss.total / loss.count for loss in losses.values())
    torch.testing.assert_close(total, expected.loss.to(total.dtype), rtol=0, atol=tolerance)
    record_property("loss", (total - expected.loss).abs().item())
    total.backward()
    expected.loss.backward()
    grads = {name: p.grad for name, p in ours.named_parameters()}
    mine = to_theirs(bert.rules(2, "next_sentence"), grads)
    compared = 0
    for name, p in theirs.named_parameters():
        name = name.removeprefix("bert.")
        torch.testing.assert_close(
            mine[name], p.grad, rtol=0, atol=tolerance, msg=lambda m, n=name: f"{n}: {m}"
        )
        record_property("gradients", (mine[name] - p.grad).abs().max().item())
        compared += 1
    assert compared == len(mine)


@pytest.mark.parametrize(
    "kind", [BertForPreTraining, BertForMaskedLM, BertModel, BertForSequenceClassification]
)
def test_both_directions_are_bit_exact(tmp_path: Path, kind):
    theirs = reference(kind, num_labels=3) if kind is BertForSequenceClassification else reference(kind)
    theirs.save_pretrained(tmp_path / "a")
    read = interop.load(tmp_path / "a")
    interop.save(read.model(VOCAB), VOCAB, tmp_path / "b", labels=read.labels)
    again = kind.from_pretrained(tmp_path / "b", output_loading_info=True)
    assert not again[1]["unexpected_keys"] and not again[1]["mismatched_keys"]
    state = again[0].state_dict()
    lost = {n for n in theirs.state_dict() if not torch.equal(state[n], theirs.state_dict()[n])}
    # A pooler that no head of ours stands on is not part of the model, so BertModel alone comes back without it.
    assert lost == ({"pooler.dense.weight", "pooler.dense.bias"} if kind is BertModel else set())
    mine, config = (json.loads((tmp_path / f / "config.json").read_text()) for f in "ba")
    for name in mine.keys() & config.keys() - {"pad_token_id"}:
        assert mine[name] == config[name], name


def test_a_classifier_gives_their_logits_and_keeps_its_labels(tmp_path: Path):
    theirs = reference(BertForSequenceClassification, id2label={0: "坏", 1: "plain", 2: "好"}).double()
    theirs.save_pretrained(tmp_path)
    read = interop.load(tmp_path)
    assert read.labels == ("坏", "plain", "好") and read.heads == ("label",)
    batch = collate(examples(), packed=False)
    ours = read.model(VOCAB).double()
    logits = ours.heads["label"].logits(ours.backbone(batch.inputs).last[:, 0])
    given = {n: v for n, v in theirs_in(batch).items() if "label" not in n}
    torch.testing.assert_close(logits, theirs(**given).logits, rtol=0, atol=1e-9)
    interop.save(ours, VOCAB, tmp_path / "out", labels=read.labels)
    assert AutoModelForSequenceClassification.from_pretrained(tmp_path / "out").config.id2label[2] == "好"


def test_old_files_with_gamma_buffers_and_repeated_ties(tmp_path: Path):
    theirs = reference()
    theirs.save_pretrained(tmp_path)
    new = interop.load(tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    old = {}
    for name, tensor in state.items():
        name = name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")
        old[name] = tensor
    old["bert.embeddings.position_ids"] = torch.arange(24)[None]
    old["cls.predictions.decoder.weight"] = state["bert.embeddings.word_embeddings.weight"].clone()
    save_file(old, tmp_path / "model.safetensors")
    read = interop.load(tmp_path)
    assert read.heads == new.heads == ("masked_token", "next_sentence")
    assert read.state.keys() == new.state.keys()
    assert all(torch.equal(read.state[n], new.state[n]) for n in new.state)
    old["cls.predictions.decoder.weight"] += 1
    save_file(old, tmp_path / "model.safetensors")
    with pytest.raises(UserError, match="one table"):
        interop.load(tmp_path)


def test_a_plain_bert_starts_a_classifier_with_its_pooler(tmp_path: Path):
    """What sentence-transformers publishes: BertModel, no ``cls`` heads, no prefix."""
    theirs = reference(BertModel)
    theirs.save_pretrained(tmp_path)
    read = interop.load(tmp_path)
    assert read.heads == ()
    from plume.models.heads import PooledHead

    model = PretrainedModel.build(read.config, VOCAB, lambda b: {"label": PooledHead(b, 4)}, seed=1)
    left = model.start_from(read.state)
    assert left == ["heads.label.out.weight", "heads.label.out.bias"]
    assert torch.equal(model.heads["label"].dense.weight, theirs.pooler.dense.weight)


def test_a_model_of_ours_opens_in_transformers_with_its_tokenizer(tmp_path: Path):
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
    from transformers import AutoTokenizer

    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "film", "##s", "好", "看"]
    tokenizer = Tokenizer(models.WordPiece({p: i for i, p in enumerate(pieces)}, unk_token="[UNK]"))  # noqa: S106
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    vocab = Vocabulary(size=10, pad=0, unk=1, cls=2, sep=3, mask=4)
    config = TransformerConfig(2, 16, 2, 32, "post", token_types=2, embedding_norm=True, norm_eps=1e-12)
    objective = MaskedLM()
    model = PretrainedModel.build(config, vocab, lambda b: objective.heads(b, vocab), seed=4).eval()
    interop.save(model, vocab, tmp_path / "out", tokenizer=tmp_path)

    theirs = AutoModelForMaskedLM.from_pretrained(tmp_path / "out").eval()
    read = AutoTokenizer.from_pretrained(tmp_path / "out")
    given = read("The films", "好看", return_tensors="pt")
    assert given["input_ids"].tolist() == [[2, 5, 6, 7, 3, 8, 9, 3]]
    assert (read.mask_token_id, read.pad_token_id) == (4, 0)
    slots, _ = objective.read([np.array([5, 6, 7]), np.array([8, 9])], vocab)
    batch = collate([Example(slots)])
    assert torch.equal(given["token_type_ids"], batch.inputs.token_type_ids)
    ours = model.heads["masked_token"].logits(model.backbone(batch.inputs).last)
    torch.testing.assert_close(ours, theirs(**given).logits, rtol=0, atol=2e-5)
    assert AutoModel.from_pretrained(tmp_path / "out").config.model_type == "bert"


def test_what_bert_cannot_hold_is_refused_in_one_sentence(tmp_path: Path):
    config = TransformerConfig(1, 8, 2, 8, "post")
    model = PretrainedModel.build(config, VOCAB, lambda b: {}, seed=0)
    with pytest.raises(UserError, match="embeddings are not normalised"):
        interop.save(model, VOCAB, tmp_path)
    reference().save_pretrained(tmp_path)
    tree = json.loads((tmp_path / "config.json").read_text())
    for bad, match in (({"model_type": "mamba"}, "mamba"), ({"hidden_act": "silu"}, "silu"),
                       ({"vocab_size": 60}, "61 rows"),
                       ({"hidden_size": "x"}, "hidden_size"), ({"num_hidden_layers": 3}, "layer.2")):  # fmt: skip
        (tmp_path / "config.json").write_text(json.dumps(tree | bad))
        with pytest.raises(UserError, match=match):
            interop.load(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(UserError, match="JSON"):
        interop.load(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(tree))
    with (tmp_path / "model.safetensors").open("r+b") as file:
        file.truncate(2000)
    with pytest.raises(UserError, match="safetensors"):
        interop.load(tmp_path)
    with pytest.raises(UserError, match="tokenizer"):
        replace(interop.Imported("bert", config, 61, (), (), {})).model(Vocabulary(size=60))


@pytest.mark.parametrize(
    ("size", "backbone", "whole"),
    [
        ((2, 128, 2), 4_385_920, 4_433_468),
        ((4, 256, 4), 11_170_560, 11_267_900),
        ((4, 512, 8), 28_763_648, 29_058_876),
        ((8, 512, 8), 41_373_184, 41_668_412),
        ((12, 768, 12), 109_482_240, 110_106_428),
        ((24, 1024, 16), 335_141_888, 336_226_108),
    ],
)
def test_published_sizes(size, backbone, whole):
    layers, d, heads = size
    config = TransformerConfig(layers, d, heads, 4 * d, "post", token_types=2, embedding_norm=True)
    vocab = Vocabulary(size=30_522)
    model = PretrainedModel.build(
        config, vocab, lambda b: MaskedLM(next_sentence=True).heads(b, vocab), seed=0, device="meta"
    )
    counts = {name: p.numel() for name, p in model.state().items()}
    pooler = sum(n for name, n in counts.items() if name.startswith("heads.next_sentence.dense"))
    assert sum(n for name, n in counts.items() if name.startswith("backbone.")) + pooler == backbone
    assert sum(counts.values()) == whole
