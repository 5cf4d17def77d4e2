"""``python -m tests.training.elastic FOLDER``: the same runs as 1, 2 and 4 processes, one after the other.

torch is imported once; each rank is a fork, so that all of them need one start.
"""

from __future__ import annotations

import json
import os
import socket
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from plume.models.heads import Head
from plume.objectives.masked import MaskedLM
from plume.training import parallel
from tests.training import small


@dataclass(frozen=True)
class Idle(MaskedLM):
    """With a second head that no example asks: on every rank its gradient is zero, not missing."""

    def heads(self, backbone: Any, vocab: Any) -> dict[str, Head]:
        return {**super().heads(backbone, vocab), "idle": super().heads(backbone, vocab)["masked_token"]}


RECIPES = {
    "two heads": replace(small.RECIPES["masked"], objective=Idle()),
    "carried": small.RECIPES["carried"],
}
RUNS = (
    ("two heads", "canonical 1", [1]),
    ("two heads", "canonical 1 2 4 1", [1, 2, 4, 1]),
    ("two heads", "fast 4", [4]),
    ("carried", "canonical 1", [1]),
    ("carried", "canonical 4 2", [4, 2]),
)


def train(kind: str, folder: Path, ranks: int, **changes: Any) -> None:
    """One attempt as that many processes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    children = []
    for rank in range(ranks):
        child = os.fork()
        if child == 0:
            os.environ.update(
                RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(ranks), MASTER_ADDR="127.0.0.1",
                MASTER_PORT=str(port), GLOO_SOCKET_IFNAME="lo",
            )  # fmt: skip
            code = 1
            try:
                torch.set_num_threads(1)
                with parallel.ranks() as found:
                    small.trainer("masked", folder, found, RECIPES[kind], **changes).run()
                code = 0
            finally:
                sys.stderr.flush()
                os._exit(code)
        children.append(child)
    if any(os.waitpid(child, 0)[1] for child in children):
        raise SystemExit(f"{kind} on {ranks} ranks failed")


def main() -> None:
    out = Path(sys.argv[1])
    found = {}
    for kind, name, sizes in RUNS:
        folder = out / f"{kind} {name}".replace(" ", "-")
        changes: dict[str, Any] = {
            "schedule": "constant",
            "warmup_steps": 0,
            "reduction": name.split()[0],
            "eval_every": 2,
        }
        for number, ranks in enumerate(sizes):
            # A schedule without an end, so that an attempt may end early and the next one go on.
            train(kind, folder, ranks, steps=8 * (number + 1) // len(sizes), **changes)
        run = small.trainer("masked", folder, recipe=RECIPES[kind], steps=8, **changes)
        found[f"{kind} {name}"] = small.result(run)
    (out / "found.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main()
