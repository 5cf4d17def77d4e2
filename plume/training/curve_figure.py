"""The loss curve as a figure and as a page: every line says what it is and what it means."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from plume.drawing import plotting
from plume.drawing.plotting import ACCENT, INK, MUTED, PAPER, SECOND, SOFT, short
from plume.training.curves import Crossing, Curve, Entropies, Point, Row, crossings, curves, lines_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WORDS = {
    "en": {
        "next_token": "Loss of the next token", "masked_token": "Loss of the masked tokens",
        "replaced": "Loss of original or replaced (0.69: guessing)",
        "next_sentence": "Loss of the next sentence", "loss": "Loss", "nats": "nats/token", "each": "nats/label",
        "bits": "bits/byte", "heldout": "held-out text", "train": "training text", "uniform": "uniform",
        "unigram": "unigram", "bigram": "bigram", "trigram": "trigram", "kneser_ney5": "Kneser-Ney 5-gram",
        "tokens": "training tokens read", "step": "step", "resumed": "resumed", "guess": "guessing",
        "between_sentences": " ",
        "lower": "Lower is better. Dashed: models that only count, on the same held-out text.",
        "left": "Dashed: guessing by frequency. Models that count are not comparable: this one is asked otherwise.",
        "labels": "label frequencies", "at_labels": "It uses what stands around what it is asked.",
        "sample": "Counted on {counted} of {train} training tokens.",
        "models": "model", "where": "reached at step (tokens)", "never": "not yet",
        "ours": "this run, held-out text (best)",
        "page": "Loss curve", "how": "Is this loss normal?",
        "worse": "The loss is above ln V, what a model gives that knows nothing at all: the learning rate may be "
                 "too high, the run too young, or the evaluation may read other text than the training.",
        "between": "The best held-out loss, {loss:.3f} nats a token, lies between the {above} line ({high:.3f}) and "
                   "the {below} line ({low:.3f}).",
        "best": "The best held-out loss, {loss:.3f} nats a token, lies below every counting model, the {above} "
                "included ({high:.3f}).",
        "at_uniform": "It has begun to learn which tokens are frequent.",
        "at_unigram": "It knows how frequent tokens are, and has begun to use what stands next to them.",
        "at_bigram": "It uses more than one token of context.",
        "at_trigram": "It uses several tokens of context; only well-smoothed counts of five tokens still do better.",
        "at_kneser_ney5": "It generalises over contexts that counts have never seen: what networks are for.",
        "overfit": "Held-out loss rises again after step {step} while training loss falls: the model has begun to "
                   "learn the training text by heart. More text, more dropout or fewer steps help.",
    },
    "zh": {
        "next_token": "预测下一个词元的损失", "masked_token": "预测被遮词元的损失", "next_sentence": "下一句判断的损失",
        "replaced": "原词与替换词判别的损失（0.69：随机猜测）",
        "loss": "损失", "nats": "纳特/词元", "each": "纳特/标签", "bits": "比特/字节", "heldout": "留出文本",
        "train": "训练文本", "uniform": "均匀分布", "unigram": "一元模型", "bigram": "二元模型",
        "trigram": "三元模型", "kneser_ney5": "五元 Kneser-Ney", "tokens": "已读训练词元数", "step": "步",
        "resumed": "续训", "guess": "随机猜测", "between_sentences": "",
        "lower": "越低越好。虚线：只做计数的模型在同一份留出文本上的结果。",
        "left": "虚线：只按频率猜测。n 元计数模型不可比：本模型回答的是另一种问题。",
        "labels": "标签频率", "at_labels": "模型利用了被问之处周围的内容。",
        "sample": "计数用了 {train} 个训练词元中的 {counted} 个。",
        "models": "模型", "where": "达到于第几步（词元数）", "never": "尚未达到", "ours": "本次训练，留出文本（最好）",
        "page": "损失曲线", "how": "这个损失正常吗？",
        "worse": "损失高于 ln V，也就是一无所知的模型的水平：可能是学习率太高、训练刚刚开始，"
                 "或者评测文本与训练文本不是一类。",
        "between": "留出文本上的最好损失为每词元 {loss:.3f} 纳特，"
                   "介于{above}（{high:.3f}）与{below}（{low:.3f}）之间。",
        "best": "留出文本上的最好损失为每词元 {loss:.3f} 纳特，低于所有计数模型，包括{above}（{high:.3f}）。",
        "at_uniform": "模型开始知道哪些词元常见。",
        "at_unigram": "模型已掌握词元的频率，并开始利用相邻的词元。",
        "at_bigram": "模型利用了不止一个词元的上文。",
        "at_trigram": "模型利用了若干词元的上文；只有平滑得当的五元计数仍胜过它。",
        "at_kneser_ney5": "模型能推广到计数从未见过的上文：这正是神经网络的用处。",
        "overfit": "第 {step} 步之后留出文本的损失回升，而训练损失仍在下降：模型开始死记训练文本。"
                   "增加文本、加大 dropout 或减少步数会有帮助。",
    },
}  # fmt: skip


_WIDTH, _HEIGHT, _EXTRA = 9.8, 5.4, 1.75  # inches; _EXTRA: a panel for each further head
_LEFT, _RIGHT = 0.055, 0.69  # where the panels end, as shares of the width
_NAME, _NATS, _BITS = (
    0.032,
    0.345,
    0.452,
)  # columns right of a panel, as shares of its width; numbers end there


class Label(NamedTuple):
    """One line's name at its end: its height, what it is called, its colour, and whether it is this run's own."""

    height: float
    name: str
    colour: str
    own: bool = False


def draw(
    rows: Sequence[Row],
    lines: Entropies | None,
    *,
    png: Path | None = None,
    html: Path | None = None,
    title: str = "",
    language: str = "en",
    labels: Mapping[str, float] | None = None,
) -> None:
    """Draw the loss curve of ``rows`` with ``lines`` beside it, as a picture and as a page of its own.

    ``labels``: the entropy of each head's own labels (``own_labels``).

    Rows without any loss draw nothing and write no file. ``language``: "en" or "zh"; the PNG falls back to
    English where the machine has no Chinese font.

    Raises:
        UserError: matplotlib is not installed.
    """
    found = [curve for curve in curves(rows) if curve.train or curve.heldout]
    if not found:
        return
    if png is not None:
        figure = loss_figure(found, lines, title, plotting.drawable(language), labels or {})
        plotting.save_png(figure, png)
    if html is not None:
        html.write_text(loss_page(found, lines, title, language, labels or {}), encoding="utf-8")


def loss_figure(
    curves: Sequence[Curve], lines: Entropies | None, title: str, language: str, own: Mapping[str, float]
) -> Figure:
    """The first head's losses beside the counting models' lines, and a small panel for each further head. ``own``:
    the entropy of a head's own labels."""
    words = WORDS[language]
    height = _HEIGHT + _EXTRA * (len(curves) - 1)
    with plotting.canvas(_WIDTH, height) as figure:
        head = curves[0].head
        top = 0.02 * _WIDTH / height
        figure.text(
            _LEFT, 1 - 0.28 / height - top, title or words.get(head, head), fontsize=15, weight="bold"
        )
        note = ""
        if lines is not None:
            note = words["lower" if head in ("next_token", "loss") else "left"]
        if (
            lines is not None
            and "unigram" in lines_of(head, lines, own)
            and lines.counted < lines.train_tokens
        ):
            note += words["between_sentences"] + words["sample"].format(
                counted=short(lines.counted), train=short(lines.train_tokens)
            )
        figure.text(_LEFT, 1 - 0.52 / height - top, note, color=MUTED)
        bottom = height - 1.12
        for row, curve in enumerate(curves):
            tall = _HEIGHT - 1.67 if row == 0 else _EXTRA - 0.75
            last = row == len(curves) - 1
            box = (_LEFT, (bottom - tall) / height, _RIGHT - _LEFT, tall / height)
            axes = figure.add_axes(box)
            level = lines_of(curve.head, lines, own)
            bits = lines if row == 0 and curve.head == "next_token" else None
            _panel(axes, curve, level, bits, words, named=bool(title) or row > 0, last=last)
            bottom -= tall + 0.75
        return figure


