"""T5's network memorises the spans and the masked tokens of 32 sentences, by its own optimiser."""

from __future__ import annotations

from dataclasses import replace

import torch

from plume import config
from plume.models.pretrained import PretrainedModel
from plume.objectives.joint import JointDenoising
from plume.seeding import rng
from plume.slots import collate
from plume.training.adafactor import Adafactor
from tests.laws.laws import WITH_SENTINELS, window
from tests.learns.test_learns import right, sentences


def test_both_stacks_memorise() -> None:
    objective = JointDenoising(mask_share=1.0, random_share=0.0)
    shape = replace(config.resolve("t5:tiny").model, d_model=32, num_heads=2, d_head=16, d_ff=64)
    model = PretrainedModel.build(shape, WITH_SENTINELS, lambda b: objective.heads(b, WITH_SENTINELS), seed=0)
    drawn = [
        objective.example(window(s), WITH_SENTINELS, rng(0, "noise", i)) for i, s in enumerate(sentences())
    ]
    batch = collate([e for e in drawn if e is not None])
    optimizer = Adafactor(model.parameters(), lr=0.1)
    for step in range(150):
        for group in optimizer.param_groups:
            group["lr"] = 0.1 * (1 - step / 150)
        losses = objective.losses(model, batch).heads
        optimizer.zero_grad()
        sum((loss.total / loss.count for loss in losses.values()), torch.zeros(())).backward()
        optimizer.step()
    model.eval()
    assert right(objective, model, batch, "next_token") > 0.98
    assert right(objective, model, batch, "masked_token") > 0.95
