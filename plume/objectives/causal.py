"""Causal language modelling: every slot asks for the token after it (spec 13, 14, 15)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from plume.models.heads import Head, TokenHead
from plume.objectives.base import Objective
from plume.slots import Example, Slots
from plume.text.windows import Window
from plume.vocabulary import Vocabulary

if TYPE_CHECKING:
    from plume.models.pretrained import Backbone
    from plume.slots import Array


@dataclass(frozen=True)
class CausalLM(Objective[Window]):
    """p(x) = prod p(x_t | x_<t). The labels are the inputs shifted here, once, and never by the model."""

    def window_length(self, length: int) -> int:
        return length + 1

    def example(self, source: Window, vocab: Vocabulary, rng: np.random.Generator) -> Example[Array] | None:
        if len(source.ids) < 2:
            return None
        return Example(Slots.causal(source.ids[:-1], labels={"next_token": source.ids[1:]}))

    def heads(self, backbone: Backbone, vocab: Vocabulary) -> dict[str, Head]:
        return {"next_token": TokenHead(backbone)}

    def restore(self, example: Example[Array]) -> Array:
        return np.append(example.inputs.input_ids, example.inputs.labels["next_token"][-1])
