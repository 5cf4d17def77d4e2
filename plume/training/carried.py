"""Memory that rows carry from step to step (spec 03 section 1.2): one a micro-batch, detached, checkpointed.

Memory is never changed in place: each function gives a new one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace

import torch
from torch import Tensor

from plume.slots import NEVER, Memory, Slots

# What a slot of the past looks like to a row that begins anew: no slot sees it, and it sees none.
_FORGOTTEN = {"visible_at": NEVER, "sees_until": NEVER, "document_ids": -1, "example_ids": -1}


def detach(memory: Memory) -> Memory:
    """Cut the gradient: backpropagation ends where the window began."""
    return Memory(memory.slots, tuple(layer.detach() for layer in memory.layers))


def reset(memory: Memory | None, starts: Tensor | None) -> Memory | None:
    """Begin anew in the rows [R] where ``starts``."""
    if memory is None or starts is None or not bool(starts.any()):
        return memory
    if bool(starts.all()):
        return None
    layers = tuple(t.masked_fill(starts.view(-1, *(1,) * (t.ndim - 1)), 0) for t in memory.layers)
    slots = memory.slots
    if slots is not None:
        rows = starts.view(-1, 1)
        slots = replace(slots, **{n: getattr(slots, n).masked_fill(rows, v) for n, v in _FORGOTTEN.items()})
    return Memory(slots, layers)


def to_tensors(memories: Mapping[int, Memory]) -> dict[str, Tensor]:
    """Every tensor by name: "3.layers.0" is the first layer of micro-batch 3, "3.slots.input_ids" its past's ids."""
    named: dict[str, Tensor] = {}
    for index, memory in memories.items():
        for number, layer in enumerate(memory.layers):
            named[f"{index}.layers.{number}"] = layer
        if memory.slots is not None:
            for field in fields(memory.slots):
                if isinstance(value := getattr(memory.slots, field.name), Tensor):
                    named[f"{index}.slots.{field.name}"] = value
    return named


def from_tensors(named: Mapping[str, Tensor], device: torch.device) -> dict[int, Memory]:
    """What ``to_tensors`` named."""
    parts: dict[int, tuple[dict[str, Tensor], dict[int, Tensor]]] = {}
    for name, tensor in named.items():
        index, kind, key = name.split(".", 2)
        slots, layers = parts.setdefault(int(index), ({}, {}))
        if kind == "slots":
            slots[key] = tensor.to(device)
        else:
            # A copy: what a file is mapped to lies anywhere, and a matmul's last digits depend on where.
            layers[int(key)] = tensor.to(device, copy=True)
    return {
        index: Memory(
            Slots(**slots) if slots else None,  # type: ignore[arg-type]
            tuple(layers[k] for k in sorted(layers)),
        )
        for index, (slots, layers) in parts.items()
    }
