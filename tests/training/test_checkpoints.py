"""A checkpoint is whole or not there (reliability A3, A4, A5, A10)."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor

from plume.errors import UserError
from plume.training.checkpoints import Checkpoints, DamagedCheckpoint, folder_name, open_checkpoint
from plume.training.faults import InjectedFault
from plume.training.saver import Saver
from tests.training.conftest import Arm

Parts = dict[str, dict[str, Tensor]]
POINTS = (
    "open",
    "write@1",
    "write@3",
    "write@6",
    "fsync@1",
    "fsync@5",
    "rename",
    "renamed",
    "latest",
    "retire",
)


def parts(step: int) -> Parts:
    """Tensors that differ from step to step, of several kinds and shapes, one of them empty."""
    return {
        "model": {
            "a": torch.full((3, 5), float(step)),
            "b": torch.arange(7, dtype=torch.bfloat16) * step,
            "empty": torch.zeros(0, 4),
        },
        "optimizer": {"step": torch.tensor(float(step)), "odd": torch.tensor([step % 2 == 0, True])},
        "memory": {"0.layers.0": torch.full((2, 2), step, dtype=torch.int64)},
    }


def holds(store: Checkpoints, step: int) -> bool:
    """Whether the newest valid checkpoint is that of ``step``, tensor for tensor."""
    found = store.newest()
    if found is None or found.step != step or found.state["note"] != f"n{step}":
        return False
    return all(
        torch.equal(tensor, found.tensors(part)[name])
        for part, tensors in parts(step).items()
        for name, tensor in tensors.items()
    )


def save(store: Checkpoints, step: int) -> None:
    store.save(step, parts(step), {"note": f"n{step}"})


@pytest.fixture
def store(tmp_path: Path) -> Checkpoints:
    return Checkpoints(tmp_path / "checkpoints", keep=2, say=lambda _: None)


def test_what_was_saved_is_what_is_loaded_also_by_the_library(store: Checkpoints) -> None:
    save(store, 10)
    assert holds(store, 10)
    file = store.folder / folder_name(10) / "model.safetensors"
    assert torch.equal(safetensors.torch.load_file(file)["b"], parts(10)["model"]["b"])
    assert (store.folder / "latest").read_text() == "step-00000010\n"
    assert open_checkpoint(store.folder / folder_name(10)).shapes("model")["a"] == (3, 5)


def test_older_ones_retire_but_for_the_protected(store: Checkpoints) -> None:
    for step in range(1, 6):
        store.save(step, parts(step), {"note": f"n{step}"}, protected={2})
    assert store.steps() == [2, 4, 5]
    store.go_on_from(open_checkpoint(store.folder / folder_name(4)), protected={2})
    assert holds(store, 4) and store.steps() == [2, 4]


def test_a_copied_checkpoint_stays_complete(store: Checkpoints, tmp_path: Path) -> None:
    save(store, 3)
    shutil.copytree(store.folder / folder_name(3), tmp_path / "elsewhere" / folder_name(3))
    assert holds(Checkpoints(tmp_path / "elsewhere", say=lambda _: None), 3)


def test_without_any_valid_one_the_user_is_told(store: Checkpoints) -> None:
    assert store.newest() is None
    with pytest.raises(UserError, match="no valid checkpoint"):
        store.require()


# ---- A3: damage


def damages(seed: int) -> tuple[str, Callable[[Path, Path], None]]:
    """A way of damaging the checkpoint at the first path; the second is that of an older one."""
    rng = random.Random(seed)
    name = rng.choice(
        ["model.safetensors", "optimizer.safetensors", "memory.safetensors", "state.json", "manifest.json"]
    )

    def truncate(new: Path, old: Path) -> None:
        data = (new / name).read_bytes()
        (new / name).write_bytes(data[: int(len(data) * rng.choice([0, 0.01, 0.5, 0.999]))])

    def flip(new: Path, old: Path) -> None:
        data = bytearray((new / name).read_bytes())
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        (new / name).write_bytes(data)

    def zero(new: Path, old: Path) -> None:
        data = bytearray((new / name).read_bytes())
        start = rng.randrange(len(data))
        data[start : start + 64] = b"\1" * len(data[start : start + 64])
        (new / name).write_bytes(data)

    def remove(new: Path, old: Path) -> None:
        (new / name).unlink()

    def swap(new: Path, old: Path) -> None:
        shutil.copy(old / name, new / name)

    def grow(new: Path, old: Path) -> None:
        with (new / name).open("ab") as file:
            file.write(b"\0")

    def rename(new: Path, old: Path) -> None:
        manifest = json.loads((new / "manifest.json").read_text())
        manifest["files"]["../" + name] = manifest["files"].pop(name, {})
        (new / "manifest.json").write_text(json.dumps(manifest))

    def nonsense(new: Path, old: Path) -> None:
        (new / "manifest.json").write_text(
            rng.choice(["[]", "{}", "null", '{"step": 20}', "{" * 50, '{"step":20,"files":{}}'])
        )

    ways = [truncate, flip, zero, remove, swap, grow, rename, nonsense]
    way = ways[seed % len(ways)]
    return f"{way.__name__} {name}", way


def refuse(tmp_path: Path, seeds: range) -> None:
    said: list[str] = []
    store = Checkpoints(tmp_path / "sound", say=said.append)
    save(store, 10)
    save(store, 20)
    for seed in seeds:
        name, damage = damages(seed)
        broken = Checkpoints(tmp_path / f"broken-{seed}", say=said.append)
        shutil.copytree(store.folder, broken.folder)
        said.clear()
        new = broken.folder / folder_name(20)
        before = {file.name: file.read_bytes() for file in new.iterdir()}
        damage(new, broken.folder / folder_name(10))
        if before != {file.name: file.read_bytes() for file in new.iterdir()}:
            assert holds(broken, 10), name
            assert len(said) == 1 and str(new) in said[0], (name, said)
        shutil.rmtree(broken.folder)


def test_every_damage_is_refused_and_the_one_before_taken(tmp_path: Path) -> None:
    refuse(tmp_path, range(40))


@pytest.mark.slow
def test_three_hundred_damages_are_refused(tmp_path: Path) -> None:
    refuse(tmp_path, range(40, 360))


def test_without_its_hashes_a_flipped_bit_would_be_loaded(
    store: Checkpoints, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The negative control of the two tests above."""
    save(store, 10)
    file = store.folder / folder_name(10) / "model.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    said = json.loads((file.parent / "manifest.json").read_text())["files"]["model.safetensors"]["sha256"]
    monkeypatch.setattr("plume.training.checkpoints._sha256", lambda path: _said_of(path))
    assert said and store.newest() is not None and not holds(store, 10)


