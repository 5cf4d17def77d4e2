"""The smallest run there is: a made-up text, plans that cut it, a model of a few thousand weights.

Used in this process, by subprocesses that are killed (``python -m tests.training.small``) and under torchrun.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch

from plume.models.pretrained import PretrainedModel
from plume.models.recurrent import RecurrentConfig
from plume.models.transformer import TransformerConfig
from plume.objectives.base import Objective
from plume.objectives.causal import CausalLM
from plume.objectives.classification import Classification, Labelled
from plume.objectives.masked import MaskedLM
from plume.objectives.permuted import PermutedLM
from plume.seeding import Permutation, key
from plume.text.store import Tokens
from plume.text.windows import CarriedPairs, Plan, Reading, Window, Windows
from plume.training import parallel, precision, stages
from plume.training.folder import RunFolder
from plume.training.loader import Epochs, Phase
from plume.training.meters import history
from plume.training.settings import Pretraining, Training
from plume.training.trainer import Setting, Trainer
from plume.vocabulary import Vocabulary

VOCAB = Vocabulary(size=40, pad=0, bos=1, eos=2, cls=3, sep=4, mask=5)


def tokens(count: int, seed: int = 0) -> Tokens:
    """Ids that follow one another with some order, so that there is something to learn."""
    rng = np.random.default_rng(seed)
    ids = (6 + np.cumsum(rng.integers(1, 4, count)) % 34).astype(np.uint16)
    return Tokens(ids, np.ones(count, np.uint8), np.array([0, count]), count * 4)


@dataclass(frozen=True)
class Chunks(Windows):
    """Windows of ``length`` tokens one after the other; a quarter of them is shorter, to be packed."""

    def plan(self, tokens: Tokens, vocab: Vocabulary, reading: Reading) -> Plan:
        return _Chunks(tokens, reading)


class _Chunks:
    def __init__(self, tokens: Tokens, reading: Reading) -> None:
        self.tokens, self.length, self.offset = tokens, reading.length, reading.epoch % 3
        self.size = (tokens.num_tokens - self.offset) // self.length
        order = reading.epoch if reading.order is None else reading.order
        self.permutation = Permutation(self.size, key(reading.seed, "order", order))

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> Window:
        number = self.order(index)
        start = self.offset + number * self.length
        return window(self.tokens.ids[start : start + (self.length // 3 if number % 4 == 0 else self.length)])

    def order(self, index: int) -> int:
        return self.permutation[index]

    def starts(self, index: int) -> bool:
        return True


@dataclass(frozen=True)
class Rows(Windows):
    """The text in ``batch_size`` rows that are read side by side (spec 03 section 1.2)."""

    carries: ClassVar[bool] = True

    def plan(self, tokens: Tokens, vocab: Vocabulary, reading: Reading) -> Plan:
        return _Rows(tokens, reading.length, reading.batch_size)


class _Rows:
    def __init__(self, tokens: Tokens, length: int, batch_size: int) -> None:
        self.tokens, self.length, self.rows = tokens, length, batch_size
        self.stride = length - 1  # the last token of a causal window is the first of the next
        self.batches = (tokens.num_tokens // batch_size - 1) // self.stride

    def __len__(self) -> int:
        return self.batches * self.rows

    def __getitem__(self, index: int) -> Window:
        batch, row = divmod(index, self.rows)
        start = row * (self.tokens.num_tokens // self.rows) + batch * self.stride
        return window(self.tokens.ids[start : start + self.length])

    def order(self, index: int) -> int:
        return index

    def starts(self, index: int) -> bool:
        return index < self.rows


def window(ids: np.ndarray[Any, Any]) -> Window:
    """A window without specials."""
    size = len(ids)
    return Window(
        ids.astype(np.int64), np.ones(size, np.uint8), np.zeros(size, bool), np.zeros(size, np.int64)
    )


TRANSFORMER = TransformerConfig(num_layers=1, d_model=16, num_heads=2, d_ff=32, max_positions=32, dropout=0.1)
RELATIVE = replace(TRANSFORMER, norm_order="post", positions="relative", virtual_tokens=1)
TRAINING = Training(
    steps=12, batch_size=8, microbatch_size=2, lr=3e-3, warmup_steps=2, save_every=4, eval_every=6, eval_batches=2,
    precision="fp32", keep=2,
)  # fmt: skip


def _recipe(
    windows: Any, objective: Objective[Any], model: Any, masking: Literal["static", "dynamic"]
) -> Pretraining:
    tokenizer: Any = None  # the ids are made up
    return Pretraining(
        tokenizer=tokenizer,
        windows=windows,
        objective=objective,
        model=model,
        training=TRAINING,
        masking=masking,
    )


RECIPES: Mapping[str, Pretraining] = {
    "causal": _recipe(Chunks(12), CausalLM(), TRANSFORMER, "dynamic"),
    "masked": _recipe(Chunks(12), MaskedLM(), TRANSFORMER, "static"),
    "memory": _recipe(CarriedPairs(14), PermutedLM(memory_length=10), RELATIVE, "dynamic"),
    "carried": _recipe(Rows(8), CausalLM(), RecurrentConfig(2, 16, dropout=0.1), "dynamic"),
}


class Questions:
    """Labelled texts as a plan: is the first token even?"""

    def __init__(self, epoch: int) -> None:
        rng = np.random.default_rng(5)
        self.texts = [rng.integers(6, 40, 3 + i % 5) for i in range(30)]
        self.permutation = Permutation(30, key(1, "order", epoch))

    def __len__(self) -> int:
        return 30

    def __getitem__(self, index: int) -> Labelled:
        ids = self.texts[self.order(index)]
        return Labelled((ids,), int(ids[0] % 2))

    def order(self, index: int) -> int:
        return self.permutation[index]

    def starts(self, index: int) -> bool:
        return True


def trainer(
    kind: str,
    folder: Path,
    ranks: parallel.Ranks | None = None,
    recipe: Pretraining | None = None,
    **changes: Any,
) -> Trainer:
    """A trainer of that recipe with ``changes`` to its training."""
    recipe = recipe or RECIPES.get(kind) or RECIPES["masked"]
    recipe = replace(recipe, training=replace(recipe.training, **changes))
    if kind == "classification":
        objective: Objective[Any] = Classification(MaskedLM(), ("odd", "even"))
        training = recipe.training
        phases: list[Phase[Any]] = [Phase(objective, Epochs(Questions), training.batch_size, (0, 0))]
        dev = Epochs(lambda epoch: Questions(0))
        held_out: list[Phase[Any] | str] = [
            Phase(objective, dev, training.batch_size, (0, 0), static=True, stream="held-out", samples=16)
        ]
    else:
        objective = recipe.objective
        phases = list(stages.phases(recipe, tokens(700), VOCAB))
        held_out = list(stages.held_out(recipe, tokens(200, seed=1), VOCAB))
    model = PretrainedModel.build(recipe.model, VOCAB, lambda b: objective.heads(b, VOCAB), seed=1)
    size = recipe.training.microbatch_size or recipe.training.batch_size
    cpu = torch.device("cpu")
    numbers = precision.choose(recipe.training.precision, cpu)
    setting = Setting(ranks or parallel.Ranks(), cpu, numbers, size, bytes_per_token=4.0, quiet=True)
    folder.mkdir(parents=True, exist_ok=True)
    return Trainer(model, recipe.training, phases, held_out, VOCAB, RunFolder(folder), setting)


def result(run: Trainer) -> dict[str, Any]:
    """All that must be the same bit for bit: every loss in hex, and a hash of weights, moments and memory."""
    rows = {
        split: [
            [row["step"], *(v.hex() for v in row["losses"].values()), row["tokens"]]
            for row in history(run.folder.metrics, split)
        ]
        for split in ("train", "dev")
    }
    checkpoint = run.checkpoints.require()
    digest = hashlib.sha256()
    for part in ("model", "optimizer", "memory"):
        for name, tensor in sorted(checkpoint.tensors(part).items()):
            digest.update(name.encode() + tensor.numpy().tobytes())
    progress = {k: v for k, v in checkpoint.state["progress"].items() if k not in ("seconds", "attempt")}
    return {
        **rows,
        "weights": digest.hexdigest(),
        "guard": checkpoint.state["guard"],
        "scale": checkpoint.state["scale"],
        "progress": progress,
    }


def main() -> None:
    """``python -m tests.training.small KIND FOLDER [key=json ...]``: what a test kills."""
    kind, folder, *words = sys.argv[1:]
    changes = {key: json.loads(value) for key, value in (word.split("=", 1) for word in words)}
    torch.set_num_threads(1)
    with parallel.ranks() as ranks:
        run = trainer(kind, Path(folder), ranks, **changes)
        outcome = run.run()
        if ranks.first:
            print(outcome)


if __name__ == "__main__":
    main()
