"""The run folder: where everything of a run lies, who may write there, and what it was made of (DESIGN section 5).

    config.json  run.json  metrics.jsonl  curve.png  curve.html  tokenizer/  tokens/  checkpoints/  code/

No torch here, so that a run can be looked at in a moment.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from plume.config import read
from plume.errors import UserError
from plume.text.files import RUN

FORMAT_VERSION = 1


@dataclass(frozen=True)
class RunFolder:
    """Paths of a run. Any run folder is the input of the next verb."""

    path: Path

    @property
    def config(self) -> Path:
        """The resolved recipe, itself a recipe."""
        return self.path / "config.json"

    @property
    def run(self) -> Path:
        """Kind, versions, fingerprints, parent, microbatch size."""
        return self.path / "run.json"

    @property
    def metrics(self) -> Path:
        """One JSON object a line: what happened at each step."""
        return self.path / "metrics.jsonl"

    @property
    def tokenizer(self) -> Path:
        return self.path / "tokenizer"

    @property
    def units(self) -> Path:
        """The dictionary of phrases and entities that its text was marked with, where it was."""
        return self.path / "units.tsv"

    @property
    def tokens(self) -> Path:
        return self.path / "tokens"

    def task(self, name: str) -> Path:
        """The tokens of a task's rows, where tasks are mixed with the text."""
        return self.path / "tasks" / name

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def ngrams(self) -> Path:
        """The model of a run that counts, in place of checkpoints."""
        return self.path / "ngrams.safetensors"

    @property
    def sparse(self) -> Path:
        """The model of a run that weighs counted words, in place of checkpoints."""
        return self.path / "sparse.safetensors"

    @property
    def counts(self) -> Path:
        """Counts of the pieces of a long text, while they are made."""
        return self.path / "counts"

    @property
    def code(self) -> Path:
        """Copies of the user's own files that the recipe was built from; never run without being asked to."""
        return self.path / "code"

    @property
    def continued(self) -> Path:
        """Of a run that began from another's weights: the loss on the domain and on general text, before and after."""
        return self.path / "continued.json"

    @property
    def curve(self) -> tuple[Path, Path]:
        """The loss curve as (png, html)."""
        return self.path / "curve.png", self.path / "curve.html"

    def exists(self) -> bool:
        """Whether a run was begun here."""
        return self.config.is_file()

    def learnt(self) -> bool:
        """Whether it holds what took time to make: a checkpoint, counts, or a long text half tokenized."""
        half = self.tokens.is_dir() and not (self.tokens / "index.json").is_file()
        return half or any(self.checkpoints.glob("step-*")) or self.ngrams.exists() or self.counts.exists()

    def forget(self) -> None:
        """Take away what a run wrote that came to nothing: it was refused before its first checkpoint."""
        for path in (self.config, self.run, self.metrics, self.units, self.continued, *self.curve):
            path.unlink(missing_ok=True)
        for path in (self.tokenizer, self.tokens, self.path / "tasks", self.code, self.checkpoints):
            shutil.rmtree(path, ignore_errors=True)

    def read_config(self) -> dict[str, Any]:
        """The configuration as it stands in ``config.json``."""
        return read(self.config)

    def read_run(self) -> dict[str, Any]:
        """``run.json``; empty where the run stopped before it was written.

        Raises:
            UserError: the file is damaged, or of a newer plume.
        """
        if not self.run.is_file():
            return {}
        tree = read(self.run)
        version = tree.get("format_version")
        if not isinstance(version, int) or version > FORMAT_VERSION:
            raise UserError(
                f"{self.run} has format_version {version!r}, this plume reads up to {FORMAT_VERSION}: "
                f"update plume, or use the one that made the run"
            )
        return tree

    def write_run(self, tree: dict[str, Any]) -> None:
        """Replace ``run.json``."""
        write_json(self.run, {"format_version": FORMAT_VERSION, **tree})

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Be the only writer of this folder. The system frees the lock of a process that dies.

        Raises:
            UserError: another process is writing here.
        """
        path = self.path / RUN
        new, marked = not self.path.exists(), path.exists()
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            opened = path.open("a+b", buffering=0)
        except OSError as error:
            raise UserError(
                f"{self.path} cannot be a run folder ({error.strerror}): choose another --out"
            ) from error
        with opened as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                file.seek(0)
                raise UserError(
                    f"{self.path} is being written by process {file.read().decode('ascii', 'replace') or 'unknown'}: "
                    f"wait for it, stop it, or choose another --out"
                ) from error
            with contextlib.suppress(OSError):  # who it is may be unknown; that it is held is what counts
                file.truncate(0)
                file.write(str(os.getpid()).encode())
            try:
                yield
            finally:
                with contextlib.suppress(OSError):
                    file.truncate(0)
                    if not marked and not self.exists():  # refused before a run was begun here
                        path.unlink()
                        if new and not os.listdir(self.path):
                            self.path.rmdir()
                fcntl.flock(file, fcntl.LOCK_UN)


def write_json(path: Path, tree: dict[str, Any]) -> None:
    """Write beside, fsync, rename, fsync the folder: after a crash the old file stands or the new one."""
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with aside.open("w", encoding="utf-8") as file:
            file.write(json.dumps(tree, indent=1, ensure_ascii=False) + "\n")
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    except OSError as error:
        aside.unlink(missing_ok=True)
        raise UserError(
            f"{path} cannot be written ({error.strerror}): make room or choose another --out"
        ) from error
    sync_folder(path.parent)


def sync_folder(path: Path) -> None:
    """Make renames and new names in a folder durable."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
