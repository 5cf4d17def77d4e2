"""Configurations are frozen dataclasses; this turns them into strict JSON and back, and changes their leaves.

    recipe = resolve("bert:tiny")                      # a function in plume/recipes/bert.py
    recipe = override(recipe, ["training.steps=1000", "objective.noise_density=0.3"])
    tree = to_json(recipe)                             # {"class": "plume.training.settings:Pretraining", ...}
    assert from_json(tree) == recipe

A JSON tree is data from a stranger: it can only ever name frozen dataclasses that lie under ``plume.`` or in a
file the user named in this process, and only where the field's type admits them (DESIGN sections 5 and 7).
"""

from __future__ import annotations

import ast
import dataclasses
import hashlib
import importlib
import importlib.abc
import importlib.util
import inspect
import json
import math
import os
import re
import sys
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from plume.errors import UserError

MAX_BYTES = 4 << 20  # a config is a few kilobytes; more is an attack or a mistake
MAX_DEPTH = 32
_PLUME_MODULE = re.compile(r"plume(\.[a-z][a-z0-9_]*)+")
_CLASS_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
_FILES: dict[str, UserFile] = {}  # module name -> the file that the user named in this process


class UserFile(NamedTuple):
    """A Python file the user named. ``digest`` (16 hex digits of its SHA-256) is part of its classes' names."""

    path: Path
    digest: str
    source: bytes

    @property
    def name(self) -> str:
        return f"{self.path.name}@{self.digest}"


class Problem(NamedTuple):
    path: str
    sentence: str


# --- dataclass -> JSON -------------------------------------------------------------------------------------


def to_json(obj: Any) -> dict[str, Any]:
    """The JSON tree of a dataclass: its class by import path and every field, nested dataclasses the same.

    Raises:
        UserError: a value that JSON cannot hold exactly (a function, a NaN, an object of another kind).
    """
    if not _is_instance_of_dataclass(obj):
        raise UserError(f"a configuration is a dataclass, but this is {type(obj).__name__}: {obj!r:.80}")
    tree: dict[str, Any] = _plain(obj, "")
    return tree


def _plain(value: Any, path: str) -> Any:
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise UserError(f"{path} is {value}, but a configuration holds finite numbers only")
        return value
    if isinstance(value, Path):
        return str(value)
    if _is_instance_of_dataclass(value):
        fields = {f.name: _plain(getattr(value, f.name), _join(path, f.name)) for f in _fields(type(value))}
        return {"class": class_name(type(value)), **fields}
    if isinstance(value, tuple | list):
        return [_plain(v, _join(path, i)) for i, v in enumerate(value)]
    if isinstance(value, Mapping) and all(isinstance(k, str) for k in value) and "class" not in value:
        return {k: _plain(v, _join(path, k)) for k, v in value.items()}
    raise UserError(f"{path} is a {type(value).__name__}, which a configuration cannot hold: {value!r:.80}")


def class_name(cls: type) -> str:
    """``plume.objectives.masked:MaskedLM``; a class of the user's own file is ``my.py@<hash>:Class``."""
    if cls.__qualname__ != cls.__name__:
        raise UserError(f"{cls.__qualname__} is defined inside a function or class: move it to the top level")
    file = _FILES.get(cls.__module__)
    return f"{cls.__module__ if file is None else file.name}:{cls.__name__}"


