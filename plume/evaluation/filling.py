"""What a model puts in the place of each [MASK]."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from plume.errors import UserError
from plume.evaluation.answers import Filled
from plume.objectives.base import Objective
from plume.slots import Array, Slots
from plume.text.tokenizers import Tokenizer

HEADS = ("masked_token", "permuted_token")


def fill(
    text: str,
    top: int,
    tokenizer: Tokenizer,
    reader: Objective[Any],
    longest: int | None,
    name: str,
    logits: Callable[[Slots[Array]], Tensor],
) -> Any:
    """The ``top`` likeliest tokens for one [MASK], or such a list for each of several.

    ``reader`` knows how the family is asked, ``logits`` gives its answers at every slot [T, V]; the model is called
    ``name`` and reads ``longest`` slots at most.

    Raises:
        UserError: no [MASK] in the text, or too long a text.
    """
    vocab = tokenizer.vocabulary
    mask = vocab.require("mask")
    spelled = tokenizer.pieces([mask])[0]
    parts = text.replace("[MASK]", spelled).split(spelled)
    if len(parts) == 1:
        raise UserError(
            f"there is no {spelled} in {text[:60]!r}: write {spelled} where a token is to be guessed"
        )
    if tokenizer.kind == "bpe":  # a piece that fills the mask brings its own blank (spec 07 section 1)
        parts = [*(part.rstrip(" ") for part in parts[:-1]), parts[-1]]
    pieces: list[Array] = []
    for part in parts:
        pieces += [tokenizer.encode(part), np.array([mask])]
    ids = np.concatenate(pieces[:-1])
    framed, asked = reader.ask_hidden(ids, vocab)
    if longest is not None and len(framed) > longest:
        raise UserError(f"the text has {len(framed)} slots, but {name} can read {longest}: shorten it")
    answers = logits(framed)
    answers[:, list(vocab.special)] = -torch.inf
    found = []
    for place, slot in zip(np.flatnonzero(ids == mask), asked.tolist(), strict=True):
        shares, tokens = answers[slot].softmax(-1).topk(min(top, vocab.size))
        found.append([
            Filled(tokenizer.decode([token]) or tokenizer.pieces([token])[0], share,
                   _with(tokenizer, ids, int(place), token, mask, spelled))
            for share, token in zip(shares.tolist(), tokens.tolist(), strict=True)
        ])  # fmt: skip
    return found[0] if len(found) == 1 else found


def _with(tokenizer: Tokenizer, ids: Array, place: int, token: int, mask: int, spelled: str) -> str:
    """The text with one mask filled and the others spelled out."""
    filled = ids.copy()
    filled[place] = token
    parts = np.split(filled, np.flatnonzero(filled == mask))
    return f" {spelled} ".join(tokenizer.decode(part[part != mask]) for part in parts)
