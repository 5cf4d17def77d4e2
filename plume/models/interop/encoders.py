"""What BERT, RoBERTa, ERNIE and ELECTRA have in common as ``transformers`` stores them (spec 06 to 09)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from plume.errors import UserError
from plume.models.activations import Activation
from plume.models.interop.folder import (
    Imported,
    MakeHeads,
    Rule,
    beyond,
    field,
    labels_of,
    one_table,
    read_config,
    read_folder_weights,
    refuse,
    to_theirs,
    whole_state,
)
from plume.models.pretrained import PretrainedModel
from plume.models.transformer import Transformer, TransformerConfig
from plume.vocabulary import Vocabulary

ACTIVATIONS: dict[str, Activation] = {
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "relu": "relu",
}


@dataclass(frozen=True)
class Family:
    """One of these families.

    name: its model_type, and the prefix of its backbone's tensors. title: what a sentence calls it. kinds: the
    class that has these heads; of the bare backbone it is ``frozenset()``'s. outer: the prefixes of what lies
    beside the backbone. table: the tensors whose output table must be the embeddings, as ``transformers`` ties them.
    """

    name: str
    title: str
    kinds: Mapping[frozenset[str], str]
    outer: tuple[str, ...]
    table: str


def pairs(names: Mapping[str, str]) -> list[Rule]:
    """Rules for the weight and bias of modules, ours -> theirs."""
    return [Rule(f"{a}.{p}", (f"{b}.{p}",)) for a, b in names.items() for p in ("weight", "bias")]


def backbone_rules(num_layers: int) -> list[Rule]:
    """The tensors of the backbone, theirs without the family's prefix."""
    table = [
        Rule("backbone.embedding.weight", ("embeddings.word_embeddings.weight",)),
        Rule("backbone.embedding.types", ("embeddings.token_type_embeddings.weight",)),
        Rule("backbone.positions.weight", ("embeddings.position_embeddings.weight",)),
    ]
    names = {"backbone.embedding_norm": "embeddings.LayerNorm"}
    for i in range(num_layers):
        ours, theirs = f"backbone.stack.layers.{i}", f"encoder.layer.{i}"
        attention = [f"{theirs}.attention.self.{part}" for part in ("query", "key", "value")]
        table += [Rule(f"{ours}.qkv.{p}", tuple(f"{a}.{p}" for a in attention)) for p in ("weight", "bias")]
        names |= {
            f"{ours}.attention_out": f"{theirs}.attention.output.dense",
            f"{ours}.attention_norm": f"{theirs}.attention.output.LayerNorm",
            f"{ours}.up": f"{theirs}.intermediate.dense",
            f"{ours}.down": f"{theirs}.output.dense",
            f"{ours}.up_norm": f"{theirs}.output.LayerNorm",
        }
    return [*table, *pairs(names)]


def one_stack_post_norm(model: PretrainedModel) -> bool:
    """Whether ``model`` is an encoder of these families at all."""
    backbone = model.backbone
    if not isinstance(backbone, Transformer):
        return False
    return backbone.config.norm_order == "post" and not backbone.config.num_decoder_layers


def imported(
    folder: Path,
    family: Family,
    config: TransformerConfig,
    theirs: Mapping[str, Tensor],
    rules: Sequence[Rule],
    parts: Mapping[str, Sequence[str]],
    make: MakeHeads | None = None,
) -> Imported:
    """``theirs``, without the family's prefix, in our names. ``parts``: the tensors that make each head whole.

    Raises:
        UserError: tensors are missing or contradict config.json.
    """
    tree = read_config(folder)
    state, size = whole_state(rules, theirs, tree, folder)
    one_table(theirs.get(family.table), state, folder)
    heads = tuple(head for head, names in parts.items() if all(f"heads.{head}.{n}" in state for n in names))
    labels = labels_of(tree, len(state["heads.label.out.bias"])) if "label" in heads else ()
    return Imported(family.name, config, size, heads, labels, state, make)


def unprefixed(folder: Path, family: Family) -> dict[str, Tensor]:
    """The weights of a folder without the family's prefix; old names of norms are made new."""
    state = {}
    for name, tensor in read_folder_weights(folder).items():
        name = name.removeprefix(f"{family.name}.")
        name = name.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias")
        state[name] = tensor
    return state


