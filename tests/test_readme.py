"""The READMEs say what is true: every command and every line of Python in them runs, at toy size."""

from __future__ import annotations

import csv
import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest

import plume
from plume import config
from plume.__main__ import main
from plume.commands.pretrain import pretrain
from tests.conftest import documents

ROOT = Path(__file__).resolve().parent.parent
FENCE = re.compile(r"^```(\w+)[^\n]*\n(.*?)^```$", re.MULTILINE | re.DOTALL)
# What makes a run small; appended to every command that trains. Nothing else of the commands is changed.
TOY = {
    "pretrain": "training.steps=4 training.batch_size=4 training.warmup_steps=1 training.eval_every=2 "
    "training.eval_batches=1 training.save_every=2 model.num_layers=1 model.d_model=32 model.d_ff=64 model.num_heads=2 "
    "windows.length=32 tokenizer.vocab_size=400",
    "adapt": "training.steps=4 training.batch_size=4 training.warmup_steps=1 training.eval_every=2",
}


def blocks(page: Path) -> list[tuple[str, str]]:
    """(language, text) of the fenced blocks that are meant to be run, in reading order."""
    found = FENCE.findall(page.read_text(encoding="utf-8"))
    return [(language, text) for language, text in found if language in ("console", "python")]


def commands(block: str) -> list[list[str]]:
    """The words of each ``$ plume ...`` line."""
    lines = [line[2:] for line in block.splitlines() if line.startswith("$ ")]
    return [shlex.split(line, comments=True)[1:] for line in lines]


def toy(words: list[str]) -> list[str]:
    """The command as the page has it, with a toy's settings for what it leaves open."""
    small = TOY.get(words[0], "").split()
    if words[1:2] and words[1].endswith("config.json"):  # a run's own recipe is a toy already
        small = []
    if re.fullmatch(r"\w+:\w+", "".join(words[1:2])):
        known = config.settings(config.resolve(words[1]))  # a table of words has no layers
        small = [setting for setting in small if setting.split("=")[0] in known]
    given = {word.split("=")[0] for word in words}
    return [*words, *(setting for setting in small if setting.split("=")[0] not in given)]


def small_pretrain(recipe: Any, *settings: str, **rest: Any) -> Any:
    """``plume.pretrain`` with a toy's settings, for the pages' Python."""
    _, *words = toy(["pretrain", *settings])
    return pretrain(recipe, *words, **rest)


def lay_out(folder: Path, language: str) -> None:
    """The files that the pages speak of."""
    texts = folder / {"en": "my_texts", "zh": "我的文本"}[language]
    texts.mkdir()
    (texts / "a.txt").write_text("\n".join(documents(language, 150)), encoding="utf-8")
    domain = folder / "my_domain"
    domain.mkdir()
    words = ["antagonist", "receptor", "histamine", "ligand", "affinity"]
    (domain / "b.txt").write_text(
        "\n".join(
            f"{text} {words[i % 5]} of the {words[i % 3]}"
            for i, text in enumerate(documents("en", 150, seed=2))
        ),
        encoding="utf-8",
    )
    sides = zip(documents("en", 80, seed=3), documents("zh", 80, seed=3), strict=True)
    rows = [json.dumps({"en": en[:60], "zh": zh[:9]}, ensure_ascii=False) for en, zh in sides]
    (folder / "pairs.jsonl").write_text("\n".join(rows), encoding="utf-8")
    name, columns = {"en": ("reviews.csv", ("review", "mood")), "zh": ("评论.csv", ("评论", "态度"))}[
        language
    ]
    with (folder / name).open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file)
        table.writerow(columns)
        table.writerows(
            (text, "good" if i % 2 else "bad") for i, text in enumerate(documents(language, 80, seed=1))
        )


@pytest.mark.parametrize(("page", "language"), [("README.md", "en"), ("README.zh.md", "zh")])
def test_every_command_of_the_readme_runs(
    page: str,
    language: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    lay_out(tmp_path, language)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(plume, "pretrain", small_pretrain)
    names: dict[str, object] = {}
    ran = 0
    for kind, text in blocks(ROOT / page):
        if kind == "python":
            exec(compile(text, page, "exec"), names)  # noqa: S102 - our own page
            ran += 1
        for words in commands(text) if kind == "console" else ():
            exit_code = main(toy(words))
            assert exit_code == 0, f"plume {shlex.join(words)}\n{capsys.readouterr().err}"
            ran += 1
    assert ran >= 9, "the page has lost its commands"


def test_the_tree_names_every_room_of_the_house() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    tree = text[text.index("plume/\n") : text.index("tests/  ")]
    named = set(re.findall(r"^  (\w+(?:\.py|/))", tree, re.MULTILINE))
    rooms = {path.name + "/" * path.is_dir() for path in (ROOT / "plume").iterdir()}
    assert named == {name for name in rooms if not name.startswith("_")} - {"py.typed"}
