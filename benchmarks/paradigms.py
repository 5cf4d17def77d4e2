"""The table of paradigms: recipe, lines of code, parity as measured, speed, and the picture that `plume show` draws.

    python -m pytest tests/parity --junitxml=parity.xml
    python benchmarks/objectives.py > speed.md
    python benchmarks/paradigms.py --parity parity.xml --speed speed.md

It writes docs/paradigms.md and docs/show/*.html. Nothing in the table is typed in: lines are counted in the files,
parity errors are what the tests recorded (the largest of each kind), speeds are rows of the other program. What was
not measured is a dash.
"""

from __future__ import annotations

import argparse
import ast
import inspect
import re
import sys
import xml.etree.ElementTree as ET
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

from plume import config
from plume.commands.show import show
from plume.objectives.base import Objective
from plume.training import stages
from plume.training.settings import Pretraining

ROOT = Path(__file__).resolve().parent.parent
KINDS = ("hidden", "logits", "loss", "gradients")
# Families whose recipes, tables or parity tests have another name than themselves.
TABLES = {"gpt": "gpt2", "transformer": "marian"}
TESTS = {"gpt": ("gpt", "gpt1", "gpt2", "gpt3"), "transformer": ("transformer", "marian"),
         "lstm": ("lstm", "recurrent"), "gru": ("gru", "recurrent"), "unilm": ("unilm", "prefix")}  # fmt: skip


def code_lines(path: Path) -> int:
    """Lines that are neither blank, comment nor docstring."""
    text = path.read_text(encoding="utf-8")
    told: set[int] = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(
            node, clean=False
        ):
            first = node.body[0]
            told.update(range(first.lineno, (first.end_lineno or first.lineno) + 1))
    lines = enumerate(text.splitlines(), 1)
    return sum(
        bool(line.strip()) and not line.lstrip().startswith("#") and n not in told for n, line in lines
    )


def parts(objective: Objective[Any]) -> Iterator[type]:
    """The classes of an objective and of its members."""
    yield type(objective)
    for value in vars(objective).values():
        for one in value if isinstance(value, tuple) else (value,):
            if isinstance(one, Objective):
                yield from parts(one)


def files(family: str, recipe: Any) -> dict[str, list[Path]]:
    """What a paradigm is written in: its objectives, its recipe, its name table."""
    classes: list[type] = []
    if isinstance(recipe, Pretraining):
        classes = [c for objective in stages.objectives(recipe) for c in parts(objective)]
    table = ROOT / "plume" / "models" / "interop" / f"{TABLES.get(family, family)}.py"
    return {
        "objective": list(dict.fromkeys(Path(inspect.getfile(c)) for c in classes)),
        "recipe": [ROOT / "plume" / "recipes" / f"{family}.py"],
        "names": [table] if table.is_file() else [],
    }


def parity(path: Path | None) -> dict[str, dict[str, dict[str, float]]]:
    """family -> precision -> kind -> the largest error that its tests recorded."""
    found: dict[str, dict[str, dict[str, float]]] = defaultdict(lambda: defaultdict(dict))
    if path is None:
        return found
    for case in ET.parse(path).getroot().iter("testcase"):  # noqa: S314 # our own tests wrote it
        module = re.search(r"test_(\w+)$", case.get("classname", "").replace(".Test", ""))
        if module is None:
            continue
        double = re.search(r"1e-0?9|float64|fp64|double", case.get("name", ""))
        errors = found[module[1]]["fp64" if double else "fp32"]
        for told in case.iter("property"):
            if told.get("name") in KINDS:
                name, value = str(told.get("name")), float(told.get("value", "nan"))
                errors[name] = max(errors.get(name, 0.0), value)
    return found


def speeds(path: Path | None) -> dict[str, tuple[str, str]]:
    """recipe -> (tokens/s of its step, over a causal model's), from the rows of benchmarks/objectives.py."""
    rows = {}
    for line in path.read_text(encoding="utf-8").splitlines() if path else ():
        cells = [cell.strip() for cell in line.strip("| \n").split("|")]
        if len(cells) >= 4 and re.fullmatch(r"`[\w:]+`", cells[0]):
            rows[cells[0].strip("`")] = (cells[1], cells[3])
    return rows


def errors_of(family: str, found: dict[str, dict[str, dict[str, float]]], precision: str) -> str:
    values = [found[test][precision] for test in TESTS.get(family, (family,)) if test in found]
    merged = {k: max(v[k] for v in values if k in v) for k in KINDS if any(k in v for v in values)}
    return ", ".join(f"{kind} {merged[kind]:.0e}" for kind in merged) or "–"


def row(
    family: str, parsed: dict[str, Any], timed: dict[str, tuple[str, str]], pictures: Path, slots: int
) -> str:
    names = config.recipes()[family]
    name = f"{family}:{'tiny' if 'tiny' in names else names[0]}"
    recipe = config.resolve(name)
    counted = {what: sum(map(code_lines, paths)) for what, paths in files(family, recipe).items()}
    lines = ", ".join(f"{what} {count}" for what, count in counted.items() if count)
    picture = "–"
    if isinstance(recipe, Pretraining):
        pictures.mkdir(parents=True, exist_ok=True)
        (pictures / f"{family}.html").write_text(show(name, slots=slots).html(), encoding="utf-8")
        picture = f"[look]({pictures.name}/{family}.html)"
    speed, over = timed.get(name, ("–", "–"))
    others = ", ".join(f"`{n}`" for n in names if f"{family}:{n}" != name)
    double, single = (errors_of(family, parsed, precision) for precision in ("fp64", "fp32"))
    return f"| `{name}` | {others} | {lines} | {double} | {single} | {speed} | {over} | {picture} |"


HEADER = """# Every paradigm

One objective and one recipe each, over the same trainer. The table is written by `python benchmarks/paradigms.py`;
no figure in it is typed in.

- **lines**: code without blank lines, comments and docstrings; objectives share a file where they share the noise.
- **parity**: the largest difference from the reference (mostly `transformers`) that the tests of `tests/parity`
  measured, on tiny random models.
- **speed**: training tokens/s of the small recipe, and what that is of a causal model's over the same backbone in the
  same run, on the machine that made the table.
- **picture**: what `plume show` draws of it.

| recipe | also | lines | parity, fp64 | parity, fp32 | tokens/s | over causal | picture |
|---|---|---|---|---|---|---|---|
"""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--parity", type=Path, help="junit xml of pytest tests/parity")
    parser.add_argument("--speed", type=Path, help="what benchmarks/objectives.py printed")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "paradigms.md")
    parser.add_argument("--slots", type=int, default=14)
    args = parser.parse_args()
    parsed, timed = parity(args.parity), speeds(args.speed)
    rows = [row(family, parsed, timed, args.out.parent / "show", args.slots) for family in config.recipes()]
    args.out.write_text(HEADER + "\n".join(rows) + "\n", encoding="utf-8")
    print(f"{args.out}: {len(rows)} paradigms")


if __name__ == "__main__":
    main()