def _panel(
    axes: Axes,
    curve: Curve,
    lines: Mapping[str, float],
    bits: Entropies | None,
    words: dict[str, str],
    *,
    named: bool,
    last: bool,
) -> None:
    by_tokens = any(p.tokens for p in (*curve.train, *curve.heldout))

    places = [p.tokens if by_tokens else p.step for p in (*curve.train, *curve.heldout)]
    first = min((place for place in places if place > 0), default=1.0)
    end = max(*places, first * 10)

    def x(point: Point | Crossing) -> float:
        # A logarithmic axis has no 0: what was measured before the first step stands at its left edge.
        return max(first, point.tokens if by_tokens else point.step)

    axes.set_xscale("log")
    axes.set_xlim(first, end * 1.0001)
    axes.grid(axis="y")
    axes.tick_params(length=0)
    axes.spines["left"].set_visible(False)
    axes.xaxis.set_major_formatter(lambda value, _: short(value))
    axes.xaxis.set_minor_formatter(lambda value, _: "")
    axes.set_xlabel(words["tokens" if by_tokens else "step"] if last else "")
    is_token = curve.head.endswith("token") or curve.head == "loss"
    unit = words["nats" if is_token else "each"]
    heading = f"{words.get(curve.head, curve.head)}, {unit}" if named else unit
    axes.set_title(heading, loc="left", fontsize=10, color=MUTED)

    labels: list[Label] = []
    if curve.train:
        smooth = smoothed([p.loss for p in curve.train])
        kept = _thinned(len(smooth))
        xs = [x(curve.train[i]) for i in kept]
        axes.plot(xs, [curve.train[i].loss for i in kept], color=SOFT, lw=0.8, alpha=0.45, zorder=2)
        axes.plot(xs, [smooth[i] for i in kept], color=SOFT, lw=1.6, zorder=3)
        labels.append(Label(smooth[-1], words["train"], MUTED))
    if curve.heldout:
        # Each evaluation is a point: between two of them nothing was measured.
        dots = "o" if len(curve.heldout) <= 80 else ""
        xs = [x(p) for p in curve.heldout]
        axes.plot(xs, [p.loss for p in curve.heldout], color=ACCENT, lw=2, marker=dots, ms=3.8, zorder=4)
        labels.append(Label(curve.heldout[-1].loss, words["heldout"], ACCENT, own=True))
    references = dict(lines)
    if curve.head == "next_sentence":
        references["guess"] = math.log(2)
    for name, level in references.items():
        axes.axhline(level, color=MUTED, lw=1, ls=(0, (4, 3)), zorder=1)
        labels.append(Label(level, words[name], INK))
    for crossing in crossings(curve.heldout, lines):
        if crossing.name == "uniform":
            continue  # every run begins there
        axes.plot([x(crossing)], [crossing.loss], "o", ms=7, mfc=PAPER, mec=ACCENT, mew=1.8, zorder=5)
        late = math.log(x(crossing) / first) > 0.93 * math.log(end / first)
        axes.annotate(short(x(crossing)), (x(crossing), crossing.loss), (2 if late else 6, 12 if late else 5), zorder=5,
                      textcoords="offset points", color=ACCENT, ha="right" if late else "left", fontsize=9,
                      bbox={"facecolor": PAPER, "edgecolor": "none", "alpha": 0.8, "pad": 0.8})  # fmt: skip
    _label_ends(axes, labels, bits, words)
    for point in curve.resumed:
        axes.axvline(x(point), color=SECOND, lw=1, ls=":", zorder=1)
        if not is_token:
            continue  # said above
        axes.annotate(words["resumed"], (x(point), 1), (0, 3), xycoords=("data", "axes fraction"), ha="center",
                      textcoords="offset points", color=SECOND, fontsize=9)  # fmt: skip


