"""Attention on a CPU, tile by tile, so that scores never leave the cache.

A batch is cut into tiles that need nothing of one another: a group of rows, a run of packed documents, a
block of queries with the keys it can see. Each goes through scores, bias, softmax, dropout and values before the
next one starts, and reads and writes a layer's [R, L, 3, H, d] where it lies. On packed rows, and under a
causal mask, leaving out what nobody sees is most of the gain (speed.md section 3).

R rows, L slots, H heads, d = d_head; a tile has G rows, Q queries, K keys and N = G H matrices.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from plume.models.dropout import gain, kept, random_bytes
from plume.slots import NEVER, Layout, Slots

SCORES = 2**19  # scores in one tile, about: what caches hold
QUERIES = 128  # at most so many queries a tile where rows are longer
RUN = 128  # shorter documents share a tile until they are as long together
HIDDEN = torch.finfo(torch.float16).min  # finite in every dtype that is computed with here


@dataclass(frozen=True, slots=True)
class Tile:
    """A group of equal rows with a range of queries and one of keys.

    causal: only what comes before is seen. last: no later tile has its keys. hidden: float [G, 1, Q, K], 0 where
    seen, hugely negative elsewhere; ``None`` where nothing else is hidden. sighted: float [G, 1, Q, 1], 0 where a
    query sees nothing, else 1; ``None``: all see something.
    """

    rows: slice
    queries: slice
    keys: slice
    causal: bool
    last: bool
    hidden: Tensor | None = None
    sighted: Tensor | None = None


@dataclass(frozen=True, slots=True)
class Tiling:
    """The tiles of a batch.

    covered: no slot lies outside them, and the last tile of a span has all its keys; what lies outside gets 0.
    """

    tiles: tuple[Tile, ...]
    covered: bool


def cut(
    slots: Slots[Tensor],
    num_heads: int,
    band: int | None = None,
    *,
    keys: Slots[Tensor] | None = None,
    cross: bool = False,
) -> Tiling:
    """The tiles of rows [R, L], from the layout where there is one and from the ranks inside each tile.

    band: a slot sees only what lies fewer than so many positions away, and keys beyond that are left out. keys: what
    is seen, where it is not ``slots`` themselves: a past and they, or with ``cross`` another stack.
    """
    within = keys is None or keys is slots
    keys = slots if keys is None else keys
    shape = slots.input_ids.shape
    whole: list[tuple[Span, ...]] = [((0, len(slots), False),)] * shape[0]
    rows = _spans(slots.layout, shape) if within else whole
    causal = within and slots.layout is not None and slots.layout.pattern == "causal"
    near = band if within and band is not None and consecutive(slots) else 0
    trimmed = False
    tiles = []
    for group, spans in _groups(rows, num_heads, 0 if within else len(keys)):
        for start, stop, plain in spans:
            # Two causal blocks compute three quarters of the square.
            most = 2 * QUERIES - 1 if plain and causal else 2 * QUERIES
            step = stop - start if stop - start <= most else QUERIES
            for first in range(start, stop, step):
                queries = slice(first, min(first + step, stop))
                seen = (
                    slice(start, queries.stop if plain and causal else stop)
                    if within
                    else slice(0, len(keys))
                )
                if near:
                    seen = slice(max(start, first + 1 - near), min(seen.stop, queries.stop + near - 1))
                dense = plain and (band is None or stop - start <= band)
                last = queries.stop == stop and not near
                if dense:
                    tiles.append(Tile(group, queries, seen, causal, last))
                    continue
                mask, less = _mask(slots, keys, group, queries, seen, band, cross)
                trimmed |= less.stop < seen.stop
                tiles.append(Tile(group, queries, less, False, last and less == seen, *mask))
    covered = all(sum(stop - start for start, stop, _ in spans) == len(slots) for spans in rows)
    return Tiling(tuple(tiles), covered and not near and not trimmed)


def consecutive(slots: Slots[Tensor]) -> bool:
    """Whether in every document positions grow by 1 from slot to slot, so that slots are as far apart as positions."""
    follows = slots.document_ids[:, 1:] == slots.document_ids[:, :-1]
    ones = slots.position_ids[:, 1:] - slots.position_ids[:, :-1] == 1
    return bool((ones | ~follows | (slots.document_ids[:, 1:] < 0)).all())


def _mask(
    slots: Slots[Tensor],
    others: Slots[Tensor],
    rows: slice,
    queries: slice,
    keys: slice,
    band: int | None,
    cross: bool,
) -> tuple[tuple[Tensor | None, Tensor | None], slice]:
    """A tile's ``hidden`` and ``sighted``, and its keys without those at the end that none of its queries sees."""
    at = others.visible_at[rows, None, keys]
    visible = others.document_ids[rows, None, keys] == slots.document_ids[rows, queries, None]
    visible &= at != NEVER  # nobody reads what padding would see
    if not cross:
        visible &= at <= slots.sees_until[rows, queries, None]
    if band is not None:
        apart = others.position_ids[rows, None, keys] - slots.position_ids[rows, queries, None]
        visible &= apart.abs() < band
    if bool(visible.all()):
        return (None, None), keys
    used = visible.flatten(0, 1).any(0).nonzero()
    width = int(used[-1]) + 1 if len(used) else 1
    visible = visible[..., :width]
    some = visible.any(-1, keepdim=True)
    hidden = (
        None if bool(visible.all()) else torch.zeros(visible.shape).masked_fill_(~visible, HIDDEN)[:, None]
    )
    sighted = None if bool(some.all()) else some[:, None].float()
    return (hidden, sighted), slice(keys.start, keys.start + width)


