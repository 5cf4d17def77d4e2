"""Text to text, supervised: read a source, write its target (translation, spec 05 section 4; summaries, spec 19)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from plume.models.heads import Head, TokenHead
from plume.objectives.base import Objective
from plume.slots import Example, Slots
from plume.text.windows import Window
from plume.vocabulary import Vocabulary

if TYPE_CHECKING:
    from plume.models.backbone import Backbone
    from plume.slots import Array


@dataclass(frozen=True)
class SequenceToSequence(Objective[Window]):
    """p(y | x) = prod p(y_t | y_<t, x): the first stack reads x and its end, the second is asked for y and its end.

    The windows are ``TextPairs``. The second stack reads y shifted by one, behind ``start``: the id that begins it
    (Marian, T5: "pad"; fairseq, BART: "eos"). ``bos`` puts that token before x and before y, as BART is tuned.

    ``label_smoothing`` is the share of the right answer that goes to other ids, in training alone: "uniform" to all
    ids, the right one among them (torch), "others" to all but the right one (the paper's code; spec 05 section
    4.1). ``output_bias`` adds a value a token to the logits, as Marian's checkpoints do.
    """

    label_smoothing: float = 0.0
    smoothing: Literal["uniform", "others"] = "uniform"
    start: Literal["pad", "eos", "bos"] = "pad"
    bos: bool = False
    output_bias: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.label_smoothing < 1:
            raise ValueError(f"label_smoothing must lie in [0, 1), got {self.label_smoothing}")

    @property
    def goes_on(self) -> bool:
        return False

    def window_length(self, length: int) -> int:
        return max(1, length - 1 - self.bos)

    def example(self, source: Window, vocab: Vocabulary, rng: np.random.Generator) -> Example[Array] | None:
        parts = source.parts()
        if len(parts) == 1 and len(source):
            raise ValueError(
                "this objective reads pairs of texts, a source and its target: set windows=TextPairs, and bring data "
                "with two columns"
            )
        if len(parts) != 2:
            return None
        target = self._framed(parts[1], vocab)
        shown = np.concatenate([[vocab.require(self.start)], target[:-1]])
        return Example(
            Slots.bidirectional(self._framed(parts[0], vocab)),
            Slots.causal(shown, labels={"next_token": target}),
        )

    def restore(self, example: Example[Array]) -> Array:
        """Source and target, one after the other."""
        assert example.decoder_inputs is not None
        first = int(self.bos)
        target = example.decoder_inputs.labels["next_token"]
        return np.concatenate([example.inputs.input_ids[first:-1], target[first:-1]])

    def heads(self, backbone: Backbone, vocab: Vocabulary) -> dict[str, Head]:
        spread = self.label_smoothing / (vocab.size - (self.smoothing == "others"))
        return {"next_token": TokenHead(backbone, bias=self.output_bias, spread=spread)}

    def read(self, segments: Sequence[Array], vocab: Vocabulary) -> tuple[Slots[Array], int]:
        """A source as the first stack reads it."""
        ids = np.concatenate([self._framed(segment, vocab) for segment in segments])
        return Slots.bidirectional(ids), len(ids) - 1

    def prompt(self, ids: Array, vocab: Vocabulary) -> Example[Array]:
        """A source, whose target is to be written."""
        begin = [vocab.require(self.start), *([vocab.require("bos")] if self.bos else [])]
        return Example(self.read([ids], vocab)[0], Slots.causal(begin))

    def read_decoder(self, inputs: Slots[Array], vocab: Vocabulary) -> Slots[Array]:
        return Slots.causal(np.concatenate([[vocab.require(self.start)], inputs.input_ids[:-1]]))

    def _framed(self, ids: Array, vocab: Vocabulary) -> Array:
        before = [vocab.require("bos")] if self.bos else []
        return np.concatenate([before, ids, [vocab.require("eos")]]).astype(np.int64)
