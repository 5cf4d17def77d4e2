"""Is my loss normal? Counting models on the same held-out text, and the loss curve drawn against them.

A network that has learned nothing answers ln V nats a token (uniform); one that knows how frequent tokens
are reaches the unigram's cross-entropy; below the bigram's it must look back further than one token (spec 01
gives the models, spec 14 section 6 the units).
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from plume.errors import UserError
from plume.models.counts import Counts
from plume.models.ngrams import NGrams
from plume.models.smoothing import KneserNey
from plume.seeding import rng
from plume.slots import IGNORE
from plume.training import stages
from plume.training.loader import Loader, Phase
from plume.training.parallel import Ranks
from plume.training.settings import Pretraining

if TYPE_CHECKING:
    from plume.text.store import Tokens
    from plume.vocabulary import Vocabulary

ORDERS = {"unigram": 1, "bigram": 2, "trigram": 3, "kneser_ney5": 5}
TOKEN_HEADS = ("next_token", "masked_token", "permuted_token")
Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Entropies:
    """Cross-entropy on held-out text of models that only count, in nats a token.

    All n-gram models are Kneser-Ney, fitted on the training text; ``uniform`` is ln V. ``tokens_per_byte``
    turns nats a token into bits a byte: tokens asked about, ends of documents included where the model is
    asked about them, over UTF-8 bytes. ``counted`` of the ``train_tokens`` were counted and ``scored`` of
    the ``heldout_tokens`` scored: fewer where the text is long and a sample of whole documents does.
    """

    uniform: float
    unigram: float
    bigram: float
    trigram: float
    kneser_ney5: float
    tokens_per_byte: float
    counted: int
    train_tokens: int
    scored: int
    heldout_tokens: int

    def lines(self) -> dict[str, float]:
        """Name -> nats a token, from the model that knows least to the one that knows most."""
        return {name: getattr(self, name) for name in ("uniform", *ORDERS)}

    def bits_per_byte(self, nats: float) -> float:
        """Bits a byte of a model that needs ``nats`` a token on this text."""
        return nats * self.tokens_per_byte / math.log(2)

    def to_json(self) -> dict[str, float]:
        return asdict(self)


def entropies(
    train: Tokens,
    heldout: Tokens,
    vocab: Vocabulary,
    *,
    ends: bool = True,
    max_counted: int = 8_000_000,
    max_scored: int = 500_000,
) -> Entropies:
    """Fit n-gram models on ``train`` and score ``heldout``.

    ``ends``: the ends of documents are among the tokens asked about, as a causal model over a packed stream is
    asked about ``eos``; a masked model never is. Of a text longer than ``max_counted`` (``max_scored``)
    tokens, whole documents are drawn at random up to that size, the same ones each time: 8 million tokens
    take some ten seconds on one core.

    Raises:
        UserError: one of the two has no text.
    """
    for tokens, role in ((train, "training"), (heldout, "held-out")):
        if not tokens.num_tokens:
            raise UserError(
                f"there is no {role} text, so there is nothing to compare a loss with: add documents"
            )
    eos = vocab.eos if ends else None
    asked = _documents(heldout, max_scored)
    models, counted = counting_models(train, vocab, ends=ends, max_counted=max_counted)
    scores = {name: model.score(asked) for name, model in models.items()}
    num_asked = heldout.num_tokens + (0 if eos is None else len(heldout.documents) - 1)
    return Entropies(
        uniform=math.log(vocab.size),
        **{name: float(-score.mean()) for name, score in scores.items()},
        tokens_per_byte=num_asked / max(1, heldout.num_bytes),
        counted=counted,
        train_tokens=train.num_tokens,
        scored=sum(map(len, asked)),
        heldout_tokens=heldout.num_tokens,
    )


def counting_models(
    train: Tokens, vocab: Vocabulary, *, ends: bool = True, max_counted: int = 8_000_000
) -> tuple[dict[str, NGrams], int]:
    """The Kneser-Ney model of each of ``ORDERS``, fitted on ``train`` (or that many tokens of it), and how many
    tokens were counted."""
    fitted = _documents(train, max_counted)
    with warnings.catch_warnings():
        # Too small a text for estimated discounts is no news to someone who looks at a curve.
        warnings.filterwarnings("ignore", message="Kneser-Ney's discounts")
        counts = Counts.of(fitted, max(ORDERS.values()), vocab.size, eos=vocab.eos if ends else None)
        models = {name: NGrams.of(counts, KneserNey(), order) for name, order in ORDERS.items()}
    return models, sum(map(len, fitted))


def label_entropy(train: ArrayLike, heldout: ArrayLike, size: int) -> float:
    """Nats a label of always answering with the training labels' frequencies: any head's first yardstick.

    ``train``, ``heldout``: labels below ``size``. Every label counts one more than it was seen, so that none
    is impossible.

    >>> round(label_entropy([0, 1] * 500, [0, 1, 1], 2), 4)
    0.6931
    """
    seen = np.bincount(np.asarray(train, np.int64), minlength=size) + 1.0
    return float(-np.log(seen / seen.sum())[np.asarray(heldout, np.int64)].mean())


def _documents(tokens: Tokens, budget: int) -> list[NDArray[Any]]:
    ids, ends = tokens.ids, np.asarray(tokens.documents, np.int64)
    order: NDArray[Any] = np.arange(len(ends) - 1)
    if tokens.num_tokens > budget:
        order = rng(0, "entropies", tokens.num_tokens).permutation(order)
        enough = int(np.searchsorted(np.cumsum(np.diff(ends)[order]), budget)) + 1
        order = np.sort(order[:enough])
    kept = [np.asarray(ids[ends[d] : ends[d + 1]]) for d in order]
    room = np.maximum(0, budget - np.cumsum([0, *map(len, kept)])[:-1])
    return [document[:most] for document, most in zip(kept, room, strict=True)]


def own_labels(
    recipe: Pretraining, train: Tokens, heldout: Tokens, vocab: Vocabulary, *, most: int = 256
) -> dict[str, float]:
    """Nats a label of each head of the run's last stage for always answering with frequencies, on held-out windows.

    What is asked for is the head's own labels, of at most ``most`` windows. A head for tokens is answered with the
    training text's frequencies; any other with those of its labels over as many training windows. A head whose
    labels only the model draws (ELECTRA's) has none here, nor have losses that are no likelihoods of labels.
    """
    windows = stages.held_out(recipe, heldout, vocab)[-1]
    if isinstance(windows, str) or not windows.samples:
        return {}
    phase = stages.phases(recipe, train, vocab)[-1]
    if not phase.objective.likelihoods:
        return {}
    seen, asked = _labels(phase, vocab, most), _labels(windows, vocab, min(most, windows.samples))
    found = {}
    for head, labels in asked.items():
        if head in TOKEN_HEADS:
            found[head] = label_entropy(train.ids[:8_000_000], labels, vocab.size)
        elif head in seen:
            found[head] = label_entropy(seen[head], labels, int(max(seen[head].max(), labels.max())) + 1)
    return found


def _labels(phase: Phase[Any], vocab: Vocabulary, count: int) -> dict[str, NDArray[Any]]:
    """The labels that the phase's first windows ask each head for; heads that are asked for none are left out."""
    loader = Loader([phase], vocab, {}, count, False, torch.device("cpu"), Ranks())
    found: dict[str, list[NDArray[Any]]] = {}
    for first in range(0, count, 32):
        numbers = range(phase.base + first, phase.base + min(count, first + 32))
        batch = loader.collate(phase, numbers)
        for slots in () if batch is None else (batch.inputs, batch.decoder_inputs):
            for head, labels in ({} if slots is None else slots.labels).items():
                values = labels.numpy()
                found.setdefault(head, []).append(values[values != IGNORE])
    joined = {head: np.concatenate(parts) for head, parts in found.items()}
    return {head: labels for head, labels in joined.items() if len(labels)}


def lines_of(head: str, lines: Entropies | None, labels: Mapping[str, float]) -> dict[str, float]:
    """What is drawn beside a head's curve: name -> nats, from the model that knows least.

    Models that count the next token compare with a head for the next token alone; any other head has the
    entropy of its own labels, and one for tokens ln V.
    """
    if lines is not None and head in ("next_token", "loss"):
        return lines.lines()
    found = {"uniform": lines.uniform} if lines is not None and head in TOKEN_HEADS else {}
    return found | ({"labels": labels[head]} if head in labels else {})


class Point(NamedTuple):
    """One loss of one head: at which step, after how many tokens and bytes, nats."""

    step: int
    tokens: float
    bytes: float
    loss: float
    attempt: int


@dataclass(frozen=True, slots=True)
class Curve:
    """What a run's metrics say of one head: its training and held-out losses, and where it was resumed."""

    head: str
    train: tuple[Point, ...]
    heldout: tuple[Point, ...]
    resumed: tuple[Point, ...]


def curves(rows: Sequence[Row]) -> list[Curve]:
    """The curves in ``metrics.jsonl``'s rows, the head that predicts tokens first.

    A step that was done again after a crash counts as it was done last; a skipped step left no trace.
    """
    last: dict[tuple[int, bool], Row] = {}
    for row in rows:
        if "skipped" not in row and (row.get("losses") or row.get("loss") is not None):
            held_out = row.get("split", "train") != "train"
            last[int(row["step"]), held_out] = row
    ordered = sorted(last.items(), key=lambda item: item[0])
    heads = {head: None for _, row in ordered for head in _losses(row)}
    ranked = sorted(heads, key=lambda h: TOKEN_HEADS.index(h) if h in TOKEN_HEADS else len(TOKEN_HEADS))
    found = []
    for head in ranked:
        parts: dict[bool, list[Point]] = {False: [], True: []}
        for (step, held_out), row in ordered:
            loss = _losses(row).get(head)
            if loss is not None and math.isfinite(loss):
                place = (float(row.get("tokens") or 0), float(row.get("bytes") or 0))
                parts[held_out].append(Point(step, *place, float(loss), int(row.get("attempt", 1))))
        resumed = tuple(b for a, b in pairwise(parts[False]) if b.attempt > a.attempt)
        found.append(Curve(head, tuple(parts[False]), tuple(parts[True]), resumed))
    return found


def _losses(row: Row) -> dict[str, float]:
    return dict(row.get("losses") or {"loss": row["loss"]})


class Crossing(NamedTuple):
    """Where a curve first went below a counting model's line, between two of its points."""

    name: str
    step: float
    tokens: float
    bytes: float
    loss: float


def crossings(points: Sequence[Point], lines: Mapping[str, float]) -> list[Crossing]:
    """Where the held-out loss first passes each line (name -> nats), in the order in which they are passed."""
    found = []
    for name, level in lines.items():
        for a, b in pairwise(points):
            if a.loss > level >= b.loss:
                share = (a.loss - level) / (a.loss - b.loss)
                # Losses fall about evenly with the logarithm of what was read; step 0 stands beside step 1.
                places = ((u or v / max(b.step, 1), v) for u, v in zip(a[:3], b[:3], strict=True))
                step, tokens, read = (u * (v / u) ** share if u else 0.0 for u, v in places)
                found.append(Crossing(name, step, tokens, read, level))
                break
    return sorted(found, key=lambda c: c.step)
