"""What every test may rely on: one thread, no network, a seed, and tiny text in two languages."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# Before torch is imported: two pytest workers share two cores, and tiny tensors gain nothing from threads.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.update(HF_HUB_OFFLINE="1", MPLBACKEND="Agg", NO_COLOR="1", TERM="dumb", COLUMNS="120")

import numpy as np
import pytest
import torch


@pytest.fixture(autouse=True)
def _alone_and_repeatable(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No test reaches another machine; none depends on what the test before it drew."""
    connect = socket.socket.connect

    def only_here(self: socket.socket, address: Any) -> None:
        if self.family != socket.AF_UNIX and address[0] not in ("127.0.0.1", "::1", "localhost"):
            raise AssertionError(f"a test tried to reach {address}: tests use what they make themselves")
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", only_here)
    torch.manual_seed(0)
    yield


SUBJECTS = (
    "The quiet heron",
    "A young sailor",
    "My grandmother",
    "The old printer",
    "Nobody here",
    "The city",
)
VERBS = ("remembers", "has never seen", "paints", "was afraid of", "wrote about", "follows")
OBJECTS = (
    "the winter harbour",
    "a river without a name",
    "seven green lanterns",
    "the last train",
    "its own echo",
)
THEMES = ("春天的江水", "年轻的水手", "我的外婆", "城里的老人", "没有名字的小镇", "远方的灯火")
DEEDS = ("想起了", "从来没有见过", "慢慢地走过", "写下了", "害怕", "一直记得")
THINGS = ("冬天的港口", "一封旧信", "七盏绿色的灯笼", "最后一班火车", "山里的雨声")


def sentences(language: str, count: int, seed: int = 0) -> list[str]:
    """``count`` sentences ("en" or "zh") that a small model can learn something from."""
    rng = np.random.default_rng(seed)
    parts, join, stop = (
        ((SUBJECTS, VERBS, OBJECTS), " ", ".") if language == "en" else ((THEMES, DEEDS, THINGS), "", "。")
    )
    return [join.join(str(rng.choice(part)) for part in parts) + stop for _ in range(count)]


def documents(language: str, count: int, seed: int = 0) -> list[str]:
    """``count`` different documents of two to five sentences."""
    rng = np.random.default_rng(seed)
    join = " " if language == "en" else ""
    texts = (join.join(sentences(language, int(rng.integers(2, 6)), seed * 10_000 + i)) for i in range(count))
    return [f"{text}{join}{i}" for i, text in enumerate(texts)]


@pytest.fixture(params=["en", "zh"])
def language(request: pytest.FixtureRequest) -> str:
    """Every test that asks for it runs in English and in Chinese."""
    return str(request.param)


@pytest.fixture
def corpus(tmp_path: Path, language: str) -> Path:
    """A folder of one .txt file: 200 documents, one a line."""
    folder = tmp_path / "corpus"
    folder.mkdir()
    (folder / f"{language}.txt").write_text("\n".join(documents(language, 200)) + "\n", encoding="utf-8")
    return folder
