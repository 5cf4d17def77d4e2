"""Word2Vec through the verbs: trained, asked, evaluated, exported, imported, adapted; in English and Chinese."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from gensim.models import KeyedVectors

import plume
from plume.errors import UserError
from tests.commands.conftest import call, ok
from tests.conftest import documents

SMALL = ["training.steps=6", "training.batch_size=60", "training.eval_every=3", "training.save_every=3",
         "tokenizer.min_count=1", "model.d_model=16", "training.lr=0.2"]  # fmt: skip
WORDS = {"en": ("heron", "sailor", "printer", "quiet"), "zh": ("江水", "水手", "老人", "春天")}


@pytest.fixture(scope="module")
def runs() -> dict[str, Path]:
    return {}


@pytest.fixture
def run(
    runs: dict[str, Path], language: str, tmp_path_factory: pytest.TempPathFactory, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> Path:  # fmt: skip
    monkeypatch.setattr("plume.training.pretraining.draw_curve", lambda *_, **__: None)
    if language not in runs:
        root = tmp_path_factory.mktemp(language)
        (root / "text.txt").write_text("\n".join(documents(language, 150)), encoding="utf-8")
        said = ok(
            capsys,
            "pretrain",
            "word2vec:skipgram",
            *SMALL,
            "--data",
            root / "text.txt",
            "--out",
            root / "run",
        )
        assert said["step"] == 6 and said["train_loss"] > 0 and said["dev_loss"] > 0
        runs[language] = root / "run"
    return runs[language]


def test_asked_for_words(run: Path, language: str) -> None:
    loaded = plume.load(run)
    a, b, c, d = WORDS[language]
    assert {"nearest", "analogy", "similarity", "embed"} <= set(loaded.can) and "generate" not in loaded.can
    found = loaded.nearest(a, top=3)
    assert len(found) == 3 and found[0][1] >= found[1][1] and a not in [word for word, _ in found]
    assert loaded.similarity(a, b) == pytest.approx(dict(loaded.nearest(a, top=10_000))[b])
    assert not {a, b, c} & {word for word, _ in loaded.analogy(a, b, c)}
    text = f"{c} {d} neverseen"
    mean = (loaded.words.vector(c) + loaded.words.vector(d)) / 2
    np.testing.assert_allclose(loaded.embed(text), mean, atol=1e-6)
    with pytest.raises(UserError, match="is none of the"):
        loaded.nearest("neverseen")
    with pytest.raises(UserError, match="run knows no word of 'neverseen 犇'"):
        loaded.embed([text, "neverseen 犇"])
    with pytest.raises(UserError, match="cannot generate"):
        loaded.generate(a)


def test_exported_for_gensim_and_imported_again(
    run: Path, language: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = ok(capsys, "export", run, "--to", tmp_path / "out")
    assert said["files"] == ["vectors.bin", "vectors.txt"]
    own = plume.load(run)
    for name in said["files"]:
        theirs = KeyedVectors.load_word2vec_format(str(tmp_path / "out" / name), binary=name.endswith("bin"))
        assert tuple(theirs.index_to_key) == own.words.words
        np.testing.assert_array_equal(theirs.vectors, own.words.table)
        ok(capsys, "import", tmp_path / "out" / name, "--out", tmp_path / name)
        again = plume.load(tmp_path / name)
        assert again.words.words == own.words.words
        np.testing.assert_array_equal(again.words.table, own.words.table)
        word = WORDS[language][0]
        assert again.nearest(word) == own.nearest(word) and again.can == own.can


def test_evaluated_on_lists(
    run: Path, language: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a, b, c, d = WORDS[language]
    pairs, questions = tmp_path / "pairs.tsv", tmp_path / "questions.txt"
    pairs.write_text(f"{a}\t{b}\t9\n{a}\t{c}\t5\n{c}\t{d}\t1\n{a}\tneverseen\t3\n", encoding="utf-8")
    questions.write_text(f": gram\n{a} {b} {c} {d}\n", encoding="utf-8")
    said = ok(capsys, "evaluate", run, "--task", "simlex999", "--data", pairs)
    assert (said["pairs"], said["of"]) == (3, 4) and -1 <= said["spearman"] <= 1
    said = ok(capsys, "evaluate", run, "--task", "analogies", "--data", questions)
    assert (said["questions"], said["of"]) == (1, 1) and said["accuracy"] in (0, 1)
    code, out, _ = call(capsys, "evaluate", run, "--task", "simlex999", "--data", pairs)
    assert code == 0 and "3 of 4" in out
    code, _, err = call(capsys, "evaluate", run)
    assert code == 2 and "say --data" in err
    if language == "en":  # the published lists come with gensim
        assert ok(capsys, "evaluate", run, "--task", "wordsim353")["of"] == 353
        assert ok(capsys, "evaluate", run, "--task", "analogies")["of"] == 19_544


@pytest.mark.parametrize("mode", ["full", "frozen"])
def test_a_bag_of_its_vectors_classifies(
    run: Path, language: str, mode: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good, bad = {"en": (" good", " bad"), "zh": ("好", "坏")}[language]
    rows = [f"{text}{(bad, good)[i % 2]}\t{i % 2}" for i, text in enumerate(documents(language, 120, seed=1))]
    (tmp_path / "labels.tsv").write_text("text\tlabel\n" + "\n".join(rows), encoding="utf-8")
    out = tmp_path / "mood"
    words = [
        f"mode={mode}",
        "training.steps=20",
        "training.lr=0.05",
        "training.batch_size=16",
        "--data",
        tmp_path / "labels.tsv",
    ]
    said = ok(capsys, "adapt", run, *words, "--out", out)
    assert said["labels"] == ["0", "1"]
    table = "backbone.embedding.weight"
    before, after = plume.load(run).network.state()[table], plume.load(out).network.state()[table]
    assert bool((before == after).all()) == (mode == "frozen")
    assert plume.load(out).classify(good).label in ("0", "1")
