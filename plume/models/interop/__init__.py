"""Published checkpoints, both directions: one name table a family.

A family's module offers ``describes(model) -> bool``, ``import_folder`` and ``export_folder``. A folder says of
which family it is; a model is written as the first family that has a place for its architecture.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from plume.errors import UserError
from plume.models.interop import (
    bart,
    bert,
    electra,
    elmo,
    ernie,
    gpt1,
    gpt2,
    marian,
    roberta,
    t5,
    word2vec,
    xlnet,
)
from plume.models.interop.folder import Imported, read_config
from plume.models.pretrained import PretrainedModel
from plume.models.transformer import Transformer
from plume.vocabulary import Vocabulary

__all__ = ["Imported", "is_folder", "load", "save"]

_IMPORT = {
    "bart": bart.import_folder,
    "bert": bert.import_folder,
    "electra": electra.import_folder,
    "ernie": ernie.import_folder,
    "gpt2": gpt2.import_folder,
    "marian": marian.import_folder,
    "roberta": roberta.import_folder,
    "t5": t5.import_folder,
    "xlnet": xlnet.import_folder,
    "openai-gpt": gpt1.import_folder,
}
# In this order, for one model may fit two families: the particular before the general.
_EXPORT: tuple[tuple[Callable[[PretrainedModel], bool], Callable[..., None]], ...] = (
    (elmo.describes, elmo.export_folder),
    (xlnet.describes, xlnet.export_folder),
    (t5.describes, t5.export_folder),
    (electra.describes, electra.export_folder),
    (bart.describes, bart.export_folder),
    (marian.describes, marian.export_folder),
    (roberta.describes, roberta.export_folder),
    (ernie.describes, ernie.export_folder),
    (gpt1.describes, gpt1.export_folder),
    (bert.describes, bert.export_folder),
    (gpt2.describes, gpt2.export_folder),
    (word2vec.describes, word2vec.export_folder),
)


def is_folder(folder: Path) -> bool:
    """Whether a folder looks like a published model."""
    return (folder / "config.json").is_file() or elmo.is_folder(folder)


def load(folder: Path) -> Imported:
    """Read a Hugging Face folder by the ``model_type`` of its config.json, or an ELMo by its options.json.

    Raises:
        UserError: the folder is unreadable or of a family without a name table.
    """
    if elmo.is_folder(folder):
        return elmo.import_folder(folder)
    kind = read_config(folder).get("model_type")
    if kind not in _IMPORT:
        raise UserError(f"{folder} holds a {kind!r} model; these can be imported: {', '.join(_IMPORT)}")
    return _IMPORT[kind](folder)


def save(
    model: PretrainedModel,
    vocab: Vocabulary,
    folder: Path,
    *,
    tokenizer: Path | None = None,
    labels: Sequence[str] = (),
) -> None:
    """Write ``model`` as a folder that ``transformers`` loads, of the first family that describes it.

    ``tokenizer`` is a folder with a tokenizer.json, ``labels`` the names of a classifier's answers.

    Raises:
        UserError: no family has a place for what this model is.
    """
    for describes, write in _EXPORT:
        if describes(model):
            write(model, model.backbone.config, vocab, folder, tokenizer=tokenizer, labels=labels)
            return
    if not isinstance(model.backbone, Transformer):
        raise UserError(
            f"transformers has no class for this model, a {type(model.backbone).__name__}: what can be exported are "
            f"Transformers, ELMo, word vectors and n-grams"
        )
    raise UserError("no family that transformers knows has this model's architecture")
