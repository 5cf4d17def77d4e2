"""The token store: documents as ids on disk, memory-mapped, built once and never half-built.

A store is a folder with three flat files a split (ids, marks, documents) and ``index.json``. While it is
built, ``journal.jsonl`` holds a marker for every shard: a stretch of the flat files that is on disk for good,
with its rows and its SHA-256. A marker is written after its bytes were synced; a killed build goes on after the
last marker that is true (reliability D3). The files end where the markers say; nothing is written twice.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np

from plume.errors import UserError
from plume.text.batches import Batch, ahead, batches
from plume.text.encoding import Flat, joined
from plume.text.files import SourceFile, find
from plume.text.marks import SENTENCE, WORD
from plume.text.readers import check
from plume.text.splits import SPLITS
from plume.text.tokenizing import Tokenizer
from plume.text.tokens import FORMAT, KINDS, TokenStore, journal_of, shard_is_true
from plume.text.tokens import Tokens as Tokens
from plume.text.units import Lexicon, Units

Array = np.ndarray[Any, np.dtype[Any]]

_SHARD = 32 * 2**20  # bytes of text between two markers


class Progress(NamedTuple):
    """How far a build is. ``share``: of the files' bytes, from 0 to 1."""

    documents: int
    tokens: int
    bytes: int
    share: float


class OtherText(UserError):
    """The folder's store, finished or not, was made of other text or in another way."""


