"""``plume adapt``: teach a pretrained model to classify texts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from plume.commands.words import Flag, Json, Paths, TextColumn, TrustCode, paths_of, table, tell
from plume.errors import UserError

if TYPE_CHECKING:
    from plume.runs import Run
    from plume.training.settings import Adaptation


def adapt(
    run: str | Path,
    *settings: str,
    data: Paths,
    out: str | Path,
    evaluation: Paths | None = None,
    text_column: str = "text",
    label_column: str = "label",
    pair_column: str | None = None,
    examples: int | None = None,
    accept_changes: bool = False,
    trust_code: bool = False,
) -> Run:
    """Teach the model of ``run`` to classify texts, into the run folder ``out``.

    ``settings``: ``"mode=frozen"`` (the new head alone), ``"mode=scratch"`` (no pretraining, to compare with), and
    words such as ``"training.steps=300"``. ``examples``: train on that many texts only, spread over the labels.

    Raises:
        UserError: anything the user can mend; the sentence says how.
    """
    from plume.objectives.classification import Classification
    from plume.training import adaptation
    from plume.training.folder import RunFolder

    source = Path(run)
    columns = {"text_column": text_column, "label_column": label_column, "pair_column": pair_column}
    files = paths_of(data)
    if not RunFolder(source).config.is_file() or not RunFolder(source).checkpoints.is_dir():
        raise UserError(
            f"{source} is no run with checkpoints (plume import makes one of a Hugging Face folder)"
        )
    chosen = _chosen(source, settings, files, examples, trust_code, columns)
    objective = chosen.objective if chosen else None
    assert objective is None or isinstance(objective, Classification)  # ``_chosen`` says so
    folder = adaptation.adapt(
        source,
        data=files,
        evaluation=None if evaluation is None else paths_of(evaluation),
        out=Path(out),
        examples=chosen.examples if chosen else examples,
        mode=chosen.mode if chosen else "full",
        objective=objective,
        training=chosen.training if chosen else None,
        trust_code=trust_code,
        accept_changes=accept_changes,
        **columns,  # type: ignore[arg-type]
    )
    from plume.runs import load

    return load(folder, trust_code=trust_code)


def _chosen(
    source: Path,
    settings: Sequence[str],
    files: Sequence[Path],
    examples: int | None,
    trust_code: bool,
    columns: dict[str, str | None],
) -> Adaptation | None:
    """The settings applied to the values that suit the data; None where there are none to apply."""
    if not settings:
        return None
    from plume import config
    from plume.objectives.classification import Classification
    from plume.runs import load
    from plume.training.adaptation import Mode, classifier, read_labelled, suitable
    from plume.training.settings import Adaptation, Pretraining

    parent = load(source, trust_code=trust_code)
    shape = parent.network.backbone.config
    rows = read_labelled(files, **columns)  # type: ignore[arg-type]
    labels = tuple(sorted({row.label for row in rows}))
    assert isinstance(
        parent.recipe, Pretraining | Adaptation
    )  # a run has one, and what only counts was refused
    objective = classifier(parent.recipe, labels if len(labels) > 1 else ("0", "1"))

    def plain(count: int, mode: Mode) -> Adaptation:
        training = suitable(count, shape, mode)
        if any(word.startswith("training.steps=") for word in settings):
            training = replace(training, warmup_steps=None)  # a share of the steps, however few they are
        return Adaptation(objective=objective, model=shape, training=training, mode=mode, examples=examples)

    mode = config.override(plain(16, "full"), settings).mode  # every bad word is told here, all at once
    count = sum(row.split == "train" for row in rows)
    count = max(1, count if examples is None else min(examples, count))
    chosen: Adaptation = config.override(plain(count, mode), settings)
    found = chosen.objective
    own = isinstance(found, Classification) and (found.reader, found.labels) == (
        objective.reader,
        objective.labels,
    )
    if chosen.model != shape or not own:
        raise UserError(
            "adapt takes its model and reader from the run and its labels from the data: only mode, training.* and "
            "the rest of objective.* can be set here"
        )
    return chosen


def command(
    run: Annotated[Path, Parameter(name="RUN")],
    /,
    *settings: Annotated[str, Parameter(name="key.path=value")],
    data: list[Path],
    out: Path,
    evaluation: Annotated[list[Path] | None, Parameter(name="--eval")] = None,
    task: Literal["classification"] = "classification",
    text_column: TextColumn = "text",
    label_column: str = "label",
    pair_column: str | None = None,
    examples: int | None = None,
    accept_changes: Annotated[bool, Flag] = False,
    trust_code: TrustCode = False,
    json: Json = False,
) -> None:
    """Teach a pretrained model to classify texts of a table (.csv, .tsv, .jsonl, .parquet).

    Parameters
    ----------
    run
        A run (plume import makes one of a Hugging Face folder).
    settings
        mode=frozen (train the new head alone), mode=scratch (the same network without pretraining),
        training.steps=300, training.lr=1e-4, ...
    data
        Labelled texts: 90 % train, 5 % choose the best weights, 5 % are left for plume evaluate.
    out
        The run folder.
    evaluation
        Other labelled texts, scored once at the end.
    task
        What it learns.
    label_column
        Column or key of the label.
    pair_column
        Column or key of a second text, where a label is about two.
    examples
        Train on that many texts only, spread evenly over the labels.
    accept_changes
        Go on although code, versions or the machine have changed; the run records it.
    """
    adapted = adapt(
        run, *settings, data=data, out=out, evaluation=evaluation, text_column=text_column, label_column=label_column,
        pair_column=pair_column, examples=examples, accept_changes=accept_changes, trust_code=trust_code,
    )  # fmt: skip
    result = summary(adapted)
    lines = {"run": f"{result['run']}, step {result['step']:,}", "labels": ", ".join(result["labels"])}
    for split, score in result["scores"].items():
        lines[f"{split} accuracy"] = f"{score['accuracy']:.1%} of {score['texts']:,} texts"
    tell(result, table(lines), as_json=json)


def summary(run: Run) -> dict[str, Any]:
    """Where an adapted run stands, and its scores."""
    from plume.training.folder import RunFolder

    known = RunFolder(run.path).read_run()
    return {
        "run": str(run.path),
        "step": run.step,
        "labels": list(run.labels),
        "scores": known.get("scores", {}),
    }
