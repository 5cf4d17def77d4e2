"""AdamW, fused, with two groups: matrices decay, biases and gains do not (spec 25 section 2)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from plume.training.settings import Training

# Adam's corrections are 1 - beta**t. From this t on both are exactly 1, so that a count that starts here is
# Adam without bias correction, as BERT was trained (spec 06 section 6), by the same fused kernel.
UNCORRECTED = 1_000_000.0

MOMENTS = ("exp_avg", "exp_avg_sq")


def adamw(model: nn.Module, training: Training) -> torch.optim.AdamW:
    """An optimizer over the parameters that train, each once, ties counted once; its state exists at once."""
    trained = [p for p in model.parameters() if p.requires_grad]
    if not trained:
        raise ValueError("no parameter of this model is trained")
    groups = [
        {"params": [p for p in trained if p.ndim >= 2], "weight_decay": training.weight_decay},
        {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=training.lr,
        betas=training.betas,
        eps=training.eps,
        fused=True,
    )
    start = 0.0 if training.bias_correction else UNCORRECTED
    for p in trained:
        optimizer.state[p] = {
            "step": torch.tensor(start, device=p.device),
            "exp_avg": torch.zeros_like(p),
            "exp_avg_sq": torch.zeros_like(p),
        }
    return optimizer


def state(optimizer: torch.optim.Optimizer, model: nn.Module) -> dict[str, Tensor]:
    """The optimizer's tensors by name: "exp_avg.<parameter>", "exp_avg_sq.<parameter>", "step.<parameter>"."""
    return {
        f"{field}.{name}": optimizer.state[p][field]
        for name, p in model.named_parameters()
        if p.requires_grad
        for field in ("step", *MOMENTS)
    }


def load_state(optimizer: torch.optim.Optimizer, model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Set what ``state`` gave.

    Raises:
        ValueError: a tensor is missing, left over or of another shape.
    """
    into = state(optimizer, model)
    if into.keys() != tensors.keys():
        odd = sorted(into.keys() ^ tensors.keys())
        raise ValueError(f"optimizer state does not fit the model: {', '.join(odd[:5])}")
    for name, tensor in into.items():
        if tensor.shape != tensors[name].shape:
            raise ValueError(
                f"optimizer state {name} has shape {list(tensors[name].shape)}, not {list(tensor.shape)}"
            )
        tensor.copy_(tensors[name])
