"""What every objective is: one random draw that decides inputs, visibility and labels together.

An objective is a frozen dataclass whose fields are the paper's hyper-parameters, so the configuration *is*
the object. A new one is a subclass with ``example`` and ``heads``; everything else has a default that fits
most (DESIGN section 2).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Literal, TypeVar, cast

import numpy as np
import torch
from torch import Tensor

from plume.models.heads import Asked, Head
from plume.slots import Batch, Example, Loss, Losses, Memory, Slots
from plume.vocabulary import Vocabulary

if TYPE_CHECKING:
    from plume.models.backbone import Backbone, Hidden
    from plume.models.pretrained import PretrainedModel
    from plume.slots import Array

Source = TypeVar("Source")


class Objective(ABC, Generic[Source]):
    """Noise, visibility, labels, heads and losses of one paradigm. ``Source``: what ``example`` is made of.

    ``label_activation`` is that of the dense layer with which the family is asked for a text's label.
    """

    label_activation: ClassVar[Literal["tanh", "gelu"]] = "tanh"

    @property
    def likelihoods(self) -> bool:
        """Whether every loss is the negative log-likelihood of its labels, so that guessing them compares with it."""
        return True

    @property
    def goes_on(self) -> bool:
        """Whether what it writes goes on from all it is given; else it answers that (a translation), line by line."""
        return True

    def window_length(self, length: int) -> int:
        """Tokens to read so that an example fills ``length`` slots."""
        return length

    @abstractmethod
    def example(self, source: Source, vocab: Vocabulary, rng: np.random.Generator) -> Example[Array] | None:
        """One draw. ``None``: the source is too short to ask anything of; the loader drops and counts it."""

    @abstractmethod
    def heads(self, backbone: Backbone, vocab: Vocabulary) -> dict[str, Head]:
        """A new head for every name that ``example`` labels."""

    def weights(self) -> Mapping[str, float]:
        """What each head's mean loss counts in the sum; heads that are not named count 1."""
        return {}

    def counts(self, batch: Batch, heads: Mapping[str, Head]) -> dict[str, Tensor]:
        """What each loss will be divided by, known before any forward pass. A law: equals ``losses().count``."""
        counts = {}
        for name, head in heads.items():
            slots = batch.labelled(name)
            if name not in batch.asked:
                counts[name] = torch.zeros(())
                continue
            index = batch.asked[name]
            flat = {key: values.flatten()[index] for key, values in slots.given.items()}
            documents, examples = _owners(slots, index)
            counts[name] = head.count(slots.labels[name].flatten()[index], documents, examples, flat)
        return counts

    def losses(self, model: PretrainedModel, batch: Batch) -> Losses:
        """Every head's loss on the slots that have its label; a head that was asked nothing answers 0."""
        heads: Mapping[str, Head] = model.heads
        hidden = model.backbone(
            batch.inputs, batch.decoder_inputs, memory=batch.memory, wanted=wanted(batch, heads)
        )
        return Losses({name: head.loss(ask(batch, name, hidden[head.reads])) for name, head in heads.items()},
                      self.remember(batch, hidden))  # fmt: skip

    def remember(self, batch: Batch, hidden: Hidden) -> Memory | None:
        """What rows that carry memory take along to their next window. The default is what the backbone says."""
        return hidden.memory

    def parts(self, model: PretrainedModel) -> Mapping[str, PretrainedModel]:
        """The networks that a trained model falls into, by name, the one to keep first; they share its weights.

        The default is one network, without a name.
        """
        return {"": model}

    @abstractmethod
    def restore(self, example: Example[Array]) -> Array:
        """The ids of the source, from inputs and labels alone: the law that nothing was lost or made up."""

    def read(self, segments: Sequence[Array], vocab: Vocabulary) -> tuple[Slots[Array], int]:
        """A finished text of one or two segments as this family reads it, and the slot that sums it up.

        Fine-tuning, embeddings and ``plume.load`` use it. The default is that of every causal family: the
        text as it is, each segment closed by the end token, summed up where all of it has been seen.
        """
        ids = np.concatenate([np.append(s, vocab.require("eos")) for s in segments])
        return Slots.causal(ids), len(ids) - 1

    def also(self, read: Slots[Array]) -> dict[str, Array]:
        """What pretraining asks of a text that is read as it is: labels [T] by head, for an auxiliary loss beside a
        task's own (spec 13 section 4). The default: nothing, for what must be hidden first cannot be asked.
        """
        return {}

    def read_decoder(self, inputs: Slots[Array], vocab: Vocabulary) -> Slots[Array] | None:
        """What a second stack reads beside a finished text as ``read`` gave it; its slots are then those that answer.

        ``None``, the default: the family has one stack.
        """
        return None

    def ask_next(self, ids: Array, vocab: Vocabulary) -> tuple[Slots[Array], int]:
        """How this family is asked for the token after ``ids``: the inputs and the slot that answers.

        The default is that of every causal family: the last slot already asks.
        """
        return Slots.causal(ids), len(ids) - 1

    def prompt(self, ids: Array, vocab: Vocabulary) -> Example[Array] | None:
        """How a family of two stacks is given a text to answer or to go on with.

        The first stack's slots, and those that the second begins with: what it writes follows them, each token
        seeing those before, and the last slot asks for the next. ``None``: one stack, which ``ask_next`` asks.
        """
        return None

    def ask_hidden(self, ids: Array, vocab: Vocabulary) -> tuple[Slots[Array], Array]:
        """How this family is asked for the [MASK]s among ``ids``: the inputs, and the slot that answers for each.

        The default is that of every family whose [MASK] itself answers.
        """
        framed, _ = self.read([ids], vocab)
        return framed, np.flatnonzero(framed.input_ids == vocab.require("mask"))

    def ask_each(self, ids: Array, vocab: Vocabulary) -> tuple[Slots[Array], Array]:
        """How this family is asked about every one of ``ids`` (a tagger): the inputs, and the slot of each.

        The default is that of every family which reads a text as one piece: its tokens answer where they stand.
        """
        framed, _ = self.read([ids], vocab)
        return framed, np.arange(len(ids)) + place(framed.input_ids, ids)


