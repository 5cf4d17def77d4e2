"""Figures that explain themselves: one drawing, as a PNG and as SVG that follows the page's light or dark.

Nothing here touches matplotlib's global state, and what it writes holds no date and no random id, so equal
inputs give equal files. Lines are labelled where they end, not in a legend.
"""

from __future__ import annotations

import hashlib
import html
import io
import logging
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from plume.errors import UserError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# One colour a role, as drawn in a PNG. In SVG each becomes a variable, which STYLE sets for light and dark.
INK, MUTED, GRID, PAPER = "#1c2128", "#66707c", "#e4e7eb", "#fefefe"
ACCENT, SECOND, THIRD, FOURTH = "#2356c5", "#c2571a", "#2b8a5f", "#8a4fbf"
SOFT = "#a9bfee"  # the accent's own, behind it
ROLES = {
    INK: "ink", MUTED: "muted", GRID: "grid", PAPER: "paper", ACCENT: "accent",
    SECOND: "second", THIRD: "third", FOURTH: "fourth", SOFT: "soft",
}  # fmt: skip
STYLE = f""":root {{ color-scheme: light dark; --font: -apple-system, "Segoe UI", Roboto, "Noto Sans",
  "PingFang SC", "Microsoft YaHei", "Noto Sans CJK SC", "Noto Sans SC", "WenQuanYi Micro Hei", sans-serif;
  {" ".join(f"--{name}: {value};" for value, name in ROLES.items())} }}
@media (prefers-color-scheme: dark) {{ :root {{ --ink: #e8eaed; --muted: #9aa4b0; --grid: #2b323b; --paper: #14181d;
  --accent: #82a8ff; --second: #f09a62; --third: #63c796; --fourth: #c79bef; --soft: #39517f; }} }}
body {{ margin: 0 auto; max-width: 62rem; padding: 2rem 1.25rem 4rem; background: var(--paper); color: var(--ink);
  font: 1rem/1.6 var(--font); }}
h1 {{ font-size: 1.7rem; line-height: 1.25; }} h2 {{ font-size: 1.25rem; margin: 2.2rem 0 .6rem; }}
p {{ max-width: 46rem; margin: .6rem 0; }} figure {{ margin: 1.2rem 0; overflow-x: auto; }}
figure svg {{ min-width: 38rem; }}
figcaption, .muted {{ color: var(--muted); font-size: .9rem; }}
table {{ border-collapse: collapse; margin: 1rem 0; font-variant-numeric: tabular-nums; }}
th {{ color: var(--muted); font-weight: normal; font-size: .9rem; }}
th, td {{ padding: .35rem 1.4rem .35rem 0; border-bottom: 1px solid var(--grid); text-align: right; }}
th:first-child, td:first-child {{ text-align: left; }} td + td {{ white-space: nowrap; }}
.own {{ color: var(--accent); font-weight: 600; }}
"""
# Families that hold Chinese, as systems ship them; the first that is there is used.
CHINESE_FONTS = (
    "Noto Sans CJK SC", "Source Han Sans SC", "Source Han Sans CN", "Noto Sans SC", "PingFang SC", "Hiragino Sans GB",
    "Heiti SC", "STHeiti", "Microsoft YaHei", "SimHei", "WenQuanYi Micro Hei", "WenQuanYi Zen Hei",
    "Noto Sans CJK JP", "Noto Serif CJK SC", "Arial Unicode MS", "AR PL UMing CN", "Droid Sans Fallback",
)  # fmt: skip


def chinese_font() -> str | None:
    """A font family of this machine that has Chinese characters."""
    from matplotlib import font_manager

    there = {font.name for font in font_manager.fontManager.ttflist}
    return next((name for name in CHINESE_FONTS if name in there), None)


def drawable(language: str) -> str:
    """``language`` if a PNG can show it on this machine, else English: words are better than empty boxes."""
    _need_matplotlib()
    return "en" if language == "zh" and chinese_font() is None else language


@contextmanager
def canvas(width: float, height: float) -> Iterator[Figure]:
    """An empty figure, in inches, and matplotlib's settings while it is being filled."""
    _need_matplotlib()
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context(_settings()):
        yield Figure(figsize=(width, height), facecolor=PAPER, dpi=72)  # so that a pixel is a point


def _settings() -> Any:  # a dict; its keys' type is matplotlib's own long list of names
    font = chinese_font()
    return {
        "font.family": ["DejaVu Sans", *([font] if font else [])],
        "font.size": 10.0,
        "text.color": INK,
        "axes.edgecolor": MUTED,
        "axes.labelcolor": MUTED,
        "axes.facecolor": PAPER,
        "axes.linewidth": 0.8,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.unicode_minus": False,
        "xtick.color": MUTED,
        "ytick.color": MUTED,
        "grid.color": GRID,
        "grid.linewidth": 0.8,
        "lines.solid_capstyle": "round",
        "svg.fonttype": "none",  # text stays text: sharp, small, selectable, in the reader's own fonts
    }