def _said_of(path: Path) -> Any:
    return json.loads((path.parent / "manifest.json").read_text())["files"][path.name]["sha256"]


# ---- dying, and full disks, in the middle


@pytest.mark.parametrize("point", POINTS)
def test_dying_at_any_point_leaves_a_whole_checkpoint(store: Checkpoints, arm: Arm, point: str) -> None:
    for step in (10, 20):
        save(store, step)
    arm(f"checkpoint.{point}=fail")
    with pytest.raises(InjectedFault):
        save(store, 30)
    arm(None)
    durable = point in ("renamed", "latest", "retire")
    assert holds(store, 30 if durable else 20)
    store.sweep()
    assert not list(store.folder.glob(".*"))
    save(store, 40)
    assert holds(store, 40)
    assert len(store.steps()) == 2


def full(store: Checkpoints, arm: Arm, number: int) -> bool:
    """Save with a disk that is full at the ``number``-th write; whether it was that many."""
    arm(f"checkpoint.write@{number}=full")
    size = sum(f.stat().st_size for f in store.folder.rglob("*"))
    try:
        save(store, 30)
    except OSError:
        assert holds(store, 20)
        assert sum(f.stat().st_size for f in store.folder.rglob("*")) <= size  # no orphan
        return True
    finally:
        arm(None)
    return False


