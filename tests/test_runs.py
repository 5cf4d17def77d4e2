"""A run as one object: what it computes agrees with itself, and what it cannot do it says in one sentence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import plume
from plume import config
from plume.errors import UserError
from plume.generation.sampling import Decoding
from plume.models.pretrained import PretrainedModel
from plume.models.recurrent import RecurrentConfig
from plume.models.transformer import TransformerConfig
from plume.objectives.base import Objective
from plume.objectives.causal import CausalLM
from plume.objectives.classification import Classification
from plume.objectives.masked import MaskedLM
from plume.runs import Run, load
from plume.text.tokenizers import ByteLevelBPE, Characters, TokenizerConfig, WordPiece
from plume.text.windows import PackedStream, SegmentPairs
from plume.training.checkpoints import Checkpoints
from plume.training.folder import RunFolder, write_json
from plume.training.settings import Adaptation, Pretraining, Training
from tests.conftest import documents

SHAPE = TransformerConfig(
    num_layers=2, d_model=16, num_heads=2, d_ff=32, max_positions=40, token_types=2, dropout=0.1
)
TEXTS = {
    "en": ["The old printer.", "My grandmother follows the city."],
    "zh": ["城里的老人。", "我的外婆想起了雨声"],
}


def make(folder: Path, language: str, kind: str) -> Run:
    """A run with random weights, as a training verb would have left it."""
    texts = documents(language, 40)
    tokenizers: dict[str, TokenizerConfig] = {"gpt": ByteLevelBPE(330), "lstm": Characters(200)}
    tokenizer = tokenizers.get(kind, WordPiece(200)).train(texts)
    training = Training(steps=1, batch_size=1, lr=1e-3)
    model: TransformerConfig | RecurrentConfig = SHAPE
    objective: Objective[Any] = CausalLM()
    recipe: Pretraining | Adaptation
    if kind == "lstm":
        model = RecurrentConfig(num_layers=1, d_model=16)
    if kind in ("bert", "mood"):
        objective = MaskedLM(next_sentence=True)
    if kind == "mood":
        objective = Classification(objective, ("bad", "good"), max_length=20)
        recipe = Adaptation(objective=objective, model=model, training=training)
    else:
        windows = SegmentPairs(32) if kind == "bert" else PackedStream(32)
        recipe = Pretraining(
            tokenizer=WordPiece(200), windows=windows, objective=objective, model=model, training=training
        )
    run = RunFolder(folder)
    vocab = tokenizer.vocabulary
    network = PretrainedModel.build(model, vocab, lambda b: objective.heads(b, vocab), seed=3)
    # Weights that a real run would have: larger than initial ones, so that answers differ.
    state = {name: t * 8 for name, t in network.state().items()}
    tokenizer.save(run.tokenizer)
    write_json(run.config, config.to_json(recipe))
    run.write_run({"kind": "pretraining"})
    Checkpoints(run.checkpoints).save(7, {"model": state}, {})
    return load(folder)


@pytest.fixture
def gpt(tmp_path: Path, language: str) -> Run:
    return make(tmp_path / "gpt-1", language, "gpt")


@pytest.fixture
def bert(tmp_path: Path, language: str) -> Run:
    return make(tmp_path / "bert-1", language, "bert")


@pytest.fixture
def mood(tmp_path: Path, language: str) -> Run:
    return make(tmp_path / "mood", language, "mood")


def test_what_each_can_do(gpt: Run, bert: Run, mood: Run, tmp_path: Path) -> None:
    scores = {"loglikelihood", "loglikelihood_rolling", "logits", "generate"}
    everyone = {"embed", "hidden_states"}
    assert set(gpt.can) == scores | everyone == set(make(tmp_path / "lstm", "en", "lstm").can)
    assert set(bert.can) == scores | everyone | {"fill_mask"}
    assert set(mood.can) == {"classify"} | everyone
    assert gpt.step == 7 and gpt.name == "gpt-1" and mood.labels == ("bad", "good")


@pytest.mark.parametrize(
    ("kind", "call", "sentence"),
    [
        ("gpt", lambda run: run.fill_mask("[MASK]"), "gpt cannot fill masks .*next_token.* bert:tiny"),
        ("gpt", lambda run: run.classify("x"), "gpt cannot classify .*plume adapt"),
        ("mood", lambda run: run.generate("x"), "mood cannot generate .*label.* gpt:tiny"),
        ("mood", lambda run: run.logits("x"), "mood cannot say how likely each token is"),
        ("mood", lambda run: run.loglikelihood("x", "y"), "mood cannot say how likely a text is"),
        ("bert", lambda run: run.fill_mask("no mask"), r"there is no \[MASK\] in 'no mask'"),
        ("bert", lambda run: run.fill_mask("[MASK]" + " 老人" * 60), "can read 40"),
        ("bert", lambda run: run.embed(""), "empty"),
        ("gpt", lambda run: run.loglikelihood(["a", "b"], ["c", "d", "e"]), "2 contexts and 3"),
    ],
)  # fmt: skip
def test_what_it_cannot_do_is_one_sentence(tmp_path: Path, kind: str, call: object, sentence: str) -> None:
    run = make(tmp_path / kind, "en", kind)
    with pytest.raises(UserError, match=sentence):
        call(run)  # type: ignore[operator]


def test_likelihoods_are_the_sums_of_the_logits(gpt: Run, language: str) -> None:
    text = TEXTS[language][1]
    ids = gpt.tokenizer.encode(text)
    log_probs = gpt.logits(text).log_softmax(-1)
    assert log_probs.shape == (len(ids), gpt.tokenizer.vocabulary.size)
    inside = sum(float(log_probs[t, ids[t + 1]]) for t in range(len(ids) - 1))
    start, end = text[:6], text[6:]
    first = gpt.tokenizer.encode(start)
    after = sum(float(log_probs[t, ids[t + 1]]) for t in range(len(first) - 1, len(ids) - 1))
    if (gpt.tokenizer.encode(start + end)[: len(first)] == first).all():
        assert gpt.loglikelihood(start, end) == pytest.approx(after, abs=1e-4)
    assert gpt.loglikelihood_rolling(text) < inside, "the first token is asked for too"
    many = gpt.loglikelihood_rolling([text, text])
    assert many == [pytest.approx(gpt.loglikelihood_rolling(text), abs=1e-4)] * 2
    assert (
        gpt.loglikelihood(start, [end, end]) == [pytest.approx(gpt.loglikelihood(start, end), abs=1e-4)] * 2
    )


def test_greedy_generation_follows_the_logits(gpt: Run, language: str) -> None:
    text = TEXTS[language][0]
    [completion] = gpt.complete([text], Decoding(max_new_tokens=1, temperature=0, suppress=(), eos=()))
    assert completion.ids[0] == int(gpt.logits(text)[-1].argmax())
    assert (
        gpt.generate([text, text], max_new_tokens=3, temperature=0)
        == [gpt.generate(text, max_new_tokens=3, temperature=0)] * 2
    )
    assert isinstance(gpt.generate("", max_new_tokens=2), str)
    assert gpt.generate((text,), max_new_tokens=1) == gpt.generate([text], max_new_tokens=1)


def test_hidden_states_are_what_the_heads_read(gpt: Run, bert: Run, language: str) -> None:
    text = TEXTS[language][0]
    for run, frame in ((gpt, 0), (bert, 2)):
        states = run.hidden_states(text)
        assert states.shape == (3, len(run.tokenizer.encode(text)) + frame, 16)
        head = run.model.heads["next_token" if frame == 0 else "masked_token"]
        torch.testing.assert_close(head.logits(states[-1]), run.logits(text))
        assert not states.requires_grad and states.clone().mul_(2) is not None


def test_embeddings_of_one_and_many(bert: Run, mood: Run, language: str) -> None:
    texts = TEXTS[language]
    for run in (bert, mood):
        many = run.embed([*texts, texts[0] * 30])
        assert many.shape == (3, 16) and many.dtype == np.float32
        np.testing.assert_allclose(many[0], run.embed(texts[0]), rtol=2e-5, atol=2e-6)
    np.testing.assert_allclose(
        bert.embed(texts)[1], bert.hidden_states(texts[1])[-1].mean(0).numpy(), rtol=1e-4
    )
    pair = bert.embed((texts[0], texts[1]))
    assert pair.shape == (16,) and not np.allclose(pair, bert.embed(texts[0] + texts[1]))


def test_fill_mask_gives_the_models_own_probabilities(bert: Run, language: str) -> None:
    prompt = {"en": "the [MASK] printer", "zh": "城[MASK]的老人"}[language]
    found = bert.fill_mask(prompt, top=3)
    assert [f.probability for f in found] == sorted((f.probability for f in found), reverse=True)
    mask = bert.tokenizer.vocabulary.require("mask")
    before, after = (bert.tokenizer.encode(part) for part in prompt.split("[MASK]"))
    framed, _ = MaskedLM().read([np.concatenate([before, [mask], after])], bert.tokenizer.vocabulary)
    from plume.slots import Example, collate

    with torch.no_grad():
        hidden = bert.model.backbone(collate([Example(framed)]).inputs)
        logits = bert.model.heads["masked_token"].logits(hidden.last[0, 1 + len(before)])
    logits[list(bert.tokenizer.vocabulary.special)] = -torch.inf
    assert found[0].probability == pytest.approx(float(logits.softmax(-1).max()), rel=1e-4)
    assert "[MASK]" not in found[0].text and "[MASK]" not in found[0].token
    two = bert.fill_mask([prompt, prompt + "[MASK]"], top=2)
    assert len(two) == 2 and len(two[0]) == 2 and [len(mask) for mask in two[1]] == [2, 2]


def test_a_users_control_tokens_are_only_text(bert: Run) -> None:
    """ "[SEP]" typed by a user must not become the mark: the length in slots would show it."""
    plain = bert.hidden_states("a [SEP] b").shape[1]
    assert plain > bert.hidden_states("a b").shape[1] + 1


def test_classify_one_many_pairs_and_long_texts(mood: Run, language: str) -> None:
    texts = TEXTS[language]
    many = mood.classify([*texts, (texts[0], texts[1]), texts[0] * 50])
    assert len(many) == 4
    one = mood.classify(texts[0])
    assert one.label in ("bad", "good") and one.probability == max(one.probabilities.values())
    assert sum(one.probabilities.values()) == pytest.approx(1, abs=1e-5)
    assert many[0].probabilities == pytest.approx(one.probabilities, rel=1e-4)
    assert mood.classify((texts[0], texts[1])).probabilities == pytest.approx(many[2].probabilities, rel=1e-4)


def test_it_draws_itself(gpt: Run) -> None:
    html = gpt._repr_html_()
    assert "gpt-1" in html and "loglikelihood_rolling" in html and "<script" not in html
    assert "step 7" in repr(gpt)


def test_weights_that_are_missing_take_their_head_with_them(tmp_path: Path) -> None:
    run = make(tmp_path / "run", "en", "bert")
    state = {n: t for n, t in run.model.state().items() if not n.startswith("heads.masked_token")}
    Checkpoints(RunFolder(run.path).checkpoints).save(8, {"model": state}, {})
    headless = load(run.path)
    assert set(headless.model.heads) == {"next_sentence"} and headless.can == ("embed", "hidden_states")


@pytest.mark.parametrize("what", ["gone", "empty", "begun", "no weights", "strange"])
def test_a_folder_that_is_no_run(tmp_path: Path, what: str) -> None:
    folder = tmp_path / "文件夹"
    sentence = {
        "gone": "is no folder",
        "empty": "neither a run",
        "begun": "no checkpoint yet",
        "no weights": "no valid checkpoint",
        "strange": "'elephant' model",
    }[what]
    if what != "gone":
        folder.mkdir()
    if what == "begun":
        write_json(folder / "config.json", config.to_json(CausalLM()))
    if what == "no weights":
        make(folder, "en", "gpt")
        for path in folder.glob("checkpoints/*/model.safetensors"):
            path.write_bytes(b"")
    if what == "strange":
        (folder / "config.json").write_text('{"model_type": "elephant"}', encoding="utf-8")
    with pytest.raises(UserError, match=sentence) as error:
        plume.load(folder)
    assert "文件夹" in str(error.value)
