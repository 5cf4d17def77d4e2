"""Files as lines of bytes: found, unpacked, joined by nobody's memory.

Everything here is bounded: a gigabyte in one line, or a megabyte that unpacks to a gigabyte, costs a few
megabytes of memory and one rejected line.
"""

from __future__ import annotations

import codecs
import gzip
import os
import shlex
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from plume.errors import UserError

FORMATS = {
    ".txt": "text", ".text": "text", ".md": "text", ".rst": "text",
    ".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "json",
    ".csv": "csv", ".tsv": "tsv", ".parquet": "parquet",
}  # fmt: skip
PACKED = (".gz", ".zst")
RUN = ".plume.lock"  # lies in every run's folder from its first moment on
LINE_LIMIT = 16 * 2**20  # bytes of one line, or of one document of plain text

_CHUNK = 2**20
# A folder that holds one of these holds a run, a tokenizer or a model: its JSON and its card are no text to learn from.
_MODELS = frozenset({RUN, "vocabulary.json", "model.safetensors", "pytorch_model.bin"})
_MAGIC = (
    (b"%PDF-", "a PDF document"), (b"\x89PNG", "a PNG picture"), (b"\xff\xd8\xff", "a JPEG picture"),
    (b"GIF8", "a GIF picture"), (b"PK\x03\x04", "a zip archive (or a .docx, .xlsx, .epub)"),
    (b"\x7fELF", "a program"), (b"\x1f\x8b", "gzip data"), (b"\x28\xb5\x2f\xfd", "zstandard data"),
    (b"BZh", "bzip2 data"), (b"\xfd7zXZ\x00", "xz data"), (b"Rar!", "a rar archive"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive"), (b"PAR1", "a parquet table"), (b"SQLite format 3", "a SQLite database"),
    (b"\xd0\xcf\x11\xe0", "an old Office document"), (b"\x93NUMPY", "a numpy array"),
)  # fmt: skip
_BOMS = (
    (codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF32_LE, "utf-32"), (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"),
)  # fmt: skip
_CONTROLS = bytes(c for c in range(32) if c not in b"\t\n\r\x0b\x0c\x1b\x1c\x1d\x1e\x1f")


@dataclass(frozen=True)
class SourceFile:
    """One file to read. ``name`` is its path inside the folder that was given: documents are named by it."""

    path: Path
    name: str
    format: str  # a value of FORMATS
    packed: str  # "", ".gz" or ".zst"


class Line(NamedTuple):
    """A line without its end. ``data`` is None where it was longer than the limit: ``size`` says how long."""

    number: int  # from 1
    offset: int  # of its first byte in the unpacked file
    data: bytes | None
    size: int


class Found(NamedTuple):
    """What lies under some paths: what is read, and what is passed over, the files of other endings and the folders
    of models.
    """

    sources: list[SourceFile]
    others: list[Path]
    models: list[Path]

    @property
    def passed_over(self) -> list[str]:
        """A sentence about each kind of what is not read.

        >>> Found([], [Path("a/notes.docx"), Path("a/scan.pdf")], [Path("a/run")]).passed_over
        ['passed over 2 files whose endings are none of a text: a/notes.docx, a/scan.pdf', 'passed over 1 folder of \
a run or a model: a/run']
        """
        told = []
        if n := len(self.others):
            count = "1 file whose ending is" if n == 1 else f"{n:,} files whose endings are"
            told.append(f"passed over {count} none of a text: {_some(self.others)}")
        if n := len(self.models):
            count = "1 folder of a run or a model" if n == 1 else f"{n:,} folders of runs or models"
            told.append(f"passed over {count}: {_some(self.models)}")
        return told


def _some(paths: Sequence[Path], most: int = 3) -> str:
    rest = f" and {len(paths) - most} more" if len(paths) > most else ""
    return ", ".join(map(str, paths[:most])) + rest


def find(paths: Path | str | Sequence[Path | str]) -> list[SourceFile]:
    """The files to read under ``paths``: see ``look``."""
    return look(paths).sources


def look(paths: Path | str | Sequence[Path | str]) -> Found:
    """The files under ``paths``, folders in the order of their names; hidden files are left out, and so are folders
    inside that hold a run, a tokenizer or a model: ``--data . --out run`` reads the texts alone, each time.

    A file named outright that has another ending is read as plain text; inside a folder it is passed over.

    Raises:
        UserError: a path does not exist, is a run's own folder, or there is no file to read.
    """
    roots = [Path(p) for p in ([paths] if isinstance(paths, (str, Path)) else paths)]
    found: list[SourceFile] = []
    others: list[Path] = []
    models: list[Path] = []
    for root in roots:
        if (root / RUN).exists():
            raise UserError(
                f"{root} is a run's own folder: keep the text and the run in folders of their own, and name them apart"
            )
        if root.is_dir():
            inside, made = _inside(root)
            models += made
            for path in inside:
                if source := _source(root / path, path.as_posix()):
                    found.append(source)
                else:
                    others.append(root / path)
        elif root.is_file():
            found.append(_source(root, root.name) or SourceFile(root, root.name, "text", ""))
        else:
            raise UserError(f"{root} does not exist: give a file, or a folder with files, of text")
    if not found:
        where = ", ".join(str(r) for r in roots) or "an empty list of paths"
        endings = ", ".join(sorted({path.suffix or "no ending" for path in others}))
        seen = f" (there are files ending in {endings})" if others else " (it is empty)"
        kinds = " ".join(FORMATS)
        raise UserError(
            f"{where} holds no text to read{seen}: put files there that end in {kinds}, plain or .gz or .zst"
        )
    names = Counter(source.name for source in found)
    return Found(
        [s if names[s.name] == 1 else replace(s, name=s.path.as_posix()) for s in found],
        others,
        models,
    )


def _inside(root: Path) -> tuple[list[Path], list[Path]]:
    """The files under ``root`` in the order of their names, relative to it, and the folders of models."""
    files: list[Path] = []
    models: list[Path] = []
    for name, folders, names in os.walk(root):
        folder = Path(name)
        if folder != root and not _MODELS.isdisjoint(names):
            models.append(folder)
            folders.clear()
            continue
        folders[:] = [f for f in folders if not f.startswith(".")]
        files += [(folder / n).relative_to(root) for n in names if not n.startswith(".")]
    files = [f for f in files if (root / f).is_file()]
    return sorted(files, key=Path.as_posix), sorted(models)


def _source(path: Path, name: str) -> SourceFile | None:
    suffixes = [s.lower() for s in path.suffixes]
    packed = suffixes.pop() if suffixes and suffixes[-1] in PACKED else ""
    if suffixes and suffixes[-1] in FORMATS:
        return SourceFile(path, name, FORMATS[suffixes[-1]], packed)
    return SourceFile(path, name, "text", packed) if packed else None


def chunks(source: SourceFile) -> Iterator[bytes]:
    """The unpacked bytes of a file in pieces of about a megabyte, as UTF-8 where a byte order mark says so.

    Raises:
        UserError: it cannot be opened, is cut off or damaged.
    """
    raw = _unpacked(source)
    first = next(raw, b"")
    mark, encoding = next(((m, e) for m, e in _BOMS if first.startswith(m)), (b"", ""))
    if not mark:
        yield first
        yield from raw
        return
    if encoding == "utf-8":
        yield first[len(mark) :]
        yield from raw
        return
    decoder = codecs.getincrementaldecoder(encoding)(errors="replace")
    yield decoder.decode(first).encode("utf-8", "replace")
    for piece in raw:
        yield decoder.decode(piece).encode("utf-8", "replace")
    yield decoder.decode(b"", True).encode("utf-8", "replace")


def _unpacked(source: SourceFile) -> Iterator[bytes]:
    damaged = f"{source.path} is cut off or damaged ({{}}): fetch or pack it again, or take it away"
    try:
        if source.packed == ".gz":
            with gzip.open(source.path) as file:
                while data := file.read(_CHUNK):
                    yield data
        elif source.packed == ".zst":
            yield from _zstandard(source.path, damaged)
        else:
            with open(source.path, "rb") as file:
                while data := file.read(_CHUNK):
                    yield data
    except EOFError:
        raise UserError(damaged.format("its gzip data ends too early")) from None
    except (zlib.error, gzip.BadGzipFile) as error:
        raise UserError(damaged.format(error)) from None
    except OSError as error:
        raise UserError(f"{source.path} cannot be read: {error.strerror or error}") from None


def _zstandard(path: Path, damaged: str) -> Iterator[bytes]:
    try:
        import zstandard
    except ImportError:
        raise UserError(
            f"{path} is packed with zstandard: pip install zstandard, or unpack it first"
        ) from None
    # Small bites: 1 kB can unpack to 32 MB at the very most, and only so is a cut off file noticed.
    held: list[bytes] = []
    size = 0
    frame = None
    with open(path, "rb") as file:
        while block := file.read(_CHUNK // 4):
            for at in range(0, len(block), 1024):
                bite = block[at : at + 1024]
                while bite:
                    if frame is None:
                        frame = zstandard.ZstdDecompressor(max_window_size=2**31).decompressobj()
                    try:
                        data = frame.decompress(bite)
                    except zstandard.ZstdError as error:
                        raise UserError(damaged.format(error)) from None
                    bite = b""
                    if frame.eof:
                        bite, frame = frame.unused_data, None
                    held.append(data)
                    size += len(data)
                    if size >= _CHUNK // 2:
                        yield b"".join(held)
                        held, size = [], 0
    if held:
        yield b"".join(held)
    if frame is not None:
        raise UserError(damaged.format("its zstandard data ends too early"))


def lines(source: SourceFile, *, limit: int = LINE_LIMIT, pieces: bool = False) -> Iterator[Line]:
    """The lines of a file. A line over ``limit`` bytes comes without data, or cut up where ``pieces``."""
    return lines_of(chunks(source), limit=limit, pieces=pieces)


def lines_of(
    stream: Iterable[bytes],
    *,
    limit: int = LINE_LIMIT,
    pieces: bool = False,
    number: int = 1,
    offset: int = 0,
) -> Iterator[Line]:
    """The same of a stream of bytes that begins with line ``number`` and lies ``offset`` bytes inside its file."""
    rest = b""
    dropped = 0  # bytes of a line that is being passed over
    for chunk in stream:
        parts = (rest + chunk).split(b"\n") if rest else chunk.split(b"\n")
        rest = parts.pop()
        for data in parts:
            if dropped:
                yield Line(number, offset, None, dropped + len(data))
                offset += dropped + len(data) + 1
                dropped = 0
            elif len(data) > limit and not pieces:
                yield Line(number, offset, None, len(data))
                offset += len(data) + 1
            else:
                yield Line(number, offset, data[:-1] if data.endswith(b"\r") else data, len(data))
                offset += len(data) + 1
            number += 1
        if dropped or (len(rest) > limit and not pieces):
            dropped += len(rest)
            rest = b""
        elif len(rest) > limit:
            end = _character_end(rest)
            yield Line(number, offset, rest[:end], end)
            offset, rest = offset + end, rest[end:]
    if dropped:
        yield Line(number, offset, None, dropped + len(rest))
    elif rest:
        yield Line(number, offset, rest[:-1] if rest.endswith(b"\r") else rest, len(rest))


def _character_end(data: bytes) -> int:
    """A place near the end that cuts no word, at least no character, in two."""
    blank = data.rfind(b" ", len(data) - 4096)
    if blank > 0:
        return blank
    end = len(data)
    while end > len(data) - 4 and data[end - 1] & 0xC0 == 0x80:
        end -= 1
    return end - 1


def inspect(source: SourceFile) -> None:
    """Look at a file's first bytes before hours of work depend on it.

    Raises:
        UserError: it is no text, or text in another encoding than UTF-8 (UTF-16 and 32 with a mark are known).
    """
    if source.format == "parquet":
        return
    stream = chunks(source)
    head = next(stream, b"")[: 2**16]
    more = len(head) == 2**16 or next(stream, b"") != b""
    for magic, what in _MAGIC:
        if head.startswith(magic):
            raise UserError(f"{source.path} is {what}, not text: convert it to text first, or take it away")
    # NULs that stand alone are dropped later; many control bytes are no text at all.
    strange = len(head) - len(head.translate(None, _CONTROLS))
    if strange > max(4, len(head) // 20):
        raise UserError(
            f"{source.path} is not text: {strange} of its first {len(head)} bytes are control bytes. Convert it to "
            f"UTF-8 text first (UTF-16 needs its byte order mark), or take it away"
        )
    bad = list(_undecodable(head, whole=not more))
    if bad and len(bad) * 10 > head.count(b"\n") + 1:
        guess = next(
            (e for e in ("gb18030", "big5", "latin-1") if _decodes(head, e, whole=not more)), "latin-1"
        )
        raise UserError(
            f"{source.path} is not UTF-8: byte 0x{head[bad[0]]:02x} at offset {bad[0]}. If it is {guess}, convert it "
            f"{_converting(source, guess.upper())}"
        )


def _converting(source: SourceFile, encoding: str) -> str:
    """How to make UTF-8 of a file, as a line to copy."""
    command = f"iconv -f {encoding} -t UTF-8"
    if source.packed:
        return f"and pack it again: unpack it, then {command}"
    path = source.path
    old, new = (shlex.quote(str(p)) for p in (path, path.with_name(f"{path.stem}.utf8{path.suffix}")))
    return f"with: {command} {old} > {new}  (then take the old one away)"


def _undecodable(head: bytes, *, whole: bool) -> Iterator[int]:
    """The first bad byte of every line that is not UTF-8."""
    offset = 0
    parts = head.split(b"\n")
    for number, line in enumerate(parts):
        try:
            last = number == len(parts) - 1
            codecs.getincrementaldecoder("utf-8")().decode(line, final=whole or not last)
        except UnicodeDecodeError as error:
            yield offset + error.start
        offset += len(line) + 1


def _decodes(head: bytes, encoding: str, *, whole: bool) -> bool:
    try:
        codecs.getincrementaldecoder(encoding)().decode(head, final=whole)
    except UnicodeDecodeError:
        return False
    return True
