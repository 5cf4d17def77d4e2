"""Where weights and tokenizers come from: another run's folder, or a published Hugging Face folder."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from plume import config
from plume.errors import UserError
from plume.models import interop
from plume.models.backbone import BackboneConfig
from plume.models.pretrained import PretrainedModel
from plume.text.tokenizers import Tokenizer
from plume.training.checkpoints import Checkpoints
from plume.training.folder import RunFolder
from plume.vocabulary import Vocabulary


@dataclass(frozen=True)
class Start:
    """Weights to begin with. ``record`` says where they are from; its fingerprint is a hash of every one.

    ``shape``: the configuration of the network that they are of; None where that is the user's own code.
    """

    state: Mapping[str, Tensor]
    record: Mapping[str, Any]
    shape: BackboneConfig | None = None


def open_start(path: Path) -> Start:
    """The weights of a run's newest valid checkpoint, or of a Hugging Face folder.

    Raises:
        UserError: the folder is neither, or damaged.
    """
    folder = RunFolder(path)
    step = None
    if folder.checkpoints.is_dir():
        checkpoint = Checkpoints(folder.checkpoints).require()
        step, state, shape = checkpoint.step, checkpoint.tensors("model"), _shape(folder)
    elif (path / "config.json").is_file() and not folder.run.is_file():
        imported = interop.load(path)
        state, shape = dict(imported.state), imported.config
    else:
        raise UserError(
            f"{path} is neither a run with checkpoints nor a Hugging Face folder: name one of these"
        )
    return Start(
        state, {"path": str(path.resolve()), "step": step, "fingerprint": _fingerprint(state)}, shape
    )


def unlike(start: Start, source: str, recipe: Any, tokenizer: Path | None) -> UserError | None:
    """Why weights are not of a recipe's network, in the settings' own words; None: these say nothing of it.

    ``source`` names the weights' folder, ``tokenizer`` the one that was chosen in place of theirs.
    """
    if start.shape is None:
        return None
    theirs, ours = (config.settings(r) for r in (replace(recipe, model=start.shape), recipe))
    cannot = f"{source} cannot be the start of this model:"
    if type(start.shape) is not type(recipe.model):
        return UserError(
            f"{cannot} it is a {type(start.shape).__name__} and the recipe's a {type(recipe.model).__name__}; "
            f"choose a recipe of its kind, or train without --from"
        )
    words = {}
    for path, value in theirs.items():
        if path.startswith("model.") and ours.get(path) != value:
            word = f"{path}={value}"
            try:
                changed = config.override(recipe, [word]).model
                if _sizes(changed) == _sizes(recipe.model):
                    continue
            except (UserError, ValueError):  # it takes others with it
                pass
            words[path] = word
    if words:
        told = ", ".join(
            f"{path.removeprefix('model.')} is {theirs[path]} there and {ours.get(path)} here"
            for path in words
        )
        return UserError(
            f"{cannot} {told}; take its settings with {' '.join(words.values())}, or train without --from"
        )
    if tokenizer is None:
        return None
    return UserError(
        f"{cannot} its weights are of another vocabulary than {tokenizer}; leave --tokenizer out, or make one that "
        f"goes on from its own with plume tokenizer --extend {source}"
    )


def _shape(folder: RunFolder) -> BackboneConfig | None:
    try:
        return cast(BackboneConfig, config.resolve(str(folder.path)).model)
    except UserError:  # the author's own code, which nobody has said is to be trusted
        return None


def _sizes(shape: BackboneConfig) -> dict[str, torch.Size]:
    model = PretrainedModel.build(shape, Vocabulary(size=8, pad=0), lambda _: {}, seed=0, device="meta")
    return {name: tensor.shape for name, tensor in model.state().items()}


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
