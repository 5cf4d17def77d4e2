"""Joint: one pass trains both stacks, the first on masked tokens, the second on the spans that were cut out.

No paper's recipe: the network and its training are ``t5:tiny``'s, masking is BERT's.
"""

from __future__ import annotations

from dataclasses import replace

from plume.objectives.joint import JointDenoising
from plume.recipes import t5
from plume.training.settings import Pretraining


def tiny() -> Pretraining:
    """2 + 2 layers of 128, 128 tokens at a time: minutes on a laptop."""
    return replace(t5.tiny(), objective=JointDenoising())


def base() -> Pretraining:
    """12 + 12 layers of 768, as T5 v1.1's."""
    return replace(t5.v1_1_base(), objective=JointDenoising())
