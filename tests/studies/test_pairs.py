"""Any legal objective goes with any backbone from one config, and learns; an illegal pair lists the legal ones."""

from __future__ import annotations

import dataclasses
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from plume.commands.examples import as_tokens, draws, on_the_spot, small_texts
from plume.models.heads import TokenHead
from plume.models.pretrained import PretrainedModel
from plume.models.sampled_softmax import SampledSoftmax
from plume.seeding import rng
from plume.slots import IGNORE, Array, Example, collate
from plume.studies import laws, pairs
from plume.text.tokenizers import Tokenizer
from plume.text.windows import Reading
from plume.training.settings import Pretraining
from tests.commands.conftest import SMALL, call
from tests.conftest import documents


@cache
def known() -> dict[str, Pretraining]:
    return dict(pairs.known())


WORDS = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"]


def planted(recipe: Pretraining, seed: int) -> list[Any]:
    """Texts in which each word says which one comes next; of two columns the second says the first again."""
    generator = np.random.default_rng(seed)

    def text() -> str:
        start, length = int(generator.integers(12)), int(generator.integers(18, 30))
        words = [WORDS[(start + i) % 12] for i in range(length)]
        return ". ".join(" ".join(words[i : i + 6]) for i in range(0, length, 6)) + "."

    if isinstance(small_texts(recipe, "en")[0], tuple):
        return [(t := text()[:60], t) for _ in range(60)]
    return [text() for _ in range(60)]


@cache
def example(name: str) -> tuple[Example[Array], Tokenizer]:
    recipe = known()[name]
    texts = small_texts(recipe, "en")
    tokenizer = on_the_spot(recipe, texts)
    return next(draws(recipe, tokenizer, texts, 16))[1], tokenizer


# At 1e-2 a step of Adam moves a weight by half of what it begins with (0.02): the scores of attention spread by 6
# instead of 1 within 80 steps, before there is anything to look for, all states grow alike, and the network stays
# with how often words occur. Masked models on GPT's backbone did, and the others came only a little below.
RATE = 3e-3
MARGIN = 0.1  # nats below the entropy


def legal(objective: str, model: str) -> str | None:
    """Why not; None where they go together."""
    recipe, (drawn, tokenizer) = known()[objective], example(objective)
    return pairs.misfit(
        recipe.objective, drawn, known()[model].model, tokenizer.vocabulary, carries=recipe.windows.carries
    )


@pytest.mark.parametrize("name", known())
def test_every_recipe_is_a_legal_pair(name: str) -> None:
    assert legal(name, name) is None


@pytest.mark.parametrize(
    ("objective", "model", "why"),
    [
        ("bert:tiny", "lstm:tiny", "do not see what stands after them"),
        ("gpt:tiny", "word2vec:tiny", "do not see what stands before them"),
        ("gpt:tiny", "t5:tiny", "two stacks"),
        ("t5:tiny", "gpt:tiny", "one stack"),
        ("lstm:tiny", "gpt:tiny", "carries no state"),
        ("bert:tiny", "gpt:tiny", None),
        ("gpt:tiny", "lstm:tiny", None),
        ("gpt:tiny", "bert:tiny", None),
        ("t5:tiny", "bart:tiny", None),
    ],
)
def test_what_goes_together_is_found_by_trying(objective: str, model: str, why: str | None) -> None:
    found = legal(objective, model)
    assert found is None if why is None else found is not None and why in found


def test_a_backbone_that_sees_too_much_is_no_match(monkeypatch: pytest.MonkeyPatch) -> None:
    """The probe's own control: a Transformer that forgets the ranks."""
    from plume.models.transformer import Transformer

    forward = Transformer.forward

    def careless(self: Any, inputs: Any, *rest: Any, **more: Any) -> Any:
        ranks = torch.zeros_like(inputs.visible_at)
        return forward(
            self, dataclasses.replace(inputs, visible_at=ranks, sees_until=ranks, layout=None), *rest, **more
        )

    monkeypatch.setattr(Transformer, "forward", careless)
    found = legal("gpt:tiny", "gpt:tiny")
    assert found == "its slots see what this objective hides from them"


