"""XLNet against ``transformers``: states of both streams, logits, losses, gradients, memory, folders both ways."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    XLNetConfig,
    XLNetForSequenceClassification,
    XLNetLMHeadModel,
    XLNetModel,
)

from plume.errors import UserError
from plume.models import interop
from plume.models.interop import xlnet
from plume.models.interop.folder import to_theirs
from plume.models.pretrained import PretrainedModel
from plume.objectives.permuted import PermutedLM
from plume.seeding import rng
from plume.slots import IGNORE, NEVER, Example, Slots, collate
from plume.text.windows import ADVANCE, Window
from plume.training import carried
from plume.vocabulary import Vocabulary

VOCAB = Vocabulary(size=61, pad=5, cls=3, sep=4, mask=6, eos=7)
SIZES = {"vocab_size": 61, "d_model": 32, "n_layer": 3, "n_head": 4, "d_inner": 48, "dropout": 0.0,
         "mem_len": None, "summary_last_dropout": 0.0}  # fmt: skip
PRECISIONS = [(torch.float64, 1e-9), (torch.float32, 2e-5)]


def reference(kind=XLNetLMHeadModel, **settings):
    torch.manual_seed(5)
    model = kind(XLNetConfig(**SIZES | settings))
    for name, p in model.named_parameters():  # biases and gains too, or a mix-up of them would not show
        torch.nn.init.normal_(p, 1.0 if "layer_norm.weight" in name else 0.0, 0.2)
    return model.eval()


def exact(theirs):
    """The reference in fp64: its own sinusoids are made in fp32, and two streams refuse to mix the two."""
    theirs = theirs.double()
    body = theirs if isinstance(theirs, XLNetModel) else theirs.transformer

    def encode(qlen, klen, bsz=None, device=None):
        low = -qlen if body.attn_type == "bi" else -1
        places = torch.arange(klen, low, -1, dtype=torch.float64)
        angles = places[:, None] / 10000 ** (torch.arange(0, body.d_model, 2).double() / body.d_model)
        return torch.cat([angles.sin(), angles.cos()], 1)[:, None].expand(-1, bsz, -1)

    body.relative_positional_encoding = encode
    return theirs


def pair(tmp_path: Path, dtype, kind=XLNetLMHeadModel, **settings):
    theirs = reference(kind, **settings)
    theirs.save_pretrained(tmp_path)
    ours = interop.load(tmp_path).model(VOCAB).to(dtype)
    return ours, exact(theirs) if dtype is torch.float64 else theirs


def window(length: int, seed: int, advance: int | None = None) -> Window:
    """Text, A [SEP] B [SEP] [CLS]; words of one to three tokens."""
    draw = np.random.default_rng(seed)
    ids = draw.integers(8, 61, length)
    first = 0 if advance is None else advance
    middle = first + (length - first) // 2
    ids[[middle, -2, -1]] = VOCAB.sep, VOCAB.sep, VOCAB.cls
    types = np.zeros(length, np.int64)
    types[middle + 1 : -1], types[-1] = 1, 2
    special = np.isin(ids, (VOCAB.sep, VOCAB.cls))
    labels = {} if advance is None else {ADVANCE: advance}
    return Window(ids, (draw.random(length) < 0.6).astype(np.uint8), special, types, labels)


def permuted(lengths, *, advance=None, seed=0, density=0.3):
    objective = PermutedLM(noise_density=density, memory_length=9)
    made = [
        objective.example(window(n, seed + i, advance), VOCAB, rng(seed, "x", i))
        for i, n in enumerate(lengths)
    ]
    return objective, made


def streams(made, dtype):
    """What the reference is given: left-padded ids, and from who sees whom its permutation mask and mapping."""
    contents = [int((e.inputs.visible_at != NEVER).sum()) for e in made]
    size, most = max(contents), max(len(e.inputs) - n for e, n in zip(made, contents, strict=True))
    rows = len(made)
    ids = torch.full((rows, size), VOCAB.pad)
    types, real = torch.full((rows, size), 3), torch.zeros(rows, size)
    perm, mapping = torch.zeros(rows, size, size), torch.zeros(rows, most, size)
    labels = torch.full((rows, most), IGNORE)
    for r, (example, n) in enumerate(zip(made, contents, strict=True)):
        s, left = example.inputs, size - n
        ids[r, left:], types[r, left:] = torch.tensor(s.input_ids[:n]), torch.tensor(s.token_type_ids[:n])
        real[r, left:] = 1
        sees = s.sees()[:, :n]
        blocked = ~sees[:n]
        for k, (place, label) in enumerate(
            zip(s.position_ids[n:], s.labels["permuted_token"][n:], strict=True)
        ):
            blocked[place] = ~sees[n + k]  # of a target the reference says what its query may not see
            mapping[r, k, left + place] = 1
            labels[r, k] = int(label)
        perm[r, left:, left:] = torch.tensor(blocked)
    return {"input_ids": ids, "token_type_ids": types, "attention_mask": real.to(dtype), "labels": labels,
            "perm_mask": perm.to(dtype), "target_mapping": mapping.to(dtype)}  # fmt: skip


def error(ours: torch.Tensor, theirs: torch.Tensor, tolerance: float) -> float:
    torch.testing.assert_close(ours, theirs, rtol=0, atol=tolerance)
    return float((ours - theirs).detach().abs().max())


def gradients(ours, theirs, tolerance: float, skipped: tuple[str, ...] = ()) -> float:
    grads = {name: p.grad for name, p in ours.named_parameters() if p.grad is not None}
    mine = xlnet._deep(to_theirs(xlnet.rules(3), grads), ours.backbone.config)
    worst = 0.0
    for name, p in theirs.named_parameters():
        name = name.removeprefix("transformer.")
        if p.grad is None:
            assert name in skipped or name not in mine or not bool(mine[name].any()), name
            continue
        worst = max(worst, error(mine.pop(name), p.grad, tolerance))
    assert not {name for name, g in mine.items() if bool(g.any())}
    return worst


@pytest.mark.parametrize(("dtype", "tolerance"), PRECISIONS)
def test_both_streams_losses_and_gradients(tmp_path: Path, dtype, tolerance, record_property):
    """Two streams of the reference, one of ours; padded, odd and even lengths, segments."""
    ours, theirs = pair(tmp_path, dtype)
    objective, made = permuted([13, 8, 11, 7])
    batch = collate(made, packed=False)
    given = streams(made, dtype)
    expected = theirs(**given, output_hidden_states=True)
    hidden = ours.backbone(batch.inputs)
    worst = 0.0
    assert len(expected.hidden_states) == 2 * len(hidden.layers) == 8
    logits = ours.heads["permuted_token"].logits(hidden.last)
    answers = 0.0
    for r, example in enumerate(made):
        n = int((example.inputs.visible_at != NEVER).sum())
        k = len(example.inputs) - n
        for layer, states in enumerate(hidden.layers):
            content, query = expected.hidden_states[2 * layer : 2 * layer + 2]
            worst = max(worst, error(states[r, :n], content[r, -n:], tolerance))
            worst = max(worst, error(states[r, n : n + k], query[r, :k], tolerance))
        answers = max(answers, error(logits[r, n : n + k], expected.logits[r, :k], tolerance))
    record_property("hidden", worst)
    record_property("logits", answers)
    loss = objective.losses(ours, batch).heads["permuted_token"]
    mean = loss.total / loss.count
    record_property("loss", error(mean, expected.loss.to(mean.dtype), tolerance))
    mean.backward()
    expected.loss.backward()
    record_property("gradients", gradients(ours, theirs, tolerance))


@pytest.mark.parametrize(("dtype", "tolerance"), PRECISIONS)
@pytest.mark.parametrize("attention", ["bi", "uni"])
def test_one_stream_with_left_padding(tmp_path: Path, dtype, tolerance, attention, record_property):
    ours, theirs = pair(tmp_path, dtype)
    theirs.transformer.attn_type = attention
    draw = np.random.default_rng(1)
    texts = [draw.integers(8, 61, n) for n in ((9, 4, 6) if attention == "bi" else (9, 9, 9))]
    kinds = [np.arange(len(t)) // 3 for t in texts]
    make = Slots.bidirectional if attention == "bi" else Slots.causal
    batch = collate([Example(make(t, token_type_ids=k)) for t, k in zip(texts, kinds, strict=True)])
    ids, types, real = (torch.zeros(3, 9, dtype=torch.long) for _ in range(3))
    for r, (text, kind) in enumerate(zip(texts, kinds, strict=True)):
        ids[r, -len(text) :], types[r, -len(text) :] = torch.tensor(text), torch.tensor(kind)
        real[r, -len(text) :] = 1
    mask = real.to(dtype) if attention == "bi" else None  # the reference's "uni" takes no padding
    expected = theirs(ids, token_type_ids=types, attention_mask=mask, output_hidden_states=True)
    hidden = ours.backbone(batch.inputs)
    logits = ours.heads["permuted_token"].logits(hidden.last)
    worst = answers = 0.0
    for r, text in enumerate(texts):
        at = batch.inputs.example_ids == r
        for states, other in zip(hidden.layers, expected.hidden_states, strict=True):
            worst = max(worst, error(states[at], other[r, -len(text) :], tolerance))
        answers = max(answers, error(logits[at], expected.logits[r, -len(text) :], tolerance))
    record_property("hidden", worst)
    record_property("logits", answers)


@pytest.mark.parametrize(("dtype", "tolerance"), PRECISIONS)
def test_memory_from_window_to_window(tmp_path: Path, dtype, tolerance, record_property):
    """``reuse_len`` 6, ``mem_len`` 9: kept, shortened, attended to, detached; one row begins anew on the way."""
    ours, theirs = pair(tmp_path, dtype, mem_len=9, reuse_len=6)
    memory, mems, alone = None, None, None
    for number in range(3):
        objective, made = permuted([14, 14], advance=6, seed=10 * number)
        starts = torch.tensor([number == 0, number != 1])
        batch = replace(collate(made, packed=False), starts=starts, memory=carried.reset(memory, starts))
        given = streams(made, dtype)
        losses = objective.losses(ours, batch)
        loss = losses.heads["permuted_token"]
        if number < 2:
            expected = theirs(**given, mems=mems, use_mems=True)
            wanted, mems = expected.loss, expected.mems
        else:  # the reference has no row that begins anew: the second is read alone
            apart = theirs(
                **{n: t[:1] for n, t in given.items()}, mems=[m[:, :1] for m in mems], use_mems=True
            )
            alone = theirs(**{n: t[1:] for n, t in given.items()}, use_mems=True)
            count = (given["labels"] != IGNORE).sum(1)
            wanted, mems = (apart.loss * count[0] + alone.loss * count[1]) / count.sum(), apart.mems
        record_property("loss", error(loss.total / loss.count, wanted.to(dtype), tolerance))
        if number == 1:
            (loss.total / loss.count).backward()
            wanted.backward()
            record_property("gradients", gradients(ours, theirs, tolerance))
        memory = carried.detach(losses.memory)
        assert len(mems) == len(memory.layers) == 3 and len(memory.slots) == min(9, 6 * (number + 1))
        assert memory.slots.position_ids[0].tolist() == list(range(-len(memory.slots), 0))
        for layer, kept in zip(memory.layers, mems, strict=True):
            record_property("hidden", error(layer[: kept.shape[1]], kept.transpose(0, 1), tolerance))
    # The second row forgot: of its memory only what the third window left is seen.
    assert (memory.slots.visible_at[1] == NEVER).tolist() == [True] * 3 + [False] * 6
    for layer, kept in zip(memory.layers, alone.mems, strict=True):
        error(layer[1, 3:], kept[:, 0], tolerance)


def test_one_direction_in_chunks_with_memory_is_one_pass(tmp_path: Path):
    """Causal slots: what each layer read, kept, gives the states of one pass, token by token too (spec 10 test 4)."""
    ours, _ = pair(tmp_path, torch.float64)
    ids = np.random.default_rng(2).integers(8, 61, 10)
    whole = collate([Example(Slots.causal(ids))]).inputs
    expected = ours.backbone(whole).layers
    weigh = torch.randn_like(expected[-1])
    wanted = torch.autograd.grad((expected[-1] * weigh).sum(), list(ours.backbone.stack.parameters()))
    for cuts in ((0, 4, 10), tuple(range(11))):
        memory, found = None, []
        for first, end in pairwise(cuts):
            part = replace(whole, **{n: getattr(whole, n)[:, first:end] for n in
                                     ("input_ids", "position_ids", "token_type_ids", "visible_at", "sees_until",
                                      "document_ids", "example_ids")}, layout=None)  # fmt: skip
            hidden = ours.backbone(part, memory=memory, use_memory=True)
            memory = hidden.memory
            found.append(hidden.layers)
        for layer, states in enumerate(expected):
            error(torch.cat([f[layer] for f in found], 1), states, 1e-9)
        last = torch.cat([f[-1] for f in found], 1)
        made = torch.autograd.grad((last * weigh).sum(), list(ours.backbone.stack.parameters()))
        for a, b in zip(made, wanted, strict=True):  # through the memory, whoever keeps it does not cut it
            error(a, b, 1e-9)
    with torch.no_grad():  # in both directions it is another model beyond the first layer: the control
        both = replace(whole, visible_at=whole.visible_at * 0, sees_until=whole.sees_until * 0, layout=None)
        assert float((ours.backbone(both).last - expected[-1]).abs().max()) > 1e-3


def test_memory_of_another_kind_is_refused(tmp_path: Path):
    ours, _ = pair(tmp_path, torch.float64)
    from plume.models.transformer import TransformerConfig

    other = PretrainedModel.build(TransformerConfig(3, 32, 4, 48), VOCAB, lambda b: {}, seed=0).eval()
    slots = collate([Example(Slots.causal([9, 8]))]).inputs
    memory = other.backbone(slots, use_memory=True).memory
    with pytest.raises(UserError, match="memory"):
        ours.backbone(slots, memory=memory)


def test_distances_alone_matter(tmp_path: Path):
    """Spec 10 test 5: shifting all positions changes nothing."""
    ours, _ = pair(tmp_path, torch.float64)
    ids = np.random.default_rng(3).integers(8, 61, 7)
    here = ours.backbone(collate([Example(Slots.bidirectional(ids))]).inputs).last
    there = ours.backbone(
        collate([Example(Slots.bidirectional(ids, position_ids=np.arange(7) + 900))]).inputs
    )
    error(there.last, here, 1e-9)


@pytest.mark.parametrize("kind", [XLNetLMHeadModel, XLNetModel, XLNetForSequenceClassification])
def test_both_directions_are_bit_exact(tmp_path: Path, kind):
    theirs = reference(kind, num_labels=3) if kind is XLNetForSequenceClassification else reference(kind)
    theirs.save_pretrained(tmp_path / "a")
    read = interop.load(tmp_path / "a")
    interop.save(read.model(VOCAB), VOCAB, tmp_path / "b", labels=read.labels)
    again, info = kind.from_pretrained(tmp_path / "b", output_loading_info=True)
    assert not any(info[f] for f in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    state = again.state_dict()
    assert all(torch.equal(state[n], t) for n, t in theirs.state_dict().items())
    mine, config = (json.loads((tmp_path / f / "config.json").read_text()) for f in "ba")
    for name in mine.keys() & config.keys() - {"pad_token_id", "bos_token_id", "eos_token_id"}:
        assert mine[name] == config[name], name


def test_a_classifier_reads_what_stands_last(tmp_path: Path, record_property):
    """The summary is the last slot, [CLS] after the text, and the reference wants it padded on the left."""
    theirs = reference(XLNetForSequenceClassification, id2label={0: "坏", 1: "plain", 2: "好"})
    theirs.save_pretrained(tmp_path)
    theirs = exact(theirs)
    read = interop.load(tmp_path)
    assert read.labels == ("坏", "plain", "好") and read.heads == ("label",)
    ours = read.model(VOCAB).double()
    framed = [PermutedLM().read([np.array(a), np.array(b)], VOCAB)
              for a, b in (([9, 10, 11], [12]), ([9], [20, 21, 22, 23]))]  # fmt: skip
    batch = collate([Example(slots) for slots, _ in framed], packed=False)
    hidden = ours.backbone(batch.inputs).last
    logits = torch.stack([ours.heads["label"].logits(hidden[r, at]) for r, (_, at) in enumerate(framed)])
    ids, types, real = torch.full((2, 8), 5), torch.full((2, 8), 3), torch.zeros(2, 8).double()
    for r, (slots, _) in enumerate(framed):
        ids[r, -len(slots) :], types[r, -len(slots) :] = (
            torch.tensor(t) for t in (slots.input_ids, slots.token_type_ids)
        )
        real[r, -len(slots) :] = 1
    expected = theirs(ids, token_type_ids=types, attention_mask=real).logits
    record_property("logits", error(logits, expected, 1e-9))
    interop.save(ours, VOCAB, tmp_path / "out", labels=read.labels)
    again = XLNetForSequenceClassification.from_pretrained(tmp_path / "out")
    assert again.config.id2label[2] == "好" and again.config.summary_type == "last"


def test_a_model_of_ours_continues_a_text_in_transformers_as_here(tmp_path: Path):
    from plume.models.transformer import TransformerConfig

    objective = PermutedLM()
    config = TransformerConfig(2, 16, 2, 32, "post", "relative", virtual_tokens=1, norm_eps=1e-12)
    model = PretrainedModel.build(config, VOCAB, lambda b: objective.heads(b, VOCAB), seed=4).eval()
    interop.save(model, VOCAB, tmp_path)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    text = np.array([9, 20, 31, 42, 13])
    asked, at = objective.ask_next(text, VOCAB)
    hidden = model.backbone(collate([Example(asked)]).inputs).last
    ours = model.heads["permuted_token"].logits(hidden[0, at])
    given = theirs.prepare_inputs_for_generation(torch.tensor(text)[None], is_first_iteration=True)
    error(ours, theirs(**given).logits[0, -1], 2e-5)


def test_what_xlnet_cannot_hold_is_refused(tmp_path: Path):
    from plume.models.transformer import TransformerConfig

    config = TransformerConfig(1, 8, 2, 8, "pre", "relative", virtual_tokens=1)
    model = PretrainedModel.build(config, VOCAB, lambda b: {}, seed=0)
    with pytest.raises(UserError, match="norms come first"):
        interop.save(model, VOCAB, tmp_path)
    reference().save_pretrained(tmp_path)
    tree = json.loads((tmp_path / "config.json").read_text())
    for bad, match in (({"attn_type": "uni"}, "uni"), ({"bi_data": True}, "bi_data"), ({"vocab_size": 60}, "61 rows"),
                       ({"ff_activation": "silu"}, "silu"), ({"n_layer": 4}, r"layer\.3")):  # fmt: skip
        (tmp_path / "config.json").write_text(json.dumps(tree | bad))
        with pytest.raises(UserError, match=match):
            interop.load(tmp_path)
