"""``plume pretrain``: from a folder of text to a model of one's own."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from plume import config
from plume.errors import UserError
from plume.models.backbone import Backbone
from plume.models.heads import Head
from plume.models.pretrained import PretrainedModel
from plume.text import extending
from plume.text.files import find, look
from plume.text.readers import Report, check, read
from plume.text.splits import split_of
from plume.text.store import OtherText, Progress, build
from plume.text.tokenizers import Tokenizer, TokenizerConfig
from plume.text.tokens import Tokens, TokenStore
from plume.text.units import Lexicon
from plume.text.windows import too_short
from plume.training import continued, session, stages
from plume.training.checkpoints import Checkpoints
from plume.training.folder import RunFolder
from plume.training.meters import ShareLine
from plume.training.session import Session, say
from plume.training.settings import Pretraining
from plume.training.starts import Start, open_start, open_tokenizer, unlike
from plume.training.tasks import Files, Task
from plume.vocabulary import Vocabulary


def pretrain(
    recipe: Pretraining,
    *,
    data: Sequence[Path],
    out: Path,
    tokenizer: Path | None = None,
    start: Path | None = None,
    general: Sequence[Path] = (),
    units: Path | None = None,
    tasks: Files | None = None,
    text_column: str = "text",
    accept_changes: bool = False,
) -> Path:
    """Train ``recipe`` on the training split of ``data`` into the run folder ``out``, or go on where it stopped.

    The tokenizer is ``tokenizer``'s, else that of ``start``, else one trained on the same text. ``start`` is a run or
    a Hugging Face folder whose backbone, and whatever heads fit, are the first weights; with a tokenizer that extends
    its own, each new piece begins as the mean of its old ones. Then the held-out loss is measured before and after, on
    ``data`` and on ``general`` text, to see what was learnt and what forgotten (continued.json). ``accept_changes``
    resumes a run although code, versions or machine have changed, and records what did. A finished run says so.
    ``units``: a dictionary of phrases and entities (``plume.text.units``), for recipes that mask them; without one,
    words that often stand together are phrases. ``tasks``: where the data of each of the recipe's tasks lies.

    Returns ``out``. Under ``torchrun`` every process calls this.

    Raises:
        UserError: anything the user can mend; the sentence says how.
        SystemExit: a signal came; everything is saved.
    """
    recipe, tasks = config.checked(recipe), tasks or {}
    _know_tasks(recipe, tasks)
    with session.hold(out, recipe, "pretraining", accept_changes=accept_changes) as held:
        if held.finished:
            held.only_first(lambda: _finished(held))
            return out
        held.only_first(
            lambda: _prepare(held, recipe, list(data), tokenizer, start, text_column, units, tasks)
        )
        pieces = Tokenizer.load(held.folder.tokenizer)
        store = TokenStore.open(held.folder.tokens)
        rows = {name: TokenStore.open(held.folder.task(name)) for name in tasks}
        vocab, tokens = pieces.vocabulary, store.split("train")
        _know_enough(recipe, tokens)
        model = build_model(recipe, vocab)
        parent = _start(held, model, start, tokenizer)
        others = continued.general_texts(general, text_column) if held.ranks.first and start else []

        def measure(when: str) -> None:
            if start is not None and (when == "after" or when not in continued.noted(held.folder)):
                losses = continued.measure(recipe, model, pieces, store.split("dev"), others)
                continued.note(held.folder, when, losses)

        held.only_first(lambda: measure("before"))
        found = stages.windows(recipe)
        train = {name: row.split("train") for name, row in rows.items()}
        phases = stages.phases(recipe, tokens, vocab, train)
        if held.ranks.first and train:
            say("mixed: " + ", ".join(f"{name} {share:.1%}" for name, share in phases[0].shares.items()))
        dev = {name: row.split("dev") for name, row in rows.items()}
        session.train(
            held,
            model,
            phases,
            stages.held_out(recipe, store.split("dev"), vocab, dev, phases),
            vocab,
            length=max(windows.length for windows in found),
            bytes_per_token=_bytes_per_token([tokens, *train.values()]),
            made_of={
                "data": store.fingerprint,
                "tokenizer": pieces.fingerprint,
                **{f"task {name}": row.fingerprint for name, row in rows.items()},
            },
            parent=parent,
        )
        held.only_first(lambda: measure("after"))
        held.only_first(lambda: _close(held))
    return out


def _know_enough(recipe: Pretraining, tokens: Tokens) -> None:
    """Whether the text fills one window: less of it would only be learnt by heart, whatever the recipe.

    Raises:
        UserError: it does not.
    """
    lengths = [windows.length for windows in stages.windows(recipe) if windows.fills]
    if lengths and tokens.num_tokens < min(lengths):
        raise too_short(tokens, tokens.num_tokens, min(lengths))


def _bytes_per_token(parts: Sequence[Tokens]) -> float:
    return sum(part.num_bytes for part in parts) / max(sum(part.num_tokens for part in parts), 1)


def _close(held: Session) -> None:
    session.finish(held)
    _draw(held)


def _draw(held: Session) -> None:
    assert isinstance(held.recipe, Pretraining)
    draw_curve(held.folder, held.recipe)


def _finished(held: Session) -> None:
    say(f"{held.folder.path} is finished: {held.recipe.training.steps} steps are done")
    if not held.folder.curve[0].is_file():  # the run was killed after its last step
        _draw(held)


def build_model(recipe: Pretraining, vocab: Vocabulary, *, device: str = "cpu") -> PretrainedModel:
    """A new model with the heads of the recipe's objective and of its stages'."""

    def heads(backbone: Backbone) -> Mapping[str, Head]:
        merged: dict[str, Head] = {}
        for objective in stages.objectives(recipe):
            merged = {**objective.heads(backbone, vocab), **merged}
        return merged

    return PretrainedModel.build(recipe.model, vocab, heads, seed=recipe.training.init_seed, device=device)


def draw_curve(folder: RunFolder, recipe: Pretraining) -> None:
    """The loss curve beside what counting models reach on the same text, and each head beside its own labels'
    entropy. A picture is no reason to fail a run."""
    from plume.training import (  # n-gram counts and matplotlib, which training itself needs not
        curve_figure,
        curves,
    )

    store, vocab = TokenStore.open(folder.tokens), Tokenizer.load(folder.tokenizer).vocabulary
    png, html = folder.curve
    rows = list(_rows(folder))
    # Only who asks for the next token is ever asked where a document ends.
    ends = any("next_token" in row["losses"] for row in rows)
    # Of a row of several columns the last one is what is asked for.
    last = len(store.index["options"].get("more", ()))
    train, heldout = (
        store.split(name).part(last) if last else store.split(name) for name in ("train", "dev")
    )
    try:
        lines = curves.entropies(train, heldout, vocab, ends=ends)
    except UserError as error:
        say(f"no lines beside the curve: {error}")
        lines = None
    try:
        labels = curves.own_labels(recipe, store.split("train"), store.split("dev"), vocab)
    except UserError as error:
        say(f"no line of label frequencies: {error}")
        labels = {}
    try:
        curve_figure.draw(rows, lines, png=png, html=html, title=folder.path.name, labels=labels)
    except UserError as error:
        say(f"no curve was drawn: {error}")


def _rows(folder: RunFolder) -> Iterator[dict[str, Any]]:
    from plume.training.meters import history

    for split in ("train", "dev"):
        yield from history(folder.metrics, split)


def _prepare(
    held: Session,
    recipe: Pretraining,
    data: Sequence[Path],
    given: Path | None,
    start: Path | None,
    column: str,
    units: Path | None,
    files: Files,
) -> None:
    """Tokenizer and token stores of the run. Bad data, and weights of another shape, are refused before anything is
    written.

    Raises:
        UserError: the run was begun with other text, and has learnt from it.
    """
    source = given or start
    if start is not None and not held.folder.learnt():
        vocab = open_tokenizer(given or start).vocabulary
        _take(build_model(recipe, vocab, device="meta"), open_start(start), recipe, start, given)
    elif source == start and start is not None and not start.exists():
        source = None  # a run that has learnt keeps all that it needs of it
    try:
        _make(held.folder, recipe, data, source, column, units, files)
    except OtherText:
        if held.folder.learnt():
            raise UserError(
                f"{held.folder.path} was begun with other text than {', '.join(map(str, data))}: name the same, or "
                f"choose another --out (and --from {held.folder.path}, to go on from what it has learnt)"
            ) from None
        say(f"{held.folder.path} has no checkpoint yet, so it is begun anew with this text")
        held.folder.forget()
        _make(held.folder, recipe, data, source, column, units, files)


def _make(
    folder: RunFolder,
    recipe: Pretraining,
    data: Sequence[Path],
    given: Path | None,
    column: str,
    units: Path | None,
    files: Files,
) -> None:
    column, *more = columns(recipe) or (column,)
    members = () if recipe.tasks is None else recipe.tasks.members
    for task in members:
        with _naming(task):
            check(find(list(files[task.name])), text_column=task.source, more=(task.target,))
            _know_rows(files[task.name], task.source, task.target, "leave the task out")

    def texts() -> Iterator[str]:
        yield from training_texts(data, column, more)
        for task in members:
            yield from training_texts(files[task.name], task.source, (task.target,), prefix=task.prefix)

    if more:
        check(find(list(data)), text_column=column, more=more)
        _know_rows(data, column, more[0], "name other columns")
    lexicon = _lexicon(folder, recipe, units, lambda: training_texts(data, column, more))
    pieces = choose_tokenizer(folder, recipe.tokenizer, given, texts)
    _know_room(recipe, pieces)
    session.begin(folder, recipe)
    session.keep_tokenizer(folder, pieces)
    if lexicon is not None and not folder.units.exists():
        lexicon.save(folder.units)
    words = "word" in stages.grains(recipe)
    tokenize(data, pieces, folder, column, more, segment_words=words, lexicon=lexicon)
    for task in members:
        with _naming(task):
            build(
                list(files[task.name]), pieces, folder.task(task.name),
                text_column=task.source, more=(task.target,), prefix=task.prefix,
            )  # fmt: skip


def _know_tasks(recipe: Pretraining, files: Files) -> None:
    """Whether the data of each of the recipe's tasks is known.

    Raises:
        UserError: it is not, or there is data of others.
    """
    names = [] if recipe.tasks is None else [task.name for task in recipe.tasks.members]
    if lacking := [name for name in names if name not in files]:
        raise UserError(
            f"this recipe mixes tasks, and where the data of {', '.join(lacking)} lies is not said: give the file "
            f"of tasks with --tasks"
        )
    if others := [name for name in files if name not in names]:
        raise UserError(f"there is data for {', '.join(others)}, which is none of the recipe's tasks")


def _know_room(recipe: Pretraining, pieces: Tokenizer) -> None:
    """Whether something of a task's rows fits behind its prefix.

    Raises:
        UserError: nothing does.
    """
    if recipe.tasks is None:
        return
    shortest = min(windows.length for windows in stages.windows(recipe))
    room = recipe.tasks.objective.window_length(shortest)
    for task in recipe.tasks.members:
        if (size := len(pieces.encode(task.prefix))) >= room:
            raise UserError(
                f"the task {task.name}: its prefix has {size} tokens, and {room} fit into windows.length={shortest}: "
                f"nothing of its rows would be read, so lengthen the windows or shorten the prefix"
            )


def _know_rows(files: Sequence[Path], source: str, target: str, remedy: str) -> None:
    """Whether a table has a row at all.

    Raises:
        UserError: in none there is something to read and something to write.
    """
    report = Report()
    if next(read(list(files), text_column=source, more=(target,), report=report), None) is None:
        reasons = ", ".join(f"{n} {status}: {reason}" for (status, reason), n in report.reasons.items())
        raise UserError(
            f"no row of {', '.join(map(str, files))} has text in both columns, {source} and {target} "
            f"({reasons or 'there are none'}): fill them, or {remedy}"
        )


@contextlib.contextmanager
def _naming(task: Task) -> Iterator[None]:
    try:
        yield
    except OtherText:
        raise  # which is for ``_prepare`` to judge
    except UserError as error:
        raise UserError(f"the task {task.name}: {error}") from None


def choose_tokenizer(
    folder: RunFolder,
    kind: TokenizerConfig,
    given: Path | None,
    texts: Callable[[], Iterator[str]],
) -> Tokenizer:
    """The run's own tokenizer, else the given one, else one trained on the texts.

    Raises:
        UserError: the run was begun with another one.
    """
    pieces = open_tokenizer(given) if given is not None else None
    if folder.tokenizer.is_dir():
        own = Tokenizer.load(folder.tokenizer)
        if pieces is not None and pieces.fingerprint != own.fingerprint:
            raise UserError(
                f"{folder.path} was begun with another tokenizer than {given}: "
                f"name the same one, or choose another --out"
            )
        return own
    if pieces is None:
        say("training the tokenizer")
        pieces = kind.train(texts())
    return pieces


def tokenize(
    data: Sequence[Path],
    pieces: Tokenizer,
    folder: RunFolder,
    column: str,
    more: Sequence[str] = (),
    *,
    segment_words: bool = False,
    lexicon: Lexicon | None = None,
) -> TokenStore:
    """The run's token store, built or gone on with; the user is told what was read of the data."""
    for told in look(list(data)).passed_over:
        say(told)
    with ShareLine("tokenizing") as line:

        def tell(progress: Progress) -> None:
            line.show(progress.share, f"{progress.documents:,} documents, {progress.tokens:,} tokens")

        store = build(
            list(data),
            pieces,
            folder.tokens,
            text_column=column,
            more=more,
            segment_words=segment_words,
            lexicon=lexicon,
            progress=tell,
        )
    say(store.told())
    return store


