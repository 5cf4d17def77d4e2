"""BART and Marian (the Transformer of 2017) against ``transformers``: states, logits, losses, gradients, folders."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    AutoModelForSeq2SeqLM,
    BartConfig,
    BartForConditionalGeneration,
    BartForSequenceClassification,
    BartModel,
    MarianConfig,
    MarianMTModel,
)

from plume.errors import UserError
from plume.models import interop
from plume.models.interop import bart
from plume.models.interop.folder import to_theirs
from plume.models.pretrained import PretrainedModel
from plume.models.transformer import TransformerConfig
from plume.objectives.classification import Classification, Labelled
from plume.objectives.infilling import Denoising
from plume.objectives.sequence_to_sequence import SequenceToSequence
from plume.seeding import rng
from plume.slots import Example, collate
from plume.text.marks import PART
from plume.text.windows import Window
from plume.vocabulary import Vocabulary

VOCAB = Vocabulary(size=61, bos=0, cls=0, pad=1, eos=2, sep=2, unk=3, mask=60)
SIZES = {"d_model": 32, "encoder_layers": 2, "decoder_layers": 3, "encoder_attention_heads": 4,
         "decoder_attention_heads": 4, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48, "vocab_size": 61,
         "max_position_embeddings": 24, "dropout": 0.0}  # fmt: skip
MARIAN = {"pad_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1, "forced_eos_token_id": 2,
          "scale_embedding": True, "activation_function": "relu"}  # fmt: skip
BART = BartForConditionalGeneration
FLOATS = [(torch.float64, 1e-9), (torch.float32, 2e-5)]


def reference(kind: Any = BART, **settings: Any) -> Any:
    torch.manual_seed(5)
    config: Any = (
        MarianConfig(**SIZES | MARIAN | settings) if kind is MarianMTModel else BartConfig(**SIZES | settings)
    )
    model = kind(config)
    for name, p in model.named_parameters():  # biases and gains too, or a mix-up of them would not show
        if p.requires_grad:
            gain = name.endswith("norm.weight") or "layernorm_embedding.weight" in name
            torch.nn.init.normal_(p, 1.0 if gain else 0.0, 0.2)
    return model.eval()


def pairs(
    objective: SequenceToSequence, lengths: Any = ((7, 5), (4, 9), (6, 2), (3, 3))
) -> list[Example[Any]]:
    """Sources and targets of other lengths, so that both stacks are padded."""
    draw = np.random.default_rng(3)
    made = []
    for a, b in lengths:
        marks = np.ones(a + b, np.uint8)
        marks[a] |= PART
        zeros = np.zeros(a + b, np.int64)
        window = Window(draw.integers(4, 60, a + b), marks, zeros.astype(bool), zeros)
        example = objective.example(window, VOCAB, rng(0, "noise"))
        assert example is not None
        made.append(example)
    return made


def theirs_in(batch: Any) -> dict[str, Any]:
    """Their arguments; padded labels are -100, which they leave out as we do."""
    first, second = batch.inputs, batch.decoder_inputs
    pad = (second.document_ids < 0, first.document_ids < 0)
    return {
        "input_ids": first.input_ids.masked_fill(pad[1], 1), "attention_mask": (~pad[1]).long(),
        "decoder_input_ids": second.input_ids.masked_fill(pad[0], 1), "labels": second.labels["next_token"],
        "output_hidden_states": True,
    }  # fmt: skip


def compare(ours: PretrainedModel, theirs: Any, made: list[Example[Any]], tolerance: float, record: Any,
            *, packed: bool) -> None:  # fmt: skip
    padded, batch = collate(made, packed=False, pad_id=1), collate(made, packed=packed)
    expected = theirs(**theirs_in(padded))
    hidden = ours.backbone(batch.inputs, batch.decoder_inputs)

    def placed(slots: Any) -> Any:  # every example's slots, wherever packing put them
        return torch.cat([(slots.example_ids == n).nonzero() for n in range(len(made))]).unbind(1)

    one, two = placed(batch.inputs), placed(batch.decoder_inputs)
    real_one, real_two = padded.inputs.document_ids >= 0, padded.decoder_inputs.document_ids >= 0
    worst = (hidden["encoder"][one] - expected.encoder_last_hidden_state[real_one]).abs().max()
    for state, other in zip(hidden.layers, expected.decoder_hidden_states, strict=True):
        worst = max(worst, (state[two] - other[real_two]).abs().max())
    record("hidden", worst.item())
    assert worst <= tolerance
    logits = ours.heads["next_token"].logits(hidden.last)[two]
    record("logits", (logits - expected.logits[real_two]).abs().max().item())
    torch.testing.assert_close(logits, expected.logits[real_two], rtol=0, atol=tolerance)

    loss = SequenceToSequence().losses(ours, batch).heads["next_token"]
    record("loss", (loss.total / loss.count - expected.loss).abs().item())
    torch.testing.assert_close(loss.total / loss.count, expected.loss, rtol=0, atol=tolerance)
    (loss.total / loss.count).backward()
    expected.loss.backward()
    mine = to_theirs(bart.rules(ours.backbone.config), {n: p.grad for n, p in ours.named_parameters()})
    worst, compared = 0.0, 0
    for name, p in theirs.named_parameters():
        if not p.requires_grad:
            continue
        found, wanted = mine[name.removeprefix("model.")], p.grad
        if name == "model.shared.weight":  # torch gives the padding token's row no gradient where it is read
            assert torch.equal(found[:, 0] != 0, wanted[:, 0] != 0)
            keep = torch.arange(61) != 1
            found, wanted = found[keep], wanted[keep]
        torch.testing.assert_close(found, wanted, rtol=0, atol=tolerance, msg=lambda m, n=name: f"{n}: {m}")
        worst = max(worst, float((found - wanted).abs().max()))
        compared += 1
    record("gradients", worst)
    assert compared == len(mine)


@pytest.mark.parametrize(("dtype", "tolerance"), FLOATS)
@pytest.mark.parametrize("act", ["gelu", "gelu_new", "relu"])
@pytest.mark.parametrize("packed", [False, True])
def test_states_logits_losses_and_gradients(
    tmp_path: Path, record_property: Any, dtype: torch.dtype, tolerance: float, act: str, packed: bool
) -> None:
    theirs = reference(activation_function=act)
    theirs.save_pretrained(tmp_path)
    ours = interop.load(tmp_path).model(VOCAB).to(dtype)
    made = pairs(SequenceToSequence(start="eos", bos=True))
    compare(ours, theirs.to(dtype), made, tolerance, record_property, packed=packed)


@pytest.mark.parametrize(("dtype", "tolerance"), FLOATS)
@pytest.mark.parametrize("packed", [False, True])
def test_the_transformer_of_2017_is_marian(
    tmp_path: Path, record_property: Any, dtype: torch.dtype, tolerance: float, packed: bool
) -> None:
    """A bias of the logits is published with Marian; ours is then a parameter."""
    theirs = reference(MarianMTModel)
    theirs.final_logits_bias.normal_(0, 0.3)
    theirs.save_pretrained(tmp_path)
    read = interop.load(tmp_path)
    ours = read.model(VOCAB).to(dtype)
    assert torch.equal(ours.heads["next_token"].bias, theirs.final_logits_bias[0].to(dtype))
    compare(ours, theirs.to(dtype), pairs(SequenceToSequence()), tolerance, record_property, packed=packed)
    interop.save(read.model(VOCAB), VOCAB, tmp_path / "b")
    again = MarianMTModel.from_pretrained(tmp_path / "b")
    assert all(torch.equal(t.to(dtype), theirs.state_dict()[n]) for n, t in again.state_dict().items())
    assert again.config.decoder_start_token_id == 1 and again.config.scale_embedding


def test_a_denoised_document_has_their_loss(tmp_path: Path) -> None:
    """What they shift right themselves is what our second stack reads: labels 0 ... 2 behind a 2 (spec 19)."""
    theirs = reference().double()
    theirs.save_pretrained(tmp_path)
    ours = interop.load(tmp_path).model(VOCAB).double()
    ids = np.concatenate([[0], np.arange(10, 19), [2]])
    special = np.array([True] + [False] * 9 + [True])
    window = Window(ids, np.ones(11, np.uint8), special, np.zeros(11, np.int64))
    example = Denoising(infilling=0.4, permute_sentences=1.0).example(window, VOCAB, rng(1, "noise"))
    assert example is not None
    batch = collate([example])
    assert batch.decoder_inputs is not None
    loss = Denoising().losses(ours, batch).heads["next_token"]
    expected = theirs(input_ids=batch.inputs.input_ids, labels=batch.decoder_inputs.labels["next_token"]).loss
    torch.testing.assert_close(loss.total / loss.count, expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("kind", [BART, BartModel, BartForSequenceClassification])
def test_both_directions_are_bit_exact(tmp_path: Path, kind: Any) -> None:
    theirs = reference(kind, num_labels=3)
    if kind is BART:
        theirs.final_logits_bias.normal_()
    theirs.save_pretrained(tmp_path / "a")
    read = interop.load(tmp_path / "a")
    interop.save(read.model(VOCAB), VOCAB, tmp_path / "b", labels=read.labels)
    again, report = kind.from_pretrained(tmp_path / "b", output_loading_info=True)
    assert not report["unexpected_keys"] and not report["mismatched_keys"] and not report["missing_keys"]
    state = again.state_dict()
    assert all(torch.equal(state[n], t) for n, t in theirs.state_dict().items())
    mine, config = (json.loads((tmp_path / f / "config.json").read_text()) for f in "ba")
    for name in mine.keys() & config.keys():
        assert mine[name] == config[name], name


@pytest.mark.parametrize(("dtype", "tolerance"), FLOATS)
def test_a_classifier_reads_the_text_twice_and_answers_at_its_end(
    tmp_path: Path, record_property: Any, dtype: torch.dtype, tolerance: float
) -> None:
    """Spec 19 section 5: the same text to both stacks, one and two segments, padded."""
    theirs = reference(BartForSequenceClassification, id2label={0: "坏", 1: "plain", 2: "好"})
    theirs.save_pretrained(tmp_path)
    theirs = theirs.to(dtype)
    read = interop.load(tmp_path)
    assert read.labels == ("坏", "plain", "好") and read.heads == ("label",)
    ours = read.model(VOCAB).to(dtype)
    objective = Classification(Denoising(), read.labels, max_length=24, dropout=0.0)
    draw = np.random.default_rng(0)
    for segments in (((5,), (9,), (3,)), ((4, 3), (2, 6), (5, 5))):
        sources = [
            Labelled(tuple(draw.integers(4, 60, n) for n in sizes), i) for i, sizes in enumerate(segments)
        ]
        made = [objective.example(source, VOCAB, rng(0, "noise")) for source in sources]
        batch = collate([e for e in made if e is not None], packed=False, pad_id=1)
        mask = batch.inputs.document_ids >= 0
        expected = theirs(
            input_ids=batch.inputs.input_ids, attention_mask=mask.long(), labels=torch.arange(3)
        )
        loss = objective.losses(ours, batch).heads["label"]
        record_property("loss", (loss.total / loss.count - expected.loss).abs().item())
        torch.testing.assert_close(loss.total / loss.count, expected.loss, rtol=0, atol=tolerance)
        ours.zero_grad()
        theirs.zero_grad()
        (loss.total / loss.count).backward()
        expected.loss.backward()
        mine = to_theirs(bart.rules(ours.backbone.config), {n: p.grad for n, p in ours.named_parameters()})
        for name, p in theirs.named_parameters():
            if name != "model.shared.weight":
                torch.testing.assert_close(mine[name.removeprefix("model.")], p.grad, rtol=0, atol=tolerance)
        keep = torch.arange(61) != 1
        table = theirs.model.shared.weight.grad[keep]
        torch.testing.assert_close(mine["shared.weight"][keep], table, rtol=0, atol=tolerance)


@pytest.mark.parametrize("offset", [2, 0])
def test_a_model_of_ours_opens_in_transformers(tmp_path: Path, offset: int) -> None:
    """BART's shape as BART, the Transformer's as Marian; what neither can hold is refused."""
    config = TransformerConfig(
        2, 16, 2, 32, "post", num_decoder_layers=1, max_positions=20, embedding_norm=bool(offset),
        position_offset=offset, positions="learned" if offset else "sinusoidal_concat", scale_embedding=not offset,
    )  # fmt: skip
    model = PretrainedModel.build(
        config, VOCAB, lambda b: SequenceToSequence().heads(b, VOCAB), seed=4
    ).eval()
    interop.save(model, VOCAB, tmp_path / "out")
    theirs = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "out").eval()
    assert theirs.config.model_type == ("bart" if offset else "marian")
    batch = collate(pairs(SequenceToSequence()), packed=False, pad_id=1)
    ours = model.heads["next_token"].logits(model.backbone(batch.inputs, batch.decoder_inputs).last)
    real = batch.decoder_inputs.document_ids >= 0
    given = {n: v for n, v in theirs_in(batch).items() if n != "labels"}
    torch.testing.assert_close(ours[real], theirs(**given).logits[real], rtol=0, atol=2e-5)


def test_what_cannot_be_held_is_refused_in_one_sentence(tmp_path: Path) -> None:
    def built(**changes: Any) -> PretrainedModel:
        shape: dict[str, Any] = {
            "norm_order": "post",
            "num_decoder_layers": 1,
            "embedding_norm": True,
        } | changes
        return PretrainedModel.build(TransformerConfig(1, 8, 2, 8, **shape), VOCAB, lambda b: {}, seed=0)

    with pytest.raises(UserError, match="position_offset"):
        interop.save(built(), VOCAB, tmp_path)
    with pytest.raises(UserError, match="embeddings are normalised"):
        interop.save(built(positions="sinusoidal_concat"), VOCAB, tmp_path)
    reference().save_pretrained(tmp_path)
    tree = json.loads((tmp_path / "config.json").read_text())
    for bad, match in (
        ({"activation_function": "silu"}, "silu"), ({"vocab_size": 60}, "61 rows"), ({"d_model": "x"}, "d_model"),
        ({"decoder_layers": 4}, "decoder.layers.3"), ({"decoder_ffn_dim": 32}, "stacks differ in ffn_dim"),
        ({"normalize_before": True}, "normalize_before"), ({"decoder_start_token_id": 0}, "decoder_start_token_id"),
        ({"max_position_embeddings": 25}, "27, 32|does not fit"),
    ):  # fmt: skip
        (tmp_path / "config.json").write_text(json.dumps(tree | bad))
        with pytest.raises(UserError, match=match):
            interop.load(tmp_path).model()
    reference(MarianMTModel).save_pretrained(tmp_path)
    tree = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(tree | {"decoder_start_token_id": 2}))
    with pytest.raises(UserError, match="begins with the padding token"):
        interop.load(tmp_path)


@pytest.mark.parametrize(
    ("layers", "d", "heads", "count"), [(6, 768, 12, 139_420_416), (12, 1024, 16, 406_291_456)]
)
def test_published_sizes(layers: int, d: int, heads: int, count: int) -> None:
    config = TransformerConfig(
        layers, d, heads, 4 * d, "post", num_decoder_layers=layers, max_positions=1024, position_offset=2,
        embedding_norm=True,
    )  # fmt: skip
    vocab = Vocabulary(size=50_265)
    model = PretrainedModel.build(config, vocab, lambda b: Denoising().heads(b, vocab), seed=0, device="meta")
    assert sum(p.numel() for p in model.parameters()) == count
