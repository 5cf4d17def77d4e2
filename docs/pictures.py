"""Draws docs/pictures/*.svg from the code itself: the grids are ``Slots.sees()``, the draw is ``MaskedLM.example``, the
nearest documents ``Index.search``; what docs/measure_counting.py has measured is read from pictures/counting.json.

python docs/pictures.py        tests/test_docs.py checks that what is stored is what this draws
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from plume.models.vectors import Bags, Index, TfIdf
from plume.objectives.causal import CausalLM
from plume.objectives.masked import MaskedLM
from plume.seeding import rng
from plume.slots import IGNORE, NEVER, Example, Slots
from plume.text.terms import analyzer
from plume.text.windows import Window
from plume.vocabulary import Vocabulary

FOLDER = Path(__file__).parent / "pictures"
INK, PALE, SEEN, UNSEEN, ASKED, HIDDEN = "#1f2937", "#6b7280", "#3b82a0", "#edf1f4", "#d97706", "#fde8c8"
FONT = "font-family:system-ui,'Noto Sans CJK SC','PingFang SC','Microsoft YaHei',sans-serif"

WORDS = {
    "en": {
        "bidirectional": ("Bidirectional", "BERT: every slot sees every slot"),
        "causal": ("Causal", "GPT: a slot sees what stands before it"),
        "prefix": ("Prefix", "UniLM: the prompt sees itself whole"),
        "packed": ("Packed", "two documents in one row, blind to each other"),
        "permuted": ("Permuted", "XLNet: order 3 1 4 2; ? asks for a slot"),
        "visible_at": "visible_at",
        "sees_until": "sees_until",
        "document": "document",
        "never": "∞",
        "rule": "Row q sees column k (filled) where visible_at[k] ≤ sees_until[q] and both are of one document.",
        "text": "the text",
        "input": "input",
        "asked": "asked for",
        "draw": "one draw",
        "masked": "masked (BERT): 4 hidden of 11, one of them left as it is, one replaced; everything is visible",
        "next": "causal (GPT): nothing is hidden, the ranks hide what comes after; each slot asks for the next",
        "counting": "Perplexity a word of held-out text, by the order of a Kneser-Ney model",
        "order": "order",
        "near": "The nearest documents: the cosine of TF-IDF vectors",
        "asked_for": "cat mat",
        "documents": ["the cat sat", "the cat sat on the mat", "the dog ran", "a dog sat on a mat"],
        "map": "Words by Word2Vec, on the plane in which they differ most",
        "language": "en",
        "tokens": [
            "[CLS]",
            "the",
            "old",
            "printer",
            "wrote",
            "about",
            "the",
            "winter",
            "harbour",
            ".",
            "[SEP]",
        ],
    },
    "zh": {
        "bidirectional": ("双向", "BERT：每个位置都看得见全部位置"),
        "causal": ("因果", "GPT：每个位置只看得见自己和之前"),
        "prefix": ("前缀", "UniLM：提示部分彼此全部可见"),
        "packed": ("打包", "一行两篇文档，互不可见"),
        "permuted": ("排列", "XLNet：顺序 3 1 4 2；? 是查询位置"),
        "visible_at": "visible_at",
        "sees_until": "sees_until",
        "document": "文档号",
        "never": "∞",
        "rule": "第 q 行能看见第 k 列（实心），当且仅当 visible_at[k] ≤ sees_until[q] 并且同属一篇文档。",
        "text": "原文",
        "input": "输入",
        "asked": "所问",
        "draw": "一次抽样",
        "masked": "掩码（BERT）：11 个里藏 4 个，其中一个保留原样，一个换成别的；互相全部可见",
        "next": "因果（GPT）：什么也不藏，由秩遮住后文；每个位置问下一个",
        "counting": "留出文本上每词的困惑度，随 Kneser-Ney 模型的阶数变化",
        "order": "阶数",
        "near": "离问题最近的文档：TF-IDF 向量的余弦",
        "asked_for": "北京 天气",
        "documents": ["北京的天气很好", "他们喜欢北京", "港口很安静", "今天天气冷"],
        "map": "Word2Vec 的词，画在它们差别最大的平面上",
        "language": "zh",
        "tokens": ["[CLS]", "年", "轻", "的", "水", "手", "写", "下", "旧", "信", "[SEP]"],
    },
}


def text(
    x: float,
    y: float,
    words: str,
    *,
    size: float = 12,
    fill: str = INK,
    anchor: str = "middle",
    bold: bool = False,
) -> str:
    weight = ' font-weight="600"' if bold else ""
    style = f'font-size="{size:g}" fill="{fill}" text-anchor="{anchor}"{weight}'
    return f'<text x="{x:g}" y="{y:g}" {style}>{escape(words)}</text>'


def box(x: float, y: float, w: float, h: float, fill: str, stroke: str = "none") -> str:
    return f'<rect x="{x:g}" y="{y:g}" width="{w:g}" height="{h:g}" rx="3" fill="{fill}" stroke="{stroke}"/>'


def picture(width: float, height: float, title: str, parts: Sequence[str]) -> str:
    # A card of its own colour: readable on light and on dark pages.
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" role="img" style="{FONT}">',
            f"<title>{escape(title)}</title>",
            box(0, 0, width, height, "#ffffff"),
            *parts,
            "</svg>\n",
        ]
    )


def rank(value: int, never: str) -> str:
    return never if value == NEVER else "–" if value < 0 else str(value)


def grid(
    x: float,
    y: float,
    slots: Slots[Any],
    names: Sequence[str],
    heading: tuple[str, str],
    words: dict[str, Any],
) -> list[str]:
    """One visibility grid at (x, y): tokens across and down, ranks under each column."""
    cell, seen = 22, slots.sees()
    parts = [text(x, y - 40, heading[0], size=15, anchor="start", bold=True)]
    parts.append(text(x, y - 22, heading[1], size=11, fill=PALE, anchor="start"))
    for k, name in enumerate(names):
        parts.append(
            text(
                x + (k + 0.5) * cell, y - 5, name, fill=ASKED if name[0] == "?" else INK, bold=name[0] == "?"
            )
        )
        parts.append(
            text(
                x - 8,
                y + (k + 0.72) * cell,
                name,
                anchor="end",
                fill=ASKED if name[0] == "?" else INK,
                bold=name[0] == "?",
            )
        )
    for q in range(len(names)):
        for k in range(len(names)):
            parts.append(
                box(x + k * cell + 1, y + q * cell + 1, cell - 2, cell - 2, SEEN if seen[q, k] else UNSEEN)
            )
    below = y + len(names) * cell
    rows = [("visible_at", slots.visible_at), ("sees_until", slots.sees_until)]
    if slots.document_ids.max() > 0:
        rows.append(("document", slots.document_ids))
    for line, (label, values) in enumerate(rows):
        height = below + 17 + 16 * line
        parts.append(text(x - 8, height, words[label], size=9.5, fill=PALE, anchor="end"))
        for k, value in enumerate(values):
            parts.append(
                text(x + (k + 0.5) * cell, height, rank(int(value), words["never"]), size=10.5, fill=PALE)
            )
    return parts


def masks(words: dict[str, Any]) -> str:
    letters = list("abcdef")
    packed = Slots.causal(
        [0] * 6, document_ids=np.array([0, 0, 0, 0, 1, 1]), position_ids=np.array([0, 1, 2, 3, 0, 1])
    )
    drawings = [
        ("bidirectional", Slots.bidirectional([0] * 6), letters),
        ("causal", Slots.causal([0] * 6), letters),
        ("prefix", Slots.prefix([0] * 6, 3), letters),
        ("packed", packed, list("abcdxy")),
        (
            "permuted",
            Slots.permuted([0] * 4, ranks=[1, 3, 0, 2], targets=[3, 1], query_id=1),
            [*"1234", "?4", "?2"],
        ),
    ]
    parts, across = [], 3
    for number, (name, slots, names) in enumerate(drawings):
        x, y = 80 + 270 * (number % across), 70 + 255 * (number // across)
        parts += grid(x, y, slots, names, words[name], words)
    # The rule stands where a sixth grid would.
    x, y, lines = 630, 370, wrap(words["rule"], 30 if words is WORDS["en"] else 17)
    parts += [text(x, y + 20 * i, line, size=13, anchor="start") for i, line in enumerate(lines)]
    return picture(860, 540, words["rule"], parts)


def wrap(sentence: str, columns: int) -> list[str]:
    lines, line = [], ""
    for piece in sentence.split(" "):
        while len(piece) > columns:
            lines, piece = [*lines, line + piece[: columns - len(line)]], piece[columns - len(line) :]
            line = ""
        if line and len(line) + len(piece) >= columns:
            lines, line = [*lines, line.rstrip()], ""
        line += piece + " "
    return [*lines, line.rstrip()]


def row(y: float, label: str, cells: Sequence[str], fills: Sequence[str], inks: Sequence[str]) -> list[str]:
    parts = [text(88, y + 19, label, size=11.5, fill=PALE, anchor="end")]
    for i, (cell, fill, ink) in enumerate(zip(cells, fills, inks, strict=True)):
        if cell:
            parts += [box(98 + 70 * i, y, 66, 28, fill), text(131 + 70 * i, y + 19, cell, size=12, fill=ink)]
    return parts


def drawn(
    y: float,
    title: str,
    example: Example[Any],
    head: str,
    names: dict[int, str],
    source: Sequence[int],
    words: dict[str, Any],
) -> list[str]:
    ids, labels = example.inputs.input_ids.tolist(), example.inputs.labels[head].tolist()
    parts = [text(98, y, title, size=13, anchor="start", bold=True)]
    asked = [label != IGNORE for label in labels]
    changed = [a and head == "masked_token" for a in asked]
    parts += row(y + 12, words["input"], [names[i] for i in ids], [HIDDEN if c else UNSEEN for c in changed],
                 [ASKED if i != s else INK for i, s in zip(ids, source, strict=False)])  # fmt: skip
    parts += row(y + 48, words["asked"], [names[i] if i != IGNORE else "" for i in labels], ["#ffffff"] * len(labels),
                 [SEEN] * len(labels))  # fmt: skip
    for i, question in enumerate(asked):
        if question:
            parts.append(f'<path d="M{131 + 70 * i} {y + 40:g}v8" stroke="{SEEN}" stroke-width="1.5"/>')
    return parts


def draw(words: dict[str, Any]) -> str:
    tokens = words["tokens"]
    distinct = ["[MASK]", *dict.fromkeys(tokens)]
    names = dict(enumerate(distinct))
    ids = np.array([distinct.index(t) for t in tokens])
    special = np.array([t.startswith("[") for t in tokens])
    vocab = Vocabulary(size=len(distinct), mask=0)
    window = Window(ids, np.ones(len(ids), np.uint8), special, np.zeros_like(ids))
    objective = MaskedLM(noise_density=0.36, mask_share=0.5, random_share=0.25)
    masked = objective.example(window, vocab, rng(DRAW, "noise", 0, 0))
    causal = CausalLM().example(window, vocab, rng(0, "noise", 0, 0))
    assert masked is not None and causal is not None
    parts = row(20, words["text"], tokens, [UNSEEN] * len(ids), [PALE if s else INK for s in special])
    parts += drawn(90, words["masked"], masked, "masked_token", names, ids.tolist(), words)
    parts += drawn(200, words["next"], causal, "next_token", names, ids.tolist(), words)
    return picture(880, 300, words["draw"], parts)


def measured(words: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((FOLDER / "counting.json").read_text(encoding="utf-8"))
    return found[words["language"]]  # type: ignore[no-any-return]


def counting(words: dict[str, Any]) -> str:
    """One bar an order; the height is the logarithm, since a bit is a factor of two."""
    values = measured(words)["perplexity"]
    low, high = math.log2(min(values)) - 0.5, math.log2(max(values))
    parts = [text(30, 30, words["counting"], size=14, anchor="start", bold=True)]
    for number, value in enumerate(values):
        x, height = 60 + 105 * number, 170 * (math.log2(value) - low) / (high - low)
        parts += [
            box(x, 240 - height, 66, height, SEEN),
            text(x + 33, 232 - height, f"{value:,.0f}", size=13),
            text(x + 33, 260, f"{words['order']} {number + 1}", size=12, fill=PALE),
        ]
    return picture(600, 280, words["counting"], parts)


def near(words: dict[str, Any]) -> str:
    """Each document with the cosine that ``Index.search`` gives, as a bar."""
    terms = analyzer()
    index = Index.of(Bags.of(map(terms, words["documents"])), TfIdf())
    scores = index.scores(terms(words["asked_for"]))
    parts = [text(30, 30, words["near"], size=14, anchor="start", bold=True)]
    parts.append(text(250, 62, f"? {words['asked_for']}", size=13, fill=ASKED, anchor="end", bold=True))
    for line, document in enumerate(sorted(range(len(scores)), key=lambda d: -scores[d])):
        y, score = 84 + 36 * line, float(scores[document])
        parts += [
            text(250, y + 18, words["documents"][document], size=13, anchor="end"),
            box(265, y, 270, 26, UNSEEN),
            box(265, y, 270 * score, 26, SEEN),
            text(545, y + 18, f"{score:.2f}", size=12, fill=PALE, anchor="start"),
        ]
    return picture(600, 240, words["near"], parts)


def word_map(words: dict[str, Any]) -> str:
    found = measured(words)
    parts = [text(30, 30, words["map"], size=14, anchor="start", bold=True)]
    taken: list[tuple[float, float]] = []
    for word, (across, up) in zip(found["words"], found["places"], strict=True):
        # Roots of the distances: most words lie close together, and their names need room.
        x, y = (
            middle + size * math.copysign(math.sqrt(abs(value)), value)
            for middle, size, value in ((290, 230, across), (230, -170, up))
        )
        parts.append(f'<circle cx="{x:g}" cy="{y:g}" r="3" fill="{SEEN}"/>')
        while any(abs(x - a) < 62 and abs(y - b) < 14 for a, b in taken):  # names do not lie on one another
            y += 7
        taken.append((x, y))
        parts.append(text(x + 6, y + 4, word, size=13, anchor="start"))
    return picture(640, 430, words["map"], parts)


DRAW = 3  # a seed whose draw shows all three fates: masked, replaced, kept


def pictures() -> dict[str, str]:
    """File name -> SVG."""
    return {
        f"{name}.{lang}.svg": make(WORDS[lang])
        for name, make in (
            ("masks", masks),
            ("draw", draw),
            ("counting", counting),
            ("near", near),
            ("word_map", word_map),
        )
        for lang in WORDS
    }


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for name, svg in pictures().items():
        (FOLDER / name).write_text(svg, encoding="utf-8")
