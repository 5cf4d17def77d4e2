"""Causal language modelling: every slot asks for the token after it (spec 13, 14, 15)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from plume.models.heads import Head, TokenHead
from plume.objectives.base import Objective
from plume.slots import IGNORE, Example, Slots
from plume.text.windows import Window
from plume.vocabulary import Vocabulary

if TYPE_CHECKING:
    from plume.models.backbone import Backbone
    from plume.slots import Array


@dataclass(frozen=True)
class CausalLM(Objective[Window]):
    """p(x) = prod p(x_t | x_<t). The labels are the inputs shifted here, once, and never by the model.

    A finished text is read as it is, each segment closed by eos; ``delimited`` reads it as GPT-1 does (spec 13
    section 5): start A delimiter B extract, which are the vocabulary's bos, sep and cls.
    """

    delimited: bool = False

    def window_length(self, length: int) -> int:
        return length + 1

    def example(self, source: Window, vocab: Vocabulary, rng: np.random.Generator) -> Example[Array] | None:
        if len(source.ids) < 2:
            return None
        return Example(Slots.causal(source.ids[:-1], labels={"next_token": source.ids[1:]}))

    def heads(self, backbone: Backbone, vocab: Vocabulary) -> dict[str, Head]:
        return {"next_token": TokenHead(backbone)}

    def read(self, segments: Sequence[Array], vocab: Vocabulary) -> tuple[Slots[Array], int]:
        if not self.delimited:
            return super().read(segments, vocab)
        start, delimiter, extract = (vocab.require(name) for name in ("bos", "sep", "cls"))
        marks = [delimiter] * (len(segments) - 1) + [extract]
        ids = np.concatenate([[start], *(np.append(s, m) for s, m in zip(segments, marks, strict=True))])
        return Slots.causal(ids), len(ids) - 1

    def also(self, read: Slots[Array]) -> dict[str, Array]:
        return {"next_token": np.append(read.input_ids[1:], IGNORE)}

    def restore(self, example: Example[Array]) -> Array:
        return np.append(example.inputs.input_ids, example.inputs.labels["next_token"][-1])
