"""T5's tasks beside its text: a file says what they are, one draw makes one example of one of them (spec 18)."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import chisquare

from plume import config
from plume.errors import UserError
from plume.objectives.mixture import MEMBER
from plume.recipes import bart, gpt, lstm, t5
from plume.text.mixing import rates
from plume.text.store import build
from plume.text.tokenizers import Tokenizer
from plume.text.tokens import Tokens
from plume.text.windows import PackedStream, Reading
from plume.training import stages
from plume.training.loader import Loader
from plume.training.parallel import Ranks
from plume.training.pretraining import build_model
from plume.training.settings import Pretraining
from plume.training.tasks import Task, Tasks, read
from tests.conftest import documents

TRANSLATE, MOOD = "translate English to Chinese: ", "心情："
PAIRS = [(f"cat {i} sleeps", f"猫{i}睡了") for i in range(40)]
MOODS = [(f"第{i}天很好", "好") for i in range(12)]


@pytest.fixture(scope="module")
def pieces() -> Tokenizer:
    kind = replace(t5.tiny().tokenizer, vocab_size=600)
    return kind.train([*documents("en", 40), *documents("zh", 40), *[TRANSLATE, MOOD] * 200])


def recipe(**tasks: Any) -> Pretraining:
    members = (Task(name="translate", prefix=TRANSLATE), Task(name="mood", prefix=MOOD))
    small = config.override(
        t5.tiny(), ["windows.length=24", "training.batch_size=32", "model.d_model=16", "model.num_heads=2",
                    "model.d_ff=16", "model.d_head=8", "model.num_layers=1", "model.num_decoder_layers=1"],
    )  # fmt: skip
    return replace(small, tasks=Tasks(members=members, **tasks))


def sets(pieces: Tokenizer) -> tuple[Tokens, dict[str, Tokens]]:
    rows = {
        "translate": Tokens.of(pieces, [(TRANSLATE + a, b) for a, b in PAIRS]),
        "mood": Tokens.of(pieces, [(MOOD + a, b) for a, b in MOODS]),
    }
    return Tokens.of(pieces, documents("en", 60)), rows


def loader(asked: Pretraining, phases: Any, pieces: Tokenizer, size: int = 32) -> Loader:
    heads = build_model(asked, pieces.vocabulary).heads
    return Loader(phases, pieces.vocabulary, heads, size, True, torch.device("cpu"), Ranks())


def test_one_draw_is_one_example_of_one_task(pieces: Tokenizer) -> None:
    """Each with its own prefix, its own rows and its own objective, as often as the formula says; all rows are read."""
    asked = recipe(cap=30, temperature=2.0)
    text, rows = sets(pieces)
    (phase,) = stages.phases(asked, text, pieces.vocabulary, rows)
    windows = len(asked.windows.plan(text, pieces.vocabulary, Reading(26)))  # 24 slots
    assert windows > 30
    shares = rates([windows, 40, 12], [1, 1, 1], cap=30, temperature=2.0)
    np.testing.assert_allclose(list(phase.shares.values()), shares)
    assert list(phase.shares) == ["text", "translate", "mood"] and abs(shares[0] - shares[1]) < 1e-12

    plan = phase.epochs.plan(0)
    seen: dict[str, set[str]] = {"text": set(), "translate": set(), "mood": set()}
    counts = dict.fromkeys(seen, 0)
    for index in range(3_000):
        window = plan[index]
        parts = [pieces.decode(part) for part in window.parts()]
        name = "text" if len(parts) == 1 else "translate" if parts[0].startswith(TRANSLATE) else "mood"
        counts[name] += 1
        assert window.labels[MEMBER] == (name != "text")
        if name == "mood":
            assert parts[0].startswith(MOOD) and parts[1] == "好"
        seen[name].add(parts[0])
        if index < 200:
            example = phase.objective.example(window, pieces.vocabulary, np.random.default_rng(index))
            assert example is not None and example.decoder_inputs is not None
            assert len(example.inputs) <= 24 and len(example.decoder_inputs) <= 24
            np.testing.assert_array_equal(phase.objective.restore(example), window.ids)
    assert chisquare(list(counts.values()), np.array(shares) * 3_000).pvalue > 1e-3
    assert (len(seen["translate"]), len(seen["mood"])) == (40, 12)


def test_noise_is_of_the_window_and_new_each_time_it_comes(pieces: Tokenizer) -> None:
    text, rows = sets(pieces)
    (phase,) = stages.phases(recipe(), text, pieces.vocabulary, rows)
    plan = phase.epochs.plan(0)
    assert len({plan.order(i) for i in range(2_000)}) == 2_000  # though a task's rows come again and again
    static = replace(recipe(), masking="static")
    (phase,) = stages.phases(static, text, pieces.vocabulary, rows)
    plan, drawn = phase.epochs.plan(0), {}
    for i in range(2_000):
        ids = plan[i].ids.tobytes()
        assert drawn.setdefault(ids, plan.order(i)) == plan.order(i)


def test_any_step_is_found_without_those_before_it(pieces: Tokenizer) -> None:
    """Step 5,000 lies in the third of the mixture's epochs; what it reads is what a run from the start reads there."""
    asked = recipe()
    text, rows = sets(pieces)

    def at(steps: list[int]) -> Any:
        one = loader(asked, stages.phases(asked, text, pieces.vocabulary, rows), pieces)
        (found,) = [one.work(step).microbatches[0].batch for step in steps][-1:]
        assert found is not None and found.decoder_inputs is not None
        return found

    near, far = at([0, 1, 4_999, 5_000]), at([5_000])
    for one, other in ((near.inputs, far.inputs), (near.decoder_inputs, far.decoder_inputs)):
        assert torch.equal(one.input_ids, other.input_ids) and torch.equal(
            one.document_ids, other.document_ids
        )
    assert not torch.equal(near.inputs.input_ids[:1, :9], at([4_999]).inputs.input_ids[:1, :9])


