"""The loss on held-out text while training: the same windows and the same masks at every look."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from plume.models.pretrained import PretrainedModel
from plume.seeding import key
from plume.slots import Memory
from plume.training import carried
from plume.training.faults import fault
from plume.training.loader import Loader, Phase


@torch.no_grad()
def held_out_loss(
    model: PretrainedModel,
    phase: Phase[Any],
    loader: Loader,
    *,
    seed: int,
    precision: Callable[[], contextlib.AbstractContextManager[Any]],
    leave: Callable[[], bool],
) -> dict[str, Any] | None:
    """ "loss" (weighted, nats), "losses" (each head's mean) and "held_out_tokens" of a phase that ends; each
    divided once, by the count over all of it. None: ``leave`` said so.
    """
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
    *values, tokens = sums.tolist()
    lost, counts = values[: len(names)], values[len(names) :]
    means = {n: total / max(count, 1.0) for n, total, count in zip(names, lost, counts, strict=True)}
    weights = phase.objective.weights()
    loss = sum(weights.get(n, 1.0) * mean for n, mean in means.items())
    return {"loss": loss, "losses": means, "held_out_tokens": round(tokens)}
