"""Labels and clusters on top of counted words, through the verbs; in English and Chinese."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

import plume
from plume.errors import UserError
from tests.commands.conftest import call, ok
from tests.conftest import documents

GOOD = {"en": (" lovely", " dreadful"), "zh": ("喜欢", "讨厌")}


@pytest.fixture
def table(language: str, tmp_path: Path) -> Path:
    good = GOOD[language]
    with (tmp_path / "reviews.csv").open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(("review", "mood"))
        rows.writerows(
            (text + good[i % 2], "+-"[i % 2]) for i, text in enumerate(documents(language, 160, seed=1))
        )
    return tmp_path / "reviews.csv"


COLUMNS = ("--text-column", "review", "--label-column", "mood")


@pytest.mark.parametrize(
    "recipe", ["tfidf:words", "tfidf:pairs", "tfidf:characters", "bow:words", "bow:characters"]
)
def test_a_classifier(
    recipe: str, language: str, table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "mood"
    words = ["adapt", recipe, "--data", table, *COLUMNS, "--eval", table, "--out", out]
    said = ok(capsys, *words)
    assert said["labels"] == ["+", "-"] and said["scores"]["test"]["accuracy"] > 0.85
    # What tells the labels apart is what was planted; of characters, a part of it.
    good, bad = (word.strip() for word in GOOD[language])
    assert any(term in good for term in said["telling"]["+"][:8])
    loaded = plume.load(out)
    assert loaded.can == ("classify",)
    answers = loaded.classify([f"{documents(language, 1)[0]} {good}", f"neverseen {bad}"])
    assert [answer.label for answer in answers] == ["+", "-"]
    assert sum(answers[0].probabilities.values()) == pytest.approx(1)
    found = ok(capsys, "evaluate", out, "--data", table, *COLUMNS)
    assert 0 < found["texts"] < 30  # of the split that nothing trained on
    found = ok(capsys, "evaluate", out, "--data", table, *COLUMNS, "--split", "all")
    assert found["accuracy"]["value"] > 0.85 and found["texts"] == 160
    code, text, err = call(capsys, *words)
    assert code == 0 and "is finished" in err and "test accuracy" in text
    code, _, err = call(capsys, *words, "min_df=2")
    assert code == 2 and "other settings" in err
    again = ok(capsys, "adapt", out, "--data", table, *COLUMNS, "--examples", 40, "--out", tmp_path / "few")
    assert again["scores"]["dev"]["texts"] <= 40  # a run of it is a recipe, as everywhere
    for method in ("embed", "tag"):
        with pytest.raises(UserError, match="mood (is made of counted words|cannot)"):
            getattr(loaded, method)("text")


def test_clusters(language: str, table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good, bad = GOOD[language]
    join = {"en": " ", "zh": ""}[language]
    with (tmp_path / "two.csv").open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(("review", "mood"))
        rows.writerows((f"{join.join([(good, bad)[i % 2].strip()] * 3)}{join}{i}", i % 2) for i in range(200))
    out = tmp_path / "topics"
    words = ["adapt", "tfidf:words", "--task", "clusters", "clusters=2", "--data", tmp_path / "two.csv",
             "--text-column", "review", "--out", out]  # fmt: skip
    said = ok(capsys, *words)
    assert {name.split()[0] for name in said["labels"]} == {good.strip(), bad.strip()}
    assert sum(said["sizes"].values()) == said["scores"]["train"]["texts"]
    found = ok(capsys, "evaluate", out, "--data", tmp_path / "two.csv", *COLUMNS)
    assert found["purity"] == found["adjusted_rand"] == 1
    assert plume.load(out).classify(good).label.startswith(good.strip())
    code, text, _ = call(capsys, "evaluate", out, "--data", tmp_path / "two.csv", *COLUMNS)
    assert code == 0 and "mutual information" in text
    code, text, _ = call(capsys, *words)
    assert code == 0 and "cluster 1" in text and "sum of squares" in text


def test_what_cannot_be_is_one_sentence(
    language: str, table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "marks.csv").write_text("review,mood\n" + "...,+\n!?,-\n" * 20, encoding="utf-8")
    out = ("--out", tmp_path / "out")
    for words, says in (
        (("tfidf:words", "--task", "clusters", "clusters=5000"), "5000 clusters of"),
        (("tfidf:words", "--task", "clusters", "clusters=0"), "at least 1"),
        (("tfidf:words", "--task", "tagging"), "know no order"),
        (("tfidf:words", "--network", "cnn"), "know no order"),
        (("tfidf:words", "clusterz=2"), "clusters"),
        (("tfidf:words", "ngrams=[2, 1]"), "ngrams"),
        (("tfidf:words", "--examples", 0), "--examples"),
        (("tfidf:words", "--label-column", "nothing"), "no column"),
        (("tfidf:words", "min_df=10000"), "no word to learn from"),
        (("tfidf:word",), "tfidf"),
        (("gpt:tiny",), "plume pretrain gpt:tiny"),
    ):
        code, text, err = call(capsys, "adapt", *words, "--data", table, "--text-column", "review",
                               *(() if "--label-column" in words else ("--label-column", "mood")), *out)  # fmt: skip
        assert (code, text) == (2, "") and says in err, (words, err)
        assert not (tmp_path / "out" / "config.json").exists()
    code, _, err = call(capsys, "adapt", "tfidf:words", "--data", tmp_path / "marks.csv", *COLUMNS, *out)
    assert code == 2 and "no word to learn from" in err
    code, _, err = call(capsys, "pretrain", "tfidf:words", "--data", table, *out)
    assert code == 2 and "see plume adapt" in err
