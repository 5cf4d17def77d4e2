"""BERT as ``transformers`` stores it (spec 06 section 3)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from plume.errors import UserError
from plume.models.activations import Activation
from plume.models.interop.folder import (
    Imported,
    Rule,
    beyond,
    field,
    labels_of,
    read_config,
    read_folder_weights,
    to_ours,
    to_theirs,
    tokenizer_files,
    write,
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


def rules(num_layers: int, pooled: str) -> list[Rule]:
    """Our names and theirs, theirs without the ``bert.`` prefix. ``pooled``: the head that owns the pooler."""
    table = [
        Rule("backbone.embedding.weight", ("embeddings.word_embeddings.weight",)),
        Rule("backbone.embedding.types", ("embeddings.token_type_embeddings.weight",)),
        Rule("backbone.positions.weight", ("embeddings.position_embeddings.weight",)),
    ]
    pairs = {"backbone.embedding_norm": "embeddings.LayerNorm"}
    for i in range(num_layers):
        ours, theirs = f"backbone.stack.layers.{i}", f"encoder.layer.{i}"
        attention = [f"{theirs}.attention.self.{part}" for part in ("query", "key", "value")]
        table += [Rule(f"{ours}.qkv.{p}", tuple(f"{a}.{p}" for a in attention)) for p in ("weight", "bias")]
        pairs |= {
            f"{ours}.attention_out": f"{theirs}.attention.output.dense",
            f"{ours}.attention_norm": f"{theirs}.attention.output.LayerNorm",
            f"{ours}.up": f"{theirs}.intermediate.dense",
            f"{ours}.down": f"{theirs}.output.dense",
            f"{ours}.up_norm": f"{theirs}.output.LayerNorm",
        }
    pairs |= {
        f"heads.{pooled}.dense": "pooler.dense",
        "heads.masked_token.dense": "cls.predictions.transform.dense",
        "heads.masked_token.norm": "cls.predictions.transform.LayerNorm",
        "heads.next_sentence.out": "cls.seq_relationship",
        "heads.label.out": "classifier",
    }
    table += [Rule(f"{a}.{p}", (f"{b}.{p}",)) for a, b in pairs.items() for p in ("weight", "bias")]
    return [*table, Rule("heads.masked_token.bias", ("cls.predictions.bias",))]


def describes(model: PretrainedModel) -> bool:
    """Whether ``model`` is of BERT's kind: one stack, norms last. ``export_folder`` says what else is amiss."""
    backbone = model.backbone
    if not isinstance(backbone, Transformer):
        return False
    return backbone.config.norm_order == "post" and not backbone.config.num_decoder_layers


def import_folder(folder: Path) -> Imported:
    """Read a BertModel, or one with the heads of pretraining, masked tokens or classification.

    Old names (gamma, beta, no prefix), saved buffers and repeated tied tensors are understood.

    Raises:
        UserError: the folder is unreadable, not a BERT, or of a kind that this toolkit has no counterpart for.
    """
    tree = read_config(folder)
    config = _config(tree, folder)
    theirs = _modern(read_folder_weights(folder))
    pooled = "label" if "classifier.weight" in theirs else "next_sentence"
    table = rules(config.num_layers, pooled)
    state = to_ours(table, theirs)
    for rule in table:
        if rule.ours.startswith("backbone.") and rule.ours not in state:
            raise UserError(
                f"{folder}: the weights lack {' or '.join(rule.theirs)}, which config.json promises"
            )
    if (given := len(state["backbone.embedding.weight"])) != (
        size := field(tree, "vocab_size", int, None, folder)
    ):
        raise UserError(f"{folder}: config.json says vocab_size {size}, the weights have {given} rows")
    out = theirs.get("cls.predictions.decoder.weight")
    if out is not None and not torch.equal(out, state["backbone.embedding.weight"]):
        raise UserError(
            f"{folder}: its output table differs from its embeddings, and ours are always one table"
        )
    parts = {
        "masked_token": ("dense.weight", "dense.bias", "norm.weight", "norm.bias", "bias"),
        "next_sentence": ("dense.weight", "dense.bias", "out.weight", "out.bias"),
        "label": ("dense.weight", "dense.bias", "out.weight", "out.bias"),
    }
    heads = tuple(head for head, names in parts.items() if all(f"heads.{head}.{n}" in state for n in names))
    labels = labels_of(tree, len(state["heads.label.out.bias"])) if "label" in heads else ()
    return Imported("bert", config, size, heads, labels, state)


