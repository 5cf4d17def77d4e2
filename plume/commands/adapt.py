"""``plume adapt``: teach a model to classify texts or to tag words, or find clusters of texts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

from cyclopts import Parameter

from plume.commands.words import Flag, Json, Paths, TextColumn, TrustCode, paths_of, table, tell
from plume.errors import UserError

if TYPE_CHECKING:
    from plume.models.backbone import BackboneConfig
    from plume.runs import Run
    from plume.training.settings import Adaptation
    from plume.training.sparse import Sparse

Task = Literal["classification", "tagging", "clusters"]
Network = Literal["cnn", "bilstm"]


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
    task: Task = "classification",
    network: Network | None = None,
    accept_changes: bool = False,
    trust_code: bool = False,
) -> Run:
    """Teach the model of ``run`` to classify texts, into the run folder ``out``.

    ``task`` "tagging": a label for every word. ``network``: of a run of word vectors these become the input layer of a
    "cnn" or a "bilstm". In place of a run a recipe that only counts, such as ``"tfidf:words"``, which also finds
    "clusters" of texts without labels.

    ``settings``: ``"mode=frozen"`` (the new head alone), ``"mode=scratch"`` (no pretraining, to compare with), and
    words such as ``"training.steps=300"``. ``examples``: train on that many texts only, spread over the labels.

    Raises:
        UserError: anything the user can mend; the sentence says how.
    """
    from plume.objectives.classification import Classification
    from plume.training import adaptation
    from plume.training.folder import RunFolder

    source = Path(run)
    if task not in get_args(Task):
        raise UserError(f"there is no task {task!r}: choose {', '.join(get_args(Task))}")
    if examples is not None and examples < 1:
        raise UserError(f"--examples must be at least 1, got {examples}")
    columns = {"text_column": text_column, "label_column": label_column, "pair_column": pair_column}
    files = paths_of(data)
    tests = None if evaluation is None else paths_of(evaluation)
    if (counting := _counting(str(run))) is not None:
        return _counted(counting, settings, files, tests, Path(out), task, network, examples, columns)
    if task == "clusters":
        raise UserError(
            f"clusters are made of counted words: say tfidf:words, tfidf:characters or bow:words in place of {run}"
        )
    if source.is_file():
        raise UserError(f"{source} is a file: make a run of it first, with plume import {source} --out RUN")
    if RunFolder(source).ngrams.is_file():
        raise UserError(
            f"{source} is an n-gram model: it counts, and has nothing to adapt. Say tfidf:words in its place to learn "
            f"labels from counted words, or name the run of a network"
        )
    if not RunFolder(source).config.is_file() or not RunFolder(source).checkpoints.is_dir():
        raise UserError(
            f"{source} is no run with checkpoints (plume import makes one of a Hugging Face folder)"
        )
    chosen = _chosen(source, settings, files, examples, trust_code, columns, task, network)
    objective = chosen.objective if chosen else None
    assert objective is None or isinstance(objective, Classification)  # ``_chosen`` says so
    folder = adaptation.adapt(
        source,
        data=files,
        evaluation=tests,
        out=Path(out),
        examples=chosen.examples if chosen else examples,
        mode=chosen.mode if chosen else "full",
        objective=objective,
        training=chosen.training if chosen else None,
        task=task,
        model=chosen.model if chosen and network else None,
        trust_code=trust_code,
        accept_changes=accept_changes,
        **columns,  # type: ignore[arg-type]
    )
    from plume.runs import load

    return load(folder, trust_code=trust_code)


def _counting(name: str) -> Sparse | None:
    """The recipe of that name, or of that run, if it is one that only counts words."""
    from plume import config
    from plume.training.folder import RunFolder
    from plume.training.sparse import Sparse

    if not Path(name).exists() and ":" in name:
        found = config.resolve(name)
        if not isinstance(found, Sparse):
            raise UserError(
                f"{name} is a recipe and no run: train it first, with plume pretrain {name} --data DATA --out RUN"
            )
        return found
    if RunFolder(Path(name)).sparse.is_file():
        found = config.resolve(name)
        assert isinstance(found, Sparse)
        return found
    return None


def _counted(
    recipe: Sparse, settings: Sequence[str], data: list[Path], tests: list[Path] | None, out: Path, task: Task,
    network: Network | None, examples: int | None, columns: dict[str, str | None],
) -> Run:  # fmt: skip
    from plume import config
    from plume.runs import load
    from plume.training import sparse

    if task == "tagging" or network is not None:
        raise UserError(
            "counted words know no order: tagging and --network are for runs of word vectors or networks"
        )
    recipe = config.override(replace(recipe, task=task, examples=examples), settings)
    if recipe.task != task:
        raise UserError(f"say --task {recipe.task}, not task={recipe.task}")
    return load(sparse.adapt(recipe, data=data, evaluation=tests, out=out, **columns))  # type: ignore[arg-type]


def _chosen(
    source: Path,
    settings: Sequence[str],
    files: Sequence[Path],
    examples: int | None,
    trust_code: bool,
    columns: dict[str, str | None],
    task: Task,
    network: Network | None,
) -> Adaptation | None:
    """The settings applied to the values that suit the data; None where there are none to apply."""
    if not settings and network is None:
        return None
    from plume import config
    from plume.objectives.classification import Classification
    from plume.runs import load
    from plume.training.adaptation import Mode, classifier, read_rows, suitable, upon
    from plume.training.settings import Adaptation, Pretraining

    parent = load(source, trust_code=trust_code)
    assert task != "clusters" and isinstance(
        parent.recipe, Pretraining | Adaptation
    )  # a run has one, and what only counts was refused
    own: BackboneConfig = parent.recipe.model
    shape = own if network is None else upon(own, network)
    rows = read_rows(files, task, **columns)  # type: ignore[arg-type]
    labels = tuple(sorted({name for row in rows for name in row.names}))
    objective = classifier(parent.recipe, labels if len(labels) > 1 else ("0", "1"), shape, task)

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
    kept = isinstance(found, Classification) and (found.reader, found.labels, found.unit) == (
        objective.reader,
        objective.labels,
        objective.unit,
    )
    # The layers above word vectors are new, so only their kind and their width are fixed.
    free = network is not None and type(chosen.model) is type(shape)
    if (chosen.model != shape and not free) or not kept:
        raise UserError(
            "adapt takes its model and reader from the run and its labels from the data: only mode, training.*, "
            "the rest of objective.*, and with --network model.* can be set here"
        )
    return chosen


def command(
    run: Annotated[Path, Parameter(name="RUN")],
    /,
    *settings: Annotated[str, Parameter(name="key.path=value")],
    data: list[Path],
    out: Path,
    evaluation: Annotated[list[Path] | None, Parameter(name="--eval")] = None,
    task: Task = "classification",
    network: Network | None = None,
    text_column: TextColumn = "text",
    label_column: str = "label",
    pair_column: str | None = None,
    examples: int | None = None,
    accept_changes: Annotated[bool, Flag] = False,
    trust_code: TrustCode = False,
    json: Json = False,
) -> None:
    """Teach a pretrained model to classify texts of a table (.csv, .tsv, .jsonl, .parquet), or to tag words.

    Parameters
    ----------
    run
        A run (plume import makes one of a Hugging Face folder or of a file of word vectors). Or a recipe that only
        counts: tfidf:words, tfidf:pairs, tfidf:characters, bow:words, bow:characters.
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
        classification: a label a text. tagging: a label a word, of CoNLL files or of tables with lists. clusters:
        groups of texts without labels (clusters=8), by a recipe that only counts.
    network
        Word vectors become the input layer of this network; without, the mean of a text's vectors is read.
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
        pair_column=pair_column, examples=examples, task=task, network=network, accept_changes=accept_changes,
        trust_code=trust_code,
    )  # fmt: skip
    result = summary(adapted)
    lines = {"run": f"{result['run']}, step {result['step']:,}", "labels": ", ".join(result["labels"])}
    for name, size in result.get("sizes", {}).items():
        lines[f"cluster {len(lines) - 1}"] = f"{size:,} texts: {', '.join(result['telling'][name][:8])}"
    for split, score in result["scores"].items():
        if "accuracy" in score:
            unit = "texts" if "texts" in score else "words"
            lines[f"{split} accuracy"] = f"{score['accuracy']:.1%} of {score[unit]:,} {unit}"
        else:
            lines["distances"] = f"{score['inertia']:.4g}, the sum of squares over {score['texts']:,} texts"
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
        **{name: known[name] for name in ("telling", "sizes") if name in known},
    }
