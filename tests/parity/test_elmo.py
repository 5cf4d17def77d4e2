"""ELMo against the AllenNLP fixture, in its own file format, and against the formulas written out (spec 04).

The fixture (tests/parity/elmo, Apache-2.0, from the wheel of allennlp 0.9.0) has weights, three rows of ten
sentences, and the top layer that the original program gave for them, its state carried from sentence to sentence.
"""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from plume.errors import UserError
from plume.models import interop
from plume.models.bilstm import BiLSTMConfig
from plume.models.interop import elmo
from plume.models.pretrained import PretrainedModel
from plume.objectives.bidirectional import BidirectionalLM
from plume.seeding import rng
from plume.slots import Example, Memory, Slots, collate
from plume.text.spelling import BEGIN, END, characters, spell
from plume.text.window import Window
from plume.vocabulary import Vocabulary

FIXTURE = Path(__file__).parent / "elmo"
SENTENCES = [[text.split() for text in row] for row in json.loads((FIXTURE / "sentences.json").read_text())]
SMALL = BiLSTMConfig(d_model=6, d_cell=10, d_character=3, filters=((1, 2), (3, 4)), dropout=0.0)
PIECES = ("[UNK]", "<S>", "</S>", "the", "猫", "of", "ran", "##x", "##猫")
VOCAB = Vocabulary(size=9, unk=0, bos=1, eos=2, pieces=PIECES)


def sentence(words):
    rows = np.stack([BEGIN, *(characters(word.encode()) for word in words), END])
    return Slots.bidirectional(np.zeros(len(rows), np.int64), features=rows)


def batch(sentences):
    return collate([Example(sentence(words)) for words in sentences], packed=False).inputs


def expected(row):
    with h5py.File(FIXTURE / f"lm_embeddings_{row}.hdf5") as file:
        return [np.array(file[str(i)]) for i in range(len(file))]


def test_the_fixtures_top_layer_with_state_carried_from_sentence_to_sentence(record_property):
    """Ten batches of three padded sentences, both directions."""
    backbone = interop.load(FIXTURE).model(Vocabulary(size=0)).backbone.double()
    wanted = [expected(row) for row in range(3)]
    memory: Memory | None = None
    first = worst = 0.0
    for number in range(10):
        words = [SENTENCES[row][number] for row in range(3)]
        with torch.no_grad():
            hidden = backbone(batch(words), memory=memory)
        memory = hidden.memory
        for row, said in enumerate(words):
            inside = slice(1, len(said) + 1)  # without the marks of the sentence's ends
            for found, theirs in zip((hidden.last, hidden.backward), wanted[row][number], strict=True):
                error = float(np.abs(found[row, inside].numpy() - theirs).max())
                worst = max(worst, error)
                first = max(first, error) if (row, number) == (0, 0) else first
    record_property("hidden", worst)
    assert first < 7.5e-7  # spec 04 section 3
    assert worst < 1.5e-6  # the fixture was computed in fp32, over 295 words in a row


def test_without_the_state_only_the_first_sentence_is_the_same():
    """The negative control: what was carried was needed."""
    backbone = interop.load(FIXTURE).model(Vocabulary(size=0)).backbone.double()
    found = [backbone(batch([SENTENCES[0][i]])).last[0, 1:-1].detach().numpy() for i in range(2)]
    assert np.abs(found[0] - expected(0)[0][0]).max() < 1e-6
    assert np.abs(found[1] - expected(0)[1][0]).max() > 1e-3


