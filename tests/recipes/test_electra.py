"""ELECTRA's sizes are the published ones, of each part by itself (spec 09 section 2)."""

from __future__ import annotations

import pytest

from plume import config
from plume.models.pretrained import PretrainedModel
from plume.vocabulary import Vocabulary


@pytest.mark.parametrize(
    ("name", "discriminator", "generator"),
    [
        ("small", 13_549_057, 4_620_026),
        ("base", 109_483_009, 33_740_602),
        ("large", 335_142_913, 51_295_290),
    ],
)
def test_the_published_counts(name: str, discriminator: int, generator: int) -> None:
    recipe = config.resolve(f"electra:{name}")
    vocab = Vocabulary(size=30_522, pad=0, cls=1, sep=2, mask=3)
    model = PretrainedModel.build(
        recipe.model, vocab, lambda b: recipe.objective.heads(b, vocab), seed=0, device="meta"
    )
    parts = recipe.objective.parts(model)
    counts = {part: sum(p.numel() for p in network.parameters()) for part, network in parts.items()}
    assert counts == {"discriminator": discriminator, "generator": generator}
    # Shared: the tables of tokens, positions and segments, and their norm.
    width = recipe.model.embedding_width
    shared = (30_522 + 512 + 2 + 2) * width
    assert sum(p.numel() for p in model.parameters()) == discriminator + generator - shared


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("small", (5e-4, 128, 128, 1_000_000, 0.15, 64, 1)),
        ("base", (2e-4, 256, 512, 766_000, 0.15, 256, 4)),
        ("large", (2e-4, 2_048, 512, 400_000, 0.25, 256, 4)),
    ],
)
def test_the_papers_values(name: str, values: tuple[float, ...]) -> None:
    recipe = config.resolve(f"electra:{name}")
    training, objective = recipe.training, recipe.objective
    vocab = Vocabulary(size=100, mask=3)
    network = PretrainedModel.build(
        recipe.model, vocab, lambda b: objective.heads(b, vocab), seed=0, device="meta"
    ).heads["masked_token"].network  # fmt: skip
    found = (training.lr, training.batch_size, recipe.windows.length, training.steps, objective.noise_density,
             network.d_model, network.config.num_heads)  # fmt: skip
    assert found == values
    assert (training.schedule, training.warmup, training.betas, training.eps, training.bias_correction) == (
        "linear_throughout", 10_000, (0.9, 0.999), 1e-6, False,
    )  # fmt: skip
    assert objective.weights() == {"replaced": 50.0} and objective.mask_share == 0.85
    assert network.config.num_layers == recipe.model.num_layers and network.config.d_ff == 4 * network.d_model
