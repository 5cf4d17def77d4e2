"""The decoding loop: prompts of any lengths in one batch, a token a row and step (spec 21 section 3, 5).

Rows need no left padding: what a row sees is data (its slots' ranks), so shorter prompts are padded on the
right, the padding is seen by nobody, and each new slot carries the rank of its own row.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from plume.errors import UserError
from plume.generation.language_models import LanguageModel, NextToken, slotwise
from plume.generation.sampling import Chosen, Decoding, Row, choose
from plume.slots import Example, Layout, Memory, Slots, collate

Finish = Literal["eos", "stop", "length"]


@dataclass(frozen=True, slots=True)
class Token:
    """One generated token. ``log_prob`` is the model's own, ``final`` that of what it was drawn from, in nats.

    ``finish`` says why it is its row's last one; ``None``: it is not, or only the text can tell (a stop string).
    """

    row: int
    id: int
    log_prob: float
    final: float
    finish: Finish | None


@dataclass(frozen=True, slots=True)
class Generation:
    """What was generated after one prompt: ids with the end token if it came, log-probabilities in nats a token."""

    ids: tuple[int, ...]
    log_probs: tuple[float, ...]
    final: tuple[float, ...]
    finish: Finish


class Session:
    """A batch of texts being continued. ``step`` gives each live row a token, ``end`` takes a row out.

    Rows may have settings of their own. A row's text depends on its own prompt, settings, seed and sample
    number; neighbours can change its log-probabilities by rounding only.

    Raises:
        UserError: an empty prompt, or a text that would outgrow the model's positions (``overflow="error"``).
    """

    def __init__(self, model: LanguageModel, rows: Sequence[Row]) -> None:
        check(rows, model.context_length)
        self._model = model
        self._rows = list(rows)
        self._memory: Memory | None = None
        self._live = [i for i, row in enumerate(rows) if row.decoding.max_new_tokens > 0]
        self._read = [0] * len(rows)  # how many of a row's last ids stand in memory
        self._ended: set[int] = set()

    @property
    def live(self) -> bool:
        """Whether any row is still being continued."""
        return any(i not in self._ended for i in self._live)

    def step(self) -> list[Token]:
        """One token for each live row."""
        self._drop()
        if not self._live:
            return []
        rows = [self._rows[i] for i in self._live]
        answer = self._ask(rows)
        self._memory = answer.memory
        tokens = []
        for number, token, log_prob, final in _chosen(answer.logits, rows):
            row = rows[number]
            row.append(token)
            finish: Finish | None = None
            if token in (row.decoding.eos or ()):
                finish = "eos"
            elif row.num_new >= row.decoding.max_new_tokens:
                finish = "length"
            tokens.append(Token(self._live[number], token, log_prob, final, finish))
            if finish:
                self.end(self._live[number])
        return tokens

    def end(self, row: int) -> None:
        """Take a row out, for instance because its text reached a stop string. Ending it twice is harmless."""
        self._ended.add(row)

    def _drop(self) -> None:
        # Before the next token and not at once: after the last one there is nothing to copy.
        kept = [at for at, i in enumerate(self._live) if i not in self._ended]
        if len(kept) < len(self._live):
            self._live = [self._live[at] for at in kept]
            if self._memory is not None and kept:
                self._memory = select_rows(self._memory, torch.tensor(kept, device=self._model.device))

    def _ask(self, rows: Sequence[Row]) -> NextToken:
        room = self._model.context_length
        sizes = [
            self._read[i] + 1 if self._read[i] else len(row.ids)
            for i, row in zip(self._live, rows, strict=True)
        ]
        over = room is not None and max(sizes) > room
        if self._memory is None or over:
            if room is not None:  # a quarter of the window is let go at a time, not a slot at each step
                sizes = [size if size <= room else room - room // 4 for size in sizes]
            texts = [row.ids[len(row.ids) - size :] for row, size in zip(rows, sizes, strict=True)]
            examples = [Example(Slots.causal(np.array(ids))) for ids in texts]
            inputs = collate(examples, packed=False).to(self._model.device).inputs
            self._memory = None
        else:
            inputs = self._next_slots(rows, sizes)
        for i, size in zip(self._live, sizes, strict=True):
            self._read[i] = size
        return self._model.next_token_log_probs(inputs, memory=self._memory)

    def _next_slots(self, rows: Sequence[Row], sizes: Sequence[int]) -> Slots[Tensor]:
        ids = torch.tensor([[row.ids[-1]] for row in rows], device=self._model.device)
        ranks = torch.tensor([[size - 1] for size in sizes], device=self._model.device)
        zeros = torch.zeros_like(ids)
        documents = np.array([[r, 0, 1] for r in range(len(rows))])
        return Slots(
            input_ids=ids,
            position_ids=ranks,
            token_type_ids=zeros,
            visible_at=ranks,
            sees_until=ranks,
            document_ids=zeros,
            example_ids=zeros,
            layout=Layout("causal", documents, True),
        )


def generate(
    model: LanguageModel,
    prompts: Sequence[Sequence[int]],
    decoding: Decoding | None = None,
    *,
    samples: int = 1,
    batch_size: int = 32,
) -> list[Generation]:
    """Continue each prompt (ids) ``samples`` times: sample j of prompt i is the result's entry i * samples + j.

    ``batch_size`` texts are continued at once; it changes the speed and nothing else. Stop strings need text:
    see ``plume.generation.completion``.
    """
    decoding = decoding or Decoding()
    rows = [Row(prompt, decoding, sample) for prompt in prompts for sample in range(samples)]
    done: list[Generation] = []
    for start in range(0, len(rows), batch_size):
        part = rows[start : start + batch_size]
        tokens: list[list[Token]] = [[] for _ in part]
        session = Session(model, part)
        while session.live:
            for token in session.step():
                tokens[token.row].append(token)
        done += [collect(row) for row in tokens]
    return done


def collect(tokens: Sequence[Token], finish: Finish | None = None) -> Generation:
    """One row's tokens as a ``Generation``. Without any (``max_new_tokens=0``) its length was the limit."""
    return Generation(
        tuple(t.id for t in tokens),
        tuple(t.log_prob for t in tokens),
        tuple(t.final for t in tokens),
        finish or (tokens[-1].finish if tokens else None) or "length",
    )


