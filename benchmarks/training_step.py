"""Training steps of Plume and of ``transformers``, side by side.

    python benchmarks/training_step.py [bert|gpt|xlnet] [--rounds 8] [--precision auto|bf16|fp32] [--size 6,512,8]
                                       [--length 128] [--batch 32] [--vocab 16384] [--dropout 0.1] [--threads 2]
                                       [--device cuda] [--compile]

Each side lives in a process of its own, so that each has the allocator its users have and its own peak
memory; they take turns, one step each a round, and only one of them ever runs. Reported are medians over the rounds.
All train the same shape on the same ids (``plume pretrain``, which draws by itself, on others of their kind) with the
same dropout, fused AdamW and clipping. ``auto`` is bf16
autocast on a GPU and where the processor multiplies bf16 quickly, fp32 elsewhere. "Useful" FLOPs count the output head
only at labelled slots and are set against a matmul of the same precision, timed in the same rounds. Either side
is there as its users run it, ``plume pretrain``'s loop with all its threads and their ``Trainer``, and as a bare loop
over its model, the peer's twice. A loop's turn goes from one forward to the next: what it does around a step is in it.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parent.parent))

from plume.models.allocator import hold_freed_memory
from plume.models.pretrained import PretrainedModel
from plume.models.transformer import TransformerConfig
from plume.objectives.base import Objective
from plume.objectives.causal import CausalLM
from plume.objectives.masked import MaskedLM
from plume.objectives.permuted import PermutedLM
from plume.slots import IGNORE, Batch, Example, Losses, Slots, collate
from plume.text.tokenizers import ByteLevelBPE
from plume.text.tokens import Tokens
from plume.text.windows import PackedStream, Window
from plume.training import session, stages
from plume.training.pretraining import build_model
from plume.training.settings import Pretraining, Training
from plume.vocabulary import Vocabulary


@dataclass(frozen=True)
class Job:
    family: str
    layers: int
    width: int
    heads: int
    length: int
    batch: int
    vocab: int
    dropout: float
    dtype: torch.dtype
    device: str
    compiled: bool

    @property
    def tokens(self) -> int:
        return self.batch * self.length

    @property
    def useful_flops(self) -> float:
        """Of one step: matmuls forward and twice that backward; half of the scores of a causal model."""
        layer = 24 * self.width**2 + 4 * self.length * self.width * (0.5 if self.family == "gpt" else 1)
        head = 2 * self.vocab * self.width
        if self.family == "bert":
            head = 0.15 * (head + 2 * self.width**2)
        if self.family == "xlnet":  # a sixth more slots, which alone are asked
            layer, head = 7 / 6 * layer, head / 6
        return 3.0 * self.tokens * (self.layers * layer + head)


def zipf(job: Job, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Ids as unequal as words are."""
    share = 1 / np.arange(1, job.vocab - 4)
    return 5 + rng.choice(job.vocab - 5, shape, p=share / share.sum())


def batches(job: Job, count: int) -> list[Batch]:
    """Zipf ids, 15 % of them masked for BERT, a sixth asked for by XLNet; new ones each step."""
    rng = np.random.default_rng(0)
    made = []
    for ids in zipf(job, (count, job.batch, job.length + 1), rng):
        examples = []
        for row in ids:
            if job.family == "gpt":
                examples.append(Example(Slots.causal(row[:-1], labels={"next_token": row[1:]})))
                continue
            if job.family == "xlnet":
                plain = np.zeros(job.length, np.int64)
                source = Window(row[:-1], np.ones(job.length, np.uint8), plain > 0, plain)
                drawn = PermutedLM().example(source, Vocabulary(size=job.vocab), rng)
                assert drawn is not None
                examples.append(drawn)
                continue
            labels, shown = np.full(job.length, IGNORE), row[:-1].copy()
            chosen = rng.permutation(job.length)[: round(0.15 * job.length)]
            labels[chosen], shown[chosen] = shown[chosen], 4
            examples.append(Example(Slots.bidirectional(shown, labels={"masked_token": labels})))
        made.append(collate(examples))
    return made


def our_shape(job: Job) -> tuple[TransformerConfig, Objective[Any]]:
    bert, xlnet = job.family == "bert", job.family == "xlnet"
    config = TransformerConfig(
        job.layers, job.width, job.heads, 4 * job.width,
        positions="relative" if xlnet else "learned", virtual_tokens=int(xlnet),
        activation_dropout=job.dropout * xlnet, final_dropout=job.dropout * xlnet,
        norm_order="pre" if job.family == "gpt" else "post", token_types=2 if bert else 0, embedding_norm=bert,
        activation="gelu_tanh" if job.family == "gpt" else "gelu", norm_eps=1e-5 if job.family == "gpt" else 1e-12,
        dropout=job.dropout, attention_dropout=job.dropout,
    )  # fmt: skip
    return config, MaskedLM() if bert else PermutedLM() if xlnet else CausalLM()


