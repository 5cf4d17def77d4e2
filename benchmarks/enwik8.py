"""enwik8 for a fixed time: test bits per byte of ``plume pretrain``'s loop beside a nanoGPT-style loop.

    python -m pip download --no-deps --no-binary :all: native-sparse-attention-pytorch==0.2.3
    tar xzf native*.tar.gz && gunzip native*/data/enwik8.gz
    python benchmarks/enwik8.py --data native*/data/enwik8 --minutes 20 --seeds 3

Both sides: bytes as tokens, 4 layers of 256, context 256, batches of 16, the first 90 % of the text to train, the
last 5 % to test in windows of 256 that share nothing. The peer is what that project's README runs: its block,
initial weights, AdamW (0.9, 0.95), rate 1e-3 with 100 steps of warm-up and a cosine to a tenth, clipping at 1,
no dropout, bf16 autocast where the machine multiplies bf16 natively. Each side times a few of its own steps,
decides how many fit, and then runs them alone, turn by turn; the seconds it took are printed beside its result.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from plume.models.pretrained import PretrainedModel
from plume.objectives.causal import CausalLM
from plume.recipes import gpt
from plume.slots import Example as PlumeExample
from plume.slots import Slots, collate
from plume.text.tokens import Tokens
from plume.text.windows import PackedStream
from plume.training import precision, session, stages
from plume.training.pretraining import build_model
from plume.vocabulary import Vocabulary

ENWIK8 = "a1fa5ffddb56f4953e226637dabbb36a"
LAYERS, WIDTH, HEADS, LENGTH, BATCH = 4, 256, 4, 256, 16
VOCAB = Vocabulary(size=256, eos=0, pad=0)
CPU = torch.device("cpu")


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm_1, self.norm_2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.up, self.down = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        b, t, _ = x.shape
        q, k, v = (p.view(b, t, HEADS, -1).transpose(1, 2) for p in self.qkv(self.norm_1(x)).split(WIDTH, 2))
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(mixed.transpose(1, 2).reshape(b, t, WIDTH))
        return x + self.down(F.gelu(self.up(self.norm_2(x))))


class Peer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.places = nn.Embedding(VOCAB.size, WIDTH), nn.Embedding(LENGTH, WIDTH)
        self.blocks = nn.ModuleList(Block() for _ in range(LAYERS))
        self.norm = nn.LayerNorm(WIDTH)
        for name, p in self.named_parameters():
            if p.ndim == 2:
                residual = name.endswith(("out.weight", "down.weight"))
                nn.init.normal_(p, std=0.02 / math.sqrt(2 * LAYERS) if residual else 0.02)
            elif name.endswith("bias"):
                nn.init.zeros_(p)

    def forward(self, ids: Tensor, labels: Tensor) -> Tensor:
        x = self.tokens(ids) + self.places.weight[: ids.shape[1]]
        for block in self.blocks:
            x = block(x)
        return F.cross_entropy((self.norm(x) @ self.tokens.weight.T).flatten(0, 1), labels.flatten())


def fitting(step: Callable[[], object], seconds: float) -> int:
    """How many steps fit, from the median of a few."""
    taken: list[float] = []
    for _ in range(12):
        before = time.monotonic()
        step()
        taken.append(time.monotonic() - before)
    return max(20, int(seconds / statistics.median(taken[2:])))


def peer(train: np.ndarray, test: np.ndarray, seconds: float, seed: int) -> tuple[float, float, int]:
    torch.manual_seed(seed)
    model, draw = Peer(), np.random.default_rng(seed)
    decayed = [p for p in model.parameters() if p.ndim == 2]
    others = [p for p in model.parameters() if p.ndim != 2]
    groups = [{"params": decayed, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.95), fused=True)
    numbers = precision.choose("auto", CPU)

    def step(rate: float = 0.0) -> None:
        starts = draw.integers(0, len(train) - LENGTH - 1, BATCH)
        rows = torch.from_numpy(np.stack([train[s : s + LENGTH + 1] for s in starts]).astype(np.int64))
        for group in optimizer.param_groups:
            group["lr"] = rate
        with precision.autocast(numbers, CPU):
            loss = model(rows[:, :-1], rows[:, 1:])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    steps = fitting(step, seconds)
    began = time.monotonic()
    for s in range(steps):
        half = 0.5 * (1 + math.cos(math.pi * min(1.0, s / steps)))
        step(1e-3 * min(1.0, (s + 1) / 100) * (0.1 + 0.9 * half))
    taken = time.monotonic() - began
    with torch.no_grad():
        nats = [float(model(ids, labels)) for ids, labels in windows(test)]
    return statistics.fmean(nats) / math.log(2), taken, steps


def windows(test: np.ndarray) -> Iterator[tuple[Tensor, Tensor]]:
    rows = (len(test) - 1) // LENGTH // BATCH * BATCH
    ids = torch.from_numpy(test[: rows * LENGTH].astype(np.int64)).view(-1, BATCH, LENGTH)
    labels = torch.from_numpy(test[1 : rows * LENGTH + 1].astype(np.int64)).view(-1, BATCH, LENGTH)
    yield from zip(ids, labels, strict=True)


def ours(train: np.ndarray, test: np.ndarray, seconds: float, seed: int) -> tuple[float, float, int]:
    tiny = gpt.tiny()
    shape = replace(
        tiny.model, num_layers=LAYERS, d_model=WIDTH, num_heads=HEADS, d_ff=4 * WIDTH, max_positions=LENGTH
    )
    training = replace(
        tiny.training, batch_size=BATCH, microbatch_size=BATCH, lr=3e-3, schedule="linear", min_lr_share=0.0,
        eval_every=None, save_every=10**9, data_seed=seed, init_seed=seed, noise_seed=seed,
    )  # fmt: skip
    recipe = replace(tiny, windows=PackedStream(length=LENGTH), model=shape, training=training)
    text = Tokens(train, np.zeros(len(train), np.uint8), np.array([0, len(train)]), len(train))
    steps = fitting(_trial(build_model(recipe, VOCAB), text), seconds)
    recipe = replace(recipe, training=replace(training, steps=steps, save_every=steps))
    with tempfile.TemporaryDirectory() as folder:
        model = build_model(recipe, VOCAB)
        began = time.monotonic()
        with session.hold(Path(folder) / "run", recipe, "pretraining") as held:
            session.begin(held)
            made = {"data": str(seed), "tokenizer": None}
            session.train(held, model, stages.phases(recipe, text, VOCAB), [], VOCAB, length=LENGTH,
                          bytes_per_token=1.0, made_of=made, parent=None)  # fmt: skip
        taken = time.monotonic() - began
    model.eval()
    with torch.no_grad():
        nats = [_loss(model, ids, labels) for ids, labels in windows(test)]
    return statistics.fmean(nats) / math.log(2), taken, steps


def _trial(model: PretrainedModel, text: Tokens) -> Callable[[], None]:
    """A step as the trainer takes it, to be timed."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6, fused=True)
    rows = torch.from_numpy(text.ids[: BATCH * (LENGTH + 1)].astype(np.int64)).view(BATCH, -1)
    numbers = precision.choose("auto", CPU)

    def step() -> None:
        with precision.autocast(numbers, CPU):
            total, count = _asked(model, rows[:, :-1], rows[:, 1:])
        (total / count).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return step


