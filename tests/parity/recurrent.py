"""What the recurrent families are compared with: torch's own stacked cells and a softmax written out."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import nn

from plume.models.pretrained import PretrainedModel
from plume.models.recurrent import Cell, RecurrentConfig
from plume.objectives.causal import CausalLM
from plume.slots import Example, Memory, Slots, collate
from plume.vocabulary import Vocabulary

VOCAB = Vocabulary(size=31, pad=0)
CELLS: dict[Cell, Any] = {"lstm": nn.LSTM, "gru": nn.GRU}


def parity(cell: Cell, dtype: torch.dtype, carried: bool) -> dict[str, float]:
    """Largest differences of hidden states (carried ones too), logits, loss and gradients, over a padded batch."""
    objective, d = CausalLM(), 12
    model = PretrainedModel.build(
        RecurrentConfig(2, d, cell), VOCAB, lambda b: objective.heads(b, VOCAB), seed=3
    ).to(dtype)
    theirs = CELLS[cell](d, d, 2, batch_first=True, dtype=dtype)
    pairs = []
    for name, p in theirs.named_parameters():
        part, layer = name.rsplit("_l", 1)
        mine = getattr(model.backbone.layers[int(layer)], f"{part}_l0")
        p.data.copy_(mine)
        pairs.append((mine, p))
    draw = np.random.default_rng(1)
    texts = [draw.integers(1, 31, n + 1) for n in (9, 9, 9)]
    batch = collate(
        [Example(Slots.causal(t[:-1], labels={"next_token": t[1:]})) for t in texts], packed=False
    )
    before = None
    if carried:
        parts = 2 if cell == "lstm" else 1
        kept = [torch.from_numpy(draw.normal(size=(3, 2, d))).to(dtype) for _ in range(parts)]
        batch = replace(batch, memory=Memory(None, tuple(kept)))
        turned = tuple(t.transpose(0, 1).contiguous() for t in kept)
        before = turned if cell == "lstm" else turned[0]
    hidden = model.backbone(batch.inputs, memory=batch.memory)
    losses = objective.losses(model, batch).heads["next_token"]
    table = model.backbone.embedding.weight.detach().clone().requires_grad_()
    out, state = theirs(table[batch.inputs.input_ids], before)
    last = state if cell == "lstm" else (state,)
    logits = out @ table.T
    labels = batch.inputs.labels["next_token"]
    mean = nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten())
    mine = losses.total / losses.count
    found = {
        "hidden": max(
            _apart(hidden.last, out),
            *(_apart(a, b.transpose(0, 1)) for a, b in zip(hidden.memory.layers, last, strict=True)),
        ),
        "logits": _apart(model.heads["next_token"].logits(hidden.last), logits),
        "loss": _apart(mine, mean),
    }
    mine.backward()
    mean.backward()
    pairs.append((model.backbone.embedding.weight, table))
    return {**found, "gradients": max(_apart(a.grad, b.grad) for a, b in pairs)}


def _apart(a: Any, b: Any) -> float:
    return float((a - b).detach().abs().max())
