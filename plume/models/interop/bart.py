"""BART as ``transformers`` stores it: two stacks, post-norm, tables two rows longer (spec 19 section 2).

Marian, which is the Transformer of 2017, has the same names (``plume.models.interop.marian``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from plume.errors import UserError
from plume.models.backbone import Backbone
from plume.models.heads import Head, PooledHead, TokenHead
from plume.models.interop.encoders import ACTIVATIONS
from plume.models.interop.folder import (
    Imported,
    Rule,
    beyond,
    each,
    field,
    label_tree,
    labels_of,
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

BIAS = "final_logits_bias"  # [1, V] there, a buffer that is never trained; [V] here, a parameter
TABLES = ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight", "lm_head.weight")


def rules(config: TransformerConfig) -> list[Rule]:
    """Our names and theirs, theirs without the ``model.`` prefix."""
    table = [Rule("backbone.embedding.weight", ("shared.weight",))]
    if config.positions == "learned":
        table += [
            Rule("backbone.positions.weight", ("encoder.embed_positions.weight",)),
            Rule("backbone.decoder_positions.weight", ("decoder.embed_positions.weight",)),
        ]
    pairs = {}
    if config.embedding_norm:
        pairs["backbone.embedding_norm"] = "encoder.layernorm_embedding"
        pairs["backbone.decoder_embedding_norm"] = "decoder.layernorm_embedding"
    for stack, count in (("stack", config.num_layers), ("decoder", config.num_decoder_layers)):
        for i in range(count):
            ours = f"backbone.{stack}.layers.{i}"
            theirs = f"{'encoder' if stack == 'stack' else 'decoder'}.layers.{i}"
            table += _joined(f"{ours}.qkv", f"{theirs}.self_attn", "qkv")
            pairs |= {
                f"{ours}.attention_out": f"{theirs}.self_attn.out_proj",
                f"{ours}.attention_norm": f"{theirs}.self_attn_layer_norm",
                f"{ours}.up": f"{theirs}.fc1",
                f"{ours}.down": f"{theirs}.fc2",
                f"{ours}.up_norm": f"{theirs}.final_layer_norm",
            }
            if stack == "decoder":
                table += _joined(f"{ours}.cross_kv", f"{theirs}.encoder_attn", "kv")
                pairs |= {
                    f"{ours}.cross_q": f"{theirs}.encoder_attn.q_proj",
                    f"{ours}.cross_out": f"{theirs}.encoder_attn.out_proj",
                    f"{ours}.cross_norm": f"{theirs}.encoder_attn_layer_norm",
                }
    pairs |= {
        "heads.label.dense": "classification_head.dense",
        "heads.label.out": "classification_head.out_proj",
    }
    return [*table, *(Rule(f"{a}.{p}", (f"{b}.{p}",)) for a, b in pairs.items() for p in ("weight", "bias"))]


def _joined(ours: str, theirs: str, letters: str) -> list[Rule]:
    return [
        Rule(f"{ours}.{p}", tuple(f"{theirs}.{letter}_proj.{p}" for letter in letters))
        for p in ("weight", "bias")
    ]


def describes(model: PretrainedModel) -> bool:
    """Whether ``model`` is of BART's kind: two stacks, norms last, learned positions."""
    backbone = model.backbone
    if not isinstance(backbone, Transformer):
        return False
    config = backbone.config
    return config.norm_order == "post" and config.num_decoder_layers > 0 and config.positions == "learned"


def import_folder(folder: Path) -> Imported:
    """Read a BartModel, BartForConditionalGeneration or BartForSequenceClassification.

    Raises:
        UserError: the folder is unreadable, not a BART, or of a kind that this toolkit has no counterpart for.
    """
    tree = read_config(folder)
    config = shape(tree, folder, {"positions": "learned", "position_offset": 2, "embedding_norm": True})
    start, eos = tree.get("decoder_start_token_id", 2), tree.get("eos_token_id", 2)
    if start != eos:
        raise UserError(
            f"{folder / 'config.json'}: decoder_start_token_id is {start}, but BART's second stack begins with its "
            f"end token, here {eos}"
        )
    return imported("bart", tree, config, folder)


