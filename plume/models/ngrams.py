"""n-gram models: asked for a token, a text or a whole distribution, in memory or mapped from a file (spec 01).

A model keeps counts, not probabilities: a byte an n-gram, and a code for what its context divides by and passes
down. So a saved model answers with all digits of the formulas, and takes 5 to 9 bytes an n-gram. Models
read from ARPA files, which hold no counts, keep their logarithms instead. No torch here.

V = vocabulary size, T = tokens asked about, N_k = distinct k-grams.
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from plume.errors import UserError
from plume.models.counts import Counts, check, joined, laid_out
from plume.models.smoothing import NAMES, Discounts, KneserNey, Laplace, Smoothed, Smoothing, smooth
from plume.models.storage import writing

Ints = NDArray[Any]
Floats = NDArray[np.float64]
FORMAT = "plume-ngrams-2"
_PIECE = 1 << 15  # tokens that a thread takes at once: what is known of them stays in its cache


@dataclass(frozen=True)
class Order:
    """The k-grams of one order, k > 1, side by side by context (the (k-1)-gram before the last token).

    Those of context ``c`` begin at ``base[c >> shift] + offset[c]``; ``token`` [N_k] ascends within a context.
    ``seen`` [N_k] are counts as bytes, 255 for those that stand in ``many`` at the places ``many_at``; of a model
    from an ARPA file it is empty, and ``listed`` [N_k] has log10 p. ``table[code[c]]`` is a context's total and
    the weight of the order below in it.
    """

    base: Ints
    offset: Ints
    shift: int
    token: Ints
    seen: Ints
    many_at: Ints
    many: Ints
    listed: NDArray[np.float32]
    code: Ints
    table: Floats
    discount: Floats

    def __post_init__(self) -> None:
        for (
            name
        ) in ARRAYS:  # one type for what is in memory and what is mapped, so that loops are compiled once
            getattr(self, name).setflags(write=False)

    def __len__(self) -> int:
        return len(self.token)

    @property
    def start(self) -> Ints:
        """Where each context's n-grams begin, and the end: [N_{k-1} + 1]."""
        found: Ints = self.base[np.arange(len(self.offset)) >> self.shift] + self.offset
        return found

    @cached_property
    def rank(self) -> Ints:
        """How many of ``many`` come before each block of n-grams: looking for one, that is where to begin."""
        from plume.models import ngram_kernels as kernels

        blocks = np.arange((len(self) >> kernels.BLOCK_BITS) + 1) << kernels.BLOCK_BITS
        found: Ints = np.searchsorted(self.many_at, blocks)
        return found

    def counts(self, here: slice) -> Ints:
        """How often the n-grams of a stretch count."""
        seen = self.seen[here].astype(np.int64)
        first, end = np.searchsorted(self.many_at, [here.start, here.stop])
        seen[self.many_at[first:end] - here.start] = self.many[first:end]
        return seen

    def probabilities(self, context: int, here: slice, lower: Floats) -> Floats:
        """p of the n-grams of a stretch, all of one context, given the order below's."""
        if len(self.listed):
            return np.power(10.0, self.listed[here].astype(np.float64))
        total, weight = self.table[self.code[context]]
        seen = self.counts(here)
        found: Floats = (seen - self.discount[np.minimum(seen, 3)]) / total + weight * lower
        return found


ARRAYS = ("base", "offset", "token", "seen", "many_at", "many", "listed", "code", "table", "discount")


def packed(
    start: Ints,
    token: Ints,
    vocab_size: int,
    *,
    total: Floats,
    weight: Floats,
    seen: Ints | None = None,
    discount: Floats | None = None,
    listed: Floats | None = None,
) -> Order:
    """An ``Order`` in as few bytes as it takes. ``start`` [N_{k-1} + 1], ``total`` and ``weight`` [N_{k-1}]."""
    from plume.models import ngram_kernels as kernels

    shift = 6
    while shift and len(start) > 1 << shift:
        blocks = start[: len(start) >> shift << shift].reshape(-1, 1 << shift)
        if int((blocks[:, -1] - blocks[:, 0]).max(initial=0)) < 1 << 16:
            break
        shift -= 1
    base = start[:: 1 << shift].astype(np.int64)
    offset = start - base[np.arange(len(start)) >> shift]
    if int(offset.max(initial=0)) >= 1 << 16:
        base, offset, shift = start.astype(np.int64), np.zeros(len(start), np.int64), 0
    codes, table = kernels.pair_codes(np.ascontiguousarray(total), np.ascontiguousarray(weight))
    counts = np.zeros(0, np.int64) if seen is None else seen
    many_at = np.flatnonzero(counts >= 255)
    return Order(
        base=base,
        offset=offset.astype(np.uint16),
        shift=shift,
        token=token.astype(_width(vocab_size)),
        seen=np.minimum(counts, 255).astype(np.uint8),
        many_at=many_at,
        many=counts[many_at].astype(np.int64),
        listed=np.zeros(0, np.float32) if listed is None else listed.astype(np.float32),
        code=codes.astype(_width(len(table))),
        table=table,
        discount=np.zeros(4) if discount is None else discount,
    )


