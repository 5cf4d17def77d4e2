"""Names -> recipes. A recipe is a function without arguments, its name an import path."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import types
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from plume.config.code import copy_files, load_file, load_module
from plume.config.hints import is_dataclass_value
from plume.config.sentences import listed, nearest
from plume.config.tree import checked, class_names, from_json, read, to_json
from plume.errors import UserError


def resolve(name: str, *, trust_code: bool = False) -> Any:
    """The recipe of that name: ``bert:tiny``, ``my_file.py:function``, ``package.module:function``, a
    ``config.json`` or a run folder.

    ``trust_code`` admits the Python files that a run folder keeps copies of (``code/``).

    Raises:
        UserError: there is none; the message has the nearest right name.
    """
    path = Path(name)
    if name and path.is_dir() and name not in recipes():
        path = path / "config.json"
        if not path.is_file():
            raise UserError(
                f"{name} is a folder without a config.json, so it is no run; the recipes are {_families()}"
            )
    if path.suffix == ".json":
        return load(path, trust_code=trust_code)
    source, _, function = name.rpartition(":")
    if source.endswith(".py"):
        module = load_file(Path(source))
    elif re.fullmatch(r"[A-Za-z]\w*(\.\w+)+", source):
        module = load_module(source)
    else:
        module = _family(name, source, function)
    return _call(module, function, source)


def load(path: Path, *, trust_code: bool = False) -> Any:
    """The configuration in a file.

    Raises:
        UserError: it is damaged, or names what this plume does not know or would not run.
    """
    tree = read(path)
    code = sorted((path.parent / "code").glob("*.py")) if trust_code else []
    try:
        return from_json(tree, trust=code)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def copy_code(recipe: Any, folder: Path) -> list[Path]:
    """Copy the user's own files that the recipe's classes come from into ``folder``; often there are none."""
    return copy_files({name.rpartition(":")[0] for name in class_names(to_json(recipe))}, folder)


def recipes() -> dict[str, tuple[str, ...]]:
    """Every recipe by family, read from the files without importing them: {"bert": ("tiny", ...), ...}."""
    found = {}
    for file in sorted((Path(__file__).parents[1] / "recipes").glob("[a-z]*.py")):
        found[file.stem] = tuple(
            node.name
            for node in ast.parse(file.read_bytes()).body
            if isinstance(node, ast.FunctionDef) and not node.name.startswith("_")
        )
    return found


def _family(name: str, source: str, function: str) -> types.ModuleType:
    known = recipes()
    if function not in known.get(source, ()):
        if not source and name in known:
            raise UserError(
                f"{name} comes as {listed([f'{name}:{f}' for f in known[name]])}: name one of them"
            )
        everything = [f"{family}:{f}" for family, functions in known.items() for f in functions]
        near = get_close_matches(name, everything, n=1, cutoff=0.6)
        if source in known:
            near = get_close_matches(name, [f"{source}:{f}" for f in known[source]], n=1, cutoff=0.6)
            what = f"{source} comes as {listed(list(known[source]))}"
        else:
            what = f"the families are {_families()}"
        meant = f" did you mean {near[0]}?" if near else ""
        raise UserError(f"there is no recipe {name!r}:{f'{meant} ({what})' if meant else f' {what}'}")
    return importlib.import_module(f"plume.recipes.{source}")


def _call(module: types.ModuleType, name: str, source: str) -> Any:
    own = {n: f for n, f in vars(module).items() if inspect.isfunction(f) and f.__module__ == module.__name__}
    if name not in own:
        raise UserError(f"{source} has no function {name!r}{nearest(name, own)}")
    if inspect.signature(own[name]).parameters:
        raise UserError(f"{source}:{name} takes arguments, but a recipe is a function without any")
    recipe = own[name]()
    if not is_dataclass_value(recipe):
        raise UserError(
            f"{source}:{name} returned {type(recipe).__name__}, but a recipe returns a Pretraining"
        )
    return checked(recipe)


def _families() -> str:
    return listed(list(recipes()))
