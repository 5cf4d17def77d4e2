"""A run that was killed, and the same command again: every loss and every weight bit for bit (reliability A1, A2).

Most deaths here are exceptions that nothing handles, at named points, in this process; a few are real SIGKILLs.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from plume.errors import UserError
from plume.training.checkpoints import Checkpoint
from plume.training.faults import VARIABLE, InjectedFault
from plume.training.folder import RunFolder
from plume.training.meters import history
from tests.training import small
from tests.training.conftest import Arm

KINDS = ("causal", "masked", "carried", "memory", "classification")
# Half of them inside a checkpoint; "load@7" dies in the thread that prepares batches.
DEATHS = (
    "forward@10",
    "accumulate@27",
    "checkpoint.write@9",
    "checkpoint.rename@2",
    "checkpoint.renamed@1",
    "load@7",
)
MORE = (
    "backward@45", "step@8", "evaluate@3", "metrics@9", "start", "checkpoint.open@1", "checkpoint.fsync@8",
    "checkpoint.write@2", "checkpoint.rename@1", "checkpoint.latest@2", "checkpoint.retire@1",
)  # fmt: skip


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """What each run gives when nothing happens to it."""
    torch.set_num_threads(1)
    results = {}
    for kind in KINDS:
        run = small.trainer(kind, tmp_path_factory.mktemp(kind))
        assert run.run() == "finished"
        results[kind] = small.result(run)
    return results


def die_and_resume(kind: str, folder: Path, deaths: tuple[str, ...], arm: Arm) -> dict[str, Any]:
    """Die once at each of these points, one attempt after the other, then finish."""
    attempts = 1
    for death in deaths:
        arm(f"{death}=fail")
        try:
            small.trainer(kind, folder).run()
        except InjectedFault:
            attempts += 1
    arm(None)
    run = small.trainer(kind, folder)
    assert run.run() == "finished"
    assert run.progress.attempt <= attempts
    check_redone(folder, run.training.save_every)
    return small.result(run)


def check_redone(folder: Path, save_every: int) -> None:
    """No attempt may redo more than ``save_every`` steps of the one before it."""
    rows = [json.loads(line) for line in RunFolder(folder).metrics.read_text().splitlines()]
    steps = [(row["attempt"], row["step"]) for row in rows if row["split"] == "train"]
    for (one, before), (two, after) in pairwise(steps):
        assert after == before + 1 if one == two else before + 1 - save_every <= after <= before + 1


@pytest.mark.parametrize("kind", KINDS)
def test_dying_again_and_again_changes_no_bit(
    kind: str, straight: dict[str, dict[str, Any]], tmp_path: Path, arm: Arm
) -> None:
    assert die_and_resume(kind, tmp_path, DEATHS, arm) == straight[kind]


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("death", MORE)
def test_dying_anywhere_changes_no_bit(
    kind: str, death: str, straight: dict[str, dict[str, Any]], tmp_path: Path, arm: Arm
) -> None:
    assert die_and_resume(kind, tmp_path, (death,), arm) == straight[kind]


@pytest.mark.parametrize(("death", "step"), [("write@20", 0), ("rename@2", 14), ("renamed@2", 28)])
def test_dying_while_a_checkpoint_is_on_its_way(death: str, step: int, tmp_path: Path, arm: Arm) -> None:
    """A thread writes while training goes on: the one before it loads, and no more than ``save_every`` is redone."""
    changes = {"steps": 40, "save_every": 16, "eval_every": None}
    run = small.trainer("causal", tmp_path / "straight", **changes)
    run.run()
    arm(f"checkpoint.{death}=fail")
    with pytest.raises(InjectedFault):
        small.trainer("causal", tmp_path / "died", **changes).run()
    arm(None)
    again = small.trainer("causal", tmp_path / "died", **changes)
    again.run()
    assert small.result(again) == small.result(run)
    check_redone(tmp_path / "died", 16)
    assert again._from == step


def full_disk(kind: str, number: int, want: dict[str, Any], folder: Path, arm: Arm) -> None:
    """The disk is full at one write: the run goes on, or says so; nothing of what was saved is lost."""
    arm(f"checkpoint.write@{number}=full,metrics@{number}=full")
    run = small.trainer(kind, folder)
    try:
        assert run.run() == "finished"
    except UserError as error:  # it was the last checkpoint
        assert "make room" in str(error)
    arm(None)
    assert not list(folder.glob("checkpoints/.*"))
    again = small.trainer(kind, folder)
    assert again.run() == "finished"
    assert small.result(again) == want
    assert len(again.checkpoints.steps()) <= 2


@pytest.mark.parametrize("number", [3, 11, 33])
def test_a_full_disk_costs_no_bit(
    number: int, straight: dict[str, dict[str, Any]], tmp_path: Path, arm: Arm
) -> None:
    full_disk("carried", number, straight["carried"], tmp_path, arm)


@pytest.mark.slow
@pytest.mark.parametrize("number", range(1, 31))
def test_a_full_disk_at_each_of_thirty_writes(
    number: int, straight: dict[str, dict[str, Any]], tmp_path: Path, arm: Arm
) -> None:
    full_disk("causal", number, straight["causal"], tmp_path, arm)


# ---- A2: each item of the state is needed


def test_dropping_any_item_of_the_state_is_noticed(
    tmp_path: Path, arm: Arm, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The negative control: a resume that forgets one thing must give other bits."""
    torch.set_num_threads(1)
    run = small.trainer("carried", tmp_path / "straight")
    run.run()
    want = small.result(run)
    arm("step@7=fail")
    with pytest.raises(InjectedFault):
        small.trainer("carried", tmp_path / "died").run()
    arm(None)
    tensors = Checkpoint.tensors

    def without(part: str, name: str) -> Any:
        def forgetful(self: Checkpoint, wanted: str) -> dict[str, Tensor]:
            found = tensors(self, wanted)
            return {
                n: torch.zeros_like(t) if wanted == part and n.startswith(name) else t
                for n, t in found.items()
            }

        return forgetful

    items = [("model", "backbone.layers.1"), ("optimizer", "exp_avg."), ("optimizer", "exp_avg_sq."),
             ("optimizer", "step."), ("memory", "2.")]  # fmt: skip
    for item in [*items, ("progress", "step"), ("guard", "losses"), None]:
        folder = tmp_path / "again"
        shutil.copytree(tmp_path / "died", folder)
        with monkeypatch.context() as patch:
            again = small.trainer("carried", folder)
            if item in items and item is not None:
                patch.setattr(Checkpoint, "tensors", without(*item))
            elif item == ("progress", "step"):  # schedule, noise and data position all follow from it
                resume = again.resume
                patch.setattr(
                    again,
                    "resume",
                    lambda resume=resume, again=again: (resume(), setattr(again.progress, "step", 3)),
                )
            elif item == ("guard", "losses"):
                patch.setattr(again.guard, "load_state", lambda state: None)
            again.run()
        assert (small.result(again) == want) is (item is None), item
        shutil.rmtree(folder)