def _width(size: int) -> type[np.unsignedinteger[Any]]:
    return np.uint16 if size <= 1 << 16 else np.uint32


class NGrams:
    """An n-gram language model over token ids.

    ``unigram`` [V] are probabilities; ``orders`` the higher orders, where the last context of order 2, V, is the
    begin mark, which is no id and never predicted. ``straight``: every order falls back to the unigram, as in
    the lecture notes, not to the order below. ``smoothing`` is None for a model that was read from an ARPA file.
    """

    def __init__(
        self,
        vocab_size: int,
        eos: int | None,
        unigram: Floats,
        orders: tuple[Order, ...],
        smoothing: Smoothing | None,
        *,
        discounts: tuple[Discounts, ...] = (),
        estimated: tuple[bool, ...] = (),
    ) -> None:
        self.vocab_size, self.eos, self.smoothing = vocab_size, eos, smoothing
        self.unigram, self.orders = unigram, orders
        self.unigram.setflags(write=False)
        self.discounts = discounts  # an order each, Kneser-Ney only
        self.estimated = estimated  # whether those came from the text, or are the fallback
        self.straight = isinstance(smoothing, Laplace) and smoothing.backoff == "unigram"

    @staticmethod
    def of(
        counts: Counts, smoothing: Smoothing, order: int | None = None, *, never: Collection[int] = ()
    ) -> NGrams:
        """Smooth ``counts``, which may be of a higher order than the model; several models may share them.

        ``never``: ids that are no text (padding, a mask), which get no probability at all.

        Raises:
            ValueError: the counts are of a lower order.
        """
        order = counts.order if order is None else order
        if not 1 <= order <= counts.order:
            raise ValueError(f"these counts hold orders 1 to {counts.order}, not {order}")
        support = np.ones(counts.vocab_size, bool)
        support[list(never)] = False
        levels = smooth(counts, smoothing, order, support)
        lowest = levels[0]
        share = (lowest.seen - lowest.discount[np.minimum(lowest.seen, 3)]) / lowest.total[0]
        unigram = np.where(support, share + lowest.weight[0] / support.sum(), 0.0)
        orders = tuple(_order(counts, levels, k) for k in range(2, order + 1))
        kneser_ney = isinstance(smoothing, KneserNey)
        return NGrams(
            counts.vocab_size,
            counts.eos,
            unigram,
            orders,
            smoothing,
            discounts=tuple(_three(level) for level in levels) if kneser_ney else (),
            estimated=tuple(level.estimated for level in levels) if kneser_ney else (),
        )

    @staticmethod
    def fit(
        streams: Iterable[ArrayLike],
        order: int,
        vocab_size: int,
        smoothing: Smoothing | Literal["kneser_ney", "mle", "laplace"] = "kneser_ney",
        *,
        eos: int | None = None,
        never: Collection[int] = (),
    ) -> NGrams:
        """Count and smooth. ``streams``: arrays of ids; with ``eos`` each is a document (see ``Counts.of``)."""
        chosen = NAMES[smoothing] if isinstance(smoothing, str) else smoothing
        return NGrams.of(Counts.of(streams, order, vocab_size, eos=eos), chosen, never=never)

    @property
    def order(self) -> int:
        return 1 + len(self.orders)

    @property
    def num_ngrams(self) -> tuple[int, ...]:
        """n-grams an order: ids that can occur, then what is kept of each order."""
        return (int((self.unigram > 0).sum()), *map(len, self.orders))

    @property
    def num_bytes(self) -> int:
        """What the model takes in memory, or mapped."""
        parts: list[Ints] = [getattr(order, name) for order in self.orders for name in ARRAYS]
        return sum((part.nbytes for part in parts), self.unigram.nbytes)

    def facts(self) -> dict[str, str]:
        """What there is to say of it, for a card."""
        each = ", ".join(f"{n:,}" for n in self.num_ngrams)
        size = self.num_bytes / sum(self.num_ngrams)
        return {
            "model": f"n-grams of order {self.order}: {each}; {size:.1f} bytes each",
            "smoothing": "as imported" if self.smoothing is None else str(self.smoothing),
        }

    def log_probs(self, ids: ArrayLike, *, begins: bool = True) -> Floats:
        """log p(ids[t] | the tokens before it), in nats: [T], -inf where the estimate is 0.

        A model of documents takes ``ids`` from the beginning of one (``begins=False``: from somewhere inside)
        and starts anew after every ``eos``, so a packed stream scores as its documents do one by one.
        """
        return self._log_probs(self._marked(np.asarray(ids), begins))

    def score(self, streams: Iterable[ArrayLike]) -> Floats:
        """log p of every token that ``fit`` would count in ``streams``, ``eos`` included, in nats: [sum of T].

        ``exp(-score.mean())`` is the perplexity of spec 01 section 4.
        """
        return self._log_probs(laid_out(*joined(streams), self.vocab_size, self.eos)[0])

    def score_documents(self, ids: Ints, ends: Ints) -> Floats:
        """The same of documents that lie end to end: ``ids`` [N], and ``ends`` [D + 1], where each begins, and the
        end."""
        return self._log_probs(laid_out(ids, ends, self.vocab_size, self.eos)[0])

    def _log_probs(self, tokens: Ints) -> Floats:
        """log p of each of ``tokens`` that is no begin mark, given what stands before it; on all threads, whose number
        changes no bit."""
        from plume.compiling import threads

        logs = np.empty(len(tokens))
        reach = self.order - 1  # the tokens before a piece that it must know

        def fill(first: int) -> None:
            begin, end = max(0, first - reach), first + _PIECE
            with np.errstate(divide="ignore"):
                np.log(self._probs(tokens[begin:end])[first - begin :], out=logs[first:end])

        firsts = range(0, len(tokens), _PIECE)
        if (workers := min(len(firsts), threads())) > 1:
            with ThreadPoolExecutor(workers) as pool:
                list(pool.map(fill, firsts))
        else:
            for first in firsts:
                fill(first)
        return logs[tokens < self.vocab_size]

    def _probs(self, tokens: Ints) -> Floats:
        from plume.models import ngram_kernels as kernels

        prob, found = np.empty(len(tokens)), tokens
        kernels.lowest(tokens, self.unigram, prob)
        lowest = prob.copy() if self.straight else prob
        if self.eos is None:  # a plain stream's beginning is no context
            found = np.where(tokens < self.vocab_size, tokens, -1)
        packed = np.empty(len(tokens), np.int64)
        bits, token_bits = len(tokens).bit_length(), self.vocab_size.bit_length()
        for order in self.orders:
            below, found = found, np.full(len(tokens), -1)
            # In the order of the model: its memory is then read from front to back, if with gaps.
            drop = max(0, len(order.offset).bit_length() + token_bits + bits - 63)
            size = kernels.asked(tokens, below, self.vocab_size, bits, token_bits, drop, packed)
            packed[:size].sort()
            kernels.answer(
                packed[:size], bits, tokens, below, lowest, order.base, order.offset, order.shift, order.token,
                order.seen, order.many_at, order.many, order.rank, order.listed, order.code, order.table,
                order.discount, prob, found,
            )  # fmt: skip
        return prob

    def next_token_log_probs(self, ids: ArrayLike, *, begins: bool = True) -> Floats:
        """log p(. | ids) of every token, in nats: [V]. Reads the last ``order - 1`` ids."""
        with np.errstate(divide="ignore"):
            found: Floats = np.log(self._distribution(self._recent(np.asarray(ids), begins)))
        return found

    def _recent(self, history: Ints, begins: bool) -> Ints:
        """The end of a history, as far as it matters, with its begin mark."""
        recent = history[max(0, len(history) - self.order + 1) :]
        if self.eos is not None and len(recent) and recent[-1] == self.eos:
            return np.array([self.vocab_size])
        return self._marked(recent, begins and len(history) < self.order)

    def levels(self, ids: ArrayLike, *, begins: bool = True) -> list[tuple[Floats, float]]:
        """What each order that has met the end of ``ids`` says comes next, the lowest first: p of every token [V], and
        the weight of the order below in it (nan of the lowest)."""
        return list(self._levels(self._recent(np.asarray(ids), begins)))

    def _distribution(self, tokens: Ints) -> Floats:
        *_, (prob, _) = self._levels(tokens)
        return prob

    def _levels(self, tokens: Ints) -> Iterator[tuple[Floats, float]]:
        prob = lowest = self.unigram
        yield prob, np.nan
        for k, order in enumerate(self.orders, 2):
            if len(tokens) < k - 1:
                break
            context = self._find(tokens[len(tokens) - k + 1 :])
            if context < 0:
                break
            here = self._children(order, context)
            lower = lowest if self.straight else prob
            prob = lower * order.table[order.code[context], 1]
            token = order.token[here]
            prob[token] = order.probabilities(context, here, lower[token])
            yield prob, float(order.table[order.code[context], 1])

    def _find(self, gram: Ints) -> int:
        """Which n-gram of its order ``gram`` is; -1: none."""
        at = int(gram[0])
        for order, token in zip(self.orders, gram[1:], strict=False):
            if token >= self.vocab_size:
                return -1
            here = self._children(order, at)
            at = int(here.start + np.searchsorted(order.token[here], token))
            if at == here.stop or order.token[at] != token:
                return -1
        return int(at)

    def _children(self, order: Order, context: int) -> slice:
        first, end = (
            int(order.base[c >> order.shift]) + int(order.offset[c]) for c in (context, context + 1)
        )
        return slice(first, end)

    def _marked(self, ids: Ints, begins: bool) -> Ints:
        """The ids with begin marks put before documents."""
        check(ids, self.vocab_size)
        ids = ids.astype(np.int64, copy=False)
        if self.eos is None:
            return ids
        starts = np.flatnonzero(ids[:-1] == self.eos) + 1
        return np.insert(ids, np.append(0, starts) if begins else starts, self.vocab_size)

    def missing_mass(self) -> list[tuple[tuple[int, ...], float]]:
        """Contexts whose probabilities do not sum to 1, and their sum: what ``Laplace(context="raw")`` loses.

        The begin mark is V. The empty context's sum is over the V ids too.
        """
        found: list[tuple[tuple[int, ...], float]] = []
        whole = float(self.unigram.sum())
        if abs(whole - 1) > 1e-12:
            found.append(((), whole))
        grams = np.arange(self.vocab_size + 1)[:, None]
        for k, order in enumerate(self.orders, 2):
            start = order.start
            contexts = np.repeat(np.arange(len(start) - 1), np.diff(start))
            seen = order.counts(slice(0, len(order)))
            total, weight = order.table[order.code].T
            share = (seen - order.discount[np.minimum(seen, 3)]) / total[contexts]
            sums = np.bincount(contexts, share, len(start) - 1) + weight * (
                whole if self.straight or k == 2 else 1.0
            )
            lost = np.abs(sums - 1) > 1e-12
            if self.eos is None:  # a plain stream's beginning is no context
                lost &= grams[:, 0] < self.vocab_size
            found += [(tuple(grams[c].tolist()), float(sums[c])) for c in np.flatnonzero(lost)]
            grams = np.column_stack([grams[contexts], order.token])
        return found

    def save(self, path: str | Path) -> None:
        """Write the model to one safetensors file, which ``load`` maps into memory."""
        from safetensors.numpy import save_file

        tensors: dict[str, Ints] = {"1.unigram": self.unigram}
        for k, order in enumerate(self.orders, 2):
            tensors |= {f"{k}.{name}": np.ascontiguousarray(getattr(order, name)) for name in ARRAYS}
        header = {
            "format": FORMAT,
            "vocab_size": self.vocab_size,
            "eos": self.eos,
            "shifts": [order.shift for order in self.orders],
            "smoothing": None if self.smoothing is None else _tree(self.smoothing),
            "discounts": self.discounts,
            "estimated": self.estimated,
        }
        path = Path(path)
        aside = path.with_name(path.name + ".part")
        with writing(path):
            save_file(tensors, aside, {"plume": json.dumps(header)})
        with aside.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(aside, path)

    @staticmethod
    def load(path: str | Path) -> NGrams:
        """Map what ``save`` wrote; answers are bit for bit those of the saved model.

        Raises:
            UserError: the file is missing, damaged or of another kind.
        """
        path = Path(path)
        try:
            header, arrays = _mapped(path)
            if header.get("format") != FORMAT:
                raise UserError(f"{path} is not an n-gram model that this version of Plume reads")
            orders = tuple(
                Order(shift=shift, **{name: arrays[f"{k}.{name}"] for name in ARRAYS})
                for k, shift in enumerate(header["shifts"], 2)
            )
            _check_shapes(header["vocab_size"], arrays["1.unigram"], orders)
            return NGrams(
                header["vocab_size"],
                header["eos"],
                arrays["1.unigram"],
                orders,
                None if header["smoothing"] is None else _smoothing(header["smoothing"]),
                discounts=tuple((d[0], d[1], d[2]) for d in header["discounts"]),
                estimated=tuple(header["estimated"]),
            )
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{path} cannot be read as an n-gram model ({error}): fit it again") from error


