"""The documentation builds without a warning, asks no other site for anything, and says what the code does."""

from __future__ import annotations

import ast
import importlib.util
import io
import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import yaml

import plume
from plume import config
from plume.__main__ import VERBS, main
from plume.text.windows import Window
from tests.test_readme import FENCE, blocks, commands, lay_out, small_pretrain, toy

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
NAMES = [name for group in VERBS.values() for name in group]
PAGES = sorted(str(path.relative_to(DOCS)) for path in DOCS.rglob("*.md") if blocks(path))


def module(path: Path) -> ModuleType:
    """A file of Python that is no part of a package."""
    spec = importlib.util.spec_from_file_location(f"page_{path.stem}", path)
    assert spec and spec.loader
    found = sys.modules[spec.name] = importlib.util.module_from_spec(spec)  # dataclasses look their module up
    spec.loader.exec_module(found)
    return found


def test_the_site_builds_strictly_and_asks_no_other_site(tmp_path: Path) -> None:
    built = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)],
        cwd=ROOT, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"}, capture_output=True, text=True,
    )  # fmt: skip
    assert built.returncode == 0, built.stderr
    loads = re.compile(
        r"<(?:script|img|iframe|source)\b[^>]*\bsrc=\"(https?:|//)|<link\b[^>]*\bhref=\"(https?:|//)"
    )
    for page in tmp_path.rglob("*.html"):
        found = loads.search(page.read_text(encoding="utf-8"))
        assert found is None, f"{page.name}: {found.group() if found else ''}"


def test_the_pictures_are_what_the_code_draws() -> None:
    for name, svg in module(DOCS / "pictures.py").pictures().items():
        stored = (DOCS / "pictures" / name).read_text(encoding="utf-8")
        assert stored == svg, f"{name} is old: run `python docs/pictures.py`"


@pytest.mark.parametrize("verb", NAMES)
def test_a_verbs_page_names_each_of_its_flags_and_no_others(
    verb: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([verb, "--help"]) == 0
    explained = re.compile(r"^\W*?(--[a-z][a-z-]*)", re.MULTILINE)  # a line of the help begins with its flag
    helped = set(explained.findall(capsys.readouterr().out)) - {"--help"}
    page = (DOCS / "verbs" / f"{verb}.md").read_text(encoding="utf-8")
    written = set(re.findall(r"^\| `(--[a-z-]+)`", page, re.MULTILINE))
    used = [words for _, block in blocks(DOCS / "verbs" / f"{verb}.md") for words in commands(block)]
    assert written == helped
    assert {word for words in used if words[0] == verb for word in words if word.startswith("--")} <= helped


def test_every_verb_has_its_page_in_the_contents() -> None:
    text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    contents = yaml.safe_load(text)["nav"]
    verbs = next(part["The verbs"] for part in contents if "The verbs" in part)
    assert [name for page in verbs for name in page] == NAMES


@pytest.mark.parametrize("page", PAGES)
def test_every_command_of_a_page_runs(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lay_out(tmp_path, "zh" if page.startswith("zh/") else "en")
    monkeypatch.chdir(tmp_path)
    for title, text in files(DOCS / page).items():
        Path(title).write_text(text, encoding="utf-8")
    monkeypatch.setattr(plume, "pretrain", small_pretrain)
    # Two thirds of a toy run are its curve; the READMEs' runs draw theirs.
    monkeypatch.setattr("plume.training.pretraining.draw_curve", lambda *_, **__: None)
    monkeypatch.setattr("sys.stdin", io.StringIO("The city\n/quit\n"))  # for `plume chat`
    names: dict[str, object] = {}
    for kind, text in blocks(DOCS / page):
        if kind == "python" and text not in files(DOCS / page).values():
            exec(compile(text, page, "exec"), names)  # noqa: S102 - our own page
        for words in commands(text) if kind == "console" else ():
            exit_code = main(toy(words))
            assert exit_code == 0, f"plume {' '.join(words)}\n{capsys.readouterr().err}"


def files(page: Path) -> dict[str, str]:
    """What a page tells its reader to write: ```python title="my_objective.py", ```toml title="tasks.toml"."""
    found = re.findall(
        r"^```(?:python|toml) title=\"([\w.]+)\"\n(.*?)^```$", page.read_text(encoding="utf-8"), re.M | re.S
    )
    return dict(found)


def test_the_lessons_objective_loses_nothing(tmp_path: Path) -> None:
    path = tmp_path / "my_objective.py"
    path.write_text(files(DOCS / "lesson.md")["my_objective.py"], encoding="utf-8")
    missing = module(path).Missing()
    for seed in range(200):
        rng = np.random.default_rng(seed)
        ids, length = rng.integers(0, 50, 30), int(rng.integers(1, 30))
        special = rng.random(length) < 0.2
        window = Window(ids[:length], np.ones(length, np.uint8), special, np.zeros(length, int))
        example = missing.example(window, None, rng)
        if example is not None:
            assert missing.restore(example).tolist() == ids[:length].tolist()


def test_the_lesson_keeps_its_word_of_one_short_file() -> None:
    code = files(DOCS / "lesson.md")["my_objective.py"]
    written = [
        line for line in code.splitlines() if line and not line.startswith(("from ", "import ", '"""'))
    ]
    assert len(written) <= 45
    assert [node.name for node in ast.parse(code).body if isinstance(node, ast.ClassDef)] == ["Missing"]


def test_ul2_is_one_file_of_at_most_80_lines() -> None:
    """``test_every_command_of_a_page_runs`` puts it to the laws and trains it."""
    code = files(DOCS / "ul2.md")["ul2.py"]
    assert code.count("\n") <= 80 and max(map(len, code.splitlines())) <= 110
    used = [words for _, block in blocks(DOCS / "ul2.md") for words in commands(block)]
    assert {"check", "pretrain"} <= {words[0] for words in used}


def test_the_table_of_paradigms_is_whole_and_fresh() -> None:
    """A row for every family, each with its picture, its parity, and lines of code that are those of its files."""
    program = module(ROOT / "benchmarks" / "paradigms.py")
    page = (DOCS / "paradigms.md").read_text(encoding="utf-8")
    rows = {
        cells[1].strip("`"): cells
        for line in page.splitlines()
        if (cells := [cell.strip() for cell in line.strip("|").split("|")])[1:] and cells[1].startswith("`")
    }
    assert set(rows) == {paradigm.recipe for paradigm in program.PARADIGMS}
    assert {name.partition(":")[0] for name in rows} == set(config.recipes())
    for name, (_, _, _, lines, double, single, *_, picture) in rows.items():
        assert double != "–" or single != "–", f"{name}: no parity"
        drawn = DOCS / picture[picture.index("(") + 1 : -1]
        assert name in drawn.read_text(encoding="utf-8")
        written = {what: int(count) for what, count in (part.rsplit(" ", 1) for part in lines.split(", "))}
        counted = program.lines(name)
        assert set(written) == set(counted), f"{name}: run python benchmarks/paradigms.py"
        for what, count in counted.items():
            assert abs(written[what] - count) <= 10 + count // 10, f"{name}: its {what} has {count} lines now"


def test_links_between_the_files_at_the_root_lead_somewhere() -> None:
    for name in ("README.md", "README.zh.md", "CONTRIBUTING.md", "SECURITY.md"):
        text = FENCE.sub("", (ROOT / name).read_text(encoding="utf-8"))
        for target in re.findall(r"\]\(([^)#]+)", text):
            if not target.startswith("http"):
                assert (ROOT / target).exists(), f"{name} leads to {target}, which is not there"
