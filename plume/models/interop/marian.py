"""The Transformer of 2017 as ``transformers`` stores it: Marian (spec 05 section 4). Names are BART's.

Its sinusoids are computed on both sides, all sines first (``positions="sinusoidal_concat"``).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from plume.errors import UserError
from plume.models.interop import bart
from plume.models.interop.folder import (
    Imported,
    read_config,
    refuse,
    tokenizer_files,
    write,
)
from plume.models.pretrained import PretrainedModel
from plume.models.transformer import Transformer, TransformerConfig
from plume.vocabulary import Vocabulary

POSITIONS = "sinusoidal_concat"


def describes(model: PretrainedModel) -> bool:
    """Whether ``model`` is of Marian's kind: two stacks, norms last, sinusoids."""
    backbone = model.backbone
    if not isinstance(backbone, Transformer):
        return False
    config = backbone.config
    return config.norm_order == "post" and config.num_decoder_layers > 0 and config.positions == POSITIONS


def import_folder(folder: Path) -> Imported:
    """Read a MarianMTModel or MarianModel.

    Raises:
        UserError: the folder is unreadable, not a Marian, or of a kind that this toolkit has no counterpart for.
    """
    tree = read_config(folder)
    config = bart.shape(tree, folder, {"positions": POSITIONS, "embedding_norm": False})
    start, pad = tree.get("decoder_start_token_id"), tree.get("pad_token_id")
    if start != pad:
        raise UserError(
            f"{folder / 'config.json'}: decoder_start_token_id is {start}, but Marian's second stack begins with the "
            f"padding token, here {pad}"
        )
    return bart.imported("marian", tree, config, folder)


def export_folder(
    model: PretrainedModel,
    config: TransformerConfig,
    vocab: Vocabulary,
    folder: Path,
    *,
    tokenizer: Path | None = None,
    labels: Sequence[str] = (),
) -> None:
    """Write ``model`` as a MarianMTModel, or without a head as a MarianModel; arguments as ``bert.export_folder``'s.

    Raises:
        UserError: Marian has no place for something this model has.
    """
    heads = frozenset(model.heads)
    kinds = {frozenset({"next_token"}): "MarianMTModel", frozenset[str](): "MarianModel"}
    refuse(
        "Marian",
        [
            *bart.misfits(model, config),
            *(["its embeddings are normalised"] if config.embedding_norm else []),
            *([f"no Marian class has the heads {sorted(heads)}"] if heads not in kinds else []),
        ],
    )
    tree = bart.common(config, vocab) | {
        "architectures": [kinds[heads]],
        "model_type": "marian",
        "decoder_vocab_size": vocab.size,
        "share_encoder_decoder_embeddings": True,
        "decoder_start_token_id": vocab.pad,
        "forced_eos_token_id": vocab.eos,
    }
    weights = bart.named(model, config, bare=not heads)
    write(folder, tree, weights, tokenizer_files(tokenizer, vocab, config.max_positions, frame=False))
