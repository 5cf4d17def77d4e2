"""``pretrain`` does the verb's whole work, and refuses what would not be the same run (DESIGN section 5, B3)."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from plume.config import from_json
from plume.errors import UserError
from plume.models.recurrent import RecurrentConfig
from plume.models.transformer import TransformerConfig
from plume.objectives.causal import CausalLM
from plume.objectives.masked import MaskedLM
from plume.text.files import RUN
from plume.text.tokenizers import ByteLevelBPE, Characters, WordPiece
from plume.text.windows import FullSentences, PackedStream, SegmentPairs, Sequential
from plume.training import identity
from plume.training.checkpoints import Checkpoints
from plume.training.faults import InjectedFault
from plume.training.folder import RunFolder
from plume.training.meters import history
from plume.training.pretraining import pretrain
from plume.training.settings import Pretraining, Stage, Training
from tests.conftest import documents
from tests.training.conftest import Arm

TRAINING = Training(
    steps=6, batch_size=4, microbatch_size=2, lr=1e-3, warmup_steps=2, save_every=3, eval_every=3, eval_batches=1,
    precision="fp32",
)  # fmt: skip
SHAPE = TransformerConfig(num_layers=1, d_model=16, num_heads=2, d_ff=32, max_positions=32, token_types=2)
GPT = Pretraining(
    tokenizer=Characters(vocab_size=200),
    windows=PackedStream(16),
    objective=CausalLM(),
    model=SHAPE,
    training=TRAINING,
)
BERT = replace(
    GPT, tokenizer=WordPiece(vocab_size=150), windows=SegmentPairs(24), objective=MaskedLM(next_sentence=True),
    masking="static", model=replace(SHAPE, norm_order="post"),
    stages=(Stage(until=3, windows=FullSentences(12), objective=MaskedLM()), Stage()),
)  # fmt: skip
LSTM = replace(
    GPT, tokenizer=ByteLevelBPE(vocab_size=300), windows=Sequential(8), model=RecurrentConfig(1, 16),
    training=replace(TRAINING, batch_size=2, microbatch_size=None),
)  # fmt: skip


@pytest.fixture(autouse=True)
def _small_and_quick(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """One thread, no probe and (but where it is asked for) no curve: a second a run; and a code hash that holds."""
    torch.set_num_threads(1)
    if request.function is not test_from_text_to_a_run_that_says_all_about_itself:
        monkeypatch.setattr("plume.training.pretraining.draw_curve", lambda *_: None)
    monkeypatch.setattr("plume.training.precision.matmul_peak", lambda *_: 1e12)
    monkeypatch.setattr(identity, "code", lambda: "c" * 64)


@pytest.fixture
def text(tmp_path: Path) -> Path:
    file = tmp_path / "text.txt"
    file.write_text("\n".join(documents("en", 120)) + "\n", encoding="utf-8")
    return file


def result(folder: Path) -> tuple[list[str], dict[str, Any]]:
    rows = [
        row["loss"].hex() for split in ("train", "dev") for row in history(RunFolder(folder).metrics, split)
    ]
    found = Checkpoints(RunFolder(folder).checkpoints).require()
    return rows, {name: t.tolist() for name, t in found.tensors("model").items()}


@pytest.mark.parametrize("recipe", [GPT, BERT, LSTM], ids=["gpt", "bert", "lstm"])
def test_from_text_to_a_run_that_says_all_about_itself(
    recipe: Pretraining, corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = RunFolder(tmp_path / "run")
    assert pretrain(recipe, data=[corpus], out=folder.path) == folder.path
    assert from_json(folder.read_config()) == recipe
    record = folder.read_run()
    assert record["finished"] == 6 and record["kind"] == "pretraining" and record["microbatch_size"] == 2
    assert record["identity"].keys() >= {
        "data",
        "tokenizer",
        "code",
        "torch",
        "threads",
        "cpu",
        "parent",
        "precision",
    }
    rows = list(history(folder.metrics))
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5, 6]
    assert rows[-1]["losses"].keys() == (
        {"masked_token", "next_sentence"} if recipe is BERT else {"next_token"}
    )
    assert [row["step"] for row in history(folder.metrics, "dev")] == [0, 3, 6]
    assert all(file.stat().st_size > 1000 for file in folder.curve)
    before = {
        file: file.read_bytes() for file in folder.path.rglob("*") if file.is_file() and file.name != RUN
    }
    capsys.readouterr()
    pretrain(recipe, data=[corpus], out=folder.path)
    assert "is finished: 6 steps are done" in capsys.readouterr().err
    assert before == {
        file: file.read_bytes() for file in folder.path.rglob("*") if file.is_file() and file.name != RUN
    }


@pytest.mark.parametrize("death", ["start", "step@5", "checkpoint.rename@2"])
def test_the_same_command_goes_on_where_the_last_one_died(
    death: str, text: Path, tmp_path: Path, arm: Arm
) -> None:
    pretrain(GPT, data=[text], out=tmp_path / "straight")
    arm(f"{death}=fail")
    with pytest.raises(InjectedFault):
        pretrain(GPT, data=[text], out=tmp_path / "died")
    arm(None)
    pretrain(GPT, data=[text], out=tmp_path / "died")
    assert result(tmp_path / "died") == result(tmp_path / "straight")


def test_an_automatic_microbatch_size_stays_what_it_was(
    text: Path, tmp_path: Path, arm: Arm, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = replace(GPT, training=replace(TRAINING, microbatch_size=None))
    arm("step@5=fail")
    with pytest.raises(InjectedFault):
        pretrain(recipe, data=[text], out=tmp_path / "run")
    arm(None)
    assert RunFolder(tmp_path / "run").read_run()["microbatch_size"] == 4
    monkeypatch.setattr("plume.training.fit.CPU_TOKENS", 16)  # another machine would find another size
    pretrain(recipe, data=[text], out=tmp_path / "run")
    assert RunFolder(tmp_path / "run").read_run()["microbatch_size"] == 4


# ---- what is refused


def test_other_settings_are_refused_with_the_difference(text: Path, tmp_path: Path) -> None:
    pretrain(GPT, data=[text], out=tmp_path / "run")
    other = replace(GPT, training=replace(TRAINING, lr=2e-3), windows=PackedStream(17))
    with pytest.raises(
        UserError, match=r"(?s)training.lr: 0.001 -> 0.002.*windows.length: 16 -> 17.*another --out"
    ):
        pretrain(other, data=[text], out=tmp_path / "run")
    with pytest.raises(
        UserError, match=r"training.steps: 6 -> 9.*steps may grow in pretraining with the schedules"
    ):
        pretrain(replace(GPT, training=replace(TRAINING, steps=9)), data=[text], out=tmp_path / "run")


def test_steps_may_grow_where_the_schedule_allows(
    text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(schedule: Any, *steps: int) -> Path:
        out = tmp_path / f"{schedule}-{'-'.join(map(str, steps))}"
        for count in steps:
            training = replace(
                TRAINING,
                steps=count,
                schedule=schedule,
                decay_share=0.25,
                eval_every=None,
                save_every=2,
                keep=4,
            )
            pretrain(replace(GPT, training=training), data=[text], out=out)
        return out

    assert result(run("constant", 4, 6)) == result(run("constant", 6))
    # wsd decays at its end: a longer run branches off from the last checkpoint before that.
    assert result(run("wsd", 8, 12)) == result(run("wsd", 12))
    assert "grows from 8 to 12 steps" in capsys.readouterr().err
    assert [row["attempt"] for row in history(tmp_path / "wsd-8-12" / "metrics.jsonl")][-1] == 2


def test_a_decayed_run_without_an_older_checkpoint_cannot_grow(text: Path, tmp_path: Path) -> None:
    for steps, keep in ((8, 1), (12, 1)):
        training = replace(
            TRAINING, steps=steps, schedule="wsd", decay_share=0.5, save_every=7, keep=keep, eval_every=None
        )
        recipe = replace(GPT, training=training)
        if steps == 8:
            pretrain(recipe, data=[text], out=tmp_path / "run")
        else:
            before = (tmp_path / "run" / "config.json").read_bytes()
            with pytest.raises(UserError, match="its decay had begun"):
                pretrain(recipe, data=[text], out=tmp_path / "run")
            assert (tmp_path / "run" / "config.json").read_bytes() == before


CHANGES = ("code", "python", "torch", "numpy", "threads", "cpu", "device", "precision")


@pytest.mark.parametrize("what", CHANGES)
def test_another_machine_or_program_is_refused_unless_accepted(
    what: str, text: Path, tmp_path: Path, arm: Arm, monkeypatch: pytest.MonkeyPatch
) -> None:
    arm("step@5=fail")
    with pytest.raises(InjectedFault):
        pretrain(GPT, data=[text], out=tmp_path / "run")
    arm(None)
    machine = identity.machine
    monkeypatch.setattr(identity, "machine", lambda *a: {**machine(*a), what: "other"})
    with pytest.raises(UserError, match=rf"{what}: .* -> other.*--accept-changes"):
        pretrain(GPT, data=[text], out=tmp_path / "run")
    pretrain(GPT, data=[text], out=tmp_path / "run", accept_changes=True)
    record = RunFolder(tmp_path / "run").read_run()
    assert (
        record["finished"] == 6
        and len(record["accepted_changes"]) == 1
        and record["identity"][what] == "other"
    )


def test_one_changed_byte_of_the_data_is_refused(text: Path, tmp_path: Path, arm: Arm) -> None:
    arm("step@5=fail")
    with pytest.raises(InjectedFault):
        pretrain(GPT, data=[text], out=tmp_path / "run")
    arm(None)
    data = text.read_bytes()
    text.write_bytes(data.replace(b"heron", b"hqron", 1))
    with pytest.raises(UserError, match="begun with other text"):
        pretrain(GPT, data=[text], out=tmp_path / "run")
    text.write_bytes(data)
    pretrain(GPT, data=[text], out=tmp_path / "run")


def test_another_tokenizer_or_parent_is_refused(text: Path, tmp_path: Path) -> None:
    pretrain(GPT, data=[text], out=tmp_path / "a")
    pretrain(replace(GPT, tokenizer=Characters(vocab_size=30)), data=[text], out=tmp_path / "b")
    longer = replace(GPT, training=replace(TRAINING, schedule="constant", steps=4))
    pretrain(longer, data=[text], out=tmp_path / "c", start=tmp_path / "a")
    record = RunFolder(tmp_path / "c").read_run()
    assert record["parent"]["path"] == str(tmp_path / "a") and record["parent"]["step"] == 6
    grown = replace(longer, training=replace(longer.training, steps=5))
    with pytest.raises(UserError, match="another tokenizer"):
        pretrain(grown, data=[text], out=tmp_path / "c", start=tmp_path / "b")
    with pytest.raises(UserError, match="begun from"):
        pretrain(grown, data=[text], out=tmp_path / "c")
    pretrain(grown, data=[text], out=tmp_path / "c", start=tmp_path / "a")
    assert RunFolder(tmp_path / "c").read_run()["finished"] == 5


def test_a_start_brings_its_weights_and_a_misfit_says_so(text: Path, tmp_path: Path) -> None:
    pretrain(GPT, data=[text], out=tmp_path / "a")
    still = replace(GPT, training=replace(TRAINING, steps=1, lr=1e-12, warmup_steps=0))
    pretrain(still, data=[text], out=tmp_path / "b", start=tmp_path / "a")
    ours, theirs = (Checkpoints(RunFolder(tmp_path / n).checkpoints).require().tensors("model") for n in "ba")
    assert all(torch.allclose(ours[name], theirs[name], atol=1e-6) for name in theirs)
    wide = replace(GPT, model=replace(SHAPE, d_model=32))
    with pytest.raises(UserError, match="cannot be the start"):
        pretrain(wide, data=[text], out=tmp_path / "c", start=tmp_path / "a")
    with pytest.raises(UserError, match=r"neither a run|tokenizer"):
        pretrain(GPT, data=[text], out=tmp_path / "d", start=tmp_path)


def test_a_run_goes_on_though_what_it_began_from_is_gone(text: Path, tmp_path: Path) -> None:
    pretrain(GPT, data=[text], out=tmp_path / "a")
    longer = replace(GPT, training=replace(TRAINING, schedule="constant", steps=4))
    pretrain(longer, data=[text], out=tmp_path / "b", start=tmp_path / "a")
    shutil.rmtree(tmp_path / "a")
    grown = replace(longer, training=replace(longer.training, steps=5))
    pretrain(grown, data=[text], out=tmp_path / "b", start=tmp_path / "a")
    assert RunFolder(tmp_path / "b").read_run()["finished"] == 5
    with pytest.raises(UserError, match="neither a run|tokenizer"):
        pretrain(longer, data=[text], out=tmp_path / "c", start=tmp_path / "a")


def test_bad_data_is_one_sentence_and_leaves_no_run(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="empty"):
        pretrain(GPT, data=[tmp_path / "empty"], out=tmp_path / "run")
    assert not RunFolder(tmp_path / "run").exists()
    short = tmp_path / "short.txt"
    short.write_text("\n".join(f"w {i}" for i in range(9)), encoding="utf-8")
    with pytest.raises(UserError):
        pretrain(replace(GPT, windows=PackedStream(512)), data=[short], out=tmp_path / "run")


def test_a_text_without_held_out_part_trains_and_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from plume.text.splits import split_of

    kept = [d for d in documents("zh", 60) if split_of(d) == "train"]
    (tmp_path / "t.txt").write_text("\n".join(kept), encoding="utf-8")
    pretrain(GPT, data=[tmp_path / "t.txt"], out=tmp_path / "run")
    assert "no held-out loss" in capsys.readouterr().err


def test_a_damaged_newest_checkpoint_costs_its_steps_only(
    text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pretrain(GPT, data=[text], out=tmp_path / "straight")
    out = tmp_path / "run"
    pretrain(GPT, data=[text], out=out)
    folder = RunFolder(out)
    (folder.checkpoints / "step-00000006" / "optimizer.safetensors").write_bytes(b"x")
    folder.write_run({**folder.read_run(), "finished": None})
    capsys.readouterr()
    pretrain(GPT, data=[text], out=out)
    said = capsys.readouterr().err
    assert "checkpoint refused" in said and "optimizer.safetensors" in said and "step-00000003" in said
    assert result(out) == result(tmp_path / "straight")


# ---- the folder


def hold(folder: str, ready: Any, leave: Any) -> None:
    with RunFolder(Path(folder)).lock():
        ready.set()
        leave.wait(30)


def test_one_writer_a_folder_and_a_dead_ones_lock_is_free(text: Path, tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    ready, leave = context.Event(), context.Event()
    other = context.Process(target=hold, args=(str(tmp_path / "run"), ready, leave))
    other.start()
    try:
        assert ready.wait(30)
        with pytest.raises(UserError, match=f"written by process {other.pid}"):
            pretrain(GPT, data=[text], out=tmp_path / "run")
    finally:
        other.kill()
        other.join()
    pretrain(GPT, data=[text], out=tmp_path / "run")  # its lock file lies there still


def test_an_out_that_cannot_be_a_folder_is_told(text: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be a run folder"):
        pretrain(GPT, data=[text], out=text)


def test_a_newer_format_or_damaged_record_is_told(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.run.write_text(json.dumps({"format_version": 99}))
    with pytest.raises(UserError, match="format_version 99"):
        folder.read_run()
    folder.run.write_text("{")
    with pytest.raises(UserError, match=r"run\.json"):
        folder.read_run()
    assert RunFolder(tmp_path / "none").read_run() == {}


def test_the_users_own_file_is_kept_with_the_run(text: Path, tmp_path: Path) -> None:
    own = tmp_path / "mine.py"
    own.write_text(
        "from dataclasses import dataclass, replace\n"
        "from plume.objectives.causal import CausalLM\n"
        "from tests.training.test_pretraining import GPT\n"
        "@dataclass(frozen=True)\n"
        "class Mine(CausalLM):\n"
        "    pass\n"
        "def tiny():\n"
        "    return replace(GPT, objective=Mine())\n",
        encoding="utf-8",
    )
    from plume.config import resolve

    pretrain(resolve(f"{own}:tiny"), data=[text], out=tmp_path / "run")
    assert [file.name for file in (tmp_path / "run" / "code").iterdir()] == ["mine.py"]
    assert "mine.py@" in (tmp_path / "run" / "config.json").read_text()


def test_code_is_hashed_by_content_and_the_revision_is_read(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.undo()
    root = tmp_path / "plume"
    for name in ("slots.py", "text/store.py", "training/trainer.py", "serving/api.py"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(f"# {name}\n")
    monkeypatch.setattr("plume.__path__", [str(root)])
    first = identity.code()
    (root / "serving/api.py").write_text("# no step can reach this\n")
    assert identity.code() == first
    (root / "training/trainer.py").write_text("# training/trainer.pY\n")
    assert identity.code() != first
    assert identity.revision() is None
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "HEAD").write_text("ref: refs/heads/main\n")
    (tmp_path / ".git" / "packed-refs").write_text("# pack-refs\n0123abc refs/heads/main\n")
    assert identity.revision() == "0123abc"


def test_a_signal_ends_the_verb_with_its_code(
    text: Path, tmp_path: Path, arm: Arm, capsys: pytest.CaptureFixture[str]
) -> None:
    arm("forward@5=term")
    with pytest.raises(SystemExit) as left:
        pretrain(GPT, data=[text], out=tmp_path / "run")
    arm(None)
    assert left.value.code == 128 + signal.SIGTERM
    assert "the same command goes on from here" in capsys.readouterr().err
    pretrain(GPT, data=[text], out=tmp_path / "run")
    pretrain(GPT, data=[text], out=tmp_path / "straight")
    assert result(tmp_path / "run") == result(tmp_path / "straight")


def test_without_the_lock_file_system_or_a_signal_handler_nothing_is_left_behind(
    text: Path, tmp_path: Path
) -> None:
    pretrain(GPT, data=[text], out=tmp_path / "run")
    names = {file.name for file in (tmp_path / "run").rglob("*")}
    assert not {
        name for name in names if name.startswith((".writing", ".retiring", ".tokenizer", ".config", ".run"))
    }


@pytest.mark.slow
def test_two_processes_of_torchrun_give_the_run_of_one(text: Path, tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from dataclasses import replace\n"
        "from tests.training.test_pretraining import GPT, TRAINING\n"
        "from plume.training.pretraining import pretrain\n"
        "r = replace(GPT, training=replace(TRAINING, reduction='canonical'))\n"
        "pretrain(r, data=[Path(sys.argv[1])], out=Path(sys.argv[2]))\n"
    )
    (tmp_path / "program.py").write_text(program)
    for ranks in (1, 2):
        subprocess.run(
            [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}",
             str(tmp_path / "program.py"), str(text), str(tmp_path / f"run-{ranks}")],
            check=True, timeout=300, env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": "."},
        )  # fmt: skip
    assert result(tmp_path / "run-1") == result(tmp_path / "run-2")
