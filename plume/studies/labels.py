"""The label table: what pretraining is worth, as accuracy over the number of labels.

Every cell is a mean over seeds, each with its own draw of labelled texts and its own initial head, on one
held-out set; its interval holds both sources of chance, the seeds and the size of the held-out set.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from plume.drawing.plotting import ACCENT, FOURTH, INK, MUTED, SECOND, THIRD, canvas, place_labels

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Cell:
    """Accuracy of one method with so many labels, and its 95 % interval."""

    examples: int
    accuracy: float
    low: float
    high: float
    seeds: int

    @staticmethod
    def of(examples: int, accuracies: Sequence[float], heldout: int) -> Cell:
        """The mean of ``accuracies`` (one a seed) on ``heldout`` texts.

        Variance of the mean = between seeds / seeds + p (1 - p) / heldout. With one seed the first part is
        unknown and left out; the table prints the number of seeds beside it.

        >>> Cell.of(16, [0.5, 0.6], 1000)
        Cell(examples=16, accuracy=0.55, low=0.4472..., high=0.6527..., seeds=2)
        """
        n = len(accuracies)
        mean = sum(accuracies) / n
        between = sum((a - mean) ** 2 for a in accuracies) / (n - 1) / n if n > 1 else 0.0
        half = 1.96 * math.sqrt(between + mean * (1 - mean) / heldout)
        return Cell(examples, mean, max(0.0, mean - half), min(1.0, mean + half), n)


COLORS = (MUTED, SECOND, ACCENT, FOURTH, THIRD)


def figure(table: Mapping[str, Sequence[Cell]], chance: float, words: Mapping[str, str]) -> Figure:
    """Accuracy over labels. ``words``: title, x, y, chance, and a label for every method of ``table``."""
    with canvas(10.5, 5.0) as drawn:
        axes = drawn.subplots()
        drawn.subplots_adjust(left=0.065, right=0.72, top=0.89, bottom=0.12)
        axes.set_xscale("log")
        sizes = sorted({cell.examples for cells in table.values() for cell in cells})
        values = [v for cells in table.values() for c in cells for v in (c.low, c.high)]
        low, high = min(*values, chance) - 0.02, max(values) + 0.02
        axes.axhline(chance, color=MUTED, linewidth=1, linestyle=(0, (5, 3)))
        axes.annotate(
            words["chance"],
            (sizes[-1] * 1.2, chance),
            (4, 0),
            textcoords="offset points",
            color=MUTED,
            va="center",
        )
        places = place_labels(
            [cells[-1].accuracy for cells in table.values()], 0.055 * (high - low), low, high
        )
        for number, ((name, cells), place) in enumerate(zip(table.items(), places, strict=True)):
            color = COLORS[number % len(COLORS)]
            # Side by side, so that the intervals of one column can be told apart.
            x = [c.examples * 1.05 ** (number - (len(table) - 1) / 2) for c in cells]
            y = [c.accuracy for c in cells]
            error = [[c.accuracy - c.low for c in cells], [c.high - c.accuracy for c in cells]]
            axes.errorbar(x, y, yerr=error, color=color, linewidth=2, marker="o", markersize=6, capsize=3)
            axes.annotate(
                f"{words[name]}  {100 * y[-1]:.1f} %",
                (x[-1], y[-1]),
                (sizes[-1] * 1.35, place),
                va="center",
                color=color,
                fontweight="bold",
                annotation_clip=False,
                arrowprops={"arrowstyle": "-", "color": color, "linewidth": 0.6, "relpos": (0, 0.5)},
            )
        axes.set_xlim(sizes[0] * 0.8, sizes[-1] * 1.2)
        axes.set_ylim(low, high)
        axes.set_xticks(sizes, [f"{n:,}" for n in sizes])
        axes.minorticks_off()
        axes.yaxis.set_major_formatter(lambda v, _: f"{100 * v:.0f} %")
        axes.set_title(words["title"], loc="left", fontsize=13, pad=12, color=INK)
        axes.set_xlabel(words["x"])
        axes.set_ylabel(words["y"])
        axes.grid(axis="y")
    return drawn
