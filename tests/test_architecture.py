"""The house rules that a reader cannot see from one file: floors, names, sizes, what is banned (DESIGN 3).

Every rule is a function from the sources to complaints, and every rule is shown a planted violation below: a rule
that stays silent then is broken itself.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
Sources = Mapping[str, str]  # path from the root of the repository -> text

FLOORS = (
    ("slots", "vocabulary", "seeding", "compiling", "config"),
    ("text", "models", "drawing"),
    ("objectives", "generation"),
    ("training",),
    ("evaluation",),
    ("runs",),
    ("alignment", "serving"),
    ("recipes",),
    ("studies",),
    ("__main__", "commands"),
)
FLOOR = {name: floor for floor, names in enumerate(FLOORS) for name in names} | {"errors": -1}
MAX_LINES = 600
VAGUE = {"utils", "util", "misc", "common", "helpers"}
# These import what a user names: a verb, a recipe, a class in a config.
BY_NAME = ("plume/__init__.py", "plume/__main__.py", "plume/config")


def tracked() -> dict[str, str]:
    """Every text file of the working tree that git does not ignore."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    files = {}
    for path in listed.stdout.splitlines():
        if (ROOT / path).is_file():
            try:
                files[path] = (ROOT / path).read_text(encoding="utf-8")
            except UnicodeDecodeError:
                continue  # a picture
    return files


parsed = cache(ast.parse)


def modules(sources: Sources, folder: str = "") -> Iterator[tuple[str, ast.Module]]:
    for path, text in sources.items():
        if path.endswith(".py") and path.startswith(folder):
            yield path, parsed(text)


def imports(path: str, tree: ast.Module) -> Iterator[tuple[int, str]]:
    """(line, dotted name) of all that a file imports, lazily or only for its types too."""
    package = path.split("/")[:-1]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            for alias in node.names:
                yield node.lineno, ".".join([*base, *filter(None, [node.module]), alias.name])


def room(path: str) -> str:
    return path.split("/")[1].removesuffix(".py")


def floors(sources: Sources) -> Iterator[str]:
    """A module imports only from lower floors; two names of one floor never import each other."""
    for path, tree in modules(sources, "plume/"):
        here = room(path)
        if here == "__init__":
            continue  # the front door: everything behind it is imported lazily, as a test below shows
        if here not in FLOOR:
            yield f"{path}: {here!r} has no floor (tests/test_architecture.py)"
            continue
        for line, name in imports(path, tree):
            parts = name.split(".")
            if parts[0] != "plume":
                continue
            there = parts[1] if len(parts) > 1 else ""
            if there in ("", here) or (here, there) == ("__main__", "commands"):
                continue  # "": the package itself, to ask where it lies
            if there not in FLOOR:
                yield f"{path}:{line}: import {there} by the module it lives in, not from plume"
            elif FLOOR[there] >= FLOOR[here]:
                yield f"{path}:{line}: floor {FLOOR[here]} ({here}) imports {name} from floor {FLOOR[there]}"


# A picture draws itself in a notebook, and only then needs the drawing, which needs to know what a picture is.
CIRCLES = {("plume/drawing/picture.py", "plume/drawing/html.py")}


def circles(sources: Sources) -> Iterator[str]:
    """No module needs itself by way of others, lazily or for its types neither: then neither is read first."""
    needs: dict[str, set[str]] = {}
    for path, tree in modules(sources, "plume/"):
        if path == "plume/__init__.py":
            continue  # the front door
        found = {_file_of(name, sources) for _, name in imports(path, tree)}
        needs[path] = {there for there in found if there and (path, there) not in CIRCLES}
    while needs:  # who needs nobody, or is needed by nobody, is on no circle
        wanted = set().union(*needs.values())
        left = {path: there & needs.keys() for path, there in needs.items() if path in wanted}
        left = {path: there for path, there in left.items() if there}
        if left == needs:
            break
        needs = left
    for path, there in needs.items():
        yield f"{path}: needs itself by way of {', '.join(sorted(there))}"


def _file_of(name: str, sources: Sources) -> str | None:
    """The file that an imported name comes from."""
    parts = name.split(".")
    for end in (len(parts), len(parts) - 1):
        base = "/".join(parts[:end])
        for path in (f"{base}.py", f"{base}/__init__.py"):
            if path in sources and path != "plume/__init__.py":
                return path
    return None


def all_is_there(sources: Sources) -> Iterator[str]:
    """What is imported is in the repository: a file that git ignores is there on one machine alone."""
    for path, tree in modules(sources, "plume/"):
        for line, name in imports(path, tree):
            if name.startswith("plume.") and _file_of(name, sources) is None:
                yield f"{path}:{line}: {name} is no file that git knows"


def text_knows_no_torch(sources: Sources) -> Iterator[str]:
    """From raw text to windows there is no torch, lazily neither; slots.py imports it."""
    for path, tree in modules(sources, "plume/text/"):
        for line, name in imports(path, tree):
            if name.split(".")[0] == "torch" or name.startswith("plume.slots"):
                yield f"{path}:{line}: text imports {name}"


