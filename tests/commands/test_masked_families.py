"""RoBERTa, ERNIE and ELECTRA from text to an exported folder, through the command line, in two languages."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import plume
from plume.training import faults
from plume.training.checkpoints import Checkpoints
from plume.training.folder import RunFolder
from tests.commands.conftest import ADAPTING, SMALL, House, call, ok

PROMPT = {"en": ("The old ", " wrote about the winter."), "zh": ("城里的", "人写下了一封旧信。")}
STAGES = "stages=[]"


# Each family in one language, and both languages, among the fast tests; the rest among the longer proofs.
FAMILIES = [
    pytest.param(family, language, marks=[] if (family, language) in fast else pytest.mark.slow)
    for fast in [{("roberta", "en"), ("ernie", "zh"), ("electra", "zh")}]
    for family in ("roberta", "ernie", "electra")
    for language in ("en", "zh")
]


@pytest.fixture(autouse=True)
def no_curve(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("plume.training.pretraining.draw_curve", lambda *_, **__: None)


def weights(run: Path) -> dict[str, bytes]:
    return {
        n: t.numpy().tobytes() for n, t in Checkpoints(run / "checkpoints").require().tensors("model").items()
    }


@pytest.mark.parametrize(("family", "language"), FAMILIES)
def test_trains_dies_resumes_exports_and_answers(
    family: str,
    house: House,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    words = [f"{family}:tiny", *SMALL, "--data", house.text]
    if family == "ernie":  # its phrases and entities at once
        units = tmp_path / "units.tsv"
        units.write_text(
            "old printer\tentity\nwinter harbour\tphrase\n老人\tentity\n旧信\tphrase\n", encoding="utf-8"
        )
        words += [STAGES, "--units", units]
    straight, broken = tmp_path / "straight", tmp_path / "broken"
    assert ok(capsys, "pretrain", *words, "--out", straight)["step"] == 6
    faults.reset()
    monkeypatch.setenv(faults.VARIABLE, "step@5=fail")
    with pytest.raises(faults.InjectedFault):
        call(capsys, "pretrain", *words, "--out", broken)
    monkeypatch.delenv(faults.VARIABLE)
    assert ok(capsys, "pretrain", *words, "--out", broken)["step"] == 6
    assert weights(straight) == weights(broken)

    run = plume.load(straight)
    name = run.tokenizer.pieces([run.tokenizer.vocabulary.require("mask")])[0]
    text = name.join(PROMPT[house.language])
    filled = run.fill_mask(text, top=3)
    assert len(filled) == 3 and filled[0].probability >= filled[2].probability > 0
    assert run.embed([text, text[:9]]).shape == (2, 32) and run.hidden_states(text).shape[0] == 2

    folder = tmp_path / "exported"
    ok(capsys, "export", straight, "--to", folder)
    again = plume.load(folder)
    assert plume.load(folder).can and f'"model_type": "{family}"' in (folder / "config.json").read_text(
        "utf-8"
    )
    np.testing.assert_allclose(again.embed(text), run.embed(text), atol=2e-5)
    if family == "electra":
        ok(capsys, "export", straight, "--to", tmp_path / "generator", "--part", "generator")
        other = plume.load(tmp_path / "generator").fill_mask(text, top=3)
        assert [f.token for f in other] == [f.token for f in filled]
        code, _, err = call(capsys, "export", straight, "--to", tmp_path / "x", "--part", "judge")
        assert code == 2 and "discriminator and generator" in err

    adapted = tmp_path / "adapted"
    ok(capsys, "adapt", straight, "--data", house.labels, "--out", adapted, *ADAPTING)
    found = plume.load(adapted).classify(text)
    assert found.label in ("good", "bad") and abs(sum(found.probabilities.values()) - 1) < 1e-5
    ok(capsys, "export", adapted, "--to", tmp_path / "classifier")
    theirs = plume.load(tmp_path / "classifier").classify(text)
    assert theirs.probabilities == pytest.approx(found.probabilities, abs=1e-5)


@pytest.mark.parametrize("language", ["zh"])
def test_a_broken_dictionary_stops_before_anything_is_written(
    house: House, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    units = tmp_path / "units.tsv"
    units.write_text("北京\tentity\n上海 entity\n", encoding="utf-8")
    words = ["ernie:tiny", *SMALL, "--data", house.text, "--out", tmp_path / "run", "--units", units]
    code, _, err = call(capsys, "pretrain", *words)
    assert code == 2 and "line 2: expected a text, a tab" in err and err.strip().count("\n") == 0
    assert not RunFolder(tmp_path / "run").config.exists()
    code, _, err = call(capsys, "pretrain", "bert:tiny", *words[1:])
    assert code == 2 and "leave --units" in err


@pytest.mark.parametrize("language", ["zh"])
@pytest.mark.parametrize("family", ["roberta", "electra"])
def test_a_vocabulary_without_a_mask_is_one_sentence(
    family: str, tmp_path: Path, house: House, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(house.bert / "tokenizer", tmp_path / "pieces")
    card = json.loads((tmp_path / "pieces" / "vocabulary.json").read_text("utf-8"))
    card["vocabulary"]["mask"] = None
    (tmp_path / "pieces" / "vocabulary.json").write_text(json.dumps(card), "utf-8")
    words = [f"{family}:tiny", *SMALL, "--data", house.text, "--out", tmp_path / "run"]
    code, _, err = call(capsys, "pretrain", *words, "--tokenizer", tmp_path / "pieces")
    assert code == 2 and "no 'mask' token" in err and err.strip().count("\n") == 0
    assert not RunFolder(tmp_path / "run").config.exists()