def imported(family: str, tree: Mapping[str, Any], config: TransformerConfig, folder: Path) -> Imported:
    """The weights of a folder whose shape is known.

    Raises:
        UserError: something is missing, or one of the shared tables is another.
    """
    theirs = {n.removeprefix("model."): t for n, t in read_folder_weights(folder).items()}
    table = next((theirs[n] for n in ("shared.weight", *TABLES) if n in theirs), None)
    if table is None:
        raise UserError(f"{folder}: the weights lack shared.weight, which config.json promises")
    if any(n in theirs and not torch.equal(theirs[n], table) for n in TABLES):
        raise UserError(
            f"{folder}: its tables of tokens differ from each other, and ours are always one table"
        )
    state, size = whole_state(rules(config), theirs | {"shared.weight": table}, tree, folder)
    label = "heads.label.out.weight" in state
    speaks = not label and (BIAS in theirs or "lm_head.weight" in theirs)
    bias = theirs.get(BIAS)
    if speaks and bias is not None and bool(bias.any()):
        state["heads.next_token.bias"] = bias.flatten().clone()
    labels = labels_of(tree, len(state["heads.label.out.bias"])) if label else ()
    rate: float = field(tree, "classifier_dropout", float, 0.0, folder)

    def make(name: str, backbone: Backbone, count: int) -> Head:
        if name == "label":
            return PooledHead(backbone, count, dropout=rate)
        return TokenHead(backbone, bias="heads.next_token.bias" in state)

    heads = ("label",) if label else ("next_token",) * speaks
    return Imported(family, config, size, heads, labels, state, each(make))


def export_folder(
    model: PretrainedModel,
    config: TransformerConfig,
    vocab: Vocabulary,
    folder: Path,
    *,
    tokenizer: Path | None = None,
    labels: Sequence[str] = (),
) -> None:
    """Write ``model`` as the BART class that has its heads; arguments as ``bert.export_folder``'s.

    Raises:
        UserError: BART has no place for something this model has.
    """
    heads = frozenset(model.heads)
    kinds = {
        frozenset({"next_token"}): "BartForConditionalGeneration",
        frozenset({"label"}): "BartForSequenceClassification",
        frozenset[str](): "BartModel",
    }
    refuse(
        "BART",
        [
            *misfits(model, config),
            *(["its embeddings are not normalised"] if not config.embedding_norm else []),
            *(
                ["its tables begin with the first position (position_offset)"]
                if config.position_offset != 2
                else []
            ),
            *([f"no BART class has the heads {sorted(heads)}"] if heads not in kinds else []),
        ],
    )
    tree = common(config, vocab) | {
        "architectures": [kinds[heads]],
        "model_type": "bart",
        "decoder_start_token_id": vocab.eos,
        "forced_eos_token_id": vocab.eos,
        "classifier_dropout": 0.0,
    }
    tree |= label_tree(model, labels)
    weights = named(model, config, bare=not heads)
    write(folder, tree, weights, tokenizer_files(tokenizer, vocab, config.max_positions, frame=False))


def misfits(model: PretrainedModel, config: TransformerConfig) -> list[str]:
    """What neither BART nor Marian has a place for."""
    state = model.state()
    parts = (
        (config.norm_order != "post", "its norms come first"),
        (not config.num_decoder_layers, "it has one stack"),
        (config.token_types > 0, "it has segment embeddings"),
        (config.scale_by_layer, "it scales attention by layer"),
        (config.virtual_tokens > 0, "it has virtual tokens"),
        ("heads.next_token.dense.weight" in state, "its token head has a layer of its own"),
        (
            "label" in model.heads and "heads.label.dense.weight" not in state,
            "its label head has no dense layer",
        ),
        (
            config.embedding_dropout not in (None, config.dropout),
            "its embeddings have a dropout of their own",
        ),
    )
    return beyond(config) + [message for bad, message in parts if bad]