Span = tuple[int, int, bool]  # start, stop, whether the layout's pattern says who sees whom in it


def _spans(layout: Layout | None, shape: torch.Size) -> list[tuple[Span, ...]]:
    """For each row the pieces that see nothing of one another, short documents together."""
    count, length = shape
    if layout is None:
        return [((0, length, False),)] * count
    plain = layout.pattern != "ranked"
    documents: list[list[tuple[int, int]]] = [[] for _ in range(count)]
    for row, start, size in layout.documents.tolist():
        documents[row].append((start, start + size))
    return [_runs(row, length, plain) for row in documents]


def _runs(documents: Sequence[tuple[int, int]], length: int, plain: bool) -> tuple[Span, ...]:
    runs: list[Span] = []
    for start, stop in documents:
        if runs and stop - runs[-1][0] <= RUN:
            runs[-1] = (runs[-1][0], stop, False)
        else:
            runs.append((start, stop, plain))
    # A row that gains little by being cut is left whole, so that it can go in one tile with its neighbours.
    whole = (0, length, plain and runs == [(0, length, plain)])
    work = sum((stop - start) ** 2 for start, stop, _ in runs)
    return (whole,) if work > 0.7 * length**2 or length <= RUN else tuple(runs)


def _groups(
    rows: list[tuple[Span, ...]], num_heads: int, keys: int
) -> Iterator[tuple[slice, tuple[Span, ...]]]:
    """Neighbouring rows with the same spans, as many as make a tile. keys: how many there are; 0: a span's own."""
    first = 0
    for after in range(1, len(rows) + 1):
        spans = rows[first]
        longest = max((stop - start for start, stop, _ in spans), default=1)
        scores = num_heads * (keys or longest) * min(longest, QUERIES)
        if after == len(rows) or rows[after] != spans or (after - first + 1) * scores > SCORES:
            yield slice(first, after), spans
            first = after


def attend_tiles(
    q: Tensor, k: Tensor, v: Tensor, tiling: Tiling, *, scale: float, rate: float, bias: Tensor | None = None
) -> Tensor:
    """[R, H, L, d], [R, H, K, d] twice -> [R, H, L, d]. ``rate``: dropout on the weights.

    bias: [R or 1, H, L, K], added to the scores.
    """
    out = _Tiles.apply(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), bias, tiling, scale, rate)  # type: ignore[no-untyped-call]
    return cast(Tensor, out).transpose(1, 2)