def _order(counts: Counts, levels: list[Smoothed], k: int) -> Order:
    """Order k of a model, pruned n-grams left out of it and of the contexts."""
    level, smoothed, below = counts.levels[k - 1], levels[k - 1], levels[k - 2]
    start, token = level.children
    kept = smoothed.kept
    seen, total, weight = smoothed.seen, smoothed.total, smoothed.weight
    if not kept.all():
        before = np.concatenate([[0], np.cumsum(kept)])
        start, token, seen = before[start], token[kept], seen[kept]
    if k > 2 and not below.kept.all():
        # A context that was dropped has no n-grams left either: it occurred no more often than they did.
        start = np.append(start[:-1][below.kept], start[-1])
        total, weight = total[below.kept], weight[below.kept]
    return packed(start, token, counts.vocab_size, total=total, weight=weight, seen=seen,
                  discount=smoothed.discount)  # fmt: skip


def _three(level: Smoothed) -> Discounts:
    one, two, more = level.discount[1:].tolist()
    return one, two, more


def _check_shapes(vocab_size: int, unigram: Ints, orders: tuple[Order, ...]) -> None:
    """Whether no lookup can leave the arrays of a file."""
    contexts = vocab_size + 1
    fits = unigram.shape == (vocab_size,)
    for order in orders:
        start = order.start if len(order.offset) == contexts + 1 else np.array([-1])
        fits = fits and bool((np.diff(start) >= 0).all()) and start[0] == 0 and start[-1] == len(order)
        fits = fits and len(order.code) == contexts and int(order.code.max(initial=0)) < len(order.table)
        fits = fits and len(order.discount) == 4 and len(order.many) == len(order.many_at)
        fits = fits and len(order) in (len(order.seen), len(order.listed))
        contexts = len(order)
    if not fits:
        raise ValueError("its parts do not fit together")


