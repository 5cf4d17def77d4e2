"""A convolutional backbone: each layer looks at a few neighbours, and ranks say which of them it may (spec 02, 03).

R rows, L slots, D = d_model, W = ``before`` + 1 + ``after`` slots of a window.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from plume.models.activations import Activation
from plume.models.backbone import Hidden, Init, Pool
from plume.models.dropout import dropout
from plume.models.embedding import Embedding, Linear
from plume.models.memory import follow
from plume.slots import NEVER, Memory, Slots
from plume.vocabulary import Vocabulary


@dataclass(frozen=True)
class ConvolutionConfig:
    """``num_layers`` gated layers of ``d_model`` over windows of ``before`` slots, itself and ``after`` slots.

    With ``after`` 0 it can be a language model; whoever may look both ways uses both sides.
    """

    num_layers: int
    d_model: int
    before: int = 3
    after: int = 0
    dropout: float = 0.0
    init_std: float = 0.02
    pool: ClassVar[Pool] = "max"
    mixes: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.before < 0 or self.after < 0 or not self.before + self.after:
            raise ValueError(
                f"a window reaches before or after its slot, got before={self.before} and after={self.after}"
            )

    def build(self, vocab: Vocabulary) -> Convolution:
        return Convolution(self, vocab)


class Gated(nn.Module):
    """x + (V w) * sigmoid(U w), w the normalised states of a window: the gate of Dauphin et al. 2017."""

    def __init__(self, config: ConvolutionConfig) -> None:
        super().__init__()
        d = config.d_model
        self.norm = nn.LayerNorm(d)
        self.window = Linear((config.before + 1 + config.after) * d, 2 * d)

    def forward(self, x: Tensor, seen: Tensor, before: int, after: int) -> Tensor:
        """[R, L, D] and which slots of each window are seen [R, L, W] -> [R, L, D]."""
        padded = F.pad(self.norm(x), (0, 0, before, after))
        windows = padded.unfold(1, before + 1 + after, 1)  # [R, L, D, W]
        return F.glu(self.window((windows * seen[:, :, None]).flatten(2)), -1)


class Convolution(nn.Module):
    """Layers of windows. A slot of a window that its own slot does not see counts as nothing, whatever the order of
    the text, so that packed documents do not mix and a causal text stays causal.

    Memory is the slots of the past and each layer's input there, [R, P, D]: only the last ``before`` of them matter.
    """

    packs = True

    def __init__(self, config: ConvolutionConfig, vocab: Vocabulary) -> None:
        super().__init__()
        self.config = config
        self.d_model = config.d_model
        self.activation: Activation = "relu"
        self.norm_eps = 1e-5
        self.init: Init = "normal"
        self.init_std = config.init_std
        self.tie_head, self.head_scale = True, 1.0
        self.activation_checkpointing = False
        self.features = (config.num_layers + 1, config.d_model)
        self.embedding = Embedding(vocab, config.d_model)
        self.layers = nn.ModuleList(Gated(config) for _ in range(config.num_layers))
        self.norm = nn.LayerNorm(config.d_model)

    def forward(
        self,
        inputs: Slots[Tensor],
        decoder_inputs: Slots[Tensor] | None = None,
        *,
        memory: Memory | None = None,
        use_memory: bool = False,
        wanted: Tensor | None = None,
    ) -> Hidden:
        """[R, L] slots -> [R, L, D].

        Raises:
            ValueError: it was given two stacks.
        """
        if decoder_inputs is not None:
            raise ValueError(
                "a convolutional backbone has one stack: this objective's decoder inputs need a Transformer"
            )
        c, past = self.config, None if memory is None else memory.slots
        everything = inputs if past is None else follow(past, inputs)
        new = len(inputs)
        seen = _seen(everything, c.before, c.after).to(self.embedding.weight.dtype)[:, -new:]
        x = self.embedding(inputs)
        states, kept = [x], []
        for number, layer in enumerate(self.layers):
            whole = x if memory is None else torch.cat([memory.layers[number], x], 1)
            kept.append(whole)
            said = layer(whole, F.pad(seen, (0, 0, whole.shape[1] - new, 0)), c.before, c.after)
            x = x + dropout(said[:, -new:], c.dropout, self.training)
            states.append(x)
        states[-1] = self.norm(x)
        remembered = Memory(everything, tuple(kept)) if use_memory else None
        return Hidden(states[-1], layers=tuple(states), memory=remembered)


def _seen(slots: Slots[Tensor], before: int, after: int) -> Tensor:
    """Which slots of each slot's window it sees: bool [R, L, W]."""
    width = before + 1 + after

    def windows(values: Tensor, fill: int) -> Tensor:
        return F.pad(values, (before, after), value=fill).unfold(1, width, 1)

    visible = windows(slots.visible_at, NEVER) <= slots.sees_until[..., None]
    return visible & (windows(slots.document_ids, -2) == slots.document_ids[..., None])
