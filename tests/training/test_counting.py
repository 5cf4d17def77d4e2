"""A run that counts is a run like all others: made, stopped and gone on with, loaded, asked, exchanged."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import plume
from plume import config
from plume.errors import UserError
from plume.models.counts import Counts, Runs
from plume.models.ngrams import NGrams
from plume.text.readers import read
from plume.text.splits import split_of
from plume.text.tokens import TokenStore
from plume.training.counting import Counting, count
from plume.training.folder import RunFolder
from plume.training.meters import ShareLine, history
from tests.conftest import documents

WORDS = {"en": [], "zh": ["tokenizer=Characters", "tokenizer.vocab_size=400"]}


@pytest.fixture(params=["en", "zh"])
def language(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def text(folder: Path, language: str, size: int = 150) -> Path:
    path = folder / f"{language}.txt"
    path.write_text("\n".join(documents(language, size)) + "\n", encoding="utf-8")
    return path


def recipe(name: str, language: str, *words: str) -> Counting:
    found = config.override(config.resolve(f"ngram:{name}"), [*WORDS[language], *words])
    assert isinstance(found, Counting)
    return found


@pytest.mark.parametrize("name", ["notes", "laplace", "mle", "kneser_ney"])
def test_each_recipe_makes_a_run_that_answers(tmp_path: Path, language: str, name: str) -> None:
    data = text(tmp_path, language)
    run = plume.pretrain(recipe(name, language), data=data, out=tmp_path / "run")
    folder = RunFolder(tmp_path / "run")
    assert folder.read_run()["finished"] == 1 and folder.config.is_file() and folder.tokenizer.is_dir()
    [row] = history(folder.metrics, "train")
    assert row["tokens"] == TokenStore.open(folder.tokens).split("train").num_tokens
    held_out = list(history(folder.metrics, "dev"))
    [document] = [d.text for d in read([data]) if split_of(d.text) == "dev"][:1]
    score = run.loglikelihood_rolling(document)
    if name != "mle":  # to which held-out text may be impossible
        assert np.isfinite(score) and np.isfinite(held_out[0]["loss"])
    whole = run.loglikelihood("", document)
    half = len(document) // 2
    if language == "zh":  # no token reaches over the cut
        parts = run.loglikelihood("", document[:half]) + run.loglikelihood(document[:half], document[half:])
        assert parts == pytest.approx(whole, abs=1e-9) or whole == -np.inf
    assert run.generate(document[:half], max_new_tokens=8, seed=3)
    assert run.generate(document[:half], max_new_tokens=8, seed=3) == run.generate(
        document[:half], max_new_tokens=8, seed=3
    )
    logits = run.logits(document)
    total = logits.exp().sum(-1)
    if name == "notes":
        assert (total <= 1 + 1e-6).all()
    else:
        assert total.numpy() == pytest.approx(1, abs=1e-5)
    with pytest.raises(UserError, match=r"is an n-gram model|cannot fill masks"):
        run.embed("x")
    with pytest.raises(UserError, match="cannot fill masks"):
        run.fill_mask("[MASK]")
    assert "bytes each" in repr(run.facts()) and "NGrams" not in run._repr_html_()


def test_the_held_out_loss_is_that_of_its_documents(tmp_path: Path, language: str) -> None:
    data = text(tmp_path, language)
    run = plume.pretrain(recipe("kneser_ney", language), data=data, out=tmp_path / "run")
    held_out = [d.text for d in read([data]) if split_of(d.text) == "dev"]
    eos = run.tokenizer.vocabulary.eos
    assert isinstance(run.model, NGrams)
    scores = [run.model.log_probs([*run.tokenizer.encode(t), eos]) for t in held_out]
    [row] = history(RunFolder(run.path).metrics, "dev")
    assert row["loss"] == pytest.approx(-np.concatenate(scores).mean(), abs=1e-12)
    assert row["losses"] == {"next_token": row["loss"]}


def test_counting_that_was_stopped_goes_on_and_gives_the_same_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = text(tmp_path, "zh")
    kwargs: dict[str, Any] = {"data": [data]}
    pieces = recipe("kneser_ney", "zh", "piece_tokens=600", "model.order=4")
    straight = count(recipe("kneser_ney", "zh", "model.order=4"), out=tmp_path / "straight", **kwargs)
    add, added = Runs.add, []

    def stop(self: Runs, number: int, counts: Counts) -> None:
        if len(added) == 2:
            raise KeyboardInterrupt
        added.append(number)
        add(self, number, counts)

    monkeypatch.setattr(Runs, "add", stop)
    with pytest.raises(KeyboardInterrupt):
        count(pieces, out=tmp_path / "stopped", **kwargs)
    with pytest.raises(UserError, match="no checkpoint yet|not counted to its end"):
        plume.load(tmp_path / "stopped")

    def note(self: Runs, number: int, counts: Counts) -> None:
        added.append(number)
        add(self, number, counts)

    monkeypatch.setattr(Runs, "add", note)
    stopped = count(pieces, out=tmp_path / "stopped", **kwargs)
    assert len(added) > 4 and added == list(range(len(added))), "what was counted is not counted again"
    assert RunFolder(stopped).ngrams.read_bytes() == RunFolder(straight).ngrams.read_bytes()
    assert not RunFolder(stopped).counts.exists()


KILLED = """
import os, signal, sys
from pathlib import Path
from plume import config
from plume.models.counts import Runs
from plume.training.counting import count

