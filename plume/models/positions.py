"""How a stack of a Transformer knows where a slot stands (spec 05 section 3).

Two places are open to every kind: ``embed`` adds to the embeddings, and ``prepare``, called once a stack,
returns what each layer does to its queries and keys (rotary) and to its scores (T5, XLNet, ALiBi).
"""

from __future__ import annotations

import math
from typing import Literal, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from plume.models.tiles import consecutive
from plume.slots import Slots

Kind = Literal["learned", "sinusoidal", "sinusoidal_concat", "buckets", "relative"]


class Relate(Protocol):
    """What a layer does with its queries and keys, [R, H, Tq, d] and [R, H, Tk, d]."""

    def __call__(self, q: Tensor, k: Tensor, layer: int) -> tuple[Tensor, Tensor, Tensor | None]:
        """The queries and keys to use in that layer of the stack, and a bias [R or 1, H or 1, Tq, Tk] on the scores."""
        ...


class Positions(nn.Module):
    """Where the slots of one stack stand. ``limit``: positions from there on cannot be told; ``None``: all can.
    ``remembers_inputs``: a memory holds what each layer read, not the keys and values made of it.

    A subclass overrides what it does; this one does nothing.
    """

    limit: int | None = None
    remembers_inputs = False

    def fill(self) -> None:
        """Compute what is not learned; a model built on the meta device calls it once it has memory."""

    def embed(self, position_ids: Tensor) -> Tensor | None:
        """What is added to the embeddings: [R, L] -> [R, L, D]."""
        return None

    def prepare(self, queries: Slots[Tensor], keys: Slots[Tensor]) -> Relate | None:
        """What each layer does with its queries and keys."""
        return None


class Absolute(Positions):
    """Added to the embeddings: a learned table, or sinusoids, of ``max_positions`` rows.

    ``offset`` rows come before the first position's and are never read: RoBERTa's and BART's published tables
    hold two (spec 07, 19).
    """

    weight: Tensor

    def __init__(self, kind: Kind, max_positions: int, d_model: int, *, offset: int = 0) -> None:
        super().__init__()
        self.kind = kind
        self.limit = max_positions
        self.offset = offset
        if kind == "learned":
            self.weight = nn.Parameter(torch.empty(max_positions + offset, d_model))
        else:
            self.register_buffer("weight", torch.empty(max_positions, d_model), persistent=False)
            self.fill()

    def fill(self) -> None:
        if self.kind != "learned" and self.weight.device.type != "meta":
            count, d_model = self.weight.shape
            self.weight.copy_(sinusoids(count, d_model, concat=self.kind == "sinusoidal_concat"))

    def embed(self, position_ids: Tensor) -> Tensor:
        rows = position_ids + self.offset if self.offset else position_ids
        return F.embedding(rows, self.weight)


class Buckets(Positions):
    """T5's: a learned value a head for each bucket of distances, added to the scores (spec 18 section 2.1).

    One table serves all layers of a stack. Up to half of the buckets are one distance each, the others grow
    until ``max_distance``; what lies further shares the last. ``causal`` stacks spend none on what is to come.
    """

    def __init__(self, num_heads: int, *, num_buckets: int, max_distance: int, causal: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(num_buckets, num_heads))
        self.max_distance = max_distance
        self.causal = causal

    def prepare(self, queries: Slots[Tensor], keys: Slots[Tensor]) -> Relate:
        places = keys.position_ids, queries.position_ids
        if keys is queries and consecutive(keys):
            # Slots of one document lie as far apart as their positions: one bias serves all rows, packed ones too.
            here = torch.arange(len(keys), device=places[0].device)[None]
            places = here, here
        distances = places[0][:, None, :] - places[1][:, :, None]
        numbers = buckets(
            distances, causal=self.causal, num_buckets=len(self.weight), max_distance=self.max_distance
        )
        bias = F.embedding(numbers, self.weight).permute(0, 3, 1, 2).contiguous()

        def relate(q: Tensor, k: Tensor, layer: int) -> tuple[Tensor, Tensor, Tensor]:
            return q, k, bias

        return relate


def buckets(distances: Tensor, *, causal: bool, num_buckets: int = 32, max_distance: int = 128) -> Tensor:
    """The bucket of each distance (key position - query position), int64 (spec 18 section 2.1).

    >>> buckets(torch.tensor([-128, -8, 0, 1, 8]), causal=False).tolist()
    [15, 8, 0, 17, 24]
    """
    count = num_buckets if causal else num_buckets // 2
    behind = (-distances).clamp(min=0) if causal else distances.abs()
    exact = count // 2
    # In fp32, as the reference: in fp64 some border would move by one.
    ratio = torch.log(behind.clamp(min=1).float() / exact) / math.log(max_distance / exact)
    wide = (exact + (ratio * (count - exact)).long()).clamp(max=count - 1)
    found = torch.where(behind < exact, behind, wide)
    return found if causal else found + count * (distances > 0)


def sinusoids(count: int, d_model: int, *, concat: bool = False) -> Tensor:
    """PE(p, 2i) = sin(p / 10000^(2i/d)), PE(p, 2i+1) the cosine, [count, d_model] (spec 05 section 3).

    ``concat``: all sines, then all cosines, of the same frequencies (Marian, Transformer-XL, XLNet).

    >>> [round(x, 3) for x in sinusoids(2, 4)[1].tolist()]
    [0.841, 0.54, 0.01, 1.0]
    """
    halves = waves(torch.arange(count, device="cpu"), d_model)
    if not concat:
        halves = halves.view(count, 2, d_model // 2).transpose(1, 2).reshape(count, d_model)
    return halves


def waves(places: Tensor, d_model: int) -> Tensor:
    """The sines, then the cosines, of int places [N] at d_model / 2 frequencies: [N, d_model] in fp64."""
    if d_model % 2:
        raise ValueError(f"sinusoidal positions need an even d_model, got {d_model}")
    exponents = torch.arange(0, d_model, 2, dtype=torch.float64, device=places.device) / d_model
    angles = places.double()[:, None] * 10000.0**-exponents
    return torch.cat([angles.sin(), angles.cos()], 1)
