"""Both stacks predict: the first the tokens that are masked in it, the second the spans that are cut out of it.

The two kinds of noise never share a token, so neither stack is shown what the other one is asked for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from plume.models.heads import Head, TokenHead
from plume.objectives.base import Objective
from plume.objectives.span_corruption import SpanCorruption, cut_out, writes
from plume.slots import IGNORE, Example, Slots
from plume.text.windows import Window
from plume.vocabulary import Vocabulary

if TYPE_CHECKING:
    from plume.models.backbone import Backbone
    from plume.slots import Array


@dataclass(frozen=True)
class JointDenoising(Objective[Window]):
    """T5's spans for the second stack, BERT's masked tokens for the first, on one text in one pass.

    Of the tokens that no span took, exactly ``max(1, round(mask_density * their number))`` are asked for in the
    first stack: [MASK] with probability ``mask_share``, another id that is no sentinel with ``random_share``, else as
    they are. ``masked_weight`` is what their mean loss counts beside the spans'. An end of a document inside the
    window is never masked.
    """

    noise_density: float = 0.15
    mean_span_length: float = 3.0
    mask_density: float = 0.15
    mask_share: float = 0.8
    random_share: float = 0.1
    masked_weight: float = 1.0

    def __post_init__(self) -> None:
        _ = self.spans
        if not 0 < self.mask_density <= 1:
            raise ValueError(f"mask_density must lie in (0, 1], got {self.mask_density}")
        if min(self.mask_share, self.random_share) < 0 or self.mask_share + self.random_share > 1:
            raise ValueError(
                f"mask_share and random_share are shares of the masked tokens: each at least 0, together at "
                f"most 1, got {self.mask_share} and {self.random_share}"
            )

    @property
    def spans(self) -> SpanCorruption:
        """What the second stack is asked for."""
        return SpanCorruption(self.noise_density, self.mean_span_length)

    def window_length(self, length: int) -> int:
        return self.spans.window_length(length)

    def example(self, source: Window, vocab: Vocabulary, rng: np.random.Generator) -> Example[Array] | None:
        mask_id = vocab.require("mask")
        hidden = self.spans.mask(len(source.ids), rng)
        open_tokens = np.flatnonzero(~hidden & ~source.special)
        if not hidden.any() or not len(open_tokens):
            return None
        count = max(1, round(len(open_tokens) * self.mask_density))
        chosen = np.sort(rng.permutation(open_tokens)[:count])
        ids, draw = source.ids.copy(), rng.random(count)
        ids[chosen[draw < self.mask_share]] = mask_id
        swapped = chosen[(draw >= self.mask_share) & (draw < self.mask_share + self.random_share)]
        ids[swapped] = _no_sentinel(vocab, len(swapped), rng)
        shown, target = cut_out(ids, hidden, vocab)
        labels = np.full(len(ids), IGNORE)
        labels[chosen] = source.ids[chosen]
        # The first slot of a span holds its sentinel; labels go the way their tokens went.
        kept = ~hidden | (hidden & ~np.concatenate([[False], hidden[:-1]]))
        return Example(
            Slots.bidirectional(shown, labels={"masked_token": np.append(labels[kept], IGNORE)}),
            writes(target, vocab),
        )

    def restore(self, example: Example[Array]) -> Array:
        labels = example.inputs.labels["masked_token"]
        shown = np.where(labels == IGNORE, example.inputs.input_ids, labels)
        return self.spans.restore(replace(example, inputs=replace(example.inputs, input_ids=shown)))

    def heads(self, backbone: Backbone, vocab: Vocabulary) -> dict[str, Head]:
        masked = TokenHead(backbone)
        masked.reads = "encoder"
        return {"masked_token": masked, "next_token": TokenHead(backbone)}

    def weights(self) -> Mapping[str, float]:
        return {"masked_token": self.masked_weight}

    def read(self, segments: Sequence[Array], vocab: Vocabulary) -> tuple[Slots[Array], int]:
        return self.spans.read(segments, vocab)

    def read_decoder(self, inputs: Slots[Array], vocab: Vocabulary) -> Slots[Array]:
        return self.spans.read_decoder(inputs, vocab)

    def prompt(self, ids: Array, vocab: Vocabulary) -> Example[Array]:
        return self.spans.prompt(ids, vocab)


def _no_sentinel(vocab: Vocabulary, count: int, rng: np.random.Generator) -> Array:
    """Uniform ids among those that are no sentinels."""
    drawn = rng.integers(vocab.size - len(vocab.sentinels), size=count)
    for sentinel in sorted(vocab.sentinels):
        drawn += drawn >= sentinel
    return drawn
