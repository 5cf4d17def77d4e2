"""Supervised tasks beside the text that a recipe reads: every one text to text, told apart by its prefix (spec 18).

A file of tasks says what they are and where their data lies:

    cap = 65536                                  # the paper's K
    temperature = 2.0                            # and T

    [translate]
    data = "pairs.jsonl"                         # a file or a folder, beside this file
    prefix = "translate English to Chinese: "
    source = "en"
    target = "zh"
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from plume import config
from plume.errors import UserError
from plume.objectives.base import Objective
from plume.objectives.sequence_to_sequence import SequenceToSequence
from plume.text.windows import TextPairs

TEXT = "text"  # what the recipe's own windows and objective are called among the tasks

Files = Mapping[str, Sequence[Path]]  # a task's data


@dataclass(frozen=True, kw_only=True)
class Task:
    """Rows of a table: ``prefix`` and the column ``source`` are read, the column ``target`` is written.

    ``scale`` multiplies its size when tasks are mixed: T5 halves a task whose rows another one holds too.
    """

    name: str
    prefix: str = ""
    source: str = "source"
    target: str = "target"
    scale: float = 1.0

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[\w-]+", self.name) or self.name == TEXT:
            raise ValueError(
                f"a task's name is made of letters, digits, - and _, and is not {TEXT!r}, got {self.name!r}"
            )
        if not 0 <= self.scale < float("inf"):
            raise ValueError(f"scale of the task {self.name} must be at least 0, got {self.scale}")
        self.windows(1)

    def windows(self, length: int) -> TextPairs:
        """A row a window; what is longer is cut, as T5 does."""
        return TextPairs(length=length, source=self.source, target=self.target, overlong="cut")


@dataclass(frozen=True, kw_only=True)
class Tasks:
    """Tasks mixed example by example with what the recipe reads and asks of its own (T5, spec 18 section 5).

    Each counts by its examples, at most ``cap``, to the power 1 / ``temperature`` (``plume.text.mixing.rates``); the
    recipe's own text counts by its windows times ``text_scale``; 0 leaves it out. ``objective`` asks the tasks' rows.
    """

    members: tuple[Task, ...]
    cap: int | None = 2**19
    temperature: float = 1.0
    text_scale: float = 1.0
    objective: Objective[Any] = field(default_factory=SequenceToSequence)

    def __post_init__(self) -> None:
        names = [task.name for task in self.members]
        if not names:
            raise ValueError("there is no task: name one, with its data")
        if len(set(names)) != len(names):
            raise ValueError(f"two tasks have one name: {', '.join(names)}")
        prefixes = [task.prefix for task in self.members]
        if len(set(prefixes)) != len(prefixes):
            raise ValueError(
                f"two tasks begin with the same prefix, so a model cannot tell them apart: {prefixes}"
            )
        if self.cap is not None and self.cap < 1:
            raise ValueError(f"cap must be at least 1 (none: no cap), got {self.cap}")
        if not self.temperature > 0:
            raise ValueError(f"temperature must be above 0, got {self.temperature}")
        if self.text_scale < 0 or not any((self.text_scale, *(task.scale for task in self.members))):
            raise ValueError("text_scale and each task's scale must be at least 0, and one of them above")

    @property
    def scales(self) -> tuple[float, ...]:
        """Of the text and of each task."""
        return (self.text_scale, *(task.scale for task in self.members))

    def named(self, name: str) -> Task:
        """The task of that name.

        Raises:
            UserError: there is none; the sentence lists those that are.
        """
        for task in self.members:
            if task.name == name:
                return task
        raise UserError(f"there is no task {name!r}: choose {', '.join(task.name for task in self.members)}")

    def of_prompt(self, prompt: str) -> Task:
        """The task that a prompt begins like.

        Raises:
            UserError: it begins like none.
        """
        fitting = [task for task in self.members if prompt.startswith(task.prefix)]
        if not fitting:
            known = ", ".join(repr(task.prefix) for task in self.members)
            raise UserError(
                f"the prompt {prompt[:40]!r} begins with the prefix of no task that this model was trained on: "
                f"begin it with one of {known}"
            )
        return max(fitting, key=lambda task: len(task.prefix))


def read(path: Path) -> tuple[Tasks, dict[str, list[Path]]]:
    """A file of tasks: what they are, and where the data of each lies.

    Raises:
        UserError: it is not there, no TOML, or says what no task has; every problem at once.
    """
    try:
        tree = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from None
    except ValueError as error:
        raise UserError(
            f'{path} is not a TOML file: {error} (names like 翻译 stand in quotes: ["翻译"])'
        ) from None
    tables = {name: dict(value) for name, value in tree.items() if isinstance(value, dict)}
    files, faults = {}, []
    for name, table in tables.items():
        data = table.pop("data", None)
        named = [data] if isinstance(data, str) else data
        if not isinstance(named, list) or not named or not all(isinstance(d, str) and d for d in named):
            faults.append(f'[{name}] needs data = "FILE", the table with its rows')
            continue
        files[name] = [path.parent / d for d in named]
        faults += [f"[{name}] data = {str(p)!r} does not exist" for p in files[name] if not p.exists()]
    if not tables:
        faults.append('it has no table such as [translate], with data = "pairs.jsonl" and prefix = "..."')
    if faults:
        raise UserError(f"{path}: {'; '.join(faults)}")
    kind = f"{Task.__module__}:{Task.__name__}"
    members = [{"class": kind, "name": name, **table} for name, table in tables.items()]
    rest = {name: value for name, value in tree.items() if name not in tables}
    try:
        found = config.from_json(
            {"class": f"{Tasks.__module__}:{Tasks.__name__}", **rest, "members": members}
        )
    except UserError as error:
        told = str(error)
        for number, name in enumerate(tables):  # as the file has it
            told = told.replace(f"members.{number}", f"[{name}]")
        raise UserError(f"{path}: {told}") from None
    assert isinstance(found, Tasks)
    return found, files
