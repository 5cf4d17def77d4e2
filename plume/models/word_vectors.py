"""Words and their vectors: neighbours, analogies, and the files that word2vec.c and gensim exchange (spec 02 E.5)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
from numpy.typing import NDArray

from plume.errors import UserError

Floats = NDArray[np.float32]
_LONGEST = 10_000  # bytes of a word, beyond which a file is not what it says


@dataclass(frozen=True)
class WordVectors:
    """``table`` float32 [V, D], a row a word; the commonest words first, as far as that is known."""

    words: tuple[str, ...]
    table: Floats

    @cached_property
    def index(self) -> dict[str, int]:
        """Word -> row; of a word that is there twice the first."""
        found: dict[str, int] = {}
        for row, word in enumerate(self.words):
            found.setdefault(word, row)
        return found

    @cached_property
    def unit(self) -> Floats:
        """The rows at length 1; a row of zeros stays one."""
        length = np.linalg.norm(self.table, axis=1, keepdims=True)
        found: Floats = (self.table / np.where(length > 0, length, 1)).astype(np.float32)
        return found

    def vector(self, word: str) -> Floats:
        """The vector of ``word`` [D].

        Raises:
            UserError: it has none.
        """
        found: Floats = self.table[self._row(word)]
        return found

    def similarity(self, a: str, b: str) -> float:
        """The cosine of two words."""
        return float(self.unit[self._row(a)] @ self.unit[self._row(b)])

    def nearest(self, word: str, top: int = 10) -> list[tuple[str, float]]:
        """The words nearest to ``word`` by cosine, and how near; ties in the order of the words."""
        row = self._row(word)
        return self._best(self.unit[row], top, {row})

    def analogy(self, a: str, b: str, c: str, top: int = 10) -> list[tuple[str, float]]:
        """What is to ``c`` as ``b`` is to ``a``: the words nearest to b - a + c, the three left out (3CosAdd)."""
        i, j, k = (self._row(word) for word in (a, b, c))
        wanted = self.unit[j] - self.unit[i] + self.unit[k]
        length = float(np.linalg.norm(wanted))
        return self._best(wanted / length if length else wanted, top, {i, j, k})

    def _best(self, wanted: Floats, top: int, apart: set[int]) -> list[tuple[str, float]]:
        scores = self.unit @ wanted
        scores[list(apart)] = -np.inf
        size = min(max(0, top), len(self.words) - len(apart))
        if size == 0:
            return []
        rough = np.flatnonzero(scores >= np.partition(scores, -size)[-size])
        order = rough[np.argsort(-scores[rough], kind="stable")][:size]
        return [(self.words[row], float(scores[row])) for row in order.tolist()]

    def row(self, word: str) -> int | None:
        """The row of ``word`` as it stands, else in small letters; None: it has no vector."""
        return self.index.get(word, self.index.get(word.lower()))

    def _row(self, word: str) -> int:
        if (row := self.row(word)) is None:
            near = get_close_matches(word, self.words[:50_000], n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise UserError(f"{word!r} is none of the {len(self.words):,} words that have a vector{hint}")
        return row

    # --- files ---------------------------------------------------------------------------------------------

    def save_text(self, path: Path) -> None:
        """``V D``, then a line a word: the word and its numbers, written so that they come back the same."""
        with path.open("w", encoding="utf-8", newline="\n") as file:
            file.write(f"{len(self.words)} {self.table.shape[1]}\n")
            for word, row in zip(self.words, self.table, strict=True):
                file.write(f"{word} {' '.join(row.astype(str).tolist())}\n")

    def save_binary(self, path: Path) -> None:
        """``V D``, then a word, a blank, D little-endian float32 and a newline for each."""
        with path.open("wb") as file:
            file.write(f"{len(self.words)} {self.table.shape[1]}\n".encode())
            for word, row in zip(self.words, self.table.astype("<f4"), strict=True):
                file.write(word.encode() + b" " + row.tobytes() + b"\n")

    @staticmethod
    def read(path: Path, *, errors: str = "strict") -> WordVectors:
        """A text or binary file of word2vec.c, gensim or fastText, or GloVe's text without a first line.

        ``errors``: what becomes of words that are no UTF-8 ("strict", "ignore", "replace").

        Raises:
            UserError: the file is none of these, or ends too early; the sentence says where.
        """
        try:
            with path.open("rb") as file:
                first = file.readline(1_000_000)
                parts = first.split()
                if len(parts) == 2 and all(part.isdigit() for part in parts):
                    size, width = map(int, parts)
                    if not size or not width:
                        raise UserError(
                            f"{path} says that it holds {size} words of {width} numbers: there is nothing"
                        )
                    here = file.tell()
                    sample = file.readline(100_000)
                    file.seek(here)
                    if _is_text(sample, width):
                        return _collect(path, _lines(path, file, width, 2), width, size, errors)
                    left = path.stat().st_size - here
                    if left < size * (4 * width + 2):
                        raise UserError(
                            f"{path} says that it holds {size:,} words of {width} numbers, but is too short for that "
                            f"({left:,} bytes): copy it again"
                        )
                    return _collect(path, _records(path, file, width, size), width, size, errors)
                width = len(parts) - 1
                if width < 1 or not _is_text(first, width):
                    raise UserError(
                        f"{path} is no file of word vectors: its first line is neither two numbers nor a word with its "
                        f"vector"
                    )
                file.seek(0)
                return _collect(path, _lines(path, file, width, 1), width, None, errors)
        except OSError as error:
            raise UserError(
                f"{path} cannot be read ({error.strerror}): name a file of word vectors"
            ) from None


def _is_text(line: bytes, width: int) -> bool:
    parts = line.rstrip(b" \r\n").split(b" ")
    try:
        return len(parts) == width + 1 and all(np.isfinite(float(part)) for part in parts[1:])
    except ValueError:
        return False


def _lines(path: Path, file: BinaryIO, width: int, number: int) -> Iterator[tuple[bytes, Floats]]:
    # Words may hold blanks of other kinds than the ASCII one, so nothing else separates.
    for at, line in enumerate(file, number):
        parts = line.rstrip(b" \r\n").split(b" ")
        if parts == [b""]:
            continue
        try:
            row = np.array(parts[1:], np.float32)
        except ValueError:
            row = np.zeros(0, np.float32)
        if len(row) != width:
            raise UserError(
                f"{path}, line {at}: expected a word and {width} numbers; cut the line out, or copy again"
            )
        yield parts[0], row


def _records(path: Path, file: BinaryIO, width: int, size: int) -> Iterator[tuple[bytes, Floats]]:
    data = memoryview(cast(Any, np.memmap(path, np.uint8, "r", offset=file.tell()))).cast("B")
    at = 0
    for number in range(size):
        while at < len(data) and data[at] in b"\n\r":
            at += 1
        blank = bytes(data[at : at + _LONGEST]).find(b" ")
        end = at + blank + 1 + 4 * width
        if blank < 0 or end > len(data):
            raise UserError(
                f"{path} ends or breaks off at word {number + 1:,} of {size:,}: copy it again, or mend its first line"
            )
        yield (
            bytes(data[at : at + blank]),
            np.frombuffer(data[at + blank + 1 : end], "<f4").astype(np.float32),
        )
        at = end


def _collect(
    path: Path, records: Iterator[tuple[bytes, Floats]], width: int, size: int | None, errors: str
) -> WordVectors:
    words: list[str] = []
    rows: list[Floats] = []
    for raw, row in records:
        try:
            words.append(raw.decode("utf-8", errors))
        except UnicodeDecodeError:
            raise UserError(
                f"{path}: word {len(words) + 1:,} ({raw[:30]!r}) is no UTF-8; convert the file"
            ) from None
        if not np.isfinite(row).all():
            raise UserError(f"{path}: the vector of word {len(words):,} ({words[-1][:30]!r}) is not finite")
        rows.append(row)
    if size is not None and size != len(words):
        raise UserError(
            f"{path} says that it holds {size:,} words, but {len(words):,} are there: copy it again"
        )
    return WordVectors(tuple(words), np.stack(rows))


def of_rows(names: Sequence[str], table: Floats, keep: NDArray[np.bool_]) -> WordVectors:
    """The vectors of a model's tokens, those that are no words left out."""
    rows = np.flatnonzero(keep)
    return WordVectors(
        tuple(names[row] for row in rows.tolist()), np.ascontiguousarray(table[rows], np.float32)
    )
