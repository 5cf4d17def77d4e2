"""Every objective's step and data side, beside causal language modelling over the same backbone.

    python benchmarks/objectives.py [RECIPE ...] [--seconds 5] [--batch 16] [--width 128 --layers 2] > speed.md

For each recipe: tokens/s of whole steps (forward, backward, fused AdamW) on batches drawn from real text, tokens/s of
a causal model whose one stack has the same width and as many layers in all, the two in turns, and tokens/s of the
data side alone (cut, draw, collate) on one core. "Data" is its time as a share of the step's: what it costs where it
stands in the step's way; where it runs beside it, what it costs is its share of the CPU time. That is the time of its
own thread: the process's would be charged with what the step's other threads did up to a tick of the scheduler before.
A token is a slot of text: padding does not count, nor do XLNet's query slots. Medians of the rounds, whose sides take
turns in going first; ratios are of wall time, and of CPU time behind it. "Memory" is what a step needs at its peak
beyond weights, optimizer and batch. The vocabulary is cut to what the text that comes with Plume can train, and
published sizes run in the shape of the small ones: 2 layers of 128 over windows of 128 slots.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parent.parent))

from plume import config
from plume.models.pretrained import PretrainedModel
from plume.models.transformer import TransformerConfig
from plume.objectives.causal import CausalLM
from plume.seeding import rng
from plume.slots import NEVER, Batch, collate
from plume.text.store import build
from plume.text.tokenizers import ByteLevelBPE, Tokenizer
from plume.text.tokens import TokenStore
from plume.text.units import Lexicon
from plume.text.windows import PackedStream, Reading
from plume.training import stages
from plume.training.settings import Pretraining
from plume.vocabulary import Vocabulary

RECIPES = (
    "gpt:tiny", "gpt:gpt1", "gpt:gpt3_125m", "bert:tiny", "roberta:tiny", "ernie:tiny", "electra:tiny", "xlnet:tiny",
    "unilm:tiny", "unilm:prefix", "t5:tiny", "bart:tiny", "joint:tiny", "transformer:tiny", "elmo:tiny", "lstm:tiny",
    "gru:tiny", "cnn:tiny",
)  # fmt: skip
SHRUNK = {
    "windows.length": 128,
    "model.num_layers": 2,
    "model.d_model": 128,
    "model.num_heads": 2,
    "model.d_ff": 512,
}
BAND = 32  # of GPT-3's local layers, at 128 slots a fourth of the text


@dataclass(frozen=True)
class Texts:
    """The text to train on, as plain text and as rows of a source and its target; stores are made once."""

    folder: Path

    @classmethod
    def of(cls, folder: Path, characters: int = 600_000) -> Texts:
        whole = (files("plume.studies") / "texts" / "shakespeare.txt").read_text("utf-8")[:characters]
        (folder / "text.txt").write_text(whole, "utf-8")
        lines = [line for line in whole.splitlines() if line.strip()]
        lines = [" ".join(lines[i : i + 3]) for i in range(0, len(lines), 3)]  # as long as sentences are
        pairs = ({"source": a, "target": b} for a, b in zip(lines[::2], lines[1::2], strict=False))
        (folder / "pairs.jsonl").write_text("".join(f"{json.dumps(p)}\n" for p in pairs), "utf-8")
        return cls(folder)

    def stored(self, recipe: Pretraining) -> tuple[TokenStore, Vocabulary]:
        """The text as ``recipe``'s tokens, with a vocabulary of at most 2,000."""
        kind: Any = recipe.tokenizer
        kind = replace(kind, vocab_size=min(kind.vocab_size, 2_000))
        columns, units = recipe.windows.columns, bool(stages.grains(recipe) & {"phrase", "entity"})
        place = self.folder / f"{abs(hash((kind, columns, units)))}"
        if (place / "tokens").exists():
            return TokenStore.open(place / "tokens"), Tokenizer.load(place / "pieces").vocabulary
        texts = (self.folder / "text.txt").read_text("utf-8").split("\n\n")
        pieces = kind.train(texts)
        pieces.save(place / "pieces")
        source, more = ("pairs.jsonl", columns) if columns else ("text.txt", ("text",))
        store = build([self.folder / source], pieces, place / "tokens", text_column=more[0], more=more[1:],
                      segment_words=True, lexicon=Lexicon.find(texts) if units else None)  # fmt: skip
        return store, pieces.vocabulary


