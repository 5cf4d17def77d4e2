"""Adafactor and T5's schedule against their goldens and ``transformers`` (spec 18 section 6)."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers.optimization import Adafactor as Theirs

from plume.training import optimizers
from plume.training.adafactor import Adafactor
from plume.training.schedules import share
from plume.training.settings import Training


def one_step(**settings: float) -> list[float]:
    p = nn.Parameter(torch.tensor([[1.0, 2.0], [3.0, 4.0]], dtype=torch.float64))
    p.grad = torch.tensor([[0.1, 0.2], [0.3, 0.4]], dtype=torch.float64)
    Adafactor([p], **settings).step()  # type: ignore[arg-type]
    return p.detach().flatten().tolist()


def test_one_step_gives_the_golden_values() -> None:
    scaled = [0.9787867966, 1.97, 2.9715395011, 3.9731671843]
    plain = [0.9992254033, 1.9989045549, 2.9989607695, 3.9990202041]
    assert one_step(lr=1e-2) == pytest.approx(scaled, abs=5e-11)
    assert one_step(lr=1e-3, scale_parameter=False) == pytest.approx(plain, abs=5e-11)


def test_fifty_steps_equal_transformers() -> None:
    generator = torch.Generator().manual_seed(3)
    shapes = ((5, 7), (6,), (2, 3, 4))
    start = [torch.randn(shape, dtype=torch.float64, generator=generator) for shape in shapes]
    ours, theirs = ([nn.Parameter(t.clone()) for t in start] for _ in range(2))
    a = Adafactor(ours, lr=1e-2)
    b = Theirs(theirs, lr=1e-2, relative_step=False, scale_parameter=True, warmup_init=False)
    for _ in range(50):
        for p, q in zip(ours, theirs, strict=True):
            p.grad = torch.randn(p.shape, dtype=torch.float64, generator=generator)
            q.grad = p.grad.clone()
        a.step()
        b.step()
    for p, q in zip(ours, theirs, strict=True):
        torch.testing.assert_close(p, q, rtol=0, atol=1e-10)


def test_its_state_is_small_and_goes_there_and_back() -> None:
    training = Training(steps=10, batch_size=1, lr=1e-2, optimizer="adafactor")
    model, other = nn.Linear(30, 20), nn.Linear(30, 20)
    other.load_state_dict(model.state_dict())
    optimizer = optimizers.build(model, training)
    generator = torch.Generator().manual_seed(1)
    grads = [[torch.randn(p.shape, generator=generator) for p in model.parameters()] for _ in range(4)]

    def run(module: nn.Module, by: torch.optim.Optimizer, steps: range) -> None:
        for step in steps:
            for p, g in zip(module.parameters(), grads[step], strict=True):
                p.grad = g.clone()
            by.step()

    run(model, optimizer, range(2))
    saved = {name: t.clone() for name, t in optimizers.state(optimizer, model).items()}
    assert set(saved) == {"step.weight", "row.weight", "column.weight", "step.bias", "square.bias"}
    assert sum(t.numel() for t in saved.values()) == 20 + 30 + 20 + 2
    other.load_state_dict(model.state_dict())
    again = optimizers.build(other, training)
    optimizers.load_state(again, other, saved)
    run(model, optimizer, range(2, 4))
    run(other, again, range(2, 4))
    for p, q in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(p, q)
    with pytest.raises(ValueError, match=r"row\.weight"):
        optimizers.load_state(again, other, {n: t for n, t in saved.items() if n != "row.weight"})


def test_t5s_schedule_is_constant_and_then_falls_with_the_root() -> None:
    rates = [0.01 * share("constant_inverse_sqrt", t, steps=10**6, warmup_steps=10_000)
             for t in (0, 1, 10_000, 40_000)]  # fmt: skip
    assert rates == pytest.approx([0.01, 0.01, 0.01, 0.005])
