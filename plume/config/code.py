"""Python files that the user named: imported from the very bytes that were hashed, and copied into the run.

Naming a file on the command line is what makes it trusted, for this process only. A run keeps a copy of it,
but nothing ever runs that copy unless the user says so (``--trust-code``).
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.abc
import importlib.util
import os
import re
import sys
import types
from pathlib import Path
from typing import NamedTuple

from plume.errors import UserError


class UserFile(NamedTuple):
    """A Python file the user named; the first 16 hex digits of its SHA-256 are part of its classes' names."""

    path: Path
    digest: str
    source: bytes

    @property
    def name(self) -> str:
        return f"{self.path.name}@{self.digest}"


_files: dict[str, UserFile] = {}  # module name -> file


def file_of(module: str) -> UserFile | None:
    """The user's file behind a module, or None."""
    return _files.get(module)


def module_of(name: str) -> types.ModuleType | None:
    """The module behind ``my_file.py@<digest>``, where the user named that file in this process."""
    return next((sys.modules[module] for module, file in _files.items() if file.name == name), None)


def load_file(path: Path) -> types.ModuleType:
    """Import a Python file the user named; from then on its classes may stand in configurations.

    Raises:
        UserError: it is missing or cannot be imported.
    """
    file = _read(path)
    name = f"plume_file_{re.sub(r'[^0-9A-Za-z_]', '_', path.stem)}_{file.digest}"
    if name in _files:
        return sys.modules[name]
    loader = _BytesLoader(file)
    spec = importlib.util.spec_from_loader(name, loader, origin=str(file.path))
    if spec is None:
        raise UserError(f"{path} cannot be imported as a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name], _files[name] = module, file
    try:
        loader.exec_module(module)
    except Exception as error:
        del sys.modules[name], _files[name]
        raise UserError(f"{path} cannot be imported: {type(error).__name__}: {error}") from error
    return module


def load_module(name: str) -> types.ModuleType:
    """Import ``package.module`` for the user; its own classes may then stand in configurations too.

    Raises:
        UserError: it cannot be imported.
    """
    try:
        module = importlib.import_module(name)
    except ImportError as error:
        raise UserError(f"cannot import {name}: {error}") from None
    path = Path(module.__file__ or "")
    if not name.startswith("plume.") and path.suffix == ".py":
        _files[name] = _read(path)
    return module


def copy_files(names: set[str], folder: Path) -> list[Path]:
    """Copy the user's files called ``my_file.py@<digest>`` in ``names`` into ``folder``; the copies."""
    copies = []
    for file in [file for file in _files.values() if file.name in names]:
        folder.mkdir(parents=True, exist_ok=True)
        copy = folder / file.path.name
        aside = copy.with_name(f".{copy.name}.{os.getpid()}")
        aside.write_bytes(file.source)
        aside.replace(copy)
        copies.append(copy)
    return copies


def _read(path: Path) -> UserFile:
    try:
        source = path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from None
    return UserFile(path.resolve(), hashlib.sha256(source).hexdigest()[:16], source)


class _BytesLoader(importlib.abc.SourceLoader):
    def __init__(self, file: UserFile) -> None:
        self.file = file

    def get_filename(self, fullname: str) -> str:
        return str(self.file.path)

    def get_data(self, path: str | bytes) -> bytes:
        if os.fspath(path) != str(self.file.path):
            raise OSError  # no cached byte code: what runs is what was hashed
        return self.file.source