def test_held_out_text_is_looked_at_task_by_task(pieces: Tokenizer) -> None:
    """The whole is what training would see: each part's mean example by its share."""
    from plume.training.held_out import held_out_loss
    from plume.training.precision import autocast, choose

    asked = recipe(cap=30, temperature=2.0)
    text, rows = sets(pieces)
    trained = stages.phases(asked, text, pieces.vocabulary, rows)
    (look,) = stages.held_out(asked, text, pieces.vocabulary, rows, trained)
    assert not isinstance(look, str) and list(look.parts) == ["text", "translate", "mood"]
    model = build_model(asked, pieces.vocabulary).eval()
    numbers = choose("fp32", torch.device("cpu"))

    def measured(phase: Any) -> Any:
        return held_out_loss(
            model, phase, loader(asked, [phase], pieces), seed=0,
            precision=lambda: autocast(numbers, torch.device("cpu")), leave=lambda: False,
        )  # fmt: skip

    found = measured(look)
    total = count = 0.0
    for name, part in look.parts.items():
        alone = measured(part)
        assert found["tasks"][name] == alone["loss"]
        batch = loader(asked, [part], pieces).collate(part, range(part.samples))
        labels = float(part.objective.counts(batch, model.heads)["next_token"]) / part.samples
        total, count = total + look.shares[name] * labels * alone["loss"], count + look.shares[name] * labels
    assert found["loss"] == pytest.approx(total / count, rel=1e-6)
    assert found["loss"] != pytest.approx(np.mean(list(found["tasks"].values())), rel=1e-4)
    # A part whose held-out rows are none is left out, and the others are looked at.
    none = {**rows, "mood": Tokens.of(pieces, [], name="dev")}
    (look,) = stages.held_out(asked, text, pieces.vocabulary, none, trained)
    assert not isinstance(look, str) and list(look.parts) == ["text", "translate"]


def test_without_the_text_the_tasks_are_all_there_is(pieces: Tokenizer) -> None:
    asked = recipe(text_scale=0.0, cap=1)
    text, rows = sets(pieces)
    (phase,) = stages.phases(asked, text, pieces.vocabulary, rows)
    assert phase.shares == {"text": 0.0, "translate": 0.5, "mood": 0.5}
    plan = phase.epochs.plan(0)
    assert all(len(plan[i].parts()) == 2 for i in range(200))


# ---- files


def written(folder: Path, text: str) -> Path:
    (folder / "pairs.jsonl").write_text(json.dumps({"en": "a", "zh": "甲"}), "utf-8")
    path = folder / "tasks.toml"
    path.write_text(text, "utf-8")
    return path


