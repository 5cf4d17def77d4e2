"""Word vectors as the input layer of a network, of a run or of a file, for labels of texts and of words."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import plume
from plume.training.labelled import read_tagged
from tests.commands.conftest import call, ok
from tests.conftest import documents, sentences

TABLE = "backbone.embedding.weight"
QUICK = ["training.steps=80", "training.batch_size=16", "training.eval_every=80", "training.save_every=80",
         "training.lr=0.02", "training.warmup_steps=2"]  # fmt: skip
PLACES = {"en": ("harbour", "river", "train", "lanterns"), "zh": ("港口", "雨声", "灯笼", "小镇")}


@pytest.fixture(scope="module", params=["en", "zh"])
def vectors(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """A language, and a file of vectors as word2vec.c writes them, of the words of our sentences."""
    from plume.text.words import cut

    folder = tmp_path_factory.mktemp(request.param)
    words = sorted(set(cut(sentences(request.param, 300), lowercase=True).words))
    table = np.random.default_rng(0).normal(size=(len(words), 24)).astype(np.float32)
    lines = [f"{w} {' '.join(map(str, row.tolist()))}" for w, row in zip(words, table, strict=True)]
    (folder / "vectors.txt").write_text(f"{len(words)} 24\n" + "\n".join(lines) + "\n", encoding="utf-8")
    plume.import_folder(folder / "vectors.txt", out=folder / "words")
    return request.param, folder


def conll(path: Path, language: str, count: int, seed: int = 0) -> Path:
    """Sentences in which a place is an entity; of two words where a number follows it."""
    from plume.text.words import cut

    blocks = []
    for i, text in enumerate(sentences(language, count, seed)):
        words = cut([f"{text}{' ' * (language == 'en')}{i}"]).words
        tags = ["B-LOC" if word.lower() in PLACES[language] else "O" for word in words]
        blocks.append("\n".join(f"{word}\tx\t{tag}" for word, tag in zip(words, tags, strict=True)))
    path.write_text("-DOCSTART-\tx\tO\n\n" + "\n\n".join(blocks) + "\n", encoding="utf-8")
    return path


@pytest.mark.parametrize(("network", "mode"), [("cnn", "frozen"), ("bilstm", "full"), (None, "frozen")])
def test_texts(
    network: str | None,
    mode: str,
    vectors: tuple[str, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    language, folder = vectors
    word = PLACES[language][0]
    rows = [
        {"text": t, "label": "in" if word in t else "out"}
        for t in dict.fromkeys(sentences(language, 200, seed=3))
    ]
    data = tmp_path / "labels.jsonl"
    data.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows), encoding="utf-8")
    upper = ["--network", network, "model.dropout=0"] if network else []
    said = ok(capsys, "adapt", folder / "words", *upper, f"mode={mode}", *QUICK, "--data", data, "--eval", data,
              "--out", tmp_path / "out")  # fmt: skip
    assert said["scores"]["test"]["accuracy"] > 0.8 + 0.1 * (network is not None)
    before, after = (plume.load(run).network.state()[TABLE] for run in (folder / "words", tmp_path / "out"))
    assert bool((before == after).all()) == (mode == "frozen")  # as they were, or tuned
    found = ok(capsys, "evaluate", tmp_path / "out", "--data", data, "--split", "all")
    assert {"accuracy", "macro_f1"} <= set(found) and found["accuracy"]["value"] > 0.8


@pytest.mark.parametrize(("network", "mode"), [("bilstm", "frozen"), ("cnn", "full"), (None, "full")])
def test_words(
    network: str | None,
    mode: str,
    vectors: tuple[str, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    language, folder = vectors
    data = conll(tmp_path / "train.conll", language, 150)
    upper = ["--network", network] if network else []
    out = tmp_path / "out"
    said = ok(capsys, "adapt", folder / "words", *upper, f"mode={mode}", *QUICK, "--task", "tagging", "--data", data,
              "--eval", conll(tmp_path / "test.conll", language, 30, seed=1), "--out", out)  # fmt: skip
    assert said["labels"] == ["B-LOC", "O"]
    assert said["scores"]["test"]["accuracy"] > 0.85 and said["scores"]["test"]["words"] > 100
    found = ok(capsys, "evaluate", out, "--data", tmp_path / "test.conll", "--split", "all")
    assert found["sentences"] == 30 and found["f1"]["value"] > 0.5 and found["accuracy"]["value"] > 0.85
    code, text, _ = call(capsys, "evaluate", out, "--data", tmp_path / "test.conll", "--split", "all")
    assert code == 0 and "F1 of spans" in text
    run = plume.load(out)
    assert "tag" in run.can and "classify" not in run.can
    rows = read_tagged([tmp_path / "test.conll"])
    told = run.tag_words([row.segments for row in rows])
    right = [
        w.label == n
        for words, row in zip(told, rows, strict=True)
        for w, n in zip(words, row.names, strict=True)
    ]
    assert np.mean(right) == pytest.approx(found["accuracy"]["value"])
    one = run.tag(sentences(language, 1)[0] + " neverseen")
    assert one[-1].word == "neverseen" and {w.label for w in one} <= {"B-LOC", "O"}
    assert run.tag([sentences(language, 1)[0], ""])[1] == []
    before, after = (plume.load(path).network.state()[TABLE] for path in (folder / "words", out))
    assert bool((before == after).all()) == (mode == "frozen")


@pytest.mark.slow
def test_a_transformer_tags_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The same objective over a family whose words are several tokens, between specials."""
    from tests.commands.conftest import SMALL

    (tmp_path / "text.txt").write_text("\n".join(documents("en", 100)), encoding="utf-8")
    ok(capsys, "pretrain", "bert:tiny", *SMALL, "--data", tmp_path / "text.txt", "--out", tmp_path / "bert")
    data = conll(tmp_path / "train.conll", "en", 120)
    said = ok(capsys, "adapt", tmp_path / "bert", "--task", "tagging", *QUICK, "training.lr=5e-3", "--data", data,
              "--out", tmp_path / "out")  # fmt: skip
    assert said["scores"]["dev"]["accuracy"] > 0.9
    words = ["Unbelievable", "harbour", ""]
    assert [w.word for w in plume.load(tmp_path / "out").tag_words([words])[0]] == words