def common(config: TransformerConfig, vocab: Vocabulary) -> dict[str, Any]:
    """What the config.json of both families says of a shape."""
    return {
        "is_encoder_decoder": True,
        "vocab_size": vocab.size,
        "d_model": config.d_model,
        "encoder_layers": config.num_layers,
        "decoder_layers": config.num_decoder_layers,
        "encoder_attention_heads": config.num_heads,
        "decoder_attention_heads": config.num_heads,
        "encoder_ffn_dim": config.d_ff,
        "decoder_ffn_dim": config.d_ff,
        "activation_function": {"gelu_tanh": "gelu_new"}.get(config.activation, config.activation),
        "max_position_embeddings": config.max_positions,
        "scale_embedding": config.scale_embedding,
        "dropout": config.dropout,
        "attention_dropout": config.attention_dropout,
        "activation_dropout": config.activation_dropout,
        "init_std": config.init_std,
        "pad_token_id": vocab.pad,
        "bos_token_id": vocab.bos,
        "eos_token_id": vocab.eos,
        "tie_word_embeddings": True,
    }


def named(model: PretrainedModel, config: TransformerConfig, *, bare: bool) -> dict[str, Tensor]:
    """Every tensor under its published name; ``bare``: a model without heads, whose names have no prefix."""
    weights = to_theirs(rules(config), model.state())
    if bare:
        return weights
    weights = {n if n.startswith("classification_head.") else f"model.{n}": t for n, t in weights.items()}
    if "next_token" in model.heads:
        bias = model.state().get("heads.next_token.bias")
        size = len(weights["model.shared.weight"])
        weights[BIAS] = torch.zeros(1, size) if bias is None else bias.detach().cpu().clone()[None]
    return weights


def shape(tree: Mapping[str, Any], folder: Path, fixed: Mapping[str, Any]) -> TransformerConfig:
    """The shape that a config.json says, ``fixed`` being what its family says.

    Raises:
        UserError: a value is of another type, or has no counterpart here.
    """

    def number(name: str, default: int) -> int:
        value: int = field(tree, name, int, default, folder)
        return value

    def rate(name: str, default: float) -> float:
        value: float = field(tree, name, float, default, folder)
        return value

    act = tree.get("activation_function", "gelu")
    if act not in ACTIVATIONS:
        raise UserError(
            f"{folder / 'config.json'}: activation_function {act!r} is none of {sorted(ACTIVATIONS)}"
        )
    plain: dict[str, Any] = {
        "normalize_before": False, "add_final_layer_norm": False, "normalize_embedding": fixed["embedding_norm"],
        "static_position_embeddings": False, "tie_word_embeddings": True, "share_encoder_decoder_embeddings": True,
    }  # fmt: skip
    for name, value in plain.items():
        if (
            name in ("normalize_embedding", "static_position_embeddings")
            and tree.get("model_type") == "marian"
        ):
            continue  # old files of Marian say what the family has anyway
        if tree.get(name, value) not in (value, None):
            raise UserError(
                f"{folder / 'config.json'}: {name} {tree[name]!r} is not supported, only {value!r}"
            )
    for part, default in (("attention_heads", 16), ("ffn_dim", 4096)):
        one, two = number(f"encoder_{part}", default), number(f"decoder_{part}", default)
        if one != two:
            raise UserError(
                f"{folder / 'config.json'}: the stacks differ in {part}, {one} and {two}: here they are alike"
            )
    try:
        return TransformerConfig(
            num_layers=number("encoder_layers", 12),
            num_decoder_layers=number("decoder_layers", 12),
            d_model=number("d_model", 1024),
            num_heads=number("encoder_attention_heads", 16),
            d_ff=number("encoder_ffn_dim", 4096),
            norm_order="post",
            max_positions=number("max_position_embeddings", 1024),
            scale_embedding=field(tree, "scale_embedding", bool, False, folder),
            activation=ACTIVATIONS[act],
            dropout=rate("dropout", 0.1),
            attention_dropout=rate("attention_dropout", 0.0),
            activation_dropout=rate("activation_dropout", 0.0),
            init_std=rate("init_std", 0.02),
            **fixed,
        )
    except ValueError as error:
        raise UserError(f"{folder / 'config.json'}: {error}") from None
