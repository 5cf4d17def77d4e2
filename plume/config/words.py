"""``key.path=value`` words: change a recipe's leaves, or choose another class for one of its parts."""

from __future__ import annotations

import importlib
import inspect
import json
import re
from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NamedTuple

from plume.config.code import file_of, load_file
from plume.config.hints import (
    adapter,
    admits,
    element,
    fields_of,
    hint_of,
    is_frozen,
    is_structured,
    leaves,
    mapped,
    members,
    origin,
    union,
    wanted,
)
from plume.config.sentences import Problem, complaint, listed, nearest, report, shown
from plume.config.tree import build, class_name, find_class, join, neighbours, no_constant, plain, to_json
from plume.errors import UserError


def override(recipe: Any, words: Sequence[str]) -> Any:
    """The recipe with the words applied: leaves (``training.steps=1e4``), another class for a part
    (``windows=FullSentences``, ``objective=my_file.py:Mine``), entries of a tuple (``stages.0.until=100``),
    ``none``.

    A newly chosen class keeps what it shares with the old one, and choices are applied before leaves.

    Raises:
        UserError: every unknown key and bad value at once, each with the nearest right name.
    """
    tree = to_json(recipe)
    problems: list[Problem] = []
    settings: list[tuple[bool, int, str, str]] = []
    for word in words:
        path, equals, text = word.partition("=")
        if equals and path:
            chooses = _names_class(text)
            settings.append((not chooses, path.count(".") if chooses else 0, path, text))
        else:
            problems.append(Problem(word, "a setting looks like key.path=value"))
    for *_, path, text in sorted(settings, key=lambda s: s[:2]):
        try:
            _set(tree, path, text)
        except UserError as error:
            problems.append(Problem(f"{path}={text}", str(error)))
    late: list[Problem] = []
    changed = build(tree, type(recipe), "", late)
    # What a bad word left undone must not be told twice.
    wrong = [p.path.partition("=")[0] for p in problems]
    problems += [p for p in late if not any(w == p.path or w.startswith(f"{p.path}.") for w in wrong)]
    if problems:
        raise UserError(report("this recipe's settings", problems))
    return changed


def settings(recipe: Any) -> dict[str, str]:
    """Every setting that a word can reach, with its value as one would write it."""
    return {path: shown(value) for path, value in _reachable(to_json(recipe), "")}


class _Place(NamedTuple):
    """Where in the tree a setting stands, and the type it was declared with."""

    holder: Any
    key: Any
    hint: Any

    @property
    def value(self) -> Any:
        return self.holder.get(self.key) if isinstance(self.holder, dict) else self.holder[self.key]


def _locate(tree: Any, path: str) -> _Place | None:
    node, hint, place = tree, Any, None
    for key in path.split("."):
        if isinstance(node, dict) and "class" in node:
            cls = find_class(node["class"])
            if key not in fields_of(cls):
                return None
            place = _Place(node, key, hint_of(cls, key))
        elif isinstance(node, list) and key.isdecimal() and int(key) < len(node):
            place = _Place(node, int(key), element(hint, structured=False))
        elif isinstance(node, dict) and mapped(hint) is not Any:
            place = _Place(node, key, mapped(hint))
        else:
            return None
        node, hint = place.value, place.hint
    return place


def _set(tree: dict[str, Any], path: str, text: str) -> None:
    place = _locate(tree, path)
    if place is None:
        raise UserError(f"unknown setting{_nearest_path(path, tree)}")
    parts = [m for m in members(place.hint) if is_structured(m)]
    leaf = leaves(place.hint)
    if element(place.hint) is not None:
        if text.strip().lower() not in ("", "[]", "()", "none"):
            raise UserError(f"it has several parts: empty it with {path}=[] or set {path}.0.<key>=...")
        place.holder[place.key] = []
    elif parts and _names_class(text):
        old = place.value if isinstance(place.value, dict) else {}
        cls = _choose(text, union(parts), old)
        kept = {name: old[name] for name in fields_of(cls) if name in old}
        kept = {name: value for name, value in kept.items() if _fits(value, hint_of(cls, name))}
        place.holder[place.key] = {"class": class_name(cls), **kept}
    elif leaf:
        try:
            place.holder[place.key] = _read_word(text, union(leaf))
        except ValueError as error:
            choices = f", or the name of a {wanted(union(parts))}" if parts else ""
            raise UserError(complaint(error, text) + choices) from None
    else:
        raise UserError(f"it is a part of its own: choose another by its class name, or set {path}.<key>=...")