add = Runs.add

def kill(self, number, counts):
    if number == 2:  # its files are written, but have no name yet
        Path.rename = lambda self, to: os.kill(os.getpid(), signal.SIGKILL)
    add(self, number, counts)

Runs.add = kill
recipe = config.override(config.resolve("ngram:kneser_ney"), sys.argv[3:])
count(recipe, data=[Path(sys.argv[1])], out=Path(sys.argv[2]))
"""


@pytest.mark.slow
def test_counting_that_was_killed_goes_on_and_gives_the_same_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, out = text(tmp_path, "zh"), tmp_path / "killed"
    settings = ["model.order=4", "piece_tokens=600", *WORDS["zh"]]
    killed = subprocess.run([sys.executable, "-c", KILLED, str(data), str(out), *settings], check=False)
    assert killed.returncode == -signal.SIGKILL
    pieces = sorted(path.name for path in next(RunFolder(out).counts.iterdir()).iterdir())
    assert [name for name in pieces if name[0] != "."] == ["000000", "000001"] and len(pieces) == 3
    add, added = Runs.add, []

    def note(self: Runs, number: int, counts: Counts) -> None:
        added.append(number)
        add(self, number, counts)

    monkeypatch.setattr(Runs, "add", note)
    count(recipe("kneser_ney", "zh", *settings), data=[data], out=out)
    assert added[0] == 2 and added == [*range(2, 2 + len(added))]
    straight = count(recipe("kneser_ney", "zh", "model.order=4"), data=[data], out=tmp_path / "straight")
    assert RunFolder(out).ngrams.read_bytes() == RunFolder(straight).ngrams.read_bytes()


def test_a_finished_run_says_so_and_another_configuration_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, out = text(tmp_path, "en"), tmp_path / "run"
    plume.pretrain(recipe("kneser_ney", "en"), data=data, out=out)
    before = RunFolder(out).metrics.read_bytes()
    plume.pretrain(recipe("kneser_ney", "en"), data=data, out=out)
    assert "is finished" in capsys.readouterr().err and RunFolder(out).metrics.read_bytes() == before
    with pytest.raises(UserError, match=r"model\.order: 3 -> 4"):
        plume.pretrain(recipe("kneser_ney", "en", "model.order=4"), data=data, out=out)
    with pytest.raises(UserError, match="--from is for models with weights"):
        plume.pretrain("ngram:mle", data=data, out=tmp_path / "new", start=out)


def test_small_discounts_are_said_and_recorded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "a.txt"
    path.write_text("一 二\n" * 40, encoding="utf-8")  # only repeats; the duplicates all fall into one split
    texts = "".join(f"{c}{d}\n" for c in "天地玄黄宇宙洪荒" for d in "日月盈昃辰宿列张")
    path.write_text(texts, encoding="utf-8")
    plume.pretrain(recipe("kneser_ney", "zh"), data=path, out=tmp_path / "run")
    assert "0.5, 1 and 1.5 are used instead" in capsys.readouterr().err
    assert not all(json.loads((tmp_path / "run" / "run.json").read_text(encoding="utf-8"))["estimated"])


def test_counting_tells_what_it_does(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("plume.training.counting.ShareLine", lambda name: ShareLine(name, every=0.0))
    wanted = recipe("kneser_ney", "en", "piece_tokens=700")
    count(wanted, data=[text(tmp_path, "en")], out=tmp_path / "run")
    told = [line for line in capsys.readouterr().err.splitlines() if line.startswith("counting: ")]
    orders = [line.split("order ")[1][0] for line in told if "order " in line]
    pieces = len(orders) // 3
    assert orders == ["1", "2", "3"] * pieces and pieces > 1
    assert [line.split(", ")[1][:7] for line in told[-3:]] == ["merging", "smoothi", "scoring"]
    shares = [int(line.split("%")[0].removeprefix("counting: ")) for line in told]
    assert shares == sorted(shares) and shares[0] == 0 and shares[-1] > 90


def test_bad_settings_are_sentences() -> None:
    for word, says in (
        ("model.order=0", "between 1 and 32"),
        ("piece_tokens=0", "at least 1"),
        ("model.smoothing.prune=[1]", "begins with 0"),
        ("model.smoothing.prune=[0,2,1]", "never falls"),
        ("model.smoothing.eps=1", "eps"),
        ("model.ordr=2", "order"),
    ):
        with pytest.raises(UserError, match=says):
            recipe("kneser_ney", "en", word)
    with pytest.raises(UserError, match="negative"):
        recipe("laplace", "en", "model.smoothing.eps=-1")


def test_there_and_back_by_arpa(tmp_path: Path, language: str) -> None:
    data = text(tmp_path, language, 60)
    run = plume.pretrain(recipe("kneser_ney", language), data=data, out=tmp_path / "run")
    plume.export(run, to=tmp_path / "out")
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        "model.arpa", "tokenizer.json", "vocabulary.json",
    ]  # fmt: skip
    again = plume.import_folder(tmp_path / "out" / "model.arpa", out=tmp_path / "again")
    document = documents(language, 3, seed=5)[0].lower()
    words = run.tokenizer.pieces(run.tokenizer.encode(document))
    spelled = " ".join("<unk>" if w == "[UNK]" else w for w in words)
    if "<unk>" not in spelled:
        assert again.loglikelihood_rolling(spelled) == pytest.approx(
            run.loglikelihood_rolling(document), rel=1e-5
        )
    assert again.generate("", max_new_tokens=5, seed=1)
    with pytest.raises(UserError, match="holds a model"):
        plume.export(run, to=tmp_path / "out")
    with pytest.raises(UserError, match="holds a run already"):
        plume.import_folder(tmp_path / "out" / "model.arpa", out=tmp_path / "again")


@pytest.mark.parametrize(
    ("language", "corpus", "likely", "unlikely"),
    [
        ("en", "people recognize speech . we recognize speech with models . a nice beach is a nice place .",
         "recognize speech", "wreck a nice beach"),
        ("zh", "狗咬人了。大狗咬人。小狗爱咬人。人怕狗咬人。", "狗咬人", "人咬狗"),
    ],
)  # fmt: skip
def test_ranking_prefers_what_people_say(
    tmp_path: Path, language: str, corpus: str, likely: str, unlikely: str
) -> None:
    data = tmp_path / "a.txt"
    data.write_text("".join(f"{corpus} {i}\n" for i in range(40)), encoding="utf-8")
    run = plume.pretrain(recipe("kneser_ney", language), data=data, out=tmp_path / "run")
    rank = tmp_path / "rank.txt"
    rank.write_text(f"{unlikely}\n* {likely}\n\n\n{likely}\n{unlikely}\n", encoding="utf-8")
    found = plume.evaluate(run, rank=rank)
    first, second = found["groups"]
    assert first["texts"] == second["texts"] == [likely, unlikely]
    assert first["log_probs"] == sorted(first["log_probs"], reverse=True)
    assert (first["correct"], second["correct"], found["accuracy"], found["marked"]) == (True, None, 1.0, 1)
    for content, says in (
        ("", "no texts to rank"),
        ("alone\n", "has 1 texts"),
        ("* a\n* b\n", "2 of them marked"),
    ):
        rank.write_text(content, encoding="utf-8")
        with pytest.raises(UserError, match=says):
            plume.evaluate(run, rank=rank)
    with pytest.raises(UserError, match="say --data"):
        plume.evaluate(run)


def test_evaluate_prints_counting_models_beside_a_models(tmp_path: Path) -> None:
    data = text(tmp_path, "zh")
    run = plume.pretrain(recipe("kneser_ney", "zh", "model.order=2"), data=data, out=tmp_path / "run")
    found = plume.evaluate(run, data=data)
    counting = found["counting"]
    assert counting["comparable"] and list(counting["models"]) == [
        "unigram",
        "bigram",
        "trigram",
        "kneser_ney5",
    ]
    ours, bigram = found["bits_per_byte"], counting["models"]["bigram"]["bits_per_byte"]
    assert counting["models"]["unigram"]["bits_per_byte"] > bigram
    assert bigram == pytest.approx(ours, rel=0.01)  # the same model, but for ids that are no text
    assert counting["models"]["bigram"]["tokens"] == found["tokens"]