def test_a_full_disk_at_each_write_costs_nothing_else(store: Checkpoints, arm: Arm) -> None:
    for step in (10, 20):
        save(store, step)
    number = 1
    while full(store, arm, number):
        number += 1
    assert number > 8
    assert holds(store, 30)  # only its name could not be written into "latest"
    assert (store.folder / "latest").read_text() == "step-00000020\n"
    save(store, 40)
    assert (store.folder / "latest").read_text() == "step-00000040\n"
    assert store.steps() == [30, 40] and not list(store.folder.glob(".*"))


# ---- A5: the snapshot


def test_what_is_written_is_what_was_there_when_saving_began(store: Checkpoints) -> None:
    saver = Saver(store, lambda _: None)
    for step in range(1, 21):
        now = parts(step)
        saver.save(step, now, {"note": f"n{step}"})
        for tensors in now.values():
            for tensor in tensors.values():
                tensor.zero_()
        saver.finish(step)
        assert holds(store, step)


def test_a_failed_write_is_told_and_the_next_one_works(store: Checkpoints, arm: Arm) -> None:
    said: list[str] = []
    saver = Saver(store, said.append)
    saver.save(1, parts(1), {"note": "n1"})
    saver.finish(1)
    arm("checkpoint.write@2=full")
    saver.save(2, parts(2), {"note": "n2"})
    with pytest.raises(UserError, match="make room"):
        saver.finish(2)
    arm(None)
    assert "could not be written" in said[0] and holds(store, 1) and not saver.has(2)
    saver.save(2, parts(2), {"note": "n2"})
    saver.finish(2)
    assert holds(store, 2)


# ---- A10: retention


def history(store: Checkpoints, arm: Arm, rng: random.Random) -> None:
    """Saves, failures, crashes and damage in any order: the newest valid one is never lost."""
    valid: set[int] = set()
    for step in range(1, rng.randrange(4, 9)):
        what = rng.choice(["save", "save", "crash", "full", "damage"])
        if what == "damage" and len(valid) > 1:
            victim = max(valid)
            (store.folder / folder_name(victim) / "model.safetensors").write_bytes(b"")
            valid.discard(victim)
        elif what == "crash":
            point = rng.choice(POINTS)
            arm(f"checkpoint.{point}=fail")
            try:
                save(store, step)
                valid.add(step)
            except InjectedFault:
                if point in ("renamed", "latest", "retire"):
                    valid.add(step)
            arm(None)
            store.sweep()
            if (found := store.newest()) is not None:
                store.go_on_from(found)
        elif what == "full":
            arm(f"checkpoint.write@{rng.randrange(1, 9)}=full")
            with pytest.raises(OSError, match="space"):
                save(store, step)
            arm(None)
        else:
            save(store, step)
            valid.add(step)
        valid &= {s for s in store.steps() if s in valid}
        if valid:
            assert holds(store, max(valid))
        assert len(store.steps()) <= (store.keep or 99) + 1
        if any(s for s in store.steps()):
            assert valid, "every valid checkpoint was deleted"


def histories(tmp_path: Path, arm: Arm, monkeypatch: pytest.MonkeyPatch, seeds: range) -> None:
    monkeypatch.setattr("os.fsync", lambda _: None)  # a thousand histories are about order, not about power
    for seed in seeds:
        rng = random.Random(seed)
        store = Checkpoints(tmp_path / str(seed), keep=rng.choice([1, 2, 3]), say=lambda _: None)
        history(store, arm, rng)
        shutil.rmtree(store.folder, ignore_errors=True)


def test_retention_never_deletes_the_newest_valid_one(
    tmp_path: Path, arm: Arm, monkeypatch: pytest.MonkeyPatch
) -> None:
    histories(tmp_path, arm, monkeypatch, range(40))


@pytest.mark.slow
def test_a_thousand_histories(tmp_path: Path, arm: Arm, monkeypatch: pytest.MonkeyPatch) -> None:
    histories(tmp_path, arm, monkeypatch, range(40, 1040))


def test_the_wrong_folder_name_is_no_checkpoint(store: Checkpoints) -> None:
    save(store, 10)
    (store.folder / folder_name(10)).rename(store.folder / folder_name(99))
    with pytest.raises(DamagedCheckpoint, match="step 10"):
        open_checkpoint(store.folder / folder_name(99))
