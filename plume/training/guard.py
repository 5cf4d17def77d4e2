"""When a step must not be taken: what is not finite, and what no clean run does (DESIGN section 7)."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from typing import Any

import numpy as np

WINDOW = 128  # clean steps that say what is usual
FEW = 32  # below this many their spread says nothing
LIMIT = 5  # skipped steps in a row after which a run stops


class Guard:
    """Judges each step by its loss and its gradient's norm, before the weights are touched.

    A loss is a spike if it lies ``sigma`` standard deviations above the mean of the last 128 clean steps; and
    also half the mean and one nat, for a model that has learnt its text by heart has tiny losses that jump
    about harmlessly; and also twice as far as any of them did, for some losses have heavy tails. A norm is one
    if it is 100 times the largest of them and of ``floor``, the norm that clipping lets pass. ``sigma=None``:
    only what is not finite is refused.
    """

    def __init__(self, sigma: float | None, floor: float | None) -> None:
        self.sigma = sigma
        self.floor = floor or 1.0
        self.losses: deque[float] = deque(maxlen=WINDOW)
        self.norms: deque[float] = deque(maxlen=WINDOW)
        self.refused = 0  # in a row

    def judge(self, loss: float, norm: float) -> str | None:
        """Why this step must be skipped, or None."""
        for what, value in (("loss", loss), ("gradient norm", norm)):
            if not math.isfinite(value):
                return f"the {what} is {value}"
        if self.sigma is None or not self.losses:
            return None
        losses = np.array(self.losses)
        usual = float(losses.mean())
        if len(losses) >= FEW:
            far = 2 * (float(losses.max()) - usual)
            limit = usual + max(self.sigma * float(losses.std()), 0.5 * abs(usual), 1.0, far)
        else:
            limit = 10 * float(np.abs(losses).max()) + 10
        if loss > limit:
            return f"the loss is {loss:.4g}, the last {len(losses)} were {usual:.4g} and the limit is {limit:.4g}"
        limit = 100 * max(max(self.norms), self.floor)
        if norm > limit:
            return f"the gradient norm is {norm:.4g}, and the limit is {limit:.4g}"
        return None

    def accept(self, loss: float, norm: float) -> None:
        """A step was taken."""
        self.losses.append(loss)
        self.norms.append(norm)
        self.refused = 0

    def forget(self) -> None:
        """What was usual no longer is: another stage begins."""
        self.losses.clear()
        self.norms.clear()

    def state(self) -> dict[str, Any]:
        """As JSON; floats are exact there."""
        return {"losses": list(self.losses), "norms": list(self.norms), "refused": self.refused}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Set what ``state`` gave."""
        self.losses = deque(state["losses"], maxlen=WINDOW)
        self.norms = deque(state["norms"], maxlen=WINDOW)
        self.refused = state["refused"]
