"""Weights in torch's old pickled files (pytorch_model.bin), read without unpickling anything.

A pickle is a program. This file runs it on a machine of its own that knows tensors, dicts, lists and numbers, and
stops at anything else; nothing is imported, nothing is called. It does so as a program, in a process of its own,
which writes the tensors as safetensors: ``python -I pickled.py IN OUT``. No plume and no torch there.
"""

from __future__ import annotations

import json
import os
import pickletools
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

MAGIC = 0x1950A86A20F9469CFC6C  # how files of torch before 1.6 begin
# Storage classes: what safetensors calls them, and their bytes (bf16 is two bytes to numpy).
DTYPES = {
    "FloatStorage": ("F32", "<u4"), "HalfStorage": ("F16", "<u2"), "BFloat16Storage": ("BF16", "<u2"),
    "DoubleStorage": ("F64", "<u8"), "LongStorage": ("I64", "<u8"), "IntStorage": ("I32", "<u4"),
    "ShortStorage": ("I16", "<u2"), "CharStorage": ("I8", "<u1"), "ByteStorage": ("U8", "<u1"),
    "BoolStorage": ("BOOL", "<u1"),
}  # fmt: skip
REBUILDERS = ("torch._utils _rebuild_tensor_v2", "torch._utils _rebuild_tensor")
CONVERT = (
    "where you trust it, convert it once with transformers: "
    "AutoModel.from_pretrained(FOLDER).save_pretrained(NEW, safe_serialization=True), and import NEW"
)


