"""``spiece.model`` files: SentencePiece's protocol buffer, read field by field; nothing of it is executed."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tokenizers as library

from plume.errors import UserError

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)  # kinds of pieces
UNIGRAM = 1


@dataclass(frozen=True)
class Model:
    """Pieces as (text, log probability, kind), and how text is written before it is cut."""

    pieces: tuple[tuple[str, float, int], ...]
    kind: int
    charsmap: bytes
    prefix: bool
    squeeze: bool


def fields(data: bytes) -> Iterator[tuple[int, Any]]:
    """(number, value) of a message: an int, a float (fixed32) or bytes.

    Raises:
        ValueError: it is cut off, or no message.
    """
    at = 0

    def varint() -> int:
        nonlocal at
        value = shift = 0
        while True:
            if at >= len(data) or shift > 63:
                raise ValueError("it ends in the middle of a number")
            byte = data[at]
            at += 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    while at < len(data):
        tag = varint()
        number, wire = tag >> 3, tag & 7
        if wire == 0:
            yield number, varint()
            continue
        size = {1: 8, 2: None, 5: 4}.get(wire, -1)
        size = varint() if size is None else size
        if size < 0 or at + size > len(data):
            raise ValueError("it is cut off, or no SentencePiece model")
        part, at = data[at : at + size], at + size
        yield number, struct.unpack("<f", part)[0] if wire == 5 else part


def parse(data: bytes) -> Model:
    """A ModelProto: pieces (1), trainer_spec (2), normalizer_spec (3).

    Raises:
        ValueError: it is none.
    """
    pieces, kind, charsmap, prefix, squeeze = [], UNIGRAM, b"", True, True
    for number, value in fields(data):
        if number == 1:
            piece: dict[int, Any] = {1: b"", 2: 0.0, 3: NORMAL} | dict(fields(value))
            pieces.append((bytes(piece[1]).decode("utf-8"), float(piece[2]), int(piece[3])))
        elif number == 2:
            kind = int(dict(fields(value)).get(3, UNIGRAM))
        elif number == 3:
            spec: dict[int, Any] = {2: b"", 3: 1, 4: 1} | dict(fields(value))
            charsmap, prefix, squeeze = bytes(spec[2]), bool(spec[3]), bool(spec[4])
    if not pieces:
        raise ValueError("it holds no pieces")
    return Model(tuple(pieces), kind, charsmap, prefix, squeeze)


def read(path: Path, sentinels: int = 0) -> library.Tokenizer:
    """The library's tokenizer of a ``spiece.model``; ``sentinels`` of T5's are put behind its pieces, the first last.

    Raises:
        UserError: it is damaged, or of a kind other than unigram.
    """
    try:
        model = parse(path.read_bytes())
        if model.kind != UNIGRAM:
            raise UserError(f"{path} is no unigram model of SentencePiece: give its folder a tokenizer.json")
        unknown = next(n for n, (_, _, kind) in enumerate(model.pieces) if kind == UNKNOWN)
    except (ValueError, KeyError, TypeError, StopIteration, struct.error) as error:
        why = str(error) or "it has no unknown piece"
        raise UserError(f"{path} is no SentencePiece model or damaged ({why}): copy it again") from None
    vocabulary = [(text, score) for text, score, _ in model.pieces]
    extra = [f"<extra_id_{n}>" for n in reversed(range(sentinels))]
    vocabulary += [(name, 0.0) for name in extra]
    bytewise = any(kind == BYTE for *_, kind in model.pieces)
    inner = library.Tokenizer(library.models.Unigram(vocabulary, unk_id=unknown, byte_fallback=bytewise))
    steps: list[Any] = [library.normalizers.Precompiled(model.charsmap)] if model.charsmap else []
    if model.squeeze:
        steps += [library.normalizers.Strip(), library.normalizers.Replace(library.Regex(" {2,}"), " ")]
    if steps:
        inner.normalizer = library.normalizers.Sequence(steps)
    scheme = "always" if model.prefix else "never"
    inner.pre_tokenizer = library.pre_tokenizers.Metaspace(prepend_scheme=scheme)
    inner.decoder = library.decoders.Metaspace(prepend_scheme=scheme)
    control = [text for text, _, kind in model.pieces if kind in (CONTROL, UNKNOWN, USER_DEFINED)]
    inner.add_special_tokens([*control, *extra])
    return inner
