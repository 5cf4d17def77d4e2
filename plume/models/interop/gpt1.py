"""GPT-1 as ``transformers`` stores it: Conv1D matrices [in, out], norms after each sum (spec 13 section 2.1)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from plume.errors import UserError
from plume.models.interop.folder import (
    Imported,
    Rule,
    beyond,
    field,
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

# Its "gelu" is the approximation by tanh (spec 13 section 7).
ACTIVATIONS = {"gelu": "gelu_tanh", "relu": "relu"}


def rules(num_layers: int) -> list[Rule]:
    """Our names and theirs, theirs without the ``transformer.`` prefix."""
    table = [
        Rule("backbone.embedding.weight", ("tokens_embed.weight",)),
        Rule("backbone.positions.weight", ("positions_embed.weight",)),
    ]
    for i in range(num_layers):
        ours, theirs = f"backbone.stack.layers.{i}", f"h.{i}"
        matrices = {
            "qkv": "attn.c_attn",
            "attention_out": "attn.c_proj",
            "up": "mlp.c_fc",
            "down": "mlp.c_proj",
        }
        for a, b in matrices.items():
            table.append(Rule(f"{ours}.{a}.weight", (f"{theirs}.{b}.weight",), transposed=True))
            table.append(Rule(f"{ours}.{a}.bias", (f"{theirs}.{b}.bias",)))
        for a, b in (("attention_norm", "ln_1"), ("up_norm", "ln_2")):
            table += [Rule(f"{ours}.{a}.{p}", (f"{theirs}.{b}.{p}",)) for p in ("weight", "bias")]
    return table


def describes(model: PretrainedModel) -> bool:
    """Whether ``model`` is of GPT-1's kind: one stack, norms last, none on the embeddings, next tokens asked."""
    backbone = model.backbone
    if not isinstance(backbone, Transformer):
        return False
    c = backbone.config
    return (
        c.norm_order == "post"
        and not c.num_decoder_layers
        and not c.embedding_norm
        and not c.token_types
        and c.activation == "gelu_tanh"
        and set(model.heads) <= {"next_token"}
    )


def import_folder(folder: Path) -> Imported:
    """Read an OpenAIGPTLMHeadModel or OpenAIGPTModel, old buffers and prefixes included.

    Raises:
        UserError: the folder is unreadable, or the weights do not fit its config.json.
    """
    tree = read_config(folder)
    config = _config(tree, folder)
    theirs = {n.removeprefix("transformer."): t for n, t in read_folder_weights(folder).items()}
    state, size = whole_state(rules(config.num_layers), theirs, tree, folder, 40_478)
    one_table(theirs.get("lm_head.weight"), state, folder)
    return Imported("gpt1", config, size, ("next_token",), (), state)


def export_folder(
    model: PretrainedModel,
    config: TransformerConfig,
    vocab: Vocabulary,
    folder: Path,
    *,
    tokenizer: Path | None = None,
    labels: Sequence[str] = (),
) -> None:
    """Write ``model`` as OpenAIGPTLMHeadModel, or without its head as OpenAIGPTModel.

    Raises:
        UserError: GPT-1 has no place for something this model has.
    """
    acts = {ours: theirs for theirs, ours in ACTIVATIONS.items()}
    wrong = beyond(config) + [
        message
        for bad, message in (
            (config.positions != "learned", f"its positions are {config.positions}"),
            (config.scale_embedding, "it scales its embeddings"),
            (config.virtual_tokens > 0, "it has virtual tokens"),
            (config.activation not in acts, f"its activation is {config.activation}"),
            (config.d_ff != 4 * config.d_model, "its feed-forward is not four times as wide as the model"),
            (config.scale_by_layer, "its attention is scaled by layer"),
            (config.position_offset > 0, "its positions have an offset"),
        )
        if bad
    ]
    refuse("GPT-1", wrong)
    kind = "OpenAIGPTLMHeadModel" if model.heads else "OpenAIGPTModel"
    weights = to_theirs(rules(config.num_layers), model.state())
    if model.heads:
        weights = {f"transformer.{n}": t for n, t in weights.items()}
    tree = {
        "architectures": [kind],
        "model_type": "openai-gpt",
        "afn": acts[config.activation],
        "vocab_size": vocab.size,
        "n_embd": config.d_model,
        "n_layer": config.num_layers,
        "n_head": config.num_heads,
        "n_positions": config.max_positions,
        "resid_pdrop": config.dropout,
        "embd_pdrop": config.dropout if config.embedding_dropout is None else config.embedding_dropout,
        "attn_pdrop": config.attention_dropout,
        "layer_norm_epsilon": config.norm_eps,
        "initializer_range": config.init_std,
        "bos_token_id": vocab.bos,
        "eos_token_id": vocab.eos,
        "pad_token_id": vocab.pad,
        "tie_word_embeddings": True,
    }
    files = tokenizer_files(tokenizer, vocab, config.max_positions, frame=False, plain=True)
    write(folder, tree, weights, files)


def _config(tree: Mapping[str, Any], folder: Path) -> TransformerConfig:
    def number(name: str, default: int) -> int:
        value: int = field(tree, name, int, default, folder)
        return value

    def rate(name: str, default: float) -> float:
        value: float = field(tree, name, float, default, folder)
        return value

    act = tree.get("afn", "gelu")
    if act not in ACTIVATIONS:
        raise UserError(f"{folder / 'config.json'}: afn {act!r} is none of {sorted(ACTIVATIONS)}")
    d_model = number("n_embd", 768)
    dropout, embedding_dropout = rate("resid_pdrop", 0.1), rate("embd_pdrop", 0.1)
    try:
        return TransformerConfig(
            num_layers=number("n_layer", 12),
            d_model=d_model,
            num_heads=number("n_head", 12),
            d_ff=4 * d_model,
            norm_order="post",
            max_positions=number("n_positions", tree.get("n_ctx", 512)),
            activation="relu" if act == "relu" else "gelu_tanh",
            dropout=dropout,
            attention_dropout=rate("attn_pdrop", 0.1),
            embedding_dropout=None if embedding_dropout == dropout else embedding_dropout,
            norm_eps=rate("layer_norm_epsilon", 1e-5),
            init_std=rate("initializer_range", 0.02),
        )
    except ValueError as error:
        raise UserError(f"{folder / 'config.json'}: {error}") from None
