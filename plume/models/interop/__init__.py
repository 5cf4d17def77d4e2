"""Published checkpoints, both directions: one name table a family."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from plume.errors import UserError
from plume.models.interop import bert, gpt2
from plume.models.interop.folder import Imported, read_config
from plume.models.pretrained import PretrainedModel
from plume.models.transformer import Transformer
from plume.vocabulary import Vocabulary

__all__ = ["Imported", "load", "save"]

_FAMILIES = {"bert": bert.import_folder, "gpt2": gpt2.import_folder}


def load(folder: Path) -> Imported:
    """Read a Hugging Face folder by the ``model_type`` of its config.json.

    Raises:
        UserError: the folder is unreadable or of a family without a name table.
    """
    kind = read_config(folder).get("model_type")
    if kind not in _FAMILIES:
        raise UserError(f"{folder} holds a {kind!r} model; {' and '.join(_FAMILIES)} can be imported")
    return _FAMILIES[kind](folder)


def save(
    model: PretrainedModel,
    vocab: Vocabulary,
    folder: Path,
    *,
    tokenizer: Path | None = None,
    labels: Sequence[str] = (),
) -> None:
    """Write ``model`` as a folder that ``transformers`` loads: post-norm models as BERT, pre-norm ones as GPT-2.

    ``tokenizer`` is a folder with a tokenizer.json, ``labels`` the names of a classifier's answers.

    Raises:
        UserError: neither family has a place for what this model is.
    """
    if not isinstance(model.backbone, Transformer):
        raise UserError("only Transformers can be written for transformers to load; this model is recurrent")
    config = model.backbone.config
    write = bert.export_folder if config.norm_order == "post" else gpt2.export_folder
    write(model, config, vocab, folder, tokenizer=tokenizer, labels=labels)