def _label_ends(axes: Axes, labels: Sequence[Label], lines: Entropies | None, words: dict[str, str]) -> None:
    """Names and numbers beside the right edge, each as near as possible to the height of its line."""
    heights = [label.height for label in labels]
    low, high = axes.get_ylim()
    low, high = min(low, *heights), max(high, *heights)
    axes.set_ylim(low, high)
    inches = axes.get_window_extent().height / 72
    placed = plotting.place_labels(heights, (high - low) * 0.2 / inches, low, high)
    beside = axes.get_yaxis_transform()
    for at, label in zip(placed, labels, strict=True):
        style: dict[str, Any] = {
            "color": label.colour,
            "weight": "bold" if label.own else "normal",
            "va": "center",
            "fontsize": 9.5,
        }
        axes.plot([1, 1 + _NAME * 0.75], [label.height, at], color=ACCENT if label.own else MUTED, lw=0.7,
                  transform=beside, clip_on=False, scalex=False, scaley=False)  # fmt: skip
        axes.text(1 + _NAME, at, label.name, transform=beside, **style)
        axes.text(1 + _NATS, at, f"{label.height:.2f}", transform=beside, ha="right", **style)
        if lines is not None:
            axes.text(
                1 + _BITS,
                at,
                f"{lines.bits_per_byte(label.height):.2f}",
                transform=beside,
                ha="right",
                **style,
            )
    if lines is not None:
        for place, unit in ((_NATS, "nats"), (_BITS, "bits")):
            axes.annotate(words[unit], (1 + place, 1), (0, 5), xycoords="axes fraction", textcoords="offset points",
                          color=MUTED, fontsize=8.5, ha="right")  # fmt: skip


