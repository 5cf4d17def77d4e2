"""What there is to see in an example: its tokens as the model reads them, who sees whom, what is asked where.

Works for every objective, since all three are fields of the one ``Example`` (DESIGN section 2).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np

from plume.drawing.phrases import Language, has_phrase, phrase
from plume.slots import IGNORE, NEVER, Array, Example, Slots
from plume.vocabulary import Vocabulary

Name = Literal["inputs", "encoder", "decoder", "forward", "backward"]
State = Literal["plain", "special", "hidden", "swapped", "kept", "query", "gap"]
Pieces = Callable[[Sequence[int]], Sequence[str]]
TOKEN_HEADS = frozenset({"masked_token", "next_token", "previous_token", "permuted_token", "context_word"})


@dataclass(frozen=True)
class Drawn:
    """One slot: what it shows, what became of its token, and the right answers by head.

    ``tokens`` are the heads among them that answer with a token.
    """

    shown: str
    state: State
    answers: Mapping[str, str]
    tokens: frozenset[str] = TOKEN_HEADS


@dataclass(frozen=True)
class Stack:
    """The slots of one stack [T] and who sees whom, bool [T, T]: row q, column k.

    notes: lines of small words, one a slot, by name: "segment", "position", "order" (of the draw), "document"; only
    where they tell something. first: the slots [E] of the stack before, and across, bool [T, E], which of them each
    slot sees. marked: slots to look at, such as the one that breaks a law.
    """

    name: Name
    slots: tuple[Drawn, ...]
    sees: np.ndarray[Any, np.dtype[np.bool_]]
    notes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    first: tuple[Drawn, ...] = ()
    across: np.ndarray[Any, np.dtype[np.bool_]] | None = None
    marked: frozenset[int] = frozenset()
    banded: tuple[tuple[str, np.ndarray[Any, np.dtype[np.bool_]]], ...] = ()

    @property
    def states(self) -> tuple[State, ...]:
        """The kinds of slots that occur, in the order of a legend."""
        order: tuple[State, ...] = ("hidden", "swapped", "kept", "query", "gap", "special")
        here = {slot.state for slot in self.slots}
        return tuple(state for state in order if state in here)


@dataclass(frozen=True)
class Listing:
    """Things and what they weigh, a row each; a number from 0 to 1 is drawn as a bar too, None is nothing."""

    caption: str
    head: tuple[str, ...]
    rows: tuple[tuple[str | float | None, ...], ...]


@dataclass(frozen=True)
class Picture:
    """An example as a person looks at it. ``says`` are sentences about who sees whom and what is asked.

    What counts has no slots: ``listings`` tell what was counted.
    """

    title: str
    facts: tuple[str, ...]
    stacks: tuple[Stack, ...]
    says: tuple[str, ...]
    language: Language = "en"
    listings: tuple[Listing, ...] = ()

    @property
    def states(self) -> tuple[State, ...]:
        """The kinds of slots that occur in any stack."""
        found = [state for stack in self.stacks for state in stack.states]
        return tuple(dict.fromkeys(found))

    def _repr_html_(self) -> str:
        from plume.drawing.html import fragment

        return fragment([self])


def weighed(value: float) -> str:
    """A weight as a person reads it.

    >>> weighed(0.12345), weighed(0.00001234), weighed(3.0)
    ('0.1235', '1.2e-05', '3')
    """
    return (
        f"{value:.0f}"
        if value == int(value) and value
        else f"{value:.4f}"
        if value >= 1e-3
        else f"{value:.2g}"
    )


def picture(
    example: Example[Array],
    pieces: Pieces,
    vocab: Vocabulary,
    *,
    title: str = "",
    facts: Sequence[str] = (),
    says: Sequence[str] = (),
    language: Language = "en",
    names: Mapping[str, Sequence[str]] | None = None,
    token_heads: Collection[str] = TOKEN_HEADS,
    marked: tuple[int, int] | None = None,
    directions: bool = False,
    spelled: Callable[[Array], Sequence[str]] | None = None,
    bands: Collection[int] = (),
) -> Picture:
    """Look at an example. ``pieces`` gives what a person reads for token ids, ``names`` the labels of a head,
    ``token_heads`` the heads that answer with a token; ``says`` are sentences to be added; ``marked`` is the (stack,
    slot) to point at. ``directions``: the two stacks read in one direction each and see nothing of one another (ELMo).
    ``spelled`` tells what features [T, ...] a slot is read by; ``bands`` how far some layers look.
    """
    words = _Words(pieces, language, names or {}, frozenset(token_heads), spelled)
    names_of: tuple[Name, Name] = ("forward", "backward") if directions else ("encoder", "decoder")
    first: Name = "inputs" if example.decoder_inputs is None else names_of[0]
    stack = _stack(first, example.inputs, words, vocab)
    stacks = [replace(stack, banded=tuple(_banded(stack, example.inputs, band, language) for band in bands))]
    told = [*_says(example.inputs, stack, language), *_of_words(example.inputs, words)]
    if example.decoder_inputs is not None:
        second = _stack(names_of[1], example.decoder_inputs, words, vocab)
        more = _says(example.decoder_inputs, second, language)
        if not directions:
            across = _across(example.decoder_inputs, example.inputs)
            second = replace(second, first=stacks[0].slots, across=across)
            more = [*more, _says_across(across, language)]
        stacks.append(second)
        told = [f"{phrase(language, f'told.{names_of[0]}')}{t}" for t in told]
        told += [f"{phrase(language, f'told.{names_of[1]}')}{t}" for t in more]
        told += [phrase(language, "says.apart")] if directions else []
    if marked is not None:
        stacks[marked[0]] = replace(stacks[marked[0]], marked=frozenset({marked[1]}))
    return Picture(title, tuple(facts), tuple(stacks), (*told, *says), language)


@dataclass(frozen=True)
class _Words:
    """How ids and labels are told to a person."""

    pieces: Pieces
    language: Language
    names: Mapping[str, Sequence[str]]
    tokens: frozenset[str]
    spelled: Callable[[Array], Sequence[str]] | None = None

    def answers(self, head: str, labels: Array) -> list[str]:
        if head in self.tokens:
            return list(self.pieces([int(i) for i in labels]))
        return [self._answer(head, int(label)) for label in labels]

    def _answer(self, head: str, label: int) -> str:
        if head in self.names:
            return self.names[head][label]
        for name in (f"{head}.{label}.short", f"{head}.{label}"):
            if has_phrase(name):
                return phrase(self.language, name)
        return str(label)


def _stack(name: Name, slots: Slots[Array], words: _Words, vocab: Vocabulary) -> Stack:
    ids = np.asarray(slots.input_ids)
    real = ids < vocab.size
    shown = np.array(
        [f"@{int(position)}" for position in slots.position_ids], object
    )  # of a query: where it asks
    shown[real] = words.pieces([int(i) for i in ids[real]])
    answers: list[dict[str, str]] = [{} for _ in ids]
    for head, labels in slots.labels.items():
        asked = np.flatnonzero(labels != IGNORE)
        for slot, word in zip(asked, words.answers(head, labels[asked]), strict=True):
            answers[slot][head] = word
    states = _states(slots, vocab)
    drawn = (
        Drawn(str(s), state, a, words.tokens) for s, state, a in zip(shown, states, answers, strict=True)
    )
    notes = _notes(slots, words.language)
    if slots.features is not None and words.spelled is not None:
        notes["characters"] = tuple(words.spelled(slots.features))
    return Stack(name, tuple(drawn), np.asarray(slots.sees()), notes)


def _banded(
    stack: Stack, slots: Slots[Array], band: int, language: Language
) -> tuple[str, np.ndarray[Any, np.dtype[np.bool_]]]:
    """What slots see in a layer of this band, which is drawn narrower where it is wider than the drawing."""
    drawn = min(band, max(2, len(stack.slots) // 4))
    at = np.asarray(slots.position_ids)
    near = np.abs(at[:, None] - at[None, :]) < drawn
    name = "sees.banded" if drawn == band else "sees.banded.narrowed"
    return phrase(language, name, band=band, drawn=drawn), stack.sees & near


def _of_words(slots: Slots[Array], words: _Words) -> list[str]:
    """From which words the right answer is to be told, where some were drawn for that: in the first slot asked."""
    says = []
    for head in words.tokens & set(slots.labels):
        noise = [values for name, values in slots.given.items() if name.rpartition(".")[0] == head]
        asked = np.flatnonzero(slots.labels[head] != IGNORE)
        if noise and len(asked):
            slot = int(asked[0])
            ids = [int(values[slot]) for values in noise if values[slot] >= 0]
            [answer] = words.pieces([int(slots.labels[head][slot])])
            others = ", ".join(words.pieces(ids))
            says.append(phrase(words.language, "noise", n=slot, answer=answer, words=others))
    return says


def _notes(slots: Slots[Array], language: Language) -> dict[str, tuple[str, ...]]:
    """What else is known of each slot, where it is not the same everywhere or plain."""
    notes = {}
    types, documents = np.asarray(slots.token_type_ids), np.asarray(slots.document_ids)
    if types.any():
        notes["segment"] = tuple(chr(ord("A") + int(t)) for t in types)
    if not np.array_equal(slots.position_ids, np.arange(len(slots))):
        notes["position"] = tuple(str(int(p)) for p in slots.position_ids)
    if _pattern(slots) in ("permuted", "ranked"):
        # The place of each slot in the order of the draw; a query stands where its content does.
        ranks, until = np.asarray(slots.visible_at), np.asarray(slots.sees_until)
        places = np.unique(ranks[ranks != NEVER])
        at = np.where(ranks == NEVER, np.searchsorted(places, until, "right"), np.searchsorted(places, ranks))
        notes["order"] = tuple(phrase(language, "ordinal", n=int(n) + 1) for n in at)
    if len(np.unique(documents)) > 1:
        notes["document"] = tuple(str(int(d) + 1) for d in documents)
    return notes


def _across(decoder: Slots[Array], encoder: Slots[Array]) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Who of the second stack [T] sees whom of the first [E]: all that can be seen of the same document."""
    same = np.asarray(decoder.document_ids)[:, None] == np.asarray(encoder.document_ids)[None, :]
    return np.asarray(same & (np.asarray(encoder.visible_at) != NEVER)[None, :])


