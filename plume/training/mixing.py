"""Several sets of windows in one plan: a run's own text and its tasks, each example of one (spec 18 section 5)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from plume.errors import UserError
from plume.objectives.mixture import MEMBER
from plume.seeding import key
from plume.text.mixing import DRAWS, Ints, Turns, rates
from plume.text.window import Window
from plume.training.loader import Epochs, Plan
from plume.training.tasks import TEXT, Tasks


def shares(tasks: Tasks, sets: Mapping[str, Epochs[Window]]) -> dict[str, float]:
    """How often each set has its turn, by its examples in an epoch; those that are left out have 0.

    Raises:
        UserError: a set that is not left out has no example.
    """
    scales = dict(zip(sets, tasks.scales, strict=True))
    sizes = {}
    for name, epochs in sets.items():
        try:
            sizes[name] = len(epochs.plan(0)) if scales[name] else 0
        except UserError as error:
            raise error if name == TEXT else UserError(f"the task {name}: {error}") from None
    found = rates(list(sizes.values()), list(scales.values()), cap=tasks.cap, temperature=tasks.temperature)
    return dict(zip(sets, found, strict=True))


def mixed(
    sets: Mapping[str, Epochs[Window]], shares: Mapping[str, float], seed: int, variants: int | None
) -> Epochs[Window]:
    """The sets as one, in which each has its turn as often as its share says. ``variants``: see ``MixedPlan``."""
    drawn = [name for name in sets if shares[name]]
    turns = Turns([shares[name] for name in drawn], seed)
    parts = [(sets[name], int(name != TEXT)) for name in drawn]
    return Epochs(lambda epoch: MixedPlan(parts, turns, epoch, variants))


@dataclass(frozen=True)
class MixedPlan:
    """An epoch of draws from several sets. Each is read to its end, in an order of its own, and begun anew.

    ``parts``: the sets, and which member of the mixture each is for. ``variants``: after how many of its epochs a set
    comes again with the same noise (None: never).
    """

    parts: Sequence[tuple[Epochs[Window], int]]
    turns: Turns
    epoch: int
    variants: int | None

    @cached_property
    def _table(self) -> tuple[Ints, Ints]:
        return self.turns.table(self.epoch)

    def __len__(self) -> int:
        return DRAWS

    def __getitem__(self, index: int) -> Window:
        part, _, plan, inner = self._at(index)
        window = plan[inner]
        return replace(window, labels={**window.labels, MEMBER: self.parts[part][1]})

    def order(self, index: int) -> int:
        part, epoch, plan, inner = self._at(index)
        variant = epoch if self.variants is None else epoch % self.variants
        return key(0, "draw", part, variant, plan.order(inner))

    def starts(self, index: int) -> bool:
        return True

    def _at(self, index: int) -> tuple[int, int, Plan[Window], int]:
        """The set, which of its epochs, that epoch's plan, and where in it."""
        turns, numbers = self._table
        part = int(turns[index])
        epochs = self.parts[part][0]
        epoch, inner = epochs.locate(int(numbers[index]))
        return part, epoch, epochs.plan(epoch), inner
