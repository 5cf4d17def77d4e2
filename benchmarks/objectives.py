"""Every objective's step and data side, beside causal language modelling over the same backbone.

    python benchmarks/objectives.py [RECIPE ...] [--seconds 6] [--batch 16] [--width 128 --layers 2]

For each recipe: tokens/s of whole steps (forward, backward, fused AdamW) on batches drawn from real text, tokens/s of
a causal model whose one stack has the same width and as many layers in all, the two in turns, and tokens/s of the
data side alone (cut, draw, collate) on one core. "Data" is the loader's time as a share of the step's: a loader of
10 times the step's speed costs a tenth where it runs in the step's way, and nothing where it runs beside it.
Medians; the vocabulary is cut to what the text that comes with Plume can train.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import fields, replace
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
from plume.slots import Batch, collate
from plume.text.store import build
from plume.text.tokenizers import ByteLevelBPE
from plume.text.tokens import TokenStore
from plume.text.windows import PackedStream, Reading
from plume.training.settings import Pretraining
from plume.vocabulary import Vocabulary

RECIPES = (
    "gpt:tiny", "bert:tiny", "roberta:tiny", "ernie:tiny", "electra:tiny", "xlnet:tiny", "unilm:tiny", "unilm:prefix",
    "t5:tiny", "bart:tiny", "joint:tiny",
)  # fmt: skip


def stored(recipe: Pretraining, text: Path, folder: Path) -> tuple[TokenStore, Vocabulary]:
    """The text as ``recipe``'s tokens, with a vocabulary of at most 2,000."""
    kind: Any = recipe.tokenizer
    kind = replace(kind, vocab_size=min(kind.vocab_size, 2_000))
    pieces = kind.train(text.read_text("utf-8").split("\n\n"))
    store = build([text], pieces, folder, segment_words=True)
    return store, pieces.vocabulary


def batches(
    recipe: Pretraining, store: TokenStore, vocab: Vocabulary, size: int, packed: bool
) -> Iterator[Batch]:
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
                yield collate(held, packed=packed)
                held = []
        epoch += 1


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


def timed(work: Callable[[], int]) -> float:
    """Tokens/s of one call, which returns its tokens."""
    start = time.perf_counter()
    tokens = work()
    return tokens / (time.perf_counter() - start)


def causal_beside(recipe: Pretraining) -> Pretraining:
    """A causal model as wide as ``recipe``'s and with as many layers in all."""
    model = recipe.model
    assert isinstance(model, TransformerConfig)
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
    """``recipe`` with another shape: its heads as wide as they were."""
    model = recipe.model
    assert isinstance(model, TransformerConfig)
    stretch = width / model.d_model
    changes: dict[str, Any] = {
        "num_layers": layers, "d_model": width, "num_heads": max(1, round(model.num_heads * stretch)),
        "d_ff": round(model.d_ff * stretch),
    }  # fmt: skip
    if model.num_decoder_layers:
        changes["num_decoder_layers"] = layers
    if any(f.name == "bands" for f in fields(model)):
        changes["bands"] = None
    return replace(recipe, model=replace(model, **changes))


def measure(name: str, text: Path, folder: Path, args: argparse.Namespace) -> str:
    recipe: Pretraining = config.resolve(name)
    assert isinstance(recipe.model, TransformerConfig)
    if args.width:
        recipe = widened(recipe, args.layers, args.width)
    causal = causal_beside(recipe)
    sides = {}
    for side, made in (("own", recipe), ("causal", causal)):
        store, vocab = stored(made, text, folder / f"{name.replace(':', '-')}-{side}")
        drawn = batches(made, store, vocab, args.batch, True)
        sides[side] = (stepper(made, vocab), [next(drawn) for _ in range(8)], drawn)
    speeds: dict[str, list[float]] = {"own": [], "causal": [], "data": []}
    for step, ready, _ in sides.values():
        step(ready[0])
    began, turn = time.perf_counter(), 0
    while time.perf_counter() - began < args.seconds or turn < 5:
        for side, (step, ready, _) in sides.items():
            batch = ready[turn % len(ready)]

            def one(step: Any = step, batch: Batch = batch) -> int:
                step(batch)
                return batch.num_tokens

            speeds[side].append(timed(one))
        speeds["data"].append(timed(lambda: next(sides["own"][2]).num_tokens))
        turn += 1
    own, beside, data = (statistics.median(speeds[side]) for side in ("own", "causal", "data"))
    return (
        f"| `{name}` | {own:,.0f} | {beside:,.0f} | x{own / beside:.2f} | {data:,.0f} | x{data / own:.1f} | "
        f"{own / data:.1%} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("recipes", nargs="*", default=RECIPES)
    parser.add_argument("--seconds", type=float, default=6.0)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--width", type=int, default=0, help="another width than the recipe's")
    parser.add_argument("--layers", type=int, default=4, help="with --width: layers a stack")
    args = parser.parse_args()
    print(
        "| recipe | step, tokens/s | causal, tokens/s | over causal | data alone, tokens/s | over step | data |"
    )
    print("|---|---|---|---|---|---|---|")
    torch.manual_seed(0)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        text = folder / "text.txt"
        text.write_text(
            (files("plume.studies") / "texts" / "shakespeare.txt").read_text("utf-8")[:600_000], "utf-8"
        )
        for name in args.recipes:
            print(measure(name, text, folder, args), flush=True)


if __name__ == "__main__":
    main()
