"""The example files run and do what they say."""

from __future__ import annotations

from pathlib import Path

from tests.test_docs import DOCS, files, module

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"


def test_the_loop_by_hand_learns_in_both_languages(corpus: Path) -> None:
    path = next(corpus.iterdir())
    short = [line[:40] for line in path.read_text(encoding="utf-8").splitlines()]
    path.write_text("\n".join(short), encoding="utf-8")
    by_hand = module(EXAMPLES / "by_hand.py")
    assert by_hand.train(path, 30) < 0.95 * by_hand.train(path, 1)


def test_the_lesson_and_its_file_are_the_same() -> None:
    assert (EXAMPLES / "my_objective.py").read_text(encoding="utf-8") == files(DOCS / "lesson.md")[
        "my_objective.py"
    ]


def test_every_example_is_tested_here() -> None:
    assert {path.stem for path in EXAMPLES.glob("*.py")} == {"by_hand", "my_objective"}
