"""1, 2 and 4 processes: one order, the same bits by the canonical tree, 1e-6 by the plain sum (reliability A9)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from plume.errors import UserError
from plume.training.parallel import Node, Ranks, blocks, fold, push


def tree_sum(values: list[torch.Tensor], ranks: int) -> torch.Tensor:
    """The sum as ``ranks`` processes make it: each its own blocks, then all of them together."""
    together: list[Node] = []
    for r in range(ranks):
        own: list[Node] = []
        mine = Ranks(r, ranks).slice(len(values))
        for i in mine:
            push(own, Node(i, 1, [values[i].clone()]))
        assert [(node.start, node.size) for node in own] == blocks(mine.start, mine.stop)
        for node in own:
            push(together, node)
    return fold(together)[0]


@given(st.integers(1, 33), st.integers(0, 2**31))
def test_the_tree_gives_the_same_bits_for_any_number_of_ranks(count: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    values = list(
        torch.randn(count, 7, generator=generator) * 10 ** torch.randn(count, 1, generator=generator)
    )
    alone = tree_sum(values, 1)
    assert torch.allclose(alone.double(), torch.stack(values).double().sum(0), atol=1e-3, rtol=1e-4)
    for ranks in range(2, min(count, 8) + 1):
        assert torch.equal(tree_sum(values, ranks), alone)


def test_a_plain_sequence_would_not() -> None:
    """The negative control: adding one after the other per rank gives other bits."""
    values = list(torch.randn(16, 1000, generator=torch.Generator().manual_seed(0)))

    def plain(ranks: int) -> torch.Tensor:
        parts = [sum((values[i] for i in Ranks(r, ranks).slice(16)), torch.zeros(1000)) for r in range(ranks)]
        return sum(parts, torch.zeros(1000))

    assert not torch.equal(plain(1), plain(4))


@given(st.integers(1, 64), st.integers(1, 8))
def test_slices_are_disjoint_and_cover_everything(count: int, size: int) -> None:
    slices = [Ranks(r, size).slice(count) for r in range(size)]
    assert [i for part in slices for i in part] == list(range(count))


def test_more_ranks_than_work_are_told() -> None:
    with pytest.raises(UserError, match=r"4 processes.*microbatch_size"):
        Ranks(0, 4).check(3)


def test_one_run_as_1_then_2_then_4_then_1_processes(tmp_path: Path) -> None:
    """Real processes under gloo: a head that is asked nothing, packed rows, carried memory; order exact, and bits."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.training.elastic", str(tmp_path)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        timeout=400,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, Any] = json.loads((tmp_path / "found.json").read_text())
    alone = found["two heads canonical 1"]
    assert found["two heads canonical 1 2 4 1"] == alone
    assert found["carried canonical 4 2"] == found["carried canonical 1"]
    assert losses(found["two heads fast 4"]) == pytest.approx(losses(alone), rel=1e-6)
    assert found["two heads fast 4"]["weights"] != alone["weights"]  # so the equalities above say something
    assert alone["train"][0][2] == (0.0).hex()  # the idle head


def losses(result: dict[str, Any]) -> list[float]:
    return [float.fromhex(row[1]) for row in result["train"]]
