"""Word2Vec's tables as ``vectors.bin`` and ``vectors.txt``, which word2vec.c, gensim and fastText read."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from plume.errors import UserError
from plume.models.lookup import Lookup
from plume.models.pretrained import PretrainedModel
from plume.models.word_vectors import of_rows
from plume.vocabulary import Vocabulary


def describes(model: PretrainedModel) -> bool:
    """A table of rows and no more."""
    return isinstance(model.backbone, Lookup)


def export_folder(
    model: PretrainedModel,
    config: Any,
    vocab: Vocabulary,
    folder: Path,
    *,
    tokenizer: Path | None = None,
    labels: Sequence[str] = (),
) -> None:
    """Write the input rows of every word, not the output rows, by both formats.

    Raises:
        UserError: the words are not known, or belong to a classifier.
    """
    if labels:
        raise UserError(
            "a classifier over word vectors has no file of its own: export the run it was adapted from"
        )
    if tokenizer is None:
        raise UserError("word vectors are written with their words: name the tokenizer's folder")
    path = tokenizer / "tokenizer.json"
    try:
        numbers = json.loads(path.read_text(encoding="utf-8"))["model"]["vocab"]
        names = [name for name, _ in sorted(numbers.items(), key=lambda item: item[1])]
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise UserError(f"{path} is no file of words ({error!r}): train the tokenizer again") from None
    known = np.ones(vocab.size, bool)
    known[[i for i in (*vocab.special, vocab.unk) if i is not None]] = False
    # In these files a blank ends a word.
    known &= np.array([" " not in name and "\n" not in name for name in names])
    vectors = of_rows(names, model.backbone.embedding.weight.detach().cpu().numpy(), known)
    folder.mkdir(parents=True, exist_ok=True)
    vectors.save_text(folder / "vectors.txt")
    vectors.save_binary(folder / "vectors.bin")
