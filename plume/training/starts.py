"""Where weights and tokenizers come from: another run's folder, or a published Hugging Face folder."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from plume.errors import UserError
from plume.models import interop
from plume.text.tokenizers import Tokenizer
from plume.training.checkpoints import Checkpoints
from plume.training.folder import RunFolder


@dataclass(frozen=True)
class Start:
    """Weights to begin with. ``record`` says where they are from; its fingerprint is a hash of every one."""

    state: Mapping[str, Tensor]
    record: Mapping[str, Any]


def open_start(path: Path) -> Start:
    """The weights of a run's newest valid checkpoint, or of a Hugging Face folder.

    Raises:
        UserError: the folder is neither, or damaged.
    """
    folder = RunFolder(path)
    step = None
    if folder.checkpoints.is_dir():
        checkpoint = Checkpoints(folder.checkpoints).require()
        step, state = checkpoint.step, checkpoint.tensors("model")
    elif (path / "config.json").is_file() and not folder.run.is_file():
        state = dict(interop.load(path).state)
    else:
        raise UserError(
            f"{path} is neither a run with checkpoints nor a Hugging Face folder: name one of these"
        )
    return Start(state, {"path": str(path.resolve()), "step": step, "fingerprint": _fingerprint(state)})


def open_tokenizer(path: Path) -> Tokenizer:
    """The tokenizer of a run, one that ``plume tokenizer`` wrote, or that of a Hugging Face folder.

    Raises:
        UserError: there is none.
    """
    inside = RunFolder(path).tokenizer
    if inside.is_dir():
        path = inside
    return Tokenizer.load(path) if (path / "vocabulary.json").is_file() else Tokenizer.from_hf(path)


def _fingerprint(state: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(state.items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\0".encode())
        digest.update(
            memoryview(cast(Any, tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()))
        )
    return digest.hexdigest()
