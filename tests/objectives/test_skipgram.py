"""Word2Vec: its draws, its tables, one step's gradients on both roads, and what it learns (spec 02 sections E, G)."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch

from plume.models import skipgram_kernels as kernels
from plume.models.lookup import LookupConfig
from plume.models.pretrained import PretrainedModel
from plume.models.word_heads import HierarchicalSoftmax, Tree
from plume.objectives.skipgram import HEAD, SkipGram, _alias
from plume.seeding import rng
from plume.slots import IGNORE, collate
from plume.studies.laws import window
from plume.vocabulary import Vocabulary

COUNTS = (0, 0, *(int(4000 / n) for n in range(1, 39)))
VOCAB = Vocabulary(size=40, pad=0, unk=1, counts=COUNTS)
WORDS = np.arange(2, 40)


def model(objective: SkipGram, width: int = 12, seed: int = 0, **config: object) -> PretrainedModel:
    """A model whose output rows are no longer 0."""
    shape = LookupConfig(width, bag=objective.cbow, **config)  # type: ignore[arg-type]
    made = PretrainedModel.build(shape, VOCAB, lambda b: objective.heads(b, VOCAB), seed=seed)
    generator = torch.Generator().manual_seed(seed)
    for parameter in made.parameters():
        parameter.data.normal_(0, 0.3, generator=generator)
    return made


def test_keep_probabilities_and_the_papers() -> None:
    """Golden values of spec 02 section E.2."""
    counts = (1000, 5000, 10_000, 84_000)
    keep = SkipGram().keep(Vocabulary(size=4, counts=counts))
    np.testing.assert_allclose(keep[:3], [0.4162278, 0.1614214, 0.11], atol=1e-7)
    paper = SkipGram(thinning="paper").keep(Vocabulary(size=4, counts=counts))
    np.testing.assert_allclose(paper[:3], np.sqrt(1e-3 / np.array([0.01, 0.05, 0.1])))
    at_one = SkipGram(sample=0.01 / 2.618034).keep(Vocabulary(size=4, counts=counts))
    assert at_one[0] == pytest.approx(1, abs=1e-6)
    assert SkipGram().keep(VOCAB)[:2].tolist() == [0, 0], "what is no word is never read"


def test_draws_are_distributed_as_they_should_be() -> None:
    """Keep rate within 4 sigma, radius uniform, noise words by count ** 0.75 (spec 02 test 5)."""
    draws, ids = 60_000, rng(0, "t").integers(2, 40, 60_000)
    objective = SkipGram(sample=0.01)
    example = replace(objective, window=1).example(window(ids), VOCAB, rng(1, "t"))
    assert example is not None
    kept, seen = Counter(objective.restore(example).tolist()), Counter(ids.tolist())
    for word, chance in enumerate(objective.keep(VOCAB)):
        if word > 1:
            assert (
                abs(kept[word] - seen[word] * chance) <= 4 * np.sqrt(seen[word] * chance * (1 - chance)) + 1
            )
    example = SkipGram(sample=0, window=4).example(window(ids), VOCAB, rng(2, "t"))
    assert example is not None
    slots = example.inputs
    _, radii = np.unique(_centres(example), return_counts=True)
    inside = radii[8:-8] // 2
    share = np.bincount(inside, minlength=5)[1:] / len(inside)
    np.testing.assert_allclose(share, 0.25, atol=4 * np.sqrt(0.25 * 0.75 / draws))
    noise = np.concatenate(list(slots.given.values())).astype(int)
    wanted, found = SkipGram().noise(VOCAB), np.bincount(noise[noise >= 0], minlength=40) / (noise >= 0).sum()
    np.testing.assert_allclose(found, wanted, atol=0.01)
    assert not (noise.reshape(5, -1) == slots.labels[HEAD]).any(), "a noise word is never the answer"


def _centres(example: object) -> np.ndarray:
    """Which word each pair asks for: noise words are shared by the pairs of one, and by no others (nearly)."""
    slots = example.inputs  # type: ignore[attr-defined]
    table = np.stack([*slots.given.values(), slots.labels[HEAD]])
    return np.cumsum(np.append(True, (table[:, 1:] != table[:, :-1]).any(0)))


def test_alias_tables_hold_the_distribution() -> None:
    for shares in (SkipGram().noise(VOCAB), np.array([1.0]), np.full(7, 1 / 7)):
        accept, alias = _alias(shares)
        found = accept / len(shares)
        np.add.at(found, alias, (1 - accept) / len(shares))
        np.testing.assert_allclose(found, shares, atol=1e-6)


def test_huffman_golden_kraft_and_optimum() -> None:
    tree = Tree([10, 6, 4, 3, 1])
    assert [tree.path(w) for w in range(5)] == [
        ([3], [0]), ([3, 2], [1, 0]), ([3, 2, 1], [1, 1, 1]), ([3, 2, 1, 0], [1, 1, 0, 1]),
        ([3, 2, 1, 0], [1, 1, 0, 0]),
    ]  # fmt: skip
    for seed in range(20):
        counts = np.sort(np.random.default_rng(seed).integers(0, 50, seed + 2))[::-1]
        made = Tree(counts)
        lengths = np.diff(made.begin)
        assert (0.5**lengths).sum() == 1, "Kraft"
        waiting, cost = sorted(counts.tolist()), 0
        while len(waiting) > 1:
            a, b = waiting[:2]
            cost += a + b
            waiting = sorted([*waiting[2:], a + b])
        assert int((lengths * counts).sum()) == cost, "no code is shorter on average"


def test_hierarchical_softmax_sums_to_one() -> None:
    made = model(SkipGram(output="hierarchical")).double()
    head = made.heads[HEAD]
    assert isinstance(head, HierarchicalSoftmax)
    log_probs = head.logits(torch.randn(3, 12, dtype=torch.float64))
    torch.testing.assert_close(log_probs.logsumexp(-1), torch.zeros(3, dtype=torch.float64))


OBJECTIVES = [
    SkipGram(sample=0),
    SkipGram(sample=0, share_negatives=False),
    SkipGram(sample=0, cbow=True),
    SkipGram(sample=0, output="hierarchical"),
    SkipGram(sample=0, output="hierarchical", cbow=True),
]
NAMES = ["skip-gram", "skip-gram, noise of its own", "CBOW", "skip-gram, tree", "CBOW, tree"]


@pytest.mark.parametrize("full_error", [False, True])
@pytest.mark.parametrize("objective", OBJECTIVES, ids=NAMES)
def test_one_steps_gradients_are_those_of_the_trainers_road(objective: SkipGram, full_error: bool) -> None:
    """The same pairs and noise words through autograd and through the compiled update: 1e-6 (DESIGN section 2)."""
    example = objective.example(window(rng(3, "t").integers(2, 40, 12)), VOCAB, rng(4, "t"))
    assert example is not None
    slots, made = example.inputs, model(objective, full_error=full_error)
    loss = objective.losses(made, collate([example])).heads[HEAD]
    loss.total.backward()
    labelled = np.flatnonzero(slots.labels[HEAD] != IGNORE)
    ends = np.append(labelled, len(slots)).astype(np.int64)
    asked, labels = _asked(objective, made, slots, labelled)
    table, output = made.backbone.embedding.weight, made.heads[HEAD].output.weight
    got = [np.zeros(tuple(t.shape)) for t in (table, output)]
    total = 0.0
    for g, (a, b) in enumerate(
        pairwise(ends)
    ):  # each from the same weights: their sum is the batch's gradient
        now = [t.detach().numpy().copy() for t in (table, output)]
        total += kernels.replay(*now, slots.input_ids[a:b].astype(np.int32), np.array([0, b - a]), asked[g : g + 1],
                                labels[g : g + 1], 1.0, int(objective.cbow), int(full_error), 1)  # fmt: skip
        for sum_, before, after in zip(got, (table, output), now, strict=True):
            sum_ += before.detach().numpy().astype(np.float64) - after
    assert total == pytest.approx(float(loss.total.detach()), rel=1e-6)
    assert table.grad is not None and output.grad is not None
    for mine, theirs in zip(got, (table.grad, output.grad), strict=True):
        np.testing.assert_allclose(mine, theirs.numpy(), atol=1e-6 * max(1.0, float(theirs.abs().max())))


def _asked(
    objective: SkipGram, made: PretrainedModel, slots: object, at: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    answers = slots.labels[HEAD][at]  # type: ignore[attr-defined]
    if objective.output == "hierarchical":
        paths = [made.heads[HEAD].tree.path(w) for w in answers]
        size = max(len(nodes) for nodes, _ in paths)
        asked, labels = np.zeros((len(at), size), np.int32), np.full((len(at), size), -1, np.int32)
        for g, (nodes, bits) in enumerate(paths):
            asked[g, : len(nodes)], labels[g, : len(nodes)] = nodes, 1 - np.array(bits)
        return asked, labels
    noise = np.stack([v[at] for v in slots.given.values()], 1).astype(np.int32)  # type: ignore[attr-defined]
    asked = np.concatenate([answers[:, None].astype(np.int32), noise], 1)
    return asked.clip(0), np.where(asked < 0, -1, np.arange(asked.shape[1]) == 0).astype(np.int32)


@pytest.mark.parametrize("objective", OBJECTIVES, ids=NAMES)
def test_two_topics_come_apart(objective: SkipGram) -> None:
    """Spec 02 test 8: words of one topic are nearer to one another than to the other topic's, by 0.5 on average."""
    draw = np.random.default_rng(0)
    topic = draw.integers(0, 2, 2500)
    ids = (2 + 19 * topic[:, None] + draw.integers(0, 19, (2500, 20))).astype(np.int32)
    vocab = replace(VOCAB, counts=tuple(np.bincount(ids.ravel(), minlength=40).tolist()))
    shape = LookupConfig(32, bag=objective.cbow, full_error=objective.cbow)
    made = PretrainedModel.build(shape, vocab, lambda b: objective.heads(b, vocab), seed=0)
    ends, tables = np.arange(0, ids.size + 1, 20), objective.tables(vocab)
    losses = []
    for epoch in range(5):
        rate = (0.05 if objective.cbow else 0.025) * (1 - epoch / 5)
        found = objective.walk(made, ids.ravel(), ends, vocab, rate=rate, seeds=[epoch], tables=tables)
        losses.append(float(found.total / found.count))
    rows = made.backbone.embedding.weight.detach().numpy()[2:]
    rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    near = rows @ rows.T
    same = np.kron(np.eye(2), np.ones((19, 19))) - np.eye(38)
    within, across = (near * same).sum() / same.sum(), near[:19, 19:].mean()
    assert within - across > 0.5, (within, across)
    assert losses[-1] < losses[0]