def save_png(figure: Figure, path: Path) -> None:
    """Write a PNG of twice the usual density."""
    from matplotlib import rc_context

    with rc_context(_settings()), _quiet_about_fonts():
        figure.savefig(path, format="png", dpi=160, facecolor=PAPER, metadata={"Software": None})


@contextmanager
def _quiet_about_fonts() -> Iterator[None]:
    """That a font has no bold, or lacks glyphs that the reader's browser will draw, is nothing to act on."""
    talk = logging.getLogger("matplotlib.font_manager")
    level = talk.level
    talk.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Glyph .* missing from")
            yield
    finally:
        talk.setLevel(level)


def to_svg(figure: Figure, label: str) -> str:
    """The figure as an ``<svg>`` element to stand in a page that has ``STYLE``; ``label`` is read to the blind.

    Ids carry a hash of the drawing, so that several figures of one page do not take each other's.
    """
    from matplotlib import rc_context

    raw = io.BytesIO()
    with rc_context({**_settings(), "svg.hashsalt": "plume"}), _quiet_about_fonts():
        nothing = {"Date": None, "Creator": None, "Format": None, "Type": None}
        figure.savefig(raw, format="svg", facecolor=PAPER, metadata=nothing)
    text = raw.getvalue().decode("utf-8")
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>\s*", "", text, flags=re.DOTALL)
    salt = hashlib.blake2b(text.encode(), digest_size=4).hexdigest()
    text = re.sub(r'\bid="([^"]+)"', rf'id="{salt}-\1"', text)
    text = re.sub(r'(xlink:href="#|url\(#)', rf"\g<1>{salt}-", text)
    for value, name in ROLES.items():
        text = text.replace(value, f"var(--{name})")
    # Older matplotlib writes "font: 10px 'DejaVu Sans'", newer a font-family of its own.
    text = re.sub(r"font-family: [^;\"]+", "font-family: var(--font)", text)
    text = re.sub(r"(font:[^;\"]*?px) [^;\"]+", r"\1 var(--font)", text)
    text = re.sub(r'<svg ([^>]*?)width="[^"]*"', r"<svg \1", text, count=1)
    text = re.sub(r'<svg ([^>]*?)height="[^"]*"', r"<svg \1", text, count=1)
    name = html.escape(label)
    return text.replace("<svg ", f'<svg role="img" aria-label="{name}" style="width:100%;height:auto" ', 1)


def page(title: str, body: str, language: str) -> str:
    """A page that needs nothing from outside. ``body`` is HTML; ``title`` is text.

    Its policy forbids scripts and every request, so text in it can do nothing even if an escape were missed.
    """
    tag = {"zh": "zh-Hans"}.get(language, language)
    return f"""<!doctype html>
<html lang="{tag}">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; img-src data:">
<title>{html.escape(title)}</title>
<style>
{STYLE}</style>
</head>
<body>
{body}
</body>
</html>
"""


def place_labels(wanted: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Heights as near as possible to ``wanted`` that are ``gap`` apart and lie in [low, high], order kept.

    >>> place_labels([1.0, 1.1, 3.0], 0.5, 0.0, 4.0)
    [0.8, 1.3, 3.0]
    """
    order = sorted(range(len(wanted)), key=lambda i: wanted[i])
    groups: list[list[float]] = []  # [sum of wanted positions of the group's first label, size]
    for rank, i in enumerate(order):
        groups.append([wanted[i] - rank * gap, 1])
        # Groups that would overlap become one, which sits at its members' mean.
        while len(groups) > 1 and groups[-2][0] / groups[-2][1] > groups[-1][0] / groups[-1][1]:
            total, size = groups.pop()
            groups[-1][0] += total
            groups[-1][1] += size
    placed = [0.0] * len(wanted)
    rank = 0
    for total, size in groups:
        for _ in range(int(size)):
            placed[order[rank]] = total / size + rank * gap
            rank += 1
    lowest, highest = low, high
    for i in order:
        placed[i] = max(placed[i], lowest)
        lowest = placed[i] + gap
    for i in reversed(order):
        placed[i] = round(min(placed[i], highest), 10)
        highest = placed[i] - gap
    return placed


def short(number: float) -> str:
    """A number as people say it: 950, 12 k, 1.3 M.

    >>> [short(n) for n in (950, 1234, 98_765, 1_250_000, 8e9)]
    ['950', '1.2 k', '99 k', '1.2 M', '8 G']
    """
    for size, unit in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if number >= size:
            value = number / size
            return (f"{value:.0f}" if value >= 10 else f"{value:.1f}".removesuffix(".0")) + unit
    return f"{number:.0f}"


def _need_matplotlib() -> None:
    try:
        import matplotlib as _matplotlib  # noqa: F401
    except ImportError as error:
        raise UserError("pictures need matplotlib: pip install 'plume-lm[plot]'") from error
