"""Attention by ranks: one function, several kernels, one meaning (spec 05 section 1, DESIGN section 2).

Shapes: R rows, H heads, Tq and Tk slots that see and are seen, d = d_head.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from plume.models.dropout import dropout
from plume.slots import NEVER, Slots

Kernel = Literal["plain", "sdpa"]


@dataclass(frozen=True, slots=True)
class Sight:
    """Who sees whom in one stack, prepared once and used by every layer.

    mask: bool [R or 1, 1, Tq, Tk], true where seen; ``None``: everything is seen, or everything before where
    ``causal``. empty: bool [R, 1, Tq, 1], true in rows that see nothing; ``None``: there are none.
    """

    kernel: Kernel
    causal: bool = False
    mask: Tensor | None = None
    empty: Tensor | None = None


def seen(queries: Slots[Tensor], keys: Slots[Tensor], *, cross: bool = False) -> Tensor:
    """bool [R, Tq, Tk]: the rule of ``Slots``; across stacks only the document and being visible at all count."""
    same = queries.document_ids[:, :, None] == keys.document_ids[:, None, :]
    if cross:
        return same & (keys.visible_at != NEVER)[:, None, :]
    return same & (keys.visible_at[:, None, :] <= queries.sees_until[:, :, None])


def look(
    queries: Slots[Tensor], keys: Slots[Tensor], *, cross: bool = False, kernel: Kernel | None = None
) -> Sight:
    """Choose the kernel for a stack and prepare what it needs."""
    chosen = kernel or ("sdpa" if len(keys) > 512 else "plain")
    layout = queries.layout
    if queries is keys and layout is not None and layout.single and layout.pattern != "ranked":
        return Sight(chosen, causal=layout.pattern == "causal")
    mask = seen(queries, keys, cross=cross)[:, None]
    return Sight(chosen, mask=mask, empty=~mask.any(-1, keepdim=True))


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    sight: Sight,
    *,
    bias: Tensor | None = None,
    rate: float = 0.0,
    training: bool = False,
    scale: float | None = None,
) -> Tensor:
    """[R, H, Tq, d], [R, H, Tk, d] twice -> [R, H, Tq, d]; a slot that sees nothing gets 0."""
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    mask = sight.mask
    if sight.causal and mask is None:
        mask = torch.ones(q.shape[-2], k.shape[-2], dtype=torch.bool, device=q.device).tril()
    scores = (q * scale) @ k.transpose(-1, -2)
    if bias is not None:
        scores = scores + bias
    if mask is not None:
        scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
    weights = F.softmax(scores, -1, dtype=torch.float32 if scores.dtype == torch.bfloat16 else None).to(
        v.dtype
    )
    if sight.empty is not None:
        weights = weights.masked_fill(sight.empty, 0)
    return dropout(weights, rate, training) @ v
