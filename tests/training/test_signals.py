"""SIGTERM and SIGINT: a durable checkpoint, out within a step, exact afterwards (reliability A6)."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from plume.training.faults import VARIABLE
from plume.training.folder import RunFolder
from plume.training.meters import history
from plume.training.signals import StopSignals
from tests.training import small
from tests.training.conftest import Arm

# Where the signal comes; which step's checkpoint it must leave.
PLACES = {
    "start": 0, "evaluate@1": 0, "load@2": 0, "forward@6": 1, "backward@6": 1, "accumulate@7": 1, "accumulate@8": 2,
    "step@3": 3, "evaluate@3": 6, "checkpoint.write@3": None, "checkpoint.rename@1": None, "metrics@4": None,
}  # fmt: skip


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    torch.set_num_threads(1)
    run = small.trainer("carried", tmp_path_factory.mktemp("straight"))
    run.run()
    return small.result(run)


@pytest.mark.parametrize("place", ["load@2", "accumulate@7", "evaluate@3", "checkpoint.write@3"])
def test_a_signal_saves_and_leaves_within_the_step(
    place: str, straight: dict[str, Any], tmp_path: Path, arm: Arm
) -> None:
    check(place, "term", straight, tmp_path, arm)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["term", "int"])
@pytest.mark.parametrize("place", PLACES)
def test_twenty_four_signals(
    place: str, kind: str, straight: dict[str, Any], tmp_path: Path, arm: Arm
) -> None:
    check(place, kind, straight, tmp_path, arm)


def check(place: str, kind: str, straight: dict[str, Any], folder: Path, arm: Arm) -> None:
    handlers = [signal.getsignal(s) for s in (signal.SIGTERM, signal.SIGINT)]
    arm(f"{place}={kind}")
    run = small.trainer("carried", folder)
    assert run.run() == "stopped"
    arm(None)
    assert run.signals.received == (signal.SIGTERM if kind == "term" else signal.SIGINT)
    assert [signal.getsignal(s) for s in (signal.SIGTERM, signal.SIGINT)] == handlers
    saved = run.checkpoints.require()
    assert saved.step == run.progress.step
    expected = PLACES[place]
    assert expected is None or (saved.step == expected if place != "load@2" else saved.step <= 2)
    assert len(list(history(run.folder.metrics))) == saved.step  # not one step more was taken
    again = small.trainer("carried", folder)
    assert again.run() == "finished"
    assert small.result(again) == straight


def test_the_second_signal_leaves_at_once_and_harms_nothing(straight: dict[str, Any], tmp_path: Path) -> None:
    """A real process: the first signal finds it in the middle of a step that takes forever, the second ends it."""
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "tests.training.small",
            "carried",
            str(tmp_path),
            "steps=100000",
            "save_every=8",
        ],
        env={**os.environ, "OMP_NUM_THREADS": "1", VARIABLE: "checkpoint.rename@2=stop"},
        stderr=subprocess.DEVNULL,
    )
    try:
        aside = tmp_path / "checkpoints" / ".writing-step-00000014"
        wait_for(lambda: (aside / "manifest.json").exists(), process)
        process.send_signal(signal.SIGTERM)
        time.sleep(0.2)
        assert process.poll() is None  # it waits for the checkpoint that hangs
        begun = time.monotonic()
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=30) == 128 + signal.SIGTERM
        assert time.monotonic() - begun < 5
    finally:
        process.kill()
        process.wait()
    assert RunFolder(tmp_path).checkpoints.joinpath("step-00000007").is_dir()
    again = small.trainer("carried", tmp_path, steps=100000, save_every=8)
    again.resume()
    assert again.progress.step == 7 and not aside.exists()


def wait_for(what: Any, process: subprocess.Popen[bytes], seconds: float = 90) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)


def test_outside_the_main_thread_nothing_is_caught() -> None:
    import threading

    seen = []

    def enter() -> None:
        with StopSignals() as signals:
            seen.append(signals.received)

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert seen == [None]
