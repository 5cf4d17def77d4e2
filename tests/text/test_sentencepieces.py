"""``spiece.model`` is read field by field: pieces, scores, marks, and the ids that the best cut gives."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest

from plume.errors import UserError
from plume.text.sentencepieces import BYTE, CONTROL, NORMAL, UNKNOWN, fields
from plume.text.tokenizers import Tokenizer


def varint(value: int) -> bytes:
    out = b""
    while value > 127:
        out, value = out + bytes([value & 127 | 128]), value >> 7
    return out + bytes([value])


def field(number: int, value: bytes | int | float) -> bytes:
    if isinstance(value, bytes):
        return varint(number << 3 | 2) + varint(len(value)) + value
    if isinstance(value, float):
        return varint(number << 3 | 5) + struct.pack("<f", value)
    return varint(number << 3) + varint(value)


PIECES = [
    ("<pad>", 0.0, CONTROL), ("</s>", 0.0, CONTROL), ("<unk>", 0.0, UNKNOWN), ("▁", -3.0, NORMAL),
    ("▁the", -2.0, NORMAL), ("▁cat", -5.0, NORMAL), ("▁ca", -3.5, NORMAL), ("t", -2.5, NORMAL), ("s", -2.0, NORMAL),
    ("电影", -4.0, NORMAL), ("电", -3.0, NORMAL), ("影", -3.0, NORMAL),
]  # fmt: skip


def model(kind: int = 1, pieces: list[tuple[str, float, int]] = PIECES) -> bytes:
    told = b"".join(field(1, field(1, t.encode()) + field(2, s) + field(3, k)) for t, s, k in pieces)
    return told + field(2, field(3, kind) + field(4, 32_000)) + field(3, field(1, b"identity"))


def folder(tmp_path: Path, data: bytes, family: str = "t5") -> Path:
    (tmp_path / "spiece.model").write_bytes(data)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": family}), encoding="utf-8")
    return tmp_path


def test_the_best_cut_and_the_marks_of_t5(tmp_path: Path) -> None:
    tokenizer = Tokenizer.from_hf(folder(tmp_path, model()))
    names = [piece for piece, *_ in PIECES]
    # "▁cat" costs 5, "▁ca" + "t" 6; blanks are squeezed, and one stands before the text.
    assert [names[i] for i in tokenizer.encode("  the  cats 电影")] == ["▁the", "▁cat", "s", "▁", "电影"]
    assert tokenizer.decode(tokenizer.encode("the cats")) == "the cats"
    vocab = tokenizer.vocabulary
    assert (vocab.size, vocab.pad, vocab.eos, vocab.unk) == (len(PIECES) + 100, 0, 1, 2)
    assert vocab.sentinels[0] == len(PIECES) + 99 and vocab.sentinels[-1] == len(PIECES), (
        "the first one is the last id"
    )
    assert tokenizer.kind == "unigram"
    tokenizer.save(tmp_path / "ours")
    assert (
        Tokenizer.load(tmp_path / "ours").encode("the cats").tolist() == tokenizer.encode("the cats").tolist()
    )


def test_xlnets_marks_are_its_own(tmp_path: Path) -> None:
    pieces = [("<unk>", 0.0, UNKNOWN), ("<s>", 0.0, CONTROL), ("</s>", 0.0, CONTROL), ("<cls>", 0.0, CONTROL),
              ("<sep>", 0.0, CONTROL), ("<pad>", 0.0, CONTROL), ("<mask>", 0.0, 4), *PIECES[3:]]  # fmt: skip
    vocab = Tokenizer.from_hf(folder(tmp_path, model(pieces=pieces), "xlnet")).vocabulary
    assert (vocab.cls, vocab.sep, vocab.pad, vocab.mask, vocab.sentinels) == (3, 4, 5, 6, ())


def test_bytes_stand_in_for_what_is_unknown(tmp_path: Path) -> None:
    pieces = [*PIECES, *((f"<0x{n:02X}>", -9.0, BYTE) for n in range(256))]
    tokenizer = Tokenizer.from_hf(folder(tmp_path, model(pieces=pieces), "other"))
    assert len(tokenizer.encode("猫")) == 4, "the blank before it and three bytes"


@pytest.mark.parametrize(
    "data", [b"", b"\xff" * 40, model()[:-9], model()[:57], b"not a model", field(1, field(1, b"\xff"))]
)
def test_a_damaged_file_is_one_sentence(data: bytes, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"spiece\.model is no SentencePiece model or damaged"):
        Tokenizer.from_hf(folder(tmp_path, data))


def test_another_kind_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no unigram model"):
        Tokenizer.from_hf(folder(tmp_path, model(kind=2)))


def test_fields_are_told_apart() -> None:
    assert list(fields(field(1, 300) + field(2, 1.5) + field(16, b"ab"))) == [(1, 300), (2, 1.5), (16, b"ab")]
