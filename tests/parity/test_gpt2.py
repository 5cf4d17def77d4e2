"""GPT-2 against ``transformers``: states, logits, losses, gradients, and folders both ways."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GPT2Config,
    GPT2ForSequenceClassification,
    GPT2LMHeadModel,
    GPT2Model,
)

from plume.errors import UserError
from plume.models import interop
from plume.models.heads import PooledHead
from plume.models.interop import gpt2
from plume.models.interop.folder import to_theirs
from plume.models.pretrained import PretrainedModel
from plume.models.transformer import TransformerConfig
from plume.objectives.causal import CausalLM
from plume.slots import Example, Slots, collate
from plume.vocabulary import Vocabulary

VOCAB = Vocabulary(size=57, eos=56)
SIZES = {"n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 24, "vocab_size": 57, "bos_token_id": 56,
         "eos_token_id": 56, "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}  # fmt: skip


def reference(kind=GPT2LMHeadModel, **settings):
    torch.manual_seed(6)
    model = kind(GPT2Config(**SIZES | settings))
    for name, p in model.named_parameters():
        torch.nn.init.normal_(p, 1.0 if "ln_" in name and "weight" in name else 0.0, 0.2)
    return model.eval()


def texts(lengths=(9, 4, 6, 3)):
    rng = np.random.default_rng(8)
    return [rng.integers(0, 56, n + 1) for n in lengths]


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 2e-5)])
@pytest.mark.parametrize("settings", [{}, {"scale_attn_by_inverse_layer_idx": True, "n_inner": 40}])
@pytest.mark.parametrize("packed", [False, True])
def test_states_logits_losses_and_gradients(
    tmp_path: Path, dtype, tolerance, settings, packed, record_property
):
    theirs = reference(**settings)
    theirs.save_pretrained(tmp_path)
    ours = interop.load(tmp_path).model(VOCAB).to(dtype)
    theirs = theirs.to(dtype)
    made = texts()
    batch = collate(
        [Example(Slots.causal(t[:-1], labels={"next_token": t[1:]})) for t in made], packed=packed
    )
    ids = torch.full((4, 10), 0)
    mask, labels = torch.zeros_like(ids), torch.full_like(ids, -100)
    for row, text in enumerate(made):
        ids[row, : len(text)] = labels[row, : len(text)] = torch.from_numpy(text)
        mask[row, : len(text)] = 1
    expected = theirs(ids, attention_mask=mask, labels=labels, output_hidden_states=True)

    hidden = ours.backbone(batch.inputs)
    at = torch.cat([(batch.inputs.example_ids == n).nonzero() for n in range(4)]).unbind(1)
    real = mask.bool() & (torch.arange(10) < mask.sum(1, keepdim=True) - 1)
    assert len(hidden.layers) == len(expected.hidden_states) == 4
    for state, other in zip(hidden.layers, expected.hidden_states, strict=True):
        torch.testing.assert_close(state[at], other[real], rtol=0, atol=tolerance)
        record_property("hidden", (state[at] - other[real]).abs().max().item())
    logits = ours.heads["next_token"].logits(hidden.last)
    torch.testing.assert_close(logits[at], expected.logits[real], rtol=tolerance, atol=tolerance)
    record_property("logits", (logits[at] - expected.logits[real]).abs().max().item())

    loss = CausalLM().losses(ours, batch).heads["next_token"]
    mean = loss.total / loss.count
    # Their own loss rounds the logits to fp32 first, so it is no reference in fp64.
    reference_loss = torch.nn.functional.cross_entropy(
        expected.logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten()
    )
    torch.testing.assert_close(mean, reference_loss, rtol=0, atol=tolerance)
    torch.testing.assert_close(mean.float(), expected.loss.float(), rtol=1e-6, atol=0)
    record_property("loss", (mean - reference_loss).abs().item())
    mean.backward()
    reference_loss.backward()
    mine = to_theirs(gpt2.rules(3), {name: p.grad for name, p in ours.named_parameters()})
    compared = 0
    for name, p in theirs.named_parameters():
        name = name.removeprefix("transformer.")
        torch.testing.assert_close(
            mine[name], p.grad, rtol=0, atol=tolerance, msg=lambda m, n=name: f"{n}: {m}"
        )
        record_property("gradients", (mine[name] - p.grad).abs().max().item())
        compared += 1
    assert compared == len(mine)


@pytest.mark.parametrize("kind", [GPT2LMHeadModel, GPT2Model, GPT2ForSequenceClassification])
def test_both_directions_are_bit_exact(tmp_path: Path, kind):
    theirs = reference(kind, num_labels=3, n_inner=40, pad_token_id=0)
    theirs.save_pretrained(tmp_path / "a")
    read = interop.load(tmp_path / "a")
    interop.save(read.model(VOCAB), VOCAB, tmp_path / "b", labels=read.labels)
    again, report = kind.from_pretrained(tmp_path / "b", output_loading_info=True)
    assert not report["unexpected_keys"] and not report["missing_keys"]
    assert all(torch.equal(t, again.state_dict()[n]) for n, t in theirs.state_dict().items())
    files = [load_file(tmp_path / f / "model.safetensors").keys() for f in "ab"]
    if kind is not GPT2Model:  # which of ours has no head of its own to tell it from GPT2LMHeadModel
        assert files[0] == files[1]
    mine, config = (json.loads((tmp_path / f / "config.json").read_text()) for f in "ba")
    for name in mine.keys() & config.keys() - {"pad_token_id", "architectures"}:
        assert mine[name] == config[name], name


def test_hub_files_without_prefix_and_with_old_buffers(tmp_path: Path):
    theirs = reference()
    theirs.save_pretrained(tmp_path)
    new = interop.load(tmp_path)
    state = {n.removeprefix("transformer."): t for n, t in load_file(tmp_path / "model.safetensors").items()}
    state["h.0.attn.bias"] = torch.ones(1, 1, 24, 24).tril()
    state["h.0.attn.masked_bias"] = torch.tensor(-1e4)
    state["lm_head.weight"] = state["wte.weight"].clone()
    save_file(state, tmp_path / "model.safetensors")
    read = interop.load(tmp_path)
    assert read.state.keys() == new.state.keys() and read.heads == ("next_token",)
    assert all(torch.equal(read.state[n], new.state[n]) for n in new.state)


def test_a_classifier_gives_their_logits(tmp_path: Path):
    theirs = reference(GPT2ForSequenceClassification, num_labels=3, pad_token_id=0).double()
    theirs.save_pretrained(tmp_path)
    ours = interop.load(tmp_path).model(VOCAB).double()
    text = texts((7,))[0]
    hidden = ours.backbone(collate([Example(Slots.causal(text))]).inputs)
    logits = ours.heads["label"].logits(hidden.last[:, -1])
    torch.testing.assert_close(logits, theirs(torch.from_numpy(text)[None]).logits, rtol=0, atol=1e-9)


def test_a_model_of_ours_opens_in_transformers_with_its_tokenizer(tmp_path: Path):
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=["<pad>", "</s>"], show_progress=False,
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet())  # fmt: skip
    tokenizer.train_from_iterator(["an old tale, 一个老故事"], trainer)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    vocab = Vocabulary(size=tokenizer.get_vocab_size(), pad=0, eos=1)
    config = TransformerConfig(2, 16, 2, 64, activation="gelu_tanh", max_positions=64)
    model = PretrainedModel.build(config, vocab, lambda b: CausalLM().heads(b, vocab), seed=4).eval()
    interop.save(model, vocab, tmp_path / "out", tokenizer=tmp_path)
    read = AutoTokenizer.from_pretrained(tmp_path / "out")
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    given = read("an old 故事", return_tensors="pt")
    assert given["input_ids"][0].tolist() == tokenizer.encode("an old 故事").ids
    assert read.decode(given["input_ids"][0]) == "an old 故事" and read.eos_token_id == 1
    hidden = model.backbone(collate([Example(Slots.causal(given["input_ids"][0].numpy()))]).inputs)
    ours = model.heads["next_token"].logits(hidden.last)
    torch.testing.assert_close(ours, theirs(**given).logits, rtol=0, atol=2e-5)


def test_what_gpt2_cannot_hold_is_refused(tmp_path: Path):
    config = TransformerConfig(1, 8, 2, 32, positions="learned")
    model = PretrainedModel.build(config, VOCAB, lambda b: {"label": PooledHead(b, 2)}, seed=0)
    with pytest.raises(UserError, match="dense layer"):
        interop.save(model, VOCAB, tmp_path)
    reference().save_pretrained(tmp_path)
    tree = json.loads((tmp_path / "config.json").read_text())
    for bad, match in (({"scale_attn_weights": False}, "scale_attn"), ({"n_embd": 30}, "multiple"),
                       ({"n_layer": 4}, r"h\.3")):  # fmt: skip
        (tmp_path / "config.json").write_text(json.dumps(tree | bad))
        with pytest.raises(UserError, match=match):
            interop.load(tmp_path)


@pytest.mark.parametrize(
    ("layers", "d", "heads", "count"),
    [
        (12, 768, 12, 124_439_808),
        (24, 1024, 16, 354_823_168),
        (36, 1280, 20, 774_030_080),
        (48, 1600, 25, 1_557_611_200),
    ],
)
def test_published_sizes(layers, d, heads, count):
    config = TransformerConfig(layers, d, heads, 4 * d, max_positions=1024)
    vocab = Vocabulary(size=50_257)
    model = PretrainedModel.build(config, vocab, lambda b: CausalLM().heads(b, vocab), seed=0, device="meta")
    assert sum(p.numel() for p in model.state().values()) == count


def test_initial_weights_are_gpt2s():
    config = TransformerConfig(4, 64, 4, 256, max_positions=64)
    vocab = Vocabulary(size=211)
    model = PretrainedModel.build(config, vocab, lambda b: CausalLM().heads(b, vocab), seed=2)
    state = model.state()
    for name in ("attention_out", "down"):
        std = torch.cat([state[f"backbone.stack.layers.{i}.{name}.weight"].flatten() for i in range(4)]).std()
        assert abs(std / (0.02 / math.sqrt(8)) - 1) < 0.03
    assert abs(state["backbone.stack.layers.1.up.weight"].std() / 0.02 - 1) < 0.03
    assert bool((state["backbone.stack.norm.weight"] == 1).all())
    assert not state["backbone.stack.layers.0.up.bias"].any()
    ids = np.random.default_rng(0).integers(0, 211, (8, 65))
    batch = collate([Example(Slots.causal(t[:-1], labels={"next_token": t[1:]})) for t in ids])
    loss = CausalLM().losses(model.eval(), batch).heads["next_token"]
    sigma2 = 64 * 0.02**2  # the variance of a logit of a normalised state
    assert abs((loss.total / loss.count).item() - math.log(211) - sigma2 / 2) < 0.2
