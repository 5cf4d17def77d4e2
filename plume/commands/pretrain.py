"""``plume pretrain``: train a model on text, or go on with it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from plume.commands.words import Flag, Json, Paths, TextColumn, TrustCode, paths_of, table, tell
from plume.errors import UserError

if TYPE_CHECKING:
    from plume.runs import Run
    from plume.training.settings import Pretraining


def pretrain(
    recipe: Any,
    *settings: str,
    data: Paths,
    out: str | Path,
    tokenizer: str | Path | None = None,
    start: str | Path | None = None,
    general: Paths | None = None,
    units: str | Path | None = None,
    tasks: str | Path | None = None,
    text_column: str = "text",
    accept_changes: bool = False,
    trust_code: bool = False,
) -> Run:
    """Train ``recipe`` (a name like ``"bert:tiny"`` or the object itself) on ``data`` into the run folder ``out``.

    ``settings`` are words such as ``"training.steps=1000"``. ``tokenizer``: a folder, else one is trained. ``start``:
    a run or Hugging Face folder to take the first weights from; ``general``: text of another kind, on which the loss is
    then measured before and after, beside that on ``data``. ``units``: a dictionary of
    phrases and entities. ``tasks``: a file of tasks (``plume.training.tasks``) to mix with what the recipe asks of its
    text. The same call on a run that exists resumes it.

    Raises:
        UserError: anything the user can mend; the sentence says how.
    """
    from plume import config

    resolved = config.resolve(recipe, trust_code=trust_code) if isinstance(recipe, str) else recipe
    from plume.commands.examples import rehearse
    from plume.training import pretraining
    from plume.training.counting import Counting, count
    from plume.training.folder import RunFolder
    from plume.training.settings import Pretraining
    from plume.training.starts import open_tokenizer

    if isinstance(resolved, Counting):
        if start is not None:
            raise UserError("an n-gram model is counted anew: --from is for models with weights")
        if tasks is not None:
            raise UserError(
                "an n-gram model answers no tasks: --tasks is for models with two stacks, such as t5:tiny"
            )
        given = None if tokenizer is None else Path(tokenizer)
        resolved = config.override(resolved, settings)
        return _loaded(
            count(resolved, data=paths_of(data), out=Path(out), tokenizer=given, text_column=text_column)
        )
    if not isinstance(resolved, Pretraining):
        raise UserError(
            f"{recipe} is a {type(resolved).__name__}, not a recipe for pretraining: see plume adapt"
        )
    resolved, rows = with_tasks(resolved, tasks)
    resolved = config.override(resolved, settings)
    if general is not None and start is None:
        raise UserError(
            "--general measures what a model forgets, so it needs the model to go on from: add --from"
        )
    own = RunFolder(Path(out)).tokenizer
    chosen = own if own.is_dir() else tokenizer or start
    rehearse(resolved, None if chosen is None else open_tokenizer(Path(chosen)))
    folder = pretraining.pretrain(
        resolved,
        data=paths_of(data),
        out=Path(out),
        tokenizer=None if tokenizer is None else Path(tokenizer),
        start=None if start is None else Path(start),
        general=() if general is None else paths_of(general),
        units=None if units is None else Path(units),
        tasks=rows,
        text_column=text_column,
        accept_changes=accept_changes,
    )
    return _loaded(folder)


def with_tasks(recipe: Pretraining, tasks: str | Path | None) -> tuple[Pretraining, dict[str, list[Path]]]:
    """The recipe with the tasks of a file, if one is given, and where their data lies."""
    from dataclasses import replace

    from plume.training.tasks import read

    if tasks is None:
        return recipe, {}
    found, files = read(Path(tasks))
    try:
        return replace(recipe, tasks=found), files
    except ValueError as error:
        raise UserError(f"{tasks}: {error}") from None


def _loaded(folder: Path) -> Run:
    from plume.runs import load

    return load(folder, trust_code=True)  # its code is what the user named just now


def command(
    recipe: str,
    /,
    *settings: Annotated[str, Parameter(name="key.path=value")],
    data: list[Path],
    out: Path,
    tokenizer: Path | None = None,
    start: Annotated[Path | None, Parameter(name="--from")] = None,
    general: list[Path] | None = None,
    units: Path | None = None,
    tasks: Path | None = None,
    text_column: TextColumn = "text",
    accept_changes: Annotated[bool, Flag] = False,
    trust_code: TrustCode = False,
    json: Json = False,
) -> None:
    """Train a model on text. The same command again goes on where it stopped, or says that it is finished.

    Parameters
    ----------
    recipe
        bert:tiny, gpt:small, ngram:kneser_ney, ..., my_file.py:function, or a run's config.json.
    settings
        Change the recipe: training.steps=1000 model.num_layers=4 windows=FullSentences
        (plume show RECIPE --settings lists them all).
    data
        Files or folders of text; 90 % trains, 5 % is for curves, 5 % for plume evaluate. May be given again.
    out
        The run folder.
    tokenizer
        Use this one (a folder of plume tokenizer, a run, a Hugging Face folder) instead of training one.
    start
        A run or Hugging Face folder to take the first weights from. With a --tokenizer that plume tokenizer --extend
        made of its own, new pieces begin as the mean of their old ones.
    general
        With --from: text of another kind. The loss before and after is told for it and for the data.
    units
        A dictionary for ERNIE: one entry a line, its text, a tab, and phrase or entity.
    tasks
        A file of tasks to mix with the text, of which each is text to text: what they begin with, and their data.
    accept_changes
        Go on although code, versions or the machine have changed; the run records it.
    """
    run = pretrain(
        recipe, *settings, data=data, out=out, tokenizer=tokenizer, start=start, general=general, units=units,
        tasks=tasks, text_column=text_column, accept_changes=accept_changes, trust_code=trust_code,
    )  # fmt: skip
    result = summary(run)
    tell(result, lines_of(result), as_json=json)


def summary(run: Run) -> dict[str, Any]:
    """Where a run stands: its last rows of training and held-out loss, in nats."""
    from plume.training import continued
    from plume.training.folder import RunFolder
    from plume.training.meters import history

    folder = RunFolder(run.path)
    result: dict[str, Any] = {"run": str(run.path), "step": run.step}
    for split in ("train", "dev"):
        rows = list(history(folder.metrics, split)) if folder.metrics.is_file() else []
        if rows:
            result[f"{split}_loss"] = rows[-1]["loss"]
            if len(losses := rows[-1].get("losses", {})) > 1:
                result[f"{split}_losses"] = losses
            if "tasks" in rows[-1]:
                result["task_losses"] = rows[-1]["tasks"]
            result["tokens"] = max(result.get("tokens", 0), rows[-1]["tokens"])
    if noted := continued.noted(folder):
        result["continued"] = {when: losses for when, losses in noted.items() if when in ("before", "after")}
    curve = folder.curve[1]
    if curve.is_file():
        result["curve"] = str(curve)
    return result


def lines_of(result: dict[str, Any]) -> str:
    """``summary`` as a table."""
    lines = {"run": f"{result['run']}, step {result['step']:,}"}
    names = {"train_loss": "training loss", "dev_loss": "held-out loss"}
    for key, label in names.items():
        if key in result:
            heads = ", ".join(f"{name} {loss:.4f}" for name, loss in result.get(f"{key}es", {}).items())
            lines[label] = f"{result[key]:.4f} nats" + (f" ({heads})" if heads else "")
    lines |= {f"  {name}": f"{loss:.4f} nats" for name, loss in result.get("task_losses", {}).items()}
    before, after = (result.get("continued", {}).get(when, {}) for when in ("before", "after"))
    for key, label in (("domain", "loss on this text"), ("general", "loss on general text")):
        if key in before and key in after:
            lines[label] = f"{before[key]:.4f} -> {after[key]:.4f} nats"
    if "curve" in result:
        lines["curve"] = result["curve"]
    return table(lines)
