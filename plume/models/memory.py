"""The keys and values of the past, grown without copying all of it at every step.

A ``Memory`` is never changed: what its holder sees stays as it was. Memories that grew from one another may
lie in the same buffers all the same, each a view of as many slots as were there when it was made. The newest
one appends behind itself; whoever appends to an older one gets buffers of its own.

R rows, H heads, P slots of the past, L new ones, d = d_head.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from threading import Lock
from typing import Self

import torch
from torch import Tensor

from plume.slots import Memory, Slots

GROWTH = 64  # slots of room beyond half as many again


class Buffers:
    """Room for ``capacity`` slots in each layer, of which the first ``used`` belong to some memory."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.used = 0
        self.layers: list[Tensor] = []
        self._lock = Lock()

    def claim(self, first: int, after: int) -> bool:
        """Take slots [first, after) for one caller; false if another has them or there is no room."""
        with self._lock:
            if self.used != first or after > self.capacity:
                return False
            self.used = after
            return True


class Kept(tuple[Tensor, ...]):
    """A memory's layers, each [R, H, 2, P, d]: keys, then values; and the buffers they are views of."""

    buffers: Buffers

    def __new__(cls, layers: Iterable[Tensor], buffers: Buffers) -> Self:
        kept = super().__new__(cls, layers)
        kept.buffers = buffers
        return kept


class Growing:
    """One forward pass that reads a memory and writes the next."""

    def __init__(self, past: tuple[Tensor, ...], held: int, new: int) -> None:
        self._past, self._held, self._total = past, held, held + new
        self._layers: list[Tensor] = []
        ours = isinstance(past, Kept) and past[0].is_inference() == torch.is_inference_mode_enabled()
        if isinstance(past, Kept) and ours and past.buffers.claim(held, self._total):
            self._buffers, self._fresh = past.buffers, False
        else:
            self._buffers, self._fresh = Buffers(self._total + self._total // 2 + GROWTH), True
            self._buffers.used = self._total

    def extend(self, layer: int, new: Tensor) -> Tensor:
        """What ``layer`` held, followed by ``new`` [R, H, 2, L, d]: [R, H, 2, P + L, d]."""
        if torch.is_grad_enabled() and new.requires_grad:
            whole = torch.cat([self._past[layer], new], 3) if self._past else new
        else:
            if self._fresh:
                rows, heads, two, _, d = new.shape
                self._buffers.layers.append(new.new_empty(rows, heads, two, self._buffers.capacity, d))
                if self._past:
                    self._buffers.layers[layer][:, :, :, : self._held] = self._past[layer]
            self._buffers.layers[layer][:, :, :, self._held : self._total] = new
            whole = self._buffers.layers[layer][:, :, :, : self._total]
        self._layers.append(whole)
        return whole

    def memory(self, slots: Slots[Tensor], more: tuple[Tensor, ...] = ()) -> Memory:
        """The next memory, over ``slots``; ``more`` are layers that do not grow."""
        if len(self._buffers.layers) < len(self._layers):  # gradients: plain tensors
            return Memory(slots, (*self._layers, *more))
        return Memory(slots, Kept((*self._layers, *more), self._buffers))


FIELDS = (  # what a memory keeps of a slot
    "input_ids",
    "position_ids",
    "token_type_ids",
    "visible_at",
    "sees_until",
    "document_ids",
    "example_ids",
)


def follow(past: Slots[Tensor] | None, new: Slots[Tensor]) -> Slots[Tensor]:
    """``past``'s slots and then ``new``'s, in every row: their ids and ranks, without labels."""
    both = {
        n: getattr(new, n) if past is None else torch.cat([getattr(past, n), getattr(new, n)], 1)
        for n in FIELDS
    }
    return replace(new, features=None, labels={}, given={}, layout=None, **both)
