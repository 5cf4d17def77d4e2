"""BART and the Transformer of 2017: published sizes on the meta device, and the papers' values."""

from __future__ import annotations

import pytest

from plume import config
from plume.training.schedules import learning_rate
from tests.recipes.test_recipes import count


@pytest.mark.parametrize(("name", "parameters"), [("bart:base", 139_420_416), ("bart:large", 406_291_456)])
def test_bart_has_the_published_sizes(name: str, parameters: int) -> None:
    assert count(name) == parameters  # spec 19 section 2


@pytest.mark.parametrize(("name", "millions"), [("transformer:base", 65), ("transformer:big", 213)])
def test_the_transformer_has_the_papers_sizes(name: str, millions: int) -> None:
    """The paper rounds, and its vocabulary is "about 37,000" (spec 05 section 4)."""
    assert count(name) / 1e6 == pytest.approx(millions, rel=0.03)


def test_the_transformers_schedule_has_the_golden_values() -> None:
    """Spec 05 section 4.2: d = 512, warm-up 4,000; steps count from 1."""
    training = config.resolve("transformer:base").training
    for step, rate in ((1, 1.746928e-07), (4_000, 6.987712e-04), (100_000, 1.397542e-04)):
        assert learning_rate(training, step - 1) == pytest.approx(rate, rel=1e-6)
    assert (training.betas, training.eps, training.weight_decay, training.clip_norm) == (
        (0.9, 0.98),
        1e-9,
        0,
        None,
    )
    objective = config.resolve("transformer:base").objective
    assert (objective.label_smoothing, objective.smoothing) == (0.1, "others")


def test_bart_is_what_the_paper_kept() -> None:
    recipe = config.resolve("bart:large")
    objective, model = recipe.objective, recipe.model
    assert (objective.infilling, objective.mean_span_length, objective.permute_sentences) == (0.3, 3.0, 1.0)
    assert objective.masking == objective.deletion == objective.rotation == 0
    assert (model.position_offset, model.max_positions, model.norm_order, model.activation) == (
        2,
        1024,
        "post",
        "gelu",
    )
    assert (recipe.training.batch_size, recipe.training.steps, recipe.windows.length) == (8_000, 500_000, 512)
