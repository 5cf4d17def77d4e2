"""Every law on every objective, and for every law a planted defect that it catches."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from plume.objectives.causal import CausalLM
from plume.objectives.classification import Classification, Labelled
from plume.objectives.masked import MaskedLM
from plume.seeding import rng
from plume.slots import Example, Losses, collate
from tests.laws import laws
from tests.laws.laws import FIRST, VOCAB, Case


def exactly(density: float) -> Callable[[int], tuple[int, int]]:
    def of(length: int) -> tuple[int, int]:
        wanted = min(max(1, round(density * length)), length - 2)  # two specials in every framed window
        return wanted, wanted

    return of


def masked_floor(mask: float, random: float) -> Callable[[int], float]:
    """The loss of the best guess where ``v`` ids are equally likely and replacements come from all of VOCAB.

    At [MASK], and at a special id that only a replacement can have put there, nothing is known: ln v. At any
    other id the input is the label with probability p, for it may have been kept, and else one of v - 1.
    """

    def of(v: int) -> float:
        kept = 1 - mask - random
        ordinary = kept + random * v / VOCAB.size
        blank = mask + random * (1 - v / VOCAB.size)
        if not ordinary:
            return math.log(v)
        p = (kept + random / VOCAB.size) / (kept + random * v / VOCAB.size)
        known = -p * math.log(p) - (1 - p) * math.log((1 - p) / (v - 1)) if p < 1 else 0.0
        return blank * math.log(v) + ordinary * known

    return of


def labelled(ids: np.ndarray) -> Labelled:
    return Labelled((ids[: len(ids) // 2], ids[len(ids) // 2 :]), int(len(ids) % 3))


one = {"masked_token": exactly(0.15), "next_sentence": lambda n: (1, 1)}
CASES = [
    Case(
        "causal", CausalLM(), laws.window, {"next_token": lambda n: (n - 1, n - 1)}, {"next_token": math.log}
    ),
    Case(
        "masked",
        MaskedLM(),
        laws.framed,
        {"masked_token": exactly(0.15)},
        {"masked_token": masked_floor(0.8, 0.1)},
        hides=MaskedLM(mask_share=0.8, random_share=0.2),
    ),
    Case(
        "masked, dense",
        MaskedLM(noise_density=0.5, mask_share=0.7, random_share=0.0),
        laws.framed,
        {"masked_token": exactly(0.5)},
        {"masked_token": masked_floor(0.7, 0.0)},
        hides=MaskedLM(noise_density=0.5, mask_share=1.0, random_share=0.0),
    ),
    Case(
        "masked, each token on its own",
        MaskedLM(selection="bernoulli", mask_share=1.0, random_share=0.0),
        laws.framed,
        {"masked_token": lambda n: (1, n)},
        {"masked_token": math.log},
    ),
    Case(
        "masked, whole words",
        MaskedLM(unit="word", noise_density=0.4, mask_share=1.0, random_share=0.0),
        laws.framed,
        {"masked_token": lambda n: (1, max(1, round(0.4 * n)))},
        {"masked_token": math.log},
    ),
    Case(
        "masked, next sentence",
        MaskedLM(next_sentence=True, mask_share=0.8, random_share=0.2),
        laws.framed,
        one,
        {"masked_token": masked_floor(0.8, 0.2)},
    ),
]
LAWS = [laws.restore, laws.determinism, laws.rate, laws.heads, laws.packing, laws.no_leak]
texts = st.lists(st.integers(FIRST, VOCAB.size - 1), min_size=1, max_size=14).map(
    lambda ids: np.array(ids, np.int64)
)


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
@pytest.mark.parametrize("law", LAWS, ids=lambda f: f.__name__)
@settings(max_examples=8, deadline=None)
@given(ids=texts, seed=st.integers(0, 2**31))
def test_law(law: Callable[[Case, np.ndarray, int], None], case: Case, ids: np.ndarray, seed: int) -> None:
    law(case, ids, seed)


@pytest.mark.parametrize("reader", [CausalLM(), MaskedLM()], ids=["causal", "masked"])
@settings(max_examples=8, deadline=None)
@given(ids=texts, seed=st.integers(0, 2**31))
def test_classification_obeys_the_laws_it_can_break(reader: Any, ids: np.ndarray, seed: int) -> None:
    objective = Classification(reader, ("a", "b", "c"), max_length=9, dropout=0.0)
    case = Case("classification", objective, labelled, {"label": lambda n: (1, 1)}, {})
    for law in (laws.determinism, laws.heads, laws.packing):
        law(case, ids, seed)
    example = laws.draw(case, ids, seed)
    assert example is not None
    assert len(example.inputs) <= 9
    labels = example.inputs.labels["label"]
    assert labels.max() == len(ids) % 3
    # The slot that answers has seen the whole text, through as many layers as it takes.
    assert example.inputs.sees()[labels.argmax()].all()


# ---------------------------------------------------------------------------------- negative controls


class SeesItsLabel(CausalLM):
    """The classic leak: every slot sees one slot too far."""

    def example(self, source: Any, vocab: Any, rng: Any) -> Example[Any] | None:
        example = super().example(source, vocab, rng)
        return example and replace(
            example, inputs=replace(example.inputs, sees_until=example.inputs.sees_until + 1)
        )


class Unkeyed(MaskedLM):
    """Draws from a generator of its own, as the field's collators do."""

    def example(self, source: Any, vocab: Any, rng: Any) -> Example[Any] | None:
        return super().example(source, vocab, np.random.default_rng())


