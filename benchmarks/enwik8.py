"""enwik8 for a fixed time: test bits per byte of ``plume pretrain``'s loop beside a nanoGPT-style loop.

    python -m pip download --no-deps --no-binary :all: native-sparse-attention-pytorch==0.2.3
    tar xzf native*.tar.gz && gunzip native*/data/enwik8.gz
    python benchmarks/enwik8.py --data native*/data/enwik8 --minutes 20 --seeds 3

Both sides: bytes as tokens, 4 layers of 256, context 256, batches of 16, the first 90 % of the text to train, the
last 5 % to test in windows of 256 that share nothing. The peer is what that project's README runs: its block,
initial weights, AdamW (0.9, 0.95), rate 1e-3 (``--peer-rate``) with 100 steps of warm-up and a cosine to a tenth,
clipping at 1, no dropout, bf16 autocast where the machine multiplies bf16 natively.

First both sides' steps are timed in turns, each side in a process of its own (the peer's keeps the system's way of
giving memory back), which says how many fit into the minutes; this part wants a quiet machine. Then each side takes
that many with each seed, and wall and CPU time are printed beside its result. With ``--json`` what is done is kept,
and the same command goes on after an interruption.
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
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from plume.objectives.causal import CausalLM
from plume.recipes import gpt
from plume.slots import Example, Slots, collate
from plume.text.tokens import Tokens
from plume.text.windows import PackedStream
from plume.training import precision, session, stages
from plume.training.pretraining import build_model
from plume.vocabulary import Vocabulary

ENWIK8 = "a1fa5ffddb56f4953e226637dabbb36a"
LAYERS, WIDTH, HEADS, LENGTH, BATCH = 4, 256, 4, 256, 16
VOCAB = Vocabulary(size=256, eos=0, pad=0)
CPU = torch.device("cpu")
SIDES = ("ours", "peer")
Losses = Callable[[Tensor, Tensor], float]  # mean nats of windows, from ids and labels


class Result(NamedTuple):
    bits: float
    steps: int
    seconds: float
    cpu: float


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


def peer(train: np.ndarray, steps: int, seed: int, rate: float) -> Losses:
    torch.manual_seed(seed)
    model, draw = Peer(), np.random.default_rng(seed)
    decayed = [p for p in model.parameters() if p.ndim == 2]
    others = [p for p in model.parameters() if p.ndim != 2]
    groups = [{"params": decayed, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.95), fused=True)
    numbers = precision.choose("auto", CPU)
    for s in range(steps):
        half = 0.5 * (1 + math.cos(math.pi * s / steps))
        for group in optimizer.param_groups:
            group["lr"] = rate * min(1.0, (s + 1) / 100) * (0.1 + 0.9 * half)
        starts = draw.integers(0, len(train) - LENGTH - 1, BATCH)
        rows = torch.from_numpy(np.stack([train[s : s + LENGTH + 1] for s in starts]).astype(np.int64))
        with precision.autocast(numbers, CPU):
            loss = model(rows[:, :-1], rows[:, 1:])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    return lambda ids, labels: float(model(ids, labels))


def windows(test: np.ndarray) -> Iterator[tuple[Tensor, Tensor]]:
    rows = (len(test) - 1) // LENGTH // BATCH * BATCH
    ids = torch.from_numpy(test[: rows * LENGTH].astype(np.int64)).view(-1, BATCH, LENGTH)
    labels = torch.from_numpy(test[1 : rows * LENGTH + 1].astype(np.int64)).view(-1, BATCH, LENGTH)
    yield from zip(ids, labels, strict=True)


def ours(train: np.ndarray, steps: int, seed: int) -> Losses:
    tiny = gpt.tiny()
    shape = replace(
        tiny.model, num_layers=LAYERS, d_model=WIDTH, num_heads=HEADS, d_ff=4 * WIDTH, max_positions=LENGTH
    )
    training = replace(
        tiny.training, steps=steps, batch_size=BATCH, microbatch_size=BATCH, lr=3e-3, schedule="linear",
        min_lr_share=0.0, eval_every=None, save_every=steps, data_seed=seed, init_seed=seed, noise_seed=seed,
    )  # fmt: skip
    recipe = replace(tiny, windows=PackedStream(length=LENGTH), model=shape, training=training)
    text = Tokens(train, np.zeros(len(train), np.uint8), np.array([0, len(train)]), len(train))
    model = build_model(recipe, VOCAB)
    with (
        tempfile.TemporaryDirectory() as folder,
        session.hold(Path(folder) / "run", recipe, "pretraining") as held,
    ):
        session.begin(held.folder, recipe)
        session.train(held, model, stages.phases(recipe, text, VOCAB), [], VOCAB, length=LENGTH,
                      bytes_per_token=1.0, made_of={"data": str(seed), "tokenizer": None}, parent=None)  # fmt: skip
    model.eval()

    def loss(ids: Tensor, labels: Tensor) -> float:
        rows = zip(ids.numpy(), labels.numpy(), strict=True)
        batch = collate([Example(Slots.causal(i, labels={"next_token": y})) for i, y in rows])
        total, count = CausalLM().losses(model, batch).heads["next_token"]
        return float(total / count)

    return loss


def trained(asked: argparse.Namespace, side: str, steps: int, seed: int) -> Result:
    """In a process of its own: ``steps`` steps, and the bits per byte that they give (``test_bytes`` of them)."""
    if asked.data is None:
        text = np.random.default_rng(0).choice(np.frombuffer(b"etaoin shrdlu.\n", np.uint8), 2_000_000)
    else:
        text = np.fromfile(asked.data, np.uint8)
    train, test = text[: len(text) * 9 // 10], text[len(text) * 19 // 20 :][: asked.test_bytes]
    began, used = time.perf_counter(), time.process_time()
    loss = ours(train, steps, seed) if side == "ours" else peer(train, steps, seed, asked.peer_rate)
    seconds, cpu = time.perf_counter() - began, time.process_time() - used
    with torch.no_grad():
        nats = [loss(ids, labels) for ids, labels in windows(test)]
    return Result(statistics.fmean(nats) / math.log(2), steps, seconds, cpu)


def apart(asked: argparse.Namespace, side: str, steps: int, seed: int) -> Result:
    """``trained`` in a fresh process."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
        return process.submit(trained, asked, side, steps, seed).result()


