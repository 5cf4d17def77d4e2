"""The global sequence of samples, cut into steps, micro-batches and ranks (reliability section 11, rule 2).

Sample number s lies at (epoch, index) of its plan's own order; a step's batch is the next ``batch_size``
samples. Where the loader stands is a function of the step and of nothing else: ranks only slice the global
batch, and what was prefetched but not used was never counted.
"""

from __future__ import annotations

import queue
import threading
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

import torch
from torch import Tensor

from plume.errors import UserError
from plume.models.heads import Head
from plume.objectives.base import Objective
from plume.seeding import rng
from plume.slots import Batch, collate
from plume.training.background import beside
from plume.training.faults import fault
from plume.training.parallel import Ranks
from plume.vocabulary import Vocabulary

T = TypeVar("T")
Source = TypeVar("Source", covariant=True)


class Plan(Protocol[Source]):
    """The sources of one epoch in the order in which they are read (see ``plume.text.windows.Plan``)."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int) -> Source: ...
    def order(self, index: int) -> int: ...
    def starts(self, index: int) -> bool: ...


class Epochs(Generic[T]):
    """Sample number -> (epoch, index), where epochs may differ in length. Keeps the last two plans."""

    def __init__(self, plan_of: Callable[[int], Plan[T]]) -> None:
        self._plan_of = plan_of
        self._plans: dict[int, Plan[T]] = {}
        self._ends: list[int] = []  # where each epoch that was looked at ends

    def plan(self, epoch: int) -> Plan[T]:
        """The plan of an epoch."""
        if epoch not in self._plans:
            self._plans = {e: p for e, p in self._plans.items() if e == epoch - 1}
            self._plans[epoch] = self._plan_of(epoch)
        return self._plans[epoch]

    def locate(self, sample: int) -> tuple[int, int]:
        """Where sample ``sample`` lies.

        Raises:
            UserError: an epoch is empty.
        """
        while not self._ends or self._ends[-1] <= sample:
            size = len(self.plan(len(self._ends)))
            if not size:
                raise UserError(
                    "this text gives no example at all: bring more text or shorten windows.length"
                )
            self._ends.append(size + (self._ends[-1] if self._ends else 0))
        epoch = bisect_right(self._ends, sample)
        return epoch, sample - (self._ends[epoch - 1] if epoch else 0)


@dataclass(frozen=True)
class Phase(Generic[T]):
    """A stretch of steps with one objective, one way of cutting and one batch size.

    Its sequence of samples begins where sample number ``base`` stands; at ``first_step`` the run has used
    ``first_sample`` samples. ``stream`` and ``seeds`` key the noise; ``static`` draws it once and for all,
    or ``dupe_factor`` times.
    ``samples`` ends the sequence (held-out text is read once). Where several sets of examples are mixed,
    ``shares`` says how often each has its turn, and on held-out text ``parts`` has each of them alone.
    """

    objective: Objective[T]
    epochs: Epochs[T]
    batch_size: int
    seeds: tuple[int, ...]
    first_step: int = 0
    first_sample: int = 0
    base: int = 0
    carries: bool = False
    static: bool = False
    dupe_factor: int = 1
    stream: str = "noise"
    samples: int | None = None
    shares: Mapping[str, float] = field(default_factory=dict)
    parts: Mapping[str, Phase[T]] = field(default_factory=dict)

    def numbers(self, step: int) -> range:
        """The global sample numbers of a step's batch."""
        start = self.first_sample + (step - self.first_step) * self.batch_size
        stop = start + self.batch_size
        return range(start, stop if self.samples is None else min(stop, self.base + self.samples))


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """``index`` in the global batch. ``batch`` is None where every one of its examples was ``dropped``."""

    index: int
    batch: Batch | None
    counts: Mapping[str, float]
    dropped: int


@dataclass(frozen=True, slots=True)
class Work:
    """What a rank does in one step: its micro-batches of the M = ``number`` that make up the global batch."""

    step: int
    phase: Phase[Any]
    number: int
    microbatches: Sequence[MicroBatch]

    @property
    def sample_ids(self) -> range:
        """The global sample numbers of the whole batch, on all ranks."""
        return self.phase.numbers(self.step)


@dataclass(frozen=True)
class Loader:
    """Steps of work for one rank. ``packed``: several short examples may share a row."""

    phases: Sequence[Phase[Any]]
    vocab: Vocabulary
    heads: Mapping[str, Head]
    microbatch_size: int
    packed: bool
    device: torch.device
    ranks: Ranks
    depth: int = 2

    def phase(self, step: int) -> Phase[Any]:
        """The phase that a step belongs to."""
        return next(p for p in reversed(self.phases) if p.first_step <= step)

    def from_step(self, start: int, stop: int) -> Iterator[Work]:
        """The work of steps ``start`` to ``stop``, prepared ahead by a thread of its own."""
        ready: queue.Queue[Work | BaseException] = queue.Queue(self.depth)
        over = threading.Event()

        def prepare() -> None:
            try:
                for step in range(start, stop):
                    _put(ready, self.work(step), over)
                    if over.is_set():
                        return
            except BaseException as error:
                _put(ready, error, over)

        thread = beside(prepare, "loader", daemon=True)
        try:
            for _ in range(start, stop):
                item = ready.get()
                if isinstance(item, BaseException):
                    raise item
                yield item
        finally:
            over.set()
            thread.join()

    def work(self, step: int) -> Work:
        """This rank's micro-batches of one step, on the device."""
        fault("load")
        phase = self.phase(step)
        numbers = phase.numbers(step)
        size = self.microbatch_size
        number = -(-len(numbers) // size)
        microbatches = []
        for index in self.ranks.slice(number):
            mine = numbers[index * size : (index + 1) * size]
            batch = self.collate(phase, mine)
            dropped = len(mine) - (0 if batch is None else len(batch.sample_ids))
            counts: Mapping[str, Tensor] = {}
            if batch is not None:
                counts = phase.objective.counts(batch, self.heads)
                batch = batch if self.device.type == "cpu" else batch.to(self.device)
            microbatches.append(MicroBatch(index, batch, {n: float(c) for n, c in counts.items()}, dropped))
        return Work(step, phase, number, microbatches)

    def collate(self, phase: Phase[Any], numbers: Sequence[int]) -> Batch | None:
        """The examples of some sample numbers as one batch on the CPU; None if every one was dropped."""
        examples, kept, starts = [], [], []
        for number in numbers:
            epoch, index = phase.epochs.locate(number - phase.base)
            plan = phase.epochs.plan(epoch)
            # The noise is keyed by the window, not by its place in the epoch's order: a frozen epoch number
            # is then all that static masking is.
            drawn = (epoch % phase.dupe_factor if phase.static else epoch, plan.order(index))
            source = plan[index]
            example = phase.objective.example(
                source, self.vocab, rng(phase.seeds[0], phase.stream, *phase.seeds[1:], *drawn)
            )
            if example is not None:
                examples.append(example)
                kept.append(number)
                starts.append(plan.starts(index))
            elif phase.carries:
                raise UserError(
                    f"window {index} of epoch {epoch} is too short to carry memory through: use longer windows"
                )
        if not examples:
            return None
        return collate(
            examples,
            pad_id=self.vocab.pad or 0,
            packed=self.packed and not phase.carries,
            sample_ids=kept,
            starts=starts if phase.carries else None,
        )


def _put(ready: queue.Queue[Work | BaseException], item: Work | BaseException, over: threading.Event) -> None:
    while not over.is_set():
        try:
            ready.put(item, timeout=0.1)
            return
        except queue.Full:
            continue