# ---- real kills


def command(kind: str, folder: Path, *words: str) -> list[str]:
    return [sys.executable, "-m", "tests.training.small", kind, str(folder), *words]


def environment(**variables: str) -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", **variables}


def test_a_real_sigkill_inside_a_checkpoint(straight: dict[str, dict[str, Any]], tmp_path: Path) -> None:
    died = subprocess.run(
        command("carried", tmp_path), env=environment(**{VARIABLE: "checkpoint.fsync@8=kill"}), timeout=120
    )
    assert died.returncode == -9
    assert list((tmp_path / "checkpoints").glob(".writing-*"))
    run = small.trainer("carried", tmp_path)
    run.run()
    assert run.progress.attempt == 2
    assert small.result(run) == straight["carried"]
    assert not list((tmp_path / "checkpoints").glob(".*"))


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_twenty_real_kills(kind: str, tmp_path: Path) -> None:
    """12 of them at named points of a checkpoint, 8 at random times, over several epochs.

    A run to be killed at a random time stands still some steps on, so that it cannot end first on a busy machine.
    """
    words = ["steps=120", "save_every=8", "eval_every=60"]
    subprocess.run(command(kind, tmp_path / "straight", *words), env=environment(), timeout=300, check=True)
    want = small.result(small.trainer(kind, tmp_path / "straight", steps=120, save_every=8, eval_every=60))
    folder = tmp_path / "killed"
    points = (
        "open@2", "write@2", "write@8", "write@13", "fsync@3", "fsync@8", "rename@2", "renamed@2", "latest@2",
        "retire@1", "rename@1", "renamed@1",
    )  # fmt: skip
    rng = random.Random(f"{kind} kills")
    kills = 0
    deaths: list[str | None] = [f"checkpoint.{point}" for point in points] + [None] * 8
    rng.shuffle(deaths)
    for death in deaths:
        if death is not None:
            done = subprocess.run(
                command(kind, folder, *words), env=environment(**{VARIABLE: f"{death}=kill"}), timeout=300
            )
            kills += done.returncode == -9
            continue
        process = subprocess.Popen(
            command(kind, folder, *words),
            env=environment(**{VARIABLE: f"step@{rng.randint(2, 7)}=stop"}),
            stderr=subprocess.DEVNULL,
        )
        rows = RunFolder(folder).metrics
        size = rows.stat().st_size if rows.exists() else 0
        deadline = time.monotonic() + 60
        while (
            process.poll() is None
            and time.monotonic() < deadline
            and not (rows.exists() and rows.stat().st_size > size)
        ):
            time.sleep(0.01)
        time.sleep(rng.random() * 0.3)
        process.kill()
        kills += process.wait() == -9
    run = small.trainer(kind, folder, steps=120, save_every=8, eval_every=60)
    run.run()
    assert kills == 20
    assert small.result(run) == want
    check_redone(folder, 8)
    assert len(list(history(RunFolder(folder).metrics))) == 120
