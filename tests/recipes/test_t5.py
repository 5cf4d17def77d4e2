"""T5's recipes have the published sizes and the paper's training (spec 18 section 2.3 and 6)."""

from __future__ import annotations

import pytest

from plume import config
from plume.models.pretrained import PretrainedModel
from plume.vocabulary import Vocabulary

SIZES = {
    "small": 60_506_624, "base": 222_903_552, "large": 737_668_096, "xl": 2_851_598_336, "xxl": 11_307_321_344,
    "v1_1_small": 76_961_152, "v1_1_base": 247_577_856, "v1_1_large": 783_150_080, "v1_1_xl": 2_849_757_184,
    "v1_1_xxl": 11_135_332_352,
}  # fmt: skip


@pytest.mark.parametrize("name", SIZES)
def test_published_sizes(name: str) -> None:
    recipe = config.resolve(f"t5:{name}")
    vocab = Vocabulary(size=recipe.tokenizer.vocab_size)
    model = PretrainedModel.build(
        recipe.model, vocab, lambda b: recipe.objective.heads(b, vocab), seed=0, device="meta"
    )
    assert sum(p.numel() for p in model.parameters()) == SIZES[name]


def test_the_baseline_is_trained_as_in_the_paper() -> None:
    recipe = config.resolve("t5:base")
    training = recipe.training
    assert (training.steps, training.batch_size, recipe.windows.length) == (524_288, 128, 512)
    assert (training.optimizer, training.lr, training.warmup_steps) == ("adafactor", 0.01, 10_000)
    assert training.schedule == "constant_inverse_sqrt" and training.weight_decay == 0
    assert (recipe.objective.noise_density, recipe.objective.mean_span_length) == (0.15, 3.0)
    assert recipe.objective.window_length(512) == 568 and recipe.tokenizer.sentinels == 100
    first, later = recipe.model, config.resolve("t5:v1_1_base").model
    assert (first.activation, first.gated, first.tie_head, first.scale_head, first.dropout) == (
        "relu", False, True, True, 0.1
    )  # fmt: skip
    assert (later.activation, later.gated, later.tie_head, later.scale_head, later.dropout) == (
        "gelu_tanh", True, False, False, 0.0
    )  # fmt: skip
    assert not first.bias and first.norm == "rms" and first.norm_eps == 1e-6 and not first.scale_attention
    assert first.final_dropout == first.activation_dropout == first.attention_dropout == 0.1


def test_joint_shares_t5s_network() -> None:
    assert config.resolve("joint:tiny").model == config.resolve("t5:tiny").model
    assert config.resolve("joint:base").model == config.resolve("t5:v1_1_base").model
