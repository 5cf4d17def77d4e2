"""SIGTERM and SIGINT: the first asks the run to save and leave, the second leaves at once (reliability A6)."""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType, TracebackType
from typing import Self

CAUGHT = (signal.SIGTERM, signal.SIGINT)


class StopSignals:
    """While entered, ``received`` is the first of these signals that came. Only the main thread can catch them."""

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._before: dict[signal.Signals, object] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for caught in CAUGHT:
                self._before[caught] = signal.signal(caught, self._catch)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        for caught, before in self._before.items():
            signal.signal(caught, before)  # type: ignore[arg-type]

    def _catch(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None:
            # Nothing to tidy up: a checkpoint that is being written is not there until it is whole.
            os._exit(128 + number)
        self.received = signal.Signals(number)