def smoothed(losses: Sequence[float], share: float = 0.06) -> list[float]:
    """A running mean over ``share`` of the way to each point on both sides: even on a logarithmic axis."""
    total = [0.0, *accumulate(losses)]
    out = []
    for i in range(len(losses)):
        half = int(share * i)
        first, end = max(0, i - half), min(len(losses), i + half + 1)
        out.append((total[end] - total[first]) / (end - first))
    return out


def _thinned(size: int, most: int = 1500) -> list[int]:
    """Which of ``size`` points are drawn: all, or about as many as a picture can show, evenly on a log axis."""
    if size <= most:
        return list(range(size))
    return sorted({min(size - 1, int(size ** (i / most)) - 1) for i in range(most)} | {size - 1})


def loss_page(
    curves: Sequence[Curve], lines: Entropies | None, title: str, language: str, own: Mapping[str, float]
) -> str:
    """A page that stands alone: the figure, what the loss means, and the numbers as a table."""
    words = WORDS[language]
    name = title or words["page"]
    figure = loss_figure(curves, lines, title, language, own)
    first = lines_of(curves[0].head, lines, own)
    parts = [f"<figure>{plotting.to_svg(figure, name)}</figure>"]
    if first and (curves[0].heldout or curves[0].train):
        parts.append(f"<h2>{html.escape(words['how'])}</h2>")
        parts += [f"<p>{html.escape(sentence)}</p>" for sentence in verdict(curves[0], first, language)]
        bits = lines if curves[0].head == "next_token" else None
        parts.append(_table(curves[0], first, bits, words))
    return plotting.page(name, "\n".join(parts), language)


def verdict(curve: Curve, lines: Mapping[str, float], language: str = "en") -> list[str]:
    """What the best held-out loss (training loss where nothing was held out) says about the model."""
    words = WORDS[language]
    points = curve.heldout or curve.train
    best = min(points, key=lambda p: p.loss)
    ranked = sorted(lines.items(), key=lambda line: -line[1])
    passed = [(name, level) for name, level in ranked if best.loss <= level]
    if not passed:
        return [words["worse"]]
    (above, high), rest = passed[-1], ranked[len(passed) :]
    if rest:
        below, low = rest[0]
        first = words["between"].format(
            loss=best.loss, above=words[above], high=high, below=words[below], low=low
        )
    else:
        first = words["best"].format(loss=best.loss, above=words[above], high=high)
    found = [first + words["between_sentences"] + words["at_" + above]]
    if curve.heldout and curve.heldout[-1].loss > best.loss + 0.05 and _still_falls(curve, best):
        found.append(words["overfit"].format(step=best.step))
    return found


def _still_falls(curve: Curve, best: Point) -> bool:
    smooth = smoothed([p.loss for p in curve.train])
    at_best = [loss for p, loss in zip(curve.train, smooth, strict=True) if p.step <= best.step]
    return bool(at_best) and smooth[-1] < at_best[-1]


def _table(curve: Curve, lines: Mapping[str, float], bits: Entropies | None, words: dict[str, str]) -> str:
    reached = {c.name: c for c in crossings(curve.heldout, lines)}
    head = [words["models"], words["nats"], *([words["bits"]] if bits is not None else []), words["where"]]
    rows: list[tuple[float, str, str]] = []
    for name, level in lines.items():
        crossing = reached.get(name)
        where = words["never"]
        if crossing is not None:
            where = _place(crossing.step, crossing.tokens)
        elif curve.heldout and curve.heldout[0].loss <= level:
            where = _place(curve.heldout[0].step, curve.heldout[0].tokens)
        rows.append((level, words[name], where))
    if curve.heldout:
        best = min(curve.heldout, key=lambda p: p.loss)
        rows.append((best.loss, words["ours"], _place(best.step, best.tokens)))
    body = []
    for level, name, where in sorted(rows, key=lambda row: -row[0]):
        cells = [
            name,
            f"{level:.3f}",
            *([f"{bits.bits_per_byte(level):.3f}"] if bits is not None else []),
            where,
        ]
        own = ' class="own"' if name == words["ours"] else ""
        body.append(f"<tr{own}>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in cells) + "</tr>")
    heading = "".join(f"<th>{html.escape(cell)}</th>" for cell in head)
    return f"<table><thead><tr>{heading}</tr></thead><tbody>{''.join(body)}</tbody></table>"


def _place(step: float, tokens: float) -> str:
    return f"{round(step):,}" + (f" ({short(tokens)})" if tokens else "")
