"""Pieces of a report that is one HTML file: text, tables, figures, samples, commands.

Every piece escapes what it is given; only ``Html`` passes as it is. A model's output is shown as text, whatever is
in it. Equal input gives an equal file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from plume.drawing import plotting
from plume.evaluation.metrics import Estimate
from plume.evaluation.scorer import Perplexity

Language = Literal["en", "zh"]

WORDS = {
    "en": {
        "accuracy": "accuracy", "macro_f1": "macro F1", "micro_f1": "micro F1", "matthews": "Matthews",
        "metric": "metric", "value": "value", "interval": "95 % interval", "gold": "label", "called": "predicted as",
        "unit": "unit", "perplexity": "perplexity", "token": "token", "word": "word", "byte": "byte",
        "bits_per_byte": "bits a byte", "bits_per_character": "bits a character", "count": "count",
        "pseudo": "Pseudo-perplexity: each token was hidden in turn and guessed from both sides. It compares with its "
                  "like only, not with the perplexity of a model that reads from the left.",
    },
    "zh": {
        "accuracy": "准确率", "macro_f1": "宏平均 F1", "micro_f1": "微平均 F1", "matthews": "马修斯相关系数",
        "metric": "指标", "value": "数值", "interval": "95 % 置信区间", "gold": "标签", "called": "预测为",
        "unit": "单位", "perplexity": "困惑度", "token": "词元", "word": "词", "byte": "字节",
        "bits_per_byte": "每字节比特数", "bits_per_character": "每字符比特数", "count": "个数",
        "pseudo": "伪困惑度：依次遮住每个词元，由两侧猜出。它只能与同类数值相比，不能与从左往右读的模型的困惑度相比。",
    },
}  # fmt: skip

STYLE = """
.cards { display: grid; gap: .8rem; grid-template-columns: repeat(auto-fit, minmax(min(100%, 22rem), 1fr)); }
.card { border: 1px solid var(--grid); border-radius: .5rem; padding: .7rem .9rem; }
.card b { display: block; color: var(--muted); font-weight: normal; font-size: .85rem; margin-bottom: .25rem; }
.card span, pre { white-space: pre-wrap; overflow-wrap: anywhere; }
.prompt { color: var(--muted); }
pre { border-left: 3px solid var(--soft); padding: .2rem 0 .2rem .9rem; font: .9rem/1.6 ui-monospace, monospace; }
td small { color: var(--muted); }
.wide { overflow-x: auto; }
"""


class Html(str):
    """Text that is HTML already: every piece here is, and no other text is taken for it."""

    __slots__ = ()


def heading(text: str) -> Html:
    return Html(f"<h2>{escape(text)}</h2>")


def paragraph(text: str, *, quiet: bool = False) -> Html:
    """A paragraph; ``quiet``: smaller and paler."""
    return Html(f"<p{_class('muted' if quiet else '')}>{escape(text)}</p>")


def figure(svg: str, caption: str = "") -> Html:
    """A drawing from ``plume.drawing.plotting.to_svg``: trusted, since it is our own."""
    under = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
    return Html(f"<figure>{svg}{under}</figure>")


def table(header: Sequence[str], rows: Sequence[Sequence[str | Html]], *, own: Sequence[int] = ()) -> Html:
    """A table whose first column is words and whose others are numbers; ``own``: the rows that stand out.

    Raises:
        ValueError: a row has not as many cells as the header.
    """
    for row in rows:
        if len(row) != len(header):
            raise ValueError(f"a row of {len(row)} cells under a header of {len(header)}")
    head = "".join(f"<th>{escape(cell)}</th>" for cell in header)
    body = "".join(
        f"<tr{_class('own' if number in own else '')}>{''.join(f'<td>{_cell(c)}</td>' for c in row)}</tr>"
        for number, row in enumerate(rows)
    )
    return Html(f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>')


def with_interval(estimate: Estimate, *, share: bool = True) -> Html:
    """The value and, smaller, its interval: in percent (``share``) or as a number between -1 and 1.

    >>> with_interval(Estimate(0.8712, 0.01, 0.8512, 0.8891))
    '87.1 % <small>85.1–88.9</small>'
    """
    factor, digits, unit = (100, 1, " %") if share else (1, 3, "")
    value, low, high = (f"{x * factor:.{digits}f}" for x in (estimate.value, estimate.low, estimate.high))
    return Html(f"{value}{unit} <small>{low}–{high}</small>")


def _cell(cell: str | Html) -> str:
    return cell if isinstance(cell, Html) else escape(cell)


def _class(name: str) -> str:
    return f' class="{name}"' if name else ""


def samples(texts: Sequence[tuple[str, str, str]]) -> Html:
    """Cards of (what it is, prompt, continuation): texts as they are, line ends and all."""
    cards = "".join(
        f'<div class="card"><b>{escape(label)}</b><span><span class="prompt">{escape(prompt)}</span>'
        f"{escape(continuation)}</span></div>"
        for label, prompt, continuation in texts
    )
    return Html(f'<div class="cards">{cards}</div>')


def commands(lines: Sequence[str]) -> Html:
    """Commands to copy."""
    return Html(f"<pre>{escape(chr(10).join(lines))}</pre>")


def classification(
    found: Mapping[str, Estimate],
    confused: NDArray[np.int64],
    labels: Sequence[str],
    language: Language = "en",
) -> Html:
    """The metrics of ``metrics.classification`` and the table of what was called what."""
    words = WORDS[language]
    rows = [[words[name], with_interval(e, share=name != "matthews")] for name, e in found.items()]
    first = table([words["metric"], f"{words['value']}, {words['interval']}"], rows)
    header = [f"{words['gold']} \\ {words['called']}", *labels]
    second = table(
        header, [[label, *map(str, row)] for label, row in zip(labels, confused.tolist(), strict=True)]
    )
    return Html(first + second)


def perplexity(found: Perplexity, language: Language = "en") -> Html:
    """A perplexity in every unit, with what it was divided by."""
    words = WORDS[language]
    rows = [
        [words["token"], f"{found.token_perplexity:.3f}", f"{found.tokens:,}"],
        [words["word"], f"{found.word_perplexity:.3f}", f"{found.words:,}"],
        [words["byte"], f"{found.byte_perplexity:.4f}", f"{found.bytes:,}"],
    ]
    bits = [
        [words["bits_per_byte"], f"{found.bits_per_byte:.4f}"],
        [words["bits_per_character"], f"{found.bits_per_character:.4f}"],
    ]
    parts = table([words["unit"], words["perplexity"], words["count"]], rows) + table(
        [words["metric"], words["value"]], bits
    )
    return Html(parts + (paragraph(words["pseudo"], quiet=True) if found.pseudo else ""))


def page(title: str, parts: Sequence[Html], language: Language = "en") -> str:
    """The whole file: it asks nothing of the network and runs no script."""
    body = f"<style>{STYLE}</style>\n<h1>{escape(title)}</h1>\n" + "\n".join(parts)
    return plotting.page(title, body, language)


def write(path: Path, title: str, parts: Sequence[Html], language: Language = "en") -> None:
    """Write ``page`` to ``path``."""
    path.write_text(page(title, parts, language), encoding="utf-8")
