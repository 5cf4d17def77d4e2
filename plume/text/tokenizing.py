"""A tokenizer with the same face for all kinds: saved, loaded, imported. The ``tokenizers`` library does the work.

Kinds: "wordpiece" (BERT's, Chinese character by character), "bpe" (byte-level, any string comes back exactly),
"unigram" (SentencePiece's), "characters" and "words". Encoding adds no special tokens: windows and objectives do that.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers as library

from plume.errors import UserError
from plume.text import encoding, published
from plume.text.detokenizing import (
    ByLibrary,
    BytePieces,
    Detokenizer,
    WordPieces,
    byte_pieces,
    metaspace_pieces,
)  # fmt: skip
from plume.text.encoding import Array, Flat, Kind
from plume.text.marks import SENTENCE
from plume.text.numbering import BlankWords
from plume.text.readers import clean, valid
from plume.text.spelling import INNER
from plume.text.words import WordsEncoder
from plume.vocabulary import Vocabulary

# The library warns of every fork once it has used threads, unless the choice was made; a forked child has no
# threads and must not wait for them.
os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
if sys.platform != "win32":
    os.register_at_fork(after_in_child=lambda: os.environ.update(TOKENIZERS_PARALLELISM="false"))

FORMAT = 1
AT_BLANKS = "[\\x00\\t\\n\\r ]+"  # ``numbering.BLANKS``


@dataclass(frozen=True, slots=True)
class Encoding:
    """One text: ids int64 [T]; marks uint8 [T], which units begin at each token (``plume.text.marks``)."""

    ids: Array
    marks: Array


class Tokenizer:
    """Text to ids and back.

    >>> from plume.text.tokenizers import ByteLevelBPE
    >>> tokenizer = ByteLevelBPE(vocab_size=300).train(["the cat sat on the mat. 中文"] * 9)
    >>> tokenizer.decode(tokenizer.encode("the 猫!"))
    'the 猫!'
    """

    def __init__(self, inner: library.Tokenizer, kind: Kind, vocabulary: Vocabulary) -> None:
        inner.no_truncation()
        inner.no_padding()
        inner.encode_special_tokens = True  # "[MASK]" in a user's text is six characters, not the mask
        self._inner = inner
        self.kind: Kind = kind
        self._settings: dict[str, Any] = json.loads(inner.to_str())
        self.vocabulary = vocabulary  # which the table of pieces asks for its size
        if kind == "words":
            self.vocabulary = replace(vocabulary, pieces=tuple(self._pieces))

    @classmethod
    def load(cls, folder: Path | str) -> Tokenizer:
        """What ``save`` wrote.

        Raises:
            UserError: the folder holds no tokenizer of ours (``from_hf`` reads published ones).
        """
        folder = Path(folder)
        try:
            card = json.loads((folder / "vocabulary.json").read_text(encoding="utf-8"))
            inner = library.Tokenizer.from_file(str(folder / "tokenizer.json"))
            given = dict(card["vocabulary"])
            given |= {name: tuple(given.get(name, ())) for name in ("sentinels", "counts")}
            if card["format"] > FORMAT:
                raise UserError(
                    f"{folder} was written by a newer version of plume (format {card['format']}): update it"
                )
            return cls(inner, card["kind"], Vocabulary(**given))
        except FileNotFoundError as error:
            raise UserError(
                f"{folder} holds no tokenizer: {Path(error.filename).name} is missing. Make one with `plume tokenizer`"
            ) from None
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"the tokenizer in {folder} is damaged ({error}): copy or train it again"
            ) from None
        except Exception as error:  # the library raises bare Exception
            if isinstance(error, UserError):
                raise
            raise UserError(f"{folder / 'tokenizer.json'} cannot be read: {error}") from None

    def save(self, folder: Path | str) -> None:
        """Write ``tokenizer.json`` (the library's format) and ``vocabulary.json`` into ``folder``.

        A folder that is not there yet appears whole or not at all.
        """
        folder = Path(folder)
        card = {"format": FORMAT, "kind": self.kind, "vocabulary": _card(self.vocabulary)}
        files = {
            "tokenizer.json": self._inner.to_str(pretty=True),
            "vocabulary.json": json.dumps(card, indent=1) + "\n",
        }
        aside = folder if folder.exists() else folder.with_name(f"{folder.name}.{os.getpid()}.new")
        aside.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            with open(aside / name, "w", encoding="utf-8") as handle:
                handle.write(text)
                handle.flush()
                os.fsync(handle.fileno())
        if aside != folder:
            os.replace(aside, folder)

    @classmethod
    def from_hf(cls, folder: Path | str) -> Tokenizer:
        """A published tokenizer: tokenizer.json, vocab.txt, vocab.json with merges.txt, or spiece.model.

        A folder that keeps ``save``'s card beside it, as an exported ELMo's does, is read as ``load`` reads it.

        Raises:
            UserError: none of them is there.
        """
        if (Path(folder) / "vocabulary.json").is_file():
            return cls.load(folder)

        return cls(*published.read(Path(folder)))

    def to_hf(self, folder: Path | str, *, framed: bool = True) -> None:
        """Write what ``transformers.AutoTokenizer`` reads. ``framed``: it adds [CLS] and [SEP], as BERT's does."""
        published.write(self._inner, self.vocabulary, Path(folder), framed=framed)

    def with_rows(self, rows: int) -> Tokenizer:
        """The same tokenizer for a model whose tables are rounded up to 128 rows, as T5's 32,128 for 32,100 tokens."""
        size = self.vocabulary.size
        if rows == size or rows != -(-size // 128) * 128:
            return self
        return Tokenizer(self._inner, self.kind, replace(self.vocabulary, size=rows))

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of everything that decides which ids a text becomes."""
        settings = self._settings | {"truncation": None, "padding": None}
        if settings["model"]["type"] == "Unigram":  # a score loses its last digit when it is written and read
            scores = [[piece, f"{score:.6g}"] for piece, score in settings["model"]["vocab"]]
            settings["model"] = settings["model"] | {"vocab": scores}
        model = json.dumps(settings, sort_keys=True)
        card = json.dumps([self.kind, _card(self.vocabulary)], sort_keys=True)
        return hashlib.sha256((model + card).encode()).hexdigest()

    # From text to ids

    def encode(self, text: str) -> Array:
        """The ids of ``text``, int64 [T], no special tokens among them."""
        return self.number([text])[0]

    def number(self, texts: Sequence[str]) -> tuple[Array, Array]:
        """The ids of all texts end to end, int64 [N], and where each begins, and the end, int64 [D + 1].

        What ``NGrams.score_documents`` takes. Fastest where words are whatever stands between blanks.
        """
        if self._blank_words is not None:
            ids, ends = self._blank_words([text if valid(text) else clean(text) for text in texts])
            if not self._control[ids].any():
                return ids, ends
        flat = self.encode_flat(texts)
        return flat.ids.astype(np.int64), np.concatenate([np.zeros(1, np.int64), np.cumsum(flat.lengths)])

    def encode_batch(self, texts: Sequence[str], *, segment_words: bool = False) -> list[Encoding]:
        """The ids and marks of each text. ``segment_words``: Chinese words by rjieba, not characters."""
        flat = self.encode_flat(texts, segment_words=segment_words)
        cuts = np.cumsum(flat.lengths)[:-1]
        ids = np.split(flat.ids.astype(np.int64), cuts)
        return (
            [Encoding(i, m) for i, m in zip(ids, np.split(flat.marks, cuts), strict=True)]
            if len(texts)
            else []
        )

    def encode_flat(self, texts: Sequence[str], *, segment_words: bool = False) -> Flat:
        """All texts end to end, the fastest way: it costs no Python object a token."""
        if not texts:
            return Flat(np.zeros(0, np.uint32), np.zeros(0, np.uint8), np.zeros(0, np.int64))
        texts = [text if valid(text) else clean(text) for text in texts]
        flat = self._encoder(texts, segmented=segment_words)
        control = self._control[flat.ids]
        return self._defuse(texts, flat, control, segment_words) if control.any() else flat

    def _defuse(self, texts: Sequence[str], flat: Flat, control: Array, segmented: bool) -> Flat:
        """Encode texts again that gave control ids, with the spelled-out control tokens cut in two."""
        ends = np.cumsum(flat.lengths)
        ids, marks = np.split(flat.ids, ends[:-1]), np.split(flat.marks, ends[:-1])
        for number in np.unique(np.searchsorted(ends, np.flatnonzero(control), "right")).tolist():
            parts = [texts[number]]
            for word in self._control_words:
                parts = [piece for part in parts for piece in _halves(part, word)]
            again = self._encoder(parts, segmented=segmented)
            again.marks[1:] &= ~np.uint8(SENTENCE)
            ids[number], marks[number] = again.ids, again.marks
        lengths = np.array([len(i) for i in ids], np.int64)
        return Flat(np.concatenate(ids), np.concatenate(marks), lengths)

    @cached_property
    def _control(self) -> Array:
        table = np.zeros(max(self.vocabulary.size, len(self._pieces)), bool)
        table[list(self.vocabulary.special - {self.vocabulary.unk})] = True
        return table

    @cached_property
    def _control_words(self) -> list[str]:
        special = self.vocabulary.special - {self.vocabulary.unk}
        return sorted({self._pieces[i] for i in special if len(self._pieces[i]) > 1}, key=len, reverse=True)

    @cached_property
    def _blank_words(self) -> BlankWords | None:
        cutter = self._settings["pre_tokenizer"]
        if self.kind != "words" or cutter.get("pattern") != {"Regex": AT_BLANKS}:
            return None
        return BlankWords({piece: n for n, piece in enumerate(self._pieces)}, self.vocabulary.unk or 0)

    @cached_property
    def _encoder(self) -> encoding.Encoder:
        model, added = self._settings["model"], self._settings["added_tokens"]
        if all(token["special"] for token in added):  # other added tokens may reach across words
            if self.kind == "characters":
                return encoding.CharacterEncoder(
                    {p: n for n, p in enumerate(self._pieces) if len(p) == 1}, self.vocabulary.unk or 0
                )
            if self.kind == "words" and self._settings["pre_tokenizer"]["type"] == "BertPreTokenizer":
                lower = self._settings["normalizer"] is not None
                special = self.vocabulary.special
                ids = {p: n for n, p in enumerate(self._pieces) if n not in special}
                spelled = {p[2:]: n for p, n in ids.items() if p.startswith(INNER) and len(p) == 3}
                return WordsEncoder(ids, self.vocabulary.unk or 0, lowercase=lower, spelled=spelled)
            if _is_bert(self._settings):
                prefix = model["continuing_subword_prefix"]
                return encoding.WordPieceEncoder(
                    self._inner, np.array([p.startswith(prefix) and p != prefix for p in self._pieces], bool)
                )
            if self._bytes is not None and self._counts_bytes(self._bytes):
                cutters = _parts(self._settings["pre_tokenizer"])
                words = (
                    len(cutters) == 1
                    and bool(cutters[0].get("use_regex"))
                    and not self._settings["normalizer"]
                )
                return encoding.ByteLevelEncoder(self._inner, self._bytes, words=words)
        return encoding.OffsetsEncoder(self._inner)

    def _counts_bytes(self, pieces: list[bytes]) -> bool:
        """Whether the tokens of a text are its bytes, neither more nor fewer (no prefix, no normalisation)."""
        probes = ["a", " a", "Hello  World\n\n", "e\u0301ﬁＡ", "中文，字。", "\t x\u3000y"]
        ids = [self._inner.encode(probe, add_special_tokens=False).ids for probe in probes]
        return all(
            b"".join(pieces[i] for i in row) == probe.encode() for row, probe in zip(ids, probes, strict=True)
        )

    # From ids to text

    def decode(self, ids: Iterable[int] | Array) -> str:
        """The text of ``ids``, special tokens left out. Exact for "bpe": ``decode(encode(x)) == x``."""
        detokenizer = self.detokenizer()
        parts = [detokenizer.push(int(i)) for i in ids]
        return "".join(parts) + detokenizer.finish()

    def detokenizer(self) -> Detokenizer:
        """A new one: ``push(id)`` gives the text that is certain by now; together they give ``decode``'s text."""
        silent = self._silent
        if self._bytes is not None:
            return BytePieces(self._bytes, silent, strip_first=self._family == "metaspace")
        if self._family == "wordpiece":
            return WordPieces(self._pieces, silent, self._settings["model"]["continuing_subword_prefix"])
        if self._family == "words":
            return WordPieces(self._pieces, silent, INNER)
        return ByLibrary(lambda ids: self._inner.decode(ids, skip_special_tokens=True))

    def token_bytes(self, id: int) -> bytes | None:
        """The bytes that a token stands for (b"" for special ones); None where a token alone does not say it."""
        if self._bytes is None:
            return None
        return b"" if id in self._silent else self._bytes[id]

    def pieces(self, ids: Iterable[int] | Array) -> list[str]:
        """What a person reads for each id: blanks as ``␣``, newlines as ``↵``, broken characters as ``⟨E4B8⟩``."""
        return [self._piece(int(i)) for i in ids]

    def _piece(self, id: int) -> str:
        if not 0 <= id < len(self._pieces) or id in self.vocabulary.special or id == self.vocabulary.unk:
            return self._pieces[id] if 0 <= id < len(self._pieces) else f"⟨{id}⟩"
        if self._bytes is None or self._family == "metaspace":
            return self._pieces[id]
        try:
            text = self._bytes[id].decode()
        except UnicodeDecodeError:
            text = f"⟨{self._bytes[id].hex().upper()}⟩"
        return text.replace(" ", "␣").replace("\n", "↵").replace("\t", "⇥").replace("\r", "␍")

    # Tables

    @cached_property
    def _pieces(self) -> list[str]:
        vocabulary = self._inner.get_vocab(with_added_tokens=True)
        pieces = [""] * max(self.vocabulary.size, max(vocabulary.values(), default=-1) + 1)
        for piece, number in vocabulary.items():
            pieces[number] = piece
        return pieces

    @cached_property
    def _silent(self) -> frozenset[int]:
        added = {t["id"] for t in self._settings["added_tokens"] if t["special"]}
        return frozenset((added | self.vocabulary.special) - {self.vocabulary.unk})

    @cached_property
    def _family(self) -> str:
        if self.kind in ("characters", "words"):
            return self.kind
        if self._settings["model"]["type"] == "WordPiece":
            return "wordpiece"
        names = {part["type"] for key in ("pre_tokenizer", "decoder") for part in _parts(self._settings[key])}
        return "bytes" if "ByteLevel" in names else "metaspace" if "Metaspace" in names else "other"

    @cached_property
    def _bytes(self) -> list[bytes] | None:
        match self._family:
            case "bytes":
                plain = {t["id"] for t in self._settings["added_tokens"]}
                return byte_pieces(self._pieces, plain)
            case "metaspace":
                return metaspace_pieces(self._pieces)
            case "characters":
                unknown = self.vocabulary.unk
                return ["\ufffd".encode() if n == unknown else p.encode() for n, p in enumerate(self._pieces)]
        return None


def _halves(text: str, word: str) -> list[str]:
    """``text`` cut after the first character of every ``word`` in it."""
    pieces = text.split(word)
    out = [pieces[0]]
    for piece in pieces[1:]:
        out[-1] += word[0]
        out.append(word[1:] + piece)
    return out


def _card(vocabulary: Vocabulary) -> dict[str, Any]:
    """The vocabulary as JSON; counts only where there are some, so that older fingerprints stay what they were."""
    card = {part.name: getattr(vocabulary, part.name) for part in fields(vocabulary)}
    return {name: value for name, value in card.items() if name != "pieces" and (name != "counts" or value)}


def _parts(section: dict[str, Any] | None) -> list[dict[str, Any]]:
    """A section of tokenizer.json as a list: sequences are taken apart."""
    if section is None:
        return []
    for key in ("pretokenizers", "decoders", "normalizers"):
        if key in section:
            return [inner for part in section[key] for inner in _parts(part)]
    return [section]


def _is_bert(settings: dict[str, Any]) -> bool:
    normalizers = [p["type"] for p in _parts(settings["normalizer"])]
    splitters = [p["type"] for p in _parts(settings["pre_tokenizer"])]
    bert = normalizers == ["BertNormalizer"] and splitters == ["BertPreTokenizer"]
    return bert and settings["model"]["type"] == "WordPiece"
