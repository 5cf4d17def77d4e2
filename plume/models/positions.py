"""How a Transformer knows where a slot stands (spec 05 section 3).

Two places are open to every kind: ``embed`` adds to the embeddings, and ``prepare``, called once a stack,
returns what each layer does to its queries and keys (rotary) and to its scores (T5, XLNet, ALiBi).
"""

from __future__ import annotations

from typing import Literal, Protocol

import torch
from torch import Tensor, nn

from plume.slots import Slots

Kind = Literal["learned", "sinusoidal", "sinusoidal_concat"]


class Relate(Protocol):
    """What a layer does with its queries and keys, [R, H, Tq, d] and [R, H, Tk, d]."""

    def __call__(self, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """The queries and keys to use, and a bias [R or 1, H or 1, Tq, Tk] on the scores."""
        ...


class Positions(nn.Module):
    """Absolute positions added to the embeddings: a learned table or sinusoids of ``max_positions`` rows.

    ``offset`` rows come before the first position's and are never read: RoBERTa's and BART's published tables
    hold two (spec 07, 19).
    """

    weight: Tensor

    def __init__(self, kind: Kind, max_positions: int, d_model: int, *, offset: int = 0) -> None:
        super().__init__()
        self.kind = kind
        self.max_positions = max_positions
        self.offset = offset
        if kind == "learned":
            self.weight = nn.Parameter(torch.empty(max_positions + offset, d_model))
        else:
            self.register_buffer("weight", torch.empty(max_positions, d_model), persistent=False)
            self.fill()

    def fill(self) -> None:
        """Compute the sinusoids; a model built on the meta device calls it once it has memory."""
        if self.kind != "learned" and self.weight.device.type != "meta":
            count, d_model = self.weight.shape
            self.weight.copy_(sinusoids(count, d_model, concat=self.kind == "sinusoidal_concat"))

    def embed(self, position_ids: Tensor) -> Tensor:
        """[R, L] -> [R, L, D]."""
        rows = position_ids + self.offset if self.offset else position_ids
        return nn.functional.embedding(rows, self.weight)

    def prepare(self, queries: Slots[Tensor], keys: Slots[Tensor]) -> Relate | None:
        """``None``: these kinds leave the layers alone."""
        return None


def sinusoids(count: int, d_model: int, *, concat: bool = False) -> Tensor:
    """PE(p, 2i) = sin(p / 10000^(2i/d)), PE(p, 2i+1) the cosine, [count, d_model] (spec 05 section 3).

    ``concat``: all sines, then all cosines, of the same frequencies (Marian, Transformer-XL, XLNet).

    >>> [round(x, 3) for x in sinusoids(2, 4)[1].tolist()]
    [0.841, 0.54, 0.01, 1.0]
    """
    if d_model % 2:
        raise ValueError(f"sinusoidal positions need an even d_model, got {d_model}")
    frequencies = 10000.0 ** (-torch.arange(0, d_model, 2, dtype=torch.float64, device="cpu") / d_model)
    angles = torch.arange(count, dtype=torch.float64, device="cpu")[:, None] * frequencies
    halves = torch.cat([angles.sin(), angles.cos()], 1)
    if not concat:
        halves = halves.view(count, 2, d_model // 2).transpose(1, 2).reshape(count, d_model)
    return halves
