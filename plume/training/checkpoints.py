"""Checkpoints that are either whole or not there (reliability section 11).

A checkpoint is a folder: it is written aside, every file hashed on the way and fsynced, then renamed, then read
back, then ``latest`` moves, then older ones retire. Whether one is complete is judged by its manifest alone, so a
copied checkpoint stays complete. Tensors are safetensors, everything else JSON: there is nothing to unpickle.

    step-00000100/  model.safetensors  optimizer.safetensors  memory.safetensors  state.json  manifest.json
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from plume.errors import UserError
from plume.training.faults import fault
from plume.training.folder import sync_folder

PARTS = ("model", "optimizer", "memory")
BLOCK = 1 << 24  # bytes hashed and written at a time
_DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.bfloat16: "BF16",
    torch.float16: "F16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


class DamagedCheckpoint(Exception):
    """This checkpoint is not what was written. The message names the file."""


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint whose every file matched its manifest when it was opened."""

    path: Path
    step: int
    state: Mapping[str, Any]

    def tensors(self, part: str) -> dict[str, Tensor]:
        """The tensors of "model", "optimizer" or "memory", on the CPU.

        Raises:
            DamagedCheckpoint: the file does not hold tensors.
        """
        file = self.path / f"{part}.safetensors"
        try:
            return safetensors.torch.load_file(file)
        except (OSError, ValueError, safetensors.SafetensorError) as error:
            raise DamagedCheckpoint(f"{file} cannot be read: {error}") from error

    def shapes(self, part: str) -> dict[str, tuple[int, ...]]:
        """The shape of each tensor, read from the header alone.

        Raises:
            DamagedCheckpoint: the file does not hold tensors.
        """
        file = self.path / f"{part}.safetensors"
        try:
            with safetensors.safe_open(file, framework="pt") as tensors:
                return {name: tuple(tensors.get_slice(name).get_shape()) for name in tensors.keys()}  # noqa: SIM118
        except (OSError, ValueError, safetensors.SafetensorError) as error:
            raise DamagedCheckpoint(f"{file} cannot be read: {error}") from error


def open_checkpoint(path: Path) -> Checkpoint:
    """Verify every file of a checkpoint against its manifest, before any tensor is used.

    Raises:
        DamagedCheckpoint: a file is missing, or its size or SHA-256 differs.
    """
    manifest = _read(path / "manifest.json")
    step = manifest.get("step")
    if not isinstance(step, int) or path.name != folder_name(step):
        raise DamagedCheckpoint(f"{path / 'manifest.json'} is of step {step}, not of {path.name}")
    files = manifest.get("files")
    if (
        not isinstance(files, dict)
        or {f"{part}.safetensors" for part in PARTS} | {"state.json"} != files.keys()
    ):
        raise DamagedCheckpoint(f"{path / 'manifest.json'} does not list the files of a checkpoint")
    for name, said in files.items():
        file = path / name
        said = said if isinstance(said, dict) else {}
        try:
            size = file.stat().st_size
            digest = _sha256(file) if size == said.get("size") else None
        except OSError as error:
            raise DamagedCheckpoint(f"{file} cannot be read: {error.strerror}") from error
        if digest is None:
            raise DamagedCheckpoint(f"{file} has {size} bytes, its manifest says {said.get('size')}")
        if digest != said.get("sha256"):
            raise DamagedCheckpoint(f"{file} does not match the SHA-256 of its manifest")
    state = _read(path / "state.json")
    if state.get("step") != step:
        raise DamagedCheckpoint(f"{path / 'state.json'} is of step {state.get('step')}, not {step}")
    return Checkpoint(path, step, state)


def folder_name(step: int) -> str:
    """``step-00000100``: sorts as the numbers do."""
    return f"step-{step:08d}"


