"""Sparse vectors beside scikit-learn and bm25s, and closed-form cases (spec 02 sections A to D, G)."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import bm25s
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.cluster import KMeans
from sklearn.feature_extraction.text import CountVectorizer, TfidfVectorizer
from sklearn.linear_model import LogisticRegression

from plume.errors import UserError
from plume.models.vectors import BM25, Bags, Index, TfIdf
from plume.text.terms import analyzer

Recorder = Callable[[str, object], None]
DOCS = ["the cat sat", "the cat sat on the mat", "dog"]
TERMS = [d.split() for d in DOCS]


def texts(count: int = 200, seed: int = 0) -> list[str]:
    draw = np.random.default_rng(seed)
    return [" ".join(f"w{n}" for n in draw.zipf(1.4, draw.integers(1, 30)) if n < 300) for _ in range(count)]


def matrix(bags: Bags, values: np.ndarray) -> np.ndarray:
    return bags.matrix(values).toarray()


@pytest.mark.parametrize("ngrams", [(1, 1), (1, 2), (2, 3)])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"min_df": 2},
        {"max_df": 0.3},
        {"min_df": 0.02, "max_df": 150},
        {"max_features": 5},
        {"binary": True},
    ],
    ids=repr,
)
def test_counts_are_scikit_learns(
    ngrams: tuple[int, int], options: dict[str, object], record_property: Recorder
) -> None:
    theirs = CountVectorizer(ngram_range=ngrams, **options)
    wanted = theirs.fit_transform(texts())
    ours = Bags.of(map(analyzer("pattern", ngrams), texts()), **options)  # type: ignore[arg-type]
    assert list(ours.terms) == theirs.get_feature_names_out().tolist()
    np.testing.assert_array_equal(matrix(ours, ours.counts), wanted.toarray())
    record_property("precision", "fp64")
    record_property("counts", int(np.abs(matrix(ours, ours.counts) - wanted).max()))
    held_out = Bags.of(map(analyzer("pattern", ngrams), texts(20, 1)), vocabulary=ours.terms)
    if "binary" not in options:
        np.testing.assert_array_equal(
            matrix(held_out, held_out.counts), theirs.transform(texts(20, 1)).toarray()
        )


@pytest.mark.parametrize(
    ("norm", "use_idf", "smooth_idf", "sublinear_tf"),
    [*itertools.product(["l2", "l1", None], [True, False], [True, False], [True, False])],
)
def test_tfidf_is_scikit_learns(
    norm: str, use_idf: bool, smooth_idf: bool, sublinear_tf: bool, record_property: Recorder
) -> None:
    options = {"norm": norm, "use_idf": use_idf, "smooth_idf": smooth_idf, "sublinear_tf": sublinear_tf}
    wanted = TfidfVectorizer(**options).fit_transform([*texts(80), ""]).toarray()
    bags = Bags.of(map(analyzer("pattern"), [*texts(80), ""]))
    found = matrix(bags, TfIdf(**options).weights(bags))  # type: ignore[arg-type]
    np.testing.assert_allclose(found, wanted, atol=1e-12)
    record_property("precision", "fp64")
    record_property("weights", float(np.abs(found - wanted).max()))


def test_goldens() -> None:
    bags = Bags.of(TERMS)
    # By ascending column in each document, whatever the order of its words, as CSR matrices have it.
    assert bags.columns.tolist() == [0, 4, 5, 0, 2, 3, 4, 5, 1] and bags.rows.tolist() == [0, 3, 8, 9]
    assert bags.counts.tolist() == [1, 1, 1, 1, 1, 1, 1, 2, 1]
    assert bags.terms == ("cat", "dog", "mat", "on", "sat", "the")
    rows = matrix(bags, TfIdf().weights(bags))
    np.testing.assert_allclose(
        rows[1], [0.32516555, 0, 0.42755362, 0.42755362, 0.32516555, 0.6503311], atol=1e-8
    )
    assert BM25().idf(bags)[[0, 2]] == pytest.approx([0.47000363, 0.98082925])
    asked = ["cat", "mat"]
    np.testing.assert_allclose(Index.of(bags, BM25()).scores(asked), [0.4900512, 1.0930933, 0], atol=1e-6)
    plain = Index.of(bags, BM25(variant="lucene_no_k1"))
    np.testing.assert_allclose(plain.scores(asked), [0.2227505, 0.4968606, 0], atol=1e-6)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [("lucene_no_k1", "lucene"), ("bm25+", "bm25+"), ("bm25l", "bm25l")],
)
def test_bm25_is_bm25ss(ours: str, theirs: str) -> None:
    corpus = [t.split() for t in texts(60) if t]
    peer = bm25s.BM25(method=theirs, k1=1.2, b=0.75, delta={"bm25+": 1.0}.get(theirs, 0.5))
    peer.index(corpus, show_progress=False)
    index = Index.of(Bags.of(corpus), BM25(variant=ours))  # type: ignore[arg-type]
    f = index.bags
    idf = BM25(variant=ours).idf(f)  # type: ignore[arg-type]
    for term in ("w1", "w2", "w7"):
        wanted, got = peer.get_scores([term]), index.scores([term])
        if (
            theirs != "lucene"
        ):  # bm25s takes each variant's own idf, we Lucene's: compared is what they multiply
            n, size = f.df()[index.numbers[term]], len(f)
            peers = np.log((size + 1) / n) if theirs == "bm25+" else np.log((size + 1) / (n + 0.5))
            inside = got > 0
            np.testing.assert_allclose(
                got[inside] / idf[index.numbers[term]], wanted[inside] / peers, rtol=1e-5
            )
        else:
            np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-6)


def test_search_is_the_cosine_of_the_vectors() -> None:
    corpus = [*texts(100), "中文 文本"]
    peer = TfidfVectorizer(analyzer=str.split)
    rows = peer.fit_transform(corpus)
    index = Index.of(Bags.of(t.split() for t in corpus), TfIdf())
    for query in ("w1 w2 w2 w9", "w3", "nowhere", ""):
        wanted = (rows @ peer.transform([query]).T).toarray().ravel()
        np.testing.assert_allclose(index.scores(query.split()), wanted, atol=1e-6)
        best = sorted((-round(float(s), 6), i) for i, s in enumerate(index.scores(query.split())) if s > 0)[
            :10
        ]
        assert [d for d, _ in index.search(query.split())] == [i for _, i in best]
    queries = [query.split() for query in ("w1 w2 w2 w9", "w250 w280", "", "nowhere", *texts(9, 1))]
    assert index.search_many(queries, 3) == [index.search(query, 3) for query in queries]
    for query, found in zip(
        queries, index.search_many(queries, 400), strict=True
    ):  # few entries and many, all of them
        scores = index.scores(query)
        order = [d for d in np.argsort(-scores, kind="stable").tolist() if scores[d] > 0]
        assert [d for d, _ in found] == order
    assert index.search_many([]) == [] and index.search(["w1"], 0) == []
    nearest = index.similar(3, top=5)
    assert 3 not in [d for d, _ in nearest] and len(nearest) == 5
    again = (rows @ rows[[3]].T).toarray().ravel()
    assert nearest[0][1] == pytest.approx(np.sort(again)[-2], abs=1e-6)


@pytest.mark.parametrize("others", [0, 40], ids=["every document is looked at", "a list of some is kept"])
def test_of_equal_documents_the_first_comes_first(others: int) -> None:
    corpus = [["b", "x"], ["a", "x"], ["a", "x"], ["b", "x"], *([f"w{n}", "x"] for n in range(others))]
    index = Index.of(Bags.of(corpus), TfIdf())
    for query in (["a", "b"], ["b", "a"]):  # whichever document is met first
        for top in (1, 2, 3, 4):
            found = index.search(query, top)
            assert [document for document, _ in found] == list(range(top)) and len({s for _, s in found}) == 1


def test_bm25_grows_with_the_count_and_b_0_forgets_length() -> None:
    grows = Bags.of([["a"] * n + ["b"] * (9 - n) for n in range(1, 9)])
    scores = Index.of(grows, BM25()).scores(["a"])
    assert (np.diff(scores) > 0).all()
    lengths = Bags.of([["a", *["b"] * n] for n in range(5)])
    assert (
        np.ptp(Index.of(lengths, BM25(b=0)).scores(["a"]))
        == 0
        < np.ptp(Index.of(lengths, BM25()).scores(["a"]))
    )
    assert Index.of(lengths, BM25()).scores(["a", "a"]) == pytest.approx(
        2 * Index.of(lengths, BM25()).scores(["a"])
    )
    common = BM25(variant="robertson").idf(lengths)
    assert (BM25(variant="robertson", floor=False).idf(lengths) < 0).any() and np.isfinite(common).all()


def test_saved_and_mapped(tmp_path: Path) -> None:
    for scheme in (TfIdf(sublinear_tf=True), BM25(k1=0.9)):
        index = Index.of(Bags.of(TERMS), scheme)
        index.save(tmp_path / "i")
        again = Index.load(tmp_path / "i")
        assert isinstance(again.weights, np.memmap) and again.scheme == scheme
        assert again.search(["cat", "mat"]) == index.search(["cat", "mat"])
    (tmp_path / "i" / "vectors.json").write_text("{", encoding="utf-8")
    with pytest.raises(UserError, match="cannot be read as an index"):
        Index.load(tmp_path / "i")


def test_a_classifier_and_clusters_on_top() -> None:
    bags = Bags.of(map(analyzer(), ["猫 坐 垫子", "猫 睡 垫子", "股票 上涨", "股票 下跌"] * 5))
    rows = bags.matrix(TfIdf().weights(bags))
    labels = np.array([0, 0, 1, 1] * 5)
    assert LogisticRegression().fit(rows, labels).score(rows, labels) == 1
    groups = KMeans(2, n_init=3, random_state=0).fit_predict(rows)
    assert len({*zip(groups.tolist(), labels.tolist(), strict=True)}) == 2


@settings(max_examples=60, deadline=None)
@given(st.lists(st.text(max_size=20), min_size=1, max_size=6))
def test_any_text(documents: list[str]) -> None:
    for kind in ("pattern", "characters"):
        terms = [analyzer(kind, (1, 2))(d) for d in documents]  # type: ignore[arg-type]
        if not any(terms):
            with pytest.raises(ValueError, match="no terms are left"):
                Bags.of(terms)
            continue
        bags = Bags.of(terms)
        assert [sum(bags.row(d).values()) for d in range(len(bags))] == [len(t) for t in terms]
        for scheme in (TfIdf(), BM25()):
            assert np.isfinite(Index.of(bags, scheme).scores(terms[0])).all()
