"""ELMo's backbone: words from characters, then two independent LSTMs, one a direction (spec 04 section 2).

R rows, L words, P = d_model, what a cell passes on; C = d_cell, what it holds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from plume.models.activations import Activation
from plume.models.backbone import Hidden, Init, Pool
from plume.models.characters import CharacterEncoder, Filters
from plume.models.dropout import dropout
from plume.models.embedding import Embedding, SelfStarting
from plume.models.recurrent import reversal, turned
from plume.slots import Memory, Slots
from plume.vocabulary import Vocabulary

FORGET = 1.0  # added to the forget gate at run time, as TensorFlow's cells do


@dataclass(frozen=True)
class BiLSTMConfig:
    """``num_layers`` layers a direction, of ``d_cell`` cells projected to ``d_model``; ``skip`` adds each layer's input
    to what it says, from the second on.

    What a cell holds is clipped to +-``cell_clip``, what it passes on to +-``projection_clip`` (None: not).
    ``dropout`` lies on every layer's input and on what comes out. Words come from their characters: ``filters``
    are (width, count), then ``num_highways``.
    """

    num_layers: int = 2
    d_model: int = 512
    d_cell: int = 4096
    cell_clip: float | None = 3.0
    projection_clip: float | None = 3.0
    skip: bool = True
    d_character: int = 16
    filters: Filters = ((1, 32), (2, 32), (3, 64), (4, 128), (5, 256), (6, 512), (7, 1024))
    num_highways: int = 2
    dropout: float = 0.1
    pool: ClassVar[Pool] = "max"
    mixes: ClassVar[bool] = True

    def build(self, vocab: Vocabulary) -> BiLSTM:
        return BiLSTM(self, vocab)


class ProjectedLSTM(SelfStarting):
    """One layer: gates i, g, f, o from the word and from what was passed on last; no peepholes.

    c = sigmoid(i) tanh(g) + sigmoid(f + 1) c'     h = W_p (sigmoid(o) tanh(c))     both clipped
    """

    def __init__(self, config: BiLSTMConfig) -> None:
        super().__init__()
        p, c = config.d_model, config.d_cell
        self.cell_clip, self.projection_clip = config.cell_clip, config.projection_clip
        self.weight = nn.Parameter(
            torch.empty(4 * c, 2 * p)
        )  # the word's columns, then those of what was passed on
        self.bias = nn.Parameter(torch.empty(4 * c))
        self.projection = nn.Parameter(torch.empty(p, c))

    def start(self, name: str, parameter: Tensor, generator: torch.Generator) -> None:
        if parameter.ndim == 1:
            parameter.zero_()
        else:
            bound = (6 / sum(parameter.shape)) ** 0.5
            parameter.uniform_(-bound, bound, generator=generator)

    def forward(self, x: Tensor, real: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """[R, L, P], true where there is a word [R, L], (h [R, P], c [R, C]) -> outputs, 0 at padding, and the state
        after each row's last word."""
        h, c = state
        of_word, of_past = self.weight.split(x.shape[-1], 1)
        read = F.linear(x, of_word, self.bias)
        outputs = []
        for t, there in enumerate(real.unbind(1)):
            i, g, f, o = torch.addmm(read[:, t], h, of_past.T).chunk(4, 1)
            held = i.sigmoid() * g.tanh() + (f + FORGET).sigmoid() * c
            if self.cell_clip is not None:
                held = held.clamp(-self.cell_clip, self.cell_clip)
            said = F.linear(o.sigmoid() * held.tanh(), self.projection)
            if self.projection_clip is not None:
                said = said.clamp(-self.projection_clip, self.projection_clip)
            there = there[:, None]
            h, c = torch.where(there, said, h), torch.where(there, held, c)
            outputs.append(said * there)
        return torch.stack(outputs, 1), h, c


