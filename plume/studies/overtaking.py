"""The overtaking picture: a network learning, against lines that count-based models reach at once.

Bits per byte of held-out text over the bytes read; horizontal lines for uniform, unigram, bigram, trigram
and Kneser-Ney on the same text: the history of the field in one figure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from plume.drawing.plotting import ACCENT, INK, MUTED, PAPER, SECOND, canvas, place_labels

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Crossing:
    """Where the network got below a line: its name, the step, the bytes read by then, and what it wrote there."""

    line: str
    step: int
    bytes_read: int
    sample: str


@dataclass(frozen=True)
class Kill:
    """Where the run was killed with -9 and went on: losses that came out again, of how many, to the last bit."""

    bytes_read: int
    step: int
    identical: int
    compared: int


def crossings(
    curve: Sequence[tuple[int, int, float]], lines: Mapping[str, float]
) -> list[tuple[str, int, int]]:
    """(line, step, bytes) where ``curve`` of (step, bytes read, bits per byte) first lies below each line.

    A line counts as overtaken only where every later point stays below it too, so that noise makes no news.
    """
    found = []
    for name, level in lines.items():
        above = [i for i, (_, _, bits) in enumerate(curve) if bits >= level]
        first = above[-1] + 1 if above else next(i for i, (_, read, _) in enumerate(curve) if read)
        if first < len(curve):
            found.append((name, curve[first][0], curve[first][1]))
    return sorted(found, key=lambda c: c[1])


def figure(
    curve: Sequence[tuple[int, int, float]],
    lines: Mapping[str, float],
    crossed: Sequence[Crossing],
    kill: Kill | None,
    words: Mapping[str, str],
) -> Figure:
    """The picture. ``curve``: (step, bytes read, bits per byte). ``words``: labels in the reader's language,
    keys title, x, y, network, kill, and one for every line.
    """
    with canvas(10.5, 5.8) as drawn:
        from matplotlib.ticker import LogLocator

        axes = drawn.subplots()
        drawn.subplots_adjust(left=0.065, right=0.76, top=0.9, bottom=0.1)
        seen = [(b / 1e6, bits) for _, b, bits in curve if b > 0]
        x, y = [b for b, _ in seen], [bits for _, bits in seen]
        right = x[-1] * 1.03
        low, high = min(*y, *lines.values()), max(*y, *lines.values())
        low, high = low - 0.08 * (high - low), high + 0.05 * (high - low)
        axes.set_xscale("log")
        axes.set_xlim(x[0], right)
        axes.set_ylim(low, high)
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_formatter("{x:g}")
        axes.xaxis.set_minor_locator(LogLocator(base=10, subs=(2, 5)))
        ends = {**lines, "network": y[-1]}
        places = place_labels(list(ends.values()), 0.05 * (high - low), low, high)
        for (name, level), place in zip(ends.items(), places, strict=True):
            mine = name == "network"
            if not mine:
                axes.axhline(level, color=MUTED, linewidth=1, linestyle=(0, (5, 3)), zorder=1)
            axes.annotate(
                f"{words[name]}  {level:.2f}",
                (right, level),
                (right * 1.06, place),
                va="center",
                color=ACCENT if mine else INK,
                fontweight="bold" if mine else "normal",
                annotation_clip=False,
                arrowprops={
                    "arrowstyle": "-",
                    "color": MUTED,
                    "linewidth": 0.6,
                    "shrinkB": 0,
                    "relpos": (0, 0.5),
                },
            )
        axes.plot(x, y, color=ACCENT, linewidth=2.4, zorder=3)
        levels = {step: bits for step, _, bits in curve}
        for number, crossing in enumerate(crossed, 1):
            at = (crossing.bytes_read / 1e6, levels[crossing.step])
            axes.plot(*at, "o", markersize=15, color=ACCENT, zorder=4, clip_on=False)
            axes.annotate(
                str(number),
                at,
                color=PAPER,
                ha="center",
                va="center",
                fontsize=9,
                fontweight="bold",
                zorder=5,
            )
        if kill is not None:
            at = (kill.bytes_read / 1e6, high)
            axes.axvline(at[0], color=SECOND, linewidth=1.2, linestyle=(0, (1, 2)), zorder=2)
            note = words["kill"].format(identical=kill.identical, compared=kill.compared)
            axes.annotate(
                note,
                at,
                (-6, -4),
                textcoords="offset points",
                color=SECOND,
                va="top",
                ha="right",
                bbox={"facecolor": PAPER, "edgecolor": "none", "pad": 1},  # the highest line lies behind it
            )
        axes.set_title(words["title"], loc="left", fontsize=13, pad=12, color=INK)
        axes.set_xlabel(words["x"])
        axes.set_ylabel(words["y"])
        axes.grid(axis="y", zorder=0)
    return drawn
