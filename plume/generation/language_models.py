"""All that decoding, scoring and serving know of a model: it can be asked for the next token.

R rows, L new slots, V = vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from plume.errors import UserError
from plume.generation.packing import DecodingLinear, packable, prepared
from plume.models.backbone import Hidden
from plume.models.heads import TokenHead
from plume.models.memory import Kept, follow
from plume.slots import NEVER, Example, Memory, Slots, collate
from plume.vocabulary import Vocabulary

if TYPE_CHECKING:
    from plume.models.backbone import Backbone
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

    def prompt(self, ids: Array, vocab: Vocabulary) -> Example[Array] | None: ...


class CausalNetwork:
    """A network whose last slot already asks for the next token: past slots stay in the backbone's memory.

    ``head`` names the head that answers. It works on a copy (``packing.prepared``): the weights as they are now,
    without dropout.
    """

    def __init__(
        self,
        model: PretrainedModel,
        head: str,
        context_length: int | None,
        *,
        dtype: torch.dtype | None = None,
    ) -> None:
        self.context_length = context_length
        self.device = next(model.parameters()).device
        twin = prepared(model, dtype)
        self._backbone = twin.backbone
        self._head: TokenHead = twin.heads[head]
        weight, bias = self._head.weight, self._head.bias
        self._table = DecodingLinear(weight, bias) if packable(weight) else None

    @torch.inference_mode()
    def next_token_log_probs(
        self,
        inputs: Slots[Tensor],
        decoder_inputs: Slots[Tensor] | None = None,
        *,
        memory: Memory | None = None,
    ) -> NextToken:
        hidden = self._read(inputs, decoder_inputs, memory)
        states = _last(hidden[self._head.reads], inputs if decoder_inputs is None else decoder_inputs)
        if self._table is None:
            return NextToken(_scores(self._head.logits(states)), hidden.memory)
        return NextToken(_scores(self._table(self._head.transform(states))), hidden.memory)

    def _read(
        self, inputs: Slots[Tensor], decoder_inputs: Slots[Tensor] | None, memory: Memory | None
    ) -> Hidden:
        padded = len(inputs) > 1 and not bool((inputs.document_ids >= 0).all())
        if padded and not self._backbone.packs:
            return _read_by_length(self._backbone, inputs, memory)
        hidden: Hidden = self._backbone(inputs, decoder_inputs, memory=memory, use_memory=True)
        return hidden


class PrefixNetwork(CausalNetwork):
    """A network whose prompt sees itself in both directions; what follows it sees what stands before.

    So the prompt is read once and past slots stay in memory, as a causal network's do (spec 20 section 2).
    """

    def _read(
        self, inputs: Slots[Tensor], decoder_inputs: Slots[Tensor] | None, memory: Memory | None
    ) -> Hidden:
        if memory is None:
            ranks = torch.where(inputs.document_ids >= 0, 0, NEVER)
            inputs = replace(inputs, visible_at=ranks, sees_until=ranks, layout=None)
        return super()._read(inputs, decoder_inputs, memory)


class WritingNetwork(CausalNetwork):
    """Two stacks: the first reads the prompt, the second writes what follows; both as the family begins them.

    Rows of ids are a prompt where there is no memory, and what was written where there is one. The memory keeps
    which slots of the first stack may be seen as one more layer [R, 2, L]. ``room``: the most slots of a stack.
    """

    def __init__(
        self,
        model: PretrainedModel,
        objective: Asks,
        vocab: Vocabulary,
        head: str,
        room: int | None,
        *,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(model, head, None, dtype=dtype)
        self._objective, self._vocab, self.room = objective, vocab, room

    @torch.inference_mode()
    def next_token_log_probs(
        self,
        inputs: Slots[Tensor],
        decoder_inputs: Slots[Tensor] | None = None,
        *,
        memory: Memory | None = None,
    ) -> NextToken:
        if decoder_inputs is not None:  # the caller keeps the two stacks apart
            return super().next_token_log_probs(inputs, decoder_inputs, memory=memory)
        if memory is None or memory.slots is None:
            examples = [self._framed(ids) for ids in _ids(inputs)]
            batch = collate(examples, packed=False, pad_id=self._vocab.pad or 0).to(self.device)
            seen = torch.stack([batch.inputs.document_ids, batch.inputs.visible_at], 1)
            return _with(super().next_token_log_probs(batch.inputs, batch.decoder_inputs), seen)
        *_, seen = memory.layers
        documents, visible = seen.unbind(1)
        read = Slots(
            input_ids=torch.zeros_like(documents), position_ids=torch.zeros_like(documents),
            token_type_ids=torch.zeros_like(documents), visible_at=visible, sees_until=visible,
            document_ids=documents, example_ids=torch.zeros_like(documents),
        )  # fmt: skip
        written = (memory.slots.document_ids >= 0).sum(-1, keepdim=True)
        if self.room is not None and int(written.max()) >= self.room:
            raise UserError(f"this model writes at most {self.room} tokens: ask for fewer")
        new = replace(inputs, position_ids=written, visible_at=written, sees_until=written)
        past = Memory(memory.slots, _layers(memory.layers, memory.layers[:-1]))
        return _with(super().next_token_log_probs(read, new, memory=past), seen)

    def _framed(self, ids: Array) -> Example[Array]:
        example = self._objective.prompt(ids, self._vocab)
        assert example is not None
        if self.room is not None and len(example.inputs) > self.room:
            raise UserError(
                f"the prompt has {len(example.inputs)} slots, but this model reads {self.room}: shorten it"
            )
        return example


def _with(answer: NextToken, seen: Tensor) -> NextToken:
    memory = answer.memory
    assert memory is not None
    return NextToken(answer.logits, Memory(memory.slots, _layers(memory.layers, (*memory.layers, seen))))


def _layers(old: tuple[Tensor, ...], new: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """``new`` in the buffers of ``old``, where it has some, so that they go on growing."""
    return Kept(new, old.buffers) if isinstance(old, Kept) else new


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
        *,
        dtype: torch.dtype | None = None,
    ) -> None:
        frame = len(objective.ask_next(np.zeros(0, np.int64), vocab)[0])  # [CLS] [MASK] [SEP] take room too
        self.context_length = None if context_length is None else context_length - frame
        self.device = next(model.parameters()).device
        self._model = prepared(model, dtype)
        self._objective = objective
        self._vocab = vocab
        self._head = self._model.heads[head]

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
        past = follow(None if memory is None else memory.slots, inputs)
        asked = [self._objective.ask_next(ids, self._vocab) for ids in _ids(past)]
        examples = [Example(slots) for slots, _ in asked]
        batch = collate(examples, packed=False, pad_id=self._vocab.pad or 0).to(self.device)
        states = self._model.backbone(batch.inputs)[self._head.reads]
        states = states[torch.arange(len(asked)), torch.tensor([slot for _, slot in asked])]
        return NextToken(_scores(self._head.logits(states)), Memory(past, ()))


class HistoryModel:
    """Any function from the ids so far [T] to log-probabilities [V], as n-gram counts offer it.

    >>> from plume.generation.decoding import Decoding, generate
    >>> coin = HistoryModel(lambda ids: np.log([0.25, 0.75]))
    >>> generate(coin, [[0]], Decoding(max_new_tokens=8, seed=1))[0].ids
    (1, 0, 0, 0, 1, 1, 1, 1)
    """

    context_length: int | None = None
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
        past = follow(None if memory is None else memory.slots, inputs)
        rows = [torch.as_tensor(self._log_probs(ids)) for ids in _ids(past)]
        return NextToken(_scores(torch.stack(rows)), Memory(past, ()))


def language_model(
    model: PretrainedModel,
    objective: Asks,
    vocab: Vocabulary,
    *,
    context_length: int | None = None,
    dtype: torch.dtype | None = None,
) -> LanguageModel:
    """The ``LanguageModel`` of a network that was trained with ``objective``, its weights as they are now.

    ``context_length``: its ``max_positions``. ``dtype`` casts it, once; the default leaves it as it is. A
    family that does not read causally is asked anew for each token.

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
    if objective.prompt(_probe(vocab), vocab) is not None:
        return WritingNetwork(model, objective, vocab, head, context_length, dtype=dtype)
    if reads_causally(objective, vocab):
        return CausalNetwork(model, head, context_length, dtype=dtype)
    if _asks_with(objective, vocab, Slots.prefix(_probe(vocab), len(_probe(vocab)))):
        return PrefixNetwork(model, head, context_length, dtype=dtype)
    return AskingNetwork(model, objective, vocab, head, context_length, dtype=dtype)


