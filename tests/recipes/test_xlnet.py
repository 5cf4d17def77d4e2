"""XLNet's and UniLM's recipes: published sizes and the papers' values (spec 10 section 6, spec 20 section 4)."""

from __future__ import annotations

import pytest

from plume import config
from plume.objectives.mixture import Mixture
from plume.objectives.permuted import PermutedLM
from tests.recipes.test_recipes import count


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("xlnet:base", 116_750_336),
        ("xlnet:large", 360_300_800),
        # BERT's with 28,996 cased tokens and six segments instead of two: 110 M and 340 M in the paper.
        ("unilm:base", 110_106_428 + (28_996 - 30_522) * 769 + 4 * 768),
        ("unilm:large", 336_226_108 + (28_996 - 30_522) * 1_025 + 4 * 1_024),
    ],
)
def test_the_published_sizes(name: str, parameters: int) -> None:
    assert count(name) == parameters


def test_xlnet_large_is_trained_as_in_the_paper() -> None:
    recipe = config.resolve("xlnet:large")
    training, objective = recipe.training, recipe.objective
    assert (training.batch_size, training.steps, training.lr, training.warmup_steps) == (
        8192,
        500_000,
        4e-4,
        40_000,
    )
    assert (training.eps, training.weight_decay, training.clip_norm) == (1e-6, 0.01, 1.0)
    assert isinstance(objective, PermutedLM) and objective.memory_length == 384
    assert round(512 * objective.noise_density) == 85 and objective.max_span_length == 5
    assert recipe.windows.length == 512 and recipe.windows.carries and recipe.tokenizer.vocab_size == 32_000


def test_unilm_is_trained_as_in_the_paper() -> None:
    recipe = config.resolve("unilm:large")
    training, objective = recipe.training, recipe.objective
    assert (training.batch_size, training.steps, training.lr, training.warmup_steps) == (
        330,
        770_000,
        3e-5,
        40_000,
    )
    assert isinstance(objective, Mixture)
    assert {m.mode: share for m, share in zip(objective.members, objective.shares, strict=True)} == {
        "bidirectional": 2.0, "seq2seq": 2.0, "left_to_right": 1.0, "right_to_left": 1.0,
    }  # fmt: skip
    assert [m.next_sentence for m in objective.members] == [True, False, False, False]
    assert recipe.model.token_types == 6
