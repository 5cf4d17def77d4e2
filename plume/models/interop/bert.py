"""BERT as ``transformers`` stores it (spec 06 section 3)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from plume.models.backbone import Backbone
from plume.models.heads import Head, PooledHead, TokenHead
from plume.models.interop import encoders
from plume.models.interop.encoders import Family
from plume.models.interop.folder import (
    Imported,
    Rule,
    each,
    label_tree,
    read_config,
    tokenizer_files,
    write,
)
from plume.models.pretrained import PretrainedModel
from plume.models.transformer import Transformer, TransformerConfig
from plume.vocabulary import Vocabulary

FAMILY = Family(
    name="bert",
    title="BERT",
    kinds={
        frozenset({"masked_token", "next_sentence"}): "BertForPreTraining",
        frozenset({"masked_token"}): "BertForMaskedLM",
        frozenset({"next_sentence"}): "BertForNextSentencePrediction",
        frozenset({"label"}): "BertForSequenceClassification",
        frozenset[str](): "BertModel",
    },
    outer=("cls.", "classifier."),
    table="cls.predictions.decoder.weight",
)
PARTS = {
    "masked_token": ("dense.weight", "dense.bias", "norm.weight", "norm.bias", "bias"),
    "next_sentence": ("dense.weight", "dense.bias", "out.weight", "out.bias"),
    "label": ("dense.weight", "dense.bias", "out.weight", "out.bias"),
}


def rules(num_layers: int, pooled: str) -> list[Rule]:
    """Our names and theirs, theirs without the ``bert.`` prefix. ``pooled``: the head that owns the pooler."""
    heads = {
        f"heads.{pooled}.dense": "pooler.dense",
        "heads.masked_token.dense": "cls.predictions.transform.dense",
        "heads.masked_token.norm": "cls.predictions.transform.LayerNorm",
        "heads.next_sentence.out": "cls.seq_relationship",
        "heads.label.out": "classifier",
    }
    bias = Rule("heads.masked_token.bias", ("cls.predictions.bias",))
    return [*encoders.backbone_rules(num_layers), *encoders.pairs(heads), bias]


def describes(model: PretrainedModel) -> bool:
    """Whether ``model`` is of BERT's kind: one stack, norms last. ``export_folder`` says what else is amiss."""
    return encoders.one_stack_post_norm(model)


def make_head(name: str, backbone: Backbone, num_labels: int) -> Head:
    """A head of a published BERT."""
    assert isinstance(backbone, Transformer)
    if name == "masked_token":
        return TokenHead(backbone, transform=True, bias=True)
    if name == "next_sentence":
        return PooledHead(backbone, 2)
    return PooledHead(backbone, num_labels, dropout=backbone.config.dropout)


def import_folder(folder: Path) -> Imported:
    """Read a BertModel, or one with the heads of pretraining, masked tokens or classification.

    Old names (gamma, beta, no prefix), saved buffers and repeated tied tensors are understood.

    Raises:
        UserError: the folder is unreadable, not a BERT, or of a kind that this toolkit has no counterpart for.
    """
    config = encoders.read_shape(read_config(folder), folder)
    theirs = encoders.unprefixed(folder, FAMILY)
    if "cls.predictions.decoder.bias" in theirs:
        theirs["cls.predictions.bias"] = theirs.pop("cls.predictions.decoder.bias")
    pooled = "label" if "classifier.weight" in theirs else "next_sentence"
    return encoders.imported(
        folder, FAMILY, config, theirs, rules(config.num_layers, pooled), PARTS, each(make_head)
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
    """Write ``model`` as the BERT class that has its heads.

    ``tokenizer`` is a folder with a tokenizer.json to go with it; ``labels`` name the "label" head's answers.

    Raises:
        UserError: BERT has no place for something this model has.
    """
    wrong = [
        message
        for bad, message in (
            (config.position_offset > 0, "its positions have an offset"),
            (config.embedding_width != config.d_model, "its embeddings are of another width than its states"),
            (config.task_types > 0, "it has task embeddings"),
        )
        if bad
    ]
    pooled = "label" if "label" in model.heads else "next_sentence"
    kind, weights = encoders.exported(FAMILY, model, rules(config.num_layers, pooled), wrong)
    tree = encoders.shape_tree(FAMILY, kind, model, vocab) | label_tree(model, labels)
    write(folder, tree, weights, tokenizer_files(tokenizer, vocab, config.max_positions, frame=True))
