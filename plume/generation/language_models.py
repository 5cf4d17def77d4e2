"""All that decoding, scoring and serving know of a model: it can be asked for the next token.

R rows, L new slots, V = vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from plume.errors import UserError
from plume.models.heads import TokenHead
from plume.slots import Example, Memory, Slots, collate
from plume.vocabulary import Vocabulary

if TYPE_CHECKING:
    from plume.models.pretrained import PretrainedModel
    from plume.slots import Array


class NextToken(NamedTuple):
    """Scores of the token after each row, [R, V] fp32 or fp64, and the memory to go on with.

    ``logits`` are log-probabilities up to one constant a row: a network's raw logits, because the repetition
    penalty is defined on those (spec 21 section 2); counts give log-probabilities themselves.
    """

    logits: Tensor
    memory: Memory | None

    @property
    def log_probs(self) -> Tensor:
        """[R, V] in nats."""
        return self.logits.log_softmax(-1)


class LanguageModel(Protocol):
    """``context_length``: how many slots it can read at once, ``None`` where nothing limits it.

    ``device``: where it wants its inputs.
    """

    context_length: int | None
    device: torch.device

    def next_token_log_probs(
        self,
        inputs: Slots[Tensor],
        decoder_inputs: Slots[Tensor] | None = None,
        *,
        memory: Memory | None = None,
    ) -> NextToken:
        """What follows each row of ``inputs`` [R, L], read after ``memory``.

        A row's last slot that is not padding asks. The memory returned covers ``memory`` and ``inputs``; the
        one passed in stays valid and unchanged.
        """
        ...


class Asks(Protocol):
    """What is needed of an ``Objective``: how its family is asked for the token after ``ids``."""

    def ask_next(self, ids: Array, vocab: Vocabulary) -> tuple[Slots[Array], int]: ...


class CausalNetwork:
    """A network whose last slot already asks for the next token: past slots stay in the backbone's memory.

    ``head`` names the head that answers. Dropout is off while it reads, whatever mode the model is in.
    """

    def __init__(self, model: PretrainedModel, head: str, context_length: int | None) -> None:
        self.context_length = context_length
        self.device = next(model.parameters()).device
        self._model = model
        self._head = model.heads[head]

    @torch.inference_mode()
    def next_token_log_probs(
        self,
        inputs: Slots[Tensor],
        decoder_inputs: Slots[Tensor] | None = None,
        *,
        memory: Memory | None = None,
    ) -> NextToken:
        with _evaluating(self._model):
            hidden = self._model.backbone(inputs, decoder_inputs, memory=memory, use_memory=True)
            asking = inputs if decoder_inputs is None else decoder_inputs
            states = _last(hidden[self._head.reads], asking)
            return NextToken(_scores(self._head.logits(states)), hidden.memory)


class AskingNetwork:
    """A network of any family, asked anew each time through its objective's ``ask_next`` ([MASK], a query slot).

    Nothing can be kept between two tokens, because in such families every slot sees the slot that asks; the
    memory only holds the ids so far.
    """

    def __init__(
        self,
        model: PretrainedModel,
        objective: Asks,
        vocab: Vocabulary,
        head: str,
        context_length: int | None,
    ) -> None:
        frame = len(objective.ask_next(np.zeros(0, np.int64), vocab)[0])  # [CLS] [MASK] [SEP] take room too
        self.context_length = None if context_length is None else context_length - frame
        self.device = next(model.parameters()).device
        self._model = model
        self._objective = objective
        self._vocab = vocab
        self._head = model.heads[head]

    @torch.inference_mode()
    def next_token_log_probs(
        self,
        inputs: Slots[Tensor],
        decoder_inputs: Slots[Tensor] | None = None,
        *,
        memory: Memory | None = None,
    ) -> NextToken:
        if decoder_inputs is not None:
            raise ValueError("a model without a decoder was given decoder inputs")
        past = _concatenated(memory, inputs)
        asked = [self._objective.ask_next(ids, self._vocab) for ids in _ids(past)]
        examples = [Example(slots) for slots, _ in asked]
        batch = collate(examples, packed=False, pad_id=self._vocab.pad or 0).to(self.device)
        with _evaluating(self._model):
            states = self._model.backbone(batch.inputs)[self._head.reads]
            states = states[torch.arange(len(asked)), torch.tensor([slot for _, slot in asked])]
            return NextToken(_scores(self._head.logits(states)), Memory(past, ()))


class HistoryModel:
    """Any function from the ids so far [T] to log-probabilities [V], as n-gram counts offer it.

    >>> uniform = HistoryModel(lambda ids: np.full(4, np.log(1 / 4)))
    """

    context_length = None
    device = torch.device("cpu")

    def __init__(self, log_probs: Callable[[Array], ArrayLike]) -> None:
        self._log_probs = log_probs

    def next_token_log_probs(
        self,
        inputs: Slots[Tensor],
        decoder_inputs: Slots[Tensor] | None = None,
        *,
        memory: Memory | None = None,
    ) -> NextToken:
        past = _concatenated(memory, inputs)
        rows = [torch.as_tensor(self._log_probs(ids)) for ids in _ids(past)]
        return NextToken(_scores(torch.stack(rows)), Memory(past, ()))


def language_model(
    model: PretrainedModel, objective: Asks, vocab: Vocabulary, *, context_length: int | None = None
) -> LanguageModel:
    """The ``LanguageModel`` of a network that was trained with ``objective``.

    ``context_length``: its ``max_positions``. A family is causal if ``ask_next`` gives the text as it is, each
    slot seeing what stands before it: then what was read is kept, otherwise it is read anew for each token.

    Raises:
        UserError: no head of the model predicts tokens.
    """
    tokens = [name for name, head in model.heads.items() if isinstance(head, TokenHead)]
    if not tokens:
        raise UserError(
            f"this model cannot generate: its heads ({', '.join(model.heads)}) predict no tokens; "
            "generate with the run it was adapted from"
        )
    head = "next_token" if "next_token" in tokens else tokens[0]
    probe = np.full(3, min(vocab.size - 1, 1))
    slots, asking = objective.ask_next(probe, vocab)
    causal = Slots.causal(probe)
    same = all(
        np.array_equal(getattr(slots, name), getattr(causal, name))
        for name in (
            "input_ids",
            "position_ids",
            "visible_at",
            "sees_until",
            "document_ids",
            "token_type_ids",
        )
    )
    if same and asking == len(probe) - 1:
        return CausalNetwork(model, head, context_length)
    return AskingNetwork(model, objective, vocab, head, context_length)


@contextmanager
def _evaluating(model: torch.nn.Module) -> Iterator[None]:
    if not model.training:
        yield
        return
    model.eval()
    try:
        yield
    finally:
        model.train()


def _scores(logits: Tensor) -> Tensor:
    return logits if logits.dtype == torch.float64 else logits.float()


def _last(hidden: Tensor, slots: Slots[Tensor]) -> Tensor:
    # [R, D] of the last slot in each row that is not padding; the usual single new slot needs no search.
    if len(slots) == 1:
        return hidden[:, 0]
    real = slots.document_ids >= 0
    last = len(slots) - 1 - real.flip(-1).to(torch.int8).argmax(-1)
    return hidden[torch.arange(len(hidden), device=hidden.device), last]


def slotwise(change: Callable[[list[Tensor]], Tensor], *parts: Slots[Tensor]) -> Slots[Tensor]:
    """Slots each of whose fields is ``change`` of the parts' fields; labels, features and layout are left out."""

    def of(name: str) -> Tensor:
        return change([getattr(part, name) for part in parts])

    return Slots(
        input_ids=of("input_ids"),
        position_ids=of("position_ids"),
        token_type_ids=of("token_type_ids"),
        visible_at=of("visible_at"),
        sees_until=of("sees_until"),
        document_ids=of("document_ids"),
        example_ids=of("example_ids"),
    )


def _concatenated(memory: Memory | None, inputs: Slots[Tensor]) -> Slots[Tensor]:
    if memory is None or memory.slots is None:
        return inputs
    return slotwise(lambda pair: torch.cat(pair, dim=1), memory.slots, inputs)


def _ids(slots: Slots[Tensor]) -> list[Array]:
    return [
        row[real].cpu().numpy() for row, real in zip(slots.input_ids, slots.document_ids >= 0, strict=True)
    ]