class Loses(CausalLM):
    """Shifts twice."""

    def example(self, source: Any, vocab: Any, rng: Any) -> Example[Any] | None:
        example = super().example(source, vocab, rng)
        labels = np.roll(source.ids[1:], -1)
        return example and replace(example, inputs=replace(example.inputs, labels={"next_token": labels}))


class AsksEverything(MaskedLM):
    def choose(self, source: Any, rng: Any) -> Any:
        return np.flatnonzero(~source.special)


class OneDocument(CausalLM):
    """Packs without keeping documents apart."""

    def losses(self, model: Any, batch: Any) -> Losses:
        ids = batch.inputs.document_ids.clamp(max=0)
        ranks = torch.arange(ids.shape[1]).expand_as(ids)
        slots = replace(batch.inputs, document_ids=ids, layout=None, visible_at=ranks, sees_until=ranks)
        return super().losses(model, replace(batch, inputs=slots))


class NoHead(MaskedLM):
    def heads(self, backbone: Any, vocab: Any) -> Any:
        return {}


class MeanOfMeans(CausalLM):
    """Divides in the loss and says it counted one."""

    def losses(self, model: Any, batch: Any) -> Losses:
        heads = super().losses(model, batch).heads
        return Losses(
            {
                n: loss._replace(total=loss.total / loss.count, count=loss.count * 0 + 1)
                for n, loss in heads.items()
            }
        )


BROKEN = [
    (laws.no_leak, SeesItsLabel(), CASES[0]),
    (laws.determinism, Unkeyed(), CASES[1]),
    (laws.restore, Loses(), CASES[0]),
    (laws.rate, AsksEverything(), CASES[1]),
    (laws.packing, OneDocument(), CASES[0]),
    (laws.heads, NoHead(), CASES[1]),
    (laws.heads, MeanOfMeans(), CASES[0]),
]


@pytest.mark.parametrize(
    ("law", "objective", "case"), BROKEN, ids=lambda x: getattr(x, "__name__", type(x).__name__)
)
def test_a_planted_defect_breaks_the_law(law: Any, objective: Any, case: Case) -> None:
    ids = np.arange(FIRST, FIRST + 14)
    law(case, ids, 3)  # the sound objective passes the very same draw
    with pytest.raises(AssertionError):
        law(replace(case, objective=objective, hides=None), ids, 3)


# ------------------------------------------------------------------------------- random-text control


PEAK = 8e-3  # high, so that 200 steps are enough to learn what little there is


def heldout_on_random_text(case: Case, steps: int = 200) -> dict[str, tuple[float, float]]:
    """(mean loss, floor) a token head after training on uniform random tokens; nothing there can be learnt."""
    torch.manual_seed(0)
    model = laws.tiny(case.objective, d_model=32).float().train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=PEAK, weight_decay=0.0)
    draws = VOCAB.size - FIRST

    def batch(step: int, size: int) -> Any:
        generator = rng(1, "text", step)
        examples = [
            case.objective.example(
                case.source(generator.integers(FIRST, VOCAB.size, 24)), VOCAB, rng(2, "noise", step, i)
            )
            for i in range(size)
        ]
        return collate([e for e in examples if e is not None])

    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = PEAK * (1 - step / steps)
        losses = case.objective.losses(model, batch(step, 16)).heads
        optimizer.zero_grad()
        sum(loss.total / loss.count for loss in losses.values()).backward()
        optimizer.step()
    model.eval()
    with torch.no_grad():
        heldout = case.objective.losses(model, batch(10_000, 800)).heads
    return {
        head: (float(heldout[head].total / heldout[head].count), floor(draws))
        for head, floor in case.floor.items()
    }


ALL_MASKED = replace(
    CASES[1],
    objective=MaskedLM(mask_share=1.0, random_share=0.0),
    floor={"masked_token": masked_floor(1.0, 0.0)},
)


@pytest.mark.parametrize("case", [CASES[0], ALL_MASKED], ids=["causal", "masked"])
def test_on_random_text_the_loss_stays_at_its_floor(case: Case) -> None:
    for head, (loss, floor) in heldout_on_random_text(case).items():
        assert abs(loss - floor) < 0.02, (head, loss, floor)


def test_tokens_kept_as_they_are_lower_the_floor_by_what_they_give_away_and_no_more() -> None:
    """Above the floor is only what 200 steps have not learnt yet (0.02 after 200, 0.017 after 300): the law is
    that nothing gets below it, and that the kept share, and nothing else, gets below ln V."""
    ((loss, floor),) = heldout_on_random_text(CASES[2]).values()
    assert floor - 0.02 < loss < floor + 0.05 < math.log(VOCAB.size - FIRST), (loss, floor)


def test_a_leak_of_one_slot_goes_through_the_floor() -> None:
    ((loss, floor),) = heldout_on_random_text(replace(CASES[0], objective=SeesItsLabel())).values()
    assert loss < floor - 0.5
