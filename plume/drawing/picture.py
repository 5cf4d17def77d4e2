"""What there is to see in an example: its tokens as the model reads them, who sees whom, what is asked where.

Works for every objective, since all three are fields of the one ``Example`` (DESIGN section 2).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from plume.drawing.phrases import Language, has_phrase, phrase
from plume.slots import IGNORE, Array, Example, Slots
from plume.vocabulary import Vocabulary

State = Literal["plain", "special", "hidden", "swapped", "kept", "query"]
Pieces = Callable[[Sequence[int]], Sequence[str]]
TOKEN_HEADS = frozenset({"masked_token", "next_token", "previous_token", "permuted_token"})


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
    """The slots of one stack [T] and who sees whom, bool [T, T]: row q, column k."""

    name: Literal["inputs", "encoder", "decoder"]
    slots: tuple[Drawn, ...]
    sees: np.ndarray[Any, np.dtype[np.bool_]]

    @property
    def states(self) -> tuple[State, ...]:
        """The kinds of slots that occur, in the order of a legend."""
        order: tuple[State, ...] = ("hidden", "swapped", "kept", "query", "special")
        here = {slot.state for slot in self.slots}
        return tuple(state for state in order if state in here)


@dataclass(frozen=True)
class Picture:
    """An example as a person looks at it. ``says`` are sentences about who sees whom and what is asked."""

    title: str
    facts: tuple[str, ...]
    stacks: tuple[Stack, ...]
    says: tuple[str, ...]
    language: Language = "en"

    @property
    def states(self) -> tuple[State, ...]:
        """The kinds of slots that occur in any stack."""
        found = [state for stack in self.stacks for state in stack.states]
        return tuple(dict.fromkeys(found))

    def _repr_html_(self) -> str:
        from plume.drawing.html import fragment

        return fragment([self])


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
) -> Picture:
    """Look at an example. ``pieces`` gives what a person reads for token ids, ``names`` the labels of a head,
    ``token_heads`` the heads that answer with a token; ``says`` are sentences to be added.
    """
    words = _Words(pieces, language, names or {}, frozenset(token_heads))
    stacks = [_stack("encoder" if example.decoder_inputs else "inputs", example.inputs, words, vocab)]
    told = _says(example.inputs, stacks[0], language)
    if example.decoder_inputs is not None:
        stacks.append(_stack("decoder", example.decoder_inputs, words, vocab))
        told += _says(example.decoder_inputs, stacks[1], language)
    return Picture(title, tuple(facts), tuple(stacks), (*told, *says), language)


@dataclass(frozen=True)
class _Words:
    """How ids and labels are told to a person."""

    pieces: Pieces
    language: Language
    names: Mapping[str, Sequence[str]]
    tokens: frozenset[str]

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


def _stack(
    name: Literal["inputs", "encoder", "decoder"], slots: Slots[Array], words: _Words, vocab: Vocabulary
) -> Stack:
    ids = np.asarray(slots.input_ids)
    real = ids < vocab.size
    shown = np.full(len(ids), "?", object)
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
    return Stack(name, tuple(drawn), np.asarray(slots.sees()))


def _states(slots: Slots[Array], vocab: Vocabulary) -> list[State]:
    ids = np.asarray(slots.input_ids)
    hidden = slots.labels.get("masked_token")
    states: list[State] = []
    for slot, token in enumerate(ids):
        label = IGNORE if hidden is None else hidden[slot]
        if token >= vocab.size:
            states.append("query")
        elif label != IGNORE:
            states.append("hidden" if token == vocab.mask else "kept" if token == label else "swapped")
        else:
            states.append("special" if int(token) in vocab.special else "plain")
    return states


def _says(slots: Slots[Array], stack: Stack, language: Language) -> list[str]:
    total = len(stack.slots)
    says = [
        phrase(
            language, f"visible.{_pattern(slots)}", all=total, mean=round(float(stack.sees.sum(1).mean()), 1)
        )
    ]
    if (documents := len(np.unique(slots.document_ids))) > 1:
        says.append(phrase(language, "visible.documents", n=documents))
    count = {
        state: sum(slot.state == state for slot in stack.slots) for state in ("hidden", "swapped", "kept")
    }
    for head, labels in slots.labels.items():
        asked = labels[labels != IGNORE]
        known = head if has_phrase(f"head.{head}") else "other"
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
    if np.array_equal(sees, same):
        return "bidirectional"
    if np.array_equal(sees, same & (at[None, :] <= at[:, None])):
        return "causal"
    if np.array_equal(sees, same & (at[None, :] >= at[:, None])):
        return "right-to-left"
    return "ranked"
