"""``plume pretrain ngram:...``: a model that is counted, not descended to.

A run of it is a run like all others (configuration, tokenizer, token store, metrics with a held-out loss), with
``ngrams.safetensors`` where networks have checkpoints. A text too long to be counted at once is counted in pieces,
each kept as it is finished: a run that was stopped goes on with the next one (spec 01).
"""

from __future__ import annotations

import hashlib
import shutil
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from plume import config
from plume.errors import UserError
from plume.models.counts import Counts, Runs
from plume.models.ngrams import NGrams
from plume.models.smoothing import Smoothing
from plume.text.store import Tokens
from plume.text.tokenizers import Tokenizer, TokenizerConfig
from plume.text.tokens import TokenStore
from plume.training import identity, session
from plume.training.folder import RunFolder
from plume.training.meters import MetricsFile, ShareLine
from plume.training.pretraining import choose_tokenizer, tokenize, training_texts
from plume.training.session import say
from plume.vocabulary import Vocabulary

_SCORED = 500_000  # tokens of a split that a loss is computed on
_MERGING, _SMOOTHING, _SCORING = 0.8, 0.85, 0.95  # where on the bar each begins


@dataclass(frozen=True, kw_only=True)
class NGramConfig:
    """``order`` 3 is a trigram model. ``ends``: documents begin and end, which the model is asked about too; without,
    each is a plain stream, as in the lecture notes.
    """

    order: int = 3
    smoothing: Smoothing
    ends: bool = True

    def __post_init__(self) -> None:
        if not 1 <= self.order <= 32:
            raise ValueError(f"order must lie between 1 and 32, got {self.order}")


@dataclass(frozen=True, kw_only=True)
class Counting:
    """An n-gram model, complete. ``piece_tokens`` are counted at once, in about 60 bytes of memory each."""

    tokenizer: TokenizerConfig
    model: NGramConfig
    piece_tokens: int = 32_000_000

    def __post_init__(self) -> None:
        if self.piece_tokens < 1:
            raise ValueError(f"piece_tokens must be at least 1, got {self.piece_tokens}")


def count(
    recipe: Counting,
    *,
    data: Sequence[Path],
    out: Path,
    tokenizer: Path | None = None,
    text_column: str = "text",
) -> Path:
    """Count the training split of ``data`` into the run folder ``out``, or go on where it stopped; returns ``out``.

    Raises:
        UserError: anything the user can mend; the sentence says how.
    """
    recipe, folder = config.checked(recipe), RunFolder(out)
    with folder.lock():
        _same(folder, recipe)
        if folder.read_run().get("finished"):
            say(f"{folder.path} is finished: its text is counted")
            return out
        pieces = choose_tokenizer(
            folder, recipe.tokenizer, tokenizer, lambda: training_texts(data, text_column)
        )
        _eos(recipe, pieces.vocabulary)
        session.begin(folder, recipe)
        session.keep_tokenizer(folder, pieces)
        store = tokenize(data, pieces, folder, text_column)
        began = time.monotonic()
        with ShareLine("counting") as line:
            model = _fit(recipe, store.split("train"), pieces.vocabulary, folder.counts, line)
            model.save(folder.ngrams)
            line.show(_SCORING, "scoring held-out text")
            _tell_metrics(folder, model, store, time.monotonic() - began)
        folder.write_run(
            {
                "kind": "counting",
                "plume": session.version(),
                "identity": _identity(recipe, store, pieces),
                "parent": None,
                "ngrams": {"count": model.num_ngrams, "bytes": folder.ngrams.stat().st_size},
                "discounts": model.discounts,
                "estimated": model.estimated,
                "finished": 1,
            }
        )
        shutil.rmtree(folder.counts, ignore_errors=True)
    return out


def _same(folder: RunFolder, recipe: Counting) -> None:
    if folder.exists() and (lines := config.differences(folder.read_config(), recipe)):
        raise UserError(
            f"{folder.path} holds a run with other settings ({'; '.join(lines)}): "
            f"give it the same ones, or choose another --out"
        )


def _identity(recipe: Counting, store: TokenStore, pieces: Tokenizer) -> dict[str, str | None]:
    return {
        "config": config.digest(recipe),
        "data": store.fingerprint,
        "tokenizer": pieces.fingerprint,
        "code": identity.code(),
        "revision": identity.revision(),
    }


