"""T5 against ``transformers``: states of both stacks, logits, losses, gradients, folders both ways; joint by hand."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer, T5Config, T5ForConditionalGeneration, T5Model

from plume.errors import UserError
from plume.models import interop
from plume.models.interop import t5
from plume.models.interop.folder import to_theirs
from plume.models.pretrained import PretrainedModel
from plume.models.transformer import TransformerConfig
from plume.objectives.joint import JointDenoising
from plume.objectives.sequence_to_sequence import SequenceToSequence
from plume.objectives.span_corruption import SpanCorruption, writes
from plume.seeding import rng
from plume.slots import IGNORE, Example, Slots, collate
from plume.text.tokenizers import ByteLevelBPE
from plume.vocabulary import Vocabulary
from tests.laws.laws import WITH_SENTINELS, window

VOCAB = Vocabulary(size=61, pad=0, eos=1, sentinels=tuple(range(60, 50, -1)))
SIZES = {"d_model": 32, "d_kv": 7, "d_ff": 24, "num_layers": 2, "num_decoder_layers": 3, "num_heads": 4,
         "vocab_size": 61, "dropout_rate": 0.0, "decoder_start_token_id": 0}  # fmt: skip
FORMS = {
    "v1.0": {"feed_forward_proj": "relu"},
    "v1.1": {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False},
}


def reference(form, kind=T5ForConditionalGeneration, **settings):
    """A random model; v1.1 with an output table of its own, which only a file that holds two can make."""
    torch.manual_seed(5)
    model = kind(T5Config(**SIZES | FORMS[form] | settings))
    for name, p in model.named_parameters():
        torch.nn.init.normal_(p, 1.0 if "norm" in name else 0.0, 0.15)
    if form == "v1.1" and kind is T5ForConditionalGeneration:
        model.lm_head.weight = torch.nn.Parameter(torch.randn_like(model.shared.weight) * 0.15)
        model.config.tie_word_embeddings = False
    return model.eval()


def pairs(lengths=((150, 140), (4, 9), (31, 3), (90, 60))):
    draw = np.random.default_rng(8)
    return [(draw.integers(2, 50, a), draw.integers(2, 50, b)) for a, b in lengths]


def padded(rows, value):
    out = torch.full((len(rows), max(map(len, rows))), value)
    for number, row in enumerate(rows):
        out[number, : len(row)] = torch.from_numpy(row)
    return out


def at(slots, count):
    return torch.cat([(slots.example_ids == n).nonzero() for n in range(count)]).unbind(1)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 2e-5)])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("packed", [False, True])
def test_states_logits_losses_and_gradients(tmp_path: Path, record_property, dtype, tolerance, form, packed):
    theirs = reference(form)
    theirs.save_pretrained(tmp_path)
    ours = interop.load(tmp_path).model(VOCAB).to(dtype)
    theirs = theirs.to(dtype)
    made = pairs()
    batch = collate([Example(Slots.bidirectional(a), writes(b, VOCAB)) for a, b in made], packed=packed)
    ids, labels = padded([a for a, _ in made], 0), padded([b for _, b in made], -100)
    mask = padded([np.ones_like(a) for a, _ in made], 0)
    expected = theirs(ids, attention_mask=mask, labels=labels, output_hidden_states=True)

    hidden = ours.backbone(batch.inputs, batch.decoder_inputs)
    source, target = at(batch.inputs, 4), at(batch.decoder_inputs, 4)
    real, asked = mask.bool(), labels != -100
    error = (hidden["encoder"][source] - expected.encoder_last_hidden_state[real]).abs().max().item()
    assert len(hidden.layers) == len(expected.decoder_hidden_states) == 4
    for state, other in zip(hidden.layers, expected.decoder_hidden_states, strict=True):
        error = max(error, (state[target] - other[asked]).abs().max().item())
    assert error < tolerance
    record_property("hidden", error)
    logits = ours.heads["next_token"].logits(hidden.last)[target]
    error = (logits - expected.logits[asked]).abs().max().item()
    assert error < tolerance
    record_property("logits", error)

    loss = SpanCorruption().losses(ours, batch).heads["next_token"]
    mean = loss.total / loss.count
    error = (mean - expected.loss).abs().item()
    assert error < tolerance
    record_property("loss", error)
    mean.backward()
    expected.loss.backward()
    table = t5.rules(2, 3, gated=form == "v1.1")
    mine = to_theirs(table, {name: p.grad for name, p in ours.named_parameters()})
    grads = dict(theirs.named_parameters())
    assert mine.keys() == grads.keys()
    error = max((mine[name] - p.grad).abs().max().item() for name, p in grads.items())
    assert error < tolerance
    record_property("gradients", error)


def test_the_causal_buckets_are_no_matter_of_taste(tmp_path: Path):
    """The negative control: the decoder's bias read both ways gives other states."""
    reference("v1.0").save_pretrained(tmp_path)
    ours = interop.load(tmp_path).model(VOCAB).double()
    batch = collate([Example(Slots.bidirectional(a), writes(b, VOCAB)) for a, b in pairs(((9, 40),))])
    right = ours.backbone(batch.inputs, batch.decoder_inputs).last
    ours.backbone.decoder_positions.causal = False
    assert (ours.backbone(batch.inputs, batch.decoder_inputs).last - right).abs().max() > 1e-3


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", [T5ForConditionalGeneration, T5Model])
def test_both_directions_are_bit_exact(tmp_path: Path, form, kind):
    theirs = reference(form, kind)
    theirs.save_pretrained(tmp_path / "a")
    read = interop.load(tmp_path / "a")
    interop.save(read.model(VOCAB), VOCAB, tmp_path / "b")
    again, report = kind.from_pretrained(tmp_path / "b", output_loading_info=True)
    assert not report["unexpected_keys"] and not report["missing_keys"]
    assert all(torch.equal(t, again.state_dict()[n]) for n, t in theirs.state_dict().items())
    files = [load_file(tmp_path / f / "model.safetensors").keys() for f in "ab"]
    assert files[0] == files[1]
    assert again.config.scale_decoder_outputs == theirs.config.scale_decoder_outputs
    mine, config = (json.loads((tmp_path / f / "config.json").read_text()) for f in "ba")
    for name in mine.keys() & config.keys() - {"architectures", "tie_word_embeddings"}:
        assert mine[name] == config[name], name
    second = interop.load(tmp_path / "b")
    assert second.config == read.config and second.heads == read.heads


