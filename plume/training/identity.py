"""What a run is made of, as hashes and versions: the same command may resume it only where all of it is the same.

Exact resume is promised for equal configuration, code, data, tokenizer, versions, threads and CPU flags; this
is the record that says so (reliability B3).
"""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

import plume
from plume.errors import UserError

Identity = Mapping[str, str | int | None]


def machine(device: torch.device, precision: str) -> dict[str, str | int | None]:
    """Versions, threads and processor features, all of which decide the last bits of a sum."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    return {
        "code": code(),
        "revision": revision(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "threads": torch.get_num_threads(),
        "cpu": f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}",
        "device": name,
        "precision": precision,
    }


# What a training step can reach; a change elsewhere in plume cannot change a run.
_SOURCES = ("slots.py", "vocabulary.py", "seeding.py", "text", "models", "objectives", "training")


def code() -> str:
    """SHA-256 of plume's sources that a step can reach: one changed byte is another program."""
    digest = hashlib.sha256()
    root = Path(plume.__path__[0])
    places = [root / name for name in _SOURCES]
    for file in sorted(f for p in places for f in ([p] if p.is_file() else p.rglob("*.py"))):
        digest.update(f"{file.relative_to(root).as_posix()}\0".encode())
        digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()


def revision() -> str | None:
    """The git revision that plume was checked out at, read from .git without running git; None if installed."""
    git = Path(plume.__path__[0]).parent / ".git"
    try:
        head = (git / "HEAD").read_text(encoding="utf-8").strip()
        if not head.startswith("ref: "):
            return head
        name = head.removeprefix("ref: ")
        if (git / name).is_file():
            return (git / name).read_text(encoding="utf-8").strip()
        packed = (git / "packed-refs").read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError):
        return None
    return next((line.split()[0] for line in packed if line.endswith(f" {name}")), None)


# What only says where a run came from, and may change between two attempts.
_RECORDED_ONLY = ("revision",)


def changes(old: Identity, new: Identity) -> list[str]:
    """One ``name: old -> new`` a difference that forbids an exact resume."""
    names = [n for n in dict.fromkeys((*old, *new)) if n not in _RECORDED_ONLY]
    return [f"{n}: {_short(old.get(n))} -> {_short(new.get(n))}" for n in names if old.get(n) != new.get(n)]


def check(old: Identity, new: Identity, where: Path, *, accept: bool) -> list[str]:
    """The differences, where they were accepted.

    Raises:
        UserError: there are some and they were not.
    """
    found = changes(old, new)
    if found and not accept:
        raise UserError(
            f"{where} was made with something else, so it cannot be resumed exactly ({'; '.join(found)}): "
            f"restore that, choose another --out, or say --accept-changes to go on all the same"
        )
    return found


def _short(value: str | int | None) -> str:
    return f"{value}"[:12] if isinstance(value, str) and len(value) == 64 else f"{value}"
