"""What is installed: the wheel holds all of the package and is the same from every build."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

from tests.test_architecture import tracked

ROOT = Path(__file__).resolve().parent.parent


def pins(path: Path) -> dict[str, str]:
    found = re.findall(r"^([A-Za-z0-9._-]+)==([^\s;\\]+)", path.read_text(encoding="utf-8"), re.MULTILINE)
    return {name.lower().replace("_", "-"): version for name, version in found}


@pytest.mark.slow
def test_two_builds_give_one_wheel_with_every_file(tmp_path: Path) -> None:
    wheels = []
    for number in range(2):
        source = tmp_path / f"source{number}"
        shutil.copytree(ROOT / "plume", source / "plume", ignore=shutil.ignore_patterns("__pycache__"))
        for name in ("pyproject.toml", "README.md", "LICENSE", "NOTICE"):
            shutil.copy(ROOT / name, source)
        command = [
            sys.executable,
            "-m",
            "pip",
            "wheel",
            "--quiet",
            "--no-deps",
            "--no-build-isolation",
            "--no-index",
        ]
        subprocess.run([*command, "--wheel-dir", str(source), str(source)],
                       check=True, env={**os.environ, "SOURCE_DATE_EPOCH": "1700000000"})  # fmt: skip
        wheels.append(next(source.glob("plume_lm-*.whl")))
    first, second = (hashlib.sha256(wheel.read_bytes()).hexdigest() for wheel in wheels)
    assert first == second
    with zipfile.ZipFile(wheels[0]) as wheel:
        inside = set(wheel.namelist())
    assert {path for path in tracked() if path.startswith("plume/")} <= inside
    assert not [name for name in inside if name.endswith(".pth") or name.startswith(("tests/", "docs/"))]


def test_every_extra_is_locked_with_hashes_at_the_constrained_versions() -> None:
    constrained = pins(ROOT / "constraints.txt")
    for name in ("demo", "test", "dev"):
        path = ROOT / "requirements" / f"{name}.txt"
        locked = pins(path)
        assert "torch" not in locked
        assert {n: v for n, v in locked.items() if n in constrained} == {
            n: constrained[n] for n in locked if n in constrained
        }
        entries = re.split(r"\n(?=[A-Za-z0-9])", path.read_text(encoding="utf-8"))
        assert all("--hash=sha256:" in entry for entry in entries if "==" in entry)
    asked = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    every = [
        *asked["dependencies"],
        # kenlm has no wheel: only `make test-all` asks for it, and builds it.
        *(line for n, extra in asked["optional-dependencies"].items() if n != "kenlm" for line in extra),
    ]
    names = {re.split(r"[\[<>=!~ ;]", line)[0].lower() for line in every} - {"plume-lm", "torch"}
    assert names <= set(pins(ROOT / "requirements" / "dev.txt")), "say `make lock`"