def test_old_files_hold_a_table_twice_and_a_bias_that_nothing_reads(tmp_path: Path):
    theirs = reference("v1.0")
    theirs.save_pretrained(tmp_path)
    new = interop.load(tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    for name in ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight", "lm_head.weight"):
        state[name] = state["shared.weight"].clone()
    unused = "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"
    save_file(state | {unused: torch.ones(32, 4)}, tmp_path / "model.safetensors")
    read = interop.load(tmp_path)
    assert read.state.keys() == new.state.keys() and read.config == new.config
    assert all(torch.equal(read.state[n], new.state[n]) for n in new.state)


@pytest.mark.parametrize("switches", [{"tie_head": True}, {"tie_head": False}, {"tie_head": False, "scale_head": True},
                                      {"scale_head": True}], ids=str)  # fmt: skip
def test_a_model_of_ours_opens_in_transformers_with_its_tokenizer(tmp_path: Path, switches):
    """Whether the tables are one, and whether states are rescaled, are two switches (spec 18 section 2.2)."""
    tokenizer = ByteLevelBPE(vocab_size=400, sentinels=8).train(["an old tale is told, 一个老故事"] * 3)
    tokenizer.save(tmp_path / "tokenizer")
    vocab = tokenizer.vocabulary
    config = TransformerConfig(
        1, 16, 2, 24, num_decoder_layers=2, norm="rms", norm_eps=1e-6, bias=False, positions="buckets",
        scale_attention=False, activation="gelu_tanh", gated=True, d_head=5, init="fan_in", init_std=1.0,
        dropout=0.0, attention_dropout=0.0, **switches,
    )  # fmt: skip
    objective = JointDenoising()
    model = PretrainedModel.build(config, vocab, lambda b: objective.heads(b, vocab), seed=4).eval()
    interop.save(model, vocab, tmp_path / "out", tokenizer=tmp_path / "tokenizer")
    read = AutoTokenizer.from_pretrained(tmp_path / "out")
    theirs = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "out").eval()
    given = read("an old <extra_id_0> 故事", return_tensors="pt")["input_ids"]
    source = np.concatenate(
        [tokenizer.encode("an old "), [vocab.sentinels[0]], tokenizer.encode(" 故事"), [vocab.eos]]
    )
    assert given[0].tolist() == source.tolist() and read.pad_token_id == vocab.pad
    target = np.array([vocab.sentinels[0], *tokenizer.encode("tale is"), vocab.eos])
    batch = collate([Example(Slots.bidirectional(source), writes(target, vocab))])
    hidden = model.backbone(batch.inputs, batch.decoder_inputs)
    expected = theirs(given, labels=torch.from_numpy(target)[None])
    ours = model.heads["next_token"].logits(hidden.last)
    torch.testing.assert_close(ours, expected.logits, rtol=0, atol=2e-5)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 2e-5)])
