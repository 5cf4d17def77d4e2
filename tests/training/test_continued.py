"""A model goes on with text of a domain: new words begin as the mean of their pieces, and before and after are told."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from plume import config
from plume.training import continued, pretraining
from plume.training.checkpoints import Checkpoints
from plume.training.faults import InjectedFault
from plume.training.starts import open_tokenizer
from tests.commands.conftest import SMALL, call, ok
from tests.conftest import documents
from tests.training.conftest import Arm

DOMAIN = {
    "en": "The hippocampus of patient {n} showed electroencephalographic spikes near the hippocampal fissure.",
    "zh": "病人{n}的海马体旁出现癫痫样放电，脑电图提示海马硬化。",
}


@pytest.mark.parametrize(("name", "language"), [("gpt", "en"), ("bert", "zh")])
def test_a_model_goes_on_with_new_vocabulary_and_resumes_to_the_bit(
    name: str, language: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], arm: Arm,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr("plume.training.pretraining.draw_curve", lambda *_, **__: None)
    domain, general = tmp_path / "domain.txt", tmp_path / "general.txt"
    domain.write_text("".join(DOMAIN[language].format(n=n) + "\n" for n in range(150)), encoding="utf-8")
    general.write_text("\n".join(documents(language, 150)), encoding="utf-8")
    old, grown = tmp_path / "old", tmp_path / "grown"
    ok(capsys, "pretrain", f"{name}:tiny", *SMALL, "--data", general, "--out", old)
    said = ok(capsys, "tokenizer", domain, "--extend", old, "--out", grown)

    # The first weights: an old row is what it was, a new one the mean of its old pieces'.
    made = json.loads((grown / "extends.json").read_text(encoding="utf-8"))
    before = open_tokenizer(old)
    assert said["vocab_size"] == before.vocabulary.size + len(made["pieces"]) > before.vocabulary.size
    recipe = config.override(config.resolve(f"{name}:tiny"), SMALL)
    model = pretraining.build_model(recipe, open_tokenizer(grown).vocabulary)
    state = Checkpoints(old / "checkpoints").require().tensors("model")
    begun = continued.grown(state, model, grown, before)
    assert model.start_from(begun) == []
    table, rows = state["backbone.embedding.weight"], begun["backbone.embedding.weight"]
    assert torch.equal(rows[: len(table)], table) and len(rows) == said["vocab_size"]
    for row, pieces in zip(rows[len(table) :], made["pieces"], strict=True):
        torch.testing.assert_close(row, table[pieces].mean(0))

    words = ["pretrain", f"{name}:tiny", *SMALL, "--data", domain, "--general", general, "--from", old,
             "--tokenizer", grown]  # fmt: skip
    words = [w for w in words if not str(w).startswith(("training.steps", "training.save_every"))]
    words += ["training.lr=1e-2", "training.steps=16", "training.save_every=5"]
    result = ok(capsys, *words, "--out", tmp_path / "run")
    first, last = result["continued"]["before"], result["continued"]["after"]
    assert set(first) == set(last) == {"domain", "general"}
    assert last["domain"] < first["domain"] - 0.3, "it learnt the domain"
    code, out, _ = call(capsys, *words, "--out", tmp_path / "run")
    assert code == 0 and f"{first['general']:.4f} -> {last['general']:.4f} nats" in out

    # Stopped on the way and begun again, it ends with the same bits and the same figures.
    whole, parts = (
        Checkpoints(tmp_path / "run" / "checkpoints").require().tensors("model"),
        tmp_path / "parts",
    )
    arm("step@9=fail")
    with pytest.raises(InjectedFault):
        call(capsys, *words, "--out", parts)
    arm(None)
    assert ok(capsys, *words, "--out", parts)["continued"] == result["continued"]
    again = Checkpoints(parts / "checkpoints").require().tensors("model")
    assert again.keys() == whole.keys() and all(torch.equal(again[key], whole[key]) for key in whole)

    # Another model than the one whose tokenizer was extended.
    (grown / "extends.json").write_text(json.dumps({**made, "from": "another"}), encoding="utf-8")
    code, out, err = call(capsys, *words, "--out", tmp_path / "wrong")
    assert code == 2 and not out and "extends another tokenizer" in err


def test_general_text_needs_a_model_to_go_on_from(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = tmp_path / "a.txt"
    text.write_text("\n".join(documents("en", 20)), encoding="utf-8")
    code, _, err = call(
        capsys, "pretrain", "gpt:tiny", "--data", text, "--general", text, "--out", tmp_path / "run"
    )
    assert code == 2 and "add --from" in err
