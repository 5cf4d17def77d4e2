"""Several processes, one run: data parallel, with gradients reduced by the trainer (DESIGN section 2).

The global batch is M micro-batches, numbered alike on any number of ranks; rank r of W takes a contiguous slice
of them. Canonically reduced, gradients are summed in one binary tree over the micro-batches: aligned blocks of
2^k of them are nodes, whoever holds them, so 1, 2 and 4 ranks add the same numbers in the same order.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import NamedTuple

import safetensors.torch
import torch
import torch.distributed as dist
from torch import Tensor

from plume.errors import UserError

BUCKET = 1 << 25  # gradient elements sent at a time


@dataclass(frozen=True)
class Ranks:
    """This process among those of the run. One process alone needs no group and pays nothing."""

    rank: int = 0
    size: int = 1

    @property
    def first(self) -> bool:
        """Whether this rank writes files and speaks to the user."""
        return self.rank == 0

    def check(self, microbatches: int) -> None:
        """Whether every rank has something to do.

        Raises:
            UserError: there are fewer micro-batches than ranks.
        """
        if microbatches < self.size:
            raise UserError(
                f"a batch of {microbatches} micro-batches cannot feed {self.size} processes: "
                f"lower training.microbatch_size, raise training.batch_size or start fewer processes"
            )

    def slice(self, microbatches: int, rank: int | None = None) -> range:
        """The micro-batches of a rank."""
        r = self.rank if rank is None else rank
        return range(r * microbatches // self.size, (r + 1) * microbatches // self.size)

    def table(self, rows: Tensor, microbatches: int) -> Tensor:
        """All ranks' rows [M, K] from the rows [m, K] of this rank's micro-batches, float64 on the CPU."""
        if self.size == 1:
            return rows
        whole = torch.zeros(microbatches, rows.shape[1], dtype=torch.float64)
        mine = self.slice(microbatches)
        whole[mine.start : mine.stop] = rows
        dist.all_reduce(whole)  # every other rank adds zeros: exact
        return whole

    def agree(self, value: int) -> int:
        """The first rank's ``value``, on every rank."""
        if self.size == 1:
            return value
        shared = torch.tensor([value])
        dist.broadcast(shared, 0)
        return int(shared)

    def wait(self) -> None:
        """Until every rank is here."""
        self.agree(0)

    def gather(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The union of every rank's tensors (differently named), on the CPU."""
        if self.size == 1:
            return dict(tensors)
        data = safetensors.torch.save({name: t.cpu().contiguous() for name, t in tensors.items()})
        length = torch.zeros(self.size, dtype=torch.int64)
        length[self.rank] = len(data)
        dist.all_reduce(length)
        mine = torch.zeros(int(length.max()), dtype=torch.uint8)
        mine[: len(data)] = torch.frombuffer(bytearray(data), dtype=torch.uint8)
        parts = [torch.empty_like(mine) for _ in range(self.size)]
        dist.all_gather(parts, mine)
        union: dict[str, Tensor] = {}
        for part, size in zip(parts, length.tolist(), strict=True):
            union |= safetensors.torch.load(part[:size].numpy().tobytes())
        return union


@contextlib.contextmanager
def ranks() -> Iterator[Ranks]:
    """The ranks that ``torchrun`` started, or one. Collectives of CPU tensors go by gloo, of CUDA tensors by nccl."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield Ranks()
        return
    if dist.is_initialized():  # by the caller, who also ends it
        yield Ranks(dist.get_rank(), dist.get_world_size())
        return
    cuda = torch.cuda.is_available()
    if cuda:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    # The first rank may tokenize for hours while the others wait; one that dies is noticed at once all the same.
    dist.init_process_group("cpu:gloo,cuda:nccl" if cuda else "gloo", timeout=timedelta(days=7))
    try:
        yield Ranks(dist.get_rank(), size)
    finally:
        dist.destroy_process_group()


class Node(NamedTuple):
    """The summed gradients of micro-batches ``start`` to ``start + size``."""

    start: int
    size: int
    gradients: list[Tensor]


def push(nodes: list[Node], node: Node) -> None:
    """Add the next node, and merge what has become a whole aligned block. Sums into the left one's memory."""
    nodes.append(node)
    while len(nodes) > 1:
        left, right = nodes[-2:]
        if left.size != right.size or left.start % (2 * left.size) or left.start + left.size != right.start:
            return
        torch._foreach_add_(left.gradients, right.gradients)
        nodes[-2:] = [Node(left.start, 2 * left.size, left.gradients)]


def fold(nodes: list[Node]) -> list[Tensor]:
    """The sum of the blocks that are left where M is no power of two, the smallest first."""
    while len(nodes) > 1:
        left, right = nodes[-2:]
        torch._foreach_add_(left.gradients, right.gradients)
        nodes.pop()
    return nodes[0].gradients


def blocks(start: int, stop: int) -> list[tuple[int, int]]:
    """The largest aligned blocks (start, size) that make up micro-batches ``start`` to ``stop``.

    >>> blocks(3, 8)
    [(3, 1), (4, 4)]
    """
    found = []
    while start < stop:
        size = start & -start or 1 << (stop - start).bit_length()
        while start + size > stop:
            size //= 2
        found.append((start, size))
        start += size
    return found


def sum_canonically(ranks: Ranks, nodes: list[Node], microbatches: int) -> list[Tensor]:
    """Every rank's nodes, summed in the one order there is: equal bits on any number of ranks."""
    if ranks.size == 1:
        return fold(nodes)
    held = [blocks(s.start, s.stop) for s in (ranks.slice(microbatches, r) for r in range(ranks.size))]
    most = max(map(len, held))
    result = nodes[0].gradients
    for bucket in _buckets(result):
        numel = sum(result[i].numel() for i in bucket)
        mine = torch.zeros(most, numel, dtype=result[bucket[0]].dtype, device=result[bucket[0]].device)
        for row, node in zip(mine, nodes, strict=False):
            torch.cat([node.gradients[i].reshape(-1) for i in bucket], out=row)
        theirs = [torch.empty_like(mine) for _ in range(ranks.size)]
        dist.all_gather(theirs, mine)
        tree: list[Node] = []
        for rows, owned in zip(theirs, held, strict=True):
            for row, (start, size) in zip(rows, owned, strict=False):
                push(tree, Node(start, size, [row]))
        _scatter(fold(tree)[0], [result[i] for i in bucket])
    return result


def sum_fast(ranks: Ranks, gradients: list[Tensor]) -> list[Tensor]:
    """A plain all-reduce of a few flat buckets."""
    if ranks.size > 1:
        for bucket in _buckets(gradients):
            flat = torch.cat([gradients[i].reshape(-1) for i in bucket])
            dist.all_reduce(flat)
            _scatter(flat, [gradients[i] for i in bucket])
    return gradients


def _buckets(tensors: Sequence[Tensor]) -> list[list[int]]:
    """Indices of neighbours that are sent together: one dtype, about ``BUCKET`` elements."""
    found: list[list[int]] = []
    size = 0
    for i, t in enumerate(tensors):
        if not found or size + t.numel() > BUCKET or t.dtype != tensors[found[-1][0]].dtype:
            found.append([])
            size = 0
        found[-1].append(i)
        size += t.numel()
    return found


def _scatter(flat: Tensor, into: list[Tensor]) -> None:
    at = 0
    for t in into:
        t.copy_(flat[at : at + t.numel()].view_as(t))
        at += t.numel()
