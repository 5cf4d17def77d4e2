"""AdamW, fused, with two groups: matrices decay, biases and gains do not (spec 25 section 2); Adafactor; Adagrad."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from plume.training.adafactor import Adafactor
from plume.training.settings import Training

# Adam's corrections are 1 - beta**t. From this t on both are exactly 1, so that a count that starts here is
# Adam without bias correction, as BERT was trained (spec 06 section 6), by the same fused kernel.
UNCORRECTED = 1_000_000.0


def build(model: nn.Module, training: Training) -> torch.optim.Optimizer:
    """The optimizer that ``training`` names."""
    if training.updates == "word":  # made in place: there is nothing to remember
        return torch.optim.SGD(_trained(model), lr=training.lr)
    if training.optimizer == "adafactor":
        return Adafactor(_trained(model), training.lr)
    if training.optimizer == "adagrad":
        return adagrad(model, training)
    return adamw(model, training)


def adamw(model: nn.Module, training: Training) -> torch.optim.AdamW:
    """An optimizer over the parameters that train, each once, ties counted once; its state exists at once."""
    trained = _trained(model)
    # A bias may have a row a head (XLNet's).
    named = model.named_parameters()
    decays = {id(p) for name, p in named if p.ndim >= 2 and not name.endswith("bias")}
    groups = [
        {"params": [p for p in trained if id(p) in decays], "weight_decay": training.weight_decay},
        {"params": [p for p in trained if id(p) not in decays], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=training.lr,
        betas=training.betas,
        eps=training.eps,
        fused=True,
    )
    start = 0.0 if training.bias_correction is True else UNCORRECTED
    for p in trained:
        optimizer.state[p] = {
            "step": torch.tensor(start, device=p.device),
            "exp_avg": torch.zeros_like(p),
            "exp_avg_sq": torch.zeros_like(p),
        }
    return optimizer


def adagrad(model: nn.Module, training: Training) -> torch.optim.Adagrad:
    """Adagrad as ELMo was trained with it: every sum of squares starts at 1 (spec 04 section 5)."""
    return torch.optim.Adagrad(
        _trained(model), lr=training.lr, weight_decay=training.weight_decay, initial_accumulator_value=1.0
    )


def rate(training: Training, lr: float, update: int) -> float:
    """What the optimizer is told for ``lr`` at its ``update``, counted from 1.

    With ``bias_correction="in_rate"`` it bears Adam's corrections: lr sqrt(1 - beta2^t) / (1 - beta1^t).
    """
    if training.optimizer != "adamw" or training.bias_correction != "in_rate":
        return lr
    one, two = training.betas
    return float(lr * (1 - two**update) ** 0.5 / (1 - one**update))


def state(optimizer: torch.optim.Optimizer, model: nn.Module) -> dict[str, Tensor]:
    """The optimizer's tensors by name: "step.<parameter>", "exp_avg.<parameter>" and so on."""
    return {
        f"{field}.{name}": tensor
        for name, p in model.named_parameters()
        if p.requires_grad
        for field, tensor in optimizer.state.get(p, {}).items()
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


def _trained(model: nn.Module) -> list[nn.Parameter]:
    trained = [p for p in model.parameters() if p.requires_grad]
    if not trained:
        raise ValueError("no parameter of this model is trained")
    return trained