def _says_across(across: np.ndarray[Any, np.dtype[np.bool_]], language: Language) -> str:
    if across.all():
        return phrase(language, "visible.across")
    mean = round(float(across.sum(1).mean()), 1)
    return phrase(language, "visible.across.some", mean=mean, all=across.shape[1])


def _states(slots: Slots[Array], vocab: Vocabulary) -> list[State]:
    ids = np.asarray(slots.input_ids)
    hidden = slots.labels.get("masked_token")
    states: list[State] = []
    for slot, token in enumerate(ids):
        label = IGNORE if hidden is None else hidden[slot]
        if token >= vocab.size:
            states.append("query")
        elif int(token) in vocab.sentinels:
            states.append("gap")
        elif label != IGNORE:
            states.append("hidden" if token == vocab.mask else "kept" if token == label else "swapped")
        else:
            states.append("special" if int(token) in vocab.special else "plain")
    return states


def _says(slots: Slots[Array], stack: Stack, language: Language) -> list[str]:
    total, pattern = len(stack.slots), _pattern(slots)
    mean = round(float(stack.sees.sum(1).mean()), 1)
    says = [phrase(language, f"visible.{pattern}", all=total, mean=mean, n=int(stack.sees[0].sum()))]
    if slots.features is not None:
        says.append(phrase(language, "features", shape=" × ".join(map(str, slots.features.shape[1:]))))
    if (documents := len(np.unique(slots.document_ids))) > 1 and pattern != "alone":
        says.append(phrase(language, "visible.documents", n=documents))
    count = {
        state: sum(slot.state == state for slot in stack.slots) for state in ("hidden", "swapped", "kept")
    }
    for head, labels in slots.labels.items():
        asked = labels[labels != IGNORE]
        known = head if has_phrase(f"head.{head}") else "other"
        if len(asked) < total and has_phrase(f"head.{known}.some"):
            known = f"{known}.some"
        answer = f"{head}.{int(asked[0])}" if len(asked) == 1 else ""
        says.append(
            phrase(
                language,
                f"head.{known}",
                n=len(asked),
                all=total,
                head=head,
                **count,
                answer=phrase(language, answer) if has_phrase(answer) else "",
            )
        )
    return says


def _pattern(slots: Slots[Array]) -> str:
    """What the ranks amount to, inside each document."""
    same = slots.document_ids[:, None] == slots.document_ids[None, :]
    at = np.arange(len(slots))
    sees = np.asarray(slots.sees())
    if len(at) > 1 and np.array_equal(sees, np.eye(len(at), dtype=bool)):
        return "alone"
    if np.array_equal(sees, same):
        return "bidirectional"
    if np.array_equal(sees, same & (at[None, :] <= at[:, None])):
        return "causal"
    if np.array_equal(sees, same & (at[None, :] >= at[:, None])):
        return "right-to-left"
    if (np.asarray(slots.visible_at) == NEVER).any():
        return "permuted"
    first = int(sees[0].sum())
    prefix = (at[None, :] <= at[:, None]) | ((at[None, :] < first) & (at[:, None] < first))
    return "prefix" if same.all() and np.array_equal(sees, prefix) else "ranked"
