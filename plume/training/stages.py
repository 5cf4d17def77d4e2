"""A recipe's stages, resolved to the phases that the loader reads (DESIGN section 2: stages)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from plume.errors import UserError
from plume.objectives.base import Objective
from plume.objectives.masked import MaskedLM
from plume.seeding import key
from plume.text.marks import Grain
from plume.text.store import Tokens
from plume.text.windows import Plan, Reading, Window, Windows
from plume.training import mixing
from plume.training.loader import Epochs, Phase
from plume.training.settings import Pretraining, Stage
from plume.training.tasks import TEXT
from plume.vocabulary import Vocabulary


def resolve(recipe: Pretraining) -> Iterator[tuple[int, Windows, Objective[Any], int]]:
    """(first step, windows, objective, batch size) of each stage that the run reaches."""
    first = 0
    # A list of stages that ends early leaves the rest to the recipe itself.
    for stage in (*recipe.stages, Stage()):
        if first >= recipe.training.steps:
            return
        yield (
            first,
            stage.windows or recipe.windows,
            stage.objective or recipe.objective,
            stage.batch_size or recipe.training.batch_size,
        )
        if stage.until is None:
            return
        first = stage.until


def windows(recipe: Pretraining) -> list[Windows]:
    """The recipe's windows and those that stages put in their place."""
    return [recipe.windows, *(windows for _, windows, _, _ in resolve(recipe))]


def grains(recipe: Pretraining) -> set[Grain]:
    """The units that the recipe's objectives mask."""
    return {o.unit for o in _of_text(recipe) if isinstance(o, MaskedLM)}


def objectives(recipe: Pretraining) -> list[Objective[Any]]:
    """The recipe's objective and those that stages put in its place, each once, with the tasks' where it has some."""
    return [recipe.asks(objective) for objective in _of_text(recipe)]


def _of_text(recipe: Pretraining) -> list[Objective[Any]]:
    return list(dict.fromkeys([recipe.objective, *(o for _, _, o, _ in resolve(recipe))]))


def phases(
    recipe: Pretraining, tokens: Tokens, vocab: Vocabulary, tasks: Mapping[str, Tokens] | None = None
) -> list[Phase[Window]]:
    """The phases of a run over the training split.

    ``tasks``: the rows of each of the recipe's tasks, mixed with the text; without them the text is read alone.

    Stages that cut alike go on in one sequence of samples; another way of cutting begins a new one, with
    draws of its own.

    Raises:
        UserError: the text is shorter than a window, or a task has no rows.
    """
    recipe, training = recipe if tasks else replace(recipe, tasks=None), recipe.training
    found: list[Phase[Window]] = []
    cut: object = None
    shares: Mapping[str, float] = {}
    for first, windows, objective, batch_size in resolve(recipe):
        used = found[-1].numbers(first).start if found else 0
        length = objective.window_length(windows.length)
        # Rows that carry memory are cut for one batch size.
        this = (windows, length, batch_size if windows.carries else None)
        if this == cut:
            epochs, seeds, base = found[-1].epochs, found[-1].seeds, found[-1].base
        else:
            number = found[-1].seeds[1] + 1 if found else 0
            seed = key(training.data_seed, "stage", number) if number else training.data_seed
            variants = recipe.dupe_factor if recipe.masking == "static" else None
            epochs = Epochs(_cutter(windows, tokens, vocab, length, batch_size, seed, variants))
            if recipe.tasks is not None:
                rows = _rows(recipe, windows.length, tasks or {}, vocab, batch_size, seed, variants)
                shares = mixing.shares(recipe.tasks, {TEXT: epochs, **rows})
                epochs = mixing.mixed({TEXT: epochs, **rows}, shares, seed, variants)
            seeds, base, cut = (training.noise_seed, number), used, this
        found.append(
            Phase(
                objective=recipe.asks(objective),
                epochs=epochs,
                batch_size=batch_size,
                seeds=seeds,
                first_step=first,
                first_sample=used,
                base=base,
                carries=windows.carries,
                static=recipe.masking == "static",
                dupe_factor=recipe.dupe_factor,
                shares=shares,
            )
        )
    return found


def held_out(
    recipe: Pretraining,
    tokens: Tokens,
    vocab: Vocabulary,
    tasks: Mapping[str, Tokens] | None = None,
    trained: Sequence[Phase[Window]] = (),
) -> list[Phase[Window] | str]:
    """For each stage the held-out text as one phase: the same windows and the same masks at every look.

    Of a recipe with ``tasks``, whose held-out rows these are, each is a part of the phase, with the share that it has
    in the phase it is ``trained`` in; without them the text is looked at alone.
    A string says why there is none (the held-out text is too short).
    """
    found: list[Phase[Window] | str] = []
    for number, (_, windows, objective, batch_size) in enumerate(resolve(recipe)):
        seed = recipe.training.data_seed
        length = objective.window_length(windows.length)
        epochs = Epochs(_cutter(windows, tokens, vocab, length, batch_size, seed, 1))
        text = _once(recipe, objective, epochs, batch_size, carries=windows.carries)
        if recipe.tasks is None or not tasks:
            found.append(text)
            continue
        rows = _rows(recipe, windows.length, tasks, vocab, batch_size, seed, 1)
        looks = {TEXT: text} | {
            name: _once(recipe, recipe.tasks.objective, epochs, batch_size) for name, epochs in rows.items()
        }
        shares = trained[number].shares if trained else dict.fromkeys(looks, 1.0)
        parts = {name: look for name, look in looks.items() if not isinstance(look, str) and shares.get(name)}
        if not parts:
            found.append(str(text))
            continue
        one = next(iter(parts.values()))
        found.append(replace(one, objective=recipe.asks(objective), shares=shares, parts=parts))
    return found


def _once(
    recipe: Pretraining,
    objective: Objective[Any],
    epochs: Epochs[Window],
    batch_size: int,
    *,
    carries: bool = False,
) -> Phase[Window] | str:
    """The first epoch, as far as held-out text is read; a string says why there is none."""
    training = recipe.training
    try:
        size = len(epochs.plan(0))
    except UserError as error:
        return str(error)
    return Phase(
        objective=objective,
        epochs=epochs,
        batch_size=batch_size,
        seeds=(training.noise_seed, 0),
        carries=carries,
        static=True,
        stream="held-out",
        samples=min(size, training.eval_batches * batch_size),
    )


def _rows(
    recipe: Pretraining,
    length: int,
    tasks: Mapping[str, Tokens],
    vocab: Vocabulary,
    batch_size: int,
    seed: int,
    variants: int | None,
) -> dict[str, Epochs[Window]]:
    """The rows of each task, cut to fit ``length`` slots."""
    assert recipe.tasks is not None
    reads = recipe.tasks.objective.window_length(length)
    return {
        task.name: Epochs(
            _cutter(
                task.windows(length),
                tasks[task.name],
                vocab,
                reads,
                batch_size,
                key(seed, "task", n),
                variants,
            )
        )
        for n, task in enumerate(recipe.tasks.members)
    }


def _cutter(
    windows: Windows,
    tokens: Tokens,
    vocab: Vocabulary,
    length: int,
    batch_size: int,
    seed: int,
    variants: int | None,
) -> Callable[[int], Plan]:
    """``variants``: as many epochs are cut anew, and then come again; None: every one is."""

    def plan(epoch: int) -> Plan:
        cut = epoch if variants is None else epoch % variants
        return windows.plan(tokens, vocab, Reading(length, batch_size, seed, cut, epoch))

    return plan