def select_rows(memory: Memory, index: Tensor) -> Memory:
    """The memory of some rows [N], in that order."""
    slots = None if memory.slots is None else slotwise(lambda field: field[index], memory.slots)
    return Memory(slots, tuple(layer[index] for layer in memory.layers))


def check(rows: Sequence[Row], room: int | None) -> None:
    """Refuse what cannot be continued by a model that reads at most ``room`` slots.

    Raises:
        UserError: an empty prompt, or a text that would outgrow the model (``overflow="error"``).
    """
    for number, row in enumerate(rows, start=1):
        how, size = row.decoding, row.num_prompt
        if not size:
            raise UserError(
                f"prompt {number} is empty and the tokenizer has neither an eos nor a bos token to begin a text "
                "with: give it at least one token"
            )
        most = math.inf if room is None else room
        last = size + how.max_new_tokens - 1  # the last token is never read again
        if how.overflow == "error" and how.max_new_tokens and last > most:
            raise UserError(
                f"prompt {number} has {size} tokens and max_new_tokens is {how.max_new_tokens}, but this model "
                f"reads at most {room}: ask for at most {max(0, int(most) - size + 1)} new tokens, shorten the "
                'prompt, or let the window slide (overflow="slide")'
            )


def _chosen(logits: Tensor, rows: Sequence[Row]) -> list[tuple[int, int, float, float]]:
    # Rows that share their settings are processed together: (row, id, log-probability, final log-probability).
    groups: dict[Decoding, list[int]] = {}
    for number, row in enumerate(rows):
        groups.setdefault(row.decoding, []).append(number)
    found: list[tuple[int, int, float, float]] = []
    for members in groups.values():
        part = logits if len(members) == len(rows) else logits[members]
        chosen: Chosen = choose(part, [rows[m] for m in members])
        columns = (chosen.ids.tolist(), chosen.log_probs.tolist(), chosen.final.tolist())
        found += zip(members, *columns, strict=True)
    if any(math.isnan(log_prob) for _, _, log_prob, _ in found):
        raise UserError(
            "the model's scores are not numbers: its training diverged or its weights are damaged; go back to an "
            "earlier checkpoint"
        )
    return sorted(found)
