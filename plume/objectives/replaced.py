"""Replaced token detection: ELECTRA (spec 09).

A small generator fills masked slots with samples; the discriminator, which is the model that is kept, says of every
slot whether its token was replaced. No gradient goes through the samples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np

from plume.models.heads import Head
from plume.models.pretrained import PretrainedModel
from plume.models.replaced import Generator, ReplacedHead
from plume.models.transformer import Transformer
from plume.objectives.base import Objective, ask
from plume.objectives.masked import MaskedLM
from plume.slots import IGNORE, Batch, Example, Losses, Slots
from plume.text.windows import Window
from plume.vocabulary import Vocabulary

if TYPE_CHECKING:
    from torch import Tensor

    from plume.models.backbone import Backbone
    from plume.slots import Array

# Labels of "replaced"; SAMPLED: which of the two, the generator decides.
ORIGINAL, REPLACED, SAMPLED = 0, 1, 2


@dataclass(frozen=True)
class ReplacedTokens(Objective[Window]):
    """Ask the generator for masked tokens, put its samples there, and ask the backbone which tokens were replaced.

    ``round(noise_density * length)`` draws among the slots that are not special, with replacement as in the
    released code: a slot drawn twice is masked and asked once. A draw becomes [MASK] with probability
    ``mask_share`` and stays as it is otherwise. ``replaced`` is asked of every slot, [CLS] and [SEP] too; a sample
    that hits the original counts as original. The generator has the backbone's depth and ``generator_share`` of
    its width, and shares its tables and embedding norm. ``replaced_weight`` multiplies the mean of that loss.

    The uniform number that decides a sample is drawn here, with the mask, so that the sample does not depend
    on how examples are batched.
    """

    noise_density: float = 0.15
    mask_share: float = 0.85
    generator_share: float = 0.25
    replaced_weight: float = 50.0
    temperature: float = 1.0
    label_activation: ClassVar[Literal["tanh", "gelu"]] = "gelu"

    def __post_init__(self) -> None:
        for name in ("noise_density", "generator_share"):
            if not 0 < getattr(self, name) <= 1:
                raise ValueError(f"{name} must lie in (0, 1], got {getattr(self, name)}")
        if not 0 <= self.mask_share <= 1:
            raise ValueError(f"mask_share must lie in [0, 1], got {self.mask_share}")
        if not self.temperature > 0:
            raise ValueError(f"temperature must be above 0, got {self.temperature}")

    def example(self, source: Window, vocab: Vocabulary, rng: np.random.Generator) -> Example[Array] | None:
        mask_id = vocab.require("mask")
        candidates = np.flatnonzero(~source.special)
        if not len(candidates):
            return None
        draws = candidates[
            rng.integers(len(candidates), size=max(1, round(len(source) * self.noise_density)))
        ]
        ids = source.ids.copy()
        ids[draws[rng.random(len(draws)) < self.mask_share]] = mask_id
        masked = np.full(len(ids), IGNORE)
        masked[draws] = source.ids[draws]
        uniform = np.where(masked == IGNORE, 0.0, rng.random(len(ids)))
        replaced = np.where(masked == IGNORE, ORIGINAL, SAMPLED)
        labels = {"masked_token": masked, "replaced": replaced}
        return Example(
            Slots.bidirectional(
                ids, token_type_ids=source.token_type_ids, labels=labels, given={"sample": uniform}
            )
        )

    def restore(self, example: Example[Array]) -> Array:
        labels = example.inputs.labels["masked_token"]
        return np.where(labels == IGNORE, example.inputs.input_ids, labels)

    def heads(self, backbone: Backbone, vocab: Vocabulary) -> dict[str, Head]:
        return {
            "masked_token": Generator(self._generator(backbone, vocab)),
            "replaced": ReplacedHead(backbone),
        }

    def _generator(self, backbone: Backbone, vocab: Vocabulary) -> Transformer:
        if not isinstance(backbone, Transformer) or backbone.decoder is not None:
            raise ValueError("replaced tokens are told apart by a Transformer of one stack: use one as model")
        whole = backbone.config
        width = round(whole.d_model * self.generator_share)
        num_heads = max(1, width // 64)
        width -= width % num_heads
        config = replace(whole, d_model=width, num_heads=num_heads, d_head=None, d_ff=4 * width,
                         embedding_size=whole.embedding_width)  # fmt: skip
        return Transformer(config, vocab, embeddings=backbone)

    def weights(self) -> Mapping[str, float]:
        return {"replaced": self.replaced_weight}

    def losses(self, model: PretrainedModel, batch: Batch) -> Losses:
        generator: Generator = model.heads["masked_token"]
        wanted = batch.asked.get("masked_token")
        asked = ask(batch, "masked_token", generator.network(batch.inputs, wanted=wanted).last)
        seen = self.corrupt(generator, batch, asked.hidden)
        judged = ask(seen, "replaced", model.backbone(seen.inputs).last)
        heads: Mapping[str, Head] = model.heads
        return Losses({"masked_token": generator.loss(asked), "replaced": heads["replaced"].loss(judged)})

    def corrupt(self, generator: Generator, batch: Batch, hidden: Tensor) -> Batch:
        """What the discriminator reads: the original text with a sample at every asked slot, and its labels.

        ``hidden`` [N, D]: the generator's states at the slots asked for "masked_token".
        """
        slots, at = batch.inputs, batch.asked.get("masked_token")
        if at is None:
            return batch
        labels = slots.labels["masked_token"]
        sample = generator.sample(hidden, slots.given["sample"].flatten()[at], self.temperature)
        original = labels.flatten()[at]
        ids = slots.input_ids.flatten().index_copy(0, at, sample).view_as(labels)
        replaced = slots.labels["replaced"].flatten().index_copy(0, at, (sample != original).long())
        inputs = replace(slots, input_ids=ids, labels={**slots.labels, "replaced": replaced.view_as(labels)})
        return replace(batch, inputs=inputs)

    def parts(self, model: PretrainedModel) -> Mapping[str, PretrainedModel]:
        heads: dict[str, Head] = dict(model.heads.items())
        generator = heads.pop("masked_token", None)
        parts = {"discriminator": PretrainedModel(model.backbone, heads)}
        if isinstance(generator, Generator):
            parts["generator"] = PretrainedModel(generator.network, {"masked_token": generator})
        return parts

    def read(self, segments: Sequence[Array], vocab: Vocabulary) -> tuple[Slots[Array], int]:
        return MaskedLM().read(segments, vocab)

    def ask_next(self, ids: Array, vocab: Vocabulary) -> tuple[Slots[Array], int]:
        return MaskedLM().ask_next(ids, vocab)
