"""What a backbone is to heads and objectives: slots in, hidden states out.

R rows, L slots, D = d_model.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol

import torch
from torch import Tensor, nn

from plume.models.activations import Activation
from plume.slots import Memory, Slots
from plume.vocabulary import Vocabulary

Reads = Literal["last", "encoder", "backward", "layers"]
Pool = Literal["slot", "sum", "mean", "max"]
Init = Literal["normal", "fan_in", "xavier"]


@dataclass(frozen=True, slots=True)
class Hidden:
    """What a backbone computes.

    last [R, L, D]: the top of the last stack. encoder: the first stack's, where there are two. backward:
    the right-to-left direction's, where there is one. layers: the last stack's states, its embeddings first
    and ``last`` last, each [R, L, D]. memory: what to hand in next time.
    """

    last: Tensor
    encoder: Tensor | None = None
    backward: Tensor | None = None
    layers: tuple[Tensor, ...] = ()
    memory: Memory | None = None

    def __getitem__(self, name: Reads) -> Tensor:
        """The hidden states that a head reads; "layers" are all of them, [R, L, layers, D].

        Raises:
            ValueError: this backbone has none of that name.
        """
        if name == "layers":
            return torch.stack(self.layers, -2)
        states = {"last": self.last, "encoder": self.encoder, "backward": self.backward}[name]
        if states is None:
            raise ValueError(f"a head reads the {name!r} states, which this backbone does not have")
        return states


class Embedded(Protocol):
    """The token table of a backbone, which token heads share."""

    weight: nn.Parameter  # [vocab_size, D], or another width where the backbone leads from one to the other


class Backbone(Protocol):
    """Transformer, Recurrent, ...: slots in, hidden states out."""

    d_model: int
    activation: Activation
    norm_eps: float
    init: Init  # matrices: of init_std, of init_std / sqrt(inputs), or sqrt(2 / (inputs + outputs)); tables of init_std
    init_std: float
    tie_head: bool  # whether token heads read the token table, or have one of their own
    head_scale: float  # what hidden states are multiplied by before they meet that table
    packs: bool  # whether several examples may share a row
    activation_checkpointing: bool  # recompute each layer in the backward pass
    features: tuple[int, int]  # how many ``Hidden.layers`` there are, and how wide

    @property
    def embedding(self) -> Embedded: ...

    def __call__(
        self,
        inputs: Slots[Tensor],
        decoder_inputs: Slots[Tensor] | None = None,
        *,
        memory: Memory | None = None,
        use_memory: bool = False,
        wanted: Tensor | None = None,
    ) -> Hidden: ...


class BackboneConfig(Protocol):
    """TransformerConfig, RecurrentConfig, ...: a frozen dataclass that builds its backbone.

    ``pool``: how a text is summed up for a task: by one slot that has seen it all, or, where none has, by what is
    made of all of them. ``mixes``: a task reads a mixture of all layers, not the last one.
    """

    mixes: ClassVar[bool]

    @property
    def pool(self) -> Pool: ...

    def build(self, vocab: Vocabulary) -> Any: ...  # a Backbone that is an nn.Module