def test_equal_seeds_give_equal_bits_and_threads_learn_the_same_thing() -> None:
    objective, draw = SkipGram(sample=0), np.random.default_rng(1)
    ids, ends = draw.integers(0, 40, 4000).astype(np.int32), np.arange(0, 4001, 20)
    tables = objective.tables(VOCAB)

    def walked(seeds: list[int]) -> tuple[bytes, float]:
        made = PretrainedModel.build(LookupConfig(16), VOCAB, lambda b: objective.heads(b, VOCAB), seed=0)
        loss = objective.walk(made, ids, ends, VOCAB, rate=0.05, seeds=seeds, tables=tables)
        state = made.state()
        assert bool((state["backbone.embedding.weight"][:2].abs() <= 0.5 / 16).all()), "no words, no update"
        return b"".join(t.numpy().tobytes() for t in state.values()), float(loss.total / loss.count)

    one, again, other, two = walked([1]), walked([1]), walked([2]), walked([1, 2])
    assert one == again and one[0] != other[0]
    assert two[1] == pytest.approx(one[1], rel=0.05)


def test_short_texts_ask_nothing_and_break_nothing() -> None:
    objective, tables = SkipGram(sample=0), SkipGram(sample=0).tables(VOCAB)
    made = model(objective)
    before = {name: t.clone() for name, t in made.state().items()}
    for ids in ([], [5], [0, 1, 0], [1, 7, 0]):
        assert objective.example(window(np.array(ids, np.int64)), VOCAB, rng(0, "t")) is None
        ends = np.array([0, len(ids)])
        found = objective.walk(made, np.array(ids, np.int32), ends, VOCAB, rate=1.0, seeds=[1], tables=tables)
        assert float(found.count) == 0
    assert all(torch.equal(before[name], t) for name, t in made.state().items())


def test_what_cannot_be_asked_is_one_sentence() -> None:
    with pytest.raises(ValueError, match="use tokenizer=Words"):
        SkipGram().tables(Vocabulary(size=9))
    with pytest.raises(ValueError, match=r"model\.bag=true"):
        PretrainedModel.build(LookupConfig(8), VOCAB, lambda b: SkipGram(cbow=True).heads(b, VOCAB), seed=0)
    with pytest.raises(ValueError, match="at least 1"):
        SkipGram(window=0)