def _lexicon(
    folder: RunFolder, recipe: Pretraining, given: Path | None, texts: Callable[[], Iterator[str]]
) -> Lexicon | None:
    """The phrases and entities that a recipe masks; None: it masks none.

    Raises:
        UserError: the dictionary is broken, another than the run was begun with, or of no use here.
    """
    wanted, own = stages.grains(recipe) & {"phrase", "entity"}, folder.units
    if not wanted:
        if given is not None:
            raise UserError(f"this recipe masks neither phrases nor entities: leave --units {given} out")
        return None
    found = None if given is None else Lexicon.read(given)
    if own.is_file():
        before = Lexicon.read(own)
        if found is not None and found != before:
            raise UserError(
                f"{folder.path} was begun with another dictionary than {given}: name the same one, or choose "
                f"another --out"
            )
        return before
    if found is None:
        say("no --units: words that often stand together are phrases, and no entity is known")
        found = Lexicon.find(texts())
    return found


def columns(recipe: Pretraining) -> tuple[str, ...]:
    """The columns that a recipe's documents are made of, where it wants several; else none.

    Raises:
        UserError: its stages want different ones.
    """
    wanted = {windows.columns for windows in stages.windows(recipe)}
    if len(wanted) > 1:
        told = " and ".join(sorted(", ".join(names) or "one text" for names in wanted))
        raise UserError(
            f"the stages of a run read the same documents, but these want {told}: give them the same columns"
        )
    return wanted.pop()


