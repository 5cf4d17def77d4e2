"""What a run says about itself: rows of ``metrics.jsonl``, FLOPs, memory, and the line the user watches."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import torch

from plume.training.faults import fault

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID


class MetricsFile:
    """Rows appended to a JSON-lines file, one system call each: a kill loses no row, and tears at most the last.

    A full disk costs no row either: they wait in memory and are written when there is room.
    """

    def __init__(self, path: Path, say: Callable[[str], None] = print) -> None:
        self.path = path
        self._say = say
        self._waiting: list[bytes] = []
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        size = os.fstat(self._file).st_size
        tail = os.pread(self._file, min(size, 1 << 20), max(0, size - (1 << 20)))
        whole = tail[: tail.rfind(b"\n") + 1]
        if whole != tail:  # a row that a kill or a full disk tore
            os.ftruncate(self._file, size - len(tail) + len(whole))
        self.last_attempt = max((int(row["attempt"]) for row in _rows(whole.splitlines()[-1:])), default=0)

    def write(self, row: Mapping[str, Any]) -> None:
        """Append a row."""
        first = not self._waiting
        self._waiting.append(json.dumps(row, allow_nan=False, ensure_ascii=False).encode() + b"\n")
        error = self._flush()
        if error is not None and first:
            self._say(f"{self.path} cannot be written ({error.strerror or error}); its rows wait in memory")

    def sync(self) -> None:
        """Make the rows durable; with a full disk they go on waiting."""
        if self._flush() is None:
            with contextlib.suppress(OSError):
                os.fsync(self._file)

    def close(self) -> None:
        """Give the file back."""
        if self._flush() is not None:
            self._say(f"{len(self._waiting)} rows could not be written to {self.path}")
        os.close(self._file)

    def _flush(self) -> OSError | None:
        if not self._waiting:
            return None
        end = os.fstat(self._file).st_size
        try:
            fault("metrics")
            data = b"".join(self._waiting)
            if os.write(self._file, data) < len(data):
                raise OSError("only a part of a row fitted")
        except OSError as error:
            os.ftruncate(self._file, end)
            return error
        self._waiting.clear()
        return None


def history(path: Path, split: str = "train") -> Iterator[dict[str, Any]]:
    """A run's rows of one split, each step once and in order: what a later attempt redid replaces what it redid."""
    rows = {row["step"]: row for row in _rows(path.read_bytes().splitlines()) if row["split"] == split}
    return iter([rows[step] for step in sorted(rows)])


def _rows(lines: Iterable[bytes]) -> Iterator[dict[str, Any]]:
    for line in lines:
        # What a kill tore is no row; the attempt after it wrote the step again.
        with contextlib.suppress(ValueError):
            yield json.loads(line)


def peak_memory(device: torch.device) -> int:
    """Bytes: the device's peak for this process, on a CPU its largest resident size."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


@dataclass(frozen=True)
class Point:
    """Where a run stands: steps done, tokens and FLOPs so far, the time, the last loss."""

    step: int
    tokens: int
    flops: float
    time: float
    loss: float
    parts: str = ""


def parts_of(losses: Mapping[str, float], weights: Mapping[str, float]) -> str:
    """What a loss of several heads is the sum of: each one's own mean, by which it can be judged, and its weight.

    >>> parts_of({"masked_token": 9.01, "replaced": 0.5213}, {"replaced": 50.0})
    'masked_token 9.0100 + 50 x replaced 0.5213'
    >>> parts_of({"next_token": 3.2}, {})
    ''
    """
    if len(losses) < 2:
        return ""
    factors = {name: weights.get(name, 1.0) for name in losses}
    return " + ".join(
        f"{name} {loss:.4f}" if factors[name] == 1 else f"{factors[name]:g} x {name} {loss:.4f}"
        for name, loss in losses.items()
    )


class ProgressLine:
    """A bar on a terminal, a plain line every ten seconds elsewhere: loss, tokens/s, MFU, time left."""

    def __init__(
        self, name: str, steps: int, peak: float, *, quiet: bool = False, every: float = 10.0
    ) -> None:
        self._name = name
        self._steps = steps
        self._peak = peak
        self._points: deque[Point] = deque(maxlen=64)
        self._told = time.monotonic()
        self._every = every
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        self._quiet = quiet
        if not quiet and sys.stderr.isatty():
            self._every = 0.2
            self._bar, self._task = _bar(name, steps)

    def __enter__(self) -> Self:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def say(self, message: str) -> None:
        """A sentence for the user, above the bar if there is one."""
        if self._bar is not None:
            self._bar.console.print(message, markup=False, highlight=False)
        else:
            print(message, file=sys.stderr, flush=True)

    def show(self, step: int, tokens: int, flops: float, loss: float, parts: str = "") -> None:
        """A step was taken. ``parts``: what its loss is the sum of, where it is one (``parts_of``)."""
        now = time.monotonic()
        self._points.append(Point(step, tokens, flops, now, loss, parts))
        if self._quiet or (now - self._told < self._every and step < self._steps):
            return
        self._told = now
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=step, speed=self.speed())
        else:
            print(f"{self._name}  step {step}/{self._steps}  {self.speed()}", file=sys.stderr, flush=True)

    def speed(self) -> str:
        """``loss 4.312  12,345 tokens/s  MFU 31 %  2:05 left`` over the last steps."""
        first, last = self._points[0], self._points[-1]
        text = f"loss {last.loss:.4f}" + (f" = {last.parts}" if last.parts else "")
        if (seconds := last.time - first.time) > 0:
            mfu = (last.flops - first.flops) / seconds / self._peak
            left = round((self._steps - last.step) * seconds / (last.step - first.step))
            text += f"  {(last.tokens - first.tokens) / seconds:,.0f} tokens/s  MFU {mfu:.0%}"
            text += f"  {left // 3600}:{left // 60 % 60:02d}:{left % 60:02d} left"
        return text


class ShareLine:
    """How far something of unknown length is: a bar on a terminal, a plain line every ten seconds elsewhere."""

    def __init__(self, name: str, every: float = 10.0) -> None:
        self._name = name
        self._every = every
        self._told = time.monotonic()
        self._bar: Progress | None = None
        self._task: TaskID | None = None

    def __enter__(self) -> Self:
        if sys.stderr.isatty():
            self._bar, self._task = _bar(self._name, 1000)
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def show(self, share: float, text: str) -> None:
        """``share`` of it is done, from 0 to 1."""
        if self._bar is not None and self._task is not None:  # which draws itself now and then
            self._bar.update(self._task, completed=round(1000 * share), speed=text)
        elif time.monotonic() - self._told >= self._every:
            self._told = time.monotonic()
            print(f"{self._name}: {share:.0%}, {text}", file=sys.stderr, flush=True)


def _bar(name: str, steps: int) -> tuple[Progress, TaskID]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[speed]}"),
    )
    # Twice a second: rendering takes the interpreter away from the training thread.
    bar = Progress(*columns, console=Console(stderr=True), refresh_per_second=2)
    return bar, bar.add_task(name, total=steps, speed="")