def by_hand(state, config, rows):
    """One sentence, slot by slot, in numpy and double precision: layers [L + 1, T, 2 P]."""
    w = {n: t.double().numpy() for n, t in elmo.tensors(state, config).items()}

    def sigmoid(x):
        return 1 / (1 + np.exp(-x))

    words = []
    for row in rows:
        letters = np.stack([w["char_embed"][i - 1] for i in row])
        said = []
        for i, (width, _) in enumerate(config.filters):
            kernel, bias = w[f"CNN/W_cnn_{i}"][0], w[f"CNN/b_cnn_{i}"]
            answers = [sum(letters[at + j] @ kernel[j] for j in range(width)) for at in range(50 - width + 1)]
            said.append(np.maximum(np.max(answers, 0) + bias, 0))
        x = np.concatenate(said)
        for i in range(config.num_highways):
            p = f"CNN_high_{i}"
            gate = sigmoid(x @ w[f"{p}/W_carry"] + w[f"{p}/b_carry"])
            x = gate * np.maximum(x @ w[f"{p}/W_transform"] + w[f"{p}/b_transform"], 0) + (1 - gate) * x
        words.append(x @ w["CNN_proj/W_proj"] + w["CNN_proj/b_proj"])
    words = np.stack(words)
    both = []
    for number in range(2):
        x = words[::-1] if number else words
        layers = [x]
        for i in range(config.num_layers):
            p = f"RNN_{number}/RNN/MultiRNNCell/Cell{i}/LSTMCell"
            h, c, out = np.zeros(config.d_model), np.zeros(config.d_cell), []
            for word in x:
                gates = np.concatenate([word, h]) @ w[f"{p}/W_0"] + w[f"{p}/B"]
                a, g, f, o = np.split(gates, 4)
                c = np.clip(sigmoid(a) * np.tanh(g) + sigmoid(f + 1) * c, -3, 3)
                h = np.clip((sigmoid(o) * np.tanh(c)) @ w[f"{p}/W_P_0"], -3, 3)
                out.append(h)
            x = np.stack(out) + (x if i else 0)
            layers.append(x)
        both.append([layer[::-1] if number else layer for layer in layers])
    return np.stack([np.concatenate(pair, 1) for pair in zip(*both, strict=True)])


def model(seed=0, config=SMALL, objective=None):
    objective = objective or BidirectionalLM()
    return PretrainedModel.build(config, VOCAB, lambda b: objective.heads(b, VOCAB), seed=seed).eval()


def shaken(seed=0):
    made = model(seed)
    generator = torch.Generator().manual_seed(seed)
    for p in made.parameters():
        p.data += torch.randn(p.shape, generator=generator) * 0.3
    return made


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
def test_every_layer_equals_the_formulas_in_padded_batches(dtype, tolerance, record_property):
    made = shaken().to(dtype)
    sentences = [["the", "猫", "ran"], ["of"], ["the", "x" * 60, "of", "the", "plume"]]
    hidden = made.backbone(batch(sentences))
    worst = 0.0
    for row, words in enumerate(sentences):
        reference = by_hand(made.state(), SMALL, sentence(words).features)
        layers = torch.stack(hidden.layers)[:, row, : len(words) + 2].detach().double().numpy()
        worst = max(worst, float(np.abs(layers - reference).max()))
        assert np.abs(layers[-1][:, :6] - hidden.last[row, : len(words) + 2].detach().numpy()).max() == 0
        for padded in hidden.layers[1:]:
            assert not padded[row, len(words) + 2 :].any()
    record_property("hidden", worst)
    assert worst < tolerance


def test_losses_and_gradients_equal_torchs_autograd_over_single_sentences(record_property):
    """A padded batch of two streams, against each sentence alone and a softmax over all words."""
    made, objective = shaken().double(), BidirectionalLM()
    texts = [[1, 3, 4, 2], [1, 5, 2], [1, 6, 0, 7, 8, 3, 2]]
    examples = [objective.example(window(t), VOCAB, rng(0, "x")) for t in texts]
    losses = objective.losses(made, collate(examples, packed=False)).heads
    table = made.heads["next_token"].table
    totals = {"next_token": 0.0, "previous_token": 0.0}
    logits_error = 0.0
    for text in texts:
        ids, rows = spell(np.array(text), VOCAB)
        whole = made.backbone(collate([Example(Slots.bidirectional(ids, features=rows))]).inputs)
        ahead, back = whole.last[0, :-1], whole.backward[0, 1:]
        for name, states, labels in (("next_token", ahead, ids[1:]), ("previous_token", back, ids[:-1])):
            logits = states @ table.weight.T + table.bias
            logits_error = max(
                logits_error, float((made.heads[name].logits(states) - logits).detach().abs().max())
            )
            totals[name] += torch.nn.functional.cross_entropy(
                logits, torch.from_numpy(labels), reduction="sum"
            )
    parameters = list(made.parameters())
    mine = torch.autograd.grad(sum(loss.total for loss in losses.values()), parameters)
    theirs = torch.autograd.grad(sum(totals.values()), parameters)
    gradients = max(float((a - b).abs().max()) for a, b in zip(mine, theirs, strict=True))
    loss = max(float(abs(losses[n].total - totals[n]).detach()) for n in totals)
    record_property("precision", "fp64")
    record_property("logits", logits_error)
    record_property("loss", loss)
    record_property("gradients", gradients)
    assert max(logits_error, loss, gradients) < 1e-9
    assert losses["next_token"].count == losses["previous_token"].count == 3 + 2 + 4


