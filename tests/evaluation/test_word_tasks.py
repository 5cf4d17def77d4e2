"""Similarities and analogies: on vectors made so that the answers are known, and beside scipy."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.stats import pearsonr, spearmanr

from plume.errors import UserError
from plume.evaluation.word_tasks import analogies, similarity
from plume.models.word_vectors import WordVectors

COUNTRIES = {"france": "paris", "china": "beijing", "japan": "tokyo", "中国": "北京"}


@pytest.fixture(scope="module")
def vectors() -> WordVectors:
    """A capital is its country and what makes a capital."""
    draw = np.random.default_rng(0)
    capital = draw.normal(size=20)
    rows = {}
    for country, city in COUNTRIES.items():
        rows[country] = draw.normal(size=20)
        rows[city] = rows[country] + capital
    rows |= {f"word{i}": draw.normal(size=20) for i in range(50)}
    return WordVectors(tuple(rows), np.stack([*rows.values()]).astype(np.float32))


def test_planted_analogies_are_found(vectors: WordVectors, tmp_path: Path) -> None:
    lines = [": capital-common-countries"]
    lines += [f"{a} {COUNTRIES[a]} {b} {COUNTRIES[b]}" for a in COUNTRIES for b in COUNTRIES if a != b]
    lines += [": gram1-nonsense", "France Paris word1 word2", "France Paris word1 nowhere"]
    path = tmp_path / "questions.txt"
    path.write_text("\n".join(lines), encoding="utf-8")
    found = analogies(vectors, path)
    assert (found["questions"], found["of"]) == (13, 14)
    assert found["sections"]["capital-common-countries"] == {"accuracy": 1.0, "questions": 12, "of": 12}
    assert found["semantic"] == 1 and found["syntactic"] == 0 and found["accuracy"] == pytest.approx(12 / 13)
    assert vectors.analogy("France", "Paris", "中国", top=1)[0][0] == "北京"
    # The three words of the question are the nearest to what they ask for, and are left out.
    assert not {"france", "paris", "中国"} & {word for word, _ in vectors.analogy("france", "paris", "中国")}
    assert analogies(vectors, path, restrict=4)["questions"] == 2


@pytest.mark.parametrize(
    ("head", "line"),
    [("# a comment\nWord 1\tWord 2\tHuman", "{}\t{}\t{}"), ("", "{},{},{}"),
     ("word1\tword2\tPOS\tSimLex999\tconc", "{}\t{}\tN\t{}\t1")],
    ids=["wordsim", "commas", "simlex"],
)  # fmt: skip
def test_similarity_is_scipys(vectors: WordVectors, tmp_path: Path, head: str, line: str) -> None:
    draw = np.random.default_rng(1)
    pairs = [(f"word{i}", f"Word{i + 1}", float(draw.integers(0, 5))) for i in range(0, 48, 2)]
    path = tmp_path / "pairs.tsv"
    lines = [head, *(line.format(*pair) for pair in pairs), line.format("word1", "nowhere", 1.0)]
    path.write_text("\n".join(lines), encoding="utf-8")
    found = similarity(vectors, path)
    cosines, scores = [vectors.similarity(a, b) for a, b, _ in pairs], [score for _, _, score in pairs]
    assert (found["pairs"], found["of"]) == (24, 25)
    assert found["spearman"] == pytest.approx(spearmanr(cosines, scores).statistic, abs=1e-12)
    assert found["pearson"] == pytest.approx(pearsonr(cosines, scores).statistic, abs=1e-12)


def test_neighbours_by_hand(vectors: WordVectors) -> None:
    found = vectors.nearest("paris", top=3)
    cosine = [float(vectors.unit[vectors.index["paris"]] @ row) for row in vectors.unit]
    best = sorted((-c, w) for c, w in zip(cosine, vectors.words, strict=True) if w != "paris")[:3]
    assert [word for word, _ in found] == [word for _, word in best]
    assert vectors.nearest("paris", top=10_000)[-1][1] == pytest.approx(min(cosine), abs=1e-6)
    assert vectors.nearest("paris", top=0) == []
    with pytest.raises(UserError, match=r"'parsi' is none of the 58 words.*did you mean 'paris'"):
        vectors.nearest("parsi")


def test_bad_lists_are_one_sentence(vectors: WordVectors, tmp_path: Path) -> None:
    path = tmp_path / "x.txt"
    path.write_text("a b c\n", encoding="utf-8")
    with pytest.raises(UserError, match="line 1: expected four words"):
        analogies(vectors, path)
    with pytest.raises(UserError, match="no lines of two words and a number"):
        similarity(vectors, path)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="cannot be read as text"):
        analogies(vectors, path)
