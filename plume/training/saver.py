"""Checkpoints written by a thread from a snapshot, so that training goes on meanwhile (reliability A5)."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Collection, Mapping
from typing import Any

import torch
from torch import Tensor

from plume.errors import UserError
from plume.training.background import beside
from plume.training.checkpoints import Checkpoints


class Saver:
    """At most one checkpoint in flight. What is written is what was there when ``save`` was called."""

    def __init__(self, checkpoints: Checkpoints, say: Callable[[str], None]) -> None:
        self._checkpoints = checkpoints
        self._say = say
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None
        self._buffers: dict[tuple[str, str], Tensor] = {}
        self.begun = -1  # the step of the last checkpoint that was handed in
        self.saved = -1  # the step of the last one that is durable
        self.failure: str | None = None  # why the last one is not

    def prepare(self, parts: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Have the memory for snapshots ready before the first one: a thread touches it while training begins."""

        def touch() -> None:
            for part, tensors in parts.items():
                for name, tensor in tensors.items():
                    self._buffer(part, name, tensor).zero_()

        self._thread = beside(touch, "checkpoint")

    def save(
        self,
        step: int,
        parts: Mapping[str, Mapping[str, Tensor]],
        state: Mapping[str, Any],
        protected: Collection[int] = (),
    ) -> None:
        """Take a snapshot and begin to write it; waits first for the one in flight."""
        self.wait()
        frozen = json.loads(json.dumps(state))
        kept = frozenset(protected)
        self.begun = step
        copies = {part: self._snapshot(part, tensors) for part, tensors in parts.items()}
        copied = None
        if any(t.is_cuda for tensors in parts.values() for t in tensors.values()):
            copied = torch.cuda.Event()
            copied.record(torch.cuda.current_stream())

        def write() -> None:
            try:
                if copied is not None:
                    copied.synchronize()
                self._checkpoints.save(step, copies, frozen, kept)
                self.saved, self.failure = step, None
            except OSError as error:
                self.failure = f"checkpoint {step} could not be written ({error.strerror or error})"
                self._say(f"{self.failure}: training goes on, and the checkpoints before it are as they were")
            except BaseException as error:
                self._error = error

        self._thread = beside(write, "checkpoint")

    def has(self, step: int) -> bool:
        """Whether the checkpoint of ``step`` is durable or on its way."""
        return self.begun == step and self.failure is None

    def wait(self) -> None:
        """Until nothing is in flight."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def finish(self, step: int) -> None:
        """Wait, and insist that the checkpoint of ``step`` is durable.

        Raises:
            UserError: it is not.
        """
        self.wait()
        if self.saved != step:
            raise UserError(
                f"{self.failure or f'checkpoint {step} was not written'}: make room on the disk of "
                f"{self._checkpoints.folder} and run the same command again; it goes on from the last one"
            )

    def _snapshot(self, part: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {n: self._buffer(part, n, t).copy_(t, non_blocking=True) for n, t in tensors.items()}

    def _buffer(self, part: str, name: str, like: Tensor) -> Tensor:
        # Kept from save to save: fresh memory would cost more in page faults than the copy.
        buffer = self._buffers.get((part, name))
        if buffer is None or buffer.shape != like.shape or buffer.dtype != like.dtype:
            buffer = torch.empty(like.shape, dtype=like.dtype, pin_memory=like.is_cuda)
            self._buffers[part, name] = buffer
        return buffer