def test_a_file_of_tasks(tmp_path: Path) -> None:
    found, files = read(written(tmp_path, """
        temperature = 2.0
        [translate]
        data = "pairs.jsonl"
        prefix = "translate English to Chinese: "
        source = "en"
        target = "zh"
        ["翻译"]
        data = ["pairs.jsonl", "."]
        prefix = "译成英文："
        source = "zh"
        target = "en"
        scale = 0.5
    """))  # fmt: skip
    assert found == Tasks(
        members=(
            Task(name="translate", prefix=TRANSLATE, source="en", target="zh"),
            Task(name="翻译", prefix="译成英文：", source="zh", target="en", scale=0.5),
        ),
        temperature=2.0,
    )
    assert files == {"translate": [tmp_path / "pairs.jsonl"], "翻译": [tmp_path / "pairs.jsonl", tmp_path]}
    whole = replace(t5.tiny(), tasks=found)
    assert config.from_json(config.to_json(whole)) == whole
    assert config.override(whole, ["tasks.cap=1"]).tasks.cap == 1
    assert found.of_prompt("译成英文：猫").name == "翻译"


DATA = '[a]\ndata = "pairs.jsonl"\n'


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("[a", "is not a TOML file"),
        ("[翻译]", r"in quotes: \["),
        ("", "no table such as"),
        ('[a]\nprefix = "x"', r"\[a\] needs data"),
        ('[a]\ndata = "nowhere.jsonl"', "nowhere.jsonl' does not exist"),
        ("[a]\ndata = 3", r"\[a\] needs data"),
        (DATA + 'prefx = "a: "', r"\[a\].prefx: unknown: did you mean prefix"),
        (DATA + 'source = "x"\ntarget = "x"', "both the column 'x'"),
        (DATA + "scale = -1", "scale"),
        ("cap = 0\n" + DATA, "cap must be at least 1"),
        ("temperature = 0.0\n" + DATA, "temperature must be above 0"),
        ("temprature = 2.0\n" + DATA, "temprature: unknown: did you mean temperature"),
        (DATA.replace("[a]", "[text]"), "not 'text'"),
        (DATA + '[b]\ndata = "pairs.jsonl"', "cannot tell them apart"),
        ("text_scale = 0\n" + DATA + "scale = 0", "one of them above"),
    ],
)
def test_a_careless_file_is_told_in_one_sentence(text: str, sentence: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=sentence) as told:
        read(written(tmp_path, text))
    assert str(tmp_path / "tasks.toml") in str(told.value)
    with pytest.raises(UserError, match="cannot read"):
        read(tmp_path / "none.toml")


def test_what_cannot_be_mixed_is_told_before_anything_is_written() -> None:
    tasks = Tasks(members=(Task(name="a"),))
    with pytest.raises(ValueError, match="carry memory"):
        replace(lstm.tiny(), tasks=tasks)
    assert replace(bart.tiny(), tasks=tasks) and replace(
        gpt.tiny(), tasks=tasks
    )  # the second is refused by trying


def test_the_prefix_is_read_and_decides_no_split(tmp_path: Path, pieces: Tokenizer) -> None:
    """A row lies in the split of its bare source, so that no other verb tests on what was trained on."""
    file = tmp_path / "rows.jsonl"
    file.write_text("\n".join(json.dumps({"a": a, "b": b}) for a, b in PAIRS), "utf-8")
    bare = build([file], pieces, tmp_path / "bare", text_column="a", more=["b"])
    named = build([file], pieces, tmp_path / "named", text_column="a", more=["b"], prefix=TRANSLATE)
    assert bare.fingerprint != named.fingerprint
    for split in ("train", "dev", "test"):
        one, two = bare.split(split), named.split(split)
        assert one.num_documents == two.num_documents
        plans = [
            Task(name="a").windows(99).plan(t, pieces.vocabulary, Reading(99))
            if t.num_documents else () for t in (one, two)
        ]  # fmt: skip
        for before, after in zip(*plans, strict=True):
            a, b = before.parts(), after.parts()
            assert pieces.decode(b[0]) == TRANSLATE + pieces.decode(a[0])
            assert b[1].tolist() == a[1].tolist()
    with pytest.raises(UserError, match="other data, or made with another"):
        build([file], pieces, tmp_path / "named", text_column="a", more=["b"], prefix=MOOD)


def test_the_windows_of_the_text_are_those_of_a_run_without_tasks(pieces: Tokenizer) -> None:
    text, rows = sets(pieces)
    (mixed,) = stages.phases(recipe(), text, pieces.vocabulary, rows)
    (alone,) = stages.phases(replace(recipe(), tasks=None), text, pieces.vocabulary)
    plan = mixed.epochs.plan(0)
    read = [w.ids.tobytes() for w in (plan[i] for i in range(60)) if len(w.parts()) == 1]
    want = [alone.epochs.plan(0)[i].ids.tobytes() for i in range(len(read))]
    assert len(read) > 5 and read == want
    assert isinstance(recipe().windows, PackedStream)