def reads_causally(objective: Asks, vocab: Vocabulary) -> bool:
    """Whether ``objective`` asks for a next token with the text as it is, each slot seeing what stands before it.

    Only then can what was read be kept while the text grows.
    """
    return _asks_with(objective, vocab, Slots.causal(_probe(vocab)))


def _probe(vocab: Vocabulary) -> Array:
    return np.full(3, min(vocab.size - 1, 1))


def _asks_with(objective: Asks, vocab: Vocabulary, expected: Slots[Array]) -> bool:
    """Whether ``objective`` asks for what follows three tokens with these slots, and at the last of them."""
    slots, asking = objective.ask_next(_probe(vocab), vocab)
    names = (
        "input_ids",
        "position_ids",
        "token_type_ids",
        "visible_at",
        "sees_until",
        "document_ids",
    )
    same = all(np.array_equal(getattr(slots, name), getattr(expected, name)) for name in names)
    return same and asking == len(expected) - 1


def _read_by_length(backbone: Backbone, inputs: Slots[Tensor], memory: Memory | None) -> Hidden:
    # A state that is carried from slot to slot would run on through padding: so rows of one length at a time.
    lengths = (inputs.document_ids >= 0).sum(-1)
    last: dict[int, Tensor] = {}
    state: dict[int, tuple[Tensor, ...]] = {}
    for length in lengths.unique().tolist():
        rows = (lengths == length).nonzero().squeeze(1)
        past = None if memory is None else Memory(None, tuple(layer[rows] for layer in memory.layers))
        part = slotwise(lambda field: field[rows, :length], inputs)  # noqa: B023
        read = backbone(part, memory=past, use_memory=True)
        assert read.memory is not None
        for at, row in enumerate(rows.tolist()):
            last[row] = read.last[at, -1:]
            state[row] = tuple(layer[at] for layer in read.memory.layers)
    order = range(len(lengths))
    layers = tuple(torch.stack(parts) for parts in zip(*(state[r] for r in order), strict=True))
    return Hidden(torch.stack([last[r] for r in order]), memory=Memory(None, layers))


