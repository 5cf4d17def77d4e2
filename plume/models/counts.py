"""n-gram models: counts, interpolated modified Kneser-Ney, Laplace and maximum likelihood (spec 01).

All n-grams of order k are one sorted array of keys ``context * V + token``, where ``context`` is the number
of the (k-1)-gram before the token in the array of order k-1: a trie without pointers, filled by one sort an
order and asked by one ``searchsorted`` an order, over whole arrays at a time. No torch here.

V = vocabulary size, T = tokens asked about, N_k = distinct k-grams.
"""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from plume.errors import UserError

Ints = NDArray[Any]
Floats = NDArray[np.float64]
Discounts = tuple[float, float, float]
FORMAT = "plume-ngrams-1"


@dataclass(frozen=True, slots=True)
class KneserNey:
    """Interpolated modified Kneser-Ney (spec 01 section 3; Chen and Goodman 1999).

    ``fallback`` stands in for the discounts of an order whose counts of counts give none, as in a tiny
    corpus: three numbers are used quietly, ``"warn"`` uses (0.5, 1, 1.5) and says so, ``"error"`` raises.
    """

    fallback: Discounts | Literal["warn", "error"] = "warn"


@dataclass(frozen=True, slots=True)
class Laplace:
    """Laplace-type smoothing with pseudo-counts (spec 01 section 2). ``eps=0`` is maximum likelihood.

    ``eps`` is one number for all orders or one an order. ``backoff="chain"`` smooths towards the model one
    order lower, ``"unigram"`` towards the unigram. ``context="raw"`` divides by the raw count of the context,
    which loses the mass of an occurrence that nothing follows; ``"continuations"`` always sums to 1.
    """

    eps: float | tuple[float, ...] = 1.0
    backoff: Literal["chain", "unigram"] = "chain"
    context: Literal["continuations", "raw"] = "continuations"

    def __post_init__(self) -> None:
        if min(self.eps if isinstance(self.eps, tuple) else (self.eps,)) < 0:
            raise ValueError(f"eps are pseudo-counts, so none may be negative, got {self.eps}")

    def pseudo_count(self, order: int) -> float:
        return self.eps[order - 1] if isinstance(self.eps, tuple) else self.eps


Smoothing = KneserNey | Laplace
NAMES: dict[str, Smoothing] = {"kneser_ney": KneserNey(), "mle": Laplace(0.0), "laplace": Laplace()}


@dataclass(frozen=True, slots=True)
class Level:
    """The distinct k-grams of one order, [N_k] each, ascending in ``key``.

    ``left`` is the number of distinct tokens seen before the k-gram (its count where it begins a document),
    ``suffix`` where it lies in the order below without its first token. The lowest level is dense: its key is
    the token, and its last entry the begin mark, which is only ever a context.
    """

    key: Ints
    count: Ints
    left: Ints
    suffix: Ints


