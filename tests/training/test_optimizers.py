"""AdamW against a few lines of arithmetic, and BERT's own without bias correction (spec 06 section 6)."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from plume.training import optimizers
from plume.training.settings import Training

RUN = Training(steps=10, batch_size=1, lr=1e-3, weight_decay=0.01, eps=1e-6)


class Scalar(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.matrix = nn.Parameter(torch.ones(1, 1, dtype=torch.float64))
        self.gain = nn.Parameter(torch.ones(1, dtype=torch.float64))


def steps(training: Training, gradients: list[float]) -> list[tuple[float, float]]:
    model = Scalar()
    optimizer = optimizers.adamw(model, training)
    found = []
    for gradient in gradients:
        for parameter in model.parameters():
            parameter.grad = torch.full_like(parameter, gradient)
        optimizer.step()
        found.append((model.matrix.item(), model.gain.item()))
    return found


def test_bert_without_bias_correction_gives_the_golden_values() -> None:
    found = [matrix for matrix, _ in steps(replace(RUN, bias_correction=False), [0.1, -0.2])]
    assert found == pytest.approx([0.9968287220, 0.9983743242], abs=5e-11)
    corrected = [matrix for matrix, _ in steps(RUN, [0.1, -0.2])]
    assert abs(corrected[0] - found[0]) > 1e-3  # the switch does something


def test_a_hundred_steps_equal_the_formula_and_gains_do_not_decay() -> None:
    gradients = [math.sin(i) for i in range(100)]
    theta, plain, m, v = 1.0, 1.0, 0.0, 0.0
    for t, g in enumerate(gradients, 1):
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
        update = (m / (1 - 0.9**t)) / (math.sqrt(v / (1 - 0.999**t)) + 1e-6)
        theta -= 1e-3 * (update + 0.01 * theta)
        plain -= 1e-3 * update
    matrix, gain = steps(RUN, gradients)[-1]
    assert matrix == pytest.approx(theta, abs=1e-9)
    assert gain == pytest.approx(plain, abs=1e-9)
    assert matrix != pytest.approx(gain, abs=1e-6)


def test_state_goes_there_and_back_and_refuses_what_does_not_fit() -> None:
    model = nn.Linear(3, 2)
    optimizer = optimizers.adamw(model, RUN)
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    saved = {name: tensor.clone() for name, tensor in optimizers.state(optimizer, model).items()}
    assert saved["exp_avg.weight"].abs().sum() > 0
    other = optimizers.adamw(model, RUN)
    optimizers.load_state(other, model, saved)
    for name, tensor in optimizers.state(other, model).items():
        assert torch.equal(tensor, saved[name])
    with pytest.raises(ValueError, match="exp_avg_sq.bias"):
        optimizers.load_state(other, model, {n: t for n, t in saved.items() if n != "exp_avg_sq.bias"})
    with pytest.raises(ValueError, match="shape"):
        optimizers.load_state(other, model, saved | {"exp_avg.bias": torch.zeros(5)})


def test_frozen_parameters_are_left_out_and_a_model_of_them_is_refused() -> None:
    model = nn.Linear(3, 2)
    model.weight.requires_grad_(False)
    assert {name.partition(".")[2] for name in optimizers.state(optimizers.adamw(model, RUN), model)} == {
        "bias"
    }
    model.bias.requires_grad_(False)
    with pytest.raises(ValueError, match="no parameter"):
        optimizers.adamw(model, RUN)
