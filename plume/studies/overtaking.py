"""The overtaking picture: a network learning, against lines that count-based models reach at once.

Bits per byte of held-out text over the bytes read; horizontal lines for uniform, unigram, bigram, trigram
and Kneser-Ney on the same text: the history of the field in one figure.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any


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
        first = above[-1] + 1 if above else 0
        if first < len(curve):
            found.append((name, curve[first][0], curve[first][1]))
    return sorted(found, key=lambda c: c[1])


def draw(
    curve: Sequence[tuple[int, int, float]],
    lines: Mapping[str, float],
    crossed: Sequence[Crossing],
    kill: Kill | None,
    *,
    words: Mapping[str, str],
    png: Path | None = None,
) -> str:
    """The figure as SVG text, and as a PNG file where asked. ``words``: the labels, in the reader's language.

    Keys of ``words``: title, x, y, network, kill, and one for every line.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    # Text stays text in the SVG: the reader's browser has fonts for it, whatever this machine lacks.
    with mpl.rc_context({"svg.fonttype": "none", "font.family": fonts(), "axes.unicode_minus": False}):
        figure = Figure(figsize=(10.5, 5.8), layout="constrained")
        axes = figure.subplots()
        seen = [(b / 1e6, bits) for _, b, bits in curve if b > 0]
        x, y = [b for b, _ in seen], [bits for _, bits in seen]
        right, low, high = x[-1] * 1.03, min(*y, *lines.values()), max(y[0], *lines.values())
        axes.set_xscale("log")
        axes.set_xlim(x[0], right)
        axes.set_ylim(low - 0.06 * (high - low), high * 1.03)
        axes.xaxis.set_major_formatter("{x:g}")
        ends = {**lines, "network": y[-1]}
        for (name, level), place in zip(
            ends.items(), spread(list(ends.values()), 0.05 * (high - low)), strict=True
        ):
            mine = name == "network"
            color = "#1f5fa8" if mine else "#6d6453"
            if not mine:
                axes.axhline(level, color="#b3aa98", linewidth=1.1, linestyle=(0, (5, 3)), zorder=1)
            axes.annotate(
                f"{words[name]}  {level:.2f}",
                (right, level),
                (right * 1.06, place),
                va="center",
                color=color,
                fontsize=10,
                fontweight="bold" if mine else "normal",
                annotation_clip=False,
                arrowprops={
                    "arrowstyle": "-",
                    "color": "#b3aa98",
                    "linewidth": 0.6,
                    "shrinkB": 0,
                    "relpos": (0, 0.5),
                },
            )
        axes.plot(x, y, color="#1f5fa8", linewidth=2.4, zorder=3, solid_capstyle="round")
        levels = {step: bits for step, _, bits in curve}
        for number, crossing in enumerate(crossed, 1):
            at = (crossing.bytes_read / 1e6, levels[crossing.step])
            axes.plot(*at, "o", markersize=15, color="#1f5fa8", zorder=4)
            axes.annotate(
                str(number),
                at,
                color="white",
                ha="center",
                va="center",
                fontsize=9,
                fontweight="bold",
                zorder=5,
            )
        if kill is not None:
            at = kill.bytes_read / 1e6
            axes.axvline(at, color="#c0392b", linewidth=1.1, linestyle=(0, (1, 2)), zorder=2)
            note = words["kill"].format(identical=kill.identical, compared=kill.compared)
            axes.annotate(note, (at, axes.get_ylim()[1]), (-6, -8), textcoords="offset points", color="#c0392b",
                          fontsize=9.5, va="top", ha="right")  # fmt: skip
        axes.set_title(words["title"], loc="left", fontsize=13, pad=12)
        axes.set_xlabel(words["x"])
        axes.set_ylabel(words["y"])
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", color="#f0ece4", zorder=0)
        if png is not None:
            figure.savefig(png, dpi=130)
        svg = io.StringIO()
        figure.savefig(svg, format="svg")
    return svg.getvalue()[svg.getvalue().index("<svg") :]


def spread(values: Sequence[float], gap: float) -> list[float]:
    """Places for labels: as near their values as can be, at least ``gap`` apart."""
    order = sorted(range(len(values)), key=values.__getitem__)
    clusters = [[[i], values[i]] for i in order]  # members in ascending order, and the middle of their labels

    def span(cluster: list[Any]) -> float:
        return gap * (len(cluster[0]) - 1)

    merged: list[list[Any]] = []
    for cluster in clusters:
        merged.append(cluster)
        while (
            len(merged) > 1
            and merged[-1][1] - span(merged[-1]) / 2 - merged[-2][1] - span(merged[-2]) / 2 < gap
        ):
            below, above = merged[-2], merged.pop()
            members = below[0] + above[0]
            merged[-1] = [members, sum(values[i] for i in members) / len(members)]
    places = [0.0] * len(values)
    for members, middle in merged:
        for rank, i in enumerate(members):
            places[i] = middle + gap * (rank - (len(members) - 1) / 2)
    return places


def fonts() -> list[str]:
    """A sans-serif family, and behind it the first font on this machine that has Chinese characters."""
    from matplotlib import font_manager

    wanted = (
        *(
            "Noto Sans CJK SC",
            "Noto Sans SC",
            "Source Han Sans SC",
            "PingFang SC",
            "Microsoft YaHei",
            "SimHei",
        ),
        *(
            "WenQuanYi Micro Hei",
            "WenQuanYi Zen Hei",
            "Arial Unicode MS",
            "Noto Sans CJK JP",
            "Droid Sans Fallback",
        ),
    )
    there = {f.name for f in font_manager.fontManager.ttflist}
    return ["DejaVu Sans", *(name for name in wanted if name in there)][:2]
