"""Do both sides of ``training_step.py`` learn the same? Held-out losses after some hundred steps, three seeds each.

    python benchmarks/same_learning.py [bert|gpt] [--steps 300] [--seeds 3] [--precision auto|bf16|fp32]

A small model on text from a random chain of words; seed by seed both sides start from the same weights and
see the same batches, each with its own dropout. They agree if the two means differ by less than the spread over seeds.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.training_step import precision
from plume.models import interop
from plume.models.pretrained import PretrainedModel
from plume.models.transformer import TransformerConfig
from plume.objectives.base import Objective
from plume.objectives.causal import CausalLM
from plume.objectives.masked import MaskedLM
from plume.slots import IGNORE, Batch, Example, Slots, collate
from plume.vocabulary import Vocabulary

SIZE, LENGTH, BATCH = 64, 32, 16
VOCAB = Vocabulary(size=SIZE, pad=0, eos=1, mask=4)


def chain(rng: np.random.Generator, count: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Rows of ids, each likely after the one before it."""
    table = np.random.default_rng(7).dirichlet(np.full(SIZE - 5, 0.05), SIZE).cumsum(-1)
    ids = rng.integers(5, SIZE, (count, LENGTH + 1))
    for t in range(1, LENGTH + 1):
        draws = rng.random((count, 1))
        ids[:, t] = 5 + (draws > table[ids[:, t - 1]]).sum(1).clip(max=SIZE - 6)
    return ids


def batch(family: str, rng: np.random.Generator, count: int) -> Batch:
    examples = []
    for row in chain(rng, count):
        if family == "gpt":
            examples.append(Example(Slots.causal(row[:-1], labels={"next_token": row[1:]})))
            continue
        hidden = rng.random(LENGTH) < 0.15
        hidden[rng.integers(LENGTH)] = True
        labels = np.where(hidden, row[:-1], IGNORE)
        examples.append(
            Example(Slots.bidirectional(np.where(hidden, 4, row[:-1]), labels={"masked_token": labels}))
        )
    return collate(examples)


def run(family: str, seed: int, steps: int, dtype: torch.dtype) -> tuple[float, float]:
    bert = family == "bert"
    config = TransformerConfig(
        2, 64, 2, 256, norm_order="post" if bert else "pre", token_types=2 if bert else 0, embedding_norm=bert,
        max_positions=LENGTH, activation="gelu" if bert else "gelu_tanh", norm_eps=1e-12 if bert else 1e-5,
    )  # fmt: skip
    objective: Objective[Any] = MaskedLM() if bert else CausalLM()
    model = PretrainedModel.build(config, VOCAB, lambda b: objective.heads(b, VOCAB), seed=seed)
    from transformers import AutoModelForCausalLM, AutoModelForMaskedLM

    with tempfile.TemporaryDirectory() as folder:
        interop.save(model, VOCAB, Path(folder))
        theirs: Any = (AutoModelForMaskedLM if bert else AutoModelForCausalLM).from_pretrained(folder)
    name = "masked_token" if bert else "next_token"

    def our_loss(given: Batch) -> torch.Tensor:
        loss = objective.losses(model, given).heads[name]
        return loss.total / loss.count

    def their_loss(given: Batch) -> torch.Tensor:
        labels = given.inputs.labels[name]
        shifted = {} if bert else {"shift_labels": labels}
        loss: torch.Tensor = theirs(input_ids=given.inputs.input_ids, labels=labels, **shifted).loss
        return loss

    ends = []
    for module, loss_of in ((model, our_loss), (theirs, their_loss)):
        module.train()
        optimizer = torch.optim.AdamW(module.parameters(), 3e-3, weight_decay=0.01)
        rng = np.random.default_rng(seed)
        torch.manual_seed(seed)
        for step in range(steps):
            for group in optimizer.param_groups:
                group["lr"] = 3e-3 * min(1.0, (step + 1) / 30) * (1 - step / steps)
            with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
                loss = loss_of(batch(family, rng, BATCH))
            loss.backward()
            torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
        module.eval()
        with torch.no_grad():
            ends.append(float(loss_of(batch(family, np.random.default_rng(1_000_000), 256))))
    return ends[0], ends[1]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("family", nargs="?", choices=("bert", "gpt"), default="gpt")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--precision", choices=("auto", "bf16", "fp32"), default="auto")
    args = parser.parse_args()
    pairs = [run(args.family, seed, args.steps, precision(args.precision)) for seed in range(args.seeds)]
    for seed, (mine, other) in enumerate(pairs):
        print(f"seed {seed}: Plume {mine:.4f}, transformers {other:.4f} nats a token")
    ours, theirs = zip(*pairs, strict=True)
    apart = abs(statistics.mean(ours) - statistics.mean(theirs))
    spread = max(max(side) - min(side) for side in (ours, theirs))
    print(f"means differ by {apart:.4f}; the spread over seeds is {spread:.4f}: "
          f"{'the same' if apart < spread else 'NOT the same'}")  # fmt: skip


if __name__ == "__main__":
    main()