def place(framed: Array, ids: Array) -> int:
    """Where ``ids`` begin among the ids of a text as it is read.

    Raises:
        ValueError: they do not stand there together.
    """
    for at in range(len(framed) - len(ids) + 1):
        if np.array_equal(framed[at : at + len(ids)], ids):
            return at
    raise ValueError("the objective's read() does not keep a text's tokens together")


class InPlace(Objective[Source]):
    """An objective that can also update a model in place, word after word, without batches or gradients.

    It needs a network so small that a step of plain SGD costs less than handing it over (Word2Vec).
    """

    @abstractmethod
    def tables(self, vocab: Vocabulary) -> Any:
        """What ``walk`` wants to know of the vocabulary, made once."""

    @abstractmethod
    def walk(
        self,
        model: PretrainedModel,
        ids: Array,
        ends: Array,
        vocab: Vocabulary,
        *,
        rate: float,
        seeds: Sequence[int],
        tables: Any,
    ) -> Loss:
        """Read windows ``ids[ends[w]:ends[w + 1]]`` and update the model's parameters, on the CPU, with learning rate
        ``rate``. One thread for each of ``seeds``; with one, equal arguments give equal bits.
        """


def wanted(batch: Batch, heads: Mapping[str, Head]) -> Tensor | None:
    """The slots whose last states some head reads, flat indices without repeats: the others need no last layer.

    ``None``: all of them, or a head reads every layer.
    """
    last = [name for name, head in heads.items() if head.reads == "last"]
    if not last or any(head.reads == "layers" for head in heads.values()):
        return None
    asked = [batch.asked[name] for name in last if name in batch.asked]
    if len(asked) < 2:
        return asked[0] if asked else None
    return cast(Tensor, torch.cat(asked).unique())


def ask(batch: Batch, name: str, hidden: Tensor) -> Asked:
    """Gather what head ``name`` needs from hidden [R, L, D]: [N, D] and the labels [N] beside it."""
    slots = batch.labelled(name)
    flat = hidden.flatten(0, 1)
    if name not in batch.asked:  # no example of this batch has the label
        empty = torch.zeros(0, dtype=torch.long, device=hidden.device)
        return Asked(flat[:0], empty, empty, empty, {})
    index = batch.asked[name]
    # Every slot asked (a causal window): the gather would copy the whole tensor and scatter its gradient.
    rows = flat if len(index) == len(flat) else flat.index_select(0, index)
    documents, examples = _owners(slots, index)
    given = {key: values.flatten()[index] for key, values in slots.given.items()}
    return Asked(rows, slots.labels[name].flatten()[index], documents, examples, given)


def _owners(slots: Slots[Tensor], index: Tensor) -> tuple[Tensor, Tensor]:
    # document_ids restart in every row; a row's length is more than its documents, so this keeps them apart.
    length = len(slots)
    documents = slots.document_ids.flatten()[index] + index // length * length
    return documents, slots.example_ids.flatten()[index]