def batches(recipe: Pretraining, store: TokenStore, vocab: Vocabulary, size: int) -> Iterator[Batch]:
    """One batch after the other, as the loader draws them; epochs follow each other."""
    epoch = 0
    while True:
        reading = Reading(recipe.objective.window_length(recipe.windows.length), size, epoch=epoch)
        plan: Any = recipe.windows.plan(store.split("train"), vocab, reading)
        held = []
        for i in range(len(plan)):
            example = recipe.objective.example(plan[i], vocab, rng(0, "noise", epoch, i))
            if example is not None:
                held.append(example)
            if len(held) == size:
                yield collate(held, packed=not recipe.windows.carries)
                held = []
        epoch += 1


def text_tokens(batch: Batch) -> int:
    """Slots of text, both stacks: no padding, and nothing that no slot ever sees."""
    stacks = (batch.inputs, batch.decoder_inputs)
    return sum(int((s.visible_at != NEVER).sum()) for s in stacks if s is not None)


def stepper(recipe: Pretraining, vocab: Vocabulary) -> Callable[[Batch], None]:
    objective = recipe.objective
    model = PretrainedModel.build(recipe.model, vocab, lambda b: objective.heads(b, vocab), seed=0).train()
    optimizer = torch.optim.AdamW(model.parameters(), 1e-4, fused=True)
    weights = objective.weights()

    def step(batch: Batch) -> None:
        losses = objective.losses(model, batch).heads
        sum(
            (weights.get(name, 1.0) * loss.total / loss.count.clamp(min=1) for name, loss in losses.items()),
            torch.zeros(()),
        ).backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def timed(work: Callable[[], object], cpu: Callable[[], float] = time.process_time) -> tuple[float, float]:
    """Seconds of wall time and of CPU time."""
    start, used = time.perf_counter(), cpu()
    work()
    return time.perf_counter() - start, cpu() - used


def resident(field: str) -> int:
    """VmRSS or VmHWM of this process, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) * 1024


def peak_of(work: Callable[[], object]) -> int:
    """Bytes that ``work`` needs at its peak beyond what is held before (Linux with glibc)."""
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # forgets the peak so far
    before = resident("VmRSS")
    work()
    return resident("VmHWM") - before


def causal_beside(recipe: Pretraining) -> Pretraining | None:
    """A causal model as wide as ``recipe``'s and with as many layers in all; ``None``: it is one itself."""
    model = recipe.model
    if not isinstance(model, TransformerConfig):
        # ELMo's two directions cannot be one; the nearest causal model is of the same kind of network.
        return None if isinstance(recipe.objective, CausalLM) else config.resolve("lstm:tiny")
    return Pretraining(
        tokenizer=ByteLevelBPE(vocab_size=2_000),
        windows=PackedStream(length=recipe.windows.length),
        objective=CausalLM(),
        model=TransformerConfig(
            num_layers=model.num_layers + model.num_decoder_layers, d_model=model.d_model,
            num_heads=model.num_heads, d_ff=4 * model.d_model, dropout=model.dropout,
            attention_dropout=model.attention_dropout,
        ),
        training=recipe.training,
    )  # fmt: skip


def widened(recipe: Pretraining, layers: int, width: int) -> Pretraining:
    """``recipe`` with another shape: its heads as wide as they were, its bands in the order they were in."""
    model = recipe.model
    assert isinstance(model, TransformerConfig)
    stretch = width / model.d_model
    shape = replace(
        model, num_layers=layers, num_decoder_layers=layers if model.num_decoder_layers else 0, d_model=width,
        num_heads=max(1, round(model.num_heads * stretch)), d_ff=round(model.d_ff * stretch),
        bands=model.bands and tuple(model.bands[i % len(model.bands)] for i in range(layers)),
    )  # fmt: skip
    return replace(recipe, model=shape)


