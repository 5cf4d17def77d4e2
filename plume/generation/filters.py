"""What shapes the next-token distribution between a model's logits and the draw (spec 21 section 2).

Every function takes scores [..., V] and gives new ones of the same shape; a dropped token has -inf. The
order is fixed by ``plume.generation.sampling.process``: penalties and bans, temperature, then the filters.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Literal

import torch
from torch import Tensor

TopPRule = Literal["nucleus", "gpt2_original"]
_HEAD = 256  # tokens looked at before a whole vocabulary is sorted: the nucleus is nearly always inside


def penalize_repetition(logits: Tensor, seen: Tensor, penalty: float) -> Tensor:
    """Divide positive and multiply negative logits of seen tokens, once each. ``seen`` [..., V] is bool.

    Keskar et al. 2019, as ``transformers`` applies it. Defined on logits: log-probabilities would do
    something else, since the rule asks for a sign.

    >>> penalize_repetition(torch.tensor([1.0, -1.0, 0.5]), torch.tensor([True, True, False]), 2.0).tolist()
    [0.5, -2.0, 0.5]
    """
    return torch.where(seen, torch.where(logits < 0, logits * penalty, logits / penalty), logits)


def penalize_counts(logits: Tensor, counts: Tensor, frequency: float, presence: float) -> Tensor:
    """Subtract ``frequency`` for each time a token was generated and ``presence`` once if it was.

    ``counts`` [..., V] are of generated tokens only, not of the prompt (the OpenAI interface's two penalties).
    """
    return logits - counts * frequency - (counts > 0) * presence


def ban(logits: Tensor, rows: Sequence[Iterable[int]]) -> Tensor:
    """Drop from row r of logits [R, V] the tokens ``rows[r]``.

    A row of which nothing would be left stays as it was: a ban that cannot be kept is not a reason to draw
    from nothing.
    """
    pairs = [(r, i) for r, ids in enumerate(rows) for i in ids]
    if not pairs:
        return logits
    row, token = torch.tensor(pairs, device=logits.device).T
    banned = logits.index_put((row, token), logits.new_tensor(-math.inf))
    return torch.where((banned > -math.inf).any(-1, keepdim=True), banned, logits)


def ends_of_repeats(ids: Sequence[int], size: int) -> set[int]:
    """The tokens that would complete an n-gram of ``size`` tokens which ``ids`` already has.

    >>> sorted(ends_of_repeats([1, 2, 3, 1, 2, 4, 1, 2], 3))
    [3, 4]
    """
    start = len(ids) - size + 1
    if start < 0:
        return set()
    last = tuple(ids[start:])
    return {ids[i + size - 1] for i in range(start) if tuple(ids[i : i + size - 1]) == last}


def top_k(logits: Tensor, k: int) -> Tensor:
    """Keep the ``k`` highest; ties with the k-th survive, so that the order of ids decides nothing."""
    kth = logits.topk(min(k, logits.shape[-1]), dim=-1).values[..., -1:]
    return logits.masked_fill(logits < kth, -math.inf)


def top_p(logits: Tensor, p: float, *, rule: TopPRule = "nucleus") -> Tensor:
    """Keep the smallest set of highest probabilities with mass >= ``p``, at least one token.

    ``rule="gpt2_original"`` keeps tokens while the mass *including* them is <= ``p``, as GPT-2's own
    ``sample.py`` does: often one token fewer (spec 14 section 7).

    >>> probs = torch.tensor([0.5, 0.25, 0.125, 0.0625, 0.0625])
    >>> [int(top_p(probs.log(), p).isfinite().sum()) for p in (0.8, 0.75)]
    [3, 2]
    >>> int(top_p(probs.log(), 0.8, rule="gpt2_original").isfinite().sum())
    2
    """
    if p >= 1:
        return logits  # cumulative sums end at 0.9999: off must mean off
    probs = logits.softmax(-1)
    high, order = probs.topk(min(_HEAD, probs.shape[-1]), dim=-1)
    mass = high.cumsum(-1)
    if bool((mass[..., -1] < p).any()):
        high, order = probs.sort(dim=-1, descending=True, stable=True)
        mass = high.cumsum(-1)
    kept = mass <= p if rule == "gpt2_original" else mass - high < p
    kept[..., 0] = True
    return _keep(logits, order, kept)


def min_p(logits: Tensor, p: float) -> Tensor:
    """Drop tokens less than ``p`` times as likely as the likeliest."""
    probs = logits.softmax(-1)
    return logits.masked_fill(probs < p * probs.amax(-1, keepdim=True), -math.inf)


def typical(logits: Tensor, mass: float) -> Tensor:
    """Keep the tokens whose surprise is nearest the entropy until they hold ``mass``, the crossing one too.

    Ties with the crossing token survive (Meister et al. 2022).

    >>> typical(torch.tensor([0.5, 0.25, 0.125, 0.0625, 0.0625]).log(), 0.5).isfinite().nonzero().flatten().tolist()
    [0, 1]
    """
    if mass >= 1:
        return logits
    logp = logits.log_softmax(-1)
    distance = (-logp - _entropy(logp)).abs()
    near, order = distance.sort(dim=-1, stable=True)
    crossing = (logp.exp().gather(-1, order).cumsum(-1) < mass).sum(-1, keepdim=True)
    return logits.masked_fill(distance > near.gather(-1, crossing.clamp(max=logits.shape[-1] - 1)), -math.inf)


def epsilon(logits: Tensor, threshold: float) -> Tensor:
    """Drop tokens less likely than ``threshold``; the likeliest always stays (Hewitt et al. 2022)."""
    return _drop_unlikely(logits, logits.softmax(-1), torch.as_tensor(threshold, dtype=logits.dtype))


def eta(logits: Tensor, threshold: float) -> Tensor:
    """Drop tokens less likely than min(threshold, sqrt(threshold) e^-entropy) (Hewitt et al. 2022)."""
    logp = logits.log_softmax(-1)
    bound = (math.sqrt(threshold) * torch.exp(-_entropy(logp))).clamp(max=threshold)
    return _drop_unlikely(logits, logp.exp(), bound)


def _entropy(logp: Tensor) -> Tensor:
    return -(logp.exp() * logp).nan_to_num(nan=0.0).sum(-1, keepdim=True)  # 0 log 0 = 0


def _drop_unlikely(logits: Tensor, probs: Tensor, bound: Tensor) -> Tensor:
    unlikely = (probs < bound) & (logits < logits.amax(-1, keepdim=True))
    return logits.masked_fill(unlikely, -math.inf)


def _keep(logits: Tensor, order: Tensor, kept: Tensor) -> Tensor:
    keep = torch.zeros_like(logits, dtype=torch.bool).scatter(-1, order, kept)
    return logits.masked_fill(~keep, -math.inf)
