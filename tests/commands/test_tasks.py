"""T5's tasks through the verbs: mixed with the text, stopped, gone on with, asked, measured; and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import plume
from plume.errors import UserError
from plume.slots import Example, Slots, collate
from plume.training import faults
from plume.training.checkpoints import Checkpoints
from tests.commands.conftest import call, ok
from tests.conftest import documents

SMALL = [
    "training.steps=6", "training.batch_size=8", "training.microbatch_size=4", "training.eval_every=3",
    "training.eval_batches=1", "training.save_every=3", "training.warmup_steps=1", "training.precision=fp32",
    "model.num_layers=1", "model.num_decoder_layers=1", "model.d_model=32", "model.num_heads=2", "model.d_ff=64",
    "model.d_head=8", "windows.length=48", "tokenizer.vocab_size=500",
]  # fmt: skip
WORDS = {
    "en": ("translate English to Chinese: ", "mood: ", "the cat {} sleeps", "good", "bad"),
    "zh": ("译成英文：", "心情：", "第{}只猫睡了", "好", "坏"),
}


@pytest.fixture(autouse=True)
def _no_curve(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("plume.training.pretraining.draw_curve", lambda *_, **__: None)


def lay_out(folder: Path, language: str) -> tuple[Path, Path, Path]:
    """Text, a file of two tasks, and the rows of the first."""
    translate, mood, sentence, good, bad = WORDS[language]
    other = WORDS["zh" if language == "en" else "en"][2]
    text, rows, file = folder / "text.txt", folder / "pairs.jsonl", folder / "tasks.toml"
    text.write_text("\n".join(documents(language, 120)), "utf-8")
    pairs = ({"source": sentence.format(i), "target": other.format(i)} for i in range(120))
    rows.write_text("\n".join(json.dumps(p, ensure_ascii=False) for p in pairs), "utf-8")
    moods = (f"{sentence.format(i)},{(good, bad)[i % 2]}" for i in range(90))
    (folder / "moods.csv").write_text("\n".join(["text,mood", *moods]), "utf-8")
    file.write_text(
        f'cap = 64\ntemperature = 2.0\n[translate]\ndata = "pairs.jsonl"\nprefix = "{translate}"\n'
        f'[mood]\ndata = "moods.csv"\nprefix = "{mood}"\nsource = "text"\ntarget = "mood"\n',
        "utf-8",
    )
    return text, file, rows


def test_a_run_of_tasks_is_stopped_goes_on_and_answers(
    language: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    text, file, rows = lay_out(tmp_path, language)
    translate, _, sentence, *_ = WORDS[language]
    words = ["t5:tiny", *SMALL, "--data", text, "--tasks", file, "--out"]
    straight, stopped = tmp_path / "straight", tmp_path / "stopped"
    said = ok(capsys, "pretrain", *words, straight)
    assert said["step"] == 6 and set(said["task_losses"]) == {"text", "translate", "mood"}
    faults.reset()
    monkeypatch.setenv(faults.VARIABLE, "accumulate@9=fail")
    with pytest.raises(faults.InjectedFault):
        call(capsys, "pretrain", *words, stopped)
    monkeypatch.delenv(faults.VARIABLE)
    faults.reset()
    ok(capsys, "pretrain", *words, stopped)
    for part in ("model", "optimizer"):
        a, b = (
            Checkpoints(f / "checkpoints", say=print).require().tensors(part) for f in (straight, stopped)
        )
        assert a.keys() == b.keys() and all(torch.equal(a[n], b[n]) for n in a), part

    run = plume.load(stopped)
    prompt = translate + sentence.format(7)
    assert isinstance(run.generate(prompt, max_new_tokens=4), str)
    code, out, err = call(
        capsys, "generate", stopped, "--prompt", prompt, "--num-beams", 2, "--max-new-tokens", 4
    )
    assert code == 0, err
    # What is written begins behind the padding token, as the tasks were trained, and not behind a sentinel.
    answer, question = run.tokenizer.encode("ab"), run.tokenizer.encode(prompt)
    asked = run.answers.prompt(question, run.tokenizer.vocabulary)
    assert asked is not None and asked.decoder_inputs is not None
    assert asked.decoder_inputs.input_ids.tolist() == [run.tokenizer.vocabulary.pad]
    ids = torch.from_numpy(answer)
    inputs = Slots.bidirectional(asked.inputs.input_ids)
    decoder = Slots.causal([run.tokenizer.vocabulary.pad, *answer[:-1]])
    batch = collate([Example(inputs, decoder)])
    with torch.no_grad():
        states = run.network.backbone(batch.inputs, batch.decoder_inputs).last[0]
        wanted = run.network.heads["next_token"].logits(states).log_softmax(-1).gather(1, ids[:, None]).sum()
    assert run.loglikelihood(prompt, "ab") == pytest.approx(float(wanted), rel=1e-4)

    for words in (["--prompt", "write a poem about it"], ["--prompt", "写诗：", "--num-beams", 2]):
        code, out, err = call(capsys, "generate", stopped, *words)
        assert code == 2 and repr(translate) in err and "Traceback" not in err and out == ""
    with pytest.raises(UserError, match="prefix of no task"):
        run.loglikelihood("nothing", "x")

    found = ok(
        capsys, "evaluate", stopped, "--task", "translate", "--data", rows, "--num-beams", 1, "--split", "dev"
    )
    assert found["pairs"] > 0 and 0 <= found["exact"]["value"] <= 1 and found["task"] == "translate"
    assert found["samples"][0]["source"].startswith(translate)
    assert ok(capsys, "evaluate", stopped, "--data", text)["documents"] > 0  # the text as before
    for words, told in (
        (["--task", "sumarize", "--data", rows], "no task 'sumarize': choose translate, mood"),
        (["--task", "mood"], "--data"),
        (["--task", "mood", "--data", rows], "no column 'text', 'mood'"),
    ):
        code, out, err = call(capsys, "evaluate", stopped, *words)
        assert code == 2 and told in err and "Traceback" not in err, err

    # What a run is made of: without its tasks, with another prefix or other rows it is another run.
    code, _, err = call(capsys, "pretrain", "t5:tiny", *SMALL, "--data", text, "--out", stopped)
    assert code == 2 and "other settings" in err and "tasks" in err
    code, _, err = call(
        capsys, "pretrain", stopped / "config.json", "--data", text, "--out", tmp_path / "new"
    )
    assert code == 2 and "--tasks" in err


def test_each_task_is_drawn(tmp_path: Path, capsys: pytest.CaptureFixture[str], language: str) -> None:
    _, file, _ = lay_out(tmp_path, language)
    shown = ok(capsys, "show", "t5:tiny", "--tasks", file, "--slots", 40)
    titles = [picture["recipe"] for picture in shown["pictures"]]
    assert titles == ["t5:tiny", "t5:tiny, translate", "t5:tiny, mood"]
    read = "".join(slot["reads"] for slot in shown["pictures"][2]["stacks"][0]["slots"]).replace("␣", " ")
    assert WORDS[language][1].strip() in read
    code, _, err = call(capsys, "show", "ngram:notes", "--tasks", file)
    assert code == 2 and "Traceback" not in err


def test_careless_tasks_are_refused_before_anything_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text, file, rows = lay_out(tmp_path, "en")
    good = file.read_text("utf-8")
    out = tmp_path / "run"

    def refused(*words: object, recipe: str = "t5:tiny") -> str:
        small = [w for w in SMALL if recipe.startswith("t5") or ("decoder" not in w and "d_head" not in w)]
        words = (recipe, *small, "--data", text, "--out", out, *words)
        code, printed, err = call(capsys, "pretrain", *words)
        assert code == 2 and printed == "" and "Traceback" not in err, (code, err)
        assert not (out / "config.json").exists()
        return err

    file.write_text(good.replace('source = "text"', 'source = "txt"'), "utf-8")
    told = refused("--tasks", file)
    assert "the task mood" in told and "no column 'txt'; there are: 'text', 'mood'" in told
    file.write_text(good, "utf-8")
    rows.write_text("\n".join(json.dumps({"source": f"cat {i}", "target": " "}) for i in range(9)), "utf-8")
    told = refused("--tasks", file)
    assert "the task translate" in told and "9 dropped: empty" in told and "both columns" in told
    lay_out(tmp_path, "en")
    assert "fit into windows.length=5" in refused("--tasks", file, "windows.length=5")
    assert "carry memory" in refused("--tasks", file, "windows=Sequential")
    told = refused("--tasks", file, recipe="gpt:tiny")
    assert "SequenceToSequence" in told and "t5:tiny" in told
    assert "label_smoothing" in refused("--tasks", file, "tasks.objective.label_smoothing=2")
    assert "shapes or settings" in refused("--tasks", file, "tasks.objective.label_smoothing=0.1")
    assert "answers no tasks" in refused("--tasks", file, recipe="ngram:notes")


def test_too_few_sentinels_are_told_though_only_a_long_window_lacks_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The rehearsal's short window needs one; it was a traceback out of the loader's thread."""
    text, _, _ = lay_out(tmp_path, "zh")
    words = [*SMALL, "tokenizer.sentinels=1", "--data", text, "--out", tmp_path / "run"]
    code, out, err = call(capsys, "pretrain", "t5:tiny", *words)
    assert code == 2 and "has only 1 sentinels" in err and "--sentinels 100" in err
    assert "Traceback" not in err and out == ""