def attend_own_tiles(
    qkv: Tensor, tiling: Tiling, *, scale: float, rate: float, bias: Tensor | None = None
) -> Tensor:
    """[R, L, 3, H, d] -> [R, L, H, d], the same without a copy of anything."""
    return cast(Tensor, _OwnTiles.apply(qkv, bias, tiling, scale, rate))  # type: ignore[no-untyped-call]


def attend_other_tiles(q: Tensor, kv: Tensor, tiling: Tiling, *, scale: float, rate: float) -> Tensor:
    """[R, H, L, d], [R, H, 2, K, d] -> [R, H, L, d]: keys and values of another stack, and their gradients, in one
    place, so that nothing has to be put together on the way back."""
    out = _OtherTiles.apply(q.transpose(1, 2), kv.permute(0, 3, 2, 1, 4), tiling, scale, rate)  # type: ignore[no-untyped-call]
    return cast(Tensor, out).transpose(1, 2)


@lru_cache(maxsize=32)
def _before(queries: int, keys: int, dtype: torch.dtype) -> Tensor:
    return torch.full((queries, keys), HIDDEN, dtype=dtype).triu(1 + keys - queries)


def _part(t: Tensor, rows: slice, slots: slice) -> Tensor:
    """[R, L, H, d] -> [N, n, d]; a view where one row is taken."""
    return t[rows, slots].transpose(1, 2).flatten(0, 1)


def _place(t: Tensor, rows: slice, slots: slice, values: Tensor, *, add: bool = False) -> None:
    there = t[rows, slots]
    here = values.view(there.shape[0], there.shape[2], there.shape[1], there.shape[3]).transpose(1, 2)
    if add:
        there.add_(here)
    else:
        there.copy_(here)


def _of(bias: Tensor, tile: Tile) -> Tensor:
    """A tile's piece of [R or 1, H, L, K], a view."""
    return bias[tile.rows if len(bias) > 1 else slice(None), :, tile.queries, tile.keys]


Parts = Sequence[Tensor]  # queries, keys, values: [R, L or K, H, d] each


def _forward(
    parts: Parts, bias: Tensor | None, tiling: Tiling, scale: float, rate: float
) -> tuple[Tensor, list[Tensor]]:
    """What the queries get, [R, L, H, d], and what the way back needs of each tile."""
    queries, keys, values = parts
    out = torch.empty_like(queries, memory_format=torch.contiguous_format)
    if not tiling.covered:
        out.zero_()
    saved: list[Tensor] = []
    for tile in tiling.tiles:
        q = _part(queries, tile.rows, tile.queries)
        k, v = _part(keys, tile.rows, tile.keys), _part(values, tile.rows, tile.keys)
        start = _before(q.shape[1], k.shape[1], q.dtype) if tile.causal else q.new_zeros(())
        weights = torch.baddbmm(start, q, k.transpose(1, 2), beta=int(tile.causal), alpha=scale)
        by_row = weights.view(-1, queries.shape[2], *weights.shape[1:])
        if bias is not None:
            by_row.add_(_of(bias, tile))
        if tile.hidden is not None:
            by_row.add_(tile.hidden)
        torch.softmax(weights, -1, out=weights)
        if tile.sighted is not None:
            by_row.mul_(tile.sighted)
        saved.append(weights)
        if rate:
            random = random_bytes(weights.shape)
            saved.append(random)
            mixed = torch.bmm(kept(random, rate, weights.dtype).mul_(weights), v).mul_(gain(rate))
        else:
            mixed = torch.bmm(weights, v)
        _place(out, tile.rows, tile.queries, mixed)
    return out, saved


