"""XLNet as ``transformers`` stores it: projections [d_model, heads, d_head] without bias (spec 10 section 3)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from plume.errors import UserError
from plume.models.interop.encoders import ACTIVATIONS
from plume.models.interop.folder import (
    Imported,
    Rule,
    beyond,
    field,
    label_tree,
    labels_of,
    one_table,
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

# What this toolkit has no counterpart for unless it has this value.
FIXED: dict[str, Any] = {
    "attn_type": "bi", "bi_data": False, "clamp_len": -1, "same_length": False, "summary_type": "last",
    "summary_use_proj": True, "summary_activation": "tanh",
}  # fmt: skip
PROJECTIONS = ("q", "k", "v", "o", "r")


def rules(num_layers: int) -> list[Rule]:
    """Our names and theirs, theirs without the ``transformer.`` prefix and as ``_flat`` lays them out."""
    table = [
        Rule("backbone.embedding.weight", ("word_embedding.weight",)),
        Rule("backbone.embedding.virtual", ("mask_emb",)),
        Rule("heads.permuted_token.bias", ("lm_loss.bias",)),
    ]
    pairs = {"heads.label.dense": "sequence_summary.summary", "heads.label.out": "logits_proj"}
    for i in range(num_layers):
        ours, relation, theirs = f"backbone.stack.layers.{i}", f"backbone.positions.layers.{i}", f"layer.{i}"
        heads = f"{theirs}.rel_attn"
        table += [
            Rule(f"{ours}.qkv.weight", (f"{heads}.q", f"{heads}.k", f"{heads}.v"), transposed=True),
            Rule(f"{ours}.attention_out.weight", (f"{heads}.o",)),
            Rule(f"{relation}.distance.weight", (f"{heads}.r",), transposed=True),
            Rule(f"{relation}.content_bias", (f"{heads}.r_w_bias",)),
            Rule(f"{relation}.distance_bias", (f"{heads}.r_r_bias",)),
            Rule(f"{relation}.segment_bias", (f"{heads}.r_s_bias",)),
            Rule(f"{relation}.segments", (f"{heads}.seg_embed",)),
        ]
        pairs |= {
            f"{ours}.attention_norm": f"{heads}.layer_norm",
            f"{ours}.up": f"{theirs}.ff.layer_1",
            f"{ours}.down": f"{theirs}.ff.layer_2",
            f"{ours}.up_norm": f"{theirs}.ff.layer_norm",
        }
    return [*table, *(Rule(f"{a}.{p}", (f"{b}.{p}",)) for a, b in pairs.items() for p in ("weight", "bias"))]


def describes(model: PretrainedModel) -> bool:
    """Whether ``model`` is of XLNet's kind: its positions are relative ones."""
    backbone = model.backbone
    return isinstance(backbone, Transformer) and backbone.config.positions == "relative"


def import_folder(folder: Path) -> Imported:
    """Read an XLNetModel, XLNetLMHeadModel or XLNetForSequenceClassification.

    Raises:
        UserError: the folder is unreadable, not an XLNet, or of a kind that this toolkit has no counterpart for.
    """
    tree = read_config(folder)
    config = _config(tree, folder)
    theirs = _flat({n.removeprefix("transformer."): t for n, t in read_folder_weights(folder).items()})
    table = rules(config.num_layers)
    state, size = whole_state(table, theirs, tree, folder, 32_000)
    one_table(theirs.get("lm_loss.weight"), state, folder)
    parts = {"permuted_token": ("bias",), "label": ("dense.weight", "dense.bias", "out.weight", "out.bias")}
    heads = tuple(head for head, names in parts.items() if all(f"heads.{head}.{n}" in state for n in names))
    labels = labels_of(tree, len(state["heads.label.out.bias"])) if "label" in heads else ()
    return Imported("xlnet", config, size, heads, labels, state)


