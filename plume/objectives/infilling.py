"""BART: spoil a document, read it whole, and write the whole document again (spec 19)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from plume.models.heads import Head, TokenHead
from plume.objectives.base import Objective
from plume.slots import Example, Slots
from plume.text.marks import SENTENCE
from plume.text.windows import Grain, Window
from plume.vocabulary import Vocabulary

if TYPE_CHECKING:
    from plume.models.backbone import Backbone
    from plume.slots import Array

Bools = np.ndarray[Any, np.dtype[np.bool_]]
Draw = np.random.Generator


@dataclass(frozen=True)
class Denoising(Objective[Window]):
    """The first stack reads the spoilt text, the second is asked for all of the clean one, marks of the format too.

    Five noises, in this order, each off at 0; what BART kept is ``permute_sentences=1, infilling=0.3``:

    - ``permute_sentences``: that share of the sentences, rounded up, change places among themselves;
    - ``masking``, ``deletion``: each unit becomes [MASK]s, or is left out, with that probability;
    - ``infilling``: spans of Poisson(``mean_span_length``) units, together that share of all units, become one [MASK]
      each; a span of length 0 puts a [MASK] where nothing is missing. Spans start anywhere and may overlap, so that
      somewhat fewer masks stay and units go than were drawn (spec 19 section 3);
    - ``rotation``: with that probability the text begins at a random token, and its beginning follows its end.

    ``unit`` is what spans are counted in: words, as fairseq's, or tokens. The window's own marks at both ends are
    replaced by bos and eos, which no noise touches; the second stack begins with eos, then bos (spec 19 section 2).
    ``output_bias`` adds a value a token to the logits, where an imported checkpoint has one.
    """

    infilling: float = 0.0
    mean_span_length: float = 3.0
    permute_sentences: float = 0.0
    masking: float = 0.0
    deletion: float = 0.0
    rotation: float = 0.0
    unit: Grain = "word"
    output_bias: bool = False

    def __post_init__(self) -> None:
        for name in ("infilling", "permute_sentences", "masking", "deletion", "rotation"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is a share and must lie in [0, 1], got {getattr(self, name)}")
        if not self.mean_span_length > 0:
            raise ValueError(f"mean_span_length must be above 0, got {self.mean_span_length}")

    def example(self, source: Window, vocab: Vocabulary, rng: Draw) -> Example[Array] | None:
        first, end = _text(source.special)
        ids = source.ids[first:end]
        if not len(ids):
            return None
        begins = np.diff(source.units(self.unit)[first:end], prepend=-1) != 0
        spoilt = self.spoil(ids, begins, source.marks[first:end] & SENTENCE != 0, vocab, rng)
        clean = _framed(ids, vocab)
        return Example(
            Slots.bidirectional(_framed(spoilt, vocab)),
            Slots.causal(_shifted(clean, vocab), labels={"next_token": clean}),
        )

    def spoil(self, ids: Array, begins: Bools, sentences: Bools, vocab: Vocabulary, rng: Draw) -> Array:
        """The text [T] with all noises, of any length. ``begins``, ``sentences``: where a unit, a sentence begins."""
        if self.permute_sentences:
            order = permuted(sentences, self.permute_sentences, rng)
            ids, begins = ids[order], begins[order]
        if self.masking:
            mask = vocab.require("mask")
            ids = np.where((rng.random(int(begins.sum())) < self.masking)[_numbers(begins)], mask, ids)
        if self.deletion:
            kept = (rng.random(int(begins.sum())) >= self.deletion)[_numbers(begins)]
            ids, begins = ids[kept], begins[kept]
        if self.infilling and len(ids):
            ids = infilled(ids, begins, self.infilling, self.mean_span_length, vocab.require("mask"), rng)
        if self.rotation and rng.random() < self.rotation:
            ids = np.roll(ids, -int(rng.integers(len(ids) + 1)))
        return ids

    def restore(self, example: Example[Array]) -> Array:
        """The document with its marks at both ends."""
        assert example.decoder_inputs is not None
        return example.decoder_inputs.labels["next_token"]

    def heads(self, backbone: Backbone, vocab: Vocabulary) -> dict[str, Head]:
        return {"next_token": TokenHead(backbone, bias=self.output_bias)}

    def read(self, segments: Sequence[Array], vocab: Vocabulary) -> tuple[Slots[Array], int]:
        """<s> a </s>, of a pair <s> a </s> </s> b </s>; the second stack answers where it has read all of it."""
        bos, eos = vocab.require("bos"), vocab.require("eos")
        parts = [part for segment in segments for part in ([eos], segment, [eos])]
        ids = np.concatenate([[bos], *parts[1:]]).astype(np.int64)
        return Slots.bidirectional(ids), len(ids) - 1

    def prompt(self, ids: Array, vocab: Vocabulary) -> Example[Array]:
        """A text, perhaps with [MASK]s, that is to be written again; the second stack has begun with its bos."""
        return Example(self.read([ids], vocab)[0], Slots.causal([vocab.require("eos"), vocab.require("bos")]))

    def read_decoder(self, inputs: Slots[Array], vocab: Vocabulary) -> Slots[Array]:
        return Slots.causal(_shifted(inputs.input_ids, vocab))


def permuted(begins: Bools, share: float, rng: Draw) -> Array:
    """Token numbers [T] in a new order: ceil(share * n) of the n sentences change places among themselves.

    ``begins`` says where sentences begin; the first token always begins one.
    """
    begins = begins.copy()
    begins[:1] = True
    sentences = np.split(np.arange(len(begins)), np.flatnonzero(begins)[1:])
    chosen = rng.permutation(len(sentences))[: int(np.ceil(len(sentences) * share))]
    order = np.arange(len(sentences))
    order[chosen] = chosen[rng.permutation(len(chosen))]
    return np.concatenate([sentences[i] for i in order])


def infilled(ids: Array, begins: Bools, share: float, mean: float, mask: int, rng: Draw) -> Array:
    """The text [T] with spans of units replaced by one ``mask`` each (spec 19 section 3, fairseq's algorithm).

    ``ceil(share * units)`` units are spent: Poisson(``mean``) lengths are drawn until they reach that sum, and the last
    one is cut to it. Each length above 0 starts at a unit of its own and reaches no further than the end. A start
    inside another span is gone with it.
    """
    count = int(begins.sum())
    lengths = span_lengths(int(np.ceil(share * count)), mean, rng)
    inserts = int((lengths == 0).sum())
    lengths = lengths[lengths > 0]
    starts = rng.permutation(count)[: len(lengths)]
    opened = np.zeros(count, bool)
    opened[starts] = True
    # Units after a span's first one: +1 where they begin, -1 behind the last.
    edges = np.zeros(count + 1, np.int64)
    np.add.at(edges, np.minimum(starts + 1, count), 1)
    np.add.at(edges, np.minimum(starts + lengths, count), -1)
    gone = np.cumsum(edges)[:count] > 0
    unit = _numbers(begins)
    kept = ~gone[unit] & (begins | ~opened[unit])
    left = np.where(opened[unit] & begins, mask, ids)[kept]
    if not inserts:
        return left
    spoilt = np.full(len(left) + inserts, mask)
    free = np.ones(len(spoilt), bool)
    free[rng.permutation(len(spoilt))[:inserts]] = False
    spoilt[free] = left
    return spoilt


def span_lengths(budget: int, mean: float, rng: Draw) -> Array:
    """Poisson(``mean``) lengths, zeros among them, whose sum is ``budget``: the last one is cut to fit."""
    lengths = np.zeros(0, np.int64)
    while (total := int(lengths.sum())) < budget:
        lengths = np.append(lengths, rng.poisson(mean, max(8, int(1.5 * (budget - total) / mean))))
    sums = np.cumsum(lengths)
    last = int(np.searchsorted(sums, budget)) if budget else -1
    lengths = lengths[: last + 1]
    if len(lengths):
        lengths[-1] -= sums[last] - budget
    return lengths


def _numbers(begins: Bools) -> Array:
    """The unit each token belongs to; what stands before the first beginning belongs to the first."""
    numbers: Array = np.maximum(np.cumsum(begins) - 1, 0)
    return numbers


def _text(special: Bools) -> tuple[int, int]:
    """Where the text lies between the window's own marks."""
    first = int(len(special) > 0 and special[0])
    return first, len(special) - int(len(special) > first and special[-1])


def _framed(ids: Array, vocab: Vocabulary) -> Array:
    return np.concatenate([[vocab.require("bos")], ids, [vocab.require("eos")]]).astype(np.int64)


def _shifted(ids: Array, vocab: Vocabulary) -> Array:
    return np.concatenate([[vocab.require("eos")], ids[:-1]]).astype(np.int64)