def _backward(
    parts: Parts,
    grad: Tensor,
    saved: list[Tensor],
    below: Parts,
    to_bias: Tensor | None,
    tiling: Tiling,
    scale: float,
    rate: float,
) -> None:
    """Writes the gradients of queries, keys and values to ``below``, where there are zeros unless the tiles cover it,
    and adds the bias's to ``to_bias``."""
    queries, keys, values = parts
    to_queries, to_keys, to_values = below
    # From the last block of a span, which has all its keys, to the first: the others only add to it.
    for tile in reversed(tiling.tiles):
        q = _part(queries, tile.rows, tile.queries)
        k, v = _part(keys, tile.rows, tile.keys), _part(values, tile.rows, tile.keys)
        g = _part(grad, tile.rows, tile.queries)
        if rate:
            g = g * gain(rate)
            keep = kept(saved.pop(), rate, q.dtype)
            weights = saved.pop()
            to_weights = torch.bmm(g, v.transpose(1, 2)).mul_(keep)
            dv = torch.bmm(keep.mul_(weights).transpose(1, 2), g)
        else:
            weights = saved.pop()
            to_weights = torch.bmm(g, v.transpose(1, 2))
            dv = torch.bmm(weights.transpose(1, 2), g)
        scores = torch._softmax_backward_data(to_weights, weights, -1, weights.dtype)
        if to_bias is not None:
            by_row = scores.view(-1, queries.shape[2], *scores.shape[1:])
            here = _of(to_bias, tile)
            here.add_(by_row.sum(0, keepdim=True) if len(here) < len(by_row) else by_row)
        zero = q.new_zeros(())
        dq = torch.baddbmm(zero, scores, k, beta=0, alpha=scale)
        dk = torch.baddbmm(zero, scores.transpose(1, 2), q, beta=0, alpha=scale)
        _place(to_queries, tile.rows, tile.queries, dq)
        _place(to_keys, tile.rows, tile.keys, dk, add=not tile.last)
        _place(to_values, tile.rows, tile.keys, dv, add=not tile.last)


def _room(like: Tensor, tiling: Tiling) -> Tensor:
    make = torch.empty_like if tiling.covered else torch.zeros_like
    return make(like, memory_format=torch.contiguous_format)


class _OwnTiles(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, qkv: Tensor, bias: Tensor | None, tiling: Tiling, scale: float, rate: float
    ) -> Tensor:
        out, saved = _forward(qkv.unbind(2), bias, tiling, scale, rate)
        ctx.save_for_backward(qkv, bias, *saved)
        ctx.tiling, ctx.scale, ctx.rate = tiling, scale, rate
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        qkv, bias, *saved = ctx.saved_tensors
        below = _room(qkv, ctx.tiling)
        to_bias = torch.zeros_like(bias) if ctx.needs_input_grad[1] else None
        _backward(qkv.unbind(2), grad, saved, below.unbind(2), to_bias, ctx.tiling, ctx.scale, ctx.rate)
        return below, to_bias, None, None, None


class _Tiles(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        bias: Tensor | None,
        tiling: Tiling,
        scale: float,
        rate: float,
    ) -> Tensor:
        out, saved = _forward((q, k, v), bias, tiling, scale, rate)
        ctx.save_for_backward(q, k, v, bias, *saved)
        ctx.tiling, ctx.scale, ctx.rate = tiling, scale, rate
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, bias, *saved = ctx.saved_tensors
        dq, dk, dv = (_room(t, ctx.tiling) for t in (q, k, v))
        to_bias = torch.zeros_like(bias) if ctx.needs_input_grad[3] else None
        _backward((q, k, v), grad, saved, (dq, dk, dv), to_bias, ctx.tiling, ctx.scale, ctx.rate)
        return dq, dk, dv, to_bias, None, None, None


class _OtherTiles(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, kv: Tensor, tiling: Tiling, scale: float, rate: float) -> Tensor:
        out, saved = _forward((q, *kv.unbind(2)), None, tiling, scale, rate)
        ctx.save_for_backward(q, kv, *saved)
        ctx.tiling, ctx.scale, ctx.rate = tiling, scale, rate
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        q, kv, *saved = ctx.saved_tensors
        dq, dkv = _room(q, ctx.tiling), _room(kv, ctx.tiling)
        parts, below = (q, *kv.unbind(2)), (dq, *dkv.unbind(2))
        _backward(parts, grad, saved, below, None, ctx.tiling, ctx.scale, ctx.rate)
        return dq, dkv, None, None, None
