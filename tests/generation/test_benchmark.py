"""The measured claim stays runnable: both sides decode, and in single precision to the same tokens."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_the_decoding_benchmark_runs_and_finds_the_same_tokens(tmp_path):
    words = [
        "--layers",
        "1",
        "--repeats",
        "1",
        "--prompt",
        "5",
        "--new",
        "4",
        "--threads",
        "1",
        "--batch",
        "1",
        "2",
        "--dtype",
        "fp32",
    ]
    command = [
        sys.executable,
        str(ROOT / "benchmarks" / "decoding.py"),
        *words,
        "--json",
        str(tmp_path / "rows.json"),
    ]
    out = subprocess.run(
        command, cwd=ROOT, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=True
    )
    rows = json.loads((tmp_path / "rows.json").read_text())
    assert [row["same_tokens"] for row in rows] == [1.0, 1.0]
    assert all(200 < row["memory_mib"]["plume"] < 4000 for row in rows)
    assert out.stdout.count("| fp32, ") == 2
