"""Which objectives go with which backbones, found out by trying: an example is put to a small network of that kind.

Nothing is declared anywhere. What an objective needs stands in its examples (a second stack, query slots, who sees
whom) and in what its heads read; what a backbone offers is what it does with them. So a user's own objective or
backbone is judged as plume's are.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from plume import config
from plume.config.sentences import listed
from plume.errors import UserError
from plume.models.backbone import BackboneConfig
from plume.models.pretrained import PretrainedModel
from plume.objectives.base import Objective
from plume.slots import Example, Slots, collate
from plume.studies import laws
from plume.training.settings import Pretraining
from plume.vocabulary import Vocabulary

PROBES = 4  # slots of a stack whose content is changed
FAILS = (ValueError, IndexError, RuntimeError, TypeError, AttributeError, KeyError, NotImplementedError)


def misfit(
    objective: Objective[Any],
    example: Example[Any],
    model: BackboneConfig,
    vocab: Vocabulary,
    *,
    carries: bool = False,
) -> str | None:
    """Why this backbone cannot answer this objective, in one clause; None where it can.

    ``carries``: the windows go on where the last ones stopped, so that a state must be carried.
    """
    try:
        network = laws.tiny(objective, vocab=vocab, model=laws.shrunk(model))
        with torch.no_grad():
            starts = [True] if carries else None
            losses = objective.losses(network, collate([example], packed=False, starts=starts))
        before = _states(network, example)
    except IndexError:
        if any(int(slots.input_ids.max()) >= vocab.size for slots in laws.stacks(example)):
            return "it has no rows for this objective's query slots (model.virtual_tokens=1)"
        return "it has too few rows for the segments or positions of these windows (model.token_types=2)"
    except FAILS as error:
        return str(error).partition("\n")[0].rstrip(".") or type(error).__name__
    if carries and losses.memory is None:
        return "these windows go on where the last ones stopped, and it carries no state"
    for number, slots in enumerate(laws.stacks(example)):
        sees = np.asarray(slots.sees())
        reach = _closure(sees)
        for k in np.unique(np.linspace(0, len(slots) - 1, PROBES).round().astype(int)).tolist():
            other = _changed(slots, k, vocab)
            if other is None:
                continue
            parts = [other if n == number else s for n, s in enumerate(laws.stacks(example))]
            differs = (_states(network, Example(*parts))[number] != before[number]).any(-1).numpy()
            places = np.arange(len(slots))
            for where, side in (("after", places < k), ("on", places == k), ("before", places > k)):
                # Some must; not all: a band or a kernel may be narrower than the text.
                shown = sees[:, k] & side
                if shown.any() and not (shown & differs).any():
                    return f"its slots do not see what stands {where} them, which this objective shows them"
            if (differs & ~reach[:, k]).any():
                return "its slots see what this objective hides from them"
    return None


def _states(network: PretrainedModel, example: Example[Any]) -> list[torch.Tensor]:
    """The states [T, D] of each stack."""
    batch = collate([example], packed=False)
    with torch.no_grad():
        hidden = network.backbone(batch.inputs, batch.decoder_inputs)
        reads = {head.reads for head in network.heads.values()}
        for name in reads:
            hidden[name]  # raises where this backbone has none of that name
    if batch.decoder_inputs is None:
        return [hidden.last[0]]
    if hidden.backward is not None:  # two streams beside each other, not one above the other
        return [hidden.last[0], hidden.backward[0]]
    return [hidden["encoder"][0], hidden.last[0]]


def _changed(slots: Slots[Any], k: int, vocab: Vocabulary) -> Slots[Any] | None:
    """The slots with another content at ``k``; None where there is none to change (a query)."""
    if slots.features is not None:
        features = slots.features.copy()
        features[k] = features[(k + 1) % len(features)]
        return (
            None
            if np.array_equal(features, slots.features)
            else dataclasses.replace(slots, features=features)
        )
    if slots.input_ids[k] >= vocab.size:
        return None
    ids = slots.input_ids.copy()
    ids[k] = next(i for i in range(vocab.size) if i != ids[k] and i != vocab.pad)
    return dataclasses.replace(slots, input_ids=ids)


def _closure(sees: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """What reaches a slot through any number of layers; each slot keeps itself."""
    reach = sees | np.eye(len(sees), dtype=bool)
    while True:
        further = (reach.astype(np.int64) @ reach.astype(np.int64)) > 0
        if np.array_equal(further, reach):
            return reach
        reach = further


def known() -> Iterator[tuple[str, Pretraining]]:
    """plume's own recipes for pretraining, one a family: the kinds of objectives and backbones there are."""
    for family, names in config.recipes().items():
        if "tiny" in names and isinstance(recipe := config.resolve(f"{family}:tiny"), Pretraining):
            yield f"{family}:tiny", recipe


def legal_models(
    objective: Objective[Any], example: Example[Any], vocab: Vocabulary, *, carries: bool = False
) -> list[str]:
    """The recipes whose backbone can answer this objective."""
    return [
        name
        for name, recipe in known()
        if misfit(objective, example, recipe.model, vocab, carries=carries) is None
    ]


def require(
    recipe: Pretraining, objective: Objective[Any], example: Example[Any], vocab: Vocabulary, *, carries: bool
) -> None:
    """Whether the recipe's backbone can answer its objective.

    Raises:
        UserError: it cannot; the sentence lists whose can.
    """
    why = misfit(objective, example, recipe.model, vocab, carries=carries)
    if why is None:
        return
    names = legal_models(objective, example, vocab, carries=carries)
    legal = f"it goes with the models of {listed(names)}" if names else "no model of a recipe goes with it"
    pair = f"objective {type(objective).__name__} and model {type(recipe.model).__name__} do not go together"
    raise UserError(f"{pair}: {why}; {legal} (plume show NAME --settings lists a recipe's)")
