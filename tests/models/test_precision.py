"""bf16 autocast: the same model within rounding, in training and evaluation, both norm orders."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from plume.models.pretrained import PretrainedModel
from plume.models.recurrent import RecurrentConfig
from plume.models.transformer import TransformerConfig
from plume.objectives.causal import CausalLM
from plume.objectives.masked import MaskedLM
from plume.slots import IGNORE, Example, Slots, collate
from plume.vocabulary import Vocabulary

VOCAB = Vocabulary(size=50, pad=0, mask=3)
CONFIGS = {
    "bert": TransformerConfig(2, 32, 2, 64, "post", token_types=2, embedding_norm=True),
    "gpt": TransformerConfig(2, 32, 2, 64, "pre", activation="gelu_tanh"),
    "lstm": RecurrentConfig(2, 32),
}


@pytest.mark.parametrize("family", CONFIGS)
@pytest.mark.parametrize("packed", [False, True])
def test_a_step_in_bf16_is_the_fp32_step_within_rounding(family, packed):
    rng = np.random.default_rng(0)
    examples = []
    for n in (12, 7, 4):
        ids = rng.integers(4, 50, n + 1)
        if family == "bert":
            labels = np.where(np.arange(n) % 3 == 1, ids[:-1], IGNORE)
            examples.append(Example(Slots.bidirectional(ids[:-1], labels={"masked_token": labels})))
        else:
            examples.append(Example(Slots.causal(ids[:-1], labels={"next_token": ids[1:]})))
    objective = MaskedLM() if family == "bert" else CausalLM()
    model = PretrainedModel.build(CONFIGS[family], VOCAB, lambda b: objective.heads(b, VOCAB), seed=2)
    batch = collate(examples, packed=packed and model.backbone.packs)
    results = []
    for fast in (False, True):
        torch.manual_seed(0)  # the same dropout in both
        with torch.autocast("cpu", torch.bfloat16, enabled=fast):
            (loss,) = objective.losses(model, batch).heads.values()
        loss.total.backward()
        assert loss.total.dtype == torch.float32
        grads = torch.cat([p.grad.flatten() for p in model.parameters()])
        assert grads.dtype == torch.float32 and bool(grads.isfinite().all())
        results.append((loss.total.detach(), grads))
        model.zero_grad()
    torch.testing.assert_close(results[1][0], results[0][0], rtol=1e-2, atol=0)
    assert (results[1][1] - results[0][1]).norm() < 0.03 * results[0][1].norm()
    assert not torch.equal(results[1][1], results[0][1])


@pytest.mark.parametrize("order", ["pre", "post"])
def test_decoding_with_weights_in_bf16(order):
    config = TransformerConfig(2, 32, 2, 64, order)
    model = PretrainedModel.build(config, VOCAB, lambda b: CausalLM().heads(b, VOCAB), seed=2).eval()
    slots = collate([Example(Slots.causal(np.arange(5, 15)))]).inputs
    exact = model.backbone(slots).last
    model.to(torch.bfloat16)
    with torch.inference_mode():
        first = model.backbone(collate([Example(Slots.causal(np.arange(5, 14)))]).inputs, use_memory=True)
        new = {"input_ids": torch.tensor([[14]])} | {
            n: torch.tensor([[9]]) for n in ("position_ids", "visible_at", "sees_until")
        }
        last = replace(collate([Example(Slots.causal([14]))]).inputs, **new)
        second = model.backbone(last, memory=first.memory, use_memory=True)
    assert second.last.dtype == torch.bfloat16 and len(second.memory.slots) == 10
    torch.testing.assert_close(second.last.float(), exact[:, -1:], rtol=0, atol=0.1)
