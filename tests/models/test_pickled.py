"""Old pickled weights are read without unpickling: what torch wrote comes back, what would run is refused."""

from __future__ import annotations

import io
import struct
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from plume.errors import UserError
from plume.models.interop.folder import read_folder_weights
from plume.models.interop.pickled import read_pickled


def weights() -> dict[str, Tensor]:
    table = torch.randn(6, 4)
    return {
        "table": table, "tied": table, "half": torch.randn(3).half(), "brain": torch.randn(2, 2).bfloat16(),
        "double": torch.randn(2).double(), "ids": torch.arange(5)[None], "mask": torch.tensor([True, False]),
        "turned": torch.randn(3, 5).T, "part": torch.randn(9)[2:6], "scalar": torch.tensor(2.5),
        "none": torch.empty(0, 3),
    }  # fmt: skip


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "before 1.6"])
@pytest.mark.parametrize("wrapped", [False, True])
def test_what_torch_wrote_comes_back_to_the_bit(zipped: bool, wrapped: bool, tmp_path: Path) -> None:
    state: Any = weights()
    if wrapped:
        module = nn.Linear(3, 2)
        state |= module.state_dict()
    torch.save(
        {"state_dict": OrderedDict(state), "epoch": 3} if wrapped else state, tmp_path / "a.bin",
        _use_new_zipfile_serialization=zipped,
    )  # fmt: skip
    found = read_pickled(tmp_path / "a.bin")
    assert found.keys() == state.keys()
    for name, tensor in state.items():
        assert found[name].dtype == tensor.dtype and torch.equal(found[name], tensor), name


def test_a_folder_with_old_weights_alone_is_read(tmp_path: Path) -> None:
    torch.save({"a": nn.Parameter(torch.ones(2))}, tmp_path / "pytorch_model.bin")
    assert read_folder_weights(tmp_path)["a"].tolist() == [1, 1]


def evil(pickle: bytes) -> bytes:
    """A file of torch with this pickle in it."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("archive/data.pkl", pickle)
        archive.writestr("archive/data/0", bytes(16))
    return stream.getvalue()


def tensor_of(size: int, shape: int, stride: int = 1, offset: int = 0) -> bytes:
    """A pickle of {"a": tensor} that promises so much."""

    def number(n: int) -> bytes:
        return b"J" + struct.pack("<i", n)

    storage = b"(U\x07storagectorch\nFloatStorage\nU\x010U\x03cpu" + number(size) + b"tQ"
    return (
        b"}U\x01actorch._utils\n_rebuild_tensor_v2\n(" + storage + number(offset) + number(shape) + b"\x85"
        + number(stride) + b"\x85\x89ccollections\nOrderedDict\n)RtRs."
    )  # fmt: skip


HOSTILE = {
    "system": b"cposix\nsystem\n(S'touch owned'\ntR.",
    "builtins": b"\x80\x04\x8c\x08builtins\x8c\x04eval\x93\x8c\x011\x85R.",
    "torch itself": b"ctorch\nload\n(S'x'\ntR.",
    "a module of torch": b"ctorch.nn.modules.linear\nLinear\n)\x81.",
    "an old class": b"(S'x'\niposix\nsystem\n.",
    "an extension": b"\x82\x01.",
    "a call of what is no name": b"U\x01a)R.",
    "a state for an object": b"U\x01a}b.",
    "beyond its storage": tensor_of(4, 5),
    "before its storage": tensor_of(4, 2, offset=-1),
    "backwards": tensor_of(4, 2, stride=-1),
    "a thousand times its storage": tensor_of(4, 4000, stride=0),
    "more than the file has": tensor_of(400, 400),
    "no tensors": b"}.",
    "no names": b"].",
    "a list in itself": b"]q\x00h\x00a.",
}


def test_an_honest_file_of_that_form_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.bin").write_bytes(evil(tensor_of(4, 2, stride=2, offset=1)))
    assert read_pickled(tmp_path / "a.bin")["a"].tolist() == [0, 0]


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_runs_nothing_and_is_refused_in_one_sentence(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "pytorch_model.bin"
    path.write_bytes(evil(HOSTILE[name]))
    with pytest.raises(UserError) as error:
        read_folder_weights(tmp_path)
    said = str(error.value)
    assert said.startswith(str(path)) and "\n" not in said
    assert "safe_serialization=True" in said or "copy it again" in said
    assert sorted(p.name for p in tmp_path.iterdir()) == [path.name], "nothing has run"


def test_the_old_form_is_no_back_door(tmp_path: Path) -> None:
    magic = b"\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
    for pickle in (b"cposix\nsystem\n(S'touch owned'\ntR.", magic + b"M\xe9\x03.}." + HOSTILE["system"]):
        (tmp_path / "a.bin").write_bytes(pickle)
        with pytest.raises(UserError, match=r"would import posix\.system"):
            read_pickled(tmp_path / "a.bin")


@pytest.mark.parametrize("zipped", [True, False])
def test_a_truncated_file_is_refused_wherever_it_ends(zipped: bool, tmp_path: Path) -> None:
    torch.save(weights(), tmp_path / "whole.bin", _use_new_zipfile_serialization=zipped)
    whole = (tmp_path / "whole.bin").read_bytes()
    for share in (0.0, 0.3, 0.95):
        (tmp_path / "a.bin").write_bytes(whole[: int(len(whole) * share)])
        with pytest.raises(UserError, match="copy it again|no file of torch"):
            read_pickled(tmp_path / "a.bin")


def test_a_compressed_file_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.bin", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", tensor_of(4, 4))
        archive.writestr("archive/data/0", bytes(1 << 20))
    with pytest.raises(UserError, match="compressed"):
        read_pickled(tmp_path / "a.bin")
