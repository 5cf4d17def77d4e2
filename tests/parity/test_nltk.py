"""Counts and maximum likelihood are nltk's; what Laplace is in both is the same, too (spec 01)."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import pytest
from nltk.lm import MLE
from nltk.lm import Laplace as AddOne
from nltk.lm.preprocessing import pad_both_ends
from nltk.util import everygrams

from plume.models.ngrams import NGrams
from plume.models.smoothing import Laplace
from tests.conftest import sentences

Recorder = Callable[[str, object], None]


def texts(language: str) -> list[list[str]]:
    found = sentences(language, 60)
    return [text.split() if language == "en" else list(text) for text in found]


@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("language", ["en", "zh"])
def test_maximum_likelihood_is_nltks(language: str, order: int, record_property: Recorder) -> None:
    documents = texts(language)
    words = sorted({w for d in documents for w in d})
    ids = {w: i for i, w in enumerate(["</s>", *words])}
    model = NGrams.fit([[ids[w] for w in d] for d in documents], order, len(ids), Laplace(0.0), eos=0)
    theirs = MLE(order)
    padded = [list(pad_both_ends(d, n=2)) if order > 1 else [*d, "</s>"] for d in documents]
    theirs.fit([list(everygrams(p, max_len=order)) for p in padded], ["<s>", *ids])
    contexts = {tuple(p[i : i + order - 1]) for p in padded for i in range(len(p)) if order > 1} or {()}
    compared, largest = 0, 0.0
    for context in itertools.islice(sorted(contexts), 40):
        if "</s>" in context or len(context) < order - 1:
            continue
        begins = "<s>" in context
        history = [ids[w] for w in context if w != "<s>"]
        got = np.exp(model.next_token_log_probs(history, begins=begins))
        total = sum(theirs.score(w, context) for w in ids)
        for word, id in ids.items():
            # nltk counts <s> as a token of the lowest order; a share of what may follow is compared.
            wanted = theirs.score(word, context) / total
            assert got[id] == pytest.approx(wanted, abs=1e-12)
            largest = max(largest, abs(got[id] - wanted))
            compared += 1
    record_property("precision", "fp64")
    record_property("p", float(largest))
    assert compared > 30


@pytest.mark.parametrize("language", ["en", "zh"])
def test_laplace_of_order_one_is_nltks(language: str) -> None:
    documents = texts(language)
    words = sorted({w for d in documents for w in d})
    ids = {w: i for i, w in enumerate(words)}
    # (n + 1) / (N + V) is (n + eps / m) / (N + eps) at eps = m = V; nltk's V has <UNK> too.
    model = NGrams.fit([[ids[w] for w in d] for d in documents], 1, len(ids) + 1, Laplace(len(ids) + 1.0))
    theirs = AddOne(1)
    theirs.fit([[(w,) for w in d] for d in documents], words)
    got = np.exp(model.next_token_log_probs([]))
    for word, id in [*ids.items(), ("<UNK>", len(ids))]:
        assert got[id] == pytest.approx(theirs.score(word), abs=1e-12)