class Direction(nn.Module):
    """The layers of one direction, over words in the order in which it reads them."""

    def __init__(self, config: BiLSTMConfig) -> None:
        super().__init__()
        self.config = config
        self.layers = nn.ModuleList(ProjectedLSTM(config) for _ in range(config.num_layers))

    def forward(
        self, x: Tensor, real: Tensor, memory: tuple[Tensor, ...] | None
    ) -> tuple[list[Tensor], tuple[Tensor, Tensor]]:
        """[R, L, P] -> each layer's outputs, and (h [R, layers, P], c [R, layers, C]) to go on with."""
        c, states, after = self.config, [], []
        for number, layer in enumerate(self.layers):
            x = dropout(x, c.dropout, self.training)
            if memory is None:
                before = x.new_zeros(len(x), c.d_model), x.new_zeros(len(x), c.d_cell)
            else:
                # Copies: what was read from a checkpoint lies in memory otherwise, which a last digit can feel.
                before = memory[0][:, number].clone(), memory[1][:, number].clone()
            said, *state = layer(x, real, before)
            after.append(state)
            x = said + x if c.skip and number else said
            states.append(x)
        h, cell = (torch.stack(parts, 1) for parts in zip(*after, strict=True))
        return states, (h, cell)


class BiLSTM(nn.Module):
    """Two directions that share how words are read and nothing else.

    With ``decoder_inputs`` the backward direction reads those, which are then in its own order: that is how it is
    trained, each direction on a stream of its own. Without, it reads the words of ``inputs`` from each row's last
    one, and every slot has the states of both. Memory is (h, c) of the forward and then of the backward direction,
    each [R, layers, .]. A row holds one document.
    """

    packs = False

    def __init__(self, config: BiLSTMConfig, vocab: Vocabulary) -> None:
        super().__init__()
        self.config = config
        self.d_model = config.d_model
        self.activation: Activation = "relu"
        self.norm_eps = 1e-5
        self.init: Init = "normal"
        self.init_std = 0.02
        self.tie_head, self.head_scale = True, 1.0
        self.activation_checkpointing = False
        self.features = (config.num_layers + 1, 2 * config.d_model)
        self.characters = CharacterEncoder(
            config.d_character, config.filters, config.num_highways, config.d_model
        )
        self.ahead = Direction(config)
        self.back = Direction(config)

    @property
    def embedding(self) -> Embedding:
        raise ValueError("words are read from their characters here, so there is no token table that a head "
                         "could share: use the objective BidirectionalLM")  # fmt: skip

    def forward(
        self,
        inputs: Slots[Tensor],
        decoder_inputs: Slots[Tensor] | None = None,
        *,
        memory: Memory | None = None,
        use_memory: bool = False,
        wanted: Tensor | None = None,
    ) -> Hidden:
        """[R, L] slots with ``features``. ``last`` and ``backward`` [R, L, P] are the directions' highest layers;
        ``layers`` [R, L, 2 P] the words twice, and both directions side by side, where both read ``inputs``."""
        x, real = self._read(inputs)
        held = (None, None) if memory is None else (memory.layers[:2], memory.layers[2:])
        with torch.autocast(
            x.device.type, enabled=False
        ):  # cells hold sums over a whole text: no half precision
            ahead, state = self.ahead(x, real, held[0])
            if decoder_inputs is not None:
                back, state_back = self.back(*self._read(decoder_inputs), held[1])
            else:
                turn = reversal(real)
                back, state_back = self.back(turned(x, turn), real, held[1])
                back = [turned(state, turn) for state in back]
        layers: tuple[Tensor, ...] = ()
        if decoder_inputs is None:
            layers = tuple(torch.cat(pair, -1) for pair in zip([x, *ahead], [x, *back], strict=True))
        rate = self.config.dropout
        return Hidden(
            dropout(ahead[-1], rate, self.training),
            backward=dropout(back[-1], rate, self.training),
            layers=layers,
            memory=Memory(None, (*state, *state_back)),
        )

    def _read(self, slots: Slots[Tensor]) -> tuple[Tensor, Tensor]:
        if slots.features is None:
            raise ValueError(
                "this backbone reads the characters of words, which only objective=BidirectionalLM gives it"
            )
        if slots.layout is not None:
            rows = slots.layout.documents[:, 0].tolist()
            if len(set(rows)) < len(rows):
                raise ValueError("a recurrent backbone reads one document a row: collate with packed=False")
        real = slots.document_ids >= 0
        x = self.characters(slots.features)
        return x.to(self.characters.projection.weight.dtype), real