def import_by_name(sources: Sources) -> Iterator[str]:
    """Imports that this file cannot see stand only where a user names what to import."""
    for path, tree in modules(sources, "plume/"):
        if path.startswith(BY_NAME):
            continue
        for line, name in imports(path, tree):
            hides = name.split(".")[0] in ("importlib", "runpy", "pkgutil")
            if hides and not name.startswith(("importlib.metadata", "importlib.resources")):
                yield f"{path}:{line}: {name} hides an import from the floors"


def sizes(sources: Sources) -> Iterator[str]:
    """A file can be read in one sitting."""
    for path, text in sources.items():
        if path.endswith(".py") and (lines := text.count("\n")) > MAX_LINES:
            yield f"{path}: {lines} lines; more than {MAX_LINES} are two subjects"


def names(sources: Sources) -> Iterator[str]:
    """A name says what is inside."""
    for path in sources:
        for part in Path(path).with_suffix("").parts:
            if part in VAGUE:
                yield f"{path}: {part!r} says nothing"


def objectives_in_use(sources: Sources) -> Iterator[str]:
    """Every objective is used by a recipe (or by `plume adapt`) and is put before the laws."""
    used = _text_of(sources, "plume/recipes/", "plume/training/adaptation.py")
    lawful = _text_of(sources, "tests/laws/")
    for path, tree in modules(sources, "plume/objectives/"):
        for node in tree.body:
            bases = [ast.unparse(b) for b in node.bases] if isinstance(node, ast.ClassDef) else []
            if isinstance(node, ast.ClassDef) and any(
                b.startswith(("Objective[", "InPlace[")) and "[Source]" not in b for b in bases
            ):
                for where, text in (("a recipe", used), ("the laws", lawful)):
                    if not re.search(rf"\b{node.name}\b", text):
                        yield f"{path}:{node.lineno}: no trace of {node.name} in {where}"


def _text_of(sources: Sources, *prefixes: str) -> str:
    return "\n".join(text for path, text in sources.items() if path.startswith(prefixes))


UNPICKLERS = {"pickle", "cPickle", "dill", "cloudpickle", "shelve", "marshal", "joblib"}
BANNED_CALLS = {"eval", "exec", "compile", "__import__", "hasattr"}
BANNED_METHODS = {"torch.load", "torch.save", "torch.serialization.load", "yaml.load", "os.system"}
# Files that people have were written by torch.save: the reader of them is tested on what it really writes.
ALLOWED = {("tests/models/test_pickled.py", "torch.save")}
TRUSTING = {"allow_pickle", "shell", "trust_remote_code"}


def nothing_runs_data(sources: Sources) -> Iterator[str]:
    """No data is unpickled, evaluated or handed to a shell; types are not guessed at with hasattr."""
    for path, tree in modules(sources):
        for line, name in imports(path, tree):
            if name.split(".")[0] in UNPICKLERS or name in ("torch.load", "torch.save"):
                yield f"{path}:{line}: {name}"
        for node in ast.walk(tree):
            if not isinstance(node, ast.Call):
                continue
            called = node.func
            if isinstance(called, ast.Name) and called.id in BANNED_CALLS and path.startswith("plume/"):
                yield f"{path}:{node.lineno}: {called.id}()"
            for keyword in node.keywords:
                if keyword.arg in TRUSTING and ast.unparse(keyword.value) != "False":
                    yield f"{path}:{node.lineno}: {keyword.arg}={ast.unparse(keyword.value)}"
        for node in ast.walk(tree):  # under another name too: f = torch.load, getattr(torch, "load")
            if isinstance(node, ast.Attribute) and node.attr in ("load", "save", "system"):
                said = ast.unparse(node)
            elif isinstance(node, ast.Call) and ast.unparse(node.func) == "getattr" and len(node.args) > 1:
                said = ".".join(ast.unparse(part).strip("'") for part in node.args[:2])
            else:
                continue
            if said in BANNED_METHODS and (path, said) not in ALLOWED:
                yield f"{path}:{node.lineno}: {said}"


SKIPS = ("skip", "skipif", "xfail", "importorskip", "skipTest")


def nothing_is_put_off(sources: Sources) -> Iterator[str]:
    """No test is skipped or expected to fail, and no work is left behind in a comment."""
    later = re.compile(r"#.*\b(TO" + r"DO|FIX" + r"ME|X" + r"XX)\b")
    for path, text in sources.items():
        if not path.endswith(".py"):
            continue
        for number, line in enumerate(text.splitlines(), 1):
            if later.search(line):
                yield f"{path}:{number}: {line.strip()}"
        for node in ast.walk(parsed(text)):
            if not isinstance(node, ast.Attribute) or node.attr not in SKIPS:
                continue
            if re.match(r"(pytest|unittest|self|mark)\b", ast.unparse(node)):
                yield f"{path}:{node.lineno}: {ast.unparse(node)}"


# Parts of words, so that this file does not complain about itself.
PLACES = re.compile(
    r"(?<![\w.:/])/(?:work|root|opt)/\w|/home/\w+/|\bfile:///(?:opt|work|root)|\bC:\\\\Users"
    r"|\bpypi\." + r"org|python" + r"hosted\.org|registry\.npm" + r"js|deb\.deb" + r"ian\.org"
)


