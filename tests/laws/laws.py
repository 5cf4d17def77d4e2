"""The laws every objective obeys (DESIGN section 6), written once for all of them.

A law takes a ``Case`` and raises AssertionError where it is broken. ``test_laws.py`` runs every law on every
case, and proves for each law that a planted defect breaks it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from plume.models.pretrained import PretrainedModel
from plume.models.transformer import TransformerConfig
from plume.objectives.base import Objective
from plume.seeding import rng
from plume.slots import IGNORE, Example, Slots, collate
from plume.text.windows import Window
from plume.vocabulary import Vocabulary

VOCAB = Vocabulary(size=40, pad=0, unk=1, cls=2, sep=3, mask=4, bos=5, eos=6)
FIRST = 7  # the first id of a user's text


@dataclass(frozen=True)
class Case:
    """An objective, how a source for it is made from token ids, and what is known of it in advance."""

    name: str
    objective: Objective[Any]
    source: Callable[[np.ndarray], Any]
    rate: Mapping[
        str, Callable[[int], tuple[int, int]]
    ]  # head -> slots of a source -> fewest and most labels
    floor: Mapping[str, Callable[[int], float]]  # head -> V -> loss of the best guess on uniform random text
    hides: Objective[Any] | None = None  # the same without tokens kept as they are, for the no-leak law


def window(ids: np.ndarray) -> Window:
    """A bare window: every token a word of its own."""
    n = len(ids)
    return Window(
        ids=ids,
        marks=np.ones(n, np.uint8),
        special=np.zeros(n, bool),
        token_type_ids=np.zeros(n, np.int64),
        labels={},
    )


def framed(ids: np.ndarray) -> Window:
    """[CLS] ids [SEP], the second half of the tokens a second segment, words of two tokens."""
    n = len(ids)
    types = np.zeros(n + 2, np.int64)
    types[1 + n // 2 :] = 1
    marks = np.ones(n + 2, np.uint8)
    marks[2::2] = 0
    return Window(
        ids=np.concatenate([[VOCAB.cls], ids, [VOCAB.sep]]),
        marks=marks,
        special=np.array([True] + [False] * n + [True]),
        token_type_ids=types,
        labels={"next_sentence": n % 2},
    )


def tiny(objective: Objective[Any], seed: int = 0, **changes: Any) -> PretrainedModel:
    """A real model with every head of the objective, in fp64 so that no kernel's rounding hides a leak."""
    config = TransformerConfig(
        num_layers=2, d_model=16, num_heads=2, d_ff=32, norm_order="pre", positions="learned", max_positions=64,
        token_types=2, dropout=0.0, attention_dropout=0.0,
    )  # fmt: skip
    config = replace(config, **changes)
    return (
        PretrainedModel.build(config, VOCAB, lambda backbone: objective.heads(backbone, VOCAB), seed=seed)
        .double()
        .eval()
    )


def draw(
    case: Case, ids: np.ndarray, seed: int = 0, objective: Objective[Any] | None = None
) -> Example[Any] | None:
    return (objective or case.objective).example(case.source(ids), VOCAB, rng(seed, "noise", 0, 0))


def stacks(example: Example[Any]) -> list[Slots[Any]]:
    return [s for s in (example.inputs, example.decoder_inputs) if s is not None]


def restore(case: Case, ids: np.ndarray, seed: int) -> None:
    """Inputs and labels give the source's ids back."""
    example = draw(case, ids, seed)
    if example is not None:
        np.testing.assert_array_equal(case.objective.restore(example), case.source(ids).ids)


def determinism(case: Case, ids: np.ndarray, seed: int) -> None:
    """The same key draws the same example."""
    a, b = draw(case, ids, seed), draw(case, ids, seed)
    assert (a is None) == (b is None)
    if a is None or b is None:
        return
    for x, y in zip(stacks(a), stacks(b), strict=True):
        np.testing.assert_array_equal(x.input_ids, y.input_ids)
        np.testing.assert_array_equal(x.sees(), y.sees())
        for head, labels in x.labels.items():
            np.testing.assert_array_equal(labels, y.labels[head])


def rate(case: Case, ids: np.ndarray, seed: int) -> None:
    """As many slots are asked as the paper says, and each label is an id of the vocabulary or a class."""
    example = draw(case, ids, seed)
    if example is None:
        return
    asked = {head: labels for slots in stacks(example) for head, labels in slots.labels.items()}
    assert set(asked) == set(case.rate)
    for head, labels in asked.items():
        fewest, most = case.rate[head](len(case.source(ids).ids))
        assert fewest <= int((labels != IGNORE).sum()) <= most, head
        assert ((labels == IGNORE) | ((labels >= 0) & (labels < VOCAB.size))).all()


def heads(case: Case, ids: np.ndarray, seed: int) -> None:
    """Every label has a head, and ``counts`` knows before the forward what ``losses`` will divide by."""
    example = draw(case, ids, seed)
    if example is None:
        return
    model = tiny(case.objective)
    asked = {head for slots in stacks(example) for head in slots.labels}
    assert asked <= set(model.heads), f"labels without a head: {asked - set(model.heads)}"
    short = Slots.bidirectional([VOCAB.mask]) if example.decoder_inputs is None else None
    examples = [example] + ([Example(short)] if short is not None else [])
    batch = collate(examples, packed=False)
    losses = case.objective.losses(model, batch).heads
    counts = case.objective.counts(batch, dict(model.heads.items()))
    assert set(losses) == set(counts) == set(model.heads)
    for head, loss in losses.items():
        assert float(loss.count) == float(counts[head]), head
        assert torch.isfinite(loss.total), head


def packing(case: Case, ids: np.ndarray, seed: int) -> None:
    """Packed or padded, alone or together: the same sums, and nothing of a neighbour comes through."""
    parts = [e for i in range(1, len(ids) + 1) if (e := draw(case, ids[:i], seed + i)) is not None]
    if not parts:
        return
    model = tiny(case.objective)
    with torch.no_grad():
        alone = [case.objective.losses(model, collate([e])).heads for e in parts]
        for packed in (True, False):
            together = case.objective.losses(model, collate(parts, packed=packed)).heads
            for head, loss in together.items():
                total = sum(float(a[head].total) for a in alone if head in a)
                assert abs(float(loss.total) - total) < 1e-8, (head, packed)


def no_leak(case: Case, ids: np.ndarray, seed: int) -> None:
    """What a slot is asked for never reaches that slot's answer.

    For every labelled slot: change the source only in the token that its label names. Where the draw hides
    that token the hidden state there must stay the same to the last bit.
    """
    objective = case.hides or case.objective
    example = draw(case, ids, seed, objective)
    if example is None:
        return
    model = tiny(objective)

    def hidden(e: Example[Any]) -> dict[str, torch.Tensor]:
        batch = collate([e], packed=False)
        with torch.no_grad():
            states = model.backbone(batch.inputs, batch.decoder_inputs)
        return {name: states[head.reads][0] for name, head in model.heads.items()}

    before = hidden(example)
    for at in range(len(ids)):
        other = ids.copy()
        other[at] = FIRST + (ids[at] - FIRST + 1) % (VOCAB.size - FIRST)
        changed = draw(case, other, seed, objective)
        assert changed is not None
        after = hidden(changed)
        for x, y in zip(stacks(example), stacks(changed), strict=True):
            for head, labels in x.labels.items():
                # A slot whose answer changed because this one token changed must not have been able to see it.
                for slot in np.flatnonzero(labels != y.labels[head]):
                    assert torch.equal(before[head][slot], after[head][slot]), (
                        f"{head} sees its label at slot {slot}"
                    )