def build(
    paths: Path | str | Sequence[Path | str],
    tokenizer: Tokenizer,
    folder: Path | str,
    *,
    text_column: str = "text",
    more: Sequence[str] = (),
    prefix: str = "",
    segment_words: bool = False,
    lexicon: Lexicon | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> TokenStore:
    """Tokenize files and folders into a store of three splits, or go on where a killed build stopped.

    A finished store of the same data, tokenizer and options is opened as it is. Documents that are empty or
    damaged are left out and listed in ``rejected.jsonl``. Memory stays bounded whatever the size of the data.
    ``more`` are further columns of a document, each after the one before; ``marks.PART`` says where one begins.
    ``prefix`` stands before the first column of each document; its split is decided without it.
    ``segment_words``: Chinese words by rjieba; ``lexicon``: those, and its phrases and entities.

    Raises:
        UserError: no text, unreadable files, a full disk; ``OtherText``: a folder with a store of something else.
    """
    folder = Path(folder)
    sources = find(paths)
    options = {"text_column": text_column, "segment_words": segment_words, "tokenizer": tokenizer.fingerprint}
    if more:
        options["more"] = list(more)
    if prefix:
        options["prefix"] = prefix
    files = _describe(sources, folder)
    if lexicon is not None:
        options["units"] = lexicon.fingerprint
    units = None if lexicon is None else Units(lexicon, tokenizer)
    with _locked(folder):
        if (folder / "index.json").exists():
            store = TokenStore.open(folder)
            if store.index["options"] == options and _hashes(store.index["files"]) == _hashes(files):
                return store
            raise OtherText(
                f"{folder} holds a token store of other data, or made with another tokenizer: choose another folder, "
                f"or delete it"
            )
        check(sources, text_column=text_column, more=more)
        try:
            return _Builder(folder, tokenizer, sources, files, options, progress, units).run()
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise UserError(
                    f"the disk is full: {folder} could not be written. Free some space and run the command again: it "
                    f"goes on where it stopped"
                ) from None
            raise


@dataclass
class _State:
    """Where a build stands; each marker is one of these with a checksum."""

    number: int = 0  # shards so far
    file: int = 0  # the file that is being read ...
    rows: int = 0  # ... and how many of its rows are done, rejected ones included
    sizes: dict[str, dict[str, int]] = field(
        default_factory=lambda: {s: dict.fromkeys(KINDS, 0) for s in SPLITS}
    )
    documents: dict[str, int] = field(default_factory=lambda: dict.fromkeys(SPLITS, 0))
    bytes: dict[str, int] = field(default_factory=lambda: dict.fromkeys(SPLITS, 0))
    counts: dict[str, int] = field(default_factory=lambda: {"words": 0, "sentences": 0, "unknown": 0})
    rejected: int = 0  # bytes of rejected.jsonl
    reasons: dict[str, int] = field(default_factory=dict)


class _Builder:
    def __init__(
        self,
        folder: Path,
        tokenizer: Tokenizer,
        sources: list[SourceFile],
        files: list[dict[str, Any]],
        options: dict[str, Any],
        progress: Callable[[Progress], None] | None,
        units: Units | None = None,
    ) -> None:
        self.units = units
        self.folder, self.tokenizer, self.sources, self.files = folder, tokenizer, sources, files
        self.options, self.progress = options, progress
        self.more: Sequence[str] = options.get("more", ())
        self.prefix: str = options.get("prefix", "")
        self.dtype = np.dtype("<u2" if tokenizer.vocabulary.size <= 2**16 else "<u4")
        self.state = _State()
        self.shards: list[dict[str, Any]] = []

    def run(self) -> TokenStore:
        self._resume()
        self._cut()
        state = self.state
        with _opened(self.folder) as handles:
            self._handles = handles
            self._hashes = {name: hashlib.sha256() for name in handles}
            if not state.number:
                for split in SPLITS:
                    self._write(f"{split}.documents", np.zeros(1, "<i8"))
            done = 0
            for batch in ahead(
                batches(self.sources, self.options["text_column"], self.more, state.file, state.rows)
            ):
                self._add(batch)
                done += int(batch.sizes.sum())
                if self.progress is not None:
                    tokens = sum(s["marks"] for s in state.sizes.values())
                    self.progress(
                        Progress(
                            sum(state.documents.values()), tokens, sum(state.bytes.values()), batch.share
                        )
                    )
                if done >= _SHARD:
                    self._mark()
                    done = 0
            if not self.shards or self._fields() != vars(state):
                self._mark()
        return self._finish()

    def _add(self, batch: Batch) -> None:
        state = self.state
        if batch.rejected:
            text = "".join(json.dumps(row._asdict(), ensure_ascii=False) + "\n" for row in batch.rejected)
            self._handles["rejected"].write(text.encode("utf-8", "replace"))
            state.rejected = self._handles["rejected"].tell()
            for row in batch.rejected:
                reason = f"{row.status}: {row.reason}"
                state.reasons[reason] = state.reasons.get(reason, 0) + 1
        columns, texts = 1 + len(self.more), batch.texts
        if self.prefix:
            texts = [text if n % columns else self.prefix + text for n, text in enumerate(texts)]
        if self.units is not None:
            flat = self.units.encode(texts)
        else:
            flat = self.tokenizer.encode_flat(texts, segment_words=self.options["segment_words"])
        self._add_flat(joined(flat, columns), batch)
        state.file, state.rows = batch.file, batch.rows

    def _add_flat(self, flat: Flat, batch: Batch) -> None:
        state = self.state
        gone = flat.lengths == 0  # text of control characters only
        if gone.any():
            state.reasons["dropped: no tokens"] = state.reasons.get("dropped: no tokens", 0) + int(gone.sum())
        ids, of = flat.ids.astype(self.dtype), np.repeat(batch.splits, flat.lengths)
        unknown = self.tokenizer.vocabulary.unk
        if unknown is not None and self.tokenizer.kind != "bpe":
            state.counts["unknown"] += int((flat.ids == unknown).sum())
        state.counts["words"] += int((flat.marks & WORD != 0).sum())
        state.counts["sentences"] += int((flat.marks & SENTENCE != 0).sum())
        for number, split in enumerate(SPLITS):
            mine = (batch.splits == number) & ~gone
            if not mine.any():
                continue
            here = of == number
            before = state.sizes[split]["marks"]
            ends = before + np.cumsum(flat.lengths[mine])
            self._write(f"{split}.ids", ids[here])
            self._write(f"{split}.marks", flat.marks[here])
            self._write(f"{split}.documents", ends.astype("<i8"))
            state.documents[split] += int(mine.sum())
            state.bytes[split] += int(batch.sizes[mine].sum())

    def _write(self, name: str, array: Array) -> None:
        data = np.ascontiguousarray(array).view(np.uint8).data
        self._handles[name].write(data)
        self._hashes[name].update(data)
        split, kind = name.split(".")
        self.state.sizes[split][kind] += len(data)

    def _mark(self) -> None:
        """Everything so far is synced, then said to be there."""
        state = self.state
        state.number += 1
        for handle in self._handles.values():
            handle.flush()
            os.fsync(handle.fileno())
        marker = json.loads(json.dumps(vars(state)))
        marker["sha256"] = {name: h.hexdigest() for name, h in self._hashes.items() if name != "rejected"}
        marker["start"] = self.shards[-1]["sizes"] if self.shards else _State().sizes
        self.shards.append(marker)
        line = json.dumps({"files": self.files, "options": self.options} if state.number == 1 else {})
        with open(journal_of(self.folder), "ab") as journal:
            if state.number == 1:
                journal.write(line.encode() + b"\n")
            journal.write(json.dumps(marker).encode() + b"\n")
            journal.flush()
            os.fsync(journal.fileno())
        _sync_folder(self.folder)
        self._hashes = {name: hashlib.sha256() for name in self._handles}

    def _fields(self) -> dict[str, Any]:
        """Where the last marker stands, as fields of ``_State``."""
        fields = {k: v for k, v in self.shards[-1].items() if k not in ("sha256", "start")}
        copied: dict[str, Any] = json.loads(json.dumps(fields))
        return copied

    def _resume(self) -> None:
        """Take over the markers of a killed build that are still true, the last one first."""
        try:
            rows = journal_of(self.folder).read_bytes().split(b"\n")
        except FileNotFoundError:
            return
        read: list[dict[str, Any]] = []
        for row in rows:
            try:
                read.append(json.loads(row))
            except ValueError:
                break  # the line that was being written when the end came
        head, markers = (read[0], read[1:]) if read else ({}, [])
        if head.get("options", self.options) != self.options:
            raise OtherText(
                f"{self.folder} holds a half built token store with another tokenizer or other options: run "
                f"the command that began it, choose another folder, or delete it"
            )
        before = head.get("files", [])
        same = 0
        while (
            same < min(len(before), len(self.files)) and before[same]["sha256"] == self.files[same]["sha256"]
        ):
            same += 1
        if markers and not same:
            raise OtherText(
                f"{self.folder} holds a half built token store of other data: choose another folder, or delete it"
            )
        # A file that was mended or added later is no reason to lose what was done before it.
        while (
            markers
            and markers[-1]["file"] >= same
            and not (markers[-1]["file"] == same and not markers[-1]["rows"])
        ):
            markers.pop()
        for n, marker in enumerate(markers):
            if not shard_is_true(self.folder, marker):
                del markers[n:]
                break
        self.shards = markers
        if markers:
            self.state = _State(**self._fields())
        lines = [{"files": self.files, "options": self.options}, *markers]
        _replace(journal_of(self.folder), "".join(json.dumps(row) + "\n" for row in lines) if markers else "")

    def _cut(self) -> None:
        """Cut the flat files back to the last marker: what was written after it will be written again."""
        for split in SPLITS:
            for kind in KINDS:
                _truncate(self.folder / f"{split}.{kind}.bin", self.state.sizes[split][kind])
        _truncate(self.folder / "rejected.jsonl", self.state.rejected)

    def _finish(self) -> TokenStore:
        state = self.state
        total = sum(state.documents.values())
        if not total:
            reasons = (
                ", ".join(f"{n} {reason}" for reason, n in state.reasons.items()) or "the files are empty"
            )
            _remove(self.folder)
            where = ", ".join(str(source.path) for source in self.sources[:3])
            raise UserError(f"there is not one document with text in {where}: {reasons}")
        tokens = sum(s["marks"] for s in state.sizes.values())
        size = sum(state.bytes.values())
        splits = {
            split: {
                "documents": state.documents[split],
                "tokens": state.sizes[split]["marks"],
                "bytes": state.bytes[split],
                "sizes": state.sizes[split],
            }
            for split in SPLITS
        }
        seen = {"files": [f["sha256"] for f in self.files], "options": self.options, "format": FORMAT}
        index = {
            "format": FORMAT,
            "dtype": self.dtype.name,
            "fingerprint": hashlib.sha256(json.dumps(seen, sort_keys=True).encode()).hexdigest(),
            "options": self.options,
            "files": self.files,
            "splits": splits,
            "card": {
                "tokenizer": {"kind": self.tokenizer.kind, "vocab_size": self.tokenizer.vocabulary.size},
                "documents": total,
                "tokens": tokens,
                "bytes": size,
                "bytes_per_token": size / tokens,
                "tokens_per_word": tokens / max(state.counts["words"], 1),
                "sentences_per_document": state.counts["sentences"] / total,
                "unknown_share": state.counts["unknown"] / tokens,
                "left_out": state.reasons,
                "splits": {k: {n: v[n] for n in ("documents", "tokens", "bytes")} for k, v in splits.items()},
            },
            "shards": self.shards,
        }
        _replace(self.folder / "index.json", json.dumps(index, indent=1, ensure_ascii=False) + "\n")
        journal_of(self.folder).unlink(missing_ok=True)
        return TokenStore.open(self.folder)


def _describe(sources: list[SourceFile], folder: Path) -> list[dict[str, Any]]:
    """Each file's name, size and SHA-256; the hash of a file that did not change is not computed again."""
    known: dict[tuple[str, int, int], str] = {}
    try:
        for entry in json.loads((folder / "index.json").read_text(encoding="utf-8"))["files"]:
            known[entry["name"], entry["size"], entry["modified"]] = entry["sha256"]
    except (OSError, ValueError, KeyError, TypeError):
        pass
    files = []
    for source in sources:
        try:
            status = source.path.stat()
            key = (source.name, status.st_size, status.st_mtime_ns)
            if key not in known:
                with open(source.path, "rb") as file:
                    known[key] = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise UserError(f"{source.path} cannot be read: {error.strerror or error}") from None
        files.append({"name": source.name, "size": key[1], "modified": key[2], "sha256": known[key]})
    return files


def _hashes(files: list[dict[str, Any]]) -> list[str]:
    return [entry["sha256"] for entry in files]


@contextmanager
def _opened(folder: Path) -> Iterator[dict[str, IO[bytes]]]:
    names = [f"{split}.{kind}" for split in SPLITS for kind in KINDS]
    paths = {name: folder / f"{name}.bin" for name in names} | {"rejected": folder / "rejected.jsonl"}
    with ExitStack() as stack:
        yield {name: stack.enter_context(open(path, "ab")) for name, path in paths.items()}


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """One builder at a time. The lock goes when its process does, however it ends."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "lock", "ab") as handle:
        try:
            import fcntl

            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except ImportError:  # no such locks on this system
            pass
        except OSError:
            raise UserError(f"another process is building {folder}: wait for it, or stop it") from None
        yield


def _truncate(path: Path, size: int) -> None:
    with open(path, "ab") as handle:
        handle.truncate(size)


def _replace(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    aside = path.with_name(path.name + ".new")
    with open(aside, "w", encoding="utf-8") as handle:
        handle.write(text)
        handle.flush()
        os.fsync(handle.fileno())
    os.replace(aside, path)
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _remove(folder: Path) -> None:
    """Take away what a build that found nothing has written."""
    for name in (f"{split}.{kind}.bin" for split in SPLITS for kind in KINDS):
        (folder / name).unlink(missing_ok=True)
    for name in ("journal.jsonl", "rejected.jsonl", "lock"):
        (folder / name).unlink(missing_ok=True)