def exported(
    family: Family, model: PretrainedModel, rules: Sequence[Rule], wrong: Sequence[str]
) -> tuple[str, dict[str, Tensor]]:
    """The class that has the model's heads, and its weights by that class's names.

    ``wrong``: what the family found it has no place for.

    Raises:
        UserError: the family has no place for something this model has.
    """
    config, state, heads = model.backbone.config, model.state(), frozenset(model.heads)
    problems = [
        message
        for bad, message in (
            (config.norm_order != "post", "its norms come first"),
            (not config.embedding_norm, "its embeddings are not normalised"),
            (config.num_decoder_layers > 0, "it has a second stack"),
            (config.scale_embedding, "it scales its embeddings"),
            (config.scale_by_layer, "it scales attention by layer"),
            (config.virtual_tokens > 0, "it has virtual tokens"),
            (heads not in family.kinds, f"no {family.title} class has the heads {sorted(heads)}"),
            (
                "masked_token" in heads and "heads.masked_token.dense.weight" not in state,
                "its token head is plain",
            ),
            (
                "label" in heads and "heads.label.dense.weight" not in state,
                "its label head has no dense layer",
            ),
        )
        if bad
    ]
    refuse(family.title, [*problems, *beyond(config), *wrong])
    if config.positions != "learned":
        state["backbone.positions.weight"] = model.backbone.positions.weight
    if not config.token_types:
        state["backbone.embedding.types"] = torch.zeros(1, config.embedding_width)
    kind, bare = family.kinds[heads], family.kinds.get(frozenset[str]())
    weights = to_theirs(rules, state)
    if kind != bare:
        weights = {n if n.startswith(family.outer) else f"{family.name}.{n}": t for n, t in weights.items()}
    return kind, weights


def shape_tree(family: Family, kind: str, model: PretrainedModel, vocab: Vocabulary) -> dict[str, Any]:
    """config.json for a class of the family."""
    config = model.backbone.config
    return {
        "architectures": [kind],
        "model_type": family.name,
        "vocab_size": vocab.size,
        "hidden_size": config.d_model,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "intermediate_size": config.d_ff,
        "hidden_act": {"gelu_tanh": "gelu_new"}.get(config.activation, config.activation),
        "hidden_dropout_prob": config.dropout,
        "attention_probs_dropout_prob": config.attention_dropout,
        "max_position_embeddings": config.max_positions + config.position_offset,
        "type_vocab_size": max(config.token_types, 1),
        "initializer_range": config.init_std,
        "layer_norm_eps": config.norm_eps,
        "pad_token_id": vocab.pad,
        "classifier_dropout": None,
        "tie_word_embeddings": True,
    }


def read_shape(tree: Mapping[str, Any], folder: Path, **changes: Any) -> TransformerConfig:
    """The shape that config.json describes, with the family's ``changes``.

    Raises:
        UserError: a value is of another type, or of a kind that this toolkit has no counterpart for.
    """

    def number(name: str, default: int | None = None) -> int:
        value: int = field(tree, name, int, default, folder)
        return value

    def rate(name: str, default: float) -> float:
        value: float = field(tree, name, float, default, folder)
        return value

    act = tree.get("hidden_act", "gelu")
    if act not in ACTIVATIONS:
        raise UserError(f"{folder / 'config.json'}: hidden_act {act!r} is none of {sorted(ACTIVATIONS)}")
    for name, plain in (
        ("position_embedding_type", "absolute"),
        ("is_decoder", False),
        ("add_cross_attention", False),
    ):
        if tree.get(name, plain) not in (plain, None):
            raise UserError(
                f"{folder / 'config.json'}: {name} {tree[name]!r} is not supported, only {plain!r}"
            )
    values: dict[str, Any] = {
        "num_layers": number("num_hidden_layers"),
        "d_model": number("hidden_size"),
        "num_heads": number("num_attention_heads"),
        "d_ff": number("intermediate_size"),
        "norm_order": "post",
        "max_positions": number("max_position_embeddings", 512),
        "token_types": number("type_vocab_size", 2),
        "embedding_norm": True,
        "activation": ACTIVATIONS[act],
        "dropout": rate("hidden_dropout_prob", 0.1),
        "attention_dropout": rate("attention_probs_dropout_prob", 0.1),
        "norm_eps": rate("layer_norm_eps", 1e-12),
        "init_std": rate("initializer_range", 0.02),
    }
    try:
        return TransformerConfig(**values | changes)
    except ValueError as error:
        raise UserError(f"{folder / 'config.json'}: {error}") from None