def no_machine(sources: Sources) -> Iterator[str]:
    """Nothing names a folder of somebody's machine or the host of a package registry."""
    for path, text in sources.items():
        for number, line in enumerate(text.splitlines(), 1):
            if found := PLACES.search(line):
                yield f"{path}:{number}: {found.group()}"


RULES = (floors, circles, all_is_there, text_knows_no_torch, import_by_name, sizes, names, objectives_in_use,
         nothing_runs_data, nothing_is_put_off, no_machine)  # fmt: skip

PLANTED: tuple[tuple[Callable[[Sources], Iterator[str]], str, str], ...] = (
    (floors, "plume/models/planted.py", "from plume.objectives.causal import CausalLM"),
    (floors, "plume/models/planted.py", "from plume.text.windows import Window"),
    (floors, "plume/text/planted.py", "def f():\n    from ..training import trainer"),
    (floors, "plume/slots.py", "import plume.config"),
    (floors, "plume/training/planted.py", "from plume import load"),
    (floors, "plume/annex/__init__.py", ""),
    (all_is_there, "plume/models/planted.py", "def f():\n    from plume.models.nowhere import X"),
    (circles, "plume/models/planted.py", "from plume.models.planted import X"),
    (text_knows_no_torch, "plume/text/planted.py", "def f():\n    import torch"),
    (text_knows_no_torch, "plume/text/planted.py", "from plume.slots import Slots"),
    (import_by_name, "plume/models/planted.py", "import importlib"),
    (sizes, "plume/text/planted.py", "x = 1\n" * (MAX_LINES + 1)),
    (names, "plume/models/utils.py", ""),
    (names, "tests/common/test_a.py", ""),
    (objectives_in_use, "plume/objectives/planted.py", "class Planted(Objective[Window]): ..."),
    (nothing_runs_data, "plume/planted.py", "import torch\ntorch.load('x')"),
    (nothing_runs_data, "tests/models/test_planted.py", "torch.save({}, 'x')"),
    (nothing_runs_data, "tests/models/test_pickled.py", "torch.load('x')"),
    (nothing_runs_data, "plume/planted.py", "read = torch.load"),
    (nothing_runs_data, "plume/planted.py", "read = getattr(torch, 'load')"),
    (nothing_runs_data, "tests/planted.py", "import pickle"),
    (nothing_runs_data, "plume/planted.py", "eval('1')"),
    (nothing_runs_data, "plume/planted.py", "hasattr(1, 'x')"),
    (nothing_runs_data, "plume/planted.py", "np.load('x', allow_pickle=True)"),
    (nothing_is_put_off, "tests/planted.py", "@pytest.mark.xfa" + "il\ndef test(): ..."),
    (nothing_is_put_off, "tests/planted.py", "def test():\n    pytest.sk" + "ip('later')"),
    (nothing_is_put_off, "plume/planted.py", "# TO" + "DO: later"),
    (no_machine, "docs/planted.md", "look into /wo" + "rk/notes"),
    (no_machine, "docs/planted.md", "pip install -i https://pypi." + "org/simple"),
)


@pytest.fixture(scope="module")
def sources() -> dict[str, str]:
    return tracked()


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_house_keeps_its_rules(rule: Callable[[Sources], Iterator[str]], sources: Sources) -> None:
    complaints = list(rule(sources))
    assert not complaints, "\n".join(["", *complaints])


@pytest.mark.parametrize(("rule", "path", "text"), PLANTED)
def test_a_planted_violation_is_seen(rule: Callable[[Sources], Iterator[str]], path: str, text: str) -> None:
    assert any(path in complaint for complaint in rule({path: text}))


def test_a_circle_is_seen_and_what_leads_to_one_is_not() -> None:
    planted = {
        "plume/text/a.py": "def f():\n    from plume.text import b",
        "plume/text/b.py": "if TYPE_CHECKING:\n    from plume.text.c import C",
        "plume/text/c.py": "from .a import f",
        "plume/text/before.py": "from plume.text import a",
        "plume/text/after.py": "",
    }
    planted["plume/text/c.py"] += "\nfrom plume.text import after"
    assert {told.partition(":")[0][-4:-3] for told in circles(planted)} == set("abc")
    assert not list(circles({**planted, "plume/text/b.py": ""}))


def test_text_and_the_command_line_start_without_torch() -> None:
    """`plume --help` answers at once, and a text worker never holds a copy of torch."""
    found = [
        ".".join(Path(path).with_suffix("").parts).removesuffix(".__init__")
        for path in tracked()
        if path.startswith("plume/text/") and path.endswith(".py")
    ]
    for wanted in ([*found], ["plume", "plume.__main__"]):
        program = f"import sys, {', '.join(wanted)}; print('torch' in sys.modules)"
        ran = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
        assert (ran.stdout.strip(), ran.stderr) == ("False", ""), (
            f"importing {wanted}: {ran.stdout}{ran.stderr}"
        )
