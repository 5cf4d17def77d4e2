"""Tokens on disk, memory-mapped: what ``plume.text.store.build`` made and windows are cut from."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from plume.errors import UserError
from plume.text.encoding import joined
from plume.text.marks import PART
from plume.text.splits import SPLITS, Split
from plume.text.units import Lexicon, Units

if TYPE_CHECKING:
    from plume.text.tokenizing import Tokenizer

Array = np.ndarray[Any, np.dtype[Any]]

FORMAT = 1
KINDS = ("ids", "marks", "documents")


@dataclass(frozen=True)
class Tokens:
    """The documents of one split, end to end, without separators.

    ids [N] uint16 or uint32; marks uint8 [N] (``plume.text.marks``); documents int64 [D + 1], where each
    document begins, and the end; num_bytes: UTF-8 bytes of the text; name: "train", "dev" or "test".
    """

    ids: Array
    marks: Array
    documents: Array
    num_bytes: int
    name: str = "train"

    @property
    def num_tokens(self) -> int:
        return len(self.ids)

    @property
    def num_documents(self) -> int:
        return len(self.documents) - 1

    @staticmethod
    def of(tokenizer: Tokenizer, texts: Sequence[str | tuple[str, ...]], *, name: str = "train",
           lexicon: Lexicon | None = None) -> Tokens:  # fmt: skip
        """A few texts in memory, or rows of as many columns each, for pictures and tests."""
        rows = [(row,) if isinstance(row, str) else row for row in texts]
        kept = [row for row in rows if all(text and not text.isspace() for text in row)]
        parts = [text for row in kept for text in row]
        marked = tokenizer.encode_flat(parts) if lexicon is None else Units(lexicon, tokenizer).encode(parts)
        flat = joined(marked, len(kept[0]) if kept else 1)
        ends = np.cumsum(flat.lengths)[flat.lengths > 0]
        size = sum(len(text.encode("utf-8", "replace")) for row in kept for text in row)
        return Tokens(flat.ids, flat.marks, np.concatenate([[0], ends]).astype(np.int64), size, name)

    def part(self, number: int) -> Tokens:
        """One column of every document: 0 is the first, 1 what follows the first PART mark."""
        new = np.zeros(self.num_tokens, bool)
        new[self.documents[:-1]] = True
        begins = np.flatnonzero(new | (np.asarray(self.marks) & PART != 0))
        ends = np.append(begins[1:], self.num_tokens)
        document = np.cumsum(new[begins]) - 1
        first = np.searchsorted(document, np.arange(self.num_documents))
        mine = np.arange(len(begins)) - first[document] == number
        begins, ends = begins[mine], ends[mine]
        lengths = ends - begins
        at = np.repeat(begins - (np.cumsum(lengths) - lengths), lengths) + np.arange(lengths.sum())
        share = round(self.num_bytes * len(at) / max(1, self.num_tokens))
        return Tokens(
            np.asarray(self.ids)[at], np.asarray(self.marks)[at],
            np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64), share, self.name,
        )  # fmt: skip


class TokenStore:
    """A finished store. ``fingerprint`` is the same for the same data, tokenizer and options, wherever it lies."""

    def __init__(self, folder: Path, index: dict[str, Any]) -> None:
        self.folder = folder
        self.index = index  # index.json as it stands

    @property
    def fingerprint(self) -> str:
        return str(self.index["fingerprint"])

    @property
    def card(self) -> dict[str, Any]:
        """What is in it: documents, tokens and bytes a split, what was left out and why, the unknown share."""
        card = self.index["card"]
        assert isinstance(card, dict)
        return card

    @classmethod
    def open(cls, folder: Path | str) -> TokenStore:
        """Open a store, without reading its tokens.

        Raises:
            UserError: it is no store, not finished, or a file is shorter than it should be.
        """
        folder = Path(folder)
        try:
            index = json.loads((folder / "index.json").read_text(encoding="utf-8"))
            if index["format"] != FORMAT:
                raise UserError(
                    f"{folder} has token store format {index['format']}, this version reads {FORMAT}: build it again"
                )
            for split in SPLITS:
                for kind in KINDS:
                    path, size = folder / f"{split}.{kind}.bin", int(index["splits"][split]["sizes"][kind])
                    if path.stat().st_size != size:
                        raise UserError(
                            f"{path} is damaged: {path.stat().st_size} bytes instead of {size}. Delete {folder} "
                            f"and run the command again to build it anew"
                        )
        except FileNotFoundError as error:
            half = (
                " (it is half built: run the command that builds it again)"
                if journal_of(folder).exists()
                else ""
            )
            raise UserError(
                f"{folder} holds no token store{half}: {Path(error.filename).name} is missing"
            ) from None
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"{folder / 'index.json'} is damaged ({error}): delete {folder} and build it again"
            ) from None
        return cls(folder, index)

    def split(self, name: Split) -> Tokens:
        """The documents of "train", "dev" or "test", memory-mapped."""
        entry = self.index["splits"][name]
        dtypes = {"ids": self.index["dtype"], "marks": "uint8", "documents": "int64"}
        arrays = {}
        for kind, dtype in dtypes.items():
            path = self.folder / f"{name}.{kind}.bin"
            if not entry["sizes"][kind]:  # numpy cannot map an empty file
                arrays[kind] = np.zeros(0, dtype)
                continue
            # Seen as a plain array: every slice of a memmap would be made one again, which a window feels.
            arrays[kind] = np.asarray(np.memmap(path, np.dtype(dtype).newbyteorder("<"), "r"))
        return Tokens(arrays["ids"], arrays["marks"], arrays["documents"], int(entry["bytes"]), name)

    def told(self) -> str:
        """What was read, as a sentence: documents and tokens of each split, and what was left out."""
        splits = self.index["splits"]
        parts = (
            f"{name} {splits[name]['documents']:,} documents ({splits[name]['tokens']:,} tokens)"
            for name in SPLITS
        )
        reasons = self.index["card"]["left_out"]
        left = ", ".join(f"{count:,} {reason}" for reason, count in reasons.items())
        return f"the text: {', '.join(parts)}" + (f"; left out: {left}" if left else "")

    def verify(self) -> None:
        """Read everything and compare it with what was written.

        Raises:
            UserError: a shard's SHA-256 differs.
        """
        for shard in self.index["shards"]:
            if not shard_is_true(self.folder, shard):
                raise UserError(
                    f"{self.folder} is damaged: shard {shard['number']} differs from its SHA-256. Delete the folder "
                    f"and run the command again to build it anew"
                )


def shard_is_true(folder: Path, marker: dict[str, Any]) -> bool:
    """Whether the bytes that a marker speaks of are there and the same."""
    for name, digest in marker["sha256"].items():
        split, kind = name.split(".")
        start, end = marker["start"][split][kind], marker["sizes"][split][kind]
        sha = hashlib.sha256()
        try:
            with open(folder / f"{name}.bin", "rb") as file:
                file.seek(start)
                while start < end and (data := file.read(min(2**20, end - start))):
                    sha.update(data)
                    start += len(data)
        except OSError:
            return False
        if start != end or sha.hexdigest() != digest:
            return False
    return True


def journal_of(folder: Path) -> Path:
    return folder / "journal.jsonl"