def test_joint_is_the_sum_of_t5s_parts(tmp_path: Path, record_property, dtype, tolerance):
    """Encoder states times the table at masked slots, decoder logits at spans; their gradients added up."""
    objective = JointDenoising(masked_weight=0.7)
    theirs = reference("v1.0", vocab_size=WITH_SENTINELS.size).to(dtype)
    theirs.save_pretrained(tmp_path)
    read = interop.load(tmp_path)
    ours = PretrainedModel.build(
        read.config, WITH_SENTINELS, lambda b: objective.heads(b, WITH_SENTINELS), seed=0
    )
    ours.load_state(read.state)
    ours = ours.to(dtype).eval()
    draw = np.random.default_rng(2)
    made = [objective.example(window(draw.integers(7, 40, n)), WITH_SENTINELS, rng(0, "noise", n))
            for n in (30, 12, 5)]  # fmt: skip
    batch = collate(made, packed=False)
    losses = objective.losses(ours, batch).heads
    weights = {"masked_token": 1.0, "next_token": 1.0} | dict(objective.weights())
    total = sum(weights[n] * loss.total / loss.count for n, loss in losses.items())

    ids, labels = batch.inputs.input_ids, batch.decoder_inputs.labels["next_token"]
    mask = (batch.inputs.document_ids >= 0).long()
    out = theirs(ids, attention_mask=mask, labels=labels)
    masked = batch.inputs.labels["masked_token"]
    at = masked != IGNORE
    logits = out.encoder_last_hidden_state[at] * 32**-0.5 @ theirs.shared.weight.T
    expected = 0.7 * F.cross_entropy(logits, masked[at]) + out.loss
    error = (total - expected).abs().item()
    assert error < tolerance
    record_property("loss", error)
    total.backward()
    expected.backward()
    mine = to_theirs(t5.rules(2, 3, gated=False), {n: p.grad for n, p in ours.named_parameters()})
    error = max((mine[n] - p.grad).abs().max().item() for n, p in theirs.named_parameters())
    assert error < tolerance
    record_property("gradients", error)


def test_what_t5_cannot_hold_is_refused(tmp_path: Path):
    objective = SequenceToSequence(start="pad", output_bias=True)
    config = TransformerConfig(1, 8, 2, 16, num_decoder_layers=1, positions="buckets")
    model = PretrainedModel.build(config, VOCAB, lambda b: objective.heads(b, VOCAB), seed=0)
    with pytest.raises(UserError, match=r"norms take off the mean.*biases.*scaled.*has a bias"):
        interop.save(model, VOCAB, tmp_path)
    reference("v1.0").save_pretrained(tmp_path)
    tree = json.loads((tmp_path / "config.json").read_text())
    for bad, match in (
        ({"feed_forward_proj": "gated-silu"}, "gated-silu"),
        ({"num_layers": 4}, r"block\.2"),
        ({"decoder_start_token_id": 5}, "starts with id 5"),
        ({"vocab_size": 60}, "61 rows"),
    ):
        (tmp_path / "config.json").write_text(json.dumps(tree | bad))
        with pytest.raises(UserError, match=match):
            interop.load(tmp_path)
