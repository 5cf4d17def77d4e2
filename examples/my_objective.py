"""Some tokens are taken out of a text; the slot before each gap must say which one is missing."""

from dataclasses import dataclass

import numpy as np

from plume.models.heads import TokenHead
from plume.models.transformer import TransformerConfig
from plume.objectives.base import Objective
from plume.slots import IGNORE, Example, Slots
from plume.text.tokenizers import WordPiece
from plume.text.windows import FullSentences, Window
from plume.training.settings import Pretraining, Training


@dataclass(frozen=True)
class Missing(Objective[Window]):
    share: float = 0.15

    def example(self, source, vocab, rng):
        hit = (rng.random(len(source.ids)) < self.share) & ~source.special
        gone = hit & ~np.roll(hit, 1)  # never two in a row: each gap has one answer
        gone[0] = False
        if not gone.any():
            return None  # nothing to ask: dropped, and counted
        after = np.where(np.roll(gone, -1), np.roll(source.ids, -1), IGNORE)
        return Example(Slots.bidirectional(source.ids[~gone], labels={"missing_token": after[~gone]}))

    def heads(self, backbone, vocab):
        return {"missing_token": TokenHead(backbone, transform=True, bias=True)}

    def restore(self, example):
        both = np.stack([example.inputs.input_ids, example.inputs.labels["missing_token"]], axis=1).ravel()
        return both[both != IGNORE]

    def read(self, segments, vocab):
        ends = [np.append(segment, vocab.require("sep")) for segment in segments]
        return Slots.bidirectional(np.concatenate([[vocab.require("cls")], *ends])), 0


def tiny():
    return Pretraining(
        tokenizer=WordPiece(vocab_size=8000),
        windows=FullSentences(length=128),
        objective=Missing(),
        model=TransformerConfig(num_layers=2, d_model=128, num_heads=2, d_ff=512, max_positions=128),
        training=Training(steps=2000, batch_size=32, lr=1e-3, warmup_steps=100),
    )
