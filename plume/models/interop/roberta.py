"""RoBERTa as ``transformers`` stores it (spec 07 section 2)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from plume.models.interop import bert, encoders
from plume.models.interop.encoders import Family
from plume.models.interop.folder import (
    Imported,
    Rule,
    each,
    field,
    label_tree,
    read_config,
    tokenizer_files,
    write,
)
from plume.models.pretrained import PretrainedModel
from plume.models.transformer import TransformerConfig
from plume.vocabulary import Vocabulary

FAMILY = Family(
    name="roberta",
    title="RoBERTa",
    kinds={
        frozenset({"masked_token"}): "RobertaForMaskedLM",
        frozenset({"label"}): "RobertaForSequenceClassification",
        frozenset[str](): "RobertaModel",
    },
    outer=("lm_head.", "classifier."),
    table="lm_head.decoder.weight",
)
PARTS = {
    "masked_token": ("dense.weight", "dense.bias", "norm.weight", "norm.bias", "bias"),
    "label": ("dense.weight", "dense.bias", "out.weight", "out.bias"),
}


def rules(num_layers: int) -> list[Rule]:
    """Our names and theirs, theirs without the ``roberta.`` prefix."""
    heads = {
        "heads.masked_token.dense": "lm_head.dense",
        "heads.masked_token.norm": "lm_head.layer_norm",
        "heads.label.dense": "classifier.dense",
        "heads.label.out": "classifier.out_proj",
    }
    bias = Rule("heads.masked_token.bias", ("lm_head.bias",))
    return [*encoders.backbone_rules(num_layers), *encoders.pairs(heads), bias]


def describes(model: PretrainedModel) -> bool:
    """Whether ``model`` is a BERT whose positions begin behind the padding's."""
    return encoders.one_stack_post_norm(model) and model.backbone.config.position_offset > 0


def import_folder(folder: Path) -> Imported:
    """Read a RobertaForMaskedLM, RobertaForSequenceClassification or RobertaModel.

    Raises:
        UserError: the folder is unreadable, or of a kind that this toolkit has no counterpart for.
    """
    tree = read_config(folder)
    rows = field(tree, "max_position_embeddings", int, 514, folder)
    offset = field(tree, "pad_token_id", int, 1, folder) + 1
    config = encoders.read_shape(tree, folder, max_positions=rows - offset, position_offset=offset)
    theirs = encoders.unprefixed(folder, FAMILY)
    if "lm_head.decoder.bias" in theirs:
        theirs["lm_head.bias"] = theirs.pop("lm_head.decoder.bias")
    return encoders.imported(
        folder, FAMILY, config, theirs, rules(config.num_layers), PARTS, each(bert.make_head)
    )


def export_folder(
    model: PretrainedModel,
    config: TransformerConfig,
    vocab: Vocabulary,
    folder: Path,
    *,
    tokenizer: Path | None = None,
    labels: Sequence[str] = (),
) -> None:
    """Write ``model`` as the RoBERTa class that has its heads; arguments as ``bert.export_folder``'s.

    Raises:
        UserError: RoBERTa has no place for something this model has.
    """
    wrong = [
        message
        for bad, message in (
            (
                vocab.pad is None or vocab.pad + 1 != config.position_offset,
                f"its positions begin at {config.position_offset}, but RoBERTa's begin after the id of padding, "
                f"which is {vocab.pad}",
            ),
            (config.embedding_width != config.d_model, "its embeddings are of another width than its states"),
            (config.task_types > 0, "it has task embeddings"),
            (
                "masked_token" in model.heads and config.activation != "gelu",
                f"its token head's activation is {config.activation}",
            ),
        )
        if bad
    ]
    kind, weights = encoders.exported(FAMILY, model, rules(config.num_layers), wrong)
    tree = encoders.shape_tree(FAMILY, kind, model, vocab) | label_tree(model, labels)
    tree |= {"bos_token_id": vocab.cls, "eos_token_id": vocab.sep}
    files = tokenizer_files(tokenizer, vocab, config.max_positions, frame=True, separators=2)
    write(folder, tree, weights, files)