def ours(job: Job) -> Callable[[Batch], float]:
    vocab = Vocabulary(size=job.vocab, pad=0, mask=4)
    config, objective = our_shape(job)
    model = PretrainedModel.build(
        config, vocab, lambda b: objective.heads(b, vocab), seed=0, device=job.device
    ).train()
    optimizer = torch.optim.AdamW(model.parameters(), 1e-4, weight_decay=0.01, fused=True)
    if job.compiled:
        model.backbone.compile()

    def step(batch: Batch) -> float:
        with torch.autocast(job.device, job.dtype, enabled=job.dtype != torch.float32):
            (loss,) = objective.losses(model, batch).heads.values()
        mean = loss.total / loss.count
        mean.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        return mean.item()

    return step


def their_model(job: Job) -> Any:
    from transformers import (
        BertConfig,
        BertForMaskedLM,
        GPT2Config,
        GPT2LMHeadModel,
        XLNetConfig,
        XLNetLMHeadModel,
    )

    torch.manual_seed(0)
    model: Any
    if job.family == "bert":
        model = BertForMaskedLM(BertConfig(
            vocab_size=job.vocab, hidden_size=job.width, num_hidden_layers=job.layers, num_attention_heads=job.heads,
            intermediate_size=4 * job.width, hidden_dropout_prob=job.dropout,
            attention_probs_dropout_prob=job.dropout))  # fmt: skip
    elif job.family == "xlnet":
        model = XLNetLMHeadModel(XLNetConfig(
            vocab_size=job.vocab, d_model=job.width, n_layer=job.layers, n_head=job.heads, d_inner=4 * job.width,
            dropout=job.dropout))  # fmt: skip
    else:
        model = GPT2LMHeadModel(GPT2Config(
            vocab_size=job.vocab, n_embd=job.width, n_layer=job.layers, n_head=job.heads, n_positions=512,
            resid_pdrop=job.dropout, embd_pdrop=job.dropout, attn_pdrop=job.dropout, use_cache=False))  # fmt: skip
    return model


def given(job: Job, slots: Slots[torch.Tensor]) -> dict[str, torch.Tensor]:
    """What the peer's model is given for our slots."""
    (labels,) = slots.labels.values()
    if job.family == "xlnet":
        return two_streams(slots, job.length)
    if job.family == "gpt":  # it shifts by itself: the same T predictions need T + 1 labels of T + 1 inputs
        return {"input_ids": slots.input_ids, "labels": labels, "shift_labels": labels}
    return {"input_ids": slots.input_ids, "labels": labels}


def theirs(job: Job) -> Callable[[Batch], float]:
    model = their_model(job).to(job.device).train()
    if job.compiled:
        model.compile()
    optimizer = torch.optim.AdamW(model.parameters(), 1e-4, weight_decay=0.01, fused=True)

    def step(batch: Batch) -> float:
        with torch.autocast(job.device, job.dtype, enabled=job.dtype != torch.float32):
            loss = model(**given(job, batch.inputs)).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        return float(loss.detach())

    return step


def two_streams(slots: Slots[torch.Tensor], length: int) -> dict[str, torch.Tensor]:
    """What XLNet's two streams are given for our one: who may not see whom, and where the queries stand."""
    places = slots.position_ids[:, length:]
    mapping = torch.nn.functional.one_hot(places, length).float()
    blocked = (~slots.sees()[:, :, :length]).float()
    perm = blocked[:, :length].scatter(1, places[:, :, None].expand(-1, -1, length), blocked[:, length:])
    return {
        "input_ids": slots.input_ids[:, :length], "token_type_ids": slots.token_type_ids[:, :length],
        "perm_mask": perm, "target_mapping": mapping, "labels": slots.labels["permuted_token"][:, length:].contiguous(),
    }  # fmt: skip


def precision(word: str, device: str = "cpu") -> torch.dtype:
    if word != "auto":
        return torch.bfloat16 if word == "bf16" else torch.float32
    if device == "cuda":
        return torch.bfloat16
    return torch.bfloat16 if torch.cpu._is_avx512_bf16_supported() else torch.float32


def peak(dtype: torch.dtype, device: str) -> tuple[float, float]:
    """FLOPs of a cubed matmul (2048 on a CPU, 8192 on a GPU) a second, and a CPU second."""
    n = 2048 if device == "cpu" else 8192
    a, b = (torch.ones(n, n, dtype=dtype, device=device) for _ in range(2))
    wait(device)
    start, used = time.perf_counter(), time.process_time()
    a @ b
    wait(device)
    flops = 2.0 * n**3
    return flops / (time.perf_counter() - start), flops / (time.process_time() - used)


def wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def resident(field: str) -> int:
    """VmRSS or VmHWM of this process, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) * 1024


class Turns:
    """The turns of one side: a line in, a step done, a line of JSON out."""

    def __init__(self, job: Job) -> None:
        self.job, self.before = job, resident("VmRSS")

    def taken(self, loss: float) -> None:
        """The step of the turn is done, with this loss."""
        wait(self.job.device)
        wall, busy = time.perf_counter() - self.start, time.process_time() - self.used
        cuda = self.job.device == "cuda"
        memory = torch.cuda.max_memory_allocated() if cuda else resident("VmHWM") - self.before
        top, top_busy = peak(self.job.dtype, self.job.device)
        row = {"wall": wall, "busy": busy, "loss": loss, "memory": memory, "peak": top, "peak_busy": top_busy}
        print(json.dumps(row), file=sys.__stdout__, flush=True)

    def __iter__(self) -> Iterator[int]:
        for line in sys.stdin:
            torch.manual_seed(int(line))
            self.start, self.used = time.perf_counter(), time.process_time()
            yield int(line)


Side = Callable[[Job, list[Batch], Turns], None]


def looped(make: Callable[[Job], Callable[[Batch], float]]) -> Side:
    """A bare loop over the step that ``make`` makes."""

    def run(job: Job, data: list[Batch], turns: Turns) -> None:
        step = make(job)
        for number in turns:
            turns.taken(step(data[number]))

    return run


def run_verb(job: Job, data: list[Batch], turns: Turns) -> None:
    """All turns through ``plume pretrain``'s loop, which cuts, draws and collates beside it: of ``data`` it takes the
    number alone. Its loss stays its own.
    """
    steps = len(data)
    shape, objective = our_shape(job)
    ours, numbers = threading.Event(), iter(turns)
    ours.set()

    class Paced(type(objective)):  # type: ignore[misc]
        begun = False

        def example(self, *given: Any) -> Any:
            ours.wait()  # the thread that draws may only run in this side's turns
            return super().example(*given)

        def losses(self, model: Any, batch: Batch) -> Losses:
            ours.clear()
            if Paced.begun:
                turns.taken(math.nan)
            Paced.begun = True
            over = next(numbers, None) is None
            ours.set()
            if over:
                raise SystemExit
            return super().losses(model, batch)  # type: ignore[no-any-return]

    vocab = Vocabulary(size=job.vocab, pad=0, eos=1, mask=4)
    recipe = Pretraining(
        tokenizer=ByteLevelBPE(vocab_size=job.vocab), windows=PackedStream(length=job.length), objective=objective,
        model=replace(shape, max_positions=job.length),
        training=Training(
            steps=steps, batch_size=job.batch, microbatch_size=job.batch, lr=1e-4, schedule="constant",
            eval_every=None, save_every=steps, compile=job.compiled,
            precision="fp32" if job.dtype == torch.float32 else "bf16",
        ),
    )  # fmt: skip
    ids = zipf(job, ((steps + 1) * job.tokens,), np.random.default_rng(0))
    text = Tokens(ids, np.zeros(len(ids), np.uint8), np.array([0, len(ids)]), len(ids))
    with (
        tempfile.TemporaryDirectory() as folder,
        session.hold(Path(folder) / "run", recipe, "pretraining") as held,
    ):
        session.begin(held.folder, recipe)
        phases = [replace(phase, objective=Paced()) for phase in stages.phases(recipe, text, vocab)]
        session.train(held, build_model(recipe, vocab), phases, [], vocab, length=job.length,
                      bytes_per_token=1.0, made_of={}, parent=None)  # fmt: skip
        turns.taken(math.nan)


def run_trainer(job: Job, data: list[Batch], turns: Turns) -> None:
    """All turns through the peer's ``Trainer``, which fetches rows one step ahead: a turn (but for the first) is the
    step on the rows before, and the rows of the next. Its loss stays its own.
    """
    from transformers import Trainer, TrainingArguments

    class Rows(torch.utils.data.IterableDataset[dict[str, torch.Tensor]]):
        def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
            for number in turns:
                rows = {name: value.cpu() for name, value in given(job, data[number].inputs).items()}
                yield from ({name: value[i] for name, value in rows.items()} for i in range(job.batch))
                turns.taken(math.nan)
            raise SystemExit  # no more turns: the time is up

    aside = contextlib.redirect_stdout(sys.stderr)  # it prints its metrics
    with tempfile.TemporaryDirectory() as folder, aside:
        arguments = TrainingArguments(
            folder, max_steps=len(data), per_device_train_batch_size=job.batch, learning_rate=1e-4,
            weight_decay=0.01, lr_scheduler_type="constant", bf16=job.dtype == torch.bfloat16,
            torch_compile=job.compiled, use_cpu=job.device == "cpu", report_to=[], disable_tqdm=True,
            save_strategy="no",
        )  # fmt: skip
        Trainer(their_model(job), arguments, train_dataset=Rows()).train()


SIDES: dict[str, tuple[Side, bool]] = {  # how its turns are run, and whether it has Plume's allocator
    "Plume": (looped(ours), True),
    "plume pretrain": (run_verb, True),
    "transformers' Trainer": (run_trainer, False),
    "transformers, as installed": (looped(theirs), False),
    "transformers, Plume's allocator": (looped(theirs), True),
}


def work(job: Job, side: str, rounds: int) -> None:
    """Be one side."""
    run, held = SIDES[side]
    if held:
        hold_freed_memory()
    run(job, [batch.to(job.device) for batch in batches(job, rounds + 1)], Turns(job))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("family", nargs="?", choices=("bert", "gpt", "xlnet"), default="bert")
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=170, help="stop after the round that passes this")
    parser.add_argument("--precision", choices=("auto", "bf16", "fp32"), default="auto")
    parser.add_argument("--size", default="6,512,8", help="layers, width, heads")
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--vocab", type=int, default=16384)
    parser.add_argument("--dropout", type=float, default=0.1)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--compile", action="store_true", help="torch.compile on both sides")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    layers, width, heads = map(int, args.size.split(","))
    job = Job(args.family, layers, width, heads, args.length, args.batch, args.vocab, args.dropout,
              precision(args.precision, args.device), args.device, args.compile)  # fmt: skip
    if args.side:
        work(job, args.side, args.rounds)
        return
    # Worker threads that spin after their work would take the cores of the side whose turn it is.
    environment = {**os.environ, "OMP_WAIT_POLICY": "passive", "OMP_NUM_THREADS": str(args.threads)}
    workers = {
        side: subprocess.Popen([sys.executable, __file__, *sys.argv[1:], "--side", side], text=True, env=environment,
                               stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        for side in SIDES
    }  # fmt: skip
    rows: dict[str, list[dict[str, float]]] = {side: [] for side in SIDES}
    begun = time.perf_counter()
    for number in range(args.rounds + 1):
        for side, worker in workers.items():
            assert worker.stdin is not None and worker.stdout is not None
            worker.stdin.write(f"{number}\n")
            worker.stdin.flush()
            rows[side].append(json.loads(worker.stdout.readline()))
        if number and time.perf_counter() - begun > args.seconds:
            break
    for worker in workers.values():
        worker.communicate()
    report(job, rows, args.threads)


def report(job: Job, rows: dict[str, list[dict[str, float]]], threads: int) -> None:
    """A line a side; the first round warms up and is left out, but for its loss."""
    tops = [row["peak"] for side in rows.values() for row in side[1:]]
    top = statistics.median(tops)
    print(f"{job.family} L{job.layers} d{job.width} T{job.length} V{job.vocab} batch {job.batch}, "
          f"dropout {job.dropout}, {job.dtype}, {threads} threads, {len(rows['Plume']) - 1} rounds; "
          f"matmul {top / 1e12:.3f} TFLOP/s (best {max(tops) / 1e12:.3f})")  # fmt: skip
    mine = rows["Plume"]
    for side, taken in rows.items():
        second = statistics.median(row["wall"] for row in taken[1:])
        useful = statistics.median(job.useful_flops / row["wall"] / row["peak"] for row in taken[1:])
        by_cpu = statistics.median(job.useful_flops / row["busy"] / row["peak_busy"] for row in taken[1:])
        ratio = statistics.median(b["wall"] / a["wall"] for a, b in zip(mine[1:], taken[1:], strict=True))
        busy = statistics.median(b["busy"] / a["busy"] for a, b in zip(mine[1:], taken[1:], strict=True))
        print(f"  {side:32s}{job.tokens / second:8.0f} tokens/s; useful {useful:4.0%} of that matmul "
              f"({by_cpu:.0%} by CPU time); "
              f"{ratio:5.2f} x Plume's time, {busy:5.2f} x its CPU time; peak {taken[-1]['memory'] / 2**30:.2f} GiB; "
              f"loss {taken[0]['loss']:.3f} -> {taken[-1]['loss']:.3f}")  # fmt: skip


if __name__ == "__main__":
    main()
