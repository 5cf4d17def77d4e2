"""The split of a text is a function of its content, and samples are even."""

from __future__ import annotations

import numpy as np

from plume.text.splits import SPLITS, sample, split_of


def test_shares_and_sameness() -> None:
    texts = [f"document {i} 文档" for i in range(20_000)]
    splits = [split_of(t) for t in texts]
    shares = [splits.count(s) / len(splits) for s in SPLITS]
    assert np.allclose(shares, [0.9, 0.05, 0.05], atol=0.006)
    assert [split_of(f"  {t}\n") for t in texts[:100]] == splits[:100]
    assert split_of("\ud800") in SPLITS
    # For good: a text must not change sides with a new version.
    assert [split_of(t) for t in ("", "a", "中", "heron", "图书馆")] == [
        "train",
        "train",
        "train",
        "dev",
        "train",
    ]
    assert [i for i in range(60) if splits[i] != "train"] == [55]


def test_samples() -> None:
    texts = [f"{i:04d}" for i in range(5000)]
    assert sample(texts, 20_000) == texts
    some = sample(texts, 4_000)
    assert 400 < len(some) <= 1000 and some == sorted(some)
    assert abs(np.mean([int(t) for t in some]) - 2500) < 200
    assert sorted(sample(reversed(texts), 4_000)) == some, "a sample of the content, not of the order"
    assert len(sample(["a long text"], 3)) == 1
    assert sample([], 10) == []
    assert len(sample(["same text"] * 500, 100)) >= 1
