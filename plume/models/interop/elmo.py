"""ELMo as its authors store it: options.json and weights.hdf5 (spec 04 section 3).

TensorFlow's layout: matrices [in, out], gates i, g, f, o, the forget gate's 1 added at run time; ours is the same
transposed, so that both directions are exact. An embedder's file has no output table; a training checkpoint's has.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from plume.errors import UserError
from plume.models.backbone import Backbone
from plume.models.bilstm import BiLSTM, BiLSTMConfig
from plume.models.characters import CHARACTERS
from plume.models.heads import Head
from plume.models.interop.folder import Imported
from plume.models.pretrained import PretrainedModel
from plume.models.sampled_softmax import SampledSoftmax
from plume.vocabulary import Vocabulary

OPTIONS, WEIGHTS = "options.json", "weights.hdf5"
HEADS = ("next_token", "previous_token")


class Place(NamedTuple):
    """One of our tensors, where it lies in the file, and how it is turned there and back."""

    ours: str
    theirs: str
    there: Callable[[Tensor], Tensor] = torch.Tensor.t
    back: Callable[[Tensor], Tensor] = torch.Tensor.t


def _same(tensor: Tensor) -> Tensor:
    return tensor


def places(config: BiLSTMConfig) -> Iterator[Place]:
    """Every tensor of the backbone, and the output table."""
    read = "backbone.characters"
    yield Place(f"{read}.table.weight", "char_embed", _same, _same)
    for i in range(len(config.filters)):
        yield Place(
            f"{read}.filters.{i}.weight",
            f"CNN/W_cnn_{i}",
            lambda t: t.permute(2, 1, 0)[
                None
            ],  # [filters, characters, width] -> [1, width, characters, filters]
            lambda t: t[0].permute(2, 1, 0),
        )
        yield Place(f"{read}.filters.{i}.bias", f"CNN/b_cnn_{i}", _same, _same)
    for i in range(config.num_highways):
        for kind in ("carry", "transform"):
            yield Place(f"{read}.highways.{i}.{kind}_weight", f"CNN_high_{i}/W_{kind}")
            yield Place(f"{read}.highways.{i}.{kind}_bias", f"CNN_high_{i}/b_{kind}", _same, _same)
    yield Place(f"{read}.projection.weight", "CNN_proj/W_proj")
    yield Place(f"{read}.projection.bias", "CNN_proj/b_proj", _same, _same)
    for number, direction in enumerate(("ahead", "back")):
        for i in range(config.num_layers):
            ours = f"backbone.{direction}.layers.{i}"
            theirs = f"RNN_{number}/RNN/MultiRNNCell/Cell{i}/LSTMCell"
            yield Place(f"{ours}.weight", f"{theirs}/W_0")
            yield Place(f"{ours}.bias", f"{theirs}/B", _same, _same)
            yield Place(f"{ours}.projection", f"{theirs}/W_P_0")
    yield Place("heads.next_token.table.weight", "softmax/W", _same, _same)
    yield Place("heads.next_token.table.bias", "softmax/b", _same, _same)


def describes(model: PretrainedModel) -> bool:
    return isinstance(model.backbone, BiLSTM)


def is_folder(folder: Path) -> bool:
    """Whether a folder holds an ELMo: options.json and, beside it, one file of weights."""
    return (folder / OPTIONS).is_file()


def import_folder(folder: Path) -> Imported:
    """Read options.json and weights.hdf5, or the only .hdf5 file whose name ends in "weights".

    Raises:
        UserError: a file is missing, damaged, or describes another network than the weights are of.
    """
    config = read_options(folder / OPTIONS)
    found = [folder / WEIGHTS] if (folder / WEIGHTS).is_file() else sorted(folder.glob("*weights.hdf5"))
    if len(found) != 1:
        raise UserError(f"{folder} must hold its weights as {WEIGHTS}: copy the model's folder again")
    with _open(found[0], "r") as file:
        state = {}
        for place in places(config):
            if place.theirs not in file:
                if place.theirs.startswith("softmax/"):
                    continue  # an embedder: nothing to predict with
                raise UserError(f"{found[0]} lacks {place.theirs}, which {OPTIONS} promises")
            tensor = torch.from_numpy(np.array(file[place.theirs], np.float32))
            state[place.ours] = place.back(tensor).contiguous()
    heads = HEADS if "heads.next_token.table.weight" in state else ()
    size = len(state["heads.next_token.table.weight"]) if heads else 0

    def make(names: Sequence[str], backbone: Backbone, count: int) -> dict[str, Head]:
        """Both directions or none: they share a table."""
        if not names:
            return {}
        ahead = SampledSoftmax(backbone.d_model, size)
        back = SampledSoftmax(backbone.d_model, size, table=ahead.table, reads="backward")
        return {"next_token": ahead, "previous_token": back}

    return Imported("elmo", config, size, heads, (), state, make)


def read_options(path: Path) -> BiLSTMConfig:
    """The network that an options.json describes.

    Raises:
        UserError: it is not there, damaged, or asks for what this backbone does not do.
    """
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
        lstm, cnn = tree["lstm"], tree["char_cnn"]
        config = BiLSTMConfig(
            num_layers=int(lstm["n_layers"]),
            d_model=int(lstm["projection_dim"]),
            d_cell=int(lstm["dim"]),
            cell_clip=_clip(lstm.get("cell_clip")),
            projection_clip=_clip(lstm.get("proj_clip")),
            skip=bool(lstm.get("use_skip_connections", False)),
            d_character=int(cnn["embedding"]["dim"]),
            filters=tuple((int(width), int(count)) for width, count in cnn["filters"]),
            num_highways=int(cnn.get("n_highway", 0)),
        )
        wide, activation = cnn["max_characters_per_token"], cnn.get("activation", "relu")
    except FileNotFoundError:
        raise UserError(f"{path} is not there: give the folder that holds it") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path} does not describe an ELMo ({error!r}): copy the model's folder again"
        ) from None
    if wide != 50 or activation != "relu":
        raise UserError(
            f"{path} has words of {wide} characters and {activation}; only 50 and relu can be read"
        )
    return config


def _clip(value: Any) -> float | None:
    return float(value) if value else None


def export_folder(
    model: PretrainedModel,
    config: BiLSTMConfig,
    vocab: Vocabulary,
    folder: Path,
    *,
    tokenizer: Path | None = None,
    labels: Sequence[str] = (),
) -> None:
    """Write options.json, weights.hdf5 and, where the words are known, vocabulary.txt in the order of the table.

    Raises:
        UserError: the model has heads that these files have no place for, or h5py is not installed.
    """
    if set(model.heads) - set(HEADS):
        raise UserError(
            f"ELMo's files have no place for the heads {sorted(set(model.heads) - set(HEADS))}: export the run it was "
            f"adapted from"
        )
    state = model.state()
    tree = {
        "lstm": {
            "use_skip_connections": config.skip,
            "projection_dim": config.d_model,
            "cell_clip": config.cell_clip,
            "proj_clip": config.projection_clip,
            "dim": config.d_cell,
            "n_layers": config.num_layers,
        },
        "char_cnn": {
            "activation": "relu",
            "filters": [list(f) for f in config.filters],
            "n_highway": config.num_highways,
            "embedding": {"dim": config.d_character},
            "n_characters": CHARACTERS + 1,
            "max_characters_per_token": 50,
        },
    }
    folder.mkdir(parents=True, exist_ok=True)
    with _open(folder / WEIGHTS, "w") as file:
        for place in places(config):
            if place.ours in state:
                file[place.theirs] = place.there(state[place.ours].cpu().float()).contiguous().numpy()
    (folder / OPTIONS).write_text(json.dumps(tree, indent=2) + "\n", encoding="utf-8")
    if vocab.pieces:
        (folder / "vocabulary.txt").write_text("\n".join(vocab.pieces) + "\n", encoding="utf-8")
    for name in ("tokenizer.json", "vocabulary.json"):
        if tokenizer is not None and (tokenizer / name).is_file():
            (folder / name).write_text((tokenizer / name).read_text(encoding="utf-8"), encoding="utf-8")


def _open(path: Path, mode: str) -> Any:
    try:
        import h5py  # type: ignore[import-untyped]
    except ImportError as error:
        raise UserError("ELMo's weights.hdf5 needs h5py: pip install 'plume-lm[elmo]'") from error
    try:
        return h5py.File(path, mode)
    except OSError as error:
        raise UserError(f"{path} cannot be opened as HDF5 ({error}): copy it again") from error


def tensors(state: Mapping[str, Tensor], config: BiLSTMConfig) -> dict[str, Tensor]:
    """What ``state`` holds, by the file's names and in its layout."""
    return {p.theirs: p.there(state[p.ours]) for p in places(config) if p.ours in state}
