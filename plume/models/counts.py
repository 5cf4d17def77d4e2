"""Counts of n-grams of every order, in memory or in sorted runs that merge (spec 01 sections 1 and 3).

All n-grams of order k are one sorted array of keys ``context * V + token``, where ``context`` is the number
of the (k-1)-gram before the token in the array of order k-1: a trie without pointers, filled by one sort an
order. Counts of two texts merge in one pass, since renumbering contexts keeps their order. No torch here.

V = vocabulary size, T = tokens, N_k = distinct k-grams.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from plume.errors import UserError

Ints = NDArray[Any]
_WORTH_THREADS = 1 << 16  # tokens


@dataclass(frozen=True)
class Level:
    """The distinct k-grams of one order, [N_k] each, ascending in ``key``; ``num_contexts`` is N_{k-1}.

    ``left`` is the number of distinct tokens seen before the k-gram (its count where it begins a document). The
    lowest level is dense: its key is the token, and its last entry the begin mark, which is only ever a context.
    """

    key: Ints
    count: Ints
    left: Ints
    vocab_size: int
    num_contexts: int

    @cached_property
    def children(self) -> tuple[Ints, Ints]:
        """Where each context's n-grams begin, [num_contexts + 1]; the last token of each n-gram, [N_k]."""
        from plume.models import ngram_kernels as kernels

        return kernels.children(self.key, self.vocab_size, self.num_contexts)


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
        return Counts.of_documents(*joined(streams), order, vocab_size, eos=eos)

    @staticmethod
    def of_documents(
        ids: Ints,
        ends: Ints,
        order: int,
        vocab_size: int,
        *,
        eos: int | None = None,
        begun: Callable[[int], None] = lambda order: None,
    ) -> Counts:
        """The same of documents that lie end to end: ``ids`` [N], and ``ends`` [D + 1], where each begins, and the
        end. ``begun`` is told each order that is counted now."""
        return Counts._of(*laid_out(ids, ends, vocab_size, eos), order, vocab_size, eos, begun)

    @staticmethod
    def _of(
        tokens: Ints, begins: Ints, order: int, vocab_size: int, eos: int | None, begun: Callable[[int], None]
    ) -> Counts:
        from plume.compiling import threads

        if order < 1:
            raise ValueError(f"the order of an n-gram model is at least 1, got {order}")
        if not len(tokens):
            raise UserError("an n-gram model needs at least one token of text; the data has none")
        begun(1)
        counts = np.bincount(tokens, minlength=vocab_size + 1)
        grams: list[tuple[Ints, Ints]] = [(np.arange(vocab_size + 1), counts)]
        lefts: list[Ints] = []
        # Which n-gram of the order below ends at each position; len(below): none does.
        ends_here = tokens.copy()
        if eos is None:
            ends_here[begins] = vocab_size + 1  # a stream's begin is no context
        with ThreadPoolExecutor(threads()) as pool:
            for k in range(2, order + 1):
                begun(k)
                seen = grams[-1][1]
                key, first, counts, which = _next(pool, ends_here, tokens, seen, vocab_size, k < order)
                lefts.append(_left(ends_here[first], seen, eos))
                grams.append((key, counts))
                ends_here = which
        return _counts(vocab_size, eos, grams, lefts)

    def merge(self, other: Counts) -> Counts:
        """The counts of both texts together, as if they had been counted at once.

        Raises:
            ValueError: they were not counted alike.
        """
        if (self.order, self.vocab_size, self.eos) != (other.order, other.vocab_size, other.eos):
            raise ValueError("only counts of the same order over the same vocabulary can be merged")
        mine, theirs = ([(level.key, level.count) for level in side.levels] for side in (self, other))
        return _merged(mine, theirs, self.vocab_size, self.eos)


def _counts(vocab_size: int, eos: int | None, grams: list[tuple[Ints, Ints]], lefts: list[Ints]) -> Counts:
    levels = []
    for k, (key, count) in enumerate(grams):
        left = lefts[k] if k < len(lefts) else count
        levels.append(Level(key, count, left, vocab_size, len(grams[k - 1][0]) if k else 1))
    return Counts(vocab_size, eos, tuple(levels))


