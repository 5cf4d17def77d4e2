"""``plume chat``: write with a model, line by line."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from plume.commands.words import Json, TrustCode, note, tell

if TYPE_CHECKING:
    from plume.runs import Run


def command(
    run: Annotated[Path, Parameter(name="RUN")],
    /,
    *,
    max_new_tokens: int = 60,
    temperature: float = 0.8,
    top_p: float = 0.95,
    seed: int = 0,
    trust_code: TrustCode = False,
    json: Json = False,
) -> None:
    """Write with a model, line by line. It goes on from all that was written so far, up to what it can read; one that
    answers texts (a translator, a model trained on tasks) answers each line by itself.

    A line /new forgets what was written, an empty one lets the model go on, /quit or the end of input ends.

    Parameters
    ----------
    run
        A run, or a Hugging Face folder.
    max_new_tokens
        At most so many tokens a turn.
    temperature
        0: always the likeliest token; more is wilder.
    top_p
        Draw from the likeliest tokens that together have this probability.
    seed
        The same seed and lines give the same text.
    json
        Print the whole conversation as one JSON object at the end.
    """
    from plume.runs import load

    loaded = load(run, trust_code=trust_code)
    loaded.language_model  # noqa: B018 - says at once if it cannot write
    typed = sys.stdin.isatty()
    if typed:
        goes_on = loaded.answers.goes_on
        does = "goes on from what you write. /new forgets," if goes_on else "answers each line by itself."
        note(f"{loaded.name} {does} /quit ends.")
    turns = chat(
        loaded,
        lambda: _line(typed),
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        top_p=top_p,
        seed=seed,
        write=(lambda _: None) if json else _write,
    )
    if json:
        tell({"run": str(run), "turns": turns}, "", as_json=True)


def chat(
    run: Run,
    read: Callable[[], str | None],
    *,
    max_new_tokens: int = 60,
    temperature: float = 0.8,
    top_p: float = 0.95,
    seed: int = 0,
    write: Callable[[str], None] | None = None,
) -> list[dict[str, str]]:
    """Turns of {"you": ..., "model": ...}. ``read`` gives a line, None at the end; ``write`` gets the text as it grows.

    A turn ends with the model's line, its text or after ``max_new_tokens``.
    """
    from plume.generation.sampling import Decoding

    turns: list[dict[str, str]] = []
    before = ""
    while (line := read()) is not None and line.strip() != "/quit":
        if line.strip() == "/new":
            before = ""
            continue
        if not run.answers.goes_on:
            if not line.strip():
                continue  # there is nothing to answer
            before = line
        else:
            before += line if not before or not line else f"\n{line}"
        decoding = Decoding(max_new_tokens=max_new_tokens, temperature=temperature, top_p=top_p, stop=("\n",),
                            seed=seed + len(turns), overflow="slide")  # fmt: skip
        answer = ""
        for delta in run.stream([before], decoding):
            answer += delta.text
            if write is not None:
                write(delta.text)
        if write is not None:
            write("\n")
        before += answer
        turns.append({"you": line, "model": answer})
    return turns


def _line(typed: bool) -> str | None:
    if typed:
        sys.stderr.write("> ")
        sys.stderr.flush()
    line = sys.stdin.readline()
    return line.rstrip("\r\n") if line else None


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()