@dataclass(frozen=True, slots=True)
class Counts:
    """What n-grams occurred how often. ``eos``: documents have marked ends; ``None``: plain streams."""

    vocab_size: int
    eos: int | None
    levels: tuple[Level, ...]

    @property
    def order(self) -> int:
        return len(self.levels)

    @staticmethod
    def of(streams: Iterable[ArrayLike], order: int, vocab_size: int, *, eos: int | None = None) -> Counts:
        """Count the n-grams of every order up to ``order`` within each stream.

        With ``eos`` a stream is a document (or several, each closed by an ``eos``): a begin mark, which is no
        id and never predicted, goes before it and ``eos`` after it. Without, no marker is added.

        Raises:
            ValueError: ``order < 1``, or an id outside ``range(vocab_size)``.
            UserError: there is nothing to count.
        """
        if order < 1:
            raise ValueError(f"the order of an n-gram model is at least 1, got {order}")
        tokens, begins = _laid_out(streams, vocab_size, eos)
        if not len(tokens):
            raise UserError("an n-gram model needs at least one token of text; the data has none")
        counts = np.bincount(tokens, minlength=vocab_size + 1)
        levels = [Level(np.arange(vocab_size + 1), counts, counts, np.zeros(0, np.int64))]
        # Which n-gram of the order below ends at each position; len(below.key): none does.
        ends_here = tokens.copy()
        if eos is None:
            ends_here[begins] = vocab_size + 1  # a stream's begin is no context
        keys = np.empty(len(tokens), np.int64)
        for k in range(2, order + 1):
            below = levels[-1]
            none = len(below.key) * vocab_size  # no n-gram ends here: these keys come after all others
            np.multiply(ends_here[:-1], vocab_size, out=keys[1:], dtype=np.int64)
            keys += tokens
            keys[begins] = none
            key, first, counts, inverse = _distinct(keys, none, inverse=k < order)
            suffix = ends_here[first].astype(np.int64)
            left = np.bincount(suffix, minlength=len(below.key))
            # Nothing stands before a document's begin: there the raw count takes its place (rule 3).
            left = np.where(left > 0, left, below.count if eos is not None else np.minimum(below.count, 1))
            levels[-1] = Level(below.key, below.count, left, below.suffix)
            levels.append(Level(key, counts, counts, suffix))
            ends_here = inverse
        return Counts(vocab_size, eos, tuple(levels))

    def find(self, tokens: Ints) -> list[Ints]:
        """For each order, which of its n-grams ends at each position of ``tokens``, or -1: ``order`` x [T].

        ``tokens`` may hold the begin mark, ``vocab_size``.
        """
        found = [tokens.astype(np.int64)]
        for level in self.levels[1:]:
            previous = _before(found[-1])
            at = np.flatnonzero((previous >= 0) & (tokens < self.vocab_size))
            found.append(np.full(len(tokens), -1))
            if len(level.key) and len(at):
                found[-1][at] = _search(level.key, previous[at] * self.vocab_size + tokens[at])
        return found


def _laid_out(streams: Iterable[ArrayLike], vocab_size: int, eos: int | None) -> tuple[Ints, Ints]:
    """All streams in one array, each behind a begin mark, and where those marks are."""
    parts = [np.asarray(stream) for stream in streams]
    if eos is not None:
        end = np.array([eos])
        parts = [part for ids in parts for part in ((ids,) if len(ids) and ids[-1] == eos else (ids, end))]
    if not sum(map(len, parts)):
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    tokens = np.concatenate(parts).astype(np.int64, copy=False)
    _check(tokens, vocab_size)
    if eos is None:
        starts = np.cumsum([0, *map(len, parts[:-1])])
    else:
        starts = np.append(0, np.flatnonzero(tokens[:-1] == eos) + 1)
    return np.insert(tokens, starts, vocab_size), starts + np.arange(len(starts))


def _check(ids: Ints, vocab_size: int) -> None:
    if len(ids) and not 0 <= int(ids.min()) <= int(ids.max()) < vocab_size:
        wrong = int(ids.min()) if ids.min() < 0 else int(ids.max())
        raise ValueError(f"token id {wrong} is outside the vocabulary of {vocab_size}")


def _distinct(keys: Ints, end: int, *, inverse: bool) -> tuple[Ints, Ints, Ints, Ints]:
    """The distinct keys below ``end``, ascending; where each was met, how often, and, where asked for, which
    one each of ``keys`` is (as many as there are: none of them)."""
    order, ordered = _sorted(keys)
    new = np.empty(len(keys), bool)
    new[0] = True
    np.not_equal(ordered[1:], ordered[:-1], out=new[1:])
    valid = int(np.searchsorted(ordered, end))
    starts = np.flatnonzero(new[:valid])
    which = np.empty(len(keys) if inverse else 0, np.int64)
    if inverse:
        which[order[:valid]] = np.cumsum(new[:valid]) - 1
        which[order[valid:]] = len(starts)
    return ordered[starts], order[starts], np.diff(starts, append=valid), which


