"""GPT-1 against ``transformers``: states, logits, losses, gradients, and folders both ways (spec 13 section 8)."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    OpenAIGPTConfig,
    OpenAIGPTDoubleHeadsModel,
    OpenAIGPTLMHeadModel,
    OpenAIGPTModel,
)

from plume import config
from plume.errors import UserError
from plume.models import interop
from plume.models.interop import gpt1
from plume.models.interop.folder import to_theirs
from plume.models.pretrained import PretrainedModel
from plume.objectives.causal import CausalLM
from plume.objectives.classification import Classification, Labelled
from plume.seeding import rng
from plume.slots import Example, Slots, collate
from plume.text.tokenizers import Tokenizer, WordBPE
from plume.vocabulary import Vocabulary

SIZES = {"n_embd": 48, "n_layer": 3, "n_head": 4, "n_positions": 40, "vocab_size": 211,
         "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}  # fmt: skip
VOCAB = Vocabulary(size=211, bos=208, sep=209, cls=210)


def reference(kind=OpenAIGPTLMHeadModel, **settings):
    torch.manual_seed(6)
    model = kind(OpenAIGPTConfig(**SIZES | settings))
    for name, p in model.named_parameters():
        torch.nn.init.normal_(p, 1.0 if "ln_" in name and "weight" in name else 0.0, 0.2)
    return model.eval()


def texts(lengths=(9, 4, 6, 3)):
    draw = np.random.default_rng(8)
    return [draw.integers(0, 208, n + 1) for n in lengths]


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 2e-5)])
@pytest.mark.parametrize("packed", [False, True])
def test_states_logits_losses_and_gradients(tmp_path: Path, dtype, tolerance, packed, record_property):
    theirs = reference()
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
    expected = theirs(ids, attention_mask=mask, output_hidden_states=True)
    hidden = ours.backbone(batch.inputs)
    at = torch.cat([(batch.inputs.example_ids == n).nonzero() for n in range(4)]).unbind(1)
    real = mask.bool() & (torch.arange(10) < mask.sum(1, keepdim=True) - 1)
    assert len(hidden.layers) == len(expected.hidden_states) == 4
    errors = [
        float((state[at] - other[real]).detach().abs().max())
        for state, other in zip(hidden.layers, expected.hidden_states, strict=True)
    ]
    record_property("hidden", max(errors))
    assert max(errors) < tolerance
    logits = ours.heads["next_token"].logits(hidden.last)
    error = float((logits[at] - expected.logits[real]).detach().abs().max())
    record_property("logits", error)
    assert error < tolerance

    loss = CausalLM().losses(ours, batch).heads["next_token"]
    mean = loss.total / loss.count
    reference_loss = torch.nn.functional.cross_entropy(
        expected.logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten()
    )
    error = float((mean - reference_loss).detach().abs())
    record_property("loss", error)
    assert error < tolerance
    mean.backward()
    reference_loss.backward()
    mine = to_theirs(gpt1.rules(3), {name: p.grad for name, p in ours.named_parameters()})
    worst = 0.0
    for name, p in theirs.named_parameters():
        worst = max(worst, float((mine.pop(name.removeprefix("transformer.")) - p.grad).abs().max()))
    record_property("gradients", worst)
    assert not mine and worst < tolerance


@pytest.mark.parametrize("kind", [OpenAIGPTLMHeadModel, OpenAIGPTModel])
def test_both_directions_are_bit_exact(tmp_path: Path, kind):
    theirs = reference(kind)
    theirs.save_pretrained(tmp_path / "a")
    interop.save(interop.load(tmp_path / "a").model(VOCAB), VOCAB, tmp_path / "b")
    again, report = OpenAIGPTLMHeadModel.from_pretrained(tmp_path / "b", output_loading_info=True)
    assert not report["unexpected_keys"] and not report["missing_keys"]
    found = {n.removeprefix("transformer."): t for n, t in again.state_dict().items()}
    for name, tensor in theirs.state_dict().items():
        assert torch.equal(tensor, found[name.removeprefix("transformer.")]), name
    mine, first = (json.loads((tmp_path / f / "config.json").read_text()) for f in "ba")
    for name in mine.keys() & first.keys() - {
        "pad_token_id",
        "bos_token_id",
        "eos_token_id",
        "architectures",
    }:
        assert mine[name] == first[name], name


def test_hub_files_without_prefix_and_with_old_buffers(tmp_path: Path):
    theirs = reference()
    theirs.save_pretrained(tmp_path)
    new = interop.load(tmp_path)
    state = {n.removeprefix("transformer."): t for n, t in load_file(tmp_path / "model.safetensors").items()}
    state["h.0.attn.bias"] = torch.ones(1, 1, 40, 40).tril()
    state["lm_head.weight"] = state["tokens_embed.weight"].clone()
    save_file(state, tmp_path / "model.safetensors")
    read = interop.load(tmp_path)
    assert all(torch.equal(read.state[n], t) for n, t in new.state.items())
    del state["h.1.ln_2.bias"]
    save_file(state, tmp_path / "model.safetensors")
    with pytest.raises(UserError, match=r"h\.1\.ln_2\.bias"):
        interop.load(tmp_path)


def test_the_extract_state_gives_their_double_heads_answers(tmp_path: Path):
    """``mc_logits`` at the extract token, options of two lengths padded (spec 13, test 4)."""
    theirs = reference(OpenAIGPTDoubleHeadsModel, num_labels=1, summary_first_dropout=0.0).double()
    theirs.transformer.save_pretrained(tmp_path)
    read = interop.load(tmp_path)
    objective = Classification(CausalLM(delimited=True), ("a", "b"), hidden=False, dropout=0.0)
    ours = (
        PretrainedModel.build(read.config, VOCAB, lambda b: objective.heads(b, VOCAB), seed=0).double().eval()
    )
    ours.start_from(read.state)
    made = [objective.example(Labelled((t[:4], t[4:])), VOCAB, rng(0, "x")) if False else
            objective.example(Labelled((t[:2], t[2:]), 0), VOCAB, rng(0, "x")) for t in texts((8, 5))]  # fmt: skip
    batch = collate(made, packed=False)
    where = batch.inputs.labels["label"].argmax(1)
    answers = theirs(batch.inputs.input_ids[None], mc_token_ids=where[None]).mc_logits[0]
    hidden = ours.backbone(batch.inputs).last[torch.arange(2), where]
    head = theirs.multiple_choice_head.summary
    torch.testing.assert_close(hidden @ head.weight[0] + head.bias[0], answers, rtol=0, atol=1e-9)


@pytest.mark.parametrize("text", ["An old tale, twice told!", "一个老故事，很老。"])
def test_a_model_of_ours_opens_in_transformers_with_its_tokenizer(tmp_path: Path, text):
    tokenizer = WordBPE(vocab_size=150).train(["an old tale, told twice!", "一个老故事，很老。"] * 5)
    tokenizer.save(tmp_path / "own")
    recipe = config.override(config.resolve("gpt:gpt1"), ["model.num_layers=2", "model.d_model=24"])
    objective, vocab = recipe.objective, tokenizer.vocabulary
    shape = config.override(recipe, ["model.num_heads=2", "model.d_ff=96"]).model
    model = PretrainedModel.build(shape, vocab, lambda b: objective.heads(b, vocab), seed=4).eval()
    interop.save(model, vocab, tmp_path / "out", tokenizer=tmp_path / "own")
    read = AutoTokenizer.from_pretrained(tmp_path / "out")
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    assert isinstance(theirs, OpenAIGPTLMHeadModel)
    given = read(text, return_tensors="pt", return_token_type_ids=False)
    assert given["input_ids"][0].tolist() == tokenizer.encode(text).tolist()
    hidden = model.backbone(collate([Example(Slots.causal(given["input_ids"][0].numpy()))]).inputs)
    logits = model.heads["next_token"].logits(hidden.last)
    torch.testing.assert_close(logits, theirs(**given).logits, rtol=0, atol=2e-5)


def test_their_own_vocabulary_files_are_read(tmp_path: Path):
    tokenizer = WordBPE(vocab_size=120).train(["an old tale, told twice!"] * 5)
    inner = json.loads(tokenizer._inner.to_str())["model"]
    names = {{"[UNK]": "<unk>"}.get(n, n): i for n, i in inner["vocab"].items()}
    (tmp_path / "vocab.json").write_text(json.dumps(names))
    (tmp_path / "merges.txt").write_text("#version: 0.2\n" + "\n".join(" ".join(m) for m in inner["merges"]))
    (tmp_path / "config.json").write_text("{}")
    read = Tokenizer.from_hf(tmp_path)
    text = "An OLD tale twice ☃"
    assert read.encode(text).tolist() == tokenizer.encode(text).tolist()
    assert read.decode(read.encode("an old tale")) == "an old tale"


def test_what_gpt1_cannot_hold_is_refused(tmp_path: Path):
    made = interop.load(_saved(tmp_path / "a"))
    changed = PretrainedModel.build(
        type(made.config)(2, 48, 4, 100, norm_order="post", activation="gelu_tanh", max_positions=40),
        VOCAB, lambda b: CausalLM().heads(b, VOCAB), seed=0,
    )  # fmt: skip
    with pytest.raises(UserError, match="four times as wide"):
        interop.save(changed, VOCAB, tmp_path / "b")
    tree = json.loads((tmp_path / "a" / "config.json").read_text())
    for bad, match in (
        ({"afn": "swish"}, "afn"),
        ({"vocab_size": 9}, "vocab_size 9"),
        ({"n_embd": 50}, "multiple"),
    ):
        (tmp_path / "a" / "config.json").write_text(json.dumps(tree | bad))
        with pytest.raises(UserError, match=match):
            interop.load(tmp_path / "a")


def _saved(folder: Path) -> Path:
    reference().save_pretrained(folder)
    return folder


def test_post_norm_states_are_normalised_and_an_untrained_model_knows_nothing():
    """Spec 13, tests 6 and 13."""
    recipe = config.override(
        config.resolve("gpt:gpt1"), ["model.d_model=96", "model.num_heads=2", "model.d_ff=384"]
    )
    model = PretrainedModel.build(
        recipe.model, VOCAB, lambda b: recipe.objective.heads(b, VOCAB), seed=1
    ).eval()
    batch = collate([Example(Slots.causal(t[:-1], labels={"next_token": t[1:]})) for t in texts((39, 30))])
    hidden = model.backbone(batch.inputs)
    for state in hidden.layers[1:]:
        real = state[batch.inputs.document_ids >= 0]
        assert float(real.mean(-1).detach().abs().max()) < 1e-3
        assert float((real.var(-1, unbiased=False) - 1).detach().abs().max()) < 1e-3
    loss = recipe.objective.losses(model, batch).heads["next_token"]
    assert abs(float(loss.total.detach() / loss.count) - np.log(211)) < 0.3