def _asked(model: PretrainedModel, ids: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    rows = zip(ids.numpy(), labels.numpy(), strict=True)
    batch = collate([PlumeExample(Slots.causal(i, labels={"next_token": y})) for i, y in rows])
    return CausalLM().losses(model, batch).heads["next_token"]


def _loss(model: PretrainedModel, ids: Tensor, labels: Tensor) -> float:
    total, count = _asked(model, ids, labels)
    return float(total / count)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--data", type=Path, help="the file enwik8; without it a made-up text tries the program out"
    )
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--test-bytes", type=int, default=1_000_000, help="of the last 5 %% of the text")
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    if asked.data is None:
        text = np.random.default_rng(0).choice(np.frombuffer(b"etaoin shrdlu.\n", np.uint8), 2_000_000)
    else:
        text = np.fromfile(asked.data, np.uint8)
        if hashlib.md5(text.tobytes(), usedforsecurity=False).hexdigest() != ENWIK8:
            print(f"warning: {asked.data} is not enwik8 (its MD5 is another)")
    train, test = text[: len(text) * 9 // 10], text[len(text) * 19 // 20 :][: asked.test_bytes]
    found: dict[str, list[float]] = {"ours": [], "peer": []}
    for seed in range(asked.seeds):
        for name, side in (("ours", ours), ("peer", peer)):
            bits, seconds, steps = side(train, test, asked.minutes * 60, seed)
            found[name].append(bits)
            print(
                f"seed {seed}  {name}  {bits:.4f} bits per byte  {steps:,} steps  {seconds:.0f} s", flush=True
            )
    differences = [a - b for a, b in zip(found["ours"], found["peer"], strict=True)]
    spread = statistics.stdev(differences) if len(differences) > 1 else float("nan")
    print(f"ours - peer: {statistics.fmean(differences):+.4f} bits per byte (standard deviation {spread:.4f}, "
          f"{asked.seeds} seeds, {asked.minutes:g} minutes a side)")  # fmt: skip
    if asked.json:
        asked.json.write_text(json.dumps(found) + "\n", "utf-8")


if __name__ == "__main__":
    main()