def small(name: str) -> Pretraining:
    """The recipe, a published size in the shape of the small ones."""
    recipe: Pretraining = config.resolve(name)
    if not isinstance(recipe.model, TransformerConfig) or recipe.model.d_model <= 128:
        return recipe
    words = [f"{key}={value}" for key, value in SHRUNK.items()]
    shrunk = replace(recipe, model=replace(recipe.model, bands=None), stages=())
    shrunk = config.override(shrunk, words)
    if recipe.model.bands is None:
        return shrunk
    return replace(shrunk, model=replace(shrunk.model, bands=(None, BAND)))


def measure(name: str, texts: Texts, args: argparse.Namespace) -> str:
    recipe = small(name)
    if args.width:
        recipe = widened(recipe, args.layers, args.width)
    causal = causal_beside(recipe)
    made = {"own": recipe} if causal is None else {"own": recipe, "causal": causal}
    ready, drawn, steps, peaks = {}, {}, {}, {}
    for side, one in made.items():
        store, vocab = texts.stored(one)
        drawn[side] = batches(one, store, vocab, args.batch)
        ready[side] = [next(drawn[side]) for _ in range(8)]
        steps[side] = stepper(one, vocab)
        steps[side](ready[side][0])  # the optimizer's state
        peaks[side] = peak_of(lambda side=side: steps[side](ready[side][1]))
    wall: dict[str, list[float]] = {"own": [], "causal": [], "data": []}
    busy: dict[str, list[float]] = {"own": [], "causal": [], "data": []}
    began, turn = time.perf_counter(), 0
    while time.perf_counter() - began < args.seconds or turn < 5:
        for side in sorted(made, reverse=bool(turn % 2)):
            batch = ready[side][turn % 8]
            took = timed(lambda: steps[side](batch))  # noqa: B023 - called in this very round
            wall[side].append(took[0] / text_tokens(batch))
            busy[side].append(took[1] / text_tokens(batch))
        held: list[Batch] = []
        took = timed(lambda: held.append(next(drawn["own"])), time.thread_time)  # noqa: B023
        wall["data"].append(took[0] / text_tokens(held[0]))
        busy["data"].append(took[1] / text_tokens(held[0]))
        turn += 1
    own, data = (statistics.median(wall[side]) for side in ("own", "data"))
    own_busy, data_busy = (statistics.median(busy[side]) for side in ("own", "data"))
    beside, ratio = "itself", "x1.00"
    if causal is not None:
        other, other_busy = statistics.median(wall["causal"]), statistics.median(busy["causal"])
        beside, ratio = f"{1 / other:,.0f}", f"x{other / own:.2f} (x{other_busy / own_busy:.2f})"
    return (
        f"| `{name}` | {1 / own:,.0f} | {beside} | {ratio} | {1 / data:,.0f} | x{own / data:.1f} "
        f"| {data / own:.1%} ({data_busy / own_busy:.1%}) | {peaks['own'] / 2**20:,.0f} MB |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("recipes", nargs="*", default=RECIPES)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--width", type=int, default=0, help="another width than the recipe's (Transformers)")
    parser.add_argument("--layers", type=int, default=4, help="with --width: layers a stack")
    args = parser.parse_args()
    print(
        "| recipe | step, tokens/s | causal, tokens/s | over causal (by CPU time) | data alone, tokens/s | "
        "over step | data, share of the step (of its CPU time) | memory |"
    )
    print("|---|---|---|---|---|---|---|---|")
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        texts = Texts.of(Path(folder))
        for name in args.recipes:
            if args.width and not isinstance(small(name).model, TransformerConfig):
                continue
            print(measure(name, texts, args), flush=True)


if __name__ == "__main__":
    main()
