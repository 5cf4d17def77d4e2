"""Pictures of what counts: an n-gram model's orders, and a text as a vector of its terms."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from plume.drawing.phrases import Language, phrase
from plume.drawing.picture import Listing, Picture, weighed
from plume.drawing.texts import ASKED, TEXTS
from plume.errors import UserError
from plume.models.counts import Counts
from plume.models.ngrams import NGrams
from plume.models.sparse import SparseModel
from plume.models.vectors import Bags
from plume.text.terms import coded
from plume.text.tokenizers import Tokenizer
from plume.training.counting import Counting
from plume.training.folder import RunFolder
from plume.training.sparse import Sparse

LIKELIEST = 8
Levels = Sequence[tuple[np.ndarray[Any, np.dtype[np.float64]], float]]  # ``NGrams.levels``


def picture_of_counts(
    recipe: Counting | Sparse, run: Path | None, name: str, text: str | None, slots: int, language: Language
) -> Picture:
    """What a recipe counts in a small text, or in ``text``; with the folder of a ``run``, by what that counted.

    Raises:
        UserError: there is no word in the text.
    """
    if isinstance(recipe, Counting):
        return _ngrams(recipe, run, name, text, slots, language)
    return _bag(recipe, run, name, text, slots, language)


def _ngrams(
    recipe: Counting, run: Path | None, name: str, text: str | None, slots: int, language: Language
) -> Picture:
    asked = text or ASKED[language]
    says = [phrase(language, "counts.says")]
    if run is not None and RunFolder(run).ngrams.is_file():
        model, tokenizer = NGrams.load(RunFolder(run).ngrams), Tokenizer.load(RunFolder(run).tokenizer)
    else:
        tokenizer = recipe.tokenizer.train([*TEXTS[language], asked])
        model = _counted(recipe, tokenizer, TEXTS[language])
        says.append(phrase(language, "counts.trained"))
    ids = tokenizer.encode(asked)[:slots]
    if not len(ids):
        raise UserError("there is no word in the text: give --text more of it")
    begins, orders = model.eos is not None, range(1, model.order + 1)

    def read(some: np.ndarray[tuple[int], np.dtype[np.int64]]) -> str:
        return " ".join(tokenizer.pieces(some))

    # What each order says after the first t words.
    after = [model.levels(ids[:t], begins=begins) for t in range(len(ids) + 1)]
    rows: list[tuple[str | float | None, ...]] = []
    for t, (id, levels) in enumerate(zip(ids.tolist(), after, strict=False)):
        before = read(ids[max(0, t - model.order + 1) : t])
        shares = [float(levels[k - 1][0][id]) if k <= len(levels) else None for k in orders]
        told = phrase(language, "counts.order", k=_answering(levels, id, straight=model.straight))
        rows.append((before, read(ids[t : t + 1]), told, *shares))
    named = (phrase(language, f"counts.{what}") for what in ("context", "next", "answers"))
    shares_of = tuple(phrase(language, "counts.p", k=k) for k in orders)
    listings = [Listing(phrase(language, "counts.text"), (*named, *shares_of), tuple(rows))]
    # Of the text's contexts, one of the longest that has most to choose from.
    end = max(range(1, len(after)), key=lambda t: (len(after[t]), _choices(after[t])))
    levels = after[end]
    context = read(ids[max(0, end - len(levels) + 1) : end])
    likely: list[tuple[str | float | None, ...]] = []
    for id in np.argsort(-levels[-1][0], kind="stable")[:LIKELIEST].tolist():
        likely.append((*tokenizer.pieces([id]), *(float(p[id]) for p, _ in levels)))
    caption = phrase(language, "counts.after", context=context)
    listings.append(
        Listing(caption, (phrase(language, "counts.next"), *shares_of[: len(levels)]), tuple(likely))
    )
    for k, (_, weight) in enumerate(levels[1:], 2):
        shorter = read(ids[max(0, end - k + 1) : end])
        says.append(phrase(language, "counts.weight", context=shorter, k=k, weight=weighed(weight)))
    each = ", ".join(f"{n:,}" for n in model.num_ngrams)
    size = f"{tokenizer.vocabulary.size:,}"
    facts = (
        str(recipe.model.smoothing),
        phrase(language, "fact.ngrams", order=model.order, counts=each),
        phrase(language, "fact.tokenizer", name=type(recipe.tokenizer).__name__, size=size),
    )
    return Picture(name, facts, (), tuple(says), language, tuple(listings))


def _counted(recipe: Counting, tokenizer: Tokenizer, corpus: Sequence[str]) -> NGrams:
    vocab = tokenizer.vocabulary
    eos = vocab.require("eos") if recipe.model.ends else None
    counts = Counts.of_documents(*tokenizer.number(corpus), recipe.model.order, vocab.size, eos=eos)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of so little text no discounts can be estimated
        return NGrams.of(counts, recipe.model.smoothing, never=vocab.special - {eos})


def _answering(levels: Levels, id: int, *, straight: bool) -> int:
    """The highest order that has more to say of a token than what it leaves to the order below (``straight``: to the
    lowest)."""
    for k in range(len(levels), 1, -1):
        lower = levels[0 if straight else k - 2][0]
        if levels[k - 1][0][id] > levels[k - 1][1] * lower[id] + 1e-15:
            return k
    return 1


def _choices(levels: Levels) -> float:
    """How undecided the highest order is: its entropy."""
    p = levels[-1][0]
    return float(-(p[p > 0] * np.log(p[p > 0])).sum())


def _bag(
    recipe: Sparse, run: Path | None, name: str, text: str | None, slots: int, language: Language
) -> Picture:
    corpus = [*([text] if text else []), *TEXTS[language]]
    found = coded(corpus, recipe.analyzer, recipe.ngrams)
    weights = recipe.weights
    says = [phrase(language, "bag.text", text=corpus[0]), phrase(language, "bag.says")]
    if run is not None and RunFolder(run).sparse.is_file():
        model = SparseModel.load(RunFolder(run).sparse)
        bags, idf, df = Bags.of_codes(*found, vocabulary=model.numbers), model.idf, None
    else:
        bags = Bags.of_codes(*found)
        idf, df = weights.idf(bags), bags.df()
        says.append(phrase(language, "counts.trained"))
    values = weights.weights(bags, idf)
    here = np.arange(bags.rows[0], bags.rows[1])
    if not len(here):
        raise UserError("there is no known word in the text: give --text more of it")
    best = here[np.argsort(-values[here], kind="stable")][:slots]
    shares = values[best].max() <= 1  # only those get bars
    rows = tuple(
        (
            bags.terms[term], f"{bags.counts[entry]:,}", "" if df is None else f"{df[term]:,}", f"{idf[term]:.4f}",
            float(values[entry]) if shares else weighed(values[entry]),
        )
        for entry, term in zip(best.tolist(), bags.columns[best].tolist(), strict=True)
    )  # fmt: skip
    head = tuple(phrase(language, f"bag.{what}") for what in ("term", "count", "documents", "idf", "value"))
    listings = [Listing(phrase(language, "bag.caption", shown=len(rows), all=len(here)), head, rows)]
    lengths = replace(weights, norm="l2").weights(bags, idf)
    matrix = bags.matrix(lengths)
    cosines = (matrix @ matrix[[0]].T).toarray().ravel()[1:]
    shown = [other if len(other) < 40 else f"{other[:39]}…" for other in corpus[1:]]
    near = tuple((other, float(cosine)) for other, cosine in zip(shown, cosines, strict=True))
    listings.append(Listing(phrase(language, "bag.near"), ("", "cos"), near))
    low, high = recipe.ngrams
    facts = (
        str(weights),
        phrase(language, "fact.terms", count=f"{len(bags.terms):,}", texts=len(corpus), analyzer=recipe.analyzer,
               low=low, high=high),
    )  # fmt: skip
    return Picture(name, facts, (), tuple(says), language, tuple(listings))
