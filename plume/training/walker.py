"""The loop for objectives that update a model in place, word after word (``training.updates="word"``).

A step reads ``batch_size`` windows in the order of the text, with one learning rate; everything around it, from the
run folder to resuming, is the trainer's.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from plume.errors import UserError
from plume.objectives.base import InPlace, Objective
from plume.seeding import key
from plume.text.cutting import Stretches
from plume.training.faults import fault
from plume.training.loader import Work
from plume.training.schedules import learning_rate
from plume.training.trainer import Trainer


class Walker(Trainer):
    """Trains where a step is a walk over text. Threads work on parts of the step's text side by side."""

    def __post_init__(self) -> None:
        if self.setting.ranks.size > 1:
            raise UserError(
                "training.updates=word uses all threads of one process: start it without torchrun"
            )
        super().__post_init__()
        self._tables = {id(phase): _in_place(phase.objective).tables(self.vocab) for phase in self.phases}

    def _work(self) -> Iterator[Work]:
        for step in range(self.progress.step, self.training.steps):
            yield Work(step, self.loader.phase(step), 1, [])

    def _update(self, work: Work) -> bool:
        if self.signals.received:
            return False
        fault("load")
        ids, ends = self._read(work)
        threads = 1 if self.training.reduction == "canonical" else torch.get_num_threads()
        seeds = [key(self.training.noise_seed, "walk", work.step, thread) for thread in range(threads)]
        rate = learning_rate(self.training, work.step)
        found = _in_place(work.phase.objective).walk(
            self.model, ids, ends, self.vocab, rate=rate, seeds=seeds, tables=self._tables[id(work.phase)]
        )
        fault("step")
        loss = float(found.total) / max(1.0, float(found.count))
        if not math.isfinite(loss):
            raise UserError(
                f"the loss of step {work.step + 1} is not finite: lower training.lr, and go on from the last checkpoint"
            )
        self.progress.step += 1
        self.progress.tokens += len(ids)
        self._write("train", {"loss": loss, "losses": dict.fromkeys(self.model.heads, loss), "lr": rate})
        self.line.show(self.progress.step, self.progress.tokens, self.progress.flops, loss)
        return True

    def _read(self, work: Work) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        """The ids of the step's windows end to end, and where each begins."""
        phase, numbers = work.phase, work.sample_ids
        parts, cuts, at, size = [], [np.zeros(1, np.int64)], numbers.start, 0
        while at < numbers.stop:
            epoch, index = phase.epochs.locate(at - phase.base)
            plan = phase.epochs.plan(epoch)
            if not isinstance(plan, Stretches):
                raise UserError(
                    "training.updates=word reads the text in its order: set windows=Sentences windows.shuffled=false"
                )
            count = min(numbers.stop - at, len(plan) - index)
            ids, ends = plan.read(index, index + count)
            parts.append(ids)
            cuts.append(ends[1:] + size)
            at, size = at + count, size + len(ids)
        return np.concatenate(parts), np.concatenate(cuts)


def _in_place(objective: Objective[Any]) -> InPlace[Any]:
    if not isinstance(objective, InPlace):
        raise UserError("this objective cannot update word by word: set training.updates=batch")
    return objective
