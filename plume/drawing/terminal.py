"""Pictures in a terminal: colours where it has them, and symbols beside every colour."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace

from rich.cells import cell_len, set_cell_size
from rich.console import Console, Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from plume.drawing.phrases import phrase
from plume.drawing.picture import Drawn, Listing, Picture, Stack, State, weighed

MARKS: dict[State, str] = {
    "plain": "",
    "special": "",
    "hidden": "?",
    "swapped": "≠",
    "kept": "=",
    "query": "?",
    "gap": "…",
}
STYLES: dict[State, str] = {
    "plain": "",
    "special": "dim",
    "hidden": "bold yellow",
    "swapped": "bold red",
    "kept": "bold magenta",
    "query": "bold yellow",
    "gap": "bold yellow",
}
ANSWER = "bold green"
MARKED = "bold reverse red"
SIDE_BY_SIDE = 140  # columns of a terminal from which two pictures stand beside each other


def draw(pictures: Sequence[Picture], console: Console) -> None:
    """Print the pictures, two side by side where the terminal is wide enough."""
    beside = len(pictures) > 1 and console.width >= SIDE_BY_SIDE
    across = 2 if beside else 1
    width = console.width // across
    for at in range(0, len(pictures), across):
        row = Table.grid(expand=True, padding=0)
        for _ in range(across):
            row.add_column(ratio=1)
        row.add_row(*(_panel(p, width - 4) for p in pictures[at : at + across]))
        console.print(row)


def _panel(picture: Picture, width: int) -> Panel:
    parts: list[RenderableType] = [Text(" · ".join(picture.facts), style="dim")] if picture.facts else []
    for stack in picture.stacks:
        if stack.name != "inputs":
            parts += [Text(), Text(phrase(picture.language, f"stack.{stack.name}"), style="bold")]
        caption = f"{phrase(picture.language, 'sees')} ({phrase(picture.language, 'sees.row')})"
        parts += [Text(), *_strip(stack, picture, width), _grid(stack, caption, picture, width)]
        for words, sees in stack.banded:
            parts += [Text(), _grid(replace(stack, sees=sees, across=None), words, picture, width)]
    for listing in picture.listings:
        parts += [Text(), _listing(listing)]
    legend = [Text(), _legend(picture)] if picture.stacks else []
    parts += [*legend, Text(), _says(picture.says)]
    return Panel(Group(*parts), title=Text(picture.title, style="bold"), title_align="left", padding=(0, 1))


def _says(sentences: Sequence[str]) -> Table:
    """Each with its bullet, in a column of its own: Chinese, which has no blanks, would else begin below it."""
    listed = Table.grid(padding=(0, 1))
    listed.add_column()
    listed.add_column(overflow="fold")
    for sentence in sentences:
        listed.add_row("•", Text(sentence))
    return listed


def _strip(stack: Stack, picture: Picture, width: int) -> list[RenderableType]:
    """The slots in reading order, under each what it must say."""
    labels = [phrase(picture.language, "reads"), phrase(picture.language, "answers")]
    named = {phrase(picture.language, f"note.{name}"): notes for name, notes in stack.notes.items()}
    margin = max(map(cell_len, [*labels, *named])) + 2
    lines: list[RenderableType] = []
    row: list[tuple[int, Drawn, int]] = []
    used = margin
    for slot in [*enumerate(stack.slots), None]:
        size = 0
        if slot is not None:
            words = [_top(slot[1]), *_bottom(slot[1]), *(notes[slot[0]] for notes in named.values())]
            size = max(2, *map(cell_len, words)) + 2
        if slot is None or used + size > width:
            lines += _strip_row(row, labels, margin, named, stack.marked)
            row, used = [], margin
        if slot is not None:
            row.append((*slot, size))
            used += size
    return lines


def _strip_row(
    row: Sequence[tuple[int, Drawn, int]],
    labels: Sequence[str],
    margin: int,
    notes: Mapping[str, Sequence[str]],
    marked: Collection[int],
) -> list[Text]:
    height = max((len(_bottom(slot)) for _, slot, _ in row), default=0)
    top = Text(set_cell_size(labels[0], margin), style="dim")
    bottoms = [Text(set_cell_size(labels[1] if i == 0 else "", margin), style="dim") for i in range(height)]
    small = [Text(set_cell_size(name, margin), style="dim") for name in notes]
    for line, words in zip(small, notes.values(), strict=True):
        for number, _, size in row:
            line.append(set_cell_size(words[number], size))
    for number, slot, size in row:
        style = MARKED if number in marked else f"not dim {STYLES[slot.state]}"
        top.append(set_cell_size(_top(slot), size), style=style)
        words = _bottom(slot)
        for i, line in enumerate(bottoms):
            word = words[i] if i < len(words) else ("·" if i == 0 else "")
            line.append(set_cell_size(word, size), style=f"not dim {ANSWER}" if word != "·" else "dim")
    return [top, *bottoms, *small, Text()]


def _top(slot: Drawn) -> str:
    return f"{MARKS[slot.state]}{_visible(slot.shown)}"


def _bottom(slot: Drawn) -> list[str]:
    tokens = [f"→{_visible(w)}" for head, w in slot.answers.items() if head in slot.tokens]
    return [*tokens, *(f"→{w}" for head, w in slot.answers.items() if head not in slot.tokens)] or [""]


def _grid(stack: Stack, caption: str, picture: Picture, width: int) -> Text:
    """Who sees whom; of a second stack first what it sees of the first one, where there is room for both."""
    names = [_visible(slot.shown) for slot in stack.slots]
    column = min(12, max(map(cell_len, names)))
    before = len(stack.first) if stack.across is not None else 0
    if before and column + 4 + 2 * (before + len(names)) + 2 > width:
        before = 0
    text = Text()
    text.append(f"{caption}\n", style="dim")
    if before:
        over = set_cell_size(phrase(picture.language, "across"), 2 * before)
        text.append(" " * (column + 4) + over + "│ " + phrase(picture.language, "within") + "\n", style="dim")
    digits = " ".join(str(i % 10) for i in range(len(names)))
    text.append(" " * (column + 4), style="dim")
    if before:
        text.append(" ".join(str(i % 10) for i in range(before)) + " │ ", style="dim")
    text.append(digits + "\n", style="dim")
    for q, slot in enumerate(stack.slots):
        text.append(f"{q:>2} ", style="dim")
        text.append(
            set_cell_size(names[q], column) + " ", style=MARKED if q in stack.marked else STYLES[slot.state]
        )
        asked = ANSWER if slot.answers else "cyan"
        if before and stack.across is not None:
            _cells(text, stack.across[q], asked)
            text.append("│ ", style="dim")
        _cells(text, stack.sees[q], asked)
        text.append(" ".join(_bottom(slot)) + "\n", style=ANSWER)
    text.rstrip()
    return text


def _cells(text: Text, seen: Iterable[bool], style: str) -> None:
    for one in seen:
        text.append("■ " if one else "· ", style=style if one else "dim")


def _listing(listing: Listing) -> Table:
    table = Table(
        title=Text(listing.caption, style="dim"), title_justify="left", box=None, padding=(0, 2, 0, 0)
    )
    for name in listing.head:
        table.add_column(Text(name, style="dim"))
    for row in listing.rows:
        table.add_row(*(_weight(cell) for cell in row))
    return table


def _weight(cell: str | float | None) -> Text:
    if not isinstance(cell, float):
        return Text(cell or "")
    bar = "■" * round(8 * cell) if cell <= 1 else ""
    return Text.assemble(f"{weighed(cell)} ", (bar, "cyan"))


def _legend(picture: Picture) -> Text:
    text = Text()
    entries = [("■", "cyan", "cell.seen"), ("·", "dim", "cell.unseen"), ("→", ANSWER, "answer")]
    entries += [(MARKS[s], STYLES[s], f"state.{s}") for s in picture.states if MARKS[s]]
    for mark, style, name in entries:
        text.append(f"{mark} ", style=style)
        text.append(phrase(picture.language, name) + "   ")
    return text


def _visible(piece: str) -> str:
    return piece or "∅"
