"""What is learnt on sparse vectors, beside scikit-learn (spec 02 section A to C)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.cluster import KMeans, kmeans_plusplus
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression

from plume.errors import UserError
from plume.models.sparse import Clusters, Linear, SparseModel, _beginning
from plume.models.vectors import Bags, TfIdf
from plume.seeding import rng
from plume.text.terms import analyzer, coded
from tests.conftest import documents
from tests.models.test_vectors import texts


def rows_of(corpus: list[str]) -> tuple[Bags, object]:
    bags = Bags.of_codes(*coded(corpus))
    return bags, bags.matrix(TfIdf().weights(bags))


@pytest.mark.parametrize("kind", ["words", "characters", "pattern"])
@pytest.mark.parametrize("ngrams", [(1, 1), (1, 2), (2, 3)], ids=str)
@settings(max_examples=15, deadline=None)
@given(
    st.lists(st.one_of(st.text(max_size=20), st.sampled_from(["北京 ok İ", "don't a_b Σας", ""])), max_size=6)
)
def test_numbers_of_terms_are_the_terms(kind: str, ngrams: tuple[int, int], corpus: list[str]) -> None:
    """Whole arrays at a time give what strings give, for any script."""
    found = coded(corpus, kind, ngrams)  # type: ignore[arg-type]
    wanted = [sorted(analyzer(kind, ngrams)(text)) for text in corpus]  # type: ignore[arg-type]
    parts = np.split(found.codes, np.cumsum(found.lengths)[:-1]) if corpus else []
    assert [sorted(found.names[code] for code in part.tolist()) for part in parts] == wanted
    assert len(set(found.names)) == len(found.names)


def test_a_table_of_terms_that_grows_forgets_nothing() -> None:
    corpus = [" ".join(f"w{i * 97 % 30_011}x" for i in range(n, n + 3_000)) for n in range(0, 40_000, 1_000)]
    corpus *= 3  # over several batches
    found, ours = coded(corpus, "pattern"), Bags.of(t.split() for t in corpus)
    again = Bags.of_codes(*found)
    assert again.terms == ours.terms
    for name in ("rows", "columns", "counts"):
        np.testing.assert_array_equal(getattr(again, name), getattr(ours, name))


def test_logistic_regression_is_scikit_learns() -> None:
    corpus = texts(150)
    bags, rows = rows_of(corpus)
    for count in (2, 3):
        labels = np.array([(len(text) + text.count("w1")) % count for text in corpus])
        ours = Linear.fit(rows, labels, strength=3.0)
        theirs = LogisticRegression(C=3.0, max_iter=1000).fit(rows, labels)
        np.testing.assert_allclose(ours.shares(rows), theirs.predict_proba(rows), atol=1e-12)
        assert ours.weight.shape == (count, len(bags.terms))


def test_k_means_is_scikit_learns() -> None:
    """From the same centres it goes the same way, through a cluster that loses all its texts too."""
    kinds = [TfidfVectorizer(norm=norm).fit_transform(texts(200)) for norm in ("l2", None)]
    for rows in kinds:
        centres = rows[[0, 5, 9, 14]].toarray()
        if (
            rows is kinds[1]
        ):  # lengths that differ, so that one text lies farthest and takes the empty cluster
            centres = np.concatenate([centres, centres[:1] + 100.0])
        theirs = KMeans(len(centres), init=centres, n_init=1, tol=0, max_iter=300, algorithm="lloyd").fit(
            rows
        )
        ours, labels = Clusters.fit(rows, len(centres), rng(0, "x"), centres=centres)
        np.testing.assert_array_equal(labels, theirs.labels_)
        np.testing.assert_allclose(ours.centres, theirs.cluster_centers_, atol=1e-9)
        assert ours.inertia == pytest.approx(theirs.inertia_, rel=1e-9)
        np.testing.assert_array_equal(ours.nearest(rows), theirs.predict(rows))
    rows = kinds[0]
    own, _ = Clusters.fit(rows, 4, rng(0, "x"))
    theirs = KMeans(4, n_init=10, random_state=0).fit(rows)
    assert own.inertia < 1.02 * theirs.inertia_  # its own beginnings are no worse
    again, _ = Clusters.fit(rows, 4, rng(0, "x"))
    np.testing.assert_array_equal(own.centres, again.centres)


def test_k_means_begins_well_and_keeps_the_best_beginning() -> None:
    _, rows = rows_of(texts(120))
    one = rng(0, "x")
    each = [Clusters.fit(rows, 6, one, starts=1)[0].inertia for _ in range(4)]
    assert Clusters.fit(rows, 6, rng(0, "x"), starts=4)[0].inertia == min(each) < max(each)
    squares = np.asarray(rows.multiply(rows).sum(1)).ravel()  # type: ignore[attr-defined]

    def left(centres: np.ndarray) -> float:  # type: ignore[type-arg]
        return float(np.square(rows.toarray()[:, None] - centres).sum(-1).min(1).sum())  # type: ignore[attr-defined]

    ours = [left(_beginning(rows, squares, 6, rng(seed, "x"))) for seed in range(25)]
    theirs = [left(kmeans_plusplus(rows, 6, random_state=seed)[0]) for seed in range(25)]
    assert np.mean(ours) == pytest.approx(np.mean(theirs), rel=0.05)  # the worst draws: 1.2 times as much


def test_planted_topics_are_found(language: str) -> None:
    draw = np.random.default_rng(0)
    words = {
        "en": [f"{c}word{i}" for c in "ab" for i in range(20)],
        "zh": [chr(0x5000 + i) for i in range(40)],
    }
    halves = words[language][:20], words[language][20:]
    corpus = [" ".join(draw.choice(halves[i % 2], 12)) for i in range(80)]
    bags = Bags.of_codes(*coded(corpus, "characters" if language == "zh" else "words"))
    _, labels = Clusters.fit(bags.matrix(TfIdf().weights(bags)), 2, rng(0, "x"))
    assert len({(i % 2, label) for i, label in enumerate(labels.tolist())}) == 2


def test_clusters_that_cannot_be() -> None:
    _, rows = rows_of(["a b", "a b", "c d"])
    for count in (0, 4):
        with pytest.raises(UserError, match="clusters of 3 texts"):
            Clusters.fit(rows, count, rng(0, "x"))
    with pytest.raises(UserError, match="only 2 different texts"):
        Clusters.fit(rows, 3, rng(0, "x"))
    found, labels = Clusters.fit(rows, 2, rng(0, "x"))
    assert labels[0] == labels[1] != labels[2] and found.inertia == pytest.approx(0, abs=1e-12)


def test_saved_and_loaded(language: str, tmp_path: Path) -> None:
    corpus = documents(language, 40)
    bags, rows = rows_of(corpus)
    labels = np.array([i % 2 for i in range(40)])
    tops = (Linear.fit(rows, labels), Clusters.fit(rows, 3, rng(0, "x"))[0])
    for top in tops:
        names = tuple("甲乙丙"[: 2 if isinstance(top, Linear) else 3])
        model = SparseModel(bags.terms, TfIdf().idf(bags), TfIdf(), names, top)
        model.save(tmp_path / "model")
        again = SparseModel.load(tmp_path / "model")
        asked = coded([*corpus[:5], "neverseen", ""])
        assert (again.terms, again.labels, again.weighting) == (model.terms, names, TfIdf())
        np.testing.assert_array_equal(
            again.top.shares(again.rows(*asked)), model.top.shares(model.rows(*asked))
        )
        assert all(term in bags.terms for terms in again.telling(3) for term in terms)
    (tmp_path / "model").write_bytes((tmp_path / "model").read_bytes()[:-9])
    with pytest.raises(UserError, match="cannot be read as sparse vectors"):
        SparseModel.load(tmp_path / "model")