def test_an_illegal_pair_is_an_error_that_lists_the_legal_ones(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = tmp_path / "a.txt"
    text.write_text("\n".join(documents("en", 40)), encoding="utf-8")
    words = [w for w in SMALL if not w.startswith(("model.num_heads", "model.d_ff"))]
    other = "model=plume.models.recurrent:RecurrentConfig"
    code, _, err = call(
        capsys, "pretrain", "bert:tiny", other, *words, "--data", text, "--out", tmp_path / "run"
    )
    assert code == 2 and err.count("\n") == 1 and not (tmp_path / "run").exists()
    assert "MaskedLM and model RecurrentConfig do not go together" in err
    assert "bert:tiny" in err and "gpt:tiny" in err and "lstm:tiny" not in err.partition("it goes with")[2]


def pool(recipe: Pretraining, tokenizer: Tokenizer, texts: list[Any], count: int) -> list[Example[Array]]:
    """``count`` draws over windows of 32, new ones in every epoch."""
    tokens, vocab, drawn = as_tokens(recipe, tokenizer, texts), tokenizer.vocabulary, []
    windows: Any = dataclasses.replace(recipe.windows, length=min(recipe.windows.length, 32))
    length = recipe.objective.window_length(windows.length)
    for epoch in range(100):
        plan = windows.plan(tokens, vocab, Reading(length, epoch=epoch))
        for index in range(len(plan)):
            example = recipe.objective.example(plan[index], vocab, rng(0, "pool", epoch, index))
            drawn += [] if example is None else [example]
        if len(drawn) >= count:
            break
    return drawn[:count]


def learns(objective: str, config: Any, steps: int) -> dict[str, tuple[float, float]]:
    """(held-out loss, unigram entropy of the labels) of every head that answers with a token, as soon as each lies
    below, or after ``steps``."""
    recipe = dataclasses.replace(known()[objective], stages=())
    texts, others = planted(recipe, 0), planted(recipe, 1)
    tokenizer = on_the_spot(recipe, texts)
    vocab = tokenizer.vocabulary
    train, held_out = pool(recipe, tokenizer, texts, 2_000), pool(recipe, tokenizer, others, 64)
    network = PretrainedModel.build(config, vocab, lambda b: recipe.objective.heads(b, vocab), seed=0)
    entropies = {
        name: entropy(np.concatenate(found))
        for name, head in network.heads.items()
        if isinstance(head, TokenHead | SampledSoftmax)
        and (found := [s.labels[name] for e in held_out for s in laws.stacks(e) if name in s.labels])
    }
    assert entropies or objective == "word2vec:tiny", "every other objective asks for a token"
    optimizer = torch.optim.AdamW(network.parameters(), lr=RATE, weight_decay=0.0)
    weights, packed, order = recipe.objective.weights(), network.backbone.packs, np.random.default_rng(0)
    torch.manual_seed(0)
    result: dict[str, tuple[float, float]] = {}
    for step in range(1, steps + 1):
        for group in optimizer.param_groups:
            group["lr"] = RATE * min(1, step / 20) * (1 - step / (steps + 1))
        batch = collate([train[i] for i in order.integers(len(train), size=16)], packed=packed)
        losses = recipe.objective.losses(network, batch).heads
        optimizer.zero_grad()
        sum(weights.get(n, 1.0) * x.total / x.count.clamp(min=1) for n, x in losses.items()).backward()  # type: ignore[union-attr]
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        if step % 50 and step < steps:
            continue
        network.eval()
        with torch.no_grad():
            reached = recipe.objective.losses(network, collate(held_out, packed=packed)).heads
        network.train()
        result = {n: (float(reached[n].total / reached[n].count), bits) for n, bits in entropies.items()}
        if all(loss < bound - MARGIN for loss, bound in result.values()):
            break
    return result


def entropy(labels: Array) -> float:
    """Of how often each label occurs, in nats."""
    share = np.unique(labels[labels != IGNORE], return_counts=True)[1] / (labels != IGNORE).sum()
    return float(-(share * np.log(share)).sum())


def small(model: str) -> Any:
    return dataclasses.replace(laws.shrunk(known()[model].model), d_model=32)


def check_it_learns(objective: str, config: Any, steps: int) -> None:
    for head, (loss, bound) in learns(objective, config, steps).items():
        assert loss < bound - MARGIN, f"{objective} x {config}, {head}: {loss:.3f} is not below {bound:.3f}"


@pytest.mark.parametrize(("objective", "model"), [("t5:tiny", "bart:tiny"), ("gpt:tiny", "lstm:tiny")])
def test_a_legal_pair_learns_more_than_how_often_words_occur(objective: str, model: str) -> None:
    check_it_learns(objective, small(model), 1_500)


def test_what_cannot_see_does_not_learn(monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: a network that sees only itself knows how often words occur, and of a [MASK] nothing more."""
    monkeypatch.setattr("plume.models.transformer.attend_merged", lambda qkv, *_, **__: qkv[:, :, 2])
    with pytest.raises(AssertionError, match="masked_token: .* is not below"):
        check_it_learns("bert:tiny", small("gpt:tiny"), 300)


@pytest.mark.slow
@pytest.mark.parametrize("objective", known())
def test_every_legal_pair_learns_more_than_how_often_words_occur(objective: str) -> None:
    tried = set()
    for model in known():
        config = small(model)
        if config not in tried and legal(objective, model) is None:  # made small, some recipes' are the same
            tried.add(config)
            check_it_learns(
                objective, config, 1_500
            )  # masked models answer one slot in seven, and need the time