def read_pickled(path: Path) -> dict[str, Tensor]:
    """The tensors of an old ``.bin`` file.

    Raises:
        UserError: it is damaged, or holds anything but tensors; nothing of it has run.
    """
    from plume.errors import UserError
    from plume.models.pretrained import read_weights

    with tempfile.TemporaryDirectory(prefix="plume-bin-") as folder:
        out = Path(folder) / "weights.safetensors"
        ran = subprocess.run(  # noqa: S603 # ourselves
            [sys.executable, "-I", __file__, str(path.resolve()), str(out)],
            capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL,
            env={"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "SYSTEMROOT": os.environ.get("SYSTEMROOT", "")},
        )  # fmt: skip
        if ran.returncode == 2:
            raise UserError(f"{path} {ran.stderr.strip()}")
        if ran.returncode:
            last = (ran.stderr.strip().splitlines() or [f"signal {-ran.returncode}"])[-1]
            raise UserError(f"{path} cannot be read ({last}): copy it again, or, {CONVERT}")
        return read_weights(out)


class Refused(Exception):
    """The file is not read; the message goes on after its name."""


@dataclass(frozen=True)
class Name:
    """A name that the pickle wants imported, "module attribute". It never is."""

    path: str


@dataclass(frozen=True)
class Storage:
    """Raw numbers somewhere in the file."""

    kind: str
    key: str
    size: int


@dataclass(frozen=True)
class Strided:
    """A tensor: a view of a storage."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]


_MARK = object()


def run(stream: IO[bytes]) -> Any:
    """What the next pickle of ``stream`` describes, built of dicts, lists, numbers and ``Strided``.

    Raises:
        Refused: it wants anything else.
    """
    machine = _Machine()
    try:
        for opcode, argument, _ in pickletools.genops(stream):
            if opcode.name == "STOP":
                return machine.stack.pop()
            machine.step(opcode.name, argument)
    except (ValueError, IndexError, KeyError, TypeError, AttributeError, EOFError, StopIteration) as error:
        raise Refused(f"is damaged ({error}): copy it again") from None
    raise Refused("ends in the middle of its contents: copy it again")


class _Machine:
    """A pickle's stack and memory, and the few operations that weights need."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.memory: dict[int, Any] = {}
        self.steps: dict[str, Callable[[Any], None]] = {
            "PROTO": self._nothing, "FRAME": self._nothing,
            "MARK": lambda _: self.stack.append(_MARK),
            "NONE": lambda _: self.stack.append(None),
            "NEWTRUE": lambda _: self.stack.append(True), "NEWFALSE": lambda _: self.stack.append(False),
            "EMPTY_DICT": lambda _: self.stack.append({}), "EMPTY_LIST": lambda _: self.stack.append([]),
            "EMPTY_TUPLE": lambda _: self.stack.append(()),
            "POP": lambda _: self.stack.pop(), "DUP": lambda _: self.stack.append(self.stack[-1]),
            "MEMOIZE": lambda _: self._put(len(self.memory)),
            "TUPLE": lambda _: self.stack.append(tuple(self._marked())),
            "LIST": lambda _: self.stack.append(list(self._marked())),
            "DICT": lambda _: self.stack.append(self._pairs(self._marked())),
            "TUPLE1": lambda _: self._tuple(1), "TUPLE2": lambda _: self._tuple(2), "TUPLE3": lambda _: self._tuple(3),
            "SETITEM": lambda _: self._set(self._last(2)), "SETITEMS": lambda _: self._set(self._marked()),
            "APPEND": lambda _: self._extend(self._last(1)), "APPENDS": lambda _: self._extend(self._marked()),
            "GLOBAL": lambda path: self.stack.append(_admitted(path)),
            "STACK_GLOBAL": lambda _: self.stack.append(_admitted(" ".join(map(str, self._last(2))))),
            "REDUCE": lambda _: self.stack.append(_made(*self._last(2))),
            "BUILD": lambda _: self._build(), "BINPERSID": lambda _: self.stack.append(_storage(self.stack.pop())),
        }  # fmt: skip

    def step(self, name: str, argument: Any) -> None:
        """One operation."""
        if name in self.steps:
            self.steps[name](argument)
        elif name in ("BINPUT", "LONG_BINPUT", "PUT"):
            self._put(int(argument))
        elif name in ("BINGET", "LONG_BINGET", "GET"):
            self.stack.append(self.memory[int(argument)])
        elif isinstance(argument, bool | int | float | str) and name not in (
            "INST",
            "PERSID",
            "EXT1",
            "EXT2",
            "EXT4",
        ):
            self.stack.append(argument)
        else:
            raise Refused(f"holds more than tensors (a pickle's {name}) and is not opened: {CONVERT}")

    def _nothing(self, argument: Any) -> None:
        pass

    def _put(self, place: int) -> None:
        self.memory[place] = self.stack[-1]

    def _last(self, count: int) -> list[Any]:
        found = self.stack[-count:]
        if len(found) < count:
            raise IndexError("an empty stack")
        del self.stack[-count:]
        return found

    def _marked(self) -> list[Any]:
        at = len(self.stack) - 1 - next(i for i, x in enumerate(reversed(self.stack)) if x is _MARK)
        found = self.stack[at + 1 :]
        del self.stack[at:]
        return found

    def _tuple(self, count: int) -> None:
        self.stack.append(tuple(self._last(count)))

    def _pairs(self, items: list[Any]) -> dict[Any, Any]:
        return dict(zip(items[::2], items[1::2], strict=True))

    def _set(self, items: list[Any]) -> None:
        if type(self.stack[-1]) is not dict:
            raise TypeError("items for something that is no dict")
        self.stack[-1].update(self._pairs(items))

    def _extend(self, items: list[Any]) -> None:
        if type(self.stack[-1]) is not list:
            raise TypeError("items for something that is no list")
        self.stack[-1].extend(items)

    def _build(self) -> None:
        self.stack.pop()  # a module's notes on its state_dict
        if not isinstance(self.stack[-1], dict):
            raise Refused(f"holds more than tensors (an object with a state) and is not opened: {CONVERT}")


def _admitted(path: str) -> Name:
    module, _, name = path.partition(" ")
    plain = path in (*REBUILDERS, "torch._utils _rebuild_parameter", "collections OrderedDict")
    if plain or (module == "torch" and name in DTYPES):
        return Name(path)
    raise Refused(f"would import {module}.{name} when it is opened, so it is not opened: {CONVERT}")


def _made(function: Any, arguments: Any) -> Any:
    """What calling an admitted name would give."""
    if isinstance(function, Name) and isinstance(arguments, tuple):
        if function.path == "collections OrderedDict" and len(arguments) <= 1:
            return dict(*arguments)
        if function.path == "torch._utils _rebuild_parameter" and isinstance(arguments[0], Strided):
            return arguments[0]
        if function.path in REBUILDERS and isinstance(arguments[0], Storage):
            storage, offset, shape, stride = arguments[:4]
            return _checked(Strided(storage, int(offset), tuple(map(int, shape)), tuple(map(int, stride))))
    raise Refused(f"would call {function!r:.60} when it is opened, so it is not opened: {CONVERT}")


def _checked(tensor: Strided) -> Strided:
    """No tensor reaches beyond its storage or is larger than it."""
    count = int(np.prod(tensor.shape, dtype=object)) if tensor.shape else 1
    if len(tensor.shape) != len(tensor.stride) or min((0, tensor.offset, *tensor.shape, *tensor.stride)) < 0:
        raise ValueError("a tensor of no possible shape")
    last = tensor.offset + sum((n - 1) * s for n, s in zip(tensor.shape, tensor.stride, strict=True))
    if count and (last >= tensor.storage.size or count > tensor.storage.size):
        raise ValueError("a tensor larger than what is stored of it")
    return tensor


def _storage(told: Any) -> Storage:
    word, kind, key, _, size = told[:5]
    if word != "storage" or not isinstance(kind, Name) or kind.path.partition(" ")[2] not in DTYPES:
        raise ValueError("a reference to something that is no storage")
    if len(told) > 5 and told[5] is not None:
        raise Refused(f"holds views of an old kind and is not opened: {CONVERT}")
    return Storage(kind.path.partition(" ")[2], str(key), int(size))


def tensors(path: Path) -> Iterator[tuple[str, str, np.ndarray[Any, Any]]]:
    """(name, safetensors' dtype, numbers) of a file of torch, new (a zip) or old.

    Raises:
        Refused: it is neither, is damaged, or holds more than tensors.
    """
    with path.open("rb") as file:
        zipped = file.read(4) == b"PK\x03\x04"
    read, tree = _zipped(path) if zipped else _old(path)
    for name in ("state_dict", "model"):  # a training framework's wrapping
        if isinstance(tree, dict) and isinstance(tree.get(name), dict):
            tree = tree[name]
    found = {n: t for n, t in tree.items() if isinstance(t, Strided)} if isinstance(tree, dict) else {}
    if not found:
        raise Refused(f"holds no tensors by name: {CONVERT}")
    for name, tensor in found.items():
        dtype, bytes_of = DTYPES[tensor.storage.kind]
        raw = np.frombuffer(read(tensor.storage), np.dtype(bytes_of))
        if len(raw) < tensor.storage.size:
            raise Refused(f"has fewer numbers of {name} than it promises: copy it again")
        step = raw.itemsize
        view = np.lib.stride_tricks.as_strided(
            raw[tensor.offset :], tensor.shape, [s * step for s in tensor.stride], writeable=False
        )
        yield str(name), dtype, np.ascontiguousarray(view).reshape(tensor.shape)


Read = Callable[[Storage], bytes]


def _zipped(path: Path) -> tuple[Read, Any]:
    try:
        archive = zipfile.ZipFile(path)
        entries = {entry.filename: entry for entry in archive.infolist()}
        top = next(name for name in entries if name.endswith("/data.pkl")).removesuffix("data.pkl")
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries.values()):
            raise Refused(f"is compressed, which torch never does, so it is not opened: {CONVERT}")
        if f"{top}byteorder" in entries and archive.read(f"{top}byteorder") != b"little":
            raise Refused(f"was written by a machine with another order of bytes: {CONVERT}")
        with archive.open(f"{top}data.pkl") as stream:
            tree = run(stream)
    except (zipfile.BadZipFile, StopIteration, OSError, EOFError) as error:
        raise Refused(
            f"is damaged or no file of torch ({str(error) or 'no data.pkl'}): copy it again"
        ) from None

    def read(storage: Storage) -> bytes:
        try:
            return archive.read(f"{top}data/{storage.key}")
        except (KeyError, zipfile.BadZipFile, EOFError) as error:
            raise Refused(f"is damaged ({error}): copy it again") from None

    return read, tree