def _next(
    pool: ThreadPoolExecutor, ends_here: Ints, tokens: Ints, seen: Ints, size: int, more: bool
) -> tuple[Ints, Ints, Ints, Ints]:
    """The distinct n-grams of the next order, the first position of each, how often each occurs, and, with ``more``,
    which ends at each position (as many as there are: none).

    ``ends_here`` [T] and ``seen`` say it of the order below. Threads take contexts that occur about equally often, so
    their number changes nothing.
    """
    from plume.compiling import threads
    from plume.models import ngram_kernels as kernels

    bits = (len(tokens) - 1).bit_length()
    if ((len(seen) + 1) * size).bit_length() + bits > 63:
        raise UserError("too much text for one piece of counting: count it in smaller ones")
    so_far = np.concatenate([[0], np.cumsum(seen)])
    workers = threads() if len(tokens) > _WORTH_THREADS else 1
    cuts = np.searchsorted(so_far, so_far[-1] * np.arange(workers + 1) // workers)
    cuts[0], cuts[-1] = 0, len(seen)

    def part(first: int, end: int) -> tuple[Ints, int]:
        room = int(so_far[end] - so_far[first])
        packed = kernels.keyed(ends_here, tokens, size, bits, first, end, room)
        packed.sort()
        return packed, kernels.kinds(packed, bits)

    parts = list(pool.map(part, cuts[:-1].tolist(), cuts[1:].tolist()))
    begins = np.cumsum([0, *(many for _, many in parts)]).tolist()
    key, first, counts = (np.empty(begins[-1], np.int64) for _ in range(3))
    which = np.full(len(tokens) if more else 0, begins[-1])
    list(
        pool.map(
            lambda p, at: kernels.distinct(p[0], bits, at, key, first, counts, which), parts, begins[:-1]
        )
    )
    return key, first, counts, which


def _left(suffixes: Ints, below: Ints, eos: int | None) -> Ints:
    """How many distinct tokens stood before each n-gram of the order below, given where each n-gram lies there
    without its first token."""
    left = np.bincount(suffixes, minlength=len(below))
    # Nothing stands before a document's begin: there the raw count takes its place (rule 3).
    return np.where(left > 0, left, below if eos is not None else np.minimum(below, 1))


def _merged(
    a: list[tuple[Ints, Ints]], b: list[tuple[Ints, Ints]], vocab_size: int, eos: int | None
) -> Counts:
    from plume.models import ngram_kernels as kernels

    grams: list[tuple[Ints, Ints]] = [(np.asarray(a[0][0]), a[0][1] + b[0][1])]
    lefts: list[Ints] = []
    of_a = of_b = suffix = grams[0][0]
    start, token = np.zeros(0, np.int64), np.zeros(0, np.int64)
    for (a_key, a_count), (b_key, b_count) in zip(a[1:], b[1:], strict=True):
        a_key, b_key = _renumbered(a_key, of_a, vocab_size), _renumbered(b_key, of_b, vocab_size)
        key, count, of_a, of_b = kernels.merged(a_key, np.asarray(a_count), b_key, np.asarray(b_count))
        below = start, token
        start, token = kernels.children(key, vocab_size, len(grams[-1][0]))
        contexts = np.repeat(np.arange(len(start) - 1), np.diff(start))
        # Without its first token an n-gram is its context without it, and the same last token.
        suffix = token if len(grams) == 1 else kernels.follow(*below, suffix[contexts], token)
        lefts.append(_left(suffix, grams[-1][1], eos))
        grams.append((key, count))
    return _counts(vocab_size, eos, grams, lefts)


def _renumbered(key: Ints, contexts: Ints, size: int) -> Ints:
    context, token = np.divmod(np.asarray(key), size)
    return contexts[context] * size + token


def joined(streams: Iterable[ArrayLike]) -> tuple[Ints, Ints]:
    """Streams end to end, and where each begins, and the end."""
    parts = [np.asarray(stream) for stream in streams]
    ends = np.cumsum([0, *map(len, parts)])
    ids = np.concatenate([np.zeros(0, np.int64), *parts], dtype=np.int64, casting="unsafe")
    return ids, ends


def laid_out(ids: Ints, ends: Ints, vocab_size: int, eos: int | None) -> tuple[Ints, Ints]:
    """Documents (see ``Counts.of``) each behind a begin mark, and where those marks are."""
    from plume.models import ngram_kernels as kernels

    check(ids, vocab_size)
    if eos is None and not len(ids):
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    ends = np.ascontiguousarray(ends, np.int64)
    return kernels.marked(np.ascontiguousarray(ids), ends - ends[0], vocab_size, -1 if eos is None else eos)


def check(ids: Ints, vocab_size: int) -> None:
    """Raises ValueError where an id lies outside the vocabulary."""
    if len(ids) and not 0 <= int(ids.min()) <= int(ids.max()) < vocab_size:
        wrong = int(ids.min()) if ids.min() < 0 else int(ids.max())
        raise ValueError(f"token id {wrong} is outside the vocabulary of {vocab_size}")


class Runs:
    """Counts of the pieces of a long text, each kept in a folder of its own as it is finished, and merged at the end.

    A piece that stands in the folder need not be counted again; one is written whole or not at all.
    """

    def __init__(self, folder: Path, vocab_size: int, eos: int | None) -> None:
        self.folder, self._vocab_size, self._eos = folder, vocab_size, eos

    def has(self, number: int) -> bool:
        """Whether piece ``number`` was counted already."""
        return (self.folder / f"{number:06}").is_dir()

    def add(self, number: int, counts: Counts) -> None:
        """Keep the counts of piece ``number``."""
        place = self.folder / f"{number:06}"
        aside = self.folder / f".{place.name}.{os.getpid()}"
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(parents=True)
        for k, level in enumerate(counts.levels, 1):
            for name, values in (("key", level.key), ("count", level.count)):
                with (aside / f"{k}.{name}.npy").open("wb") as file:
                    np.save(file, values, allow_pickle=False)
                    file.flush()
                    os.fsync(file.fileno())
        (aside / "order.json").write_text(json.dumps(counts.order), encoding="utf-8")
        aside.rename(place)

    def merged(self, pieces: int) -> Counts:
        """The counts of all pieces. In memory lie the result and one order of what is being merged.

        Merges are of neighbours of like size, so that each n-gram is copied few times.
        """
        stack: list[tuple[int, list[tuple[Ints, Ints]]]] = []
        result: Counts | None = None
        for number in range(pieces):
            stack.append((1, list(self._piece(number))))
            while len(stack) > 1 and (stack[-2][0] <= stack[-1][0] or number == pieces - 1):
                (n, b), (m, a) = stack.pop(), stack.pop()
                result = _merged(a, b, self._vocab_size, self._eos)
                stack.append((n + m, [(level.key, level.count) for level in result.levels]))
        if result is None:
            [(_, only)] = stack
            empty = [(only[0][0], np.zeros_like(only[0][1]))]
            empty += [(np.zeros(0, np.int64), np.zeros(0, np.int64))] * (len(only) - 1)
            result = _merged(only, empty, self._vocab_size, self._eos)
        return result

    def _piece(self, number: int) -> Iterator[tuple[Ints, Ints]]:
        place = self.folder / f"{number:06}"
        try:
            order = json.loads((place / "order.json").read_text(encoding="utf-8"))
            for k in range(1, order + 1):
                # Read where they are merged, not here: a map takes no memory.
                key, count = (
                    np.asarray(np.load(place / f"{k}.{name}.npy", mmap_mode="r", allow_pickle=False))
                    for name in ("key", "count")
                )
                yield key, count
        except (OSError, EOFError, ValueError) as error:
            raise UserError(
                f"{place} is damaged ({error}): delete it and run the same command again, which counts that piece anew"
            ) from None
