"""The published sizes of GPT-1, GPT-3 and ELMo, and how a batch of GPT-3 grows (spec 04, 13, 15)."""

from __future__ import annotations

import pytest

from plume import config
from plume.models.pretrained import PretrainedModel
from plume.training import stages
from plume.vocabulary import Vocabulary

GPT3 = {
    "125m": (12, 768, 12), "350m": (24, 1024, 16), "760m": (24, 1536, 16), "1_3b": (24, 2048, 16),
    "2_7b": (32, 2560, 32), "6_7b": (32, 4096, 32), "13b": (40, 5120, 40), "175b": (96, 12288, 96),
}  # fmt: skip


def count(name: str) -> int:
    recipe = config.resolve(name)
    vocab = Vocabulary(size=recipe.tokenizer.vocab_size, pad=0, cls=1, sep=2, bos=3, eos=4)
    model = PretrainedModel.build(
        recipe.model, vocab, lambda b: recipe.objective.heads(b, vocab), seed=0, device="meta"
    )
    return sum(t.numel() for t in model.state().values())


@pytest.mark.parametrize("name", GPT3)
def test_the_size_table_of_gpt3(name: str) -> None:
    layers, d, heads = GPT3[name]
    model = config.resolve(f"gpt:gpt3_{name}").model
    assert (model.num_layers, model.d_model, model.num_heads) == (layers, d, heads)
    assert count(f"gpt:gpt3_{name}") == 12 * layers * d * d + 13 * layers * d + 2 * d + (50_257 + 2_048) * d
    assert model.bands[0::2] == (None,) * (layers // 2) and set(model.bands[1::2]) == {256}


def test_gpt1_and_elmo_have_the_published_sizes() -> None:
    assert count("gpt:gpt1") == 116_534_784
    assert count("elmo:original") == 93_600_848 + 793_471 * 513


@pytest.mark.parametrize("name", ["125m", "175b"])
def test_the_batch_grows_and_all_tokens_are_read(name: str) -> None:
    recipe = config.resolve(f"gpt:gpt3_{name}")
    found = [(first, size) for first, _, _, size in stages.resolve(recipe)]
    sizes = [size for _, size in found]
    assert sizes[0] * 2_048 == 32_768 and sizes == sorted(sizes) and sizes[-1] == recipe.training.batch_size
    ends = [first for first, _ in found[1:]] + [recipe.training.steps]
    read = sum((end - first) * size for (first, size), end in zip(found, ends, strict=True)) * 2_048
    assert read == pytest.approx(300e9, rel=1e-3)