def _mapped(path: Path) -> tuple[dict[str, Any], dict[str, Ints]]:
    """The header of a safetensors file and its tensors as maps of the file: no byte is read before it is needed."""
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        if size > 1 << 24:
            raise ValueError("it has no safetensors header")
        tree = json.loads(file.read(size))
    data = np.memmap(path, np.uint8, "r", offset=8 + size)
    kinds = {"U8": np.uint8, "U16": np.uint16, "U32": np.uint32, "I64": np.int64, "F32": np.float32,
             "F64": np.float64}  # fmt: skip
    arrays = {}
    for name, entry in tree.items():
        if name != "__metadata__":
            first, end = entry["data_offsets"]
            if not 0 <= first <= end <= len(data):
                raise ValueError("it is shorter than it should be")
            arrays[name] = np.asarray(data[first:end]).view(kinds[entry["dtype"]]).reshape(entry["shape"])
    return json.loads(tree["__metadata__"]["plume"]), arrays


def _tree(smoothing: Smoothing) -> dict[str, Any]:
    return {"kind": "kneser_ney" if isinstance(smoothing, KneserNey) else "laplace", **asdict(smoothing)}


def _smoothing(tree: dict[str, Any]) -> Smoothing:
    fields: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in tree.items()}
    return KneserNey(**fields) if fields.pop("kind") == "kneser_ney" else Laplace(**fields)