def _sorted(keys: Ints) -> tuple[Ints, Ints]:
    """A stable sorting order and the keys in it. Sorting numbers is several times faster than sorting
    positions by them, so key and position share one number where they fit."""
    bits = (len(keys) - 1).bit_length()
    if int(keys.max()).bit_length() + bits <= 63:
        packed = keys << bits
        packed |= np.arange(len(keys))
        packed.sort()
        order = packed & ((1 << bits) - 1)
        packed >>= bits
        return order, packed
    order = np.argsort(keys, kind="stable")
    return order, keys[order]


def _search(keys: Ints, wanted: Ints) -> Ints:
    """Where each wanted key lies in ``keys`` (ascending, not empty), -1 where it does not."""
    order, ordered = _sorted(wanted)  # ascending questions walk through the cache instead of jumping about
    at = np.minimum(np.searchsorted(keys, ordered), len(keys) - 1)
    at[keys[at] != ordered] = -1
    found = np.empty(len(wanted), np.int64)
    found[order] = at
    return found


def _before(found: Ints) -> Ints:
    """What ends one position earlier; nothing (-1) before the first."""
    return np.append(-1, found)[: len(found)]


class NGrams:
    """An n-gram language model over token ids.

    ``counts`` may be of a higher order than the model; several models may share them. The model is two
    tables an order: the interpolated probability of each n-gram, and of each context the weight that the
    order below gets in it.
    """

    def __init__(self, counts: Counts, smoothing: Smoothing, order: int | None = None) -> None:
        self.counts = counts
        self.smoothing = smoothing
        self.order = counts.order if order is None else order
        if not 1 <= self.order <= counts.order:
            raise ValueError(f"these counts hold orders 1 to {counts.order}, not {order}")
        self.discounts: list[Discounts] = []  # an order each, Kneser-Ney only
        self.estimated: list[bool] = []  # whether those came from the text, or are the fallback
        self._prob: list[Floats] = []  # [k-1]: of each k-gram; the lowest is dense [V]
        self._weight: list[Floats] = [np.ones(1)]  # [k-1]: of the lower order in each (k-1)-gram context
        for k in range(1, self.order + 1):
            self._add(k)

    @staticmethod
    def fit(
        streams: Iterable[ArrayLike],
        order: int,
        vocab_size: int,
        smoothing: Smoothing | Literal["kneser_ney", "mle", "laplace"] = "kneser_ney",
        *,
        eos: int | None = None,
    ) -> NGrams:
        """Count and smooth. ``streams``: arrays of ids; with ``eos`` each is a document (see ``Counts.of``)."""
        chosen = NAMES[smoothing] if isinstance(smoothing, str) else smoothing
        return NGrams(Counts.of(streams, order, vocab_size, eos=eos), chosen)

    @property
    def vocab_size(self) -> int:
        return self.counts.vocab_size

    @property
    def num_ngrams(self) -> tuple[int, ...]:
        """Distinct n-grams an order; the begin mark is not one."""
        tokens = int((self.counts.levels[0].count[:-1] > 0).sum())
        return (tokens, *(len(level.key) for level in self.counts.levels[1 : self.order]))

    def log_probs(self, ids: ArrayLike, *, begins: bool = True) -> Floats:
        """log p(ids[t] | the tokens before it), in nats: [T], -inf where the estimate is 0.

        A model of documents takes ``ids`` from the beginning of one (``begins=False``: from somewhere inside)
        and starts anew after every ``eos``, so a packed stream scores as its documents do one by one.
        """
        return self._log_probs(*self._marked(np.asarray(ids), begins))

    def score(self, streams: Iterable[ArrayLike]) -> Floats:
        """log p of every token that ``fit`` would count in ``streams``, ``eos`` included, in nats: [sum of T].

        ``exp(-score.mean())`` is the perplexity of spec 01 section 4.
        """
        tokens, _ = _laid_out(streams, self.vocab_size, self.counts.eos)
        return self._log_probs(tokens, tokens < self.vocab_size)

    def _log_probs(self, tokens: Ints, real: NDArray[np.bool_]) -> Floats:
        found = self.counts.find(tokens)[: self.order]
        lowest = self._prob[0][np.where(real, tokens, 0)]
        prob = lowest.copy()
        unigram = isinstance(self.smoothing, Laplace) and self.smoothing.backoff == "unigram"
        for k in range(2, self.order + 1):
            context = _before(found[k - 2])
            known = context >= 0  # a context never seen says nothing: the lower order's answer stands
            prob[known] = self._weight[k - 1][context[known]] * (lowest if unigram else prob)[known]
            seen = found[k - 1] >= 0
            prob[seen] = self._prob[k - 1][found[k - 1][seen]]
        with np.errstate(divide="ignore"):
            return np.log(prob[real])

    def next_token_log_probs(self, ids: ArrayLike, *, begins: bool = True) -> Floats:
        """log p(. | ids) of every token, in nats: [V]. Reads the last ``order - 1`` ids."""
        history = np.asarray(ids)
        recent = history[max(0, len(history) - self.order + 1) :]
        tokens, _ = self._marked(recent, begins and len(history) < self.order)
        if self.counts.eos is not None and len(recent) and recent[-1] == self.counts.eos:
            tokens = np.array([self.vocab_size])
        found = self.counts.find(tokens)
        prob = lowest = self._prob[0]
        unigram = isinstance(self.smoothing, Laplace) and self.smoothing.backoff == "unigram"
        for k in range(2, self.order + 1):
            context = int(found[k - 2][-1]) if len(tokens) else -1
            if context < 0:
                break
            key = self.counts.levels[k - 1].key
            here = slice(*np.searchsorted(key, [context * self.vocab_size, (context + 1) * self.vocab_size]))
            prob = self._weight[k - 1][context] * (lowest if unigram else prob)
            prob[key[here] - context * self.vocab_size] = self._prob[k - 1][here]
        with np.errstate(divide="ignore"):
            return np.log(prob)

    def _marked(self, ids: Ints, begins: bool) -> tuple[Ints, NDArray[np.bool_]]:
        """The ids with begin marks put before documents, and which of those are ids."""
        _check(ids, self.vocab_size)
        ids = ids.astype(np.int64, copy=False)
        if self.counts.eos is None:
            return ids, np.ones(len(ids), bool)
        starts = np.flatnonzero(ids[:-1] == self.counts.eos) + 1
        tokens = np.insert(ids, np.append(0, starts) if begins else starts, self.vocab_size)
        return tokens, tokens < self.vocab_size

    def _add(self, k: int) -> None:
        level = self.counts.levels[k - 1]
        size = self.vocab_size
        if k == 1:
            context, lower = np.zeros(size, np.int64), np.full(size, 1 / size)
            count, left, num_contexts = level.count[:-1], level.left[:-1], 1
        else:
            context, lower = level.key // size, self._prob[k - 2][level.suffix]
            count, left, num_contexts = level.count, level.left, len(self.counts.levels[k - 2].key)
        total: NDArray[Any]
        if isinstance(self.smoothing, KneserNey):
            seen = (count if k == self.order else left).astype(np.float64)
            discount, estimated = _discounts(seen, k, self.smoothing.fallback)
            self.discounts.append(discount)
            self.estimated.append(estimated)
            taken = np.array([0.0, *discount])[np.minimum(seen, 3).astype(np.int64)]
            total = np.bincount(context, seen, num_contexts)
            kept, given = seen - taken, np.bincount(context, taken, num_contexts)
        else:
            eps = self.smoothing.pseudo_count(k)
            if self.smoothing.backoff == "unigram" and k > 2:
                lower = self._prob[0][level.key % size]
            kept, given = count.astype(np.float64), np.full(num_contexts, eps)
            total = np.bincount(context, kept, num_contexts)
            if self.smoothing.context == "raw" and k > 1:
                total = self.counts.levels[k - 2].count.astype(np.float64)
            total = total + eps
        # A context that nothing follows, or an empty sum, leaves everything to the order below.
        weight = np.divide(given, total, out=np.ones(num_contexts), where=total > 0)
        share = np.divide(kept, total[context], out=np.zeros(len(kept)), where=total[context] > 0)
        self._weight[k - 1 :] = [weight]
        self._prob.append(share + weight[context] * lower)

    def save(self, path: str | Path) -> None:
        """Write counts and smoothing to one safetensors file; the tables are made again by ``load``."""
        from safetensors.numpy import save_file

        tensors = {}
        for k, level in enumerate(self.counts.levels[: self.order], 1):
            tensors[f"{k}.key"] = level.key
            for name in ("count", "left", "suffix"):
                values: Ints = getattr(level, name)
                small = values.max(initial=0) < 2**32
                tensors[f"{k}.{name}"] = values.astype(np.uint32 if small else np.int64)
        kind = "kneser_ney" if isinstance(self.smoothing, KneserNey) else "laplace"
        header = {
            "format": FORMAT,
            "vocab_size": self.vocab_size,
            "eos": self.counts.eos,
            "order": self.order,
            "smoothing": {"kind": kind, **asdict(self.smoothing)},
        }
        path = Path(path)
        aside = path.with_name(path.name + ".part")
        save_file(tensors, aside, {"plume": json.dumps(header)})
        os.replace(aside, path)

    @staticmethod
    def load(path: str | Path) -> NGrams:
        """Read what ``save`` wrote; probabilities are bit for bit those that were saved.

        Raises:
            UserError: the file is missing, damaged or of another kind.
        """
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, framework="numpy") as file:
                header = json.loads((file.metadata() or {}).get("plume", "{}"))
                if header.get("format") != FORMAT:
                    raise UserError(f"{path} is not an n-gram model that this version of Plume reads")
                levels = tuple(
                    Level(*(file.get_tensor(f"{k}.{name}").astype(np.int64) for name in Level.__slots__))
                    for k in range(1, header["order"] + 1)
                )
        except (OSError, SafetensorError, json.JSONDecodeError, KeyError) as error:
            raise UserError(f"{path} cannot be read as an n-gram model ({error}): fit it again") from error
        counts = Counts(header["vocab_size"], header["eos"], levels)
        return NGrams(counts, _smoothing(header["smoothing"]))