def training_texts(
    data: Sequence[Path], column: str, more: Sequence[str] = (), *, prefix: str = ""
) -> Iterator[str]:
    """The texts of the training split, for a tokenizer to be trained on; ``prefix`` stands before the first column."""
    for document in read(list(data), text_column=column, more=more):
        if split_of(document.text) == "train":
            yield from (prefix + document.text, *document.more)


def _start(
    held: Session, model: PretrainedModel, start: Path | None, tokenizer: Path | None
) -> Mapping[str, Any] | None:
    """Put the parent's weights into the model; what run.json is to say of it."""
    assert isinstance(held.recipe, Pretraining)
    recorded = held.known.get("parent")
    if start is None:
        if recorded is not None:
            raise UserError(
                f"{held.folder.path} was begun from {recorded['path']}: name it again, or choose another --out"
            )
        return None
    same = recorded is not None and recorded.get("path") == str(start.resolve())
    if recorded is not None and same and Checkpoints(held.folder.checkpoints, say=lambda _: None).newest():
        return dict(
            recorded
        )  # its own checkpoints hold all that is needed, even if the parent went on or is gone
    found = open_start(start)
    left = _take(model, found, held.recipe, start, tokenizer)
    if held.ranks.first:
        say(f"weights from {start}" + (f"; new: {', '.join(left)}" if left else ""))
    return found.record


def _take(
    model: PretrainedModel, found: Start, recipe: Pretraining, start: Path, tokenizer: Path | None
) -> list[str]:
    """Put the weights found in ``start`` into the model; which of its parameters stay as they were.

    Raises:
        UserError: they do not fit.
    """
    state = found.state
    if tokenizer is not None and (tokenizer / extending.FILE).is_file():
        state = continued.grown(state, model, tokenizer, open_tokenizer(start))
    try:
        return model.start_from(state, str(start))
    except UserError as error:
        raise unlike(found, str(start), recipe, tokenizer) or error from None
