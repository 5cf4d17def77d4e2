"""ELECTRA's arithmetic: what is drawn, what is sampled, what is shared (spec 09 sections 3 and 7)."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from plume.models.heads import Asked
from plume.models.pretrained import PretrainedModel
from plume.models.replaced import Generator, ReplacedHead
from plume.models.transformer import TransformerConfig
from plume.objectives.classification import Classification
from plume.objectives.replaced import ReplacedTokens
from plume.seeding import rng
from plume.slots import IGNORE
from plume.training.schedules import share
from plume.vocabulary import Vocabulary
from tests.objectives.test_masked import VOCAB, window

CONFIG = TransformerConfig(
    num_layers=2, d_model=16, num_heads=2, d_ff=32, norm_order="post", token_types=2, embedding_norm=True,
    embedding_size=12,
)  # fmt: skip


def build(objective: Any = None, config: TransformerConfig = CONFIG) -> PretrainedModel:
    objective = objective or ReplacedTokens(generator_share=0.5)
    return PretrainedModel.build(config, VOCAB, lambda b: objective.heads(b, VOCAB), seed=0)


def test_draws_are_with_replacement_and_mostly_masked() -> None:
    """128 slots, 19 draws among 126: 126 (1 - (1 - 1/126)**19) = 17.71 different ones; 85 % of the draws [MASK]."""
    objective, source, slots, masked = ReplacedTokens(), window(128), [], []
    for seed in range(4000):
        example = objective.example(source, VOCAB, rng(seed, "noise"))
        assert example is not None
        asked = example.inputs.labels["masked_token"] != IGNORE
        shown = example.inputs.input_ids
        assert (shown[~asked] == source.ids[~asked]).all()
        assert not asked[[0, -1]].any()
        assert ((shown[asked] == VOCAB.mask) | (shown[asked] == source.ids[asked])).all()  # no random tokens
        slots.append(asked.sum())
        masked.append((shown == VOCAB.mask).sum())
    draws, n = 19, 126
    expected = n * (1 - (1 - 1 / n) ** draws)
    assert abs(np.mean(slots) - expected) < 4 * np.std(slots) / 4000**0.5
    # A slot is masked if any of its draws is: each draw is one of 126 with 85 %.
    expected = n * (1 - (1 - 0.85 / n) ** draws)
    assert abs(np.mean(masked) - expected) < 4 * np.std(masked) / 4000**0.5


@pytest.mark.parametrize(
    ("length", "density", "most"), [(128, 0.15, 19), (512, 0.15, 77), (512, 0.25, 128), (3, 0.15, 1)]
)
def test_the_number_of_draws_counts_every_slot(length: int, density: float, most: int) -> None:
    objective = ReplacedTokens(noise_density=density)
    sizes = [
        int((e.inputs.labels["masked_token"] != IGNORE).sum())
        for seed in range(50)
        if (e := objective.example(window(length), VOCAB, rng(seed, "noise"))) is not None
    ]
    assert min(sizes) >= 1 and max(sizes) <= most


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_samples_follow_the_softmax(temperature: float) -> None:
    """1e5 draws within 4 sigma; a temperature of 0.5 sharpens as softmax(2x)."""
    generator = build().heads["masked_token"]
    assert isinstance(generator, Generator)
    logits = torch.tensor([0.0, 1.0, -1.0, 2.0, 0.5])
    generator.logits = lambda hidden: logits.expand(len(hidden), 5)  # type: ignore[method-assign]
    uniform = torch.from_numpy(np.random.default_rng(0).random(100_000)).float()
    drawn = generator.sample(torch.zeros(100_000, 1), uniform, temperature)
    expected = (logits / temperature).softmax(-1)
    share = torch.bincount(drawn, minlength=5) / 100_000
    assert ((share - expected).abs() < 4 * (expected * (1 - expected) / 100_000).sqrt()).all()
    edges = generator.sample(torch.zeros(2, 1), torch.tensor([0.0, 1 - 2**-24]), temperature)
    assert edges.tolist() == [0, 4]


def test_the_discriminators_loss_is_the_specs_golden() -> None:
    head = ReplacedHead(build().backbone)
    head.logits = lambda hidden: torch.tensor([2.0, -1.0, 0.5])  # type: ignore[method-assign]
    empty = torch.zeros(3, dtype=torch.long)
    loss = head.loss(Asked(torch.zeros(3, 16), torch.tensor([0, 0, 1]), empty, empty, {}))
    assert float(loss.total / loss.count) == pytest.approx(0.9714222, abs=1e-6)
    assert 50 * float(loss.total / loss.count) == pytest.approx(48.5711, abs=1e-4)
    assert ReplacedTokens().weights() == {"replaced": 50.0}


def test_the_rate_decays_from_the_first_step() -> None:
    """peak (1 - t/T) min(1, t/warmup), T = 100, warm-up 10: 0.475 at t = 5."""
    found = [share("linear_throughout", t, steps=100, warmup_steps=10) for t in (0, 5, 10, 55, 100)]
    assert found == pytest.approx([0, 0.475, 0.9, 0.45, 0])


def test_tables_and_norm_are_shared_and_nothing_else() -> None:
    model = build()
    generator, backbone = model.heads["masked_token"].network, model.backbone
    assert generator.embedding is backbone.embedding and generator.positions is backbone.positions
    assert generator.embedding_norm is backbone.embedding_norm
    assert (generator.d_model, generator.config.num_heads, generator.config.d_ff) == (8, 1, 32)
    assert generator.embedding_projection.weight.shape == (8, 12)
    assert backbone.embedding_projection.weight.shape == (16, 12)
    names = [
        n for n in model.state() if "generator" in n or "network.embedding." in n or "network.positions" in n
    ]
    assert names == []  # each shared tensor once, under the backbone's name
    assert model.ties["heads.masked_token.network.embedding.weight"] == "backbone.embedding.weight"
    trained = list(model.parameters())
    assert len({id(p) for p in trained}) == len(trained) == len(model.state())


def test_widths_that_are_equal_need_no_projection() -> None:
    model = build(
        ReplacedTokens(generator_share=1.0), TransformerConfig(1, 16, 2, 32, "post", embedding_norm=True)
    )
    assert model.backbone.embedding_projection is None
    assert model.heads["masked_token"].network.embedding_projection is None


def test_a_texts_label_is_asked_with_electras_own_head() -> None:
    objective = Classification(ReplacedTokens(), ("a", "b"))
    head = build(objective).heads["label"]
    hidden = torch.randn(3, 16)
    expected = head.out(torch.nn.functional.gelu(head.dense(hidden)))
    torch.testing.assert_close(head.eval().logits(hidden), expected)


def test_what_cannot_work_says_why() -> None:
    for bad, match in (
        ({"noise_density": 0.0}, "noise_density"), ({"generator_share": 2.0}, "generator_share"),
        ({"mask_share": 1.5}, "mask_share"), ({"temperature": 0.0}, "temperature"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=match):
            ReplacedTokens(**bad)
    with pytest.raises(ValueError, match="mask"):
        ReplacedTokens().example(window(9), Vocabulary(size=1000), rng(0, "noise"))
    assert ReplacedTokens().example(window(2), VOCAB, rng(0, "noise")) is None
    two_stacks: Any = SimpleNamespace(decoder=None)
    with pytest.raises(ValueError, match="one stack"):
        ReplacedTokens().heads(two_stacks, VOCAB)
