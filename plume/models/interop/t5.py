"""T5 as ``transformers`` stores it, v1.0 and v1.1 (spec 18 section 2.2)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from plume.errors import UserError
from plume.models.activations import Activation
from plume.models.interop.folder import (
    Imported,
    Rule,
    field,
    read_config,
    read_folder_weights,
    refuse,
    to_theirs,
    tokenizer_files,
    whole_state,
    write,
)
from plume.models.pretrained import PretrainedModel
from plume.models.transformer import Transformer, TransformerConfig
from plume.vocabulary import Vocabulary

# What ``feed_forward_proj`` says: the activation, and whether another matrix is multiplied by it. Of the two forms
# of GELU "gated-gelu" has always meant the tanh one.
FORMS: dict[str, tuple[Activation, bool]] = {
    "relu": ("relu", False),
    "gated-gelu": ("gelu_tanh", True),
    "gated-relu": ("relu", True),
    "gelu": ("gelu", False),
    "gelu_new": ("gelu_tanh", False),
}


def rules(num_layers: int, num_decoder_layers: int, *, gated: bool) -> list[Rule]:
    """Our names and theirs."""
    table = [
        Rule("backbone.embedding.weight", ("shared.weight",)),
        Rule("heads.next_token.table", ("lm_head.weight",)),
    ]
    stacks = (("stack", "encoder", num_layers), ("decoder", "decoder", num_decoder_layers))
    for stack, theirs, count in stacks:
        places = "decoder_positions" if stack == "decoder" else "positions"
        bias = f"{theirs}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
        table.append(Rule(f"backbone.{places}.weight", (bias,)))
        table.append(Rule(f"backbone.{stack}.norm.weight", (f"{theirs}.final_layer_norm.weight",)))
        last = 2 if stack == "decoder" else 1
        for i in range(count):
            a, b = f"backbone.{stack}.layers.{i}", f"{theirs}.block.{i}.layer"
            parts = {
                "attention_norm": ("0.layer_norm",),
                "qkv": tuple(f"0.SelfAttention.{n}" for n in "qkv"),
                "attention_out": ("0.SelfAttention.o",),
                "up_norm": (f"{last}.layer_norm",),
                "up": (f"{last}.DenseReluDense.wi_1" if gated else f"{last}.DenseReluDense.wi",),
                "down": (f"{last}.DenseReluDense.wo",),
            }
            if gated:
                parts["gate"] = (f"{last}.DenseReluDense.wi_0",)
            if stack == "decoder":
                parts |= {
                    "cross_norm": ("1.layer_norm",),
                    "cross_q": ("1.EncDecAttention.q",),
                    "cross_kv": ("1.EncDecAttention.k", "1.EncDecAttention.v"),
                    "cross_out": ("1.EncDecAttention.o",),
                }
            table += [
                Rule(f"{a}.{ours}.weight", tuple(f"{b}.{name}.weight" for name in names))
                for ours, names in parts.items()
            ]
    return table


def describes(model: PretrainedModel) -> bool:
    """Whether ``model`` has two stacks with T5's positions. ``export_folder`` says what else is amiss."""
    backbone = model.backbone
    return isinstance(backbone, Transformer) and bool(
        backbone.config.num_decoder_layers and backbone.config.positions == "buckets"
    )


def import_folder(folder: Path) -> Imported:
    """Read a T5ForConditionalGeneration or T5Model.

    Raises:
        UserError: the folder is unreadable, not a T5, or of a kind that this toolkit has no counterpart for.
    """
    tree = read_config(folder)
    theirs = read_folder_weights(folder)
    if "shared.weight" not in theirs and "encoder.embed_tokens.weight" in theirs:
        theirs["shared.weight"] = theirs["encoder.embed_tokens.weight"]
    table, out = theirs.get("shared.weight"), theirs.get("lm_head.weight")
    tied = out is None or table is None or torch.equal(out, table)
    config = _config(tree, folder, tied=tied)
    wanted = rules(config.num_layers, config.num_decoder_layers, gated=config.gated)
    state, size = whole_state(wanted, theirs, tree, folder, 32_128)
    if tied:
        state.pop("heads.next_token.table", None)
    alone = tree.get("architectures") == ["T5Model"]
    return Imported("t5", config, size, () if alone else ("next_token",), (), state)


