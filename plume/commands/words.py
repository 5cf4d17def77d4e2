"""From the words of a command line to a call, and from a result to what is printed."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any

from cyclopts import App, CycloptsError, Parameter

from plume.errors import UserError

Json = Annotated[bool, Parameter(name="--json", negative="")]
Flag = Parameter(negative="")


def call(command: Callable[..., None], *, name: str, words: Sequence[str]) -> None:
    """Call a verb's function with a command line's words.

    Raises:
        UserError: the words do not fit; the message has the nearest right flag.
    """
    app = App(
        name=name,
        default_command=command,
        version_flags=[],
        result_action="return_value",
        print_error=False,
        exit_on_error=False,
        suppress_keyboard_interrupt=False,
        help_format="plaintext",
    )
    try:
        app(list(words))
    except CycloptsError as error:
        raise UserError(f"{str(error).strip()} (see {name} --help)") from None


def tell(result: Mapping[str, Any], text: str, *, as_json: bool) -> None:
    """Print a verb's result: one JSON object, or lines for people."""
    print(json.dumps(result, ensure_ascii=False, default=str) if as_json else text, flush=True)


def note(text: str) -> None:
    """A line that is not the result."""
    print(text, file=sys.stderr, flush=True)
