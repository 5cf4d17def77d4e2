"""GPT-2 as ``transformers`` stores it: Conv1D matrices [in, out] (spec 14 section 2.2)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

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


def rules(num_layers: int) -> list[Rule]:
    """Our names and theirs, theirs without the ``transformer.`` prefix."""
    table = [
        Rule("backbone.embedding.weight", ("wte.weight",)),
        Rule("backbone.positions.weight", ("wpe.weight",)),
        Rule("heads.label.out.weight", ("score.weight",)),
    ]
    norms = {"backbone.stack.norm": "ln_f"}
    for i in range(num_layers):
        ours, theirs = f"backbone.stack.layers.{i}", f"h.{i}"
        norms |= {f"{ours}.attention_norm": f"{theirs}.ln_1", f"{ours}.up_norm": f"{theirs}.ln_2"}
        matrices = {
            "qkv": "attn.c_attn",
            "attention_out": "attn.c_proj",
            "up": "mlp.c_fc",
            "down": "mlp.c_proj",
        }
        for a, b in matrices.items():
            table.append(Rule(f"{ours}.{a}.weight", (f"{theirs}.{b}.weight",), transposed=True))
            table.append(Rule(f"{ours}.{a}.bias", (f"{theirs}.{b}.bias",)))
    return [*table, *(Rule(f"{a}.{p}", (f"{b}.{p}",)) for a, b in norms.items() for p in ("weight", "bias"))]


def describes(model: PretrainedModel) -> bool:
    """Whether ``model`` is of GPT-2's kind: one stack, norms first. ``export_folder`` says what else is amiss."""
    backbone = model.backbone
    if not isinstance(backbone, Transformer):
        return False
    return backbone.config.norm_order == "pre" and not backbone.config.num_decoder_layers


def import_folder(folder: Path) -> Imported:
    """Read a GPT2LMHeadModel, GPT2Model or GPT2ForSequenceClassification, old buffers and prefixes included.

    Raises:
        UserError: the folder is unreadable, not a GPT-2, or of a kind that this toolkit has no counterpart for.
    """
    tree = read_config(folder)
    config = _config(tree, folder)
    theirs = {n.removeprefix("transformer."): t for n, t in read_folder_weights(folder).items()}
    table = rules(config.num_layers)
    state, size = whole_state(table, theirs, tree, folder)
    one_table(theirs.get("lm_head.weight"), state, folder)
    label = "heads.label.out.weight" in state
    labels = labels_of(tree, len(state["heads.label.out.weight"])) if label else ()

    def make(name: str, backbone: Backbone, count: int) -> Head:
        if name == "label":
            return PooledHead(backbone, count, hidden=False, dropout=config.dropout)
        return TokenHead(backbone)

    return Imported("gpt2", config, size, ("label",) if label else ("next_token",), labels, state, each(make))


