"""What word vectors know: similarities that people gave, and analogies (spec 02 section E.6)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from plume.errors import UserError
from plume.models.word_vectors import WordVectors

SIMILARITY, ANALOGIES = ("wordsim353", "simlex999"), "analogies"
TASKS = (*SIMILARITY, ANALOGIES)


def similarity(vectors: WordVectors, path: Path) -> dict[str, Any]:
    """Spearman's rho and Pearson's r between cosines and what people said of pairs of words.

    The file is WordSim-353's or SimLex-999's as it is published, or has lines of two words and a number between tabs
    or commas. Pairs with a word that has no vector are left out and counted.

    Raises:
        UserError: the file has no such lines.
    """
    cosines, scores, asked = [], [], 0
    for a, b, score in _pairs(path):
        asked += 1
        if vectors.row(a) is not None and vectors.row(b) is not None:
            cosines.append(vectors.similarity(a, b))
            scores.append(score)
    if not asked:
        raise UserError(f"{path} holds no lines of two words and a number")
    result: dict[str, Any] = {"pairs": len(scores), "of": asked, "unknown": 1 - len(scores) / asked}
    x, y = np.array(cosines), np.array(scores)
    enough = len(x) > 2 and np.ptp(x) > 0 and np.ptp(y) > 0
    result["spearman"] = float(np.corrcoef(_ranks(x), _ranks(y))[0, 1]) if enough else None
    result["pearson"] = float(np.corrcoef(x, y)[0, 1]) if enough else None
    return result


def _pairs(path: Path) -> Iterator[tuple[str, str, float]]:
    lines = _read(path)
    column = 2
    for line in lines:
        parts = [part.strip() for part in line.replace(",", "\t").split("\t")]
        if line.startswith("#") or len(parts) < 3:
            continue
        if "SimLex999" in parts:  # its own header; the parts of speech come first
            column = parts.index("SimLex999")
            continue
        try:
            score = float(parts[column])
        except (ValueError, IndexError):
            continue  # another header
        yield parts[0], parts[1], score


def analogies(vectors: WordVectors, path: Path, *, restrict: int = 30_000) -> dict[str, Any]:
    """The share of ``a b c d`` lines where d is nearest to b - a + c, by section and in all.

    Words are compared in capitals and looked for among the first ``restrict``, as the published program does;
    questions with another word are left out and counted.

    Raises:
        UserError: the file is no list of questions.
    """
    size = min(restrict, len(vectors.words))
    index: dict[str, int] = {}
    for row, word in enumerate(vectors.words[:size]):
        index.setdefault(word.upper(), row)
    sections: dict[str, list[list[int]]] = {}
    asked = {"": 0}
    here = "all"
    for number, line in enumerate(_read(path), 1):
        parts = line.upper().split()
        if line.startswith(":"):
            here = line[1:].strip()
            continue
        if len(parts) != 4:
            raise UserError(
                f"{path}, line {number}: expected four words, or a section that begins with a colon"
            )
        asked[here] = asked.get(here, 0) + 1
        rows = [index.get(part, -1) for part in parts]
        if min(rows) >= 0:
            sections.setdefault(here, []).append(rows)
    total = sum(asked.values())
    if not total:
        raise UserError(f"{path} holds no questions: lines of four words are wanted")
    unit = vectors.unit[:size]
    right = {name: _right(unit, np.array(rows)) for name, rows in sections.items()}
    seen = sum(len(r) for r in right.values())
    part = {
        name: {"accuracy": float(r.mean()), "questions": len(r), "of": asked[name]}
        for name, r in right.items()
    }
    result: dict[str, Any] = {"questions": seen, "of": total, "sections": part}
    for name, wanted in (("accuracy", None), ("syntactic", True), ("semantic", False)):
        chosen = [r for key, r in right.items() if wanted is None or key.startswith("gram") == wanted]
        if chosen:
            result[name] = float(np.concatenate(chosen).mean())
    return result


def _right(unit: NDArray[np.float32], rows: NDArray[np.int64]) -> NDArray[np.bool_]:
    found = []
    for at in range(0, len(rows), 256):
        a, b, c, d = rows[at : at + 256].T
        scores = (unit[b] - unit[a] + unit[c]) @ unit.T
        for own in (a, b, c):
            scores[np.arange(len(scores)), own] = -np.inf
        found.append(scores.argmax(1) == d)
    return np.concatenate(found)


def _ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """1, 2, ... in ascending order; equal values share the mean of their ranks."""
    _, place, count = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(count)
    ranks: NDArray[np.float64] = (last - (count - 1) / 2)[place]
    return ranks


def _read(path: Path) -> list[str]:
    try:
        return [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read as text ({error}): name a file of words") from None
