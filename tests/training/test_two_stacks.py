"""BART and the Transformer of 2017 through the whole house: trained, stopped, resumed, measured, written, opened."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForSeq2SeqLM

import plume
from plume import config
from plume.__main__ import main
from plume.errors import UserError
from plume.slots import collate
from plume.text.splits import split_of
from plume.training.pretraining import pretrain

SMALL = [
    "tokenizer.vocab_size=320", "model.d_model=16", "model.num_heads=2", "model.d_ff=32", "model.num_layers=1",
    "model.num_decoder_layers=1", "windows.length=48", "training.batch_size=8", "training.microbatch_size=4",
    "training.warmup_steps=2", "training.eval_every=3", "training.eval_batches=1", "training.save_every=3",
    "training.precision=fp32",
]  # fmt: skip
ANIMALS = (("cat", "猫"), ("dog", "狗"), ("bird", "鸟"), ("fish", "鱼"))
DEEDS = (("sees", "看见"), ("likes", "喜欢"), ("finds", "找到"))


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pairs") / "pairs.jsonl"
    with path.open("w", encoding="utf-8") as out:
        for i in range(240):
            a, b, c = ANIMALS[i % 4], DEEDS[i // 4 % 3], ANIMALS[i // 12 % 4]
            row = {"en": f"{a[0]} {i} {b[0]} {c[0]}.", "zh": f"{a[1]}{i}{b[1]}{c[1]}。"}
            out.write(json.dumps(row, ensure_ascii=False) + "\n")
    return path


def recipe(name: str, steps: int, *words: str) -> Any:
    schedule = [] if name.startswith("transformer") else ["training.schedule=constant"]
    return config.override(config.resolve(name), [*SMALL, f"training.steps={steps}", *schedule, *words])


@pytest.mark.parametrize(("source", "target"), [("en", "zh"), ("zh", "en")])
def test_a_translator_from_pairs_to_a_folder(
    pairs: Path, tmp_path: Path, source: str, target: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [f"windows.source={source}", f"windows.target={target}"]
    straight = pretrain(recipe("transformer:tiny", 6, *words), data=[pairs], out=tmp_path / "straight")
    stopped = pretrain(recipe("transformer:tiny", 3, *words), data=[pairs], out=tmp_path / "stopped")
    again = pretrain(recipe("transformer:tiny", 6, *words), data=[pairs], out=stopped)
    one, two = plume.load(straight), plume.load(again)
    state = two.network.state()
    assert two.step == 6 and all(torch.equal(t, state[n]) for n, t in one.network.state().items())

    rows = [json.loads(line) for line in pairs.read_text("utf-8").splitlines()]
    held = [row for row in rows if split_of(row[source]) == "test"]
    found = plume.evaluate(straight, data=pairs, num_beams=2)
    assert found["pairs"] == len(held) and 0 <= found["bleu"]["value"] <= 100
    assert ("tok:zh" if target == "zh" else "tok:13a") in found["bleu"]["signature"]
    assert [s["source"] for s in found["samples"]] == [row[source] for row in held[:5]]

    def written(*words: str) -> str:
        """By ``plume generate``."""
        capsys.readouterr()
        prompt = ["--prompt", held[0][source], "--max-new-tokens", "9"]
        assert main(["generate", str(straight), *prompt, *words]) == 0
        return capsys.readouterr().out.rstrip("\n")

    assert written() == written("--num-beams", "4", "--length-penalty", "0.6")
    greedy = plume.generate(straight, held[0][source], max_new_tokens=9, temperature=0)
    assert written("--num-beams", "1", "--temperature", "0") == greedy, "without its source"

    folder = plume.export(one, to=tmp_path / "folder")
    theirs = AutoModelForSeq2SeqLM.from_pretrained(folder).eval()
    assert theirs.config.model_type == "marian"
    prompt = one.objective.prompt(one.tokenizer.encode(held[0][source]), one.tokenizer.vocabulary)
    batch = collate([prompt])
    ours = one.network.backbone(batch.inputs, batch.decoder_inputs).last
    logits = theirs(input_ids=batch.inputs.input_ids, decoder_input_ids=batch.decoder_inputs.input_ids).logits
    torch.testing.assert_close(one.network.heads["next_token"].logits(ours), logits, rtol=0, atol=2e-5)
    opened = plume.load(folder)
    assert all(torch.equal(t, opened.network.state()[n]) for n, t in one.network.state().items())


def test_bart_from_text_to_a_classifier(tmp_path: Path) -> None:
    text, labelled = tmp_path / "text.txt", tmp_path / "labelled.csv"
    lines = [f"The {a} {i} {d} the {c}. Then it sleeps. 第{i}只{b}{e}{f}。它睡了。"
             for i in range(12) for a, b in ANIMALS for d, e in DEEDS for c, f in ANIMALS[:2]]  # fmt: skip
    text.write_text("\n".join(lines), "utf-8")
    straight = pretrain(recipe("bart:tiny", 6), data=[text], out=tmp_path / "straight")
    stopped = pretrain(recipe("bart:tiny", 3), data=[text], out=tmp_path / "stopped")
    run = plume.load(pretrain(recipe("bart:tiny", 6), data=[text], out=stopped))
    state = plume.load(straight).network.state()
    assert all(torch.equal(t, state[n]) for n, t in run.network.state().items())
    assert run.embed(["The cat.", "猫睡了。"]).shape == (2, 16)

    folder = plume.export(run, to=tmp_path / "folder")
    assert AutoModelForSeq2SeqLM.from_pretrained(folder).config.model_type == "bart"
    labelled.write_text(
        "text,label\n" + "\n".join(f"the {a} {i},{a}" for i in range(30) for a, _ in ANIMALS[:2])
    )
    tuned = plume.adapt(straight, "training.steps=4", data=labelled, out=tmp_path / "tuned")
    assert set(tuned.labels) == {"cat", "dog"}
    answers = tuned.classify(["the cat 3", "the dog 4"])
    assert all(np.isclose(sum(a.probabilities.values()), 1) for a in answers)
    exported = plume.export(tuned, to=tmp_path / "classifier")
    assert "BartForSequenceClassification" in (exported / "config.json").read_text()


def test_data_without_the_columns_is_told_in_one_sentence(pairs: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no column 'source'.*windows.source"):
        pretrain(recipe("transformer:tiny", 3), data=[pairs], out=tmp_path / "run")
    text = tmp_path / "text.txt"
    text.write_text("no columns here\n" * 9)
    with pytest.raises(UserError, match="plain text, without columns"):
        pretrain(recipe("transformer:tiny", 3), data=[text], out=tmp_path / "other")
    long = ["windows.length=2", "windows.source=en", "windows.target=zh"]
    with pytest.raises(UserError, match="both sides within 1 tokens.*overlong=cut"):
        pretrain(recipe("transformer:tiny", 3, *long), data=[pairs], out=tmp_path / "long")
    with pytest.raises(UserError, match="TextPairs"):
        plume.pretrain(
            "transformer:tiny", "windows=PackedStream", "windows.length=16", data=text, out=tmp_path / "x"
        )