def export_folder(
    model: PretrainedModel,
    config: TransformerConfig,
    vocab: Vocabulary,
    folder: Path,
    *,
    tokenizer: Path | None = None,
    labels: Sequence[str] = (),
) -> None:
    """Write ``model`` as the GPT-2 class that has its head; arguments as ``bert.export_folder``'s.

    A classifier of ours reads a text that its end token closes; ``GPT2ForSequenceClassification`` reads the
    last token that is not padding, so append the end token before calling it.

    Raises:
        UserError: GPT-2 has no place for something this model has.
    """
    state = model.state()
    kinds = {
        frozenset({"next_token"}): "GPT2LMHeadModel",
        frozenset({"label"}): "GPT2ForSequenceClassification",
        frozenset[str](): "GPT2Model",
    }
    heads = frozenset(model.heads)
    wrong = beyond(config) + [
        message
        for bad, message in (
            (config.norm_order != "pre", "its norms come last"),
            (config.embedding_norm, "its embeddings are normalised"),
            (config.token_types > 0, "it has segment embeddings"),
            (config.num_decoder_layers > 0, "it has a second stack"),
            (config.scale_embedding, "it scales its embeddings"),
            (config.virtual_tokens > 0, "it has virtual tokens"),
            (heads not in kinds, f"no GPT-2 class has the heads {sorted(heads)}"),
            (any(n.startswith("heads.next_token.") for n in state), "its token head has weights of its own"),
            (
                "heads.label.dense.weight" in state,
                "its label head has a dense layer (objective.hidden=false has none)",
            ),
        )
        if bad
    ]
    refuse("GPT-2", wrong)
    kind = kinds[heads]
    given = dict(state)
    if config.positions != "learned":
        given["backbone.positions.weight"] = model.backbone.positions.weight
    weights = to_theirs(rules(config.num_layers), given)
    if kind != "GPT2Model":
        weights = {n if n == "score.weight" else f"transformer.{n}": t for n, t in weights.items()}
    begin = vocab.eos if vocab.bos is None else vocab.bos
    tree = {
        "architectures": [kind],
        "model_type": "gpt2",
        "vocab_size": vocab.size,
        "n_embd": config.d_model,
        "n_layer": config.num_layers,
        "n_head": config.num_heads,
        "n_inner": None if config.d_ff == 4 * config.d_model else config.d_ff,
        "n_positions": config.max_positions,
        "activation_function": {"gelu_tanh": "gelu_new"}.get(config.activation, config.activation),
        "resid_pdrop": config.dropout,
        "embd_pdrop": config.dropout if config.embedding_dropout is None else config.embedding_dropout,
        "attn_pdrop": config.attention_dropout,
        "layer_norm_epsilon": config.norm_eps,
        "initializer_range": config.init_std,
        "scale_attn_weights": True,
        "scale_attn_by_inverse_layer_idx": config.scale_by_layer,
        "reorder_and_upcast_attn": False,
        "bos_token_id": begin,
        "eos_token_id": vocab.eos,
        "pad_token_id": vocab.pad,
        "tie_word_embeddings": True,
    }
    tree |= label_tree(model, labels)
    write(
        folder,
        tree,
        weights,
        tokenizer_files(tokenizer, vocab, config.max_positions, frame=False, plain=True),
    )


def _config(tree: Mapping[str, Any], folder: Path) -> TransformerConfig:
    def number(name: str, default: int | None = None) -> int:
        value: int = field(tree, name, int, default, folder)
        return value

    def rate(name: str, default: float) -> float:
        value: float = field(tree, name, float, default, folder)
        return value

    act = tree.get("activation_function", "gelu_new")
    if act not in ACTIVATIONS:
        raise UserError(
            f"{folder / 'config.json'}: activation_function {act!r} is none of {sorted(ACTIVATIONS)}"
        )
    for name, plain in (("scale_attn_weights", True), ("add_cross_attention", False)):
        if tree.get(name, plain) not in (plain, None):
            raise UserError(
                f"{folder / 'config.json'}: {name} {tree[name]!r} is not supported, only {plain!r}"
            )
    d_model = number("n_embd", 768)
    dropout, embedding_dropout = rate("resid_pdrop", 0.1), rate("embd_pdrop", 0.1)
    try:
        return TransformerConfig(
            num_layers=number("n_layer", 12),
            d_model=d_model,
            num_heads=number("n_head", 12),
            d_ff=4 * d_model if tree.get("n_inner") is None else number("n_inner"),
            norm_order="pre",
            max_positions=number("n_positions", tree.get("n_ctx", 1024)),
            activation=ACTIVATIONS[act],
            dropout=dropout,
            attention_dropout=rate("attn_pdrop", 0.1),
            embedding_dropout=None if embedding_dropout == dropout else embedding_dropout,
            norm_eps=rate("layer_norm_epsilon", 1e-5),
            scale_by_layer=field(tree, "scale_attn_by_inverse_layer_idx", bool, False, folder),
            init_std=rate("initializer_range", 0.02),
        )
    except ValueError as error:
        raise UserError(f"{folder / 'config.json'}: {error}") from None
