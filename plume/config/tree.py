"""Dataclass <-> JSON tree, strictly."""

from __future__ import annotations

import hashlib
import importlib
import inspect
import json
import math
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from plume.config.code import file_of, load_file, module_of
from plume.config.hints import (
    adapter,
    admits,
    element,
    fields_of,
    hint_of,
    is_dataclass_value,
    is_frozen,
    is_required,
    leaves,
    mapped,
    union,
    wanted,
)
from plume.config.sentences import Problem, complaint, nearest, report, shown
from plume.errors import UserError

MAX_BYTES = 4 << 20  # a config is a few kilobytes; more is an attack or a mistake
MAX_DEPTH = 32
_MODULE = re.compile(r"plume(\.[a-z][a-z0-9_]*)+")
_CLASS = re.compile(r"[A-Za-z][A-Za-z0-9_]*")


def to_json(obj: Any) -> dict[str, Any]:
    """The JSON tree of a dataclass: its class by import path and every field, nested dataclasses the same.

    Raises:
        UserError: a value that JSON cannot hold exactly (a function, a NaN, an object of another kind).
    """
    if not is_dataclass_value(obj):
        raise UserError(f"a configuration is a dataclass, but this is {type(obj).__name__}: {obj!r:.80}")
    tree: dict[str, Any] = plain(obj, "")
    return tree


def plain(value: Any, path: str) -> Any:
    """Any value of a configuration as JSON values."""
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise UserError(f"{path or 'this'} is {value}, but a configuration holds finite numbers only")
        return value
    if isinstance(value, Path):
        return str(value)
    if is_dataclass_value(value):
        parts = {name: plain(getattr(value, name), join(path, name)) for name in fields_of(type(value))}
        return {"class": class_name(type(value)), **parts}
    if isinstance(value, tuple | list):
        return [plain(v, join(path, i)) for i, v in enumerate(value)]
    if isinstance(value, Mapping) and all(isinstance(k, str) for k in value) and "class" not in value:
        return {k: plain(v, join(path, k)) for k, v in value.items()}
    raise UserError(f"{path} is a {type(value).__name__}, which a configuration cannot hold: {value!r:.80}")


def class_name(cls: type) -> str:
    """``plume.objectives.masked:MaskedLM``; a class of the user's own file is ``my.py@<digest>:Class``."""
    if cls.__qualname__ != cls.__name__:
        raise UserError(f"{cls.__qualname__} is defined inside a function or class: move it to the top level")
    file = file_of(cls.__module__)
    return f"{cls.__module__ if file is None else file.name}:{cls.__name__}"


def class_names(tree: Any) -> Iterator[str]:
    """Every class that a tree names."""
    if isinstance(tree, dict):
        if isinstance(tree.get("class"), str):
            yield tree["class"]
        tree = list(tree.values())
    if isinstance(tree, list):
        for value in tree:
            yield from class_names(value)


