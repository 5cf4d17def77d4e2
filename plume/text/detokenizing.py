"""From ids back to text, one id at a time: what streams is what is read later, byte for byte.

``Tokenizer.decode`` is a detokenizer that was fed everything, so the two cannot differ.
"""

from __future__ import annotations

import codecs
import re
import unicodedata
from collections.abc import Callable, Collection, Sequence
from typing import Protocol

from plume.text.boundaries import IDEOGRAPH, character_classes

_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>$")


class Detokenizer(Protocol):
    """``push`` gives the text that is certain by now, ``finish`` what was held back."""

    def push(self, id: int) -> str: ...

    def finish(self) -> str: ...


class BytePieces:
    """Tokens that are bytes; halves of a character are held back until the other half comes."""

    def __init__(
        self, pieces: Sequence[bytes], silent: Collection[int], *, strip_first: bool = False
    ) -> None:
        self._pieces, self._silent = pieces, silent
        self._strip = strip_first
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def push(self, id: int) -> str:
        if id in self._silent or not 0 <= id < len(self._pieces):
            return ""
        piece = self._pieces[id]
        if self._strip and piece:
            self._strip = False
            piece = piece.removeprefix(b" ")
        return self._decoder.decode(piece)

    def finish(self) -> str:
        return self._decoder.decode(b"", True)


class WordPieces:
    """WordPiece: continuations are joined, and blanks put where a person would put them.

    Whether a blank stands between two pieces depends on these two alone, so the text only ever grows.
    """

    def __init__(self, pieces: Sequence[str], silent: Collection[int], prefix: str = "##") -> None:
        self._pieces, self._silent, self._prefix = pieces, silent, prefix
        self._last = ""
        self._before = ""

    def push(self, id: int) -> str:
        if id in self._silent or not 0 <= id < len(self._pieces):
            return ""
        piece = self._pieces[id]
        if piece.startswith(self._prefix) and len(piece) > len(self._prefix):
            piece = piece[len(self._prefix) :]
            glue = ""
        else:
            glue = " " if self._last and not self._close(piece) else ""
            self._before = self._last
        self._last = piece
        return glue + piece

    def _close(self, piece: str) -> bool:
        """Whether ``piece`` stands right after the last one."""
        if (
            piece[0] in ".,!?;:)]}%"
            or self._last in ("(", "[", "{")
            or _wide(self._last[-1])
            or _wide(piece[0])
        ):
            return True
        if piece in ("'", "’", "-", "/"):
            return self._last[-1].isalnum()
        if self._last in ("'", "’", "-", "/"):  # don't, 3-4
            return self._before[-1:].isalnum() and piece[0].isalnum()
        return self._last in (".", ",", ":") and self._before[-1:].isdigit() and piece[0].isdigit()  # 3.14

    def finish(self) -> str:
        return ""


def _wide(character: str) -> bool:
    return (
        bool(character_classes()[ord(character)] == IDEOGRAPH)
        or unicodedata.east_asian_width(character) in "WF"
    )


class ByLibrary:
    """Any other tokenizer: the library decodes all ids again, and what is new is what came."""

    def __init__(self, decode: Callable[[list[int]], str]) -> None:
        self._decode = decode
        self._ids: list[int] = []
        self._given = ""

    def push(self, id: int) -> str:
        self._ids.append(id)
        text = self._decode(self._ids)
        if text.endswith("\ufffd") or not text.startswith(self._given):
            return ""
        new, self._given = text[len(self._given) :], text
        return new

    def finish(self) -> str:
        text = self._decode(self._ids)
        return text[len(self._given) :] if text.startswith(self._given) else ""


def byte_map() -> dict[str, int]:
    """GPT-2's printable stand-in for each byte, read backwards (spec 14 section 3).

    >>> byte_map()["Ġ"], byte_map()["Ċ"], len(byte_map())
    (32, 10, 256)
    """
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [b for b in range(256) if b not in set(printable)]
    return {chr(b): b for b in printable} | {chr(256 + n): b for n, b in enumerate(others)}


def byte_pieces(pieces: Sequence[str], plain: Collection[int]) -> list[bytes]:
    """The bytes of byte-level tokens; those in ``plain`` (added tokens) are ordinary text."""
    table = byte_map()
    return [
        piece.encode() if number in plain else bytes(b for c in piece if (b := table.get(c)) is not None)
        for number, piece in enumerate(pieces)
    ]


def metaspace_pieces(pieces: Sequence[str], blank: str = "▁") -> list[bytes]:
    """The bytes of SentencePiece tokens: ``▁`` is a blank, ``<0x41>`` a byte."""
    return [
        bytes([int(match[1], 16)]) if (match := _BYTE.match(piece)) else piece.replace(blank, " ").encode()
        for piece in pieces
    ]
