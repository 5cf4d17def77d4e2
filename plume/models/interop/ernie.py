"""ERNIE as ``transformers`` stores it: BERT's names, and perhaps task embeddings (spec 08 section 2)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from plume.models.interop import bert, encoders
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

FAMILY = replace(
    bert.FAMILY,
    name="ernie",
    title="ERNIE",
    kinds={heads: kind.replace("Bert", "Ernie") for heads, kind in bert.FAMILY.kinds.items()},
)


def rules(num_layers: int, pooled: str, *, tasks: bool) -> list[Rule]:
    """Our names and theirs, theirs without the ``ernie.`` prefix. ``pooled``: the head that owns the pooler."""
    table = bert.rules(num_layers, pooled)
    if tasks:
        table.append(Rule("backbone.embedding.tasks", ("embeddings.task_type_embeddings.weight",)))
    return table


def describes(model: PretrainedModel) -> bool:
    """Whether ``model`` is a BERT with ReLU (ERNIE 1.0) or with task embeddings (its successors)."""
    if not encoders.one_stack_post_norm(model):
        return False
    config: TransformerConfig = model.backbone.config
    return config.task_types > 0 or config.activation == "relu"


def import_folder(folder: Path) -> Imported:
    """Read an ErnieModel, or one with the heads of pretraining, masked tokens or classification.

    Raises:
        UserError: the folder is unreadable, or of a kind that this toolkit has no counterpart for.
    """
    tree = read_config(folder)
    tasks = field(tree, "use_task_id", bool, False, folder)
    count = field(tree, "task_type_vocab_size", int, 3, folder) if tasks else 0
    config = encoders.read_shape(tree, folder, task_types=count)
    theirs = encoders.unprefixed(folder, FAMILY)
    if "cls.predictions.decoder.bias" in theirs:
        theirs["cls.predictions.bias"] = theirs.pop("cls.predictions.decoder.bias")
    pooled = "label" if "classifier.weight" in theirs else "next_sentence"
    table = rules(config.num_layers, pooled, tasks=tasks)
    return encoders.imported(folder, FAMILY, config, theirs, table, bert.PARTS, each(bert.make_head))


def export_folder(
    model: PretrainedModel,
    config: TransformerConfig,
    vocab: Vocabulary,
    folder: Path,
    *,
    tokenizer: Path | None = None,
    labels: Sequence[str] = (),
) -> None:
    """Write ``model`` as the ERNIE class that has its heads; arguments as ``bert.export_folder``'s.

    Raises:
        UserError: ERNIE has no place for something this model has.
    """
    wrong = [
        message
        for bad, message in (
            (config.position_offset > 0, "its positions have an offset"),
            (config.embedding_width != config.d_model, "its embeddings are of another width than its states"),
        )
        if bad
    ]
    pooled = "label" if "label" in model.heads else "next_sentence"
    table = rules(config.num_layers, pooled, tasks=config.task_types > 0)
    kind, weights = encoders.exported(FAMILY, model, table, wrong)
    tree = encoders.shape_tree(FAMILY, kind, model, vocab) | label_tree(model, labels)
    tree["use_task_id"] = config.task_types > 0
    if config.task_types:
        tree["task_type_vocab_size"] = config.task_types
    write(folder, tree, weights, tokenizer_files(tokenizer, vocab, config.max_positions, frame=True))
