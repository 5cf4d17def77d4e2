"""ELECTRA as ``transformers`` stores it: discriminator and generator are two models (spec 09 section 2)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from plume.models.backbone import Backbone
from plume.models.heads import Head, PooledHead
from plume.models.interop import encoders
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
from plume.models.replaced import Generator, ReplacedHead
from plume.models.transformer import Transformer, TransformerConfig
from plume.vocabulary import Vocabulary

FAMILY = Family(
    name="electra",
    title="ELECTRA",
    kinds={
        frozenset({"replaced"}): "ElectraForPreTraining",
        frozenset({"masked_token"}): "ElectraForMaskedLM",
        frozenset({"label"}): "ElectraForSequenceClassification",
        frozenset[str](): "ElectraModel",
    },
    outer=("discriminator_predictions.", "generator_predictions.", "generator_lm_head.", "classifier."),
    table="generator_lm_head.weight",
)
PARTS = {
    "masked_token": ("dense.weight", "dense.bias", "norm.weight", "norm.bias", "bias"),
    "replaced": ("dense.weight", "dense.bias", "prediction.weight", "prediction.bias"),
    "label": ("dense.weight", "dense.bias", "out.weight", "out.bias"),
}


def rules(num_layers: int) -> list[Rule]:
    """Our names and theirs, theirs without the ``electra.`` prefix."""
    heads = {
        "backbone.embedding_projection": "embeddings_project",
        "heads.masked_token.dense": "generator_predictions.dense",
        "heads.masked_token.norm": "generator_predictions.LayerNorm",
        "heads.replaced.dense": "discriminator_predictions.dense",
        "heads.replaced.prediction": "discriminator_predictions.dense_prediction",
        "heads.label.dense": "classifier.dense",
        "heads.label.out": "classifier.out_proj",
    }
    bias = Rule("heads.masked_token.bias", ("generator_lm_head.bias",))
    return [*encoders.backbone_rules(num_layers), *encoders.pairs(heads), bias]


def describes(model: PretrainedModel) -> bool:
    """Whether ``model`` has ELECTRA's heads, or tables narrower than its states."""
    if not encoders.one_stack_post_norm(model):
        return False
    if model.backbone.embedding_projection is not None:
        return True
    heads = model.heads.values()
    gelu = any(isinstance(head, PooledHead) and head.activation == "gelu" for head in heads)
    return gelu or any(isinstance(head, Generator | ReplacedHead) for head in heads)


def make_head(name: str, backbone: Backbone, num_labels: int) -> Head:
    """A head of a published ELECTRA. A published generator is a model of its own: it writes for itself."""
    assert isinstance(backbone, Transformer)
    if name == "masked_token":
        return Generator(backbone)
    if name == "replaced":
        return ReplacedHead(backbone)
    return PooledHead(backbone, num_labels, dropout=backbone.config.dropout, activation="gelu")


def import_folder(folder: Path) -> Imported:
    """Read an ElectraForPreTraining, ElectraForMaskedLM, ElectraForSequenceClassification or ElectraModel.

    Raises:
        UserError: the folder is unreadable, or of a kind that this toolkit has no counterpart for.
    """
    tree = read_config(folder)
    width, d_model = (
        field(tree, name, int, default, folder)
        for name, default in (("embedding_size", 128), ("hidden_size", 256))
    )
    config = encoders.read_shape(tree, folder, embedding_size=None if width == d_model else width)
    theirs = encoders.unprefixed(folder, FAMILY)
    table = [
        rule
        for rule in rules(config.num_layers)
        if config.embedding_size is not None or not rule.ours.startswith("backbone.embedding_projection.")
    ]
    return encoders.imported(folder, FAMILY, config, theirs, table, PARTS, each(make_head))


def export_folder(
    model: PretrainedModel,
    config: TransformerConfig,
    vocab: Vocabulary,
    folder: Path,
    *,
    tokenizer: Path | None = None,
    labels: Sequence[str] = (),
) -> None:
    """Write one of the two networks as the ELECTRA class that has its head; arguments as ``bert.export_folder``'s.

    Raises:
        UserError: ELECTRA has no place for something this model has.
    """
    wrong = [
        message
        for bad, message in (
            (config.position_offset > 0, "its positions have an offset"),
            (config.task_types > 0, "it has task embeddings"),
            (
                "label" in model.heads and model.heads["label"].activation != "gelu",
                "its label head's activation is tanh",
            ),
        )
        if bad
    ]
    kind, weights = encoders.exported(FAMILY, model, rules(config.num_layers), wrong)
    tree = encoders.shape_tree(FAMILY, kind, model, vocab) | label_tree(model, labels)
    tree |= {
        "embedding_size": config.embedding_width,
        "summary_type": "first",
        "summary_use_proj": True,
        "summary_activation": "gelu",
        "summary_last_dropout": 0.1,
    }
    write(folder, tree, weights, tokenizer_files(tokenizer, vocab, config.max_positions, frame=True))
