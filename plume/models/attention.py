"""Attention by ranks: one meaning, several kernels (spec 05 section 1, DESIGN section 2).

Which kernel serves is chosen once a stack, from shape, ``Slots.layout`` and device:

- CPU: tiles (``plume.models.tiles``), which also split packed rows by document, or SDPA for long rows where
  everything is seen; a decoding step of one query takes plain matmul and softmax;
- CUDA, whole rows, bidirectional or causal: SDPA without a mask; other ranks: FlexAttention with block masks,
  or SDPA with a mask where weights are dropped, which FlexAttention cannot do;
- where torch compiles, and for biases on the scores on CUDA: plain matmul and softmax, or SDPA with a mask for
  long keys.

R rows, H heads, Q slots that see, K slots that are seen, d = d_head.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention

from plume.models.dropout import dropout
from plume.models.tiles import HIDDEN, Tiling, attend_other_tiles, attend_own_tiles, attend_tiles, cut
from plume.slots import NEVER, Slots

Kernel = Literal["tiles", "plain", "sdpa", "flex"]
LONG = 512  # keys beyond which CPU flash attention beats matmul and softmax (benchmarks/attention.py)


@dataclass(frozen=True, slots=True)
class Sight:
    """Who sees whom in one stack, prepared once and used by every layer.

    causal: everything before is seen. mask: bool [R, 1, Q, K], true where seen. Neither: everything is seen.
    empty: bool [R, 1, Q, 1], true in rows that see nothing; ``None``: there are none.
    """

    kernel: Kernel
    causal: bool = False
    mask: Tensor | None = None
    empty: Tensor | None = None
    tiling: Tiling | None = None
    blocks: BlockMask | None = None


def seen(
    queries: Slots[Tensor], keys: Slots[Tensor], *, cross: bool = False, band: int | None = None
) -> Tensor:
    """bool [R, Q, K]: the rule of ``Slots``. Across stacks a slot sees all of its document that is ever visible.

    ``band``: of what the rule lets a slot see it sees what lies fewer than so many positions away (spec 15).
    """
    same = queries.document_ids[:, :, None] == keys.document_ids[:, None, :]
    if cross:
        return same & (keys.visible_at != NEVER)[:, None, :]
    visible = same & (keys.visible_at[:, None, :] <= queries.sees_until[:, :, None])
    if band is None:
        return visible
    return visible & ((queries.position_ids[:, :, None] - keys.position_ids[:, None, :]).abs() < band)


def look(
    queries: Slots[Tensor],
    keys: Slots[Tensor],
    *,
    num_heads: int,
    cross: bool = False,
    merged: bool = False,
    related: bool = False,
    rate: float = 0.0,
    band: int | None = None,
    kernel: Kernel | None = None,
) -> Sight:
    """Choose the kernel for a stack and prepare what it needs.

    ``merged``: the layers will call ``attend_merged``. ``related``: they may put a bias on the scores. ``rate``: the
    dropout on the weights. ``band``: as ``seen``'s. ``kernel`` overrides the choice, for tests and benchmarks.
    """
    layout = queries.layout if queries is keys else None
    whole = band is None and layout is not None and layout.single and layout.pattern != "ranked"
    causal = whole and layout is not None and layout.pattern == "causal"
    device = queries.input_ids.device
    if kernel is None:
        kernel = _choose(device.type, len(queries), len(keys), merged, related, whole, causal, rate)
    if kernel == "tiles":
        return Sight(kernel, tiling=cut(queries, num_heads, band, keys=keys, cross=cross))
    if whole:
        return Sight(kernel, causal=causal)
    if kernel == "flex":
        return Sight(kernel, blocks=_blocks(queries, keys, cross, band))
    mask = seen(queries, keys, cross=cross, band=band)[:, None]
    if device.type == "cpu" and bool(mask.all()):  # a decoding step: asking is cheaper than masking
        return Sight(kernel)
    return Sight(kernel, mask=mask, empty=~mask.any(-1, keepdim=True))


def _choose(
    device: str,
    count: int,
    length: int,
    merged: bool,
    related: bool,
    whole: bool,
    causal: bool,
    rate: float,
) -> Kernel:
    if device == "cpu":
        flash = length > LONG and not rate
        if torch.compiler.is_compiling() or (count == 1 and not merged):
            return "sdpa" if flash else "plain"
        # Flash attention wins only where everything is seen and no tile can leave anything out.
        return "sdpa" if flash and whole and not causal and not related else "tiles"
    if not whole and not related and not rate and length >= 128:
        return "flex"
    return "sdpa"


def attend_merged(
    qkv: Tensor, sight: Sight, *, scale: float, bias: Tensor | None = None, rate: float = 0.0
) -> Tensor:
    """Self-attention on what one matmul made, [R, L, 3, H, d] -> [R, L, H, d].

    ``bias``: as ``attend``'s. ``rate``: dropout on the weights; 0 when not training.
    """
    if sight.tiling is not None:
        return attend_own_tiles(qkv, sight.tiling, scale=scale, rate=rate, bias=bias)
    q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
    return attend(q, k, v, sight, scale=scale, bias=bias, rate=rate).transpose(1, 2)


def attend_across(q: Tensor, kv: Tensor, sight: Sight, *, scale: float, rate: float = 0.0) -> Tensor:
    """Attention to what one matmul made of another stack, [R, H, Q, d], [R, H, 2, K, d] -> [R, H, Q, d]."""
    if sight.tiling is not None:
        return attend_other_tiles(q, kv, sight.tiling, scale=scale, rate=rate)
    k, v = kv.unbind(2)
    return attend(q, k, v, sight, scale=scale, rate=rate)


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    sight: Sight,
    *,
    scale: float,
    bias: Tensor | None = None,
    rate: float = 0.0,
) -> Tensor:
    """[R, H, Q, d], [R, H, K, d] twice -> [R, H, Q, d]; a slot that sees nothing gets 0, forward and backward.

    bias: [R or 1, H, Q, K], added to the scores; it takes tiles or the plain path.
    """
    if sight.tiling is not None:
        return attend_tiles(q, k, v, sight.tiling, scale=scale, rate=rate, bias=bias)
    if sight.blocks is not None:
        flex: Any = flex_attention if q.device.type == "cpu" else _compiled_flex()
        mixed: Tensor = flex(q, k, v, block_mask=sight.blocks, scale=scale)
        return mixed
    if sight.kernel == "sdpa" and bias is None:
        # A row that sees nothing may see all instead, so that no kernel meets an empty softmax; then it is zeroed.
        mask = sight.mask if sight.mask is None or sight.empty is None else sight.mask | sight.empty
        out = F.scaled_dot_product_attention(
            q, k, v, attn_mask=mask, dropout_p=rate, is_causal=sight.causal and mask is None, scale=scale
        )
        return out if sight.empty is None else out.masked_fill(sight.empty, 0)
    scores = (q * scale) @ k.transpose(-1, -2)
    scores = scores if bias is None else scores + bias
    mask = sight.mask
    if sight.causal:
        mask = torch.ones(q.shape[-2], k.shape[-2], dtype=torch.bool, device=q.device).tril()
    if mask is not None:
        scores = scores.masked_fill(~mask, HIDDEN)
    weights = F.softmax(scores, -1, dtype=torch.promote_types(scores.dtype, torch.float32)).to(v.dtype)
    weights = weights if sight.empty is None else weights.masked_fill(sight.empty, 0)
    return dropout(weights, rate, True) @ v


@lru_cache(maxsize=1)
def _compiled_flex() -> Any:
    return torch.compile(flex_attention)


def _blocks(queries: Slots[Tensor], keys: Slots[Tensor], cross: bool, band: int | None) -> BlockMask:
    def sees(row: Tensor, head: Tensor, q: Tensor, k: Tensor) -> Tensor:
        same = queries.document_ids[row, q] == keys.document_ids[row, k]
        if cross:
            return same & (keys.visible_at[row, k] != NEVER)
        visible = same & (keys.visible_at[row, k] <= queries.sees_until[row, q])
        if band is None:
            return visible
        return visible & ((queries.position_ids[row, q] - keys.position_ids[row, k]).abs() < band)

    rows, length = queries.input_ids.shape
    device = str(queries.input_ids.device)
    return create_block_mask(sees, rows, None, length, len(keys), device=device)
