"""What is said about a wrong name or value: where it stands, what is wrong, and the nearest right one."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Sequence
from difflib import get_close_matches
from typing import Any, NamedTuple


class Problem(NamedTuple):
    """One thing that is wrong with a configuration, at ``path`` (a.b.c)."""

    path: str
    sentence: str


def report(what: str, problems: Sequence[Problem]) -> str:
    """All problems as one message: a sentence if there is one, else a line each."""
    lines = [f"{p.path}: {p.sentence}" if p.path else p.sentence for p in problems]
    if len(lines) == 1:
        return lines[0]
    return "\n  ".join([f"{len(lines)} problems in {what}:", *lines])


def nearest(word: str, names: Iterable[str], *, only_near: bool = False) -> str:
    """``": did you mean X?"``, or what there is if nothing is near."""
    names = list(names)
    lower = {name.lower(): name for name in names}
    near = get_close_matches(word.lower(), list(lower), n=1, cutoff=0.5)
    if near:
        return f": did you mean {lower[near[0]]}?"
    return "" if only_near or not names else f" (there are {listed(sorted(names))})"


def listed(names: Sequence[str], word: str = "and") -> str:
    """
    >>> listed(["a", "b", "c"])
    'a, b and c'
    """
    return f"{', '.join(names[:-1])} {word} {names[-1]}" if len(names) > 1 else "".join(names)


def shown(value: Any) -> str:
    """A leaf as one would write it."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=repr)
    return text if len(text) <= 80 else text[:77] + "..."


def complaint(error: ValueError, value: Any) -> str:
    """A validation error in one sentence, with the value and, of a fixed choice, the nearest one."""
    details: Callable[..., list[dict[str, Any]]] | None = getattr(error, "errors", None)
    if details is None:  # not pydantic's
        return str(error)
    errors = details(include_url=False)
    said = [e["msg"] for e in errors if e["type"] != "none_required"]
    choices = [c for e in errors for c in re.findall(r"'([^']*)'", e.get("ctx", {}).get("expected", ""))]
    sentence = " or ".join(dict.fromkeys(s[0].lower() + s[1:].partition(", unable")[0] for s in said))
    hint = nearest(str(value), choices, only_near=True)
    return f"{sentence.replace('input should', 'should')} (got {shown(value)}){hint}"