def _scores(logits: Tensor) -> Tensor:
    return logits if logits.dtype == torch.float64 else logits.float()


def _last(hidden: Tensor, slots: Slots[Tensor]) -> Tensor:
    # [R, D] of the last slot in each row that is not padding; the usual single new slot needs no search.
    if hidden.shape[1] == 1:
        return hidden[:, 0]
    real = slots.document_ids >= 0
    last = len(slots) - 1 - real.flip(-1).to(torch.int8).argmax(-1)
    return hidden[torch.arange(len(hidden), device=hidden.device), last]


def slotwise(change: Callable[[Tensor], Tensor], slots: Slots[Tensor]) -> Slots[Tensor]:
    """Slots each of whose fields is ``change``d; labels, features and layout are left out."""
    return Slots(
        input_ids=change(slots.input_ids),
        position_ids=change(slots.position_ids),
        token_type_ids=change(slots.token_type_ids),
        visible_at=change(slots.visible_at),
        sees_until=change(slots.sees_until),
        document_ids=change(slots.document_ids),
        example_ids=change(slots.example_ids),
    )


def _ids(slots: Slots[Tensor]) -> list[Array]:
    return [
        row[real].cpu().numpy() for row, real in zip(slots.input_ids, slots.document_ids >= 0, strict=True)
    ]
