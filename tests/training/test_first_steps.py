"""What a first run says: what was read, what was not, and what of two models does not fit, in a user's words."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import plume
from plume import config
from plume.commands.chat import chat
from plume.commands.pretrain import lines_of, summary
from plume.errors import UserError
from plume.models import interop
from plume.models.recurrent import RecurrentConfig
from plume.models.transformer import TransformerConfig
from plume.objectives.causal import CausalLM
from plume.objectives.infilling import Denoising
from plume.objectives.mixture import Mixture
from plume.objectives.sequence_to_sequence import SequenceToSequence
from plume.text.files import look
from plume.text.tokenizers import Characters, Tokenizer
from plume.text.windows import PackedStream
from plume.training.folder import RunFolder
from plume.training.pretraining import pretrain
from plume.training.settings import Pretraining, Training
from plume.training.starts import open_start, unlike
from tests.conftest import documents

SHAPE = TransformerConfig(num_layers=1, d_model=16, num_heads=2, d_ff=32, max_positions=32)
GPT = Pretraining(
    tokenizer=Characters(vocab_size=200), windows=PackedStream(16), objective=CausalLM(), model=SHAPE,
    training=Training(steps=1, batch_size=2, microbatch_size=2, warmup_steps=0, lr=1e-3, eval_every=None,
                      precision="fp32"),
)  # fmt: skip
TWO = [
    "tokenizer.vocab_size=320", "model.d_model=16", "model.num_heads=2", "model.d_ff=32", "model.num_layers=1",
    "model.num_decoder_layers=1", "training.batch_size=4", "training.microbatch_size=4", "training.steps=1",
    "training.warmup_steps=0", "training.eval_every=none", "training.precision=fp32",
]  # fmt: skip


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("plume.training.pretraining.draw_curve", lambda *_: None)
    monkeypatch.setattr("plume.training.precision.matmul_peak", lambda *_: 1e12)


def two(name: str, *words: str) -> Any:
    return config.override(config.resolve(name), [*TWO, *words])


@pytest.mark.parametrize("language", ["en", "zh"])
def test_a_run_says_what_it_read_and_what_it_did_not(
    tmp_path: Path, language: str, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "data"
    (data / "more").mkdir(parents=True)
    (data / "a.txt").write_text("\n".join(documents(language, 80)), encoding="utf-8")
    for name in ("notes.docx", "more/scan.pdf", "more/文章.wps", "z.bin"):
        (data / name).write_bytes(b"\0\1")
    (data / "b.jsonl").write_text('{"text": ""}\n{"text": "\\n"}\n', encoding="utf-8")
    pretrain(GPT, data=[data], out=tmp_path / "run")
    told = capsys.readouterr().err
    assert "passed over 4 files whose endings are none of a text: " in told and " and 1 more" in told
    assert str(data / "notes.docx") in told and "z.bin" not in told
    store = json.loads((tmp_path / "run" / "tokens" / "index.json").read_text("utf-8"))["splits"]
    for name in ("train", "dev", "test"):
        assert f"{name} {store[name]['documents']} documents ({store[name]['tokens']:,} tokens)" in told
    assert sum(split["documents"] for split in store.values()) == 80
    assert "left out: 2 dropped: empty" in told


@pytest.mark.parametrize("language", ["en", "zh"])
def test_runs_may_lie_among_the_texts_that_they_are_made_of(
    tmp_path: Path, language: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("文本.txt").write_text("\n".join(documents(language, 60)), encoding="utf-8")
    here, growing = [Path(".")], replace(GPT, training=replace(GPT.training, schedule="constant"))
    pretrain(growing, data=here, out=Path("run"))
    longer = replace(growing, training=replace(growing.training, steps=growing.training.steps + 1))
    pretrain(longer, data=here, out=Path("run"))  # the same text, though a run lies beside it now
    plume.export("run", to="more/published")
    Tokenizer.load(Path("run/tokenizer")).save(Path("pieces"))
    capsys.readouterr()
    pretrain(GPT, data=here, out=Path("other"))
    told = capsys.readouterr().err
    assert "passed over 4 folders of runs or models: more/published, other, pieces and 1 more" in told
    stores = [json.loads(Path(run, "tokens", "index.json").read_text("utf-8")) for run in ("run", "other")]
    assert stores[0]["fingerprint"] == stores[1]["fingerprint"]
    with pytest.raises(UserError, match="is a run's own folder"):
        pretrain(GPT, data=here, out=Path("."))
    assert [source.name for source in look(here).sources] == ["文本.txt"]  # and nothing was left there


def test_another_shape_is_told_in_the_recipe_s_own_words(tmp_path: Path) -> None:
    text = tmp_path / "a.txt"
    text.write_text("\n".join(documents("en", 60)), encoding="utf-8")
    start = pretrain(GPT, data=[text], out=tmp_path / "a")
    # A dropout, which changes no weight, is not among what differs.
    wide = replace(GPT, model=replace(SHAPE, d_model=32, num_layers=2, dropout=0.3))
    with pytest.raises(UserError) as refused:
        pretrain(wide, data=[text], out=tmp_path / "b", start=start)
    said = str(refused.value)
    assert said.startswith(f"{start} cannot be the start of this model: ") and "backbone" not in said
    assert "d_model is 16 there and 32 here" in said and "num_layers is 1 there and 2 here" in said
    assert "dropout" not in said
    words = said.partition("take its settings with ")[2].partition(", or")[0].split()
    assert sorted(words) == ["model.d_model=16", "model.num_layers=1"]
    assert not (tmp_path / "b" / "tokens").exists()  # told before a long text is read
    pretrain(config.override(wide, words), data=[text], out=tmp_path / "b", start=start)  # the remedy is one

    other = replace(GPT, model=RecurrentConfig(1, 16))
    with pytest.raises(
        UserError, match=r"it is a TransformerConfig and the recipe's a RecurrentConfig; choose"
    ):
        pretrain(other, data=[text], out=tmp_path / "c", start=start)
    pretrain(replace(GPT, tokenizer=Characters(vocab_size=30)), data=[text], out=tmp_path / "d")
    with pytest.raises(UserError, match=r"another vocabulary than .*leave --tokenizer out"):
        pretrain(GPT, data=[text], out=tmp_path / "e", start=start, tokenizer=tmp_path / "d")
    assert unlike(replace(open_start(start), shape=None), "a", wide, None) is None


def test_a_published_folder_of_another_shape_too(tmp_path: Path) -> None:
    text = tmp_path / "a.txt"
    text.write_text("\n".join(documents("en", 60)), encoding="utf-8")
    small = config.override(config.resolve("gpt:gpt2"), [
        "model.num_layers=1", "model.d_model=16", "model.num_heads=2", "model.d_ff=64", "windows.length=16",
        "tokenizer.vocab_size=300", "training.steps=1", "training.batch_size=2", "training.microbatch_size=2",
        "training.eval_every=none", "training.warmup_steps=0", "training.precision=fp32",
    ])  # fmt: skip
    plume.export(pretrain(small, data=[text], out=tmp_path / "a"), to=tmp_path / "hf")
    with pytest.raises(
        UserError, match=r"d_ff is 64 there and 32 here; take its settings with model\.d_ff=64,"
    ):
        pretrain(
            config.override(small, ["model.d_ff=32"]), data=[text], out=tmp_path / "b", start=tmp_path / "hf"
        )


@pytest.mark.parametrize(
    "name", ["bart:tiny", "t5:tiny", "gpt:tiny", "bert:tiny", "electra:tiny", "xlnet:tiny"]
)
def test_three_lines_are_too_short_for_every_family(tmp_path: Path, name: str) -> None:
    (tmp_path / "a.txt").write_text("One line.\nTwo lines.\n三行。\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"the train part of the text has \d+ tokens, but .* need"):
        pretrain(config.resolve(name), data=[tmp_path / "a.txt"], out=tmp_path / "run")


def test_empty_targets_are_told_by_their_column(tmp_path: Path) -> None:
    rows = [json.dumps({"en": f"A cat {i}.", "zh": " "}) for i in range(40)]
    (tmp_path / "pairs.jsonl").write_text("\n".join(rows), encoding="utf-8")
    recipe = two("transformer:tiny", "windows.source=en", "windows.target=zh")
    with pytest.raises(
        UserError, match=r"pairs.jsonl has text in both columns, en and zh \(40 dropped: empty\)"
    ):
        pretrain(recipe, data=[tmp_path / "pairs.jsonl"], out=tmp_path / "run")
    assert not (tmp_path / "run" / "config.json").exists()


def test_a_translator_answers_each_line_by_itself(tmp_path: Path) -> None:
    rows = [
        json.dumps({"en": f"The cat sees {i}.", "zh": f"猫看见{i}。"}, ensure_ascii=False) for i in range(60)
    ]
    (tmp_path / "pairs.jsonl").write_text("\n".join(rows), encoding="utf-8")
    recipe = two("transformer:tiny", "windows.source=en", "windows.target=zh")
    run = plume.load(pretrain(recipe, data=[tmp_path / "pairs.jsonl"], out=tmp_path / "run"))

    def talk(*lines: str) -> list[dict[str, str]]:
        given = iter([*lines, None])
        return chat(run, lambda: next(given), max_new_tokens=5, temperature=0)

    alone = talk("The cat sees 2.")
    later = talk("The cat sees 1.", "", "The cat sees 2.")
    assert [turn["you"] for turn in later] == [
        "The cat sees 1.",
        "The cat sees 2.",
    ]  # nothing is nothing to answer
    assert later[-1] == alone[0] and alone[0]["model"]
    # Who writes on what is spoilt goes on; a mixture does as the member that is asked.
    assert Denoising().goes_on and CausalLM().goes_on
    assert not Mixture(members=(CausalLM(), SequenceToSequence()), asks=1).goes_on


def test_a_loss_of_several_heads_shows_each_as_it_can_be_judged(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = tmp_path / "a.txt"
    text.write_text("\n".join(documents("zh", 60)), encoding="utf-8")
    words = [
        "tokenizer.vocab_size=320", "model.d_model=16", "model.num_heads=2", "model.d_ff=32", "model.num_layers=1",
        "model.embedding_size=none", "training.batch_size=4", "training.microbatch_size=4", "training.steps=1",
        "training.eval_every=1", "training.eval_batches=1", "training.precision=fp32", "windows.length=32",
        "objective.generator_share=1",
    ]  # fmt: skip
    recipe = config.override(config.resolve("electra:tiny"), words)
    run = plume.load(pretrain(recipe, data=[text], out=tmp_path / "run"))
    line = next(line for line in capsys.readouterr().err.splitlines() if "step 1/1" in line)
    total, generator, judge = map(float, re.findall(r"\d+\.\d{4}", line)[:3])
    assert f"loss {total:.4f} = masked_token {generator:.4f} + 50 x replaced {judge:.4f}" in line
    assert abs(total - generator - 50 * judge) < 0.01 and abs(judge - 0.7) < 0.3 < generator
    result = summary(run)
    assert set(result["train_losses"]) == {"masked_token", "replaced"} == set(result["dev_losses"])
    assert f"(masked_token {generator:.4f}, replaced {judge:.4f})" in lines_of(result)
    assert "train_losses" not in summary(plume.load(pretrain(GPT, data=[text], out=tmp_path / "gpt")))


def test_weights_that_cannot_be_written_are_told_in_a_sentence(tmp_path: Path) -> None:
    text = tmp_path / "a.txt"
    text.write_text("\n".join(documents("en", 60)), encoding="utf-8")
    run = plume.load(
        pretrain(replace(GPT, model=replace(SHAPE, norm_order="pre")), data=[text], out=tmp_path / "a")
    )
    (tmp_path / "full" / "w.safetensors").mkdir(parents=True)
    with pytest.raises(UserError, match=r"w\.safetensors cannot be written .*make room"):
        run.network.save(tmp_path / "full" / "w.safetensors")
    (tmp_path / "hf" / "model.safetensors").mkdir(parents=True)
    with pytest.raises(UserError, match=r"model\.safetensors cannot be written"):
        interop.folder.write(tmp_path / "hf", {}, run.network.state(), {})


def test_counts_are_not_adapted_and_the_sentence_says_what_is(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    RunFolder(tmp_path / "run").ngrams.touch()
    (tmp_path / "d.csv").write_text("text,label\na,b\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"run is an n-gram model: .* tfidf:words in its place"):
        plume.adapt(tmp_path / "run", data=tmp_path / "d.csv", out=tmp_path / "out")
