"""From the words of a command line to a call, and from a result to what is printed."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, CycloptsError, Group, MissingArgumentError, Parameter

from plume.errors import UserError

Paths = str | Path | Sequence[str | Path]  # what the verbs' functions take as data
Flag = Parameter(show_default=False)
Json = Annotated[
    bool, Parameter(name="--json", show_default=False, help="Print the result as one JSON object.")
]
TextColumn = Annotated[str, Parameter(help="Column or key of the text in tables.")]
TrustCode = Annotated[
    bool,
    Parameter(
        show_default=False, help="Run the author's own Python files that a run was made with (its code/)."
    ),
]


def call(command: Callable[..., int | None], *, name: str, usage: str, words: Sequence[str]) -> int:
    """Call a verb's function with a command line's words; its exit code, 0 where it names none.

    Raises:
        UserError: the words do not fit; the message has the nearest right flag.
    """
    app = App(
        name=name,
        usage=f"Usage: plume {usage}",
        default_command=command,
        default_parameter=Parameter(negative=""),
        group_commands=Group("Parameters"),
        version_flags=[],
        result_action="return_value",
        print_error=False,
        exit_on_error=False,
        suppress_keyboard_interrupt=False,
        help_format="plaintext",
        help_flags=["--help", "-h"],
    )
    try:
        return app(list(words)) or 0
    except MissingArgumentError as error:
        wanted = error.argument.name if error.argument is not None else "something"
        raise UserError(f"{wanted} is missing: plume {usage} (more: {name} --help)") from None
    except CycloptsError as error:
        raise UserError(f"{str(error).strip()} (more: {name} --help)") from None


def paths_of(data: Paths) -> list[Path]:
    """One path or many, as paths that are there.

    Raises:
        UserError: one is not.
    """
    found = [Path(p) for p in ([data] if isinstance(data, str | Path) else data)]
    if not found:
        raise UserError("no data: name a file or a folder")
    for path in found:
        if not path.exists():
            raise UserError(f"{path} does not exist: name a file or a folder with text")
    return found


def tell(result: Mapping[str, Any], text: str, *, as_json: bool) -> None:
    """Print a verb's result, one JSON object or lines for people; under torchrun the first process alone does."""
    if os.environ.get("RANK", "0") != "0":
        return
    print(json.dumps(result, ensure_ascii=False, default=str) if as_json else text, flush=True)


def note(text: str) -> None:
    """A line that is not the result."""
    print(text, file=sys.stderr, flush=True)


def table(rows: Mapping[str, str]) -> str:
    """Names and values in two columns."""
    width = max(map(len, rows), default=0)
    return "\n".join(f"{name:<{width}}  {value}" for name, value in rows.items())
