"""Adafactor as T5 was trained with it: no momentum, and of a matrix's second moments only rows and columns are kept.

Spec 18 section 6, in the form of ``transformers``' Adafactor; ``torch.optim.Adafactor`` is another one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

EPS = 1e-30  # added to squared gradients
FLOOR = 1e-3  # the least scale of a parameter
CLIP = 1.0  # the most that the root mean square of an update may be
DECAY = -0.8  # beta2 of update t is 1 - t ** DECAY


class Adafactor(torch.optim.Optimizer):
    """Updates are ``lr`` times a parameter's own root mean square (with ``scale_parameter``); nothing decays."""

    def __init__(self, params: Iterable[nn.Parameter], lr: float, *, scale_parameter: bool = True) -> None:
        super().__init__(params, {"lr": lr, "scale_parameter": scale_parameter})
        for group in self.param_groups:
            for p in group["params"]:
                self.state[p] = moments(p)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """One update of every parameter that has a gradient."""
        if closure is not None:
            raise ValueError("Adafactor takes no closure")
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    self._update(p, p.grad, group["lr"], group["scale_parameter"])

    def _update(self, p: Tensor, gradient: Tensor, lr: float, scale_parameter: bool) -> None:
        state = self.state[p]
        state["step"] += 1
        beta = 1.0 - float(state["step"]) ** DECAY
        exact = torch.promote_types(gradient.dtype, torch.float32)
        gradient = gradient.to(exact)
        square = gradient.square().add_(EPS)
        if "row" in state:
            row = state["row"].mul_(beta).add_(square.mean(-1), alpha=1.0 - beta)
            column = state["column"].mul_(beta).add_(square.mean(-2), alpha=1.0 - beta)
            update = (row / row.mean(-1, keepdim=True)).rsqrt_()[..., None] * column.rsqrt()[..., None, :]
        else:
            update = state["square"].mul_(beta).add_(square, alpha=1.0 - beta).rsqrt()
        update.mul_(gradient)
        update.div_((_rms(update) / CLIP).clamp(min=1.0))
        scale = lr * (_rms(p.to(exact)).clamp(min=FLOOR) if scale_parameter else 1.0)
        p.sub_((update * scale).to(p.dtype))


def moments(p: Tensor) -> dict[str, Tensor]:
    """A parameter's state before its first update."""
    exact = torch.promote_types(p.dtype, torch.float32)
    state = {"step": torch.zeros((), device=p.device)}
    if p.ndim < 2:
        return state | {"square": torch.zeros_like(p, dtype=exact)}
    rows, columns = p.shape[:-1], (*p.shape[:-2], p.shape[-1])
    return state | {
        "row": torch.zeros(rows, dtype=exact, device=p.device),
        "column": torch.zeros(columns, dtype=exact, device=p.device),
    }


def _rms(x: Tensor) -> Tensor:
    found: Tensor = torch.linalg.vector_norm(x) / x.numel() ** 0.5
    return found