def _names_class(text: str) -> bool:
    return text.lower() != "none" and re.fullmatch(r"(.+:)?[A-Z]\w*", text) is not None


def _fits(value: Any, hint: Any) -> bool:
    problems: list[Problem] = []
    build(value, hint, "", problems)
    return not problems


def _read_word(text: str, hint: Any) -> Any:
    """The JSON value that a word stands for, by the field's type: 1e6 is an integer where one is wanted."""
    candidates: list[Any] = [None] if text.lower() == "none" else []
    for literal in (text, f"[{text}]"):
        try:
            value = json.loads(literal, parse_constant=no_constant)
        except (ValueError, RecursionError):
            continue
        candidates.append(value)
        if isinstance(value, float) and value.is_integer():
            candidates.append(int(value))
    for value in (*candidates, text, text.split(",")):
        try:
            good = adapter(hint).validate_json(json.dumps(value, allow_nan=False), strict=True)
        except ValueError:
            continue
        return plain(good, "")
    return plain(
        adapter(hint).validate_python(text), ""
    )  # "on", "1_000"; otherwise its error is the one to show


def _choose(text: str, hint: Any, old: dict[str, Any]) -> type:
    """The class a name means: in the folder of what stands there now, or of the field's declared type."""
    source, colon, name = text.rpartition(":")
    if colon:
        cls = find_class(f"{_user_file(source)}:{name}" if source.endswith(".py") else text)
        if not admits(hint, cls):
            raise UserError(f"needs {wanted(hint)}, not {name}")
        return cls
    homes = [find_class(old["class"]).__module__] if "class" in old else []
    homes += [origin(m).__module__ for m in members(hint)]
    found: dict[str, type] = {}
    for module in neighbours(homes):
        for cls in vars(importlib.import_module(module)).values():
            kind = isinstance(cls, type) and is_frozen(cls) and not inspect.isabstract(cls)
            if kind and cls.__module__ == module and admits(hint, cls):
                found.setdefault(cls.__name__, cls)
        if name in found:
            return found[name]
    raise UserError(f"there is no {wanted(hint)} of that name{nearest(name, found)}")


def _user_file(path: str) -> str:
    file = file_of(load_file(Path(path)).__name__)
    if file is None:
        raise UserError(f"{path} cannot be imported as a Python file")
    return file.name


def _reachable(node: Any, path: str) -> Iterator[tuple[str, Any]]:
    if isinstance(node, dict) and "class" in node:
        if path:
            yield path, node["class"].rpartition(":")[2]
        for key, value in node.items():
            if key != "class":
                yield from _reachable(value, join(path, key))
    elif isinstance(node, list) and any(isinstance(v, dict) for v in node):
        for i, value in enumerate(node):
            yield from _reachable(value, join(path, i))
    else:
        yield path, node


def _nearest_path(path: str, tree: dict[str, Any]) -> str:
    paths = [p for p, _ in _reachable(tree, "")]
    parent, _, last = path.rpartition(".")
    near = [p for p in paths if p.rpartition(".")[2] == last and not p.startswith("stages.")]
    near = near or get_close_matches(path, paths, n=1, cutoff=0.75)
    if not near:
        tails = {p.rpartition(".")[2]: p for p in reversed(paths)}
        near = [tails[t] for t in get_close_matches(last, tails, n=1, cutoff=0.6)]
    if near:
        return f": did you mean {listed(near, 'or')}?"
    inside = [p for p in paths if p.rpartition(".")[0] == parent]
    return f" (there are {listed(inside or [p for p in paths if '.' not in p])})"
