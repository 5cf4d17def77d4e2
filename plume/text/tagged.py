"""Sentences whose words have a label each: CoNLL's files, and tables with lists (spec 11 section 7)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from plume.errors import UserError
from plume.text.readers import clean, read_rows

LINES = (".conll", ".bio", ".iob", ".txt")
Tagged = tuple[list[str], list[str]]


def read_tagged_files(
    data: Sequence[Path], *, text_column: str = "text", label_column: str = "label"
) -> Iterator[Tagged]:
    """The words and labels of each sentence.

    .conll, .bio, .iob and .txt files have a line a word, its first column the word and its last the label, between tabs
    or blanks, and an empty line between sentences ("-DOCSTART-" is left out). In tables both columns are lists of
    strings, or strings with blanks between the words and between the labels.

    Raises:
        UserError: a line without a label, a sentence with more words than labels, no such column.
    """
    for path in data:
        files = sorted(p for p in path.rglob("*") if p.suffix in LINES) if path.is_dir() else [path]
        if path.is_dir() and not files:
            raise UserError(
                f"{path} holds no file of tagged words ({', '.join(LINES)}): name the table itself"
            )
        for file in files:
            if file.suffix in LINES:
                yield from _lines(file)
            else:
                yield from _table(file, text_column, label_column)


def _lines(path: Path) -> Iterator[Tagged]:
    words: list[str] = []
    labels: list[str] = []
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read as text ({error}): save it as UTF-8") from None
    for number, line in enumerate([*text.split("\n"), ""], 1):
        columns = line.strip("\r \t")
        parts = columns.split("\t") if "\t" in columns else columns.split(" ")
        if columns and parts[0] != "-DOCSTART-":
            if len(parts) < 2:
                raise UserError(
                    f"{path}, line {number}: {line[:40]!r} is a word without a label; a line is a word, a tab, a label"
                )
            words.append(clean(parts[0]))
            labels.append(parts[-1])
        elif words:
            yield words, labels
            words, labels = [], []


def _table(path: Path, text_column: str, label_column: str) -> Iterator[Tagged]:
    for number, row in enumerate(read_rows([path], [text_column, label_column]), 1):
        words, labels = (_parts(row[column]) for column in (text_column, label_column))
        if len(words) != len(labels):
            raise UserError(
                f"{path}, row {number}: {len(words)} words and {len(labels)} labels; there must be one of each"
            )
        if words:
            yield words, labels


def _parts(text: str) -> list[str]:
    """A list came as lines (``readers.read_rows``); else blanks part."""
    return text.split("\n") if "\n" in text else text.split()