def export_folder(
    model: PretrainedModel,
    config: TransformerConfig,
    vocab: Vocabulary,
    folder: Path,
    *,
    tokenizer: Path | None = None,
    labels: Sequence[str] = (),
) -> None:
    """Write ``model`` as T5ForConditionalGeneration, or as T5Model where its decoder predicts no tokens.

    A head for masked tokens in the first stack (``joint:``) has no place there and is left out.

    Raises:
        UserError: T5 has no place for something this model has.
    """
    forms = {form: name for name, form in FORMS.items()}
    heads = frozenset(model.heads) - {"masked_token"}
    state = model.state()
    wrong = [
        message
        for bad, message in (
            (config.norm_order != "pre", "its norms come last"),
            (config.norm != "rms", "its norms take off the mean"),
            (config.bias, "its linear maps have biases"),
            (config.scale_attention, "its attention scores are scaled"),
            (config.scale_embedding or config.embedding_norm, "it scales or normalises its embeddings"),
            (config.token_types > 0, "it has segment embeddings"),
            (config.virtual_tokens > 0, "it has virtual tokens"),
            ((config.activation, config.gated) not in forms, f"its {config.activation} is gated"),
            (not heads <= {"next_token"}, f"no T5 class has the heads {sorted(heads)}"),
            ("heads.next_token.bias" in state, "its token head has a bias"),
            (vocab.pad is None or vocab.eos is None, "its tokenizer lacks the pad or the eos token"),
        )
        if bad
    ]
    refuse("T5", wrong)
    kind = "T5ForConditionalGeneration" if heads else "T5Model"
    tree = {
        "architectures": [kind],
        "model_type": "t5",
        "is_encoder_decoder": True,
        "vocab_size": vocab.size,
        "d_model": config.d_model,
        "d_kv": config.head_width,
        "d_ff": config.d_ff,
        "num_layers": config.num_layers,
        "num_decoder_layers": config.num_decoder_layers,
        "num_heads": config.num_heads,
        "relative_attention_num_buckets": config.num_buckets,
        "relative_attention_max_distance": config.max_distance,
        "dropout_rate": config.dropout,
        "layer_norm_epsilon": config.norm_eps,
        "initializer_factor": config.init_std,
        "feed_forward_proj": forms[config.activation, config.gated],
        "pad_token_id": vocab.pad,
        "eos_token_id": vocab.eos,
        "decoder_start_token_id": vocab.pad,
        # Older versions read the first, newer ones the second, and tie the tables unless a file holds two.
        "tie_word_embeddings": config.tie_head,
        "scale_decoder_outputs": config.scale_head,
    }
    table = rules(config.num_layers, config.num_decoder_layers, gated=config.gated)
    files = _ending(tokenizer_files(tokenizer, vocab, config.max_positions, frame=False), vocab)
    write(folder, tree, to_theirs(table, state), files)


def _ending(files: Mapping[str, str], vocab: Vocabulary) -> dict[str, str]:
    """The tokenizer's files such that every text is closed by eos, as T5's are."""
    if "tokenizer.json" not in files:
        return dict(files)
    tree = json.loads(files["tokenizer.json"])
    name = json.loads(files["tokenizer_config.json"])["eos_token"]
    end = {"SpecialToken": {"id": name, "type_id": 0}}
    one = [{"Sequence": {"id": "A", "type_id": 0}}, end]
    tree["post_processor"] = {
        "type": "TemplateProcessing",
        "single": one,
        "pair": [*one, {"Sequence": {"id": "B", "type_id": 0}}, end],
        "special_tokens": {name: {"id": name, "ids": [vocab.eos], "tokens": [name]}},
    }
    return {**files, "tokenizer.json": json.dumps(tree, ensure_ascii=False)}


def _config(tree: Mapping[str, Any], folder: Path, *, tied: bool) -> TransformerConfig:
    def number(name: str, default: int | None = None) -> int:
        value: int = field(tree, name, int, default, folder)
        return value

    def rate(name: str, default: float) -> float:
        value: float = field(tree, name, float, default, folder)
        return value

    where = folder / "config.json"
    form = tree.get("feed_forward_proj", "relu")
    if form not in FORMS:
        raise UserError(f"{where}: feed_forward_proj {form!r} is none of {sorted(FORMS)}")
    activation, gated = FORMS[form]
    start, pad = tree.get("decoder_start_token_id", 0), tree.get("pad_token_id", 0)
    if start not in (pad, None):
        raise UserError(
            f"{where}: the decoder starts with id {start}, but only with padding ({pad}) is supported"
        )
    scaled = tree.get("scale_decoder_outputs", tree.get("tie_word_embeddings", True))
    dropout, layers = rate("dropout_rate", 0.1), number("num_layers")
    given = tree.get("num_decoder_layers")
    try:
        return TransformerConfig(
            num_layers=layers,
            num_decoder_layers=layers if given is None else number("num_decoder_layers"),
            d_model=number("d_model"),
            num_heads=number("num_heads"),
            d_head=number("d_kv", 64),
            d_ff=number("d_ff"),
            norm_order="pre",
            norm="rms",
            norm_eps=rate("layer_norm_epsilon", 1e-6),
            bias=False,
            positions="buckets",
            num_buckets=number("relative_attention_num_buckets", 32),
            max_distance=number("relative_attention_max_distance", 128),
            scale_attention=False,
            activation=activation,
            gated=gated,
            tie_head=tied,
            scale_head=scaled is not False,
            init="fan_in",
            init_std=rate("initializer_factor", 1.0),
            dropout=dropout,
            attention_dropout=dropout,
            activation_dropout=dropout,
            final_dropout=dropout,
        )
    except ValueError as error:
        raise UserError(f"{where}: {error}") from None
