"""The loss on held-out text while training: the same windows and the same masks at every look."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from plume.models.pretrained import PretrainedModel
from plume.seeding import key
from plume.slots import Memory
from plume.training import carried
from plume.training.faults import fault
from plume.training.loader import Loader, Phase

Precision = Callable[[], contextlib.AbstractContextManager[Any]]


@torch.no_grad()
def held_out_loss(
    model: PretrainedModel,
    phase: Phase[Any],
    loader: Loader,
    *,
    seed: int,
    precision: Precision,
    leave: Callable[[], bool],
) -> dict[str, Any] | None:
    """ "loss" (weighted, nats), "losses" (each head's mean) and "held_out_tokens" of a phase that ends; each
    divided once, by the count over all of it. None: ``leave`` said so.

    A phase of several parts has "tasks" too, the loss of each. The whole is then what training would see of them: each
    part's mean example counts by its share.
    """
    weights, names = phase.objective.weights(), list(model.heads)

    def row(sums: Tensor) -> dict[str, Any]:
        *values, tokens = sums.tolist()
        lost, counts = values[: len(names)], values[len(names) :]
        # A mean example may be asked less than once.
        means = {
            n: total / count if count else 0.0 for n, total, count in zip(names, lost, counts, strict=True)
        }
        loss = sum(weights.get(n, 1.0) * mean for n, mean in means.items())
        return {"loss": loss, "losses": means, "held_out_tokens": round(tokens)}

    whole, tasks = torch.zeros(2 * len(names) + 1, dtype=torch.float64), {}
    for name, part in (phase.parts or {"": phase}).items():
        found = _sums(
            model, part, replace(loader, phases=[part]), seed=seed, precision=precision, leave=leave
        )
        if found is None:
            return None
        tasks[name] = row(found)
        whole += found * (phase.shares[name] / (part.samples or 1)) if phase.parts else found
    if not phase.parts:
        return row(whole)
    tokens = sum(found["held_out_tokens"] for found in tasks.values())
    each = {name: found["loss"] for name, found in tasks.items()}
    return {**row(whole), "held_out_tokens": tokens, "tasks": each}


def _sums(
    model: PretrainedModel,
    phase: Phase[Any],
    loader: Loader,
    *,
    seed: int,
    precision: Precision,
    leave: Callable[[], bool],
) -> Tensor | None:
    """Of all of a phase: each head's summed loss, what each is to be divided by, and the tokens, [2 H + 1]."""
    names = list(model.heads)
    batches = -(-(phase.samples or 0) // phase.batch_size)
    sums = torch.zeros(2 * len(names) + 1, dtype=torch.float64)
    memories: dict[int, Memory] = {}
    for work in loader.from_step(0, batches):
        fault("evaluate")
        if leave():
            return None
        rows = torch.zeros(len(work.microbatches), len(sums), dtype=torch.float64)
        for row, m in zip(rows, work.microbatches, strict=True):
            if m.batch is None:
                continue
            torch.manual_seed(key(seed, "held-out", work.step, m.index))
            batch = m.batch
            if phase.carries:
                batch = replace(batch, memory=carried.reset(memories.get(m.index), batch.starts))
            with precision():
                losses = phase.objective.losses(model, batch)
            if phase.carries and losses.memory is not None:
                memories[m.index] = losses.memory
            row[: len(names)] = torch.stack([losses.heads[n].total for n in names]).double().cpu()
            row[len(names) : -1] = torch.tensor([m.counts[n] for n in names], dtype=torch.float64)
            row[-1] = batch.num_tokens
        sums += loader.ranks.table(rows, work.number).sum(0)
    return sums
