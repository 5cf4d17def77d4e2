"""A word from its characters: convolutions, the highest answer of each, highways, a projection (spec 04 section 2).

N words, W = 50 characters a word, E = d_character, F = filters together, P = what comes out.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from plume.models.embedding import SelfStarting

CHARACTERS = 261  # 256 bytes, begin and end of sentence, begin and end of word, the padding inside a word
Filters = tuple[tuple[int, int], ...]  # (width, how many)


class CharacterTable(SelfStarting):
    """[..., W] ids -> [..., W, E]. Id 0 is no character at all and gives 0; id i has row i - 1."""

    def __init__(self, d_character: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(CHARACTERS, d_character))

    def start(self, name: str, parameter: Tensor, generator: torch.Generator) -> None:
        parameter.uniform_(-1.0, 1.0, generator=generator)

    def forward(self, ids: Tensor) -> Tensor:
        nothing = self.weight.new_zeros(1, self.weight.shape[1])
        return F.embedding(ids, torch.cat([nothing, self.weight]))


class Filter(SelfStarting):
    """One width of filters over a word: [N, E, W] -> [N, count], the highest answer of each, then ReLU."""

    def __init__(self, d_character: int, width: int, count: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(count, d_character, width))
        self.bias = nn.Parameter(torch.empty(count))

    def start(self, name: str, parameter: Tensor, generator: torch.Generator) -> None:
        parameter.zero_() if name == "bias" else parameter.uniform_(-0.05, 0.05, generator=generator)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(F.conv1d(x, self.weight, self.bias).amax(-1))


class Highway(SelfStarting):
    """g x' + (1 - g) x with x' = relu(W_t x + b_t) and the gate g = sigmoid(W_c x + b_c), nearly shut at first."""

    def __init__(self, d: int) -> None:
        super().__init__()
        self.transform_weight = nn.Parameter(torch.empty(d, d))
        self.transform_bias = nn.Parameter(torch.empty(d))
        self.carry_weight = nn.Parameter(torch.empty(d, d))
        self.carry_bias = nn.Parameter(torch.empty(d))

    def start(self, name: str, parameter: Tensor, generator: torch.Generator) -> None:
        if parameter.ndim == 2:
            parameter.normal_(0.0, parameter.shape[1] ** -0.5, generator=generator)
        else:
            parameter.fill_(-2.0 if name == "carry_bias" else 0.0)

    def forward(self, x: Tensor) -> Tensor:
        gate = F.linear(x, self.carry_weight, self.carry_bias).sigmoid()
        return gate * F.relu(F.linear(x, self.transform_weight, self.transform_bias)) + (1 - gate) * x


class Projection(SelfStarting):
    """A linear map that starts at a variance of one over its inputs."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(outputs, inputs))
        self.bias = nn.Parameter(torch.empty(outputs))

    def start(self, name: str, parameter: Tensor, generator: torch.Generator) -> None:
        if parameter.ndim == 2:
            parameter.normal_(0.0, parameter.shape[1] ** -0.5, generator=generator)
        else:
            parameter.zero_()

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias)


class CharacterEncoder(nn.Module):
    """[..., W] character ids, 0 where there is no word -> [..., P]. It knows nothing of a word's neighbours."""

    def __init__(self, d_character: int, filters: Filters, num_highways: int, outputs: int) -> None:
        super().__init__()
        self.table = CharacterTable(d_character)
        self.filters = nn.ModuleList(Filter(d_character, width, count) for width, count in filters)
        d = sum(count for _, count in filters)
        self.highways = nn.ModuleList(Highway(d) for _ in range(num_highways))
        self.projection = Projection(d, outputs)

    def forward(self, characters: Tensor) -> Tensor:
        # Reading each different word once would be faster, but then a word's last digits would depend on which
        # others stand beside it, and no slot's states may depend on what the slot does not see.
        x = self.table(characters.flatten(0, -2)).transpose(1, 2)
        x = torch.cat([part(x) for part in self.filters], -1)
        for highway in self.highways:
            x = highway(x)
        words: Tensor = self.projection(x)
        return words.view(*characters.shape[:-1], -1)
