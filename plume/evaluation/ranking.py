"""Which of several texts is likeliest: "recognize speech", not "wreck a nice beach" (spec 01).

A file of alternatives has one a line, and a blank line between groups; ``* `` before a line marks the right one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from plume.errors import UserError
from plume.evaluation.scorer import Scorer

MARK = "* "


@dataclass(frozen=True)
class Group:
    """Alternatives of one text, and which of them is marked as right (None: none is)."""

    texts: tuple[str, ...]
    right: int | None


@dataclass(frozen=True)
class Ranked:
    """A group's texts and their log p in nats, the likeliest first; ``correct``: the right one is (None: unmarked)."""

    texts: tuple[str, ...]
    log_probs: tuple[float, ...]
    correct: bool | None


def read(path: Path) -> list[Group]:
    """The groups of a file.

    Raises:
        UserError: it cannot be read, or a group has fewer than two texts or several right ones.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read as a list of texts ({error})") from None
    groups = []
    for number, block in enumerate(filter(None, map(str.strip, _blocks(text))), 1):
        lines = [line.strip() for line in block.split("\n")]
        marked = [i for i, line in enumerate(lines) if line.startswith(MARK)]
        texts = tuple(line.removeprefix(MARK) for line in lines)
        if len(texts) < 2 or len(marked) > 1:
            raise UserError(
                f"group {number} of {path} ({texts[0][:40]!r}...) has {len(texts)} texts, {len(marked)} of them marked "
                f"as right: give at least two, a line each, and mark one at most"
            )
        groups.append(Group(texts, marked[0] if marked else None))
    if not groups:
        raise UserError(f"{path} has no texts to rank: write one a line, and a blank line between groups")
    return groups


def _blocks(text: str) -> list[str]:
    lines = [line if line.strip() else "" for line in text.replace("\r\n", "\n").split("\n")]
    return "\n".join(lines).split("\n\n")


def rank(scorer: Scorer, groups: Sequence[Group]) -> list[Ranked]:
    """Each group by log p of the whole text; of equally likely ones the first stays first."""
    scores = iter(scorer.loglikelihood_rolling([text for group in groups for text in group.texts]))
    found = []
    for group in groups:
        logs = [next(scores) for _ in group.texts]
        order = sorted(range(len(logs)), key=lambda i: -logs[i])
        correct = None if group.right is None else order[0] == group.right
        found.append(Ranked(tuple(group.texts[i] for i in order), tuple(logs[i] for i in order), correct))
    return found
