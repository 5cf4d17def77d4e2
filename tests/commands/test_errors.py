"""Bad input ends in one clear sentence that names the thing and the remedy, exit code 2, nothing lost."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from plume.__main__ import VERBS, main
from tests.commands.conftest import ADAPTING, SMALL, House, call, ok
from tests.conftest import documents


def refused(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    """The sentence of a refusal."""
    code, out, err = call(capsys, *words)
    assert code == 2, f"exit code {code}: {out}{err}"
    assert out == "" and "Traceback" not in err
    assert err.splitlines()[-1].startswith(("plume: ", "  "))
    return err


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["pretran"], "there is no command 'pretran': did you mean pretrain?"),
        (["--hlep"], "there is no command"),
        (["pretrain"], "RECIPE is missing"),
        (["pretrain", "bert:tiny", "--out", "x"], "--data is missing"),
        (["pretrain", "bert:tny", "--data", "x", "--out", "x"], "did you mean bert:tiny?"),
        (["pretrain", "gpt:tiny", "--dta", "x", "--out", "x"], "Did you mean --data?"),
        (["pretrain", "gpt:tiny", "--data", "没有这个", "--out", "x"], "没有这个 does not exist"),
        (["pretrain", "没有:小", "--data", ".", "--out", "x"], "there is no recipe '没有:小'"),
        (["pretrain", "gpt:tiny", "training.stps=3", "model.d_model=wide", "--data", ".", "--out", "x"],
         "training.stps=3: unknown setting: did you mean training.steps?"),
        (["tokenizer", "--out", "x"], "no data"),
        (["tokenizer", ".", "--out", "x", "--kind", "bp"], "--kind"),
        (["tokenizer", ".", "--out", "x", "--vocab-size", "many"], "many"),
        (["tokenizer", ".", "--out", "x", "--vocab-size", "3"], "--vocab-size"),
        (["show"], "name a recipe"),
        (["show", "gpt:tiny", "--slots", "3"], "--slots"),
        (["show", "gpt:tiny", "--text", " "], "--text is empty"),
        (["generate", "nowhere"], "nowhere is no folder"),
        (["evaluate", "nowhere", "--data", "."], "nowhere is no folder"),
        (["chat", "nowhere"], "nowhere is no folder"),
        (["export", "nowhere", "--to", "x"], "nowhere is no folder"),
        (["import", "nowhere", "--out", "x"], "nowhere does not exist"),
        (["adapt", "nowhere", "--data", ".", "--out", "x"], "nowhere is no run"),
    ],
)  # fmt: skip
def test_words_that_do_not_fit(
    words: list[str],
    sentence: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert sentence in refused(capsys, *words)
    assert list(tmp_path.iterdir()) == [], "nothing was written"


def data(kind: str, folder: Path) -> Path:
    path = folder / "坏数据"
    path.mkdir()
    if kind == "binary":
        (path / "photo.txt").write_bytes(bytes(range(256)) * 40)
    elif kind == "latin":
        (path / "old.txt").write_bytes("Überall Äpfel für müde Bücher\n".encode("latin-1") * 30)
    elif kind == "columns":
        (path / "rows.csv").write_text("words,mood\na b c,good\n", encoding="utf-8")
    elif kind == "short":
        (path / "short.txt").write_text("好。\n", encoding="utf-8")
    elif kind == "blank":
        (path / "blank.txt").write_text(" \n\n\t\n", encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("recipe", "kind"),
    [
        *(("gpt:tiny", kind) for kind in ("empty", "binary", "latin", "columns", "short", "blank")),
        *(("bert:tiny", kind) for kind in ("empty", "columns", "blank")),
    ],
)
def test_data_that_cannot_be_trained_on(
    kind: str, recipe: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = data(kind, tmp_path)
    sentence = refused(capsys, "pretrain", recipe, *SMALL, "--data", path, "--out", tmp_path / "run")
    if kind != "short":
        assert not (tmp_path / "run").exists(), "nothing was begun, so nothing is left"
    if kind == "columns":
        assert "words" in sentence and "mood" in sentence, "the columns there are"


def test_what_was_refused_is_mended_in_the_same_folder(
    house: House, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """More text, or other settings, as the sentence advised; but a run that has learnt something stays as it is."""
    text, run = tmp_path / "text.txt", tmp_path / "run"
    words = ["pretrain", "gpt:tiny", *SMALL, "--data", text, "--out", run]
    text.write_text("好。\n", encoding="utf-8")
    assert "bring more text or shorten windows.length" in refused(capsys, *words)
    other = [word.replace("=32", "=2") if str(word).startswith("windows.") else word for word in words]
    assert ok(capsys, *other[:-1], tmp_path / "short")["step"] == 6
    assert "windows.length" in refused(capsys, *words[:-1], tmp_path / "short")
    text.write_bytes(house.text.read_bytes())
    assert ok(capsys, *words)["step"] == 6


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["bert:tiny", "windows=FullSentences"], "objective.next_sentence=false"),
        (["bert:tiny", "windows.length=600"], "set model.max_positions=600 too"),
        (["bert:base", "training.steps=20", "training.warmup_steps=1", "stages.0.until=10",
          "stages.0.windows=PackedStream"], "objective.next_sentence=false"),
        (["gpt:tiny", "model.num_heads=3"], "multiple of num_heads"),
        (["gpt:tiny", "training.warmup_steps=5000"], "warmup_steps"),
    ],
)  # fmt: skip
def test_settings_that_do_not_fit_together_are_told_before_anything_is_written(
    words: list[str], sentence: str, corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    assert sentence in refused(capsys, "pretrain", *words, "--data", corpus, "--out", out)
    assert not out.exists()


def test_a_tokenizer_without_the_tokens_that_are_needed(
    house: House, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import json

    tokens = tmp_path / "maskless"
    ok(capsys, "tokenizer", house.text, "--out", tokens, "--kind", "characters", "--vocab-size", 100)
    card = json.loads((tokens / "vocabulary.json").read_text(encoding="utf-8"))
    card["vocabulary"]["mask"] = None
    (tokens / "vocabulary.json").write_text(json.dumps(card), encoding="utf-8")
    words = ["--data", house.text, "--out", tmp_path / "run", "--tokenizer", tokens]
    assert "no 'mask' token" in refused(capsys, "pretrain", "bert:tiny", *words)
    assert not (tmp_path / "run").exists()


def test_labels_that_cannot_be_learnt(
    house: House, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = ["--out", tmp_path / "run", *ADAPTING]
    assert "label" in refused(
        capsys, "adapt", house.bert, "--data", house.labels, "--label-column", "mood", *out
    )
    same = tmp_path / "same.csv"
    same.write_text("text,label\n" + "".join(f"词{i},x\n" for i in range(60)), encoding="utf-8")
    assert "at least two" in refused(capsys, "adapt", house.bert, "--data", same, *out)
    foreign = tmp_path / "foreign.csv"
    foreign.write_text("text,label\n" + "".join(f"词{i},unheard\n" for i in range(60)), encoding="utf-8")
    assert "unheard" in refused(capsys, "evaluate", house.mood, "--data", foreign, "--split", "all")
    problems = refused(
        capsys, "adapt", house.bert, "mode=frozn", "training.stps=1", "--data", house.labels, *out
    )
    assert "did you mean frozen?" in problems and "did you mean training.steps?" in problems
    assert "only mode, training.*" in refused(
        capsys, "adapt", house.bert, "model.dropout=0.5", "--data", house.labels, *out
    )


def test_what_a_model_cannot_do(house: House, capsys: pytest.CaptureFixture[str]) -> None:
    sentence = refused(capsys, "generate", house.mood, "--prompt", "x")
    assert "mood cannot generate" in sentence and "gpt:tiny" in sentence
    assert "cannot" in refused(capsys, "chat", house.mood)
    assert "top_p" in refused(capsys, "generate", house.gpt, "--top-p", 2)


def test_a_damaged_run(house: House, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    shutil.copytree(house.gpt, run)
    for weights in run.glob("checkpoints/*/model.safetensors"):
        weights.write_bytes(weights.read_bytes()[:-100])
    assert "no valid checkpoint" in refused(capsys, "generate", run)
    (run / "config.json").write_text('{"class": "os:system"}', encoding="utf-8")
    assert "lies outside plume" in refused(capsys, "generate", run)
    (run / "config.json").write_text('{"class": ', encoding="utf-8")
    assert "config.json is not a valid JSON file" in refused(capsys, "evaluate", run, "--data", house.text)


def test_a_checkpoint_of_another_vocabulary(
    house: House, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ok(capsys, "tokenizer", house.text, "--out", tmp_path / "t", "--kind", "characters", "--vocab-size", 100)
    sentence = refused(
        capsys, "pretrain", "gpt:tiny", *SMALL, "--data", house.text, "--out", tmp_path / "run",
        "--from", house.gpt, "--tokenizer", tmp_path / "t",
    )  # fmt: skip
    assert str(house.gpt) in sentence and "tokenizer" in sentence
    run = tmp_path / "swapped"
    shutil.copytree(house.gpt, run)
    shutil.rmtree(run / "tokenizer")
    shutil.copytree(tmp_path / "t", run / "tokenizer")
    assert "tokenizer" in refused(capsys, "generate", run)


def test_a_run_made_with_its_authors_code(
    tmp_path: Path,
    corpus: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from plume.config import code

    mine = tmp_path / "mine.py"
    mine.write_text(
        "from dataclasses import dataclass, replace\nfrom plume.objectives.causal import CausalLM\n"
        "from plume.recipes import gpt\n@dataclass(frozen=True)\nclass Mine(CausalLM):\n    extra: int = 1\n"
        "def tiny():\n    return replace(gpt.tiny(), objective=Mine())\n",
        encoding="utf-8",
    )
    words = ["--data", corpus, "--out", tmp_path / "run"]
    ok(capsys, "pretrain", f"{mine}:tiny", "objective.extra=2", *SMALL, *words)
    assert (tmp_path / "run" / "code" / "mine.py").read_bytes() == mine.read_bytes()
    monkeypatch.setattr(code, "_files", {})  # as a new process
    sentence = refused(capsys, "generate", tmp_path / "run")
    assert "mine.py" in sentence and "--trust-code" in sentence
    assert ok(capsys, "generate", tmp_path / "run", "--trust-code", "--max-new-tokens", 2)["texts"]


@pytest.mark.parametrize(
    ("error", "code", "sentence"),
    [
        (KeyboardInterrupt(), 130, "stopped"),
        (
            OSError(errno.ENOSPC, "No space left on device", "/data/runs/x"),
            2,
            "/data/runs/x: No space left on device (make room, ",
        ),
        (
            PermissionError(errno.EACCES, "Permission denied", "/data/运行"),
            2,
            "/data/运行: Permission denied (name one ",
        ),
    ],
)
def test_what_comes_from_outside_is_no_traceback(
    error: BaseException,
    code: int,
    sentence: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("plume.commands.show.show", fails)
    got, _, err = call(capsys, "show", "gpt:tiny")
    assert got == code and sentence in err


def test_a_file_is_no_folder_and_a_folder_no_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = tmp_path / "文本.txt"
    text.write_text("\n".join(documents("zh", 20)), encoding="utf-8")
    told = refused(capsys, "tokenizer", text, "--vocab-size", 300, "--out", text)
    assert "文本.txt" in told and "a folder is wanted here, and this is a file: name another" in told
    assert "this is a folder: name a file in it" in refused(capsys, "show", "gpt:tiny", "--html", tmp_path)


def test_of_several_processes_the_first_one_speaks(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["show", "gpt:tiny", "--settings", "--json"]
    assert call(capsys, *words)[1].count("\n") == 1
    monkeypatch.setenv("RANK", "1")
    assert call(capsys, *words)[:2] == (0, "")


def test_a_defect_of_ours_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object, **__: object) -> None:
        raise RuntimeError("ours")

    monkeypatch.setattr("plume.commands.show.show", fails)
    with pytest.raises(RuntimeError, match="ours"):
        main(["show", "gpt:tiny"])


def test_help_is_quick_because_it_imports_nothing_heavy() -> None:
    verbs = [name for group in VERBS.values() for name in group]
    code = (
        "import sys\nfrom plume.__main__ import main\n"
        f"for words in [[], ['--help'], ['--version'], *([v, '--help'] for v in {verbs}), ['pretrain', 'bert:tny']]:\n"
        "    main(words)\n"
        "heavy = {'torch', 'numpy', 'tokenizers', 'pydantic', 'matplotlib'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    for verb in verbs:
        assert f"plume {verb}" in ran.stdout


@pytest.mark.parametrize(
    ("said", "spins"),
    [({}, "10000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "active"}, "None")],
)
def test_threads_wait_for_each_other_briefly_unless_the_user_says_how(
    said: dict[str, str], spins: str
) -> None:
    code = (
        "import os, sys\nfrom plume.__main__ import main\nmain(['--version'])\n"
        "assert 'torch' not in sys.modules\nprint(os.environ.get('GOMP_SPINCOUNT'))"
    )
    own = {k: v for k, v in os.environ.items() if k not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    ran = subprocess.run(
        [sys.executable, "-c", code], env={**own, **said}, capture_output=True, text=True, check=True
    )
    assert ran.stdout.split()[-1] == spins


@pytest.mark.parametrize("language", ["zh"], indirect=True)
def test_a_real_process(house: House) -> None:
    words = [sys.executable, "-m", "plume", "generate", str(house.gpt), "--max-new-tokens", "3", "--json"]
    ran = subprocess.run(words, capture_output=True, text=True, check=False)
    assert ran.returncode == 0 and ran.stdout.startswith('{"run"'), ran.stderr