def window(ids):
    n = len(ids)
    return Window(np.array(ids), np.ones(n, np.uint8), np.zeros(n, bool), np.zeros(n, np.int64), {})


def test_both_directions_of_the_file_are_bit_exact(tmp_path):
    read = interop.load(FIXTURE)
    interop.save(read.model(Vocabulary(size=0)), Vocabulary(size=0), tmp_path / "a")
    with h5py.File(FIXTURE / "lm_weights.hdf5") as one, h5py.File(tmp_path / "a" / "weights.hdf5") as two:
        names = []
        one.visititems(lambda n, v: names.append(n) if isinstance(v, h5py.Dataset) else None)
        for name in names:
            assert np.array_equal(one[name], two[name]) and one[name].shape == two[name].shape, name
        assert len(names) == len(list(read.state))
    mine, theirs = (json.loads((f / "options.json").read_text()) for f in (tmp_path / "a", FIXTURE))
    assert mine == theirs

    made = shaken()
    interop.save(made, VOCAB, tmp_path / "b")
    again = interop.load(tmp_path / "b").model(VOCAB)
    assert set(again.heads) == {"next_token", "previous_token"}
    assert all(torch.equal(t, again.state()[n]) for n, t in made.state().items())
    assert again.heads["next_token"].table is again.heads["previous_token"].table
    assert (tmp_path / "b" / "vocabulary.txt").read_text(encoding="utf-8").split() == list(PIECES)


def test_folders_that_are_no_elmo_say_so(tmp_path):
    options = json.loads((FIXTURE / "options.json").read_text())
    (tmp_path / "options.json").write_text("{}")
    with pytest.raises(UserError, match="does not describe an ELMo"):
        interop.load(tmp_path)
    (tmp_path / "options.json").write_text(json.dumps(options))
    with pytest.raises(UserError, match=r"weights\.hdf5"):
        interop.load(tmp_path)
    (tmp_path / "weights.hdf5").write_text("not HDF5")
    with pytest.raises(UserError, match="HDF5"):
        interop.load(tmp_path)
    (tmp_path / "weights.hdf5").write_bytes((FIXTURE / "lm_weights.hdf5").read_bytes())
    options["lstm"]["n_layers"] = 3
    (tmp_path / "options.json").write_text(json.dumps(options))
    with pytest.raises(UserError, match="Cell2"):
        interop.load(tmp_path)


def test_the_published_size():
    """93,600,848 without the softmax (spec 04 section 2), part by part."""
    big = PretrainedModel.build(BiLSTMConfig(), VOCAB, lambda b: {}, seed=0, device="meta")
    counts: dict[str, int] = {}
    for name, tensor in big.state().items():
        part = name.split(".")[2 if "characters" in name else 1]
        counts[part] = counts.get(part, 0) + tensor.numel()
    assert counts["table"] == 4_176 and counts["filters"] == 199_168
    assert counts["highways"] == 16_785_408 and counts["projection"] == 1_049_088
    assert counts["ahead"] + counts["back"] == 75_563_008
    assert sum(counts.values()) == 93_600_848
