"""Labelled data: texts with a label, or words with a label each, as they are read, drawn, and made ids (spec 11)."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np

from plume.errors import UserError
from plume.objectives.classification import Labelled
from plume.seeding import rng
from plume.slots import IGNORE
from plume.text.readers import read_rows
from plume.text.splits import Split, split_of
from plume.text.tagged import read_tagged_files
from plume.text.tokenizers import Tokenizer
from plume.training.session import say


@dataclass(frozen=True)
class LabelledText:
    """A text, or a pair of texts, and its label's name."""

    segments: tuple[str, ...]
    label: str

    @property
    def split(self) -> Split:
        """Where it belongs, by its content alone: its label may not decide it."""
        return split_of("\n".join(self.segments))

    @property
    def names(self) -> tuple[str, ...]:
        """The labels it has."""
        return (self.label,)


@dataclass(frozen=True)
class TaggedText:
    """The words of a sentence, and a label for each (its tag)."""

    segments: tuple[str, ...]
    names: tuple[str, ...]

    @property
    def split(self) -> Split:
        """Where it belongs, by its words alone."""
        return split_of(" ".join(self.segments))


Row = LabelledText | TaggedText
R = TypeVar("R", bound=LabelledText | TaggedText)


def read_labelled(
    data: Sequence[Path],
    *,
    text_column: str = "text",
    label_column: str = "label",
    pair_column: str | None = None,
) -> list[LabelledText]:
    """The labelled texts of csv, tsv, jsonl or parquet files, those without a text or a label left out.

    Raises:
        UserError: a column is missing, or nothing is left.
    """
    texts = [text_column] if pair_column is None else [text_column, pair_column]
    rows = [
        LabelledText(tuple(row[c] for c in texts), row[label_column].strip())
        for row in read_rows(list(data), [*texts, label_column])
    ]
    kept = [row for row in rows if row.label and any(s.strip() for s in row.segments)]
    if len(kept) < len(rows):
        say(f"{len(rows) - len(kept)} rows without a text or a label were left out")
    if not kept:
        raise UserError(
            f"{', '.join(map(str, data))} has no row with both a {text_column} and a {label_column}"
        )
    return kept


def read_tagged(
    data: Sequence[Path], *, text_column: str = "text", label_column: str = "label"
) -> list[TaggedText]:
    """Sentences whose words have a label each: CoNLL's lines, or tables with a list of words and one of labels
    (``plume.text.tagged``).

    Raises:
        UserError: a column is missing, a sentence has not as many labels as words, or there is none.
    """
    found = read_tagged_files(data, text_column=text_column, label_column=label_column)
    rows = [TaggedText(tuple(words), tuple(tags)) for words, tags in found]
    if not rows:
        raise UserError(f"{', '.join(map(str, data))} has no sentence whose words have labels")
    return rows


def choose(rows: Sequence[R], labels: Sequence[str], examples: int | None, seed: int, stream: str) -> list[R]:
    """``examples`` of the rows, each label as often as the others as far as there are enough; None: all.

    A sentence counts for the rarest of its words' labels.
    """
    if examples is None or examples >= len(rows):
        return list(rows)
    often = dict.fromkeys(labels, 0)
    for row in rows:
        for name in set(row.names):
            often[name] += 1
    by_label: dict[str, list[R]] = {label: [] for label in labels}
    for row in rows:
        by_label[min(row.names, key=lambda name: (often[name], name))].append(row)
    order = {label: rng(seed, stream, i).permutation(len(by_label[label])) for i, label in enumerate(labels)}
    chosen: list[R] = []
    for turn in range(len(rows)):
        for label in labels:
            if turn < len(by_label[label]) and len(chosen) < examples:
                chosen.append(by_label[label][order[label][turn]])
    return chosen


def divide(
    rows: Sequence[R], labels: Sequence[str], examples: int | None, seed: int
) -> tuple[list[R], list[R]]:
    """The rows that train and those that pick the best (dev), ``examples`` of each (``choose``).

    Raises:
        UserError: there is nothing to learn (``check``).
    """
    train, dev = (
        choose([row for row in rows if row.split == split], labels, examples, seed, stream)
        for split, stream in (("train", "examples"), ("dev", "dev examples"))
    )
    check(train, labels, examples)
    return train, dev


def encode(rows: Sequence[Row], labels: Sequence[str], pieces: Tokenizer) -> list[Labelled]:
    """The rows as ids and label numbers; a word's label stands at its first token (spec 11 section 7)."""
    number = {label: i for i, label in enumerate(labels)}
    flat = iter(pieces.encode_batch([segment for row in rows for segment in row.segments]))
    found = []
    for row in rows:
        ids = [next(flat).ids.astype(np.int64) for _ in row.segments]
        if isinstance(row, LabelledText):
            found.append(Labelled(tuple(ids), number[row.label]))
        else:
            found.append(tagged(ids, [number.get(name, IGNORE) for name in row.names], pieces))
    return found


def tagged(words: Sequence[np.ndarray], labels: Sequence[int], pieces: Tokenizer) -> Labelled:
    """Words as ids with their labels' numbers; a word that the tokenizer makes nothing of is an unknown one."""
    unknown = np.array([pieces.vocabulary.require("unk")])
    ids = [word if len(word) else unknown for word in words]
    begins = np.cumsum([0, *map(len, ids)])
    asked = np.full(begins[-1], IGNORE)
    asked[begins[:-1]] = labels
    return Labelled((np.concatenate(ids),), asked)


def fingerprint(rows: Sequence[Row]) -> str:
    """SHA-256 of the texts and labels in their order."""
    digest = hashlib.sha256()
    for row in rows:
        own = row.label if isinstance(row, LabelledText) else row.names
        digest.update(repr((row.segments, own)).encode("utf-8", "surrogatepass"))
    return digest.hexdigest()


def check(train: Sequence[Row], labels: Sequence[str], examples: int | None) -> None:
    """Whether there is something to learn.

    Raises:
        UserError: one label alone, a label nearly a text, or none of a label among those that train.
    """
    if len(labels) < 2:
        raise UserError(
            f"every text has the label {labels[0]!r}: classification needs at least two different ones"
        )
    tags = any(isinstance(row, TaggedText) for row in train)
    if len(labels) > 1000 or (not tags and len(labels) > 50 and len(labels) * 2 > len(train)):
        raise UserError(
            f"{len(labels)} different labels for {len(train)} texts: is --label-column the right one?"
        )
    missing = sorted(set(labels) - {name for row in train for name in row.names})
    if missing and not tags:  # a rare tag may well be missing
        some = ", ".join(repr(label) for label in missing[:5])
        more = "raise --examples" if examples else "bring more labelled texts"
        raise UserError(f"no training text has the label {some}: {more}")
    if not train:
        raise UserError("no labelled text fell into the training part: bring more")


def known(rows: Sequence[R], labels: Sequence[str]) -> list[R]:
    """``rows``, if all of their labels are known; words may have others, which count as not found.

    Raises:
        UserError: they are not.
    """
    strange = sorted({row.label for row in rows if isinstance(row, LabelledText)} - set(labels))
    if strange:
        raise UserError(
            f"the evaluation has labels that no training text has: {', '.join(map(repr, strange[:5]))}"
        )
    return list(rows)