@dataclass(frozen=True)
class Checkpoints:
    """The checkpoints of one run. ``keep``: how many stay (None: all). ``say`` tells the user what happened."""

    folder: Path
    keep: int | None = None
    say: Callable[[str], None] = print

    def steps(self) -> list[int]:
        """The steps there are folders of, ascending; valid or not."""
        names = (p.name for p in self.folder.glob("step-*")) if self.folder.is_dir() else ()
        return sorted(int(n[5:]) for n in names if n[5:].isdigit() and n == folder_name(int(n[5:])))

    def at(self, step: int) -> Checkpoint:
        """The checkpoint of a step that another process has verified."""
        path = self.folder / folder_name(step)
        return Checkpoint(path, step, _read(path / "state.json"))

    def newest(self, accept: Callable[[Checkpoint], bool] = lambda _: True) -> Checkpoint | None:
        """The newest checkpoint that is valid and that ``accept`` takes; what is passed over is told."""
        for step in reversed(self.steps()):
            try:
                checkpoint = open_checkpoint(self.folder / folder_name(step))
                if accept(checkpoint):
                    return checkpoint
            except DamagedCheckpoint as error:
                self.say(f"checkpoint refused: {error}; taking the one before it")
        return None

    def require(self) -> Checkpoint:
        """``newest``, for who can do nothing without.

        Raises:
            UserError: there is none.
        """
        if (checkpoint := self.newest()) is None:
            raise UserError(
                f"{self.folder} holds no valid checkpoint: run the training again, or name another run"
            )
        return checkpoint

    def sweep(self) -> None:
        """Remove what a process that died left half-written. Only for the holder of the run's lock."""
        if self.folder.is_dir():
            for left in self.folder.glob(".*-*"):
                shutil.rmtree(left) if left.is_dir() else left.unlink()

    def save(
        self,
        step: int,
        parts: Mapping[str, Mapping[str, Tensor]],
        state: Mapping[str, Any],
        protected: Collection[int] = (),
    ) -> Path:
        """Write the checkpoint of ``step``; it is durable when this returns. Then older ones retire, but for
        those of the ``protected`` steps.

        Raises:
            OSError: the disk is full or fails; older checkpoints are as they were.
        """
        path = self.folder / folder_name(step)
        aside = self.folder / f".writing-{path.name}"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            if self._valid(path):
                return path
            if aside.exists():
                shutil.rmtree(aside)
            self._write(aside, step, parts, state)
            fault("checkpoint.rename")
            if path.exists():  # damaged, or it would have been taken as it is
                self._remove(path)
            aside.rename(path)
            fault("checkpoint.renamed")
            sync_folder(self.folder)
        except OSError:
            shutil.rmtree(aside, ignore_errors=True)
            raise
        try:
            open_checkpoint(path)
        except DamagedCheckpoint as error:
            raise OSError(f"what was written did not read back: {error}") from error
        try:
            self._point_latest(path.name)
            self._retire(protected)
        except OSError as error:  # the checkpoint is whole and will be found; nothing may be taken away now
            self.say(f"{path} is written, but older ones could not retire ({error.strerror or error})")
        return path

    def go_on_from(self, found: Checkpoint, protected: Collection[int] = ()) -> None:
        """Tidy up after a run that died: what is newer than ``found`` is damaged or of a branch that was left,
        and older ones may not have had the time to retire. ``found`` must be valid: ``newest`` gives it.
        """
        for step in self.steps():
            if step > found.step:
                self._remove(self.folder / folder_name(step))
        self._retire(protected)

    def _write(
        self, aside: Path, step: int, parts: Mapping[str, Mapping[str, Tensor]], state: Mapping[str, Any]
    ) -> None:
        fault("checkpoint.open")
        aside.mkdir()
        files = {}
        for part in PARTS:
            name = f"{part}.safetensors"
            with _Hashed(aside / name) as file:
                write_safetensors(file, parts.get(part, {}))
            files[name] = file.said()
        with _Hashed(aside / "state.json") as file:
            file.write(json.dumps({**state, "step": step}, ensure_ascii=False).encode())
        files["state.json"] = file.said()
        with _Hashed(aside / "manifest.json") as file:
            file.write(json.dumps({"format_version": 1, "step": step, "files": files}, indent=1).encode())
        sync_folder(aside)

    def _valid(self, path: Path) -> bool:
        try:
            return path.exists() and bool(open_checkpoint(path))
        except DamagedCheckpoint:
            return False

    def _point_latest(self, name: str) -> None:
        fault("checkpoint.latest")
        aside = self.folder / ".writing-latest"
        try:
            with _Hashed(aside) as file:
                file.write(f"{name}\n".encode())
            aside.replace(self.folder / "latest")
        except OSError:
            aside.unlink(missing_ok=True)
            raise
        sync_folder(self.folder)

    def _retire(self, protected: Collection[int]) -> None:
        # Called when the newest one has been read and found whole: it is never among these.
        if self.keep is not None:
            for step in self.steps()[: -self.keep]:
                if step not in protected:
                    self._remove(self.folder / folder_name(step))

    def _remove(self, path: Path) -> None:
        # Renamed first: a kill half-way through leaves a leftover to sweep, never half a checkpoint.
        aside = path.with_name(f".retiring-{path.name}")
        if aside.exists():
            shutil.rmtree(aside)
        path.rename(aside)
        fault("checkpoint.retire")
        shutil.rmtree(aside)


class _Hashed:
    """A new file whose SHA-256 is taken of what is handed over, not of what the disk made of it."""

    def __init__(self, path: Path) -> None:
        self._file: BinaryIO = path.open("wb", buffering=0)
        self._digest = hashlib.sha256()
        self._size = 0

    def __enter__(self) -> _Hashed:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        try:
            if kind is None:
                fault("checkpoint.fsync")
                os.fsync(self._file.fileno())
        finally:
            self._file.close()

    def write(self, data: bytes | memoryview) -> None:
        view = memoryview(data).cast("B")
        for start in range(0, len(view), BLOCK):
            block = view[start : start + BLOCK]
            self._digest.update(block)
            self._size += len(block)
            while len(block):
                fault("checkpoint.write")
                block = block[self._file.write(block) :]

    def said(self) -> dict[str, Any]:
        return {"size": self._size, "sha256": self._digest.hexdigest()}


def write_safetensors(file: _Hashed, tensors: Mapping[str, Tensor]) -> None:
    """Stream tensors [any shape] on the CPU in the safetensors format, without a second copy of them."""
    # Wide types first keeps every tensor aligned to its own size.
    names = sorted(tensors, key=lambda n: (-tensors[n].element_size(), n))
    header: dict[str, Any] = {}
    at = 0
    for name in names:
        t = tensors[name]
        end = at + t.numel() * t.element_size()
        header[name] = {"dtype": _DTYPES[t.dtype], "shape": list(t.shape), "data_offsets": [at, end]}
        at = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    file.write(len(text).to_bytes(8, "little") + text)
    for name in names:
        flat = tensors[name].detach().contiguous().reshape(-1).view(torch.uint8)
        if len(flat):
            file.write(memoryview(cast(Any, flat.numpy())))


def _read(path: Path) -> dict[str, Any]:
    try:
        tree = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise DamagedCheckpoint(f"{path} cannot be read: {error}") from error
    if not isinstance(tree, dict):
        raise DamagedCheckpoint(f"{path} does not hold a JSON object")
    return tree


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
