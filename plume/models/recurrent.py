"""A recurrent backbone whose state is carried from batch to batch (spec 03 section 4)."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from plume.models.activations import Activation
from plume.models.backbone import Hidden, Init, Pool
from plume.models.dropout import dropout
from plume.models.embedding import Embedding
from plume.slots import Memory, Slots
from plume.vocabulary import Vocabulary

Cell = Literal["lstm", "gru", "rnn"]
_CELLS: dict[Cell, type[nn.LSTM] | type[nn.GRU] | type[nn.RNN]] = {
    "lstm": nn.LSTM,
    "gru": nn.GRU,
    "rnn": nn.RNN,
}


@dataclass(frozen=True)
class RecurrentConfig:
    """``num_layers`` layers of ``d_model`` cells, left to right. ``dropout`` lies between the layers.

    ``both_ways``: half of the cells of each layer read from the left and half from the right (Graves and Schmidhuber
    2005). Such a network sees all of a text, so it can be no language model, and carries no state along.
    """

    num_layers: int
    d_model: int
    cell: Cell = "lstm"
    dropout: float = 0.0
    init_std: float = 0.1
    both_ways: bool = False
    mixes: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.both_ways and self.d_model % 2:
            raise ValueError(
                f"both_ways halves the cells of a layer: d_model must be even, not {self.d_model}"
            )

    @property
    def pool(self) -> Pool:
        """Where a text is summed up: where all of it was read, or by the maximum over its slots."""
        return "max" if self.both_ways else "slot"

    def build(self, vocab: Vocabulary) -> Recurrent:
        return Recurrent(self, vocab)


class Recurrent(nn.Module):
    """LSTM, GRU or Elman cells over [R, L] slots; ranks play no part, every slot sees what stands before it.

    Memory is ``Memory(None, (h, c))`` (LSTM) or ``(h,)``, each [R, num_layers, D]: the state after the last
    slot of a row. It comes back attached to the graph, as a caller may want the gradient through it; whoever
    carries it to another step (the trainer) detaches it, and sets rows to 0 where a text begins anew.
    A row holds one document: packed rows would let the state run from one into the next.
    """

    packs = False

    def __init__(self, config: RecurrentConfig, vocab: Vocabulary) -> None:
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
        make = _CELLS[config.cell]
        # Layers are modules of their own: torch's stacked cells draw their dropout where no key is set.
        width = config.d_model // 2 if config.both_ways else config.d_model

        def layers() -> nn.ModuleList:
            return nn.ModuleList(
                make(config.d_model, width, batch_first=True) for _ in range(config.num_layers)
            )

        self.layers = layers()
        self.backward_layers = layers() if config.both_ways else None

    def forward(
        self,
        inputs: Slots[Tensor],
        decoder_inputs: Slots[Tensor] | None = None,
        *,
        memory: Memory | None = None,
        use_memory: bool = False,
        wanted: Tensor | None = None,
    ) -> Hidden:
        """[R, L] slots -> [R, L, D]; memory comes back asked for or not, and all slots, ``wanted`` or not."""
        if decoder_inputs is not None:
            raise ValueError(
                "a recurrent backbone has one stack: this objective's decoder inputs need a Transformer"
            )
        if inputs.layout is not None and len(set(inputs.layout.documents[:, 0].tolist())) < len(
            inputs.layout.documents
        ):
            raise ValueError("a recurrent backbone reads one document a row: collate with packed=False")
        x = self.embedding(inputs)
        if self.backward_layers is not None:
            if memory is not None or use_memory:
                raise ValueError("a network that reads both ways carries no state: it must see a text whole")
            return self._both_ways(x, inputs, self.backward_layers)
        states, after = [x], []
        for i, layer in enumerate(self.layers):
            if i:
                x = dropout(x, self.config.dropout, self.training)
            before = None
            if memory is not None:
                parts = [part[:, i][None].contiguous() for part in memory.layers]
                before = tuple(parts) if self.config.cell == "lstm" else parts[0]
            # oneDNN's bf16 cells exist on some processors only; cells are small, so they stay in fp32 on all.
            with torch.autocast("cpu", enabled=False) if x.device.type == "cpu" else nullcontext():
                x, state = layer(x, before)
            after.append(state if isinstance(state, tuple) else (state,))
            states.append(x)
        kept = tuple(torch.cat(parts).transpose(0, 1) for parts in zip(*after, strict=True))
        return Hidden(x, layers=tuple(states), memory=Memory(None, kept))

    def _both_ways(self, x: Tensor, inputs: Slots[Tensor], back: nn.ModuleList) -> Hidden:
        turn = reversal(inputs.document_ids >= 0)
        states = [x]
        for i, (layer, other) in enumerate(zip(self.layers, back, strict=True)):
            if i:
                x = dropout(x, self.config.dropout, self.training)
            with torch.autocast("cpu", enabled=False) if x.device.type == "cpu" else nullcontext():
                x = torch.cat([layer(x)[0], turned(other(turned(x, turn))[0], turn)], -1)
            states.append(x)
        return Hidden(x, layers=tuple(states))


def reversal(real: Tensor) -> Tensor:
    """Where each slot of a row lies when its words, and not its padding, are turned round: [R, L]."""
    at = torch.arange(real.shape[1], device=real.device).expand_as(real)
    return torch.where(real, real.sum(1, keepdim=True) - 1 - at, at)


def turned(x: Tensor, turn: Tensor) -> Tensor:
    """[R, L, D] in the order that ``reversal`` gives."""
    return x.gather(1, turn[..., None].expand_as(x))
