"""The parts without the trainer: a small BERT on the lines of a text file, every step in sight.

    python examples/by_hand.py my_texts/a.txt [steps]

What `plume pretrain` adds: held-out text, accumulation, several processes, mixed precision, checkpoints, curves.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch

from plume.models.pretrained import PretrainedModel
from plume.models.transformer import TransformerConfig
from plume.objectives.masked import MaskedLM
from plume.seeding import key, rng
from plume.slots import collate
from plume.text.tokenizers import Characters
from plume.text.windows import Window


def train(path: Path, steps: int) -> float:
    """Mean loss, in nats a hidden token, of the last step."""
    lines = path.read_text(encoding="utf-8").splitlines()
    tokenizer = Characters(vocab_size=4_000).train(lines)
    vocab = tokenizer.vocabulary
    texts = [encoding.ids[:126] for encoding in tokenizer.encode_batch(lines)]

    objective = MaskedLM(noise_density=0.15)
    config = TransformerConfig(num_layers=2, d_model=64, num_heads=2, d_ff=256, norm_order="post", positions="learned",
                               max_positions=128, dropout=0.1)  # fmt: skip
    model = PretrainedModel.build(config, vocab, lambda backbone: objective.heads(backbone, vocab), seed=0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)

    mean = float("nan")
    for step in range(steps):
        chosen = rng(0, "order", step).integers(len(texts), size=16)
        # One draw a text decides what is hidden, who sees whom and what is asked.
        drawn = [objective.example(frame(texts[t], vocab), vocab, rng(0, "noise", step, t)) for t in chosen]
        batch = collate([example for example in drawn if example is not None], pad_id=vocab.require("pad"))
        torch.manual_seed(key(0, "model", step))  # dropout
        losses = objective.losses(model, batch).heads
        loss = sum((loss.total / loss.count for loss in losses.values()), torch.zeros(()))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        mean = loss.item()
        if step % 20 == 0:
            print(f"step {step:4}  loss {mean:.3f}", flush=True)
    return mean


def frame(ids: np.ndarray, vocab) -> Window:
    """[CLS] text [SEP], both special: never hidden."""
    framed = np.concatenate([[vocab.require("cls")], ids, [vocab.require("sep")]])
    special = np.zeros(len(framed), bool)
    special[[0, -1]] = True
    return Window(framed, np.ones(len(framed), np.uint8), special, np.zeros_like(framed))


if __name__ == "__main__":
    torch.set_num_threads(2)
    train(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 200)
