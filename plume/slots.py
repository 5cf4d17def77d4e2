"""What flows through everything: slots, examples, batches, losses.

A *slot* is one place of a sequence. Who sees whom is data, two integers a slot:

    slot q sees slot k  iff  visible_at[k] <= sees_until[q]  and  document_ids[k] == document_ids[q]

and labels lie on the slots they ask about, one value a slot, named by head (DESIGN section 2).
Shapes: T slots, R rows of L slots once collated, N labelled slots.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Generic, Literal, NamedTuple, TypeVar, cast

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

IGNORE = -100  # a label where nothing is asked
NEVER = 2**30  # a slot that no slot sees

A = TypeVar("A", np.ndarray[Any, np.dtype[Any]], Tensor)
Array = np.ndarray[Any, np.dtype[Any]]
Pattern = Literal["bidirectional", "causal", "ranked"]


@dataclass(frozen=True, slots=True)
class Layout:
    """What a kernel may rely on, derived from the ranks by ``collate``; it never changes what is seen.

    ``documents`` is [N, 3]: row, first slot, length of each document, padding left out. ``pattern`` holds
    inside every one of them. ``single``: each row is one document that fills it. ``seen`` [N]: how many slots of each
    document are ever seen (XLNet's queries are not); ``None``: all.
    """

    pattern: Pattern
    documents: Array
    single: bool
    seen: Array | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Slots(Generic[A]):
    """Slots of one sequence, [T] arrays, or of a batch, [R, L] tensors.

    An id >= the vocabulary's size is virtual: a learned row (XLNet's query, a prompt). Padding has
    ``visible_at = sees_until = NEVER`` and document -1: padding sees padding, so that no row is empty.
    What a constructor fills in by itself is shared between examples and cannot be written to.
    """

    input_ids: A
    position_ids: A
    token_type_ids: A
    visible_at: A
    sees_until: A
    document_ids: A
    example_ids: A  # set by collate: which slots came from one example
    features: A | None = None  # [T, ...] where slots are not ids: ELMo's characters, image patches
    labels: Mapping[str, A] = field(default_factory=dict)  # head -> int a slot, IGNORE where nothing is asked
    given: Mapping[str, A] = field(default_factory=dict)  # name -> float a slot, 0 in padding
    layout: Layout | None = None  # set by collate; None: only the ranks are known

    def __len__(self) -> int:
        return int(self.input_ids.shape[-1])

    @staticmethod
    def bidirectional(ids: ArrayLike, **fields: Any) -> Slots[Array]:
        """Every slot sees every slot. ``fields``: any field of ``Slots`` to set, labels above all."""
        ids = np.asarray(ids, np.int64)
        ranks = _zeros(len(ids))
        return _slots(ids, ranks, ranks, fields)

    @staticmethod
    def causal(ids: ArrayLike, **fields: Any) -> Slots[Array]:
        """Every slot sees itself and what stands before it."""
        ids = np.asarray(ids, np.int64)
        ranks = _places(len(ids))
        return _slots(ids, ranks, ranks, fields)

    @staticmethod
    def prefix(ids: ArrayLike, length: int, **fields: Any) -> Slots[Array]:
        """The first ``length`` slots see one another, the others see what stands before them (spec 20)."""
        ids = np.asarray(ids, np.int64)
        ranks = np.arange(len(ids))
        ranks[:length] = 0
        return _slots(ids, ranks, ranks, fields)

    @staticmethod
    def ranked(ids: ArrayLike, ranks: ArrayLike, **fields: Any) -> Slots[Array]:
        """Every slot sees those whose rank is not above its own."""
        ranks = np.asarray(ranks, np.int64)
        return _slots(np.asarray(ids, np.int64), ranks, ranks, fields)

    @staticmethod
    def permuted(
        ids: ArrayLike, ranks: ArrayLike, targets: ArrayLike, query_id: int, **fields: Any
    ) -> Slots[Array]:
        """XLNet's two streams as one (spec 10): T content slots, then a query slot for each target position.

        ``ranks[i]`` says when position i comes in the factorisation order; positions of equal rank come together.
        A content slot sees itself and all that came no later; the query slot of a target sees only what came before,
        and is itself never seen. ``fields`` have T + len(targets) entries.
        """
        ids, ranks, targets = (np.asarray(a, np.int64) for a in (ids, ranks, targets))
        fields.setdefault("position_ids", np.concatenate([np.arange(len(ids)), targets]))
        return _slots(
            np.concatenate([ids, np.full(len(targets), query_id)]),
            np.concatenate([ranks, np.full(len(targets), NEVER)]),
            np.concatenate([ranks, ranks[targets] - 1]),
            fields,
        )

    def sees(self) -> A:
        """The visibility the ranks describe: bool [..., q, k], true where slot q sees slot k."""
        seen: Any = self.visible_at[..., None, :] <= self.sees_until[..., :, None]
        return cast(A, seen & (self.document_ids[..., None, :] == self.document_ids[..., :, None]))


def _slots(ids: Array, visible_at: Array, sees_until: Array, fields: Mapping[str, Any]) -> Slots[Array]:
    zeros = _zeros(len(ids))
    arrays: dict[str, Any] = {
        "position_ids": _places(len(ids)),
        "token_type_ids": zeros,
        "document_ids": zeros,
        "example_ids": zeros,
        **fields,
    }
    slots = Slots(input_ids=ids, visible_at=visible_at, sees_until=sees_until, **arrays)
    for name, values in (("visible_at", visible_at), ("sees_until", sees_until), *fields.items()):
        if name in _INTS and values.shape != ids.shape:
            raise ValueError(f"{name} has shape {values.shape}, but there are {len(ids)} slots")
    for named in (slots.labels, slots.given):
        for name, values in named.items():
            if len(values) != len(ids):
                raise ValueError(f"{name!r} has {len(values)} values for {len(ids)} slots")
    return slots


# What most examples have in common is made once and never written to: an array costs more to make than to read.
_PLACES, _ZEROS, _UNASKED = np.arange(4_096), np.zeros(4_096, np.int64), np.full(4_096, IGNORE)
_PLACES.flags.writeable = _ZEROS.flags.writeable = False


def _places(count: int) -> Array:
    return _PLACES[:count] if count <= len(_PLACES) else np.arange(count)


def _zeros(count: int) -> Array:
    return _ZEROS[:count] if count <= len(_ZEROS) else np.zeros(count, np.int64)


def unasked(count: int) -> Array:
    """Labels int64 [count] that ask nothing yet."""
    return _UNASKED[:count].copy() if count <= len(_UNASKED) else np.full(count, IGNORE)


_INTS = (
    "input_ids",
    "position_ids",
    "token_type_ids",
    "visible_at",
    "sees_until",
    "document_ids",
    "example_ids",
)


@dataclass(frozen=True, slots=True)
class Example(Generic[A]):
    """What one random draw of an objective gives: inputs, visibility and labels together.

    ``member``: which objective of a mixture made it.
    """

    inputs: Slots[A]
    decoder_inputs: Slots[A] | None = None
    member: int = field(default=0, kw_only=True)


class Memory(NamedTuple):
    """The past of a batch: a KV cache, XLNet's segments, an LSTM's state. Returned, never mutated.

    ``slots`` are the past slots [R, P] where attention needs their ranks (``None`` for recurrent
    backbones); ``layers`` one tensor a layer, whose first axis is the row.
    """

    slots: Slots[Tensor] | None
    layers: tuple[Tensor, ...]


class Loss(NamedTuple):
    """A sum and the number of things summed: the trainer divides once, by the global count."""

    total: Tensor
    count: Tensor  # type: ignore[assignment] # hides tuple.count, which nobody wants of a loss


class Losses(NamedTuple):
    """What an objective asked of a model: a loss for every head, and the memory to carry on with."""

    heads: dict[str, Loss]
    memory: Memory | None = None


@dataclass(frozen=True, slots=True)
class Batch:
    """Collated examples. ``asked[head]`` are the flat indices [N] of that head's labelled slots.

    ``sample_ids`` [E] are the global sample numbers of the examples, in order; ``starts`` [R] is true in
    the rows whose memory begins anew (``None``: nothing is carried).
    """

    inputs: Slots[Tensor]
    decoder_inputs: Slots[Tensor] | None
    asked: Mapping[str, Tensor]
    sample_ids: Tensor
    starts: Tensor | None = None
    memory: Memory | None = None

    def labelled(self, head: str) -> Slots[Tensor]:
        """The slots that carry ``head``'s labels: the decoder's where it has them, else the inputs."""
        if self.decoder_inputs is not None and head in self.decoder_inputs.labels:
            return self.decoder_inputs
        return self.inputs

    @property
    def num_tokens(self) -> int:
        """Slots that are not padding, both stacks, counted without touching the device."""
        stacks = (self.inputs, self.decoder_inputs)
        return sum(
            int(s.layout.documents[:, 2].sum()) for s in stacks if s is not None and s.layout is not None
        )

    def to(self, device: torch.device | str) -> Batch:
        """The same batch on ``device``."""
        decoder = None if self.decoder_inputs is None else _to(self.decoder_inputs, device)
        return replace(
            self,
            inputs=_to(self.inputs, device),
            decoder_inputs=decoder,
            asked={name: index.to(device, non_blocking=True) for name, index in self.asked.items()},
            starts=None if self.starts is None else self.starts.to(device),
        )


def _to(slots: Slots[Tensor], device: torch.device | str) -> Slots[Tensor]:
    def move(t: Tensor) -> Tensor:
        return t.to(device, non_blocking=True)

    ints: dict[str, Any] = {name: move(getattr(slots, name)) for name in _INTS}
    return replace(
        slots,
        **ints,
        features=None if slots.features is None else move(slots.features),
        labels={k: move(v) for k, v in slots.labels.items()},
        given={k: move(v) for k, v in slots.given.items()},
    )


def pack(lengths: Sequence[tuple[int, int]], capacity: tuple[int, int]) -> list[list[int]]:
    """Rows of example numbers, first fit in order, such that each stack's row stays within its capacity.

    ``lengths`` are (input slots, decoder slots) an example. Pairs are packed together, under two budgets.
    """
    rows: list[list[int]] = []
    inputs: list[int] = []  # room that is left in each row
    decoders: list[int] = []
    open_from = 0  # rows before it are full: keeps packing linear for examples of full length
    for number, (a, b) in enumerate(lengths):
        for row in range(open_from, len(rows)):
            if inputs[row] >= a and decoders[row] >= b:
                rows[row].append(number)
                inputs[row] -= a
                decoders[row] -= b
                break
        else:
            rows.append([number])
            inputs.append(capacity[0] - a)
            decoders.append(capacity[1] - b)
        while open_from < len(rows) and inputs[open_from] <= 0:
            open_from += 1
    return rows


def collate(
    examples: Sequence[Example[Array]],
    *,
    pad_id: int = 0,
    packed: bool = True,
    sample_ids: Sequence[int] | None = None,
    starts: Sequence[bool] | None = None,
) -> Batch:
    """A batch of examples as rows [R, L]: L is the longest example's length, each stack's its own.

    ``packed`` puts several short examples into one row by offsetting ``document_ids``; otherwise a row is
    an example, as recurrent backbones and carried memory need it.

    Raises:
        ValueError: no examples, or only some of them have decoder inputs.
    """
    if not examples:
        raise ValueError("a batch needs at least one example")
    decoders = [e.decoder_inputs for e in examples if e.decoder_inputs is not None]
    if decoders and len(decoders) != len(examples):
        raise ValueError("either all examples of a batch have decoder inputs or none has")
    lengths = [
        (len(e.inputs.input_ids), 0 if e.decoder_inputs is None else len(e.decoder_inputs.input_ids))
        for e in examples
    ]
    capacity = (max(a for a, _ in lengths), max(b for _, b in lengths))
    rows = pack(lengths, capacity) if packed else [[i] for i in range(len(examples))]
    inputs = _stack([e.inputs for e in examples], rows, pad_id)
    decoder_inputs = _stack(decoders, rows, pad_id) if decoders else None
    asked: dict[str, Tensor] = {}
    for slots in (inputs, decoder_inputs):
        for head, labels in () if slots is None else slots.labels.items():
            if head in asked:
                raise ValueError(f"head {head!r} is asked in both stacks: name the two heads differently")
            asked[head] = torch.from_numpy(np.flatnonzero(labels.numpy() != IGNORE))
    return Batch(
        inputs=inputs,
        decoder_inputs=decoder_inputs,
        asked=asked,
        sample_ids=torch.from_numpy(np.array(range(len(examples)) if sample_ids is None else sample_ids)),
        starts=None if starts is None else torch.as_tensor(starts),
    )


def _stack(parts: Sequence[Slots[Array]], rows: Sequence[Sequence[int]], pad_id: int) -> Slots[Tensor]:
    """Each field is put together end to end and then laid into all rows at once: a call a field, not one an example."""
    numbers = [i for row in rows for i in row]
    parts = [parts[i] for i in numbers]
    sizes = np.array([len(part.input_ids) for part in parts])
    each = np.array([len(row) for row in rows])  # examples a row
    begins = each.cumsum() - each
    used = np.add.reduceat(sizes, begins)
    shape = (len(rows), int(used.max()))
    taken = np.arange(shape[1]) < used[:, None]
    full = int(used.min()) == shape[1]

    def lay(flat: Array, fill: int = 0) -> Tensor:
        if full:
            return torch.from_numpy(flat.reshape(shape + flat.shape[1:]))
        array = np.empty(shape + flat.shape[1:], flat.dtype)
        array.fill(fill)
        array[taken] = flat
        return torch.from_numpy(array)

    def joined(values: Sequence[Array], dtype: Any = np.int64) -> Array:
        return np.concatenate(values, dtype=dtype, casting="unsafe")

    ints = {name: joined([getattr(part, name) for part in parts]) for name in _INTS if name != "example_ids"}
    ints["example_ids"] = np.repeat(np.array(numbers), sizes)
    documents = ints["document_ids"]
    counts = np.maximum.reduceat(documents, sizes.cumsum() - sizes) + 1  # documents an example
    before = counts.cumsum() - counts
    documents += np.repeat(before - np.repeat(before[begins], each), sizes)
    fill = {
        "input_ids": pad_id,
        "visible_at": NEVER,
        "sees_until": NEVER,
        "document_ids": -1,
        "example_ids": -1,
    }
    labels: dict[str, Tensor] = {}
    for head in sorted({head for part in parts for head in part.labels}):
        values = [p.labels[head] if head in p.labels else unasked(len(p)) for p in parts]
        labels[head] = lay(joined(values), IGNORE)
    given: dict[str, Tensor] = {}
    for name in sorted({name for part in parts for name in part.given}):
        values = [p.given[name] if name in p.given else np.zeros(len(p)) for p in parts]
        given[name] = lay(joined(values, np.float32))
    first = next((p.features for p in parts if p.features is not None), None)
    features = None
    if first is not None:
        empty = first[:1] * 0
        values = [empty.repeat(len(p), 0) if p.features is None else p.features for p in parts]
        features = lay(joined(values, first.dtype))
    return Slots(
        **{name: lay(flat, fill.get(name, 0)) for name, flat in ints.items()},
        features=features,
        labels=labels,
        given=given,
        layout=_layout(ints["visible_at"], ints["sees_until"], documents, used, shape[1]),
    )


def _layout(visible_at: Array, sees_until: Array, documents: Array, used: Array, width: int) -> Layout:
    """The ``Layout`` of rows of ``used`` [R] slots each, given end to end without their padding [N].

    Documents lie in one piece each.
    """
    ends = used.cumsum()
    new = np.empty(len(documents), bool)
    np.not_equal(documents[1:], documents[:-1], out=new[1:])
    new[ends - used] = True
    first = new.nonzero()[0]
    row = ends.searchsorted(first, side="right")
    rows = np.empty((len(first), 3), np.int64)
    rows[:, 0], rows[:, 1] = row, first - (ends - used)[row]
    rows[:-1, 2] = first[1:] - first[:-1]
    rows[-1, 2] = len(documents) - first[-1]
    pattern: Pattern = "ranked"
    last = visible_at.max()
    if last <= sees_until.min():
        pattern = "bidirectional"
    elif (visible_at == sees_until).all() and (new[1:] | (visible_at[1:] > visible_at[:-1])).all():
        pattern = "causal"
    single = len(first) == len(used) and int(used.min()) == width
    seen = None
    if last == NEVER:
        seen = rows[:, 2] - np.add.reduceat(visible_at == NEVER, first, dtype=np.int64)
    return Layout(pattern, rows, single, seen)
