"""Builds that are killed: run by test_store.py in a process of its own, which forks the victims.

Prints one JSON object: how many builds were killed and what each rerun left on disk.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import random
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from plume.errors import UserError
from plume.text import batches, store
from plume.text.splits import SPLITS
from plume.text.store import build
from plume.text.tokenizers import WordPiece
from plume.text.tokens import KINDS, TokenStore

store._SHARD, batches._BATCH = 3_000, 500  # a store of kilobytes has as many shards as one of gigabytes
TOKENIZER = WordPiece(300).train(["the quick brown fox jumps over the lazy dog 我们喜欢北京的天气好"] * 5)
TOKENIZER.encode_flat(["。，“”：！.,'! warm 中"])  # tables that every fork inherits


def contents(folder: Path) -> dict[str, str]:
    """What a finished store holds, file by file, and its index without the shards' bookkeeping."""
    names = [f"{s}.{k}.bin" for s in SPLITS for k in KINDS] + ["rejected.jsonl", "index.json"]
    return {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in names}


def forked(work: Callable[[], Any]) -> int:
    """Run in a child; its wait status."""
    pid = os.fork()
    if not pid:
        try:
            work()
            os._exit(0)
        except UserError as error:
            os._exit(2 if "disk is full" in str(error) else 3)
        except BaseException:
            sys.excepthook(*sys.exc_info())
            os._exit(4)
    return os.waitpid(pid, 0)[1]


def die(*_: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def at_call(module: Any, name: str, number: int, then: Callable[[], Any]) -> None:
    """Let ``module.name`` do ``then`` at its ``number``-th call."""
    inner, calls = getattr(module, name), 0

    def counting(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == number:
            then()
        return inner(*args, **kwargs)

    setattr(module, name, counting)


def full() -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def main(data: Path, root: Path, kills: int, fulls: int, cuts: int) -> None:
    draw = random.Random(1)
    forked(lambda: build(data, TOKENIZER, root / "whole"))
    want = contents(root / "whole")
    shards = len(TokenStore.open(root / "whole").index["shards"])
    result: dict[str, Any] = {"shards": shards, "killed": 0, "full": 0, "same": 0, "markers": 0}

    def finish(folder: Path) -> None:
        journal = folder / "journal.jsonl"
        result["markers"] += journal.exists() and journal.read_bytes().count(b'"sha256"') > 1
        forked(lambda: build(data, TOKENIZER, folder))
        result["same"] += contents(folder) == want
        shutil.rmtree(folder)

    # SIGKILL while batches are added, between the syncs of a marker, while the index is written.
    points: list[tuple[Any, str, int]] = [(store, "_replace", 1), (store.os, "replace", 1)]
    while len(points) < kills:
        points.append((store.os, "fsync", draw.randint(1, 11 * shards)))
        points.append((store._Builder, "_add", draw.randint(1, 30)))
    points = points[:kills]
    for number, (module, name, call) in enumerate(points):
        folder = root / f"kill-{number}"

        def victim(module: Any = module, name: str = name, call: int = call, folder: Path = folder) -> None:
            at_call(module, name, call, die)
            build(data, TOKENIZER, folder)

        result["killed"] += os.WTERMSIG(forked(victim)) == signal.SIGKILL
        finish(folder)

    # A full disk at ten places.
    for number in range(fulls):
        folder = root / f"full-{number}"

        def poor(call: int = draw.randint(1, 80), folder: Path = folder) -> None:
            at_call(store._Builder, "_write", call, full)
            build(data, TOKENIZER, folder)

        result["full"] += os.WEXITSTATUS(forked(poor)) == 2
        finish(folder)

    # Killed in the middle, and then what lies behind a marker was cut or changed: found each time.
    for number in range(cuts):
        folder = root / f"cut-{number}"

        def half(folder: Path = folder) -> None:
            at_call(store._Builder, "_add", 25, die)
            build(data, TOKENIZER, folder)

        forked(half)
        victim_file = folder / draw.choice([f"{s}.{k}.bin" for s in SPLITS for k in KINDS if s != "test"])
        size = victim_file.stat().st_size
        with open(victim_file, "r+b") as handle:
            if number % 2:
                handle.truncate(draw.randrange(size // 2))
            else:
                place = draw.randrange(size // 2)
                handle.seek(place)
                byte = handle.read(1)
                handle.seek(place)
                handle.write(bytes([byte[0] ^ 1]))
        finish(folder)
    print(json.dumps(result))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), *map(int, sys.argv[3:]))