def _old(path: Path) -> tuple[Read, Any]:
    """Five pickles (magic, version, machine, contents, keys), then the storages one after the other."""
    file = path.open("rb")
    if run(file) != MAGIC:
        raise Refused(f"is no file of torch: {CONVERT}")
    run(file), run(file)
    tree, keys = run(file), run(file)
    places: dict[str, int] = {}
    sizes = {s.key: s for s in _storages(tree)}
    for key in keys:
        if str(key) not in sizes:
            raise Refused(f"keeps numbers that no tensor has: {CONVERT}")
        (count,) = np.frombuffer(_exactly(file, 8), "<i8").tolist()
        if count != sizes[str(key)].size:
            raise Refused("has another number of numbers than it promises: copy it again")
        places[str(key)] = file.tell()
        file.seek(count * np.dtype(DTYPES[sizes[str(key)].kind][1]).itemsize, os.SEEK_CUR)

    def read(storage: Storage) -> bytes:
        if storage.key not in places:
            raise Refused("is damaged (a storage is missing): copy it again")
        file.seek(places[storage.key])
        return _exactly(file, storage.size * np.dtype(DTYPES[storage.kind][1]).itemsize)

    return read, tree


def _exactly(file: IO[bytes], size: int) -> bytes:
    data = file.read(size)
    if len(data) < size:
        raise Refused("ends in the middle of its contents: copy it again")
    return data


def _storages(tree: Any) -> Iterator[Storage]:
    if isinstance(tree, Strided):
        yield tree.storage
    elif isinstance(tree, dict | list | tuple):
        for part in tree.values() if isinstance(tree, dict) else tree:
            yield from _storages(part)


def main(source: str, out: str) -> None:
    """Write the tensors of ``source`` as the safetensors file ``out``."""
    header: dict[str, Any] = {}
    most = 4 * os.path.getsize(
        source
    )  # tied tables are written twice; a thousand names for one table are an attack
    with open(f"{out}.data", "wb") as data:
        for name, dtype, numbers in tensors(Path(source)):
            start = data.tell()
            if start + numbers.nbytes > most:
                raise Refused(f"describes more numbers than it holds, so it is not opened: {CONVERT}")
            data.write(numbers.tobytes())
            header[name] = {
                "dtype": dtype,
                "shape": list(numbers.shape),
                "data_offsets": [start, data.tell()],
            }
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(out, "wb") as file, open(f"{out}.data", "rb") as data:
        file.write(len(text).to_bytes(8, "little") + text)
        while part := data.read(1 << 24):
            file.write(part)


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except Refused as refused:
        print(refused, file=sys.stderr)
        sys.exit(2)
