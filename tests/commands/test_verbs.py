"""What each verb promises, in English and Chinese, through the functions that the command line calls."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import plume
from plume.errors import UserError
from plume.text.readers import read
from plume.text.splits import split_of
from plume.training.folder import RunFolder
from tests.commands.conftest import ADAPTING, SMALL, House, call, ok

PROMPT = {"en": "The old printer", "zh": "城里的老人"}


def test_pretrain_makes_a_run_and_says_how_it_went(house: House) -> None:
    for name in ("gpt", "bert"):
        said = house.said[name]
        assert said["run"] == str(house.root / name) and said["step"] == 6
        assert said["train_loss"] > 0 and said["dev_loss"] > 0 and Path(said["curve"]).is_file()


def test_the_same_command_again_changes_nothing_and_says_so(
    house: House, capsys: pytest.CaptureFixture[str]
) -> None:
    before = RunFolder(house.gpt).metrics.read_bytes()
    code, out, err = call(capsys, "pretrain", "gpt:tiny", *SMALL, "--data", house.text, "--out", house.gpt)
    assert code == 0 and "finished" in err and "step 6" in out
    assert RunFolder(house.gpt).metrics.read_bytes() == before


def test_another_configuration_is_refused_with_the_difference(
    house: House, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--data", house.text, "--out", house.gpt, "training.lr=0.5"]
    code, out, err = call(capsys, "pretrain", "gpt:tiny", *SMALL, *words)
    assert code == 2 and not out
    assert "training.lr: 0.003 -> 0.5" in err and "training.steps" not in err


def test_a_run_is_a_recipe(house: House, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    config = house.gpt / "config.json"
    said = ok(capsys, "pretrain", config, "training.steps=2", "--data", house.text, "--out", tmp_path / "again",
              "--from", house.gpt)  # fmt: skip
    assert said["step"] == 2
    assert json.loads((tmp_path / "again" / "run.json").read_text(encoding="utf-8"))["parent"]["step"] == 6


def test_evaluate_reads_what_no_verb_trained_on(house: House, capsys: pytest.CaptureFixture[str]) -> None:
    texts = [d.text for d in read([house.text])]
    said = ok(capsys, "evaluate", house.gpt, "--data", house.text)
    held_out = [t for t in texts if split_of(t) == "test"]
    assert said["documents"] == len(held_out) < len(texts)
    assert said["bytes"] == sum(len(t.encode()) for t in held_out)
    assert 0 < said["bits_per_byte"] < 9 and not said["pseudo"]
    everything = ok(capsys, "evaluate", house.gpt, "--data", house.text, "--split", "all", "--limit", 20)
    assert everything["documents"] == 20


def test_evaluate_of_a_masked_model_says_pseudo(house: House, capsys: pytest.CaptureFixture[str]) -> None:
    assert ok(capsys, "evaluate", house.bert, "--data", house.text, "--limit", 2)["pseudo"]
    _, out, _ = call(capsys, "evaluate", house.bert, "--data", house.text, "--limit", 2)
    assert "pseudo-perplexity" in out
    assert ("a word" in out) == (house.language == "en")


def test_evaluate_of_a_classifier(house: House, capsys: pytest.CaptureFixture[str]) -> None:
    said = ok(capsys, "evaluate", house.mood, "--data", house.labels, "--split", "all")
    assert said["texts"] == 80
    for name in ("accuracy", "macro_f1"):
        low, high = said[name]["ci95"]
        assert 0 <= low <= said[name]["value"] <= high <= 1
    _, out, _ = call(capsys, "evaluate", house.mood, "--data", house.labels, "--split", "all")
    assert "accuracy" in out and "macro F1" in out


def test_adapt_keeps_a_test_part_and_names_its_labels(house: House) -> None:
    said = house.said["mood"]
    assert said["labels"] == ["bad", "good"] and "test" not in said["scores"]
    assert 0 <= said["scores"]["dev"]["accuracy"] <= 1


def test_adapt_frozen_leaves_the_backbone_alone(
    house: House, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    words = ["mode=frozen", *ADAPTING, "--data", house.labels, "--eval", house.labels, "--examples", 8]
    said = ok(capsys, "adapt", house.bert, *words, "--out", tmp_path / "frozen")
    assert said["scores"]["test"]["texts"] == 80
    before, after = plume.load(house.bert).model.state(), plume.load(tmp_path / "frozen").model.state()
    backbone = [name for name in after if name.startswith("backbone.")]
    assert backbone and all((before[name] == after[name]).all() for name in backbone)


def test_generate(house: House, capsys: pytest.CaptureFixture[str]) -> None:
    prompt = PROMPT[house.language]
    words = ["generate", house.gpt, "--prompt", prompt, "--max-new-tokens", 5]
    code, streamed, _ = call(capsys, *words)
    assert code == 0 and streamed.startswith(prompt)
    [text] = ok(capsys, *words)["texts"]
    assert streamed == prompt + text["text"] + "\n"
    many = ok(capsys, *words, "--prompt", "", "--samples", 2)["texts"]
    assert [t["prompt"] for t in many] == [prompt, prompt, "", ""]
    assert many[0]["text"] == text["text"], "neighbours change nothing"
    assert plume.generate(house.gpt, prompt, max_new_tokens=5) == text["text"]


def test_generate_fills_masks_where_the_model_can(house: House, capsys: pytest.CaptureFixture[str]) -> None:
    prompt = {"en": "The [MASK] printer [MASK].", "zh": "城里的[MASK]人[MASK]。"}[house.language]
    [said] = ok(capsys, "generate", house.bert, "--prompt", prompt)["texts"]
    assert len(said["masks"]) == 2 and len(said["masks"][0]) == 5
    first = said["masks"][0][0]
    assert 0 < first["probability"] <= 1 and "[MASK]" in first["text"]


def test_chat(house: House, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    import io

    typed = f"{PROMPT[house.language]}\n\n/new\n{PROMPT[house.language]}\n/quit\nnever read\n"
    monkeypatch.setattr("sys.stdin", io.StringIO(typed))
    turns = ok(capsys, "chat", house.gpt, "--max-new-tokens", 4)["turns"]
    assert [turn["you"] for turn in turns] == [PROMPT[house.language], "", PROMPT[house.language]]
    assert all("\n" not in turn["model"] for turn in turns)
    monkeypatch.setattr("sys.stdin", io.StringIO(typed))
    _, out, _ = call(capsys, "chat", house.gpt, "--max-new-tokens", 4)
    assert out == "".join(turn["model"] + "\n" for turn in turns)


@pytest.mark.parametrize("kind", ["wordpiece", "bpe", "characters"])
def test_tokenizer(house: House, capsys: pytest.CaptureFixture[str], tmp_path: Path, kind: str) -> None:
    words = ["tokenizer", house.text, "--out", tmp_path / "t", "--kind", kind, "--vocab-size", 300]
    said = ok(capsys, *words)
    assert said["kind"] == kind and said["vocab_size"] <= 300 and said["bytes_per_token"] > 0
    assert ok(capsys, *words) == said, "the same again is no conflict"
    other = "bpe" if kind == "characters" else "characters"
    code, _, err = call(capsys, *[other if word == kind else word for word in words])
    assert code == 2 and "another tokenizer" in err


def test_a_tokenizer_can_be_given(house: House, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    tokens = tmp_path / "tokens"
    ok(capsys, "tokenizer", house.text, "--out", tokens, "--kind", "characters", "--vocab-size", 300)
    ok(capsys, "pretrain", "gpt:tiny", *SMALL[:-1], "--data", house.text, "--out", tmp_path / "run",
       "--tokenizer", tokens)  # fmt: skip
    assert plume.load(tmp_path / "run").tokenizer.kind == "characters"


@pytest.mark.parametrize("name", ["gpt", "bert", "mood"])
def test_export_and_import_give_the_same_model_back(
    house: House, capsys: pytest.CaptureFixture[str], tmp_path: Path, name: str
) -> None:
    run = house.root / name
    said = ok(capsys, "export", run, "--to", tmp_path / "hf")
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= set(said["files"])
    back = ok(capsys, "import", tmp_path / "hf", "--out", tmp_path / "back")
    text = PROMPT[house.language]
    ours, published, imported = (plume.load(p) for p in (run, tmp_path / "hf", tmp_path / "back"))
    assert set(back["can"]) == set(imported.can) == set(published.can) == set(ours.can)
    for other in (published, imported):
        assert (other.hidden_states(text) == ours.hidden_states(text)).all()
        if name == "mood":
            assert other.classify(text) == ours.classify(text)
        else:
            assert (other.logits(text) == ours.logits(text)).all()
    code, _, err = call(capsys, "import", tmp_path / "hf", "--out", tmp_path / "back")
    assert code == 2 and "holds a run already" in err
    code, _, err = call(capsys, "export", run, "--to", run)
    assert code == 2 and "folder of its own" in err
    before = (tmp_path / "hf" / "model.safetensors").read_bytes()
    code, _, err = call(capsys, "export", house.root / "gpt", "--to", tmp_path / "hf")
    assert code == 2 and "holds a model already (config.json)" in err
    assert (tmp_path / "hf" / "model.safetensors").read_bytes() == before


def test_an_imported_run_can_be_adapted(
    house: House, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    ok(capsys, "export", house.bert, "--to", tmp_path / "hf")
    ok(capsys, "import", tmp_path / "hf", "--out", tmp_path / "back")
    words = [*ADAPTING, "--data", house.labels, "--out", tmp_path / "mood"]
    assert ok(capsys, "adapt", tmp_path / "back", *words)["labels"] == ["bad", "good"]


def test_every_verb_is_a_function(house: House, tmp_path: Path) -> None:
    from plume.recipes import gpt

    run = plume.pretrain(gpt.tiny(), *SMALL, "training.steps=2", data=str(house.text), out=tmp_path / "run")
    assert isinstance(run, plume.Run) and run.step == 2
    assert plume.evaluate(run, data=house.text)["documents"] > 0
    assert plume.export(run, to=tmp_path / "hf").is_dir()
    assert plume.import_folder(tmp_path / "hf", out=tmp_path / "back").can == run.can
    assert plume.tokenizer([house.text], out=tmp_path / "t", vocab_size=300).kind == "wordpiece"
    assert plume.adapt(house.bert, *ADAPTING, data=house.labels, out=tmp_path / "mood").labels == (
        "bad",
        "good",
    )
    lines = iter([PROMPT[house.language], None])
    assert len(plume.chat(run, lambda: next(lines), max_new_tokens=2)) == 1
    assert "recipe" in plume.show(house.gpt.as_posix()).to_json()["pictures"][0]
    with pytest.raises(AttributeError, match="no attribute 'pretrian'"):
        plume.pretrian  # noqa: B018
    with pytest.raises(UserError):
        plume.load(tmp_path / "gone")
