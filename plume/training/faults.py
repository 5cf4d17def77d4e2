"""Named places where a test (or a careful user) can make a run fail.

``PLUME_FAULT="checkpoint.rename@2=kill"`` fails the second time that the run passes ``checkpoint.rename``; several
are separated by commas. Actions: ``kill`` (SIGKILL, the default), ``term`` and ``int`` (those signals to this
process), ``full`` (the disk is full: ENOSPC), ``fail`` (an exception that no handler expects), ``stop`` (a disk that
does not answer: nothing goes on here). Without the variable a point costs one look into the environment.

Points, in the order of a run: start, load, forward, backward, accumulate, step, evaluate, metrics; and inside a
checkpoint: checkpoint.open, checkpoint.write (each block), checkpoint.fsync, checkpoint.rename,
checkpoint.renamed, checkpoint.latest, checkpoint.retire.
"""

from __future__ import annotations

import errno
import os
import signal
import threading

VARIABLE = "PLUME_FAULT"

_passed: dict[tuple[str, str], int] = {}  # (the variable's text, point) -> how often passed


class InjectedFault(BaseException):
    """What ``fail`` raises. Not an Exception, so that no handler of ours tidies up after it: like a kill."""


def fault(point: str) -> None:
    """Fail here if the environment says so."""
    plan = os.environ.get(VARIABLE)
    if plan is None:
        return
    count = _passed[plan, point] = _passed.get((plan, point), 0) + 1
    for order in plan.split(","):
        where, _, action = order.partition("=")
        name, _, number = where.partition("@")
        if name == point and count == int(number or 1):
            _fail(point, action or "kill")


def reset() -> None:
    """Count from the beginning again, as a new process would."""
    _passed.clear()


def _fail(point: str, action: str) -> None:
    if action == "full":
        raise OSError(errno.ENOSPC, "No space left on device", point)
    if action == "fail":
        raise InjectedFault(point)
    if action == "stop":
        threading.Event().wait()
    signals = {"kill": signal.SIGKILL, "term": signal.SIGTERM, "int": signal.SIGINT}
    os.kill(os.getpid(), signals[action])
