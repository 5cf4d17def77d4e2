"""Steps of ELECTRA, T5, BART and XLNet beside a plain loop over ``transformers``' classes.

    python benchmarks/paradigm_peers.py [electra t5 t5:small bart xlnet] [--layers 4 --width 256] [--batch 16]
                                        [--length 128] [--rounds 30] [--precision auto|bf16|fp32]

A name alone is its ``tiny`` recipe. T5 is there twice, for its two versions' steps cost different things: ``t5`` is
v1.1, gated and without dropout, ``t5:small`` the paper's v1.0, with ReLU and dropout everywhere.

The same examples on both sides, drawn by Plume's objectives from the text that comes with it: packed rows here, rows
padded by a collator there. Same shape, dropout and allocator, fused AdamW, no gradient clipping; bf16 autocast where
the processor multiplies bf16, else fp32 on both sides. The sides take turns in one process, and turns in going first.
Medians of the rounds; the ratio is by wall time, with CPU time behind it. Both sides' tokens are the same: those of the
text, no padding and no query slots. "Memory" is what a step needs at its peak beyond weights, optimizer and batch.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.objectives import Texts, peak_of, stepper, text_tokens, timed, widened
from benchmarks.training_step import precision
from plume import config
from plume.models.allocator import hold_freed_memory
from plume.models.transformer import TransformerConfig
from plume.seeding import rng
from plume.slots import IGNORE, NEVER, Example, Slots, collate
from plume.text.windows import Reading

Padded = dict[str, Tensor]


@dataclass(frozen=True)
class Peer:
    """A model of theirs, and its loss as their documentation computes it."""

    model: torch.nn.Module
    loss: Callable[[Padded], Tensor]


def pad(rows: Sequence[np.ndarray], fill: int) -> Tensor:
    """Rows of one or two axes, filled up to the longest."""
    shape = [len(rows), *(max(row.shape[axis] for row in rows) for axis in range(rows[0].ndim))]
    out = np.full(shape, fill, rows[0].dtype)
    for i, row in enumerate(rows):
        out[(i, *map(slice, row.shape))] = row
    return torch.from_numpy(out)


def padded_pair(examples: Sequence[Example[Any]], pad_id: int) -> Padded:
    decoders = [e.decoder_inputs for e in examples if e.decoder_inputs is not None]
    return {
        "input_ids": pad([e.inputs.input_ids for e in examples], pad_id),
        "attention_mask": pad([np.ones(len(e.inputs), np.int64) for e in examples], 0),
        "decoder_input_ids": pad([d.input_ids for d in decoders], pad_id),
        "labels": pad([d.labels["next_token"] for d in decoders], IGNORE),
    }


def t5(shape: TransformerConfig, size: int) -> Peer:
    from transformers import T5Config, T5ForConditionalGeneration

    model = T5ForConditionalGeneration(T5Config(
        vocab_size=size, d_model=shape.d_model, d_kv=shape.head_width, d_ff=shape.d_ff, num_layers=shape.num_layers,
        num_decoder_layers=shape.num_decoder_layers, num_heads=shape.num_heads, dropout_rate=shape.dropout,
        feed_forward_proj="gated-gelu" if shape.gated else "relu", tie_word_embeddings=shape.tie_head,
        use_cache=False)).train()  # fmt: skip
    return Peer(model, lambda given: model(**given).loss)


def bart(shape: TransformerConfig, size: int) -> Peer:
    from transformers import BartConfig, BartForConditionalGeneration

    model = BartForConditionalGeneration(BartConfig(
        vocab_size=size, d_model=shape.d_model, encoder_layers=shape.num_layers, decoder_layers=shape.num_layers,
        encoder_attention_heads=shape.num_heads, decoder_attention_heads=shape.num_heads,
        encoder_ffn_dim=shape.d_ff, decoder_ffn_dim=shape.d_ff, dropout=shape.dropout,
        attention_dropout=shape.attention_dropout, activation_dropout=shape.activation_dropout,
        max_position_embeddings=512, use_cache=False)).train()  # fmt: skip
    return Peer(model, lambda given: model(**given).loss)


def electra(shape: TransformerConfig, size: int) -> Peer:
    from transformers import ElectraConfig, ElectraForMaskedLM, ElectraForPreTraining

    def of(width: int, heads: int) -> ElectraConfig:
        return ElectraConfig(
            vocab_size=size, embedding_size=shape.d_model, hidden_size=width, num_hidden_layers=shape.num_layers,
            num_attention_heads=heads, intermediate_size=4 * width, hidden_dropout_prob=shape.dropout,
            attention_probs_dropout_prob=shape.attention_dropout)  # fmt: skip

    generator = ElectraForMaskedLM(of(shape.d_model // 2, max(1, shape.num_heads // 2))).train()
    judge = ElectraForPreTraining(of(shape.d_model, shape.num_heads)).train()
    generator.electra.embeddings = judge.electra.embeddings
    generator.tie_weights()
    both = torch.nn.ModuleList([generator, judge])

    def loss(given: Padded) -> Tensor:
        said = generator(input_ids=given["input_ids"], attention_mask=given["attention_mask"],
                         token_type_ids=given["token_type_ids"], labels=given["labels"])  # fmt: skip
        asked = given["labels"] != IGNORE
        with torch.no_grad():
            drawn = torch.distributions.Categorical(logits=said.logits[asked].float()).sample()
        ids = given["input_ids"].clone()
        ids[asked] = drawn
        original = torch.where(asked, given["labels"], given["input_ids"])
        judged = judge(input_ids=ids, attention_mask=given["attention_mask"],
                       token_type_ids=given["token_type_ids"], labels=(ids != original).long())  # fmt: skip
        return said.loss + 50.0 * judged.loss

    return Peer(both, loss)


def padded_electra(examples: Sequence[Example[Any]], pad_id: int) -> Padded:
    return {
        "input_ids": pad([e.inputs.input_ids for e in examples], pad_id),
        "attention_mask": pad([np.ones(len(e.inputs), np.int64) for e in examples], 0),
        "token_type_ids": pad([e.inputs.token_type_ids for e in examples], 0),
        "labels": pad([e.inputs.labels["masked_token"] for e in examples], IGNORE),
    }


def xlnet(shape: TransformerConfig, size: int) -> Peer:
    from transformers import XLNetConfig, XLNetLMHeadModel

    model = XLNetLMHeadModel(XLNetConfig(
        vocab_size=size, d_model=shape.d_model, n_layer=shape.num_layers, n_head=shape.num_heads, d_inner=shape.d_ff,
        dropout=shape.dropout, summary_last_dropout=0.0, use_mems_train=False)).train()  # fmt: skip

    def loss(given: Padded) -> Tensor:
        labels = given["labels"]
        logits = model(**{name: t for name, t in given.items() if name != "labels"}).logits
        return F.cross_entropy(logits.flatten(0, 1).float(), labels.flatten(), ignore_index=IGNORE)

    return Peer(model, loss)


def padded_xlnet(examples: Sequence[Example[Any]], pad_id: int) -> Padded:
    """Content slots, who may not see whom, and one row a query."""
    ids, types, hidden, where, labels, real = [], [], [], [], [], []
    for example in examples:
        slots: Slots[Any] = example.inputs
        content = slots.visible_at != NEVER
        length, targets = int(content.sum()), slots.position_ids[~content]
        ids.append(slots.input_ids[content])
        types.append(slots.token_type_ids[content])
        real.append(np.ones(length, np.int64))
        sees = slots.visible_at[content][None, :] <= slots.sees_until[content][:, None]
        sees[targets] = slots.visible_at[content][None, :] <= slots.sees_until[~content][:, None]
        hidden.append((~sees).astype(np.float32))
        rows = np.zeros((len(targets), length), np.float32)
        rows[np.arange(len(targets)), targets] = 1
        where.append(rows)
        labels.append(slots.labels["permuted_token"][~content])
    return {
        "input_ids": pad(ids, pad_id), "token_type_ids": pad(types, 0), "attention_mask": pad(real, 0),
        "perm_mask": pad(hidden, 1), "target_mapping": pad(where, 0), "labels": pad(labels, IGNORE),
    }  # fmt: skip


PEERS: dict[str, tuple[Callable[[TransformerConfig, int], Peer], Callable[..., Padded]]] = {
    "electra": (electra, padded_electra),
    "t5": (t5, padded_pair),
    "t5:small": (t5, padded_pair),
    "bart": (bart, padded_pair),
    "xlnet": (xlnet, padded_xlnet),
}


def measure(name: str, texts: Texts, args: argparse.Namespace) -> str:
    recipe = widened(config.resolve(name if ":" in name else f"{name}:tiny"), args.layers, args.width)
    recipe = config.override(recipe, [f"windows.length={args.length}"])
    store, vocab = texts.stored(recipe)
    reading = Reading(recipe.objective.window_length(recipe.windows.length), args.batch)
    plan: Any = recipe.windows.plan(store.split("train"), vocab, reading)
    drawn = (recipe.objective.example(plan[i], vocab, rng(0, "noise", 0, i)) for i in range(len(plan)))
    kept = [example for example in drawn if example is not None]
    parts = [kept[i : i + args.batch] for i in range(0, len(kept) - args.batch + 1, args.batch)]
    make, padded = PEERS[name]
    assert isinstance(recipe.model, TransformerConfig)
    dtype = precision(args.precision)
    step, peer = stepper(recipe, vocab), make(recipe.model, vocab.size)
    optimizer = torch.optim.AdamW(peer.model.parameters(), 1e-4, fused=True)

    def ours(examples: list[Example[Any]]) -> Callable[[], None]:
        batch = collate(examples, packed=True)
        return lambda: step(batch)

    def theirs(examples: list[Example[Any]]) -> Callable[[], None]:
        given = padded(examples, vocab.pad)

        def run() -> None:
            peer.loss(given).backward()
            optimizer.step()
            optimizer.zero_grad()

        return run

    took: dict[str, list[tuple[float, float]]] = {"ours": [], "theirs": []}
    peaks, speeds = {}, []
    with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
        for side, prepare in (("ours", ours), ("theirs", theirs)):
            prepare(parts[0])()  # the optimizer's state
            peaks[side] = peak_of(prepare(parts[1]))
        for turn in range(args.rounds):
            examples = parts[turn % len(parts)]
            runs = {"ours": ours(examples), "theirs": theirs(examples)}
            for side in sorted(runs, reverse=bool(turn % 2)):
                took[side].append(timed(runs[side]))
            speeds.append(text_tokens(collate(examples)))
    wall, busy = (
        statistics.median(b[i] / a[i] for a, b in zip(took["ours"], took["theirs"], strict=True))
        for i in (0, 1)
    )
    mine, other = (
        statistics.median(tokens / seconds for tokens, (seconds, _) in zip(speeds, took[side], strict=True))
        for side in ("ours", "theirs")
    )
    return (
        f"| {name} L{args.layers} d{args.width}, {str(dtype).removeprefix('torch.')} | {mine:,.0f} | {other:,.0f} | "
        f"**x{wall:.2f}** (x{busy:.2f}) | {peaks['ours'] / 2**20:,.0f} MB, {peaks['theirs'] / 2**20:,.0f} MB |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", default=list(PEERS))
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--length", type=int, default=128, help="slots a window")
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--precision", choices=("auto", "bf16", "fp32"), default="auto")
    args = parser.parse_args()
    hold_freed_memory()
    torch.manual_seed(0)
    print(
        "| model | Plume, tokens/s | transformers, tokens/s | ratio (by CPU time) | memory, Plume and transformers |"
    )
    print("|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        texts = Texts.of(Path(folder))
        for name in args.names:
            print(measure(name, texts, args), flush=True)


if __name__ == "__main__":
    main()
