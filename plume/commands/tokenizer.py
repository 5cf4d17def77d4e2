"""``plume tokenizer``: train a tokenizer on the training split of a text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from plume.commands.words import Flag, Json, Paths, TextColumn, paths_of, table, tell
from plume.errors import UserError

if TYPE_CHECKING:
    from plume.text.tokenizers import Tokenizer

Kind = Literal["wordpiece", "bpe", "unigram", "characters", "words"]


def tokenizer(
    data: Paths,
    *,
    out: str | Path,
    kind: Kind = "wordpiece",
    vocab_size: int | None = None,
    cased: bool = False,
    sentinels: int = 0,
    extend: str | Path | None = None,
    text_column: str = "text",
) -> Tokenizer:
    """Train a tokenizer on the training split of ``data`` and save it in the folder ``out``.

    ``extend``: a run, tokenizer or Hugging Face folder whose tokenizer gets new pieces for what ``data`` writes often,
    up to ``vocab_size`` (1,000 more); its old pieces keep their ids. ``plume pretrain --from`` that run with the new
    tokenizer begins with the mean of the old pieces for each new one.

    Raises:
        UserError: no text, a bad size, or ``out`` holds another tokenizer.
    """
    from plume.config.sentences import listed
    from plume.text.tokenizers import (
        ByteLevelBPE,
        Characters,
        Tokenizer,
        TokenizerConfig,
        Unigram,
        WordPiece,
        Words,
    )

    if extend is not None:
        return _extended(data, Path(extend), Path(out), vocab_size, text_column)
    vocab_size = 8000 if vocab_size is None else vocab_size
    if vocab_size < 8:
        raise UserError(f"--vocab-size must leave room for text beside the special tokens, got {vocab_size}")
    if not 0 <= sentinels <= vocab_size // 2:
        raise UserError(f"--sentinels must lie between 0 and half of --vocab-size, got {sentinels}")
    if sentinels and kind == "words":
        raise UserError("--kind words serves counts and vectors, which have no use for --sentinels")
    kinds: dict[str, TokenizerConfig] = {
        "wordpiece": WordPiece(vocab_size, lowercase=not cased, sentinels=sentinels),
        "bpe": ByteLevelBPE(vocab_size, sentinels),
        "unigram": Unigram(vocab_size, sentinels),
        "characters": Characters(vocab_size, sentinels),
        "words": Words(vocab_size, lowercase=not cased),
    }
    if kind not in kinds:
        raise UserError(f"there is no tokenizer {kind!r}: choose {listed(list(kinds), 'or')}")
    trained = kinds[kind].train(_texts(paths_of(data), text_column, ("train",)))
    folder = Path(out)
    if (folder / "vocabulary.json").exists() and Tokenizer.load(folder).fingerprint != trained.fingerprint:
        raise UserError(f"{folder} holds another tokenizer: choose another --out, or delete it")
    trained.save(folder)
    return trained


def _extended(data: Paths, old: Path, out: Path, vocab_size: int | None, column: str) -> Tokenizer:
    from plume.text.extending import Extension
    from plume.text.extending import extend as grow
    from plume.text.tokenizers import Tokenizer
    from plume.training.starts import open_tokenizer

    if (out / "vocabulary.json").exists() and Extension.load(out) is None:
        raise UserError(f"{out} holds another tokenizer: choose another --out, or delete it")
    before = open_tokenizer(old)
    count = 1000 if vocab_size is None else vocab_size - before.vocabulary.size
    grown, made = grow(before, _texts(paths_of(data), column, ("train",)), count)
    if (out / "vocabulary.json").exists() and Tokenizer.load(out).fingerprint != grown.fingerprint:
        raise UserError(f"{out} holds another tokenizer: choose another --out, or delete it")
    out.mkdir(parents=True, exist_ok=True)
    made.save(out)
    grown.save(out)
    return grown


def _texts(data: Sequence[Path], column: str, splits: Sequence[str]) -> Iterator[str]:
    from plume.text.readers import read
    from plume.text.splits import split_of

    texts = (document.text for document in read(data, text_column=column))
    return (text for text in texts if split_of(text) in splits)


def measured(tokenizer: Tokenizer, data: Sequence[Path], column: str = "text") -> dict[str, Any]:
    """How well it fits text it was not trained on (up to 500 documents): bytes a token, unknown tokens."""
    texts = list(islice(_texts(data, column, ("dev", "test")), 500))
    if not texts:
        return {}
    flat = tokenizer.encode_flat(texts)
    unknown = tokenizer.vocabulary.unk
    return {
        "held_out_documents": len(texts),
        "bytes_per_token": sum(len(t.encode("utf-8", "replace")) for t in texts) / max(1, len(flat.ids)),
        "unknown_share": float((flat.ids == unknown).mean())
        if unknown is not None and len(flat.ids)
        else 0.0,
    }


def command(
    *data: Annotated[Path, Parameter(name="DATA")],
    out: Path,
    kind: Kind = "wordpiece",
    vocab_size: int | None = None,
    cased: Annotated[bool, Flag] = False,
    sentinels: int = 0,
    extend: Path | None = None,
    text_column: TextColumn = "text",
    json: Json = False,
) -> None:
    """Train a tokenizer on text: files or folders of .txt, .jsonl, .csv, .tsv, .parquet, also .gz or .zst.

    Parameters
    ----------
    data
        Files and folders.
    out
        Folder to write the tokenizer to.
    kind
        wordpiece (BERT), bpe (GPT-2: bytes), unigram (T5), characters, words (n-grams and Word2Vec).
    vocab_size
        How many tokens it may have: 8,000, or with --extend 1,000 more than there are.
    cased
        Keep capitals apart (wordpiece and words only; the others always do).
    extend
        Give the tokenizer of this run or Hugging Face folder new pieces for what the text writes often (its
        kind and old ids stay): plume pretrain --from that run --tokenizer this one then goes on.
    sentinels
        How many marks for hidden spans it has, as t5: and joint: need them (T5: 100). They are counted in the size.
    """
    trained = tokenizer(
        data,
        out=out,
        kind=kind,
        vocab_size=vocab_size,
        cased=cased,
        sentinels=sentinels,
        extend=extend,
        text_column=text_column,
    )
    result = {
        "tokenizer": str(out),
        "kind": trained.kind,
        "vocab_size": trained.vocabulary.size,
        "fingerprint": trained.fingerprint,
        **measured(trained, data, text_column),
    }
    lines = {"tokenizer": f"{out} ({trained.kind}, {trained.vocabulary.size:,} tokens)"}
    if "bytes_per_token" in result:
        lines["held-out text"] = (
            f"{result['bytes_per_token']:.2f} bytes a token, {result['unknown_share']:.2%} unknown"
        )
    tell(result, table(lines), as_json=json)
