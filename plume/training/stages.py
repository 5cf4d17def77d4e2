"""A recipe's stages, resolved to the phases that the loader reads (DESIGN section 2: stages)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from plume.errors import UserError
from plume.objectives.base import Objective
from plume.objectives.masked import MaskedLM
from plume.seeding import key
from plume.text.marks import Grain
from plume.text.store import Tokens
from plume.text.windows import Plan, Reading, Window, Windows
from plume.training.loader import Epochs, Phase
from plume.training.settings import Pretraining, Stage
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
    return {o.unit for o in objectives(recipe) if isinstance(o, MaskedLM)}


def objectives(recipe: Pretraining) -> list[Objective[Any]]:
    """The recipe's objective and those that stages put in its place, each once."""
    return list(dict.fromkeys([recipe.objective, *(o for _, _, o, _ in resolve(recipe))]))


def phases(recipe: Pretraining, tokens: Tokens, vocab: Vocabulary) -> list[Phase[Window]]:
    """The phases of a run over the training split.

    Stages that cut alike go on in one sequence of samples; another way of cutting begins a new one, with
    draws of its own.
    """
    training = recipe.training
    found: list[Phase[Window]] = []
    cut: object = None
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
            seeds, base, cut = (training.noise_seed, number), used, this
        found.append(
            Phase(
                objective=objective,
                epochs=epochs,
                batch_size=batch_size,
                seeds=seeds,
                first_step=first,
                first_sample=used,
                base=base,
                carries=windows.carries,
                static=recipe.masking == "static",
                dupe_factor=recipe.dupe_factor,
            )
        )
    return found


def held_out(recipe: Pretraining, tokens: Tokens, vocab: Vocabulary) -> list[Phase[Window] | str]:
    """For each stage the held-out text as one phase: the same windows and the same masks at every look.

    A string says why there is none (the held-out text is too short).
    """
    training = recipe.training
    found: list[Phase[Window] | str] = []
    for _, windows, objective, batch_size in resolve(recipe):
        length = objective.window_length(windows.length)
        epochs = Epochs(_cutter(windows, tokens, vocab, length, batch_size, training.data_seed, 1))
        try:
            size = len(epochs.plan(0))
        except UserError as error:
            found.append(str(error))
            continue
        found.append(
            Phase(
                objective=objective,
                epochs=epochs,
                batch_size=batch_size,
                seeds=(training.noise_seed, 0),
                carries=windows.carries,
                static=True,
                stream="held-out",
                samples=min(size, training.eval_batches * batch_size),
            )
        )
    return found


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
