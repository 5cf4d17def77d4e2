"""Pictures as HTML: one file that needs nothing else, or a fragment for a notebook."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from html import escape

from plume.drawing.phrases import Language, language_of, phrase
from plume.drawing.picture import Drawn, Listing, Picture, Stack, weighed
from plume.drawing.style import SCRIPT, STYLE

MARKS = {"plain": "", "special": "", "hidden": "?", "swapped": "≠", "kept": "=", "query": "?", "gap": "…"}


def page(pictures: Sequence[Picture], *, title: str, words: str = "", language: Language = "en") -> str:
    """A whole document; ``words`` is a paragraph under its title."""
    lang = {"en": "en", "zh": "zh-Hans"}[language]
    intro = f"<p class='intro'>{escape(words)}</p>" if words else ""
    return (
        f"<!doctype html>\n<html lang='{lang}'><head><meta charset='utf-8'>"
        "<meta name='viewport' content='width=device-width, initial-scale=1'>"
        f"<title>{escape(title)}</title></head><body class='plume-page'>"
        f"<h1>{escape(title)}</h1>{intro}{fragment(pictures)}<script>{SCRIPT}</script></body></html>\n"
    )


def fragment(pictures: Sequence[Picture]) -> str:
    """The pictures side by side, with their style and no script."""
    cards = "".join(_card(picture) for picture in pictures)
    return f"<style>{STYLE}</style><div class='plume-pictures'>{cards}</div>"


def _card(picture: Picture) -> str:
    facts = "".join(f"<li>{escape(fact)}</li>" for fact in picture.facts)
    says = "".join(f"<li>{escape(sentence)}</li>" for sentence in picture.says)
    stacks = "".join(_stack(stack, picture.language) for stack in picture.stacks)
    if len(picture.stacks) > 1:
        stacks = f"<div class='stacks'>{stacks}</div>"
    return (
        f"<section class='card'><h2>{escape(picture.title)}</h2><ul class='facts'>{facts}</ul>"
        f"<ul class='says'>{says}</ul>{_legend(picture) if stacks else ''}{stacks}"
        f"{''.join(map(_listing, picture.listings))}</section>"
    )


def _listing(listing: Listing) -> str:
    head = "".join(f"<th scope='col'>{escape(name)}</th>" for name in listing.head)
    rows = "".join(f"<tr>{''.join(map(_weight, row))}</tr>" for row in listing.rows)
    return (
        f"<div class='scroll'><table class='listing'><caption>{escape(listing.caption)}</caption>"
        f"<thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>"
    )


def _weight(cell: str | float | None) -> str:
    if not isinstance(cell, float):
        return f"<td>{escape(cell or '')}</td>"
    bar = f" style='--share:{cell:.4f}'" if cell <= 1 else ""
    return f"<td class='number'{bar}>{weighed(cell)}</td>"


def _legend(picture: Picture) -> str:
    entries = [("<i class='cell on'></i>", "cell.seen"), ("<i class='cell'></i>", "cell.unseen")]
    if any(not slot.answers for stack in picture.stacks for slot in stack.slots):
        entries.insert(0, ("<i class='cell on asked'></i>", "cell.asked"))
    entries.append(("<i class='answer'>→</i>", "answer"))
    for state in picture.states:
        entries.append((f"<i class='key {state}'>{MARKS[state] or '&nbsp;'}</i>", f"state.{state}"))
    items = "".join(f"<li>{mark} {escape(phrase(picture.language, name))}</li>" for mark, name in entries)
    return f"<ul class='legend'>{items}</ul>"


def _stack(stack: Stack, language: Language) -> str:
    name = phrase(language, f"stack.{stack.name}")
    heading = f"<h3>{escape(name)}</h3>" if name else ""
    point = escape(phrase(language, "point"))
    return (
        f"<div class='stack' data-stack='{stack.name}'>{heading}<div class='strip'>{_strip(stack, language)}</div>"
        f"<p class='told' data-point='{point}'>{point}</p>{_grids(stack, language)}</div>"
    )


def _strip(stack: Stack, language: Language) -> str:
    margin = (
        f"<span class='slot margin'><span class='n'>{escape(phrase(language, 'slot'))}</span>"
        f"<b>{escape(phrase(language, 'reads'))}</b><i>{escape(phrase(language, 'answers'))}</i></span>"
    )
    notes = "".join(f"<small>{escape(phrase(language, f'note.{name}'))}</small>" for name in stack.notes)
    margin = margin.removesuffix("</span>") + notes + "</span>"
    return margin + "".join(_slot(q, slot, stack, language) for q, slot in enumerate(stack.slots))


def _slot(q: int, slot: Drawn, stack: Stack, language: Language) -> str:
    answers = "".join(
        f"<i class='answer{'' if head in slot.tokens else ' whole'}' title='{escape(head)}'>"
        f"→ {_answer(slot, head, word)}</i>"
        for head, word in slot.answers.items()
    )
    told = phrase(
        language, "told", n=q, shown=slot.shown, seen=int(stack.sees[q].sum()), all=len(stack.slots)
    )
    if slot.answers:
        told += phrase(language, "told.answer", answer=", ".join(slot.answers.values()))
    bits = "".join("1" if seen else "0" for seen in stack.sees[q])
    if stack.across is not None:
        bits += f"' data-across='{''.join('01'[int(seen)] for seen in stack.across[q])}"
    kind = f"{slot.state} marked" if q in stack.marked else slot.state
    notes = "".join(f"<small>{escape(words[q]) or '&nbsp;'}</small>" for words in stack.notes.values())
    mark = f"<sup>{MARKS[slot.state]}</sup>" if MARKS[slot.state] else ""
    return (
        f"<span class='slot {kind}' tabindex='0' data-sees='{bits}' data-told='{escape(told)}'>"
        f"<span class='n'>{q}</span><b>{_piece(slot.shown)}{mark}</b>{answers or '<i>·</i>'}{notes}</span>"
    )


def _grids(stack: Stack, language: Language) -> str:
    """Who sees whom, and beside it who does in layers that look less far."""
    caption = f"{escape(phrase(language, 'sees'))} <small>({escape(phrase(language, 'sees.row'))})</small>"
    grids = [_grid(stack, language, caption)]
    for words, sees in stack.banded:
        grids.append(_grid(replace(stack, sees=sees, across=None), language, escape(words)))
    return grids[0] if len(grids) == 1 else f"<div class='stacks'>{''.join(grids)}</div>"


def _grid(stack: Stack, language: Language, caption: str) -> str:
    head = _columns(stack.slots)
    over = ""
    if stack.across is not None:
        head = f"{_columns(stack.first)}<td class='gap'></td>{head}"
        over = (
            f"<tr class='over'><td></td><td colspan='{len(stack.first)}'>{escape(phrase(language, 'across'))}</td>"
            f"<td class='gap'></td><td colspan='{len(stack.slots)}'>{escape(phrase(language, 'within'))}</td></tr>"
        )
    rows = []
    for q, slot in enumerate(stack.slots):
        asked = " asked" if slot.answers else ""
        asked += " marked" if q in stack.marked else ""
        cells = _cells(stack.sees[q])
        if stack.across is not None:
            cells = f"{_cells(stack.across[q])}<td class='gap'></td>{cells}"
        says = ", ".join(_answer(slot, head, word) for head, word in slot.answers.items())
        rows.append(
            f"<tr class='{slot.state}{asked}' data-row='{q}'>"
            f"<th scope='row'><small>{q}</small> {_piece(slot.shown)}</th>{cells}"
            f"<td class='answer says'>{f'→ {says}' if says else ''}</td></tr>"
        )
    return (
        f"<div class='scroll'><table class='grid'><caption>{caption}</caption>"
        f"<thead>{over}<tr><td></td>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
    )


def _columns(slots: Sequence[Drawn]) -> str:
    return "".join(
        f"<th scope='col' class='{s.state}'><span lang='{language_of(s.shown)}'>{_piece(s.shown)}</span>"
        f"<small>{k}</small></th>"
        for k, s in enumerate(slots)
    )


def _cells(seen: Iterable[bool]) -> str:
    return "".join(f"<td class='cell{' on' if one else ''}'>{'' if one else '·'}</td>" for one in seen)


def _answer(slot: Drawn, head: str, word: str) -> str:
    return _piece(word) if head in slot.tokens else escape(word)


def _piece(piece: str) -> str:
    return escape(piece or "∅")
