"""The token table, and the linear map that knows its initial scale."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from plume.slots import Slots
from plume.vocabulary import Vocabulary


class SelfStarting(nn.Module):
    """A module whose parameters have initial values of their own, where ``PretrainedModel.initialise``'s rule is not
    the paper's."""

    def start(self, name: str, parameter: Tensor, generator: torch.Generator) -> None:
        """Fill ``parameter``, on the CPU, which this module calls ``name``."""
        raise NotImplementedError


class Linear(nn.Linear):
    """``nn.Linear`` whose initial standard deviation is ``init_scale`` times the model's.

    Several scales belong to as many equal blocks of outputs (queries, keys and values made by one matmul).
    """

    def __init__(
        self, inputs: int, outputs: int, *, bias: bool = True, init_scale: float | tuple[float, ...] = 1.0
    ) -> None:
        super().__init__(inputs, outputs, bias)
        self.init_scale = init_scale if isinstance(init_scale, tuple) else (init_scale,)


class Embedding(nn.Module):
    """Token rows, learned rows for virtual ids (>= the vocabulary's size) and segment rows, summed.

    Of the ``task_types`` rows the first is added everywhere, as ``transformers`` does where no task is said (ERNIE).

    It may be handed to a second Transformer (ELECTRA): modules are shared, never bare tensors. ``uniform``: token
    rows begin uniform in +- that, not normal (Word2Vec).
    """

    virtual: nn.Parameter | None
    types: nn.Parameter | None
    tasks: nn.Parameter | None

    def __init__(
        self,
        vocab: Vocabulary,
        d_model: int,
        *,
        token_types: int = 0,
        virtual_tokens: int = 0,
        task_types: int = 0,
        uniform: float | None = None,
    ) -> None:
        super().__init__()
        self.uniform = uniform
        self.pad = vocab.pad if token_types else None  # BERT zeroes the padding row, GPT has none
        self.weight = nn.Parameter(torch.empty(vocab.size, d_model))
        self.virtual = nn.Parameter(torch.empty(virtual_tokens, d_model)) if virtual_tokens else None
        self.types = nn.Parameter(torch.empty(token_types, d_model)) if token_types else None
        self.tasks = nn.Parameter(torch.empty(task_types, d_model)) if task_types else None

    def forward(self, slots: Slots[Tensor]) -> Tensor:
        """[R, L] -> [R, L, D]."""
        ids, size = slots.input_ids, len(self.weight)
        if self.virtual is None:
            rows = F.embedding(ids, self.weight)
        else:
            learned = F.embedding((ids - size).clamp(min=0), self.virtual)
            rows = torch.where(
                (ids < size)[..., None], F.embedding(ids.clamp(max=size - 1), self.weight), learned
            )
        if self.types is not None:
            rows = rows + F.embedding(slots.token_type_ids, self.types)
        if self.tasks is not None:
            rows = rows + self.tasks[0]
        return rows