def digest(obj: Any) -> str:
    """SHA-256 (hex) of the canonical JSON of a dataclass or of a JSON tree: equal configurations, equal digests."""
    text = json.dumps(_tree(obj), sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def differences(a: Any, b: Any) -> list[str]:
    """What differs between two configurations, one ``path: old -> new`` a line, sorted by path."""
    old, new = dict(_leaves(_tree(a), "")), dict(_leaves(_tree(b), ""))
    shown = {k: (_show(old.get(k, "(absent)")), _show(new.get(k, "(absent)"))) for k in sorted({*old, *new})}
    return [f"{path}: {x} -> {y}" for path, (x, y) in shown.items() if x != y]


def _leaves(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    if not items and not path:
        return
    if isinstance(value, dict | list) and value:
        for k, v in items:
            yield from _leaves(v, path if k == "class" and path else _join(path, k))
    else:
        yield path, value


def _tree(obj: Any) -> Any:
    return to_json(obj) if _is_instance_of_dataclass(obj) else obj


def _show(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


# --- JSON -> dataclass -------------------------------------------------------------------------------------


def read(path: Path) -> dict[str, Any]:
    """The JSON object in a file: no duplicate keys, no NaN, no more than 4 MB, no bottomless nesting.

    Raises:
        UserError: the file is none of that.
    """
    try:
        if path.stat().st_size > MAX_BYTES:
            raise UserError(f"{path} is larger than any configuration; is it the right file?")
        tree = json.loads(path.read_bytes(), object_pairs_hook=_unique, parse_constant=_no_constant)
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


def _no_constant(word: str) -> Any:
    raise ValueError(f"{word} is not a number JSON knows")


def from_json(tree: Any, *, trust: Sequence[Path] = ()) -> Any:
    """Build the dataclass a JSON tree describes. Strict: unknown keys, bad values and classes are all reported.

    ``trust`` names Python files whose classes may be built; everything else must lie under ``plume.``.

    Raises:
        UserError: with every problem found, each with its path.
    """
    for path in trust:
        load_file(path)
    problems: list[Problem] = []
    obj = _build(tree, Any, "", problems, MAX_DEPTH)
    if problems:
        raise UserError(_report("this configuration", problems))
    if not _is_instance_of_dataclass(obj):
        raise UserError('this configuration names no class: it should be {"class": "plume...:Name", ...}')
    return obj


def _build(value: Any, hint: Any, path: str, problems: list[Problem], depth: int) -> Any:
    if depth == 0:
        problems.append(Problem(path, "nested too deeply"))
        return None
    if isinstance(value, dict) and "class" in value:
        return _build_class(value, hint, path, problems, depth)
    members = _members(hint)
    if isinstance(value, list) and (element := _element(members)) is not None:
        return tuple(_build(v, element, _join(path, i), problems, depth - 1) for i, v in enumerate(value))
    leaf = [m for m in members if not _is_structured(m)]
    if not leaf or hint is Any:
        problems.append(Problem(path, f"needs {_wanted(members)}, got {_show(value)[:80]}"))
        return None
    try:
        return _adapter(_union(leaf)).validate_json(json.dumps(value, allow_nan=False), strict=True)
    except ValueError as error:
        problems.append(Problem(path, _sentence(error, value)))
        return None


def _build_class(tree: dict[str, Any], hint: Any, path: str, problems: list[Problem], depth: int) -> Any:
    try:
        cls = find_class(tree["class"])
    except UserError as error:
        problems.append(Problem(_join(path, "class"), str(error)))
        return None
    if not _admits(hint, cls):
        problems.append(Problem(_join(path, "class"), f"needs {_wanted(_members(hint))}, not {cls.__name__}"))
        return None
    fields = {f.name: f for f in _fields(cls)}
    for key in tree.keys() - fields.keys() - {"class"}:
        problems.append(Problem(_join(path, key), f"unknown{_nearest(str(key), fields)}"))
    before = len(problems)
    values = {}
    for name, f in fields.items():
        if name in tree:
            values[name] = _build(tree[name], _hint(cls, name), _join(path, name), problems, depth - 1)
        elif f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING:
            problems.append(Problem(_join(path, name), "missing"))
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
    if not colon or not _CLASS_NAME.fullmatch(attribute):
        raise UserError(f'{name!r:.80} is no class name of the form "plume.objectives.masked:MaskedLM"')
    module = next((sys.modules[m] for m, file in _FILES.items() if file.name == module_name), None)
    if module is None:
        if ".py@" in module_name:
            raise UserError(
                f"this configuration uses code of its author's, {module_name.partition('@')[0]}, which Plume never "
                f"runs by itself: read that file, then name it with --trust-code"
            )
        if not _PLUME_MODULE.fullmatch(module_name):
            raise UserError(f"{module_name!r:.80} lies outside plume, and only plume's own classes are built")
        try:
            module = importlib.import_module(module_name)
        except ImportError:
            raise UserError(f"there is no module {module_name!r:.80} in this version of plume") from None
    cls = vars(module).get(attribute)
    if not isinstance(cls, type) or cls.__module__ != module.__name__ or not _is_frozen(cls):
        classes = [n for n, c in vars(module).items() if isinstance(c, type) and _is_frozen(c)]
        raise UserError(
            f"{module_name} has no configuration class {attribute!r}{_nearest(attribute, classes)}"
        )
    return cls


# --- names -> recipes --------------------------------------------------------------------------------------


def resolve(name: str, *, trust_code: bool = False) -> Any:
    """The recipe of that name: ``bert:tiny``, ``my_file.py:function``, ``package.module:function``, a
    ``config.json`` or a run folder.

    ``trust_code`` admits the Python files that a run folder keeps a copy of (``code/``).

    Raises:
        UserError: there is none; the message has the nearest right name.
    """
    path = Path(name)
    if path.is_dir():
        path = path / "config.json"
        if not path.is_file():
            raise UserError(
                f"{name} is a folder without a config.json, so it is no run; recipes are {_families()}"
            )
    if path.suffix == ".json":
        code = sorted((path.parent / "code").glob("*.py")) if trust_code else []
        try:
            return from_json(read(path), trust=code)
        except UserError as error:
            raise UserError(f"{path}: {error}") from None
    source, _, function = name.rpartition(":")
    if source.endswith(".py"):
        module = load_file(Path(source))
    elif re.fullmatch(r"[a-z]\w*(\.\w+)+", source):
        module = _import_for_user(source)
    else:
        module = _recipes_module(name, source, function)
    return _call(module, function, source)


def _recipes_module(name: str, source: str, function: str) -> types.ModuleType:
    known = recipes()
    if function not in known.get(source, ()):
        if not source and name in known:
            raise UserError(f"{name} comes as {_list([f'{name}:{f}' for f in known[name]])}: choose one")
        everything = [f"{family}:{f}" for family, functions in known.items() for f in functions]
        near = get_close_matches(name, everything, n=1, cutoff=0.5)
        inside = f"; {source} comes as {_list(list(known[source]))}" if source in known else ""
        hint = f": did you mean {near[0]}?" if near else ""
        raise UserError(f"there is no recipe {name!r}{hint}{inside or f' (families: {_families()})'}")
    return importlib.import_module(f"plume.recipes.{source}")


def recipes() -> dict[str, tuple[str, ...]]:
    """Every recipe by family, read from the files without importing them: {"bert": ("tiny", ...), ...}."""
    found = {}
    for file in sorted((Path(__file__).parent / "recipes").glob("[a-z]*.py")):
        found[file.stem] = tuple(
            node.name
            for node in ast.parse(file.read_bytes()).body
            if isinstance(node, ast.FunctionDef) and not node.name.startswith("_")
        )
    return found


def _call(module: types.ModuleType, function: str, source: str) -> Any:
    ours = {
        n: f for n, f in vars(module).items() if inspect.isfunction(f) and f.__module__ == module.__name__
    }
    if function not in ours:
        raise UserError(f"{source} has no function {function!r}{_nearest(function, ours)}")
    parameters = inspect.signature(ours[function]).parameters.values()
    if any(p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in parameters):
        raise UserError(f"{source}:{function} wants arguments, but a recipe is a function without any")
    recipe = ours[function]()
    if not _is_instance_of_dataclass(recipe):
        raise UserError(
            f"{source}:{function} returned {type(recipe).__name__}; a recipe returns a Pretraining"
        )
    return checked(recipe)


def checked(recipe: Any) -> Any:
    """The same recipe after the strict walk, so that one built in Python is held to what a file is held to."""
    return from_json(to_json(recipe))


def load_file(path: Path) -> types.ModuleType:
    """Import a Python file the user named; from then on its classes may stand in configurations.

    Raises:
        UserError: it is missing or cannot be imported.
    """
    try:
        source = path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from None
    file = UserFile(path.resolve(), hashlib.sha256(source).hexdigest()[:16], source)
    name = f"plume_file_{re.sub(r'[^0-9A-Za-z_]', '_', path.stem)}_{file.digest}"
    if name in _FILES:
        return sys.modules[name]
    spec = importlib.util.spec_from_loader(name, _BytesLoader(file), origin=str(file.path))
    assert spec is not None  # a loader was given
    module = importlib.util.module_from_spec(spec)
    sys.modules[name], _FILES[name] = module, file
    try:
        _BytesLoader(file).exec_module(module)
    except Exception as error:
        del sys.modules[name], _FILES[name]
        raise UserError(f"{path} cannot be imported: {type(error).__name__}: {error}") from error
    return module


class _BytesLoader(importlib.abc.SourceLoader):
    """Runs the very bytes that were hashed."""

    def __init__(self, file: UserFile) -> None:
        self.file = file

    def get_filename(self, fullname: str) -> str:
        return str(self.file.path)

    def get_data(self, path: str | bytes) -> bytes:
        return self.file.source


def _import_for_user(name: str) -> types.ModuleType:
    try:
        module = importlib.import_module(name)
    except ImportError as error:
        raise UserError(f"cannot import {name}: {error}") from None
    file = Path(module.__file__ or "")
    if not name.startswith("plume.") and file.suffix == ".py":
        source = file.read_bytes()
        _FILES[name] = UserFile(file, hashlib.sha256(source).hexdigest()[:16], source)
    return module


def copy_code(recipe: Any, folder: Path) -> list[Path]:
    """Copy the user's own files that the recipe's classes come from into ``folder``; nothing if there are none."""
    text = json.dumps(to_json(recipe))
    copies = []
    for file in _FILES.values():
        if f'"{file.name}:' in text:
            folder.mkdir(parents=True, exist_ok=True)
            copy = folder / file.path.name
            aside = copy.with_suffix(f".{os.getpid()}.tmp")
            aside.write_bytes(file.source)
            aside.replace(copy)
            copies.append(copy)
    return copies


# --- key.path=value words ----------------------------------------------------------------------------------


def override(recipe: Any, words: Sequence[str]) -> Any:
    """The recipe with ``key.path=value`` words applied: leaves, another class (``windows=FullSentences``),
    entries of a tuple (``stages.0.until=100``), ``none``.

    A newly chosen class keeps the fields it shares with the old one.

    Raises:
        UserError: every unknown key and bad value at once, each with the nearest right name.
    """
    tree, problems, choices = to_json(recipe), [], []
    rest: list[tuple[str, str]] = []
    for word in words:
        path, equals, text = word.partition("=")
        if not equals or not path:
            problems.append(Problem(word, "a setting looks like key.path=value"))
        elif _is_choice(tree, path, text):
            choices.append((path, text))
        else:
            rest.append((path, text))
    for path, text in [*sorted(choices, key=lambda c: c[0].count(".")), *rest]:
        if (problem := _set(tree, path, text)) is not None:
            problems.append(Problem(f"{path}={text}", problem))
    late: list[Problem] = []
    changed = _build(tree, type(recipe), "", late, MAX_DEPTH)
    if problems or late:
        raise UserError(_report("this recipe's settings", [*problems, *late]))
    return changed


def settings(recipe: Any) -> dict[str, str]:
    """Every setting a ``key.path=value`` word can reach, with its value as one would write it."""
    return {p: _show(v) for p, v in _reachable(to_json(recipe))}


def _is_choice(tree: dict[str, Any], path: str, text: str) -> bool:
    found = _locate(tree, path)
    return found is not None and any(map(_is_structured, _members(found.hint))) and _looks_like_class(text)


def _looks_like_class(text: str) -> bool:
    return text.lower() not in ("none", "null") and re.fullmatch(r"(.+:)?[A-Z]\w*", text) is not None


class _Place(NamedTuple):
    holder: Any  # the dict or list
    key: Any
    hint: Any


def _locate(tree: Any, path: str) -> _Place | None:
    node, hint, place = tree, Any, None
    for key in path.split("."):
        if isinstance(node, dict) and "class" in node:
            cls = find_class(node["class"])
            if key not in {f.name for f in _fields(cls)}:
                return None
            place = _Place(node, key, _hint(cls, key))
        elif isinstance(node, list) and key.isdecimal() and int(key) < len(node):
            place = _Place(node, int(key), _element(_members(hint), leaves=True))
        elif isinstance(node, dict):
            place = _Place(node, key, _value_hint(_members(hint)))
        else:
            return None
        node, hint = node.get(key) if isinstance(node, dict) else node[int(key)], place.hint
    return place


def _set(tree: dict[str, Any], path: str, text: str) -> str | None:
    """Change the tree, or say in one sentence why not."""
    place = _locate(tree, path)
    if place is None:
        return f"unknown setting{_nearest_path(path, tree)}"
    members = _members(place.hint)
    structured = [m for m in members if _is_structured(m)]
    if structured and _looks_like_class(text):
        old = place.holder[place.key]
        try:
            cls = _choose(text, structured, old)
        except UserError as error:
            return str(error)
        kept = {f.name for f in _fields(cls)} & set(old or ()) if isinstance(old, dict) else set()
        same = {k: old[k] for k in kept if not _misfits(old[k], _hint(cls, k))}
        place.holder[place.key] = {"class": class_name(cls), **same}
        return None
    leaf = [m for m in members if not _is_structured(m)]
    if _element(members) is not None:  # a tuple of dataclasses: only emptying it is clear
        if text.strip() in ("", "[]", "()", "none"):
            place.holder[place.key] = []
            return None
        return f"is a list of several parts: empty it with {path}=[], or set {path}.0.<key>"
    if not leaf:
        return f"needs {_wanted(structured)} by its class name"
    try:
        place.holder[place.key] = _read_word(text, _union(leaf))
    except ValueError as error:
        return _sentence(error, text)
    return None


def _misfits(value: Any, hint: Any) -> bool:
    problems: list[Problem] = []
    _build(value, hint, "", problems, MAX_DEPTH)
    return bool(problems)


def _read_word(text: str, hint: Any) -> Any:
    """The JSON value that a word stands for, by the field's type: 1e6 is an integer where one is wanted."""
    adapter = _adapter(hint)
    candidates: list[Any] = [None] if text.lower() == "none" else []
    for literal in (text, f"[{text}]"):
        try:
            value = json.loads(literal, parse_constant=_no_constant)
        except (ValueError, RecursionError):
            continue
        candidates.append(value)
        if isinstance(value, float) and value.is_integer():
            candidates.append(int(value))
    candidates += [text, text.split(",")]
    for value in candidates:
        try:
            return _plain(adapter.validate_json(json.dumps(value, allow_nan=False), strict=True), "")
        except (ValueError, UserError):
            continue
    return _plain(adapter.validate_python(text), "")  # on/off, 1_000; else its error is the one to show


def _choose(text: str, wanted: Sequence[Any], old: Any) -> type:
    """The class a short name means: in the file or package of what stands there now, or of the field's type."""
    if ":" in text:
        source, _, name = text.rpartition(":")
        if source.endswith(".py"):
            text = f"{_FILES[load_file(Path(source)).__name__].name}:{name}"
        cls = find_class(text)
        if not _admits(_union(wanted), cls):
            raise UserError(f"needs {_wanted(wanted)}, not {name}")
        return cls
    homes = [m.__module__ for m in map(_origin, wanted)]
    if isinstance(old, dict):
        homes.insert(0, find_class(old["class"]).__module__)
    found: dict[str, type] = {}
    for module_name in _neighbours(homes):
        for name, cls in vars(importlib.import_module(module_name)).items():
            fits = isinstance(cls, type) and _is_frozen(cls) and _admits(_union(wanted), cls)
            if fits and not inspect.isabstract(cls) and not name.startswith("_"):
                found.setdefault(name, cls)
    if text not in found:
        raise UserError(f"no such choice{_nearest(text, found)}")
    return found[text]


def _neighbours(modules: Iterable[str]) -> Iterator[str]:
    seen = set()
    for name in modules:
        if name not in seen and name in sys.modules:
            seen.add(name)
            yield name
    for name in list(seen):
        package = name.rpartition(".")[0]
        if _PLUME_MODULE.fullmatch(package) is None:
            continue
        for folder in importlib.import_module(package).__path__:
            for file in sorted(Path(folder).glob("[a-z]*.py")):
                if (sibling := f"{package}.{file.stem}") not in seen:
                    seen.add(sibling)
                    yield sibling


def _reachable(node: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(node, dict) and "class" in node:
        if path:
            yield path, node["class"].rpartition(":")[2]
        for key, value in node.items():
            if key != "class":
                yield from _reachable(value, _join(path, key))
    elif isinstance(node, list) and any(isinstance(v, dict) for v in node):
        for i, value in enumerate(node):
            yield from _reachable(value, _join(path, i))
    else:
        yield path, node


def _nearest_path(path: str, tree: dict[str, Any]) -> str:
    paths = [p for p, _ in _reachable(tree)]
    last = path.rpartition(".")[2]
    same = [p for p in paths if p.rpartition(".")[2] == last]
    near = same or get_close_matches(path, paths, n=1, cutoff=0.75)
    if not near:
        tails = {p.rpartition(".")[2]: p for p in reversed(paths)}
        near = [tails[t] for t in get_close_matches(last, tails, n=1, cutoff=0.6)]
    if near:
        return f": did you mean {' or '.join(near)}?"
    parent = path.rpartition(".")[0]
    inside = [p for p in paths if p.rpartition(".")[0] == parent]
    return f" (there are {_list(inside or [p for p in paths if '.' not in p])})"


# --- types -------------------------------------------------------------------------------------------------


@lru_cache(maxsize=None)
def _adapter(hint: Any) -> Any:
    from pydantic import TypeAdapter  # 60 ms that --help does not need

    try:
        return TypeAdapter(hint)
    except Exception as error:  # pydantic's own errors for types it has no schema for
        raise UserError(f"a setting cannot have the type {hint}: {type(error).__name__}") from error


def _members(hint: Any) -> list[Any]:
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return [m for arg in typing.get_args(hint) for m in _members(arg)]
    return [hint]


def _union(members: Sequence[Any]) -> Any:
    return typing.Union[tuple(members)]  # noqa: UP007 - built from a list


def _origin(hint: Any) -> Any:
    return typing.get_origin(hint) or hint


def _is_structured(hint: Any) -> bool:
    """Whether a value of this type is a dataclass of its own in the tree, or a tuple of them."""
    if hint is Any:
        return True
    origin = _origin(hint)
    if origin in (tuple, list, Sequence, dict, Mapping):
        return any(_is_structured(m) for a in typing.get_args(hint) for m in _members(a) if a is not ...)
    return isinstance(origin, type) and (
        dataclasses.is_dataclass(origin) or inspect.isabstract(origin) or _is_protocol(origin)
    )


def _element(members: Sequence[Any], *, leaves: bool = False) -> Any:
    """The type of the elements, where a member is a tuple of dataclasses (or, with ``leaves``, of anything)."""
    for member in members:
        if _origin(member) in (tuple, list, Sequence) and (leaves or _is_structured(member)):
            return next(iter(typing.get_args(member)), Any)
    return None


def _value_hint(members: Sequence[Any]) -> Any:
    return next((typing.get_args(m)[1] for m in members if _origin(m) in (dict, Mapping)), Any)


def _admits(hint: Any, cls: type) -> bool:
    for member in map(_origin, _members(hint)):
        if member is Any:
            return True
        if isinstance(member, type) and _is_protocol(member):
            if _protocol_names(member) <= {n for c in cls.__mro__ for n in (*vars(c), *_annotations(c))}:
                return True
        elif isinstance(member, type) and issubclass(cls, member):
            return True
    return False


def _is_protocol(cls: type) -> bool:
    return bool(getattr(cls, "_is_protocol", False))


def _protocol_names(cls: type) -> set[str]:
    bases = [c for c in cls.__mro__ if _is_protocol(c) and c is not typing.Protocol]
    names = {n for c in bases for n in (*vars(c), *_annotations(c))}
    return {n for n in names if not n.startswith("_")}


def _annotations(cls: type) -> dict[str, Any]:
    annotations: dict[str, Any] = vars(cls).get("__annotations__", {})
    return annotations


def _wanted(members: Sequence[Any]) -> str:
    names = [getattr(_origin(m), "__name__", str(m)) for m in members if m not in (Any, type(None))]
    return _list(names, "or") if names else "a configuration"


def _is_frozen(cls: type) -> bool:
    return dataclasses.is_dataclass(cls) and bool(vars(cls)["__dataclass_params__"].frozen)


def _is_instance_of_dataclass(obj: Any) -> bool:
    return dataclasses.is_dataclass(obj) and not isinstance(obj, type)


def _fields(cls: Any) -> list[dataclasses.Field[Any]]:
    return [f for f in dataclasses.fields(cls) if f.init]


@lru_cache(maxsize=None)
def _hint(cls: type, name: str) -> Any:
    owner = next(c for c in cls.__mro__ if name in _annotations(c))
    hint = _annotations(owner)[name]
    if not isinstance(hint, str):
        return hint
    try:
        return typing.get_type_hints(_Bare(name, hint), vars(sys.modules[owner.__module__]))[name]
    except NameError as error:
        raise UserError(
            f"the type of {cls.__name__}.{name} cannot be read ({error}): import it outside TYPE_CHECKING"
        ) from None


class _Bare:
    """Carries one annotation, so that a class's other ones need not be readable."""

    def __init__(self, name: str, hint: str) -> None:
        self.__annotations__ = {name: hint}


# --- sentences ---------------------------------------------------------------------------------------------


def _sentence(error: ValueError, value: Any) -> str:
    details: Callable[..., list[dict[str, Any]]] | None = getattr(error, "errors", None)
    if details is None:
        return str(error)
    said = [d["msg"] for d in details(include_url=False) if d["type"] != "none_required"]
    allowed = [
        a
        for d in details(include_url=False)
        for a in re.findall(r"'([^']*)'", d.get("ctx", {}).get("expected", ""))
    ]
    sentence = " or ".join(dict.fromkeys(s[0].lower() + s[1:] for s in said))
    return f"{sentence.replace('input should', 'should')} (got {_show(value)[:80]}){_nearest(str(value), allowed, only_near=True)}"


def _nearest(word: str, names: Iterable[str], *, only_near: bool = False) -> str:
    near = get_close_matches(word, list(names), n=1, cutoff=0.5)
    if near:
        return f": did you mean {near[0]}?"
    return "" if only_near or not names else f" (there are {_list(sorted(names))})"


def _report(what: str, problems: Sequence[Problem]) -> str:
    lines = [f"{p.path}: {p.sentence}" if p.path else p.sentence for p in problems]
    if len(lines) == 1:
        return lines[0]
    return "\n  ".join([f"{len(lines)} problems in {what}:", *lines])


def _list(names: Sequence[str], word: str = "and") -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} {word} {names[-1]}" if names else ""


def _families() -> str:
    return _list(list(recipes()))


def _join(path: str, key: object) -> str:
    return f"{path}.{key}" if path else str(key)
