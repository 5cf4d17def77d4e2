"""Noise that several objectives lay on their tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from plume.vocabulary import Vocabulary

if TYPE_CHECKING:
    from plume.slots import Array


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
    draw = rng.random(len(chosen))
    masked, kept = draw < mask_share, draw >= mask_share + random_share
    ids[chosen[masked]] = vocab.require("mask")
    swap(ids, chosen[~(masked | kept)], vocab, rng)
    return ids


def swap(ids: Array, slots: Array, vocab: Vocabulary, rng: np.random.Generator) -> None:
    """Put a uniform draw over the whole vocabulary into each of ``slots`` of ids [T], in place."""
    if len(slots):  # often none: a text of 40 tokens has one in two
        ids[slots] = rng.integers(vocab.size, size=len(slots))


def check_shares(mask_share: float, random_share: float) -> None:
    """Raises ValueError unless both are shares of the chosen tokens."""
    if min(mask_share, random_share) < 0 or mask_share + random_share > 1:
        raise ValueError(
            f"mask_share and random_share are shares of the chosen tokens: each at least 0, together at "
            f"most 1, got {mask_share} and {random_share}"
        )
