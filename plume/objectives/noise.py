"""Noise that several objectives lay on their tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from plume.vocabulary import Vocabulary

if TYPE_CHECKING:
    from plume.slots import Array

FEW = 6  # draws up to which one call each costs less than one call for all: 1.6 against 11 microseconds


def corrupt(
    ids: Array,
    chosen: Array,
    vocab: Vocabulary,
    rng: np.random.Generator,
    mask_share: float,
    random_share: float,
) -> Array:
    """A copy of ids [T] with the ``chosen`` slots hidden as BERT hides them, each by itself (spec 06 section 5).

    A chosen token becomes [MASK] with probability ``mask_share``, a uniform draw over the whole vocabulary with
    ``random_share``, and stays as it is otherwise.
    """
    ids = ids.copy()
    mask, not_kept = vocab.require("mask"), mask_share + random_share
    swapped: list[int] = []
    # One by one: a text of 40 tokens has six of them, and each call of numpy's costs as much as ten of these looks.
    for slot, draw in zip(chosen.tolist(), rng.random(len(chosen)).tolist(), strict=True):
        if draw < mask_share:
            ids[slot] = mask
        elif draw < not_kept:
            swapped.append(slot)
    swap(ids, swapped, vocab, rng)
    return ids


def swap(ids: Array, slots: Array | Sequence[int], vocab: Vocabulary, rng: np.random.Generator) -> None:
    """Put a uniform draw over the whole vocabulary into each of ``slots`` of ids [T], in place."""
    if len(slots) > FEW:
        ids[slots] = rng.integers(vocab.size, size=len(slots))
    else:  # mostly none or one; numpy gives the same numbers one by one as all at once
        for slot in slots:
            ids[slot] = rng.integers(vocab.size)


def check_shares(mask_share: float, random_share: float) -> None:
    """Raises ValueError unless both are shares of the chosen tokens."""
    if min(mask_share, random_share) < 0 or mask_share + random_share > 1:
        raise ValueError(
            f"mask_share and random_share are shares of the chosen tokens: each at least 0, together at "
            f"most 1, got {mask_share} and {random_share}"
        )
