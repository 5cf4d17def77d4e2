"""``plume tokenizer``: train a tokenizer on the training split of a text."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from plume.commands.words import Flag, Json, tell

if TYPE_CHECKING:
    from plume.text.tokenizers import Tokenizer

Kind = Literal["wordpiece", "bpe", "unigram", "characters"]


def tokenizer(
    data: Path | list[Path],
    *,
    out: Path,
    kind: Kind = "wordpiece",
    vocab_size: int = 8000,
    cased: bool = False,
    text_column: str = "text",
) -> Tokenizer:
    """Train a tokenizer and save it in the folder ``out``."""
    raise NotImplementedError


def command(
    *data: Annotated[Path, Parameter(name="DATA")],
    out: Path,
    kind: Kind = "wordpiece",
    vocab_size: int = 8000,
    cased: Annotated[bool, Flag] = False,
    text_column: str = "text",
    json: Json = False,
) -> None:
    """Train a tokenizer on text: files or folders of .txt, .jsonl, .csv, .parquet, also .gz or .zst.

    Parameters
    ----------
    data
        Files and folders.
    out
        Folder to write the tokenizer to.
    kind
        wordpiece (BERT), bpe (GPT-2: bytes), unigram (T5), characters.
    vocab_size
        How many ids it may have.
    cased
        Keep capitals apart (wordpiece; the others always do).
    text_column
        Column or key of the text in tables.
    json
        Print the result as one JSON object.
    """
    tell({}, "x", as_json=json)