def test_tables_of_lists(tmp_path: Path) -> None:
    rows = [{"tokens": ["New York", "等"], "ner_tags": ["B-LOC", "O"]}, {"tokens": "a b", "ner_tags": "O O"}]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    found = read_tagged([tmp_path / "a.jsonl"], text_column="tokens", label_column="ner_tags")
    assert [(row.segments, row.names) for row in found] == [
        (("New York", "等"), ("B-LOC", "O")),
        (("a", "b"), ("O", "O")),
    ]


def test_what_cannot_be_is_one_sentence(
    vectors: tuple[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    language, folder = vectors
    (tmp_path / "short.conll").write_text("a\tO\nb\n", encoding="utf-8")
    (tmp_path / "uneven.jsonl").write_text('{"text": ["a", "b"], "label": ["O"]}\n', encoding="utf-8")
    (tmp_path / "one.conll").write_text("a\tO\nb\tO\n\n" * 9, encoding="utf-8")
    (tmp_path / "empty.conll").write_text("\n\n", encoding="utf-8")
    good = conll(tmp_path / "good.conll", language, 60)
    run, out = folder / "words", ("--out", tmp_path / "out")
    for words, says in (
        ((run, "--task", "tagging", "--data", tmp_path / "short.conll"), "line 2"),
        ((run, "--task", "tagging", "--data", tmp_path / "uneven.jsonl"), "2 words and 1 labels"),
        ((run, "--task", "tagging", "--data", tmp_path / "one.conll"), "at least two"),
        ((run, "--task", "tagging", "--data", tmp_path / "empty.conll"), "no sentence whose words"),
        ((run, "--task", "tagging", "--data", good, "--pair-column", "b"), "a tagger reads one"),
        ((run, "--task", "clusters", "--data", good), "tfidf:words"),
        ((folder / "vectors.txt", "--data", good), "plume import"),
        (
            (run, "--task", "tagging", "--network", "cnn", "model.d_model=7", "--data", good),
            "table of vectors",
        ),
        ((run, "--task", "tagging", "--network", "cnn", "model.before=-1", "--data", good), "before"),
        ((run, "--task", "tagging", "model.d_model=7", "--data", good), "can be set here"),
    ):
        code, text, err = call(capsys, "adapt", *words, *out)
        assert (code, text) == (2, "") and says in err and "Traceback" not in err, (words, err)