def export_folder(
    model: PretrainedModel,
    config: TransformerConfig,
    vocab: Vocabulary,
    folder: Path,
    *,
    tokenizer: Path | None = None,
    labels: Sequence[str] = (),
) -> None:
    """Write ``model`` as the XLNet class that has its heads; arguments as ``bert.export_folder``'s.

    Raises:
        UserError: XLNet has no place for something this model has.
    """
    state = model.state()
    kinds = {
        frozenset({"permuted_token"}): "XLNetLMHeadModel",
        frozenset({"label"}): "XLNetForSequenceClassification",
        frozenset[str](): "XLNetModel",
    }
    heads = frozenset(model.heads)
    wrong = [
        message
        for bad, message in (
            (config.norm_order != "post", "its norms come first"),
            (config.embedding_norm, "its embeddings are normalised"),
            (config.token_types > 0, "it adds segments to its embeddings"),
            (config.num_decoder_layers > 0, "it has a second stack"),
            (config.scale_embedding, "it scales its embeddings"),
            (config.scale_by_layer, "it scales attention by layer"),
            (config.virtual_tokens != 1, "it has other virtual tokens than the query"),
            (heads not in kinds, f"no XLNet class has the heads {sorted(heads)}"),
            (
                "label" in heads and "heads.label.dense.weight" not in state,
                "its label head has no dense layer",
            ),
        )
        if bad
    ] + beyond(config)
    refuse("XLNet", wrong)
    kind = kinds[heads]
    weights = _deep(to_theirs(rules(config.num_layers), state), config)
    outer = ("lm_loss.", "sequence_summary.", "logits_proj.")
    if kind != "XLNetModel":
        weights = {n if n.startswith(outer) else f"transformer.{n}": t for n, t in weights.items()}
    begin = vocab.eos if vocab.bos is None else vocab.bos
    tree = {
        "architectures": [kind],
        "model_type": "xlnet",
        "vocab_size": vocab.size,
        "d_model": config.d_model,
        "n_layer": config.num_layers,
        "n_head": config.num_heads,
        "d_head": config.d_model // config.num_heads,
        "d_inner": config.d_ff,
        "ff_activation": {"gelu_tanh": "gelu_new"}.get(config.activation, config.activation),
        "untie_r": True,
        **FIXED,
        "initializer_range": config.init_std,
        "layer_norm_eps": config.norm_eps,
        "dropout": config.dropout,
        "mem_len": None,
        "reuse_len": None,
        "summary_last_dropout": config.dropout,
        "pad_token_id": vocab.pad,
        "bos_token_id": begin,
        "eos_token_id": vocab.eos,
        "tie_word_embeddings": True,
    }
    tree |= label_tree(model, labels)
    write(folder, tree, weights, tokenizer_files(tokenizer, vocab, 2**30, frame=True, cls_last=True))


def _config(tree: Mapping[str, Any], folder: Path) -> TransformerConfig:
    def number(name: str, default: int) -> int:
        value: int = field(tree, name, int, default, folder)
        return value

    def rate(name: str, default: float) -> float:
        value: float = field(tree, name, float, default, folder)
        return value

    act = tree.get("ff_activation", "gelu")
    if act not in ACTIVATIONS:
        raise UserError(f"{folder / 'config.json'}: ff_activation {act!r} is none of {sorted(ACTIVATIONS)}")
    for name, only in FIXED.items():
        if tree.get(name, only) != only:
            raise UserError(
                f"{folder / 'config.json'}: {name} {tree[name]!r} is not supported, only {only!r}"
            )
    dropout = rate("dropout", 0.1)
    try:
        return TransformerConfig(
            num_layers=number("n_layer", 24),
            d_model=number("d_model", 1024),
            num_heads=number("n_head", 16),
            d_ff=number("d_inner", 4096),
            norm_order="post",
            positions="relative",
            virtual_tokens=1,
            activation=ACTIVATIONS[act],
            dropout=dropout,
            attention_dropout=dropout,
            activation_dropout=dropout,
            final_dropout=dropout,
            norm_eps=rate("layer_norm_eps", 1e-12),
            init_std=rate("initializer_range", 0.02),
        )
    except ValueError as error:
        raise UserError(f"{folder / 'config.json'}: {error}") from None


def _flat(theirs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Projections as matrices [d_model, heads * d_head], the query's embedding as a table of one row."""
    state = {}
    for name, tensor in theirs.items():
        matrix = name.rpartition(".")[2] in PROJECTIONS
        state[name] = tensor.flatten(1) if matrix else tensor.reshape(1, -1) if name == "mask_emb" else tensor
    return state


def _deep(flat: Mapping[str, Tensor], config: TransformerConfig) -> dict[str, Tensor]:
    """The reverse of ``_flat``."""
    state = {}
    for name, tensor in flat.items():
        if name.rpartition(".")[2] in PROJECTIONS:
            tensor = tensor.view(len(tensor), config.num_heads, -1)
        state[name] = tensor.view(1, 1, -1) if name == "mask_emb" else tensor
    return state