def _eos(recipe: Counting, vocab: Vocabulary) -> int | None:
    try:
        return vocab.require("eos") if recipe.model.ends else None
    except ValueError as error:
        raise UserError(f"{error}; or say model.ends=false") from None


def _fit(recipe: Counting, tokens: Tokens, vocab: Vocabulary, place: Path, line: ShareLine) -> NGrams:
    if not tokens.num_tokens:
        raise UserError("the training part of the data has no text: add documents")
    model, eos = recipe.model, _eos(recipe, vocab)
    counts = _counted(tokens, recipe, vocab, eos, place, line)
    line.show(_SMOOTHING, "smoothing")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fitted = NGrams.of(counts, model.smoothing, never=vocab.special - {eos})
    for warning in caught:
        say(str(warning.message))
    return fitted


def _counted(
    tokens: Tokens, recipe: Counting, vocab: Vocabulary, eos: int | None, place: Path, line: ShareLine
) -> Counts:
    order, cuts = recipe.model.order, list(_cuts(tokens, recipe.piece_tokens))
    parts = list(pairwise(cuts))
    # A text cut otherwise is counted anew: what lies there may be of an older data set.
    about = [tokens.num_tokens, order, vocab.size, eos, cuts]
    runs = Runs(place / hashlib.sha256(str(about).encode()).hexdigest()[:16], vocab.size, eos)
    for number, (first, end) in enumerate(parts):
        if runs.has(number):
            continue
        ends = np.asarray(tokens.documents[first : end + 1], np.int64)
        done, piece = int(ends[0]), int(ends[-1] - ends[0])

        def begun(k: int, done: int = done, piece: int = piece) -> None:
            share = (done + piece * (k - 1) / order) / tokens.num_tokens
            told = f"order {k} of {order}, {done:,} of {tokens.num_tokens:,} tokens counted"
            line.show(_MERGING * share, told)

        ids = np.asarray(tokens.ids[ends[0] : ends[-1]])
        counts = Counts.of_documents(ids, ends, order, vocab.size, eos=eos, begun=begun)
        if len(parts) == 1:
            return counts
        runs.add(number, counts)
    line.show(_MERGING, f"merging {len(parts)} sorted runs")
    return runs.merged(len(parts))


def _cuts(tokens: Tokens, size: int) -> Iterator[int]:
    """Documents at which pieces of about ``size`` tokens begin, and the end."""
    ends = np.asarray(tokens.documents, np.int64)
    first = 0
    while first < tokens.num_documents:
        yield first
        first = max(first + 1, int(np.searchsorted(ends, ends[first] + size, "right")) - 1)
    yield tokens.num_documents


def _tell_metrics(folder: RunFolder, model: NGrams, store: TokenStore, seconds: float) -> None:
    """One row a split: what the model is worth on (the beginning of) its own text, and on held-out text."""
    metrics = MetricsFile(folder.metrics, say)
    train = store.split("train")
    for split in (train, store.split("dev")):
        loss = nats(model, split)
        if loss is not None and np.isfinite(loss):
            row: dict[str, Any] = {
                "step": 1,
                "attempt": metrics.last_attempt + 1,
                "split": split.name,
                "loss": loss,
            }
            row |= {"losses": {"next_token": loss}, "tokens": train.num_tokens, "bytes": train.num_bytes}
            metrics.write(row | {"flops": 0, "seconds": seconds})
        elif loss is not None:
            say(f"no loss of the {split.name} text is recorded: some of it is impossible under this model")
    metrics.sync()
    metrics.close()


def nats(model: NGrams, tokens: Tokens, most: int = _SCORED) -> float | None:
    """The mean of -log p over the documents' tokens (the first ``most`` of them), in nats; None: there are none."""
    ends = np.asarray(tokens.documents, np.int64)
    enough = min(tokens.num_documents, int(np.searchsorted(ends, most, "left")))
    if not enough:
        return None
    ids = np.asarray(tokens.ids[ends[0] : ends[enough]])
    return float(-model.score_documents(ids, ends[: enough + 1]).mean())