def pace(asked: argparse.Namespace) -> dict[str, float]:
    """Seconds a step of either side, the two in turns: a longer run less a shorter one."""
    short = argparse.Namespace(**{**vars(asked), "test_bytes": BATCH * LENGTH + 1})
    found: dict[str, list[float]] = {side: [] for side in SIDES}
    for turn in range(asked.turns):
        for side in SIDES if turn % 2 else SIDES[::-1]:
            longer, shorter = (apart(short, side, steps, 0).seconds for steps in (40, 10))
            found[side].append((longer - shorter) / 30)
    return {side: statistics.median(seconds) for side, seconds in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--data", type=Path, help="the file enwik8; without it a made-up text tries the program out"
    )
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--seeds", type=int, default=3, help="0: speed alone")
    parser.add_argument("--turns", type=int, default=5, help="of timing")
    parser.add_argument("--peer-rate", type=float, default=1e-3)
    parser.add_argument("--test-bytes", type=int, default=1_000_000, help="of the last 5 %% of the text")
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    if asked.data is not None:
        with asked.data.open("rb") as file:
            if hashlib.file_digest(file, "md5").hexdigest() != ENWIK8:
                print(f"warning: {asked.data} is not enwik8 (its MD5 is another)")
    done: dict[str, Any] = {"pace": None, "runs": {}}
    if asked.json and asked.json.exists():
        done = json.loads(asked.json.read_text("utf-8"))

    def keep() -> None:
        if asked.json:
            asked.json.write_text(json.dumps(done, indent=1) + "\n", "utf-8")

    done["pace"] = done["pace"] or pace(asked)
    keep()
    for side in SIDES:
        print(f"{side}  {LENGTH * BATCH / done['pace'][side]:,.0f} tokens/s", flush=True)
    if not asked.seeds:
        return
    for seed in range(asked.seeds):
        for side in SIDES:
            name = f"{side} {seed}"
            if name not in done["runs"]:
                steps = max(20, round(asked.minutes * 60 / done["pace"][side]))
                done["runs"][name] = apart(asked, side, steps, seed)
                keep()
            found = Result(*done["runs"][name])
            print(f"seed {seed}  {side}  {found.bits:.4f} bits per byte  {found.steps:,} steps  "
                  f"{found.seconds:,.0f} s ({found.cpu:,.0f} s of CPU)", flush=True)  # fmt: skip
    ours, peers = ([done["runs"][f"{side} {seed}"][0] for seed in range(asked.seeds)] for side in SIDES)
    differences = [a - b for a, b in zip(ours, peers, strict=True)]
    spread = statistics.stdev(differences) if len(differences) > 1 else float("nan")
    print(f"ours - peer: {statistics.fmean(differences):+.4f} bits per byte (standard deviation {spread:.4f}, "
          f"{asked.seeds} seeds, {asked.minutes:g} minutes a side)")  # fmt: skip


if __name__ == "__main__":
    main()
