"""The masked families memorise 32 sentences; sentence order; ELECTRA's two networks."""

from __future__ import annotations

import numpy as np
import torch

from plume.models.replaced import Generator
from plume.objectives.base import ask
from plume.objectives.masked import MaskedLM
from plume.objectives.replaced import ReplacedTokens
from plume.slots import IGNORE, Batch
from tests.laws.laws import framed
from tests.learns.test_learns import POST, TINY, fit, right, sentences


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


def test_the_generator_memorises() -> None:
    objective = ReplacedTokens(noise_density=0.3, mask_share=1.0, generator_share=1.0)
    model, batch = fit(objective, POST, [framed(s) for s in sentences()], 150, static=True)
    held, generator = batch(0), model.heads["masked_token"]
    with torch.no_grad():
        asked = ask(held, "masked_token", generator.network(held.inputs).last)
    assert (generator.logits(asked.hidden).argmax(-1) == asked.labels).float().mean() > 0.95


class Blind(ReplacedTokens):
    """The generator samples without having read anything: what it writes can be told from the memorised sentences."""

    def corrupt(self, generator: Generator, batch: Batch, hidden: torch.Tensor) -> Batch:
        return super().corrupt(generator, batch, torch.zeros_like(hidden))


def test_the_discriminator_tells_what_was_replaced() -> None:
    """32 sentences and one draw of fakes for each, memorised: the area under its curve is above 0.9."""
    objective = Blind(noise_density=0.15, generator_share=0.5)
    model, batch = fit(objective, TINY, [framed(s) for s in sentences()], 150, lr=4e-3, static=True)
    held, generator = batch(0), model.heads["masked_token"]
    with torch.no_grad():
        hidden = ask(held, "masked_token", generator.network(held.inputs).last).hidden
        seen = objective.corrupt(generator, held, hidden).inputs
        logits = model.heads["replaced"].logits(model.backbone(seen).last)
    labels = seen.labels["replaced"].numpy()
    scores, truth = logits.numpy()[labels != IGNORE], labels[labels != IGNORE] == 1
    ranks = np.empty(len(scores))
    ranks[np.argsort(scores)] = np.arange(len(scores))
    auc = (ranks[truth].mean() - (truth.sum() - 1) / 2) / (~truth).sum()
    assert 0.05 < truth.mean() < 0.3 and auc > 0.9, auc
