"""Recipes have the papers' values, survive JSON, and can be drawn before there is any data."""

from __future__ import annotations

import json

import pytest

import plume
from plume import config
from plume.models.pretrained import PretrainedModel
from plume.training.counting import Counting
from plume.training.pretraining import build_model
from plume.training.settings import Pretraining
from plume.training.sparse import Sparse
from plume.vocabulary import Vocabulary

NAMES = [f"{family}:{name}" for family, names in config.recipes().items() for name in names]


def test_the_recipes_of_this_release() -> None:
    assert set(NAMES) >= {
        "gpt:tiny", "gpt:small", "gpt:gpt2", "bert:tiny", "bert:mini", "bert:small", "bert:base", "lstm:tiny",
    }  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_is_its_json(name: str) -> None:
    recipe = config.resolve(name)
    assert isinstance(recipe, Pretraining | Counting | Sparse)
    assert config.from_json(json.loads(json.dumps(config.to_json(recipe)))) == recipe
    if isinstance(recipe, Sparse):
        assert config.override(recipe, ["ngrams=[1,3]", "weights.norm=l1"]).ngrams == (1, 3)
        return
    if isinstance(recipe, Counting):
        assert (
            config.override(
                recipe, ["model.order=5", "tokenizer=Characters", "tokenizer.vocab_size=9"]
            ).model.order
            == 5
        )
        return
    words = ["training.steps=2", "training.warmup_steps=null", *(["stages=[]"] if recipe.stages else [])]
    assert config.override(recipe, words).training.steps == 2


def count(name: str) -> int:
    recipe = config.resolve(name)
    vocab = Vocabulary(size=recipe.tokenizer.vocab_size, pad=0, cls=1, sep=2, mask=3, eos=4)
    model = PretrainedModel.build(
        recipe.model, vocab, lambda b: recipe.objective.heads(b, vocab), seed=0, device="meta"
    )
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize(
    ("name", "parameters"),
    [("bert:base", 110_106_428), ("gpt:gpt2", 124_439_808)],
)
def test_the_papers_sizes(name: str, parameters: int) -> None:
    assert count(name) == parameters  # spec 06 section 3, spec 14 section 2


@pytest.mark.parametrize(
    ("name", "shape"),
    [("tiny", (2, 128, 2)), ("mini", (4, 256, 4)), ("small", (4, 512, 8)), ("base", (12, 768, 12))],
)
def test_bert_has_the_published_shapes(name: str, shape: tuple[int, int, int]) -> None:
    model = config.resolve(f"bert:{name}").model
    assert (model.num_layers, model.d_model, model.num_heads) == shape and model.d_ff == 4 * model.d_model
    assert (model.norm_order, model.activation, model.norm_eps, model.max_positions) == (
        "post",
        "gelu",
        1e-12,
        512,
    )


def test_bert_base_is_trained_as_in_the_paper() -> None:
    recipe = config.resolve("bert:base")
    training = recipe.training
    assert (training.batch_size, training.steps, training.lr, training.warmup_steps) == (
        256,
        1_000_000,
        1e-4,
        10_000,
    )
    assert (training.betas, training.eps, training.weight_decay) == ((0.9, 0.999), 1e-6, 0.01)
    assert not training.bias_correction and training.clip_norm == 1
    assert recipe.masking == "static" and recipe.objective.next_sentence
    assert [(s.until, s.windows and s.windows.length) for s in recipe.stages] == [
        (900_000, 128),
        (None, None),
    ]
    assert recipe.windows.length == 512 and recipe.tokenizer.vocab_size == 30_522


def test_gpt2_is_of_the_papers_shape_and_batch() -> None:
    recipe = config.resolve("gpt:gpt2")
    assert (recipe.model.norm_order, recipe.model.activation, recipe.model.norm_eps) == (
        "pre",
        "gelu_tanh",
        1e-5,
    )
    assert recipe.windows.length == recipe.model.max_positions == 1024
    assert recipe.training.batch_size * recipe.windows.length == 524_288
    assert recipe.tokenizer.vocab_size == 50_257


def test_the_lstm_carries_its_state() -> None:
    assert config.resolve("lstm:tiny").windows.carries


@pytest.mark.parametrize("language", ["en", "zh"])
@pytest.mark.parametrize("name", [n for n in NAMES if isinstance(config.resolve(n), Pretraining)])
def test_a_recipe_can_be_drawn(name: str, language: str) -> None:
    [picture] = plume.show(name, language=language, slots=16).pictures  # type: ignore[arg-type]
    shown = [[slot for slot in stack.slots if slot.state != "query"] for stack in picture.stacks]
    # Word2Vec thins frequent words, and in so short a text most are.
    least = 2 if name.startswith("word2vec:") else 5
    assert all(least <= len(slots) <= 16 for slots in shown)
    assert any(slot.answers for stack in picture.stacks for slot in stack.slots)
    assert len(picture.says) >= 2 and picture.title == name


def test_a_built_model_has_the_heads_of_all_stages() -> None:
    recipe = config.override(
        config.resolve("bert:tiny"), ["model.num_layers=1", "model.d_model=64", "model.num_heads=1"]
    )
    assert set(build_model(recipe, Vocabulary(size=20, mask=1, cls=2, sep=3)).heads) == {
        "masked_token",
        "next_sentence",
    }
