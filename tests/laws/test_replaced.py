"""The laws for ELECTRA's objective, where the inputs of one network are the answers of the other."""

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

from plume.models.pretrained import PretrainedModel
from plume.objectives.base import ask
from plume.objectives.replaced import REPLACED, ReplacedTokens
from plume.slots import IGNORE, Batch, Example, collate
from tests.laws import laws
from tests.laws.laws import FIRST, VOCAB, Case

OBJECTIVE = ReplacedTokens(generator_share=0.5)
CASE = Case(
    "replaced",
    OBJECTIVE,
    laws.framed,
    {"masked_token": lambda n: (1, max(1, round(0.15 * n))), "replaced": lambda n: (n, n)},
    {"masked_token": math.log},
    hides=ReplacedTokens(generator_share=0.5, mask_share=1.0),
)
texts = st.lists(st.integers(FIRST, VOCAB.size - 1), min_size=1, max_size=14).map(
    lambda ids: np.array(ids, np.int64)
)


def seen(objective: ReplacedTokens, model: PretrainedModel, example: Example[Any]) -> tuple[Batch, Any, Any]:
    """What the discriminator reads, and the states that answer for masked tokens and for replaced ones."""
    batch = collate([example], packed=False)
    generator: Any = model.heads["masked_token"]
    with torch.no_grad():
        masked = ask(batch, "masked_token", generator.network(batch.inputs).last).hidden
        corrupted = objective.corrupt(generator, batch, masked)
        return corrupted, masked, model.backbone(corrupted.inputs).last[0]


def no_leak(case: Case, ids: np.ndarray, seed: int) -> None:
    """Texts that differ only in a hidden token give both networks the same to read, bit for bit."""
    objective: Any = case.hides
    example = laws.draw(case, ids, seed, objective)
    assert example is not None
    model = laws.tiny(objective)
    before, masked, states = seen(objective, model, example)
    for at in range(len(ids)):
        other = ids.copy()
        other[at] = FIRST + (ids[at] - FIRST + 1) % (VOCAB.size - FIRST)
        changed = laws.draw(case, other, seed, objective)
        assert changed is not None
        if example.inputs.labels["masked_token"][at + 1] == IGNORE:
            continue
        after, masked_after, states_after = seen(objective, model, changed)
        assert torch.equal(before.inputs.input_ids, after.inputs.input_ids)
        assert torch.equal(masked, masked_after) and torch.equal(states, states_after)


LAWS = [laws.restore, laws.determinism, laws.rate, laws.heads, laws.packing, no_leak]


@pytest.mark.parametrize("law", LAWS, ids=lambda f: f.__name__)
@settings(max_examples=8, deadline=None)
@given(ids=texts, seed=st.integers(0, 2**31))
def test_law(law: Callable[[Case, np.ndarray, int], None], ids: np.ndarray, seed: int) -> None:
    law(CASE, ids, seed)


@settings(max_examples=15, deadline=None)
@given(ids=texts, seed=st.integers(0, 2**31))
def test_a_label_says_whether_the_token_is_another(ids: np.ndarray, seed: int) -> None:
    """Everywhere, [CLS] and [SEP] too; a sample that hits the original is original; padding is never asked."""
    example, short = laws.draw(CASE, ids, seed), laws.draw(CASE, ids[:1], seed)
    assert example is not None and short is not None
    batch = collate([example, short], packed=False)
    generator: Any = laws.tiny(OBJECTIVE).heads["masked_token"]
    with torch.no_grad():
        hidden = ask(batch, "masked_token", generator.network(batch.inputs).last).hidden
        inputs = OBJECTIVE.corrupt(generator, batch, hidden).inputs
    for row, source in enumerate((ids, ids[:1])):
        original = laws.framed(source).ids
        labels = inputs.labels["replaced"][row].numpy()
        shown = inputs.input_ids[row].numpy()
        np.testing.assert_array_equal(labels[: len(original)], shown[: len(original)] != original)
        assert (labels[len(original) :] == IGNORE).all()


class Leaks(ReplacedTokens):
    """Shows the generator the original instead of the mask."""

    def example(self, source: Any, vocab: Any, rng: Any) -> Example[Any] | None:
        example = super().example(source, vocab, rng)
        return example and replace(example, inputs=replace(example.inputs, input_ids=source.ids))


class ShowsMasks(ReplacedTokens):
    """The classic mistake: the samples go into the masked text, and every guess is called a replacement."""

    def corrupt(self, generator: Any, batch: Batch, hidden: torch.Tensor) -> Batch:
        right = super().corrupt(generator, batch, hidden)
        labels = right.inputs.labels | {
            "replaced": torch.where(batch.inputs.labels["masked_token"] != IGNORE, REPLACED, 0)
        }
        return replace(right, inputs=replace(right.inputs, labels=labels))


def test_a_planted_leak_is_caught() -> None:
    ids = np.arange(FIRST, FIRST + 14)
    no_leak(CASE, ids, 3)
    with pytest.raises(AssertionError):
        no_leak(replace(CASE, hides=Leaks(generator_share=0.5, mask_share=1.0)), ids, 3)


def test_calling_every_guess_a_replacement_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.laws.test_replaced.OBJECTIVE", ShowsMasks(generator_share=0.5))
    check = test_a_label_says_whether_the_token_is_another.hypothesis.inner_test
    with pytest.raises(AssertionError):
        for seed in range(40):  # until a sample hits the original
            check(np.arange(FIRST, FIRST + 14), seed)


def test_no_gradient_goes_through_the_samples() -> None:
    """The discriminator's loss reaches the shared tables and not the generator's body."""
    model = laws.tiny(OBJECTIVE).train()
    example = laws.draw(CASE, np.arange(FIRST, FIRST + 14))
    assert example is not None
    losses = OBJECTIVE.losses(model, collate([example])).heads
    body = [p for n, p in model.named_parameters() if n.startswith("heads.masked_token.")]
    table = model.backbone.embedding.weight
    grads = torch.autograd.grad(
        losses["replaced"].total, [*body, table], allow_unused=True, retain_graph=True
    )
    assert len(body) > 10 and all(g is None for g in grads[:-1]) and grads[-1].abs().sum() > 0
    stack = list(model.backbone.stack.parameters())
    grads = torch.autograd.grad(losses["masked_token"].total, [*stack, table], allow_unused=True)
    assert all(g is None for g in grads[:-1]) and grads[-1].abs().sum() > 0


def test_on_random_text_both_losses_stay_at_their_floors() -> None:
    """The generator at ln V; the discriminator at the entropy of the labels, for a sample looks like all the rest.

    With ``mask_share=1``, 24 text slots of which a share is asked, a text slot is replaced with probability share
    (1 - 1/V), independently of what can be seen; [CLS] and [SEP] never are.
    """
    share = 1 - (1 - 1 / 24) ** round(26 * 0.3)  # of the slots are drawn at least once

    def entropy(size: int) -> float:
        p = share * (1 - 1 / size)
        return (-p * math.log(p) - (1 - p) * math.log(1 - p)) * 24 / 26

    objective = ReplacedTokens(generator_share=0.5, mask_share=1.0, noise_density=0.3)
    case = replace(CASE, objective=objective, floor={"masked_token": math.log, "replaced": entropy})
    for head, (loss, floor) in laws.random_text(case).items():
        assert abs(loss - floor) < 0.02, (head, loss, floor)
