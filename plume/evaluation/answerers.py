"""Who answers the scorer's questions: networks of every family, and n-gram counts (spec 14 section 6, 15 section 3).

A causal network answers for all tokens of a window in one pass. A masked one is asked for each token with only
that token hidden: a *pseudo*-likelihood, which sees both sides and is no probability of a text. Any other
family is asked token by token through its objective's ``ask_next``; n-gram counts answer themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from plume.errors import UserError
from plume.generation.language_models import reads_causally
from plume.models.heads import Head, TokenHead
from plume.models.ngrams import NGrams
from plume.objectives.base import Objective, ask, place
from plume.slots import IGNORE, Example, Slots, collate
from plume.vocabulary import Vocabulary

if TYPE_CHECKING:
    from plume.models.pretrained import PretrainedModel
    from plume.slots import Array

Ints = NDArray[np.int64]


class Question(NamedTuple):
    """Tokens in a row, [T], of which the last ``scored`` are asked about."""

    ids: Ints
    scored: int


class Answer(NamedTuple):
    """log p of each token asked about, in nats, float64 [scored]; whether it was the first choice, bool
    [scored], or empty where that was not asked."""

    log_probs: NDArray[np.float64]
    greedy: NDArray[np.bool_]


class Answerer(Protocol):
    """A model as scoring knows it.

    ``window``: the most tokens it can be asked about at once (``None``: any number). ``prefix``: the token that
    stands before a text (``None``: none is needed). ``pseudo``: its answers see both sides of a token.
    """

    window: int | None
    prefix: int | None
    pseudo: bool

    def answer(self, questions: Sequence[Question], *, greedy: bool = False) -> list[Answer]: ...


class _Counts:
    def __init__(self, model: NGrams) -> None:
        self.window: int | None = None
        self.pseudo = False
        self._model = model
        self.prefix = model.eos  # after it a document begins

    def answer(self, questions: Sequence[Question], *, greedy: bool = False) -> list[Answer]:
        found = []
        for ids, scored in questions:
            first = len(ids) - scored
            log_probs = self._model.log_probs(ids, begins=False)[first:]
            if not greedy:
                found.append(Answer(log_probs, np.zeros(0, bool)))
                continue
            best = [
                self._model.next_token_log_probs(ids[:t], begins=False).max() for t in range(first, len(ids))
            ]
            found.append(Answer(log_probs, log_probs >= np.array(best) - 1e-12))
        return found


def counts(model: NGrams) -> Answerer:
    """An n-gram model as the scorer knows it."""
    return _Counts(model)


def network(
    model: PretrainedModel,
    objective: Objective[Any],
    vocab: Vocabulary,
    *,
    max_length: int | None,
    batch_slots: int = 4096,
    device: torch.device | str = "cpu",
    autocast: torch.dtype | None = None,
) -> Answerer:
    """A network as the scorer knows it.

    ``max_length``: the most slots it can read (its ``max_positions``; ``None``: no limit). ``batch_slots`` slots go
    through it at once; that, like the order of questions, changes results by rounding only. ``autocast`` computes in
    a smaller type; log-softmax is in fp32 at least.

    Raises:
        UserError: no head of the model predicts tokens.
    """
    heads = [name for name, head in model.heads.items() if isinstance(head, TokenHead)]
    if not heads:
        raise UserError(
            f"this model cannot score text: its heads ({', '.join(model.heads)}) predict no tokens; "
            f"score with the run it was adapted from"
        )
    name = "next_token" if "next_token" in heads else heads[0]
    ids = np.zeros(0, np.int64)
    frame, prefix = 0, vocab.eos if vocab.eos is not None else vocab.bos
    asks: Callable[[Question], Iterator[Example[Array]]]
    if objective.prompt(ids, vocab) is not None:
        asks = _Writing(name, objective, vocab).asks
    elif reads_causally(objective, vocab):
        asks = _Causal(name).asks
    elif name == "masked_token":
        frame, prefix = len(objective.read([ids], vocab)[0]), None
        asks = _Masked(name, objective, vocab).asks
    else:
        frame = len(objective.ask_next(ids, vocab)[0])
        asks = _Asking(name, objective, vocab).asks
    window = None if max_length is None else max_length - frame
    room = (batch_slots, torch.device(device), autocast, vocab.pad or 0)
    return _Network(model, name, asks, window, prefix, name == "masked_token" and prefix is None, room)


@dataclass(frozen=True)
class _Causal:
    head: str

    def asks(self, question: Question) -> Iterator[Example[Array]]:
        ids, scored = question
        if len(ids) <= scored:
            raise UserError(
                "the first token of a text has nothing before it, and this tokenizer has neither an eos nor a bos "
                "token to put there: give a context"
            )
        labels = np.full(len(ids) - 1, IGNORE)
        labels[len(labels) - scored :] = ids[len(ids) - scored :]
        yield Example(Slots.causal(ids[:-1], labels={self.head: labels}))


@dataclass(frozen=True)
class _Masked:
    head: str
    objective: Objective[Any]
    vocab: Vocabulary

    def asks(self, question: Question) -> Iterator[Example[Array]]:
        ids, scored = question
        mask = self.vocab.require("mask")
        whole, _ = self.objective.read([ids], self.vocab)
        at = place(whole.input_ids, ids)
        for i in range(at + len(ids) - scored, at + len(ids)):
            hidden, labels = whole.input_ids.copy(), np.full(len(whole), IGNORE)
            hidden[i], labels[i] = mask, whole.input_ids[i]
            yield Example(replace(whole, input_ids=hidden, labels={self.head: labels}))


@dataclass(frozen=True)
class _Asking:
    head: str
    objective: Objective[Any]
    vocab: Vocabulary

    def asks(self, question: Question) -> Iterator[Example[Array]]:
        ids, scored = question
        for t in range(len(ids) - scored, len(ids)):
            slots, at = self.objective.ask_next(ids[:t], self.vocab)
            labels = np.full(len(slots), IGNORE)
            labels[at] = ids[t]
            yield Example(replace(slots, labels={self.head: labels}))


@dataclass(frozen=True)
class _Writing:
    """Two stacks: the first reads what stands before, the second is asked for the rest in one pass."""

    head: str
    objective: Objective[Any]
    vocab: Vocabulary

    def asks(self, question: Question) -> Iterator[Example[Array]]:
        ids, scored = question
        before, asked = np.split(ids, [len(ids) - scored])
        begun = self.objective.prompt(before, self.vocab)
        assert begun is not None and begun.decoder_inputs is not None
        start = begun.decoder_inputs.input_ids
        labels = np.concatenate([np.full(len(start) - 1, IGNORE), asked])
        written = Slots.causal(np.concatenate([start, asked[:-1]]), labels={self.head: labels})
        yield Example(begun.inputs, written)


def _slots(example: Example[Array]) -> int:
    return max(len(example.inputs), 0 if example.decoder_inputs is None else len(example.decoder_inputs))


class _Network:
    def __init__(
        self,
        model: PretrainedModel,
        head: str,
        asks: Callable[[Question], Iterator[Example[Array]]],
        window: int | None,
        prefix: int | None,
        pseudo: bool,
        room: tuple[int, torch.device, torch.dtype | None, int],
    ) -> None:
        self.window = window
        self.prefix = prefix
        self.pseudo = pseudo
        self._model = model
        self._name = head
        self._asks = asks
        self._batch_slots, self._device, self._autocast, self._pad = room

    @torch.inference_mode()
    def answer(self, questions: Sequence[Question], *, greedy: bool = False) -> list[Answer]:
        # Long ones first: rows of like length waste no padding, and too large a batch shows at once.
        order = sorted(range(len(questions)), key=lambda i: -len(questions[i].ids))
        found: list[list[Answer]] = [[] for _ in questions]
        waiting: list[Example[Array]] = []
        owners: list[int] = []
        was_training = self._model.training
        self._model.eval()
        try:
            for i in order:
                for example in self._asks(questions[i]):
                    if (
                        waiting
                        and (len(waiting) + 1) * max(map(_slots, (waiting[0], example))) > self._batch_slots
                    ):
                        self._flush(waiting, owners, found, greedy)
                    waiting.append(example)
                    owners.append(i)
            self._flush(waiting, owners, found, greedy)
        finally:
            self._model.train(was_training)
        return [Answer(np.concatenate([a.log_probs for a in part]), np.concatenate([a.greedy for a in part]))
                for part in found]  # fmt: skip

    def _flush(
        self, waiting: list[Example[Array]], owners: list[int], found: list[list[Answer]], greedy: bool
    ) -> None:
        if not waiting:
            return
        batch = collate(waiting, packed=self._model.backbone.packs, pad_id=self._pad).to(self._device)
        cast: AbstractContextManager[Any] = nullcontext()
        if self._autocast is not None:
            cast = torch.autocast(self._device.type, self._autocast)
        with cast:
            head: Head = self._model.heads[self._name]
            asked = ask(
                batch, self._name, self._model.backbone(batch.inputs, batch.decoder_inputs)[head.reads]
            )
            log_probs, firsts = [], []
            for states, labels in zip(
                torch.split(asked.hidden, 1024), torch.split(asked.labels, 1024), strict=True
            ):
                logits = head.logits(states)  # [1024, V]: a whole batch of them would not always fit
                logits = logits if logits.dtype == torch.float64 else logits.float()
                chosen = logits.gather(1, labels[:, None]).squeeze(1)
                log_probs.append((chosen - logits.logsumexp(1)).double())
                # A token nobody asks to be first is not looked up: the search costs as much as the rest here.
                firsts.append(logits.argmax(1) == labels if greedy else labels[:0] == 0)
        examples_of = asked.example.cpu().numpy()
        scores, first = torch.cat(log_probs).cpu().numpy(), torch.cat(firsts).cpu().numpy()
        for number, owner in enumerate(owners):
            mine = examples_of == number
            found[owner].append(Answer(scores[mine], first[mine] if greedy else first))
        waiting.clear()
        owners.clear()
