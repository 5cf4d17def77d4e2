"""The masked families memorise 32 sentences; sentence order; ELECTRA's two networks."""

from __future__ import annotations

import numpy as np
import torch

from plume.objectives.base import ask
from plume.objectives.masked import MaskedLM
from plume.objectives.replaced import ReplacedTokens
from plume.slots import IGNORE
from tests.laws.laws import framed
from tests.learns.test_learns import POST, fit, right, sentences


def test_robertas_masks_are_memorised() -> None:
    objective = MaskedLM(noise_density=0.2, selection="rounded", segments="separator", random_share=0.0)
    model, batch = fit(objective, POST, [framed(s) for s in sentences()], 150, static=True)
    assert right(objective, model, batch(0), "masked_token") > 0.95


def test_whole_units_and_the_order_of_segments_are_memorised() -> None:
    objective = MaskedLM(
        noise_density=0.3,
        unit="word",
        selection="bernoulli",
        mask_share=1.0,
        random_share=0.0,
        sentence_order=True,
    )
    sources = [framed(s) for s in sentences()]
    for source in sources:
        source.labels["sentence_order"] = source.labels.pop("next_sentence")  # type: ignore[attr-defined, index]
    model, batch = fit(objective, POST, sources, 150, static=True)
    assert right(objective, model, batch(0), "masked_token") > 0.95
    assert right(objective, model, batch(0), "sentence_order") > 0.95


def test_the_generator_memorises_and_the_discriminator_tells() -> None:
    """Samples get better as the generator learns, so the discriminator is asked about those of a fresh one."""
    objective = ReplacedTokens(noise_density=0.3, generator_share=0.5)
    sources = [framed(s) for s in sentences()]
    model, batch = fit(objective, POST, sources, 250)
    held = batch(0)
    generator = model.heads["masked_token"]
    with torch.no_grad():
        asked = ask(held, "masked_token", generator.network(held.inputs).last)
        hits = generator.logits(asked.hidden).argmax(-1) == asked.labels
        poor = torch.randn_like(asked.hidden)
        seen = objective.corrupt(generator, held, poor).inputs
        logits = model.heads["replaced"].logits(model.backbone(seen).last)
    labels = seen.labels["replaced"].numpy()
    scores, truth = logits.numpy()[labels != IGNORE], labels[labels != IGNORE] == 1
    assert hits.float().mean() > 0.9
    ranks = np.empty(len(scores))
    ranks[np.argsort(scores)] = np.arange(len(scores))
    auc = (ranks[truth].mean() - (truth.sum() - 1) / 2) / (~truth).sum()
    assert 0.05 < truth.mean() < 0.3 and auc > 0.9