def export_folder(
    model: PretrainedModel,
    config: TransformerConfig,
    vocab: Vocabulary,
    folder: Path,
    *,
    tokenizer: Path | None = None,
    labels: Sequence[str] = (),
) -> None:
    """Write ``model`` as the BERT class that has its heads.

    ``tokenizer`` is a folder with a tokenizer.json to go with it; ``labels`` name the "label" head's answers.

    Raises:
        UserError: BERT has no place for something this model has.
    """
    state = model.state()
    kinds = {
        frozenset({"masked_token", "next_sentence"}): "BertForPreTraining",
        frozenset({"masked_token"}): "BertForMaskedLM",
        frozenset({"next_sentence"}): "BertForNextSentencePrediction",
        frozenset({"label"}): "BertForSequenceClassification",
        frozenset[str](): "BertModel",
    }
    heads = frozenset(model.heads)
    wrong = beyond(config) + [
        message
        for bad, message in (
            (config.norm_order != "post", "its norms come first"),
            (not config.embedding_norm, "its embeddings are not normalised"),
            (config.num_decoder_layers > 0, "it has a second stack"),
            (config.scale_embedding, "it scales its embeddings"),
            (config.scale_by_layer, "it scales attention by layer"),
            (config.virtual_tokens > 0, "it has virtual tokens"),
            (heads not in kinds, f"no BERT class has the heads {sorted(heads)}"),
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
    if wrong:
        raise UserError(f"this model cannot be written as BERT: {'; '.join(wrong)}")
    kind = kinds[heads]
    pooled = "label" if "label" in heads else "next_sentence"
    given = dict(state)
    if config.positions != "learned":
        given["backbone.positions.weight"] = model.backbone.positions.weight
    if not config.token_types:
        given["backbone.embedding.types"] = torch.zeros(1, config.d_model)
    weights = to_theirs(rules(config.num_layers, pooled), given)
    outer = ("cls.", "classifier.")
    if kind != "BertModel":
        weights = {n if n.startswith(outer) else f"bert.{n}": t for n, t in weights.items()}
    tree = {
        "architectures": [kind],
        "model_type": "bert",
        "vocab_size": vocab.size,
        "hidden_size": config.d_model,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "intermediate_size": config.d_ff,
        "hidden_act": {"gelu_tanh": "gelu_new"}.get(config.activation, config.activation),
        "hidden_dropout_prob": config.dropout,
        "attention_probs_dropout_prob": config.attention_dropout,
        "max_position_embeddings": config.max_positions,
        "type_vocab_size": max(config.token_types, 1),
        "initializer_range": config.init_std,
        "layer_norm_eps": config.norm_eps,
        "pad_token_id": vocab.pad,
        "classifier_dropout": None,
        "tie_word_embeddings": True,
    }
    if "label" in heads:
        names = list(labels) or [f"LABEL_{i}" for i in range(len(state["heads.label.out.bias"]))]
        tree |= {"id2label": dict(enumerate(names)), "label2id": {n: i for i, n in enumerate(names)}}
    write(folder, tree, weights, tokenizer_files(tokenizer, vocab, config.max_positions, frame=True))


def _config(tree: Mapping[str, Any], folder: Path) -> TransformerConfig:
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
    try:
        return TransformerConfig(
            num_layers=number("num_hidden_layers"),
            d_model=number("hidden_size"),
            num_heads=number("num_attention_heads"),
            d_ff=number("intermediate_size"),
            norm_order="post",
            max_positions=number("max_position_embeddings", 512),
            token_types=number("type_vocab_size", 2),
            embedding_norm=True,
            activation=ACTIVATIONS[act],
            dropout=rate("hidden_dropout_prob", 0.1),
            attention_dropout=rate("attention_probs_dropout_prob", 0.1),
            norm_eps=rate("layer_norm_eps", 1e-12),
            init_std=rate("initializer_range", 0.02),
        )
    except ValueError as error:
        raise UserError(f"{folder / 'config.json'}: {error}") from None


def _modern(theirs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    state = {}
    for name, tensor in theirs.items():
        name = name.removeprefix("bert.")
        name = name.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias")
        state["cls.predictions.bias" if name == "cls.predictions.decoder.bias" else name] = tensor
    return state
