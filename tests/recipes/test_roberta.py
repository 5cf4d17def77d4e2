"""RoBERTa's sizes and values are the published ones (spec 07 sections 2 and 3)."""

from __future__ import annotations

import numpy as np
import pytest

from plume import config
from plume.models.pretrained import PretrainedModel
from plume.training.pretraining import build_model
from plume.training.stages import phases
from plume.vocabulary import Vocabulary
from tests.training.small import VOCAB, tokens


@pytest.mark.parametrize(
    ("name", "parameters", "lr", "warmup"),
    [("base", 124_697_433, 6e-4, 24_000), ("large", 355_412_057, 4e-4, 30_000)],
)
def test_the_published_values(name: str, parameters: int, lr: float, warmup: int) -> None:
    recipe = config.resolve(f"roberta:{name}")
    vocab = Vocabulary(size=50_265, cls=0, pad=1, sep=2, unk=3, mask=50_264)
    model = PretrainedModel.build(
        recipe.model, vocab, lambda b: recipe.objective.heads(b, vocab), seed=0, device="meta"
    )
    assert sum(p.numel() for p in model.parameters()) == parameters
    training = recipe.training
    assert (training.lr, training.warmup, training.batch_size, training.steps) == (lr, warmup, 8_192, 500_000)
    assert (training.betas, training.eps, training.clip_norm) == ((0.9, 0.98), 1e-6, None)
    assert training.bias_correction and training.schedule == "linear" and training.weight_decay == 0.01
    assert recipe.windows.length == 512 and recipe.windows.cross_documents and recipe.masking == "dynamic"


INPUTS = {
    "FULL-SENTENCES": ["windows=FullSentences"],
    "DOC-SENTENCES": ["windows=FullSentences", "windows.cross_documents=false"],
    "SEGMENT-PAIR": ["windows=SegmentPairs", "objective.next_sentence=true"],
    "SENTENCE-PAIR": ["windows=SegmentPairs", "windows.grain=sentence", "objective.next_sentence=true"],
}


@pytest.mark.parametrize("words", INPUTS.values(), ids=INPUTS)
def test_each_of_the_papers_inputs_is_a_setting(words: list[str]) -> None:
    small = ["windows.length=24", "model.num_layers=1", "model.d_model=64", "model.num_heads=1"]
    recipe = config.override(config.resolve("roberta:tiny"), [*words, *small])
    [phase] = phases(recipe, tokens(600), VOCAB)
    source = phase.epochs.plan(0)[0]
    example = phase.objective.example(source, VOCAB, np.random.default_rng(0))
    assert example is not None and not example.inputs.token_type_ids.any()
    assert ("next_sentence" in example.inputs.labels) == ("next_sentence" in words[-1])
    assert set(build_model(recipe, VOCAB).heads) == set(example.inputs.labels)