def digest(obj: Any) -> str:
    """SHA-256 (hex) of the canonical JSON of a dataclass or of a JSON tree: equal configurations, equal digests."""
    text = json.dumps(_tree(obj), sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def differences(a: Any, b: Any) -> list[str]:
    """What differs between two configurations, one ``path: old -> new`` a line, sorted by path."""
    old, new = dict(_leaves(_tree(a), "")), dict(_leaves(_tree(b), ""))
    lines = []
    for path in sorted({*old, *new}):
        x, y = (shown(leaf[path]) if path in leaf else "(absent)" for leaf in (old, new))
        if path not in old or path not in new or old[path] != new[path]:
            lines.append(f"{path}: {x} -> {y}")
    return lines


def _leaves(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict | list) and value:
        for key, part in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _leaves(part, path if key == "class" and path else join(path, key))
    else:
        yield path, value


def _tree(obj: Any) -> Any:
    return to_json(obj) if is_dataclass_value(obj) else obj


def read(path: Path) -> dict[str, Any]:
    """The JSON object in a file: no key twice, no NaN, no more than 4 MB, no bottomless nesting.

    Raises:
        UserError: the file is none of that.
    """
    try:
        if path.stat().st_size > MAX_BYTES:
            raise UserError(f"{path} is larger than any configuration; is it the right file?")
        tree = json.loads(path.read_bytes(), object_pairs_hook=_unique, parse_constant=no_constant)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from None
    except RecursionError:
        raise UserError(f"{path} is nested too deeply to be a configuration") from None
    except ValueError as error:
        raise UserError(f"{path} is not a valid JSON file: {error}") from None
    if not isinstance(tree, dict):
        raise UserError(f"{path} holds no configuration: it should be one JSON object")
    return tree


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    tree = dict(pairs)
    if len(tree) != len(pairs):
        keys = [k for k, _ in pairs]
        raise ValueError(f"the key {next(k for k in keys if keys.count(k) > 1)!r} stands there twice")
    return tree


def no_constant(word: str) -> Any:
    """For ``json.loads(parse_constant=...)``: JSON has no NaN."""
    raise ValueError(f"{word} is not a number JSON knows")


def from_json(tree: Any, *, trust: Sequence[Path] = ()) -> Any:
    """Build the dataclass a JSON tree describes. Strict: unknown keys, bad values and classes are all reported.

    ``trust`` names Python files whose classes may be built; everything else must lie under ``plume.``. A
    field that the tree leaves out has its default, so that an older plume's run still loads.

    Raises:
        UserError: with every problem found, each with its path.
    """
    for path in trust:
        load_file(path)
    if not isinstance(tree, dict) or "class" not in tree:
        raise UserError('this configuration names no class: it should be {"class": "plume...:Name", ...}')
    problems: list[Problem] = []
    obj = build(tree, Any, "", problems)
    if problems:
        raise UserError(report("this configuration", problems))
    return obj


def checked(obj: Any) -> Any:
    """The same configuration after the strict walk, so that one built in Python is held to what a file is."""
    return from_json(to_json(obj))


def build(value: Any, hint: Any, path: str, problems: list[Problem], depth: int = MAX_DEPTH) -> Any:
    """The value a tree's node stands for; what is wrong with it goes to ``problems`` (and None is returned)."""
    if depth == 0:
        problems.append(Problem(path, "nested too deeply"))
        return None
    if isinstance(value, dict) and "class" in value:
        return _build_class(value, hint, path, problems, depth)
    if isinstance(value, list) and (inner := element(hint)) is not None:
        return tuple(build(v, inner, join(path, i), problems, depth - 1) for i, v in enumerate(value))
    if isinstance(value, dict) and (inner := mapped(hint)) is not Any and not leaves(hint):
        return {k: build(v, inner, join(path, k), problems, depth - 1) for k, v in value.items()}
    leaf = leaves(hint)
    if not leaf:
        problems.append(Problem(path, f"needs {wanted(hint)}, got {shown(value)}"))
        return None
    try:
        return adapter(union(leaf)).validate_json(json.dumps(value, allow_nan=False), strict=True)
    except ValueError as error:
        problems.append(Problem(path, complaint(error, value)))
    except RecursionError:
        problems.append(Problem(path, "nested too deeply"))
    return None


def _build_class(tree: dict[str, Any], hint: Any, path: str, problems: list[Problem], depth: int) -> Any:
    try:
        cls = find_class(tree["class"])
        if not admits(hint, cls):
            raise UserError(f"needs {wanted(hint)}, not {cls.__name__}")
        if inspect.isabstract(cls):
            raise UserError(f"{cls.__name__} is abstract: name one of its kinds")
    except UserError as error:
        problems.append(Problem(join(path, "class"), str(error)))
        return None
    fields = fields_of(cls)
    before = len(problems)
    for key in tree:
        if key not in fields and key != "class":
            problems.append(Problem(join(path, key), f"unknown{nearest(str(key), fields)}"))
    values = {}
    for name, field in fields.items():
        if name in tree:
            values[name] = build(tree[name], hint_of(cls, name), join(path, name), problems, depth - 1)
        elif is_required(field):
            problems.append(Problem(join(path, name), f"{cls.__name__} needs it, and it has no default"))
    if len(problems) > before:
        return None
    try:
        return cls(**values)
    except (ValueError, UserError) as error:
        problems.append(Problem(path or cls.__name__, str(error)))
        return None


def find_class(name: object) -> type:
    """The frozen dataclass of that name: under ``plume.``, or in a file the user named in this process.

    Raises:
        UserError: it is none, is not there, or lies elsewhere. Nothing outside ``plume`` is imported.
    """
    module_name, colon, attribute = name.partition(":") if isinstance(name, str) else ("", "", "")
    if not colon or not _CLASS.fullmatch(attribute):
        raise UserError(f'{name!r:.80} is no class name of the form "plume.objectives.masked:MaskedLM"')
    module = module_of(module_name)
    if module is None:
        if ".py@" in module_name:
            raise UserError(
                f"this configuration uses its author's own code ({module_name[:80]}), which Plume never runs "
                f"by itself: read that file, then say --trust-code"
            )
        if not _MODULE.fullmatch(module_name):
            raise UserError(f"{module_name!r:.80} lies outside plume, and only plume's own classes are built")
        try:
            module = importlib.import_module(module_name)
        except ImportError:
            raise UserError(f"there is no module {module_name[:80]} in this version of plume") from None
    cls = vars(module).get(attribute)
    if not isinstance(cls, type) or cls.__module__ != module.__name__ or not is_frozen(cls):
        classes = [n for n, c in vars(module).items() if isinstance(c, type) and is_frozen(c)]
        raise UserError(f"{module_name} has no configuration class {attribute}{nearest(attribute, classes)}")
    return cls


def neighbours(modules: Sequence[str]) -> Iterator[str]:
    """The modules, then those of plume that lie in the same folders: where another class of a kind is found."""
    seen = {name for name in modules if name in sys.modules}
    yield from dict.fromkeys(name for name in modules if name in seen)
    for package in {name.rpartition(".")[0]: None for name in modules if _MODULE.fullmatch(name)}:
        if not _MODULE.fullmatch(package):
            continue  # plume itself is no such folder
        for folder in importlib.import_module(package).__path__:
            for file in sorted(Path(folder).glob("[a-z]*.py")):
                if (sibling := f"{package}.{file.stem}") not in seen:
                    yield sibling


def join(path: str, key: object) -> str:
    """A path one step longer."""
    return f"{path}.{key}" if path else str(key)
