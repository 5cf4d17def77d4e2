"""A table of rows and nothing more: the backbone of Word2Vec, and of bags of its vectors (spec 02 section E)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from plume.models.activations import Activation
from plume.models.backbone import Hidden, Init, Pool
from plume.models.embedding import Embedding
from plume.slots import Memory, Slots
from plume.vocabulary import Vocabulary


@dataclass(frozen=True)
class LookupConfig:
    """Rows of ``d_model``. ``bag``: every slot gives the mean of its document's rows.

    ``full_error``: each row gets the whole gradient of that mean and not its share, as word2vec.c does in CBOW; it
    makes the learning rate larger by the number of rows.
    """

    d_model: int
    bag: bool = False
    full_error: bool = False
    pool: ClassVar[Pool] = "mean"
    mixes: ClassVar[bool] = False

    @property
    def num_layers(self) -> int:
        """None: what is looked up is what comes out."""
        return 0

    def build(self, vocab: Vocabulary) -> Lookup:
        return Lookup(self, vocab)


class Lookup(nn.Module):
    """[R, L] slots -> [R, L, D]; nothing but documents decides who sees whom, and only where rows are pooled."""

    packs = True

    def __init__(self, config: LookupConfig, vocab: Vocabulary) -> None:
        super().__init__()
        self.config = config
        self.d_model = config.d_model
        self.activation: Activation = "relu"
        self.norm_eps = 1e-5
        self.init: Init = "normal"
        self.init_std = 0.02  # of the heads that are put on top
        self.tie_head, self.head_scale = True, 1.0
        self.activation_checkpointing = False
        self.embedding = Embedding(vocab, config.d_model, uniform=0.5 / config.d_model)

    def forward(
        self,
        inputs: Slots[Tensor],
        decoder_inputs: Slots[Tensor] | None = None,
        *,
        memory: Memory | None = None,
        use_memory: bool = False,
        wanted: Tensor | None = None,
    ) -> Hidden:
        """Rows of the table, pooled or not. All slots answer, ``wanted`` or not."""
        if decoder_inputs is not None:
            raise ValueError("a table of vectors has one stack: decoder inputs need a Transformer")
        rows = self.embedding(inputs)
        pooled = self._mean(rows, inputs.document_ids) if self.config.bag else rows
        return Hidden(pooled, layers=(rows, pooled))

    def _mean(self, rows: Tensor, documents: Tensor) -> Tensor:
        length = documents.shape[1]
        first = torch.arange(len(documents), device=documents.device)[:, None] * (length + 1)
        owner = (first + documents + 1).flatten()  # padding, document -1, is a bag of its own
        count = torch.bincount(owner, minlength=len(documents) * (length + 1)).clamp(min=1).to(rows.dtype)
        flat = rows.flatten(0, 1)
        total = flat.new_zeros(len(count), flat.shape[1]).index_add(0, owner, flat)
        mean = total / count[:, None]
        if self.config.full_error:
            mean = mean.detach() + total - total.detach()
        return mean[owner].view_as(rows)
