"""ELMo's pretraining: a language model in each direction, over one way of reading words (spec 04)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from plume.models.heads import Head
from plume.models.sampled_softmax import SampledSoftmax
from plume.objectives.base import Objective
from plume.slots import Example, Slots
from plume.text.spelling import spell
from plume.text.windows import Window
from plume.vocabulary import Vocabulary

if TYPE_CHECKING:
    from plume.models.backbone import Backbone
    from plume.slots import Array


@dataclass(frozen=True)
class BidirectionalLM(Objective[Window]):
    """p(t_k | t_1 .. t_k-1) and p(t_k | t_k+1 .. t_n): two heads that share one table of words.

    Each direction reads a stream of its own in its own order, the words of ``inputs`` or of ``decoder_inputs``, so
    that both can carry their state from window to window. The backward stream turns each sentence round, not their
    order. From the end of one sentence to the beginning of the next nothing is asked.

    ``samples`` words stand for all in training (None: all). ``weight`` is what each direction's mean loss counts:
    a half, as it is reported; the paper's program multiplies it by its 20 steps, which its clipping and its
    Adagrad feel (spec 04 section 5).
    """

    samples: int | None = None
    weight: float = 0.5

    def example(self, source: Window, vocab: Vocabulary, rng: np.random.Generator) -> Example[Array] | None:
        words, characters = spell(source.ids, vocab)
        part = slice(None)
        if "first" in source.labels:
            part = slice(source.labels["first"], source.labels["first"] + source.labels["count"])
        ends = np.flatnonzero(words == vocab.eos) + 1 if vocab.eos is not None else np.zeros(0, int)
        sentences = np.split(np.arange(len(words)), ends)
        ahead = np.concatenate([s[:-1] for s in sentences])[part]
        if not len(ahead):
            return None
        after = np.concatenate([s[1:] for s in sentences])[part]
        back = np.concatenate([s[:0:-1] for s in sentences])[part]
        before = np.concatenate([s[-2::-1] if len(s) > 1 else s[:0] for s in sentences])[part]
        return Example(
            Slots.causal(words[ahead], features=characters[ahead], labels={"next_token": words[after]}),
            Slots.causal(words[back], features=characters[back], labels={"previous_token": words[before]}),
        )

    def heads(self, backbone: Backbone, vocab: Vocabulary) -> dict[str, Head]:
        ahead = SampledSoftmax(backbone.d_model, vocab.size, samples=self.samples)
        back = SampledSoftmax(
            backbone.d_model, vocab.size, samples=self.samples, table=ahead.table, reads="backward"
        )
        return {"next_token": ahead, "previous_token": back}

    def weights(self) -> Mapping[str, float]:
        return {"next_token": self.weight, "previous_token": self.weight}

    def restore(self, example: Example[Array]) -> Array:
        """The words' ids. What spells an unknown one is in the features."""
        inputs, labels = example.inputs.input_ids, example.inputs.labels["next_token"]
        words = [inputs[:1]]
        for label, follows in zip(labels, [*inputs[1:], None], strict=True):
            words.append(np.array([label] if follows in (label, None) else [label, follows]))
        return np.concatenate(words)

    def read(self, segments: Sequence[Array], vocab: Vocabulary) -> tuple[Slots[Array], int]:
        bos, eos = vocab.require("bos"), vocab.require("eos")
        ids = np.concatenate([np.concatenate([[bos], s, [eos]]) for s in segments]).astype(np.int64)
        words, characters = spell(ids, vocab)
        return Slots.bidirectional(words, features=characters), len(words) - 1

    def ask_next(self, ids: Array, vocab: Vocabulary) -> tuple[Slots[Array], int]:
        begun = np.concatenate([[vocab.require("bos")], ids]).astype(np.int64)
        words, characters = spell(begun, vocab)
        return Slots.causal(words, features=characters), len(words) - 1
