"""The objective that a published model was trained with, as far as its family says."""

from __future__ import annotations

from typing import Any

from plume.models.interop import Imported
from plume.objectives.base import Objective
from plume.objectives.bidirectional import BidirectionalLM
from plume.objectives.causal import CausalLM
from plume.objectives.classification import Classification
from plume.objectives.infilling import Denoising
from plume.objectives.masked import MaskedLM
from plume.objectives.permuted import PermutedLM
from plume.objectives.replaced import ReplacedTokens
from plume.objectives.sequence_to_sequence import SequenceToSequence


def objective_of(imported: Imported) -> Objective[Any]:
    """The objective whose heads a published model has."""
    reader: Objective[Any]
    biased = "heads.next_token.bias" in imported.state
    match imported.family:
        case "bert":
            reader = MaskedLM(next_sentence="next_sentence" in imported.heads)
        case "ernie":
            pairs = "next_sentence" in imported.heads
            reader = MaskedLM(unit="word", selection="bernoulli", next_sentence=pairs)
        case "roberta":
            reader = MaskedLM(selection="rounded", segments="separator")
        case "electra":  # a published generator is a masked language model
            reader = MaskedLM() if "masked_token" in imported.heads else ReplacedTokens()
        case "elmo":
            reader = BidirectionalLM()
        case "gpt1":
            reader = CausalLM(delimited=True)
        case "xlnet":
            reader = PermutedLM()
        case "bart":
            reader = Denoising(permute_sentences=1.0, infilling=0.3, output_bias=biased)
        case "marian":
            reader = SequenceToSequence(label_smoothing=0.1, output_bias=biased)
        case "t5":  # a published one answers tasks; how its spans were hidden, its files do not say
            reader = SequenceToSequence(start="pad")
        case _:
            reader = CausalLM()
    if "label" not in imported.heads:
        return reader
    return Classification(reader, imported.labels, max_length=imported.config.max_positions)