def _smoothing(tree: dict[str, Any]) -> Smoothing:
    fields: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in tree.items()}
    return KneserNey(**fields) if fields.pop("kind") == "kneser_ney" else Laplace(**fields)


def discounts(counts_of_counts: Sequence[float]) -> Discounts | None:
    """D1, D2 and D3+ from t1..t4, the numbers of n-grams seen once to four times (rule 4 of spec 01 section 3).

    ``None`` where they say nothing: one of t1..t3 is 0, or a discount falls outside [0, its count].

    >>> [round(d, 7) for d in discounts([40, 15, 8, 5])]
    [0.5714286, 1.0857143, 1.5714286]
    """
    t = counts_of_counts
    if min(t[:3]) <= 0:
        return None
    y = t[0] / (t[0] + 2 * t[1])
    d1, d2, d3 = (j - (j + 1) * y * t[j] / t[j - 1] for j in (1, 2, 3))
    return (d1, d2, d3) if 0 <= d1 <= 1 and 0 <= d2 <= 2 and 0 <= d3 <= 3 else None


def _discounts(seen: Floats, order: int, fallback: Discounts | str) -> tuple[Discounts, bool]:
    tallies: list[int] = np.bincount(np.minimum(seen, 5).astype(np.int64), minlength=6)[1:5].tolist()
    if (found := discounts(tallies)) is not None:
        return found, True
    if not isinstance(fallback, str):
        return fallback, False
    once, twice, thrice, _ = tallies
    what = f"Kneser-Ney's discounts of order {order} cannot be estimated: {once}, {twice} and {thrice} n-grams " \
           "occur once, twice and three times"  # fmt: skip
    if fallback == "error":
        raise ValueError(f"{what}; give more text, or a fallback, for example (0.5, 1.0, 1.5)")
    if once or twice or thrice:  # a vocabulary of frequent tokens only: any discount does
        warnings.warn(f"{what} (a small text?); 0.5, 1 and 1.5 are used instead", stacklevel=5)
    return (0.5, 1.0, 1.5), False
