"""The demo's figures say what its numbers say."""

from __future__ import annotations

import math
import re

from plume.drawing.plotting import to_svg
from plume.studies import demo, labels, overtaking
from plume.studies.words import WORDS

CURVE = [(step, step * 1000, 2.0 + 3 * math.exp(-step / 50)) for step in range(0, 300, 10)]
LINES = {"uniform": 8.0, "unigram": 4.5, "bigram": 3.0, "trigram": 2.2, "kneser_ney5": 1.9}


def test_a_line_is_overtaken_where_the_curve_stays_below_it() -> None:
    found = overtaking.crossings(CURVE, LINES)
    assert [name for name, _, _ in found] == ["uniform", "unigram", "bigram", "trigram"]
    for name, step, read in found:
        assert read == step * 1000
        assert all((bits < LINES[name]) == (s >= step) for s, read, bits in CURVE if read)
    bumpy = [(0, 0, 5.0), (1, 10, 2.9), (2, 20, 3.1), (3, 30, 2.8)]
    assert overtaking.crossings(bumpy, {"bigram": 3.0}) == [("bigram", 3, 30)]
    assert overtaking.crossings(bumpy, {"kneser_ney5": 2.8}) == []  # to touch it is not to be below it


def test_losses_that_came_again_are_counted_to_the_last_bit() -> None:
    def row(step: int, attempt: int, loss: float) -> dict[str, float]:
        return {"step": step, "attempt": attempt, "loss": loss, "bytes": step * 100}

    first = [row(s, 1, 5 / s) for s in range(1, 9)]
    kill = demo._compare(
        [*first, row(6, 2, 5 / 6), row(7, 2, math.nextafter(5 / 7, 9)), row(8, 2, 5 / 8), row(9, 2, 1.0)]
    )
    assert kill == overtaking.Kill(bytes_read=800, step=8, identical=2, compared=3)
    assert demo._compare(first) is None


def test_the_figure_names_every_line_and_every_crossing_in_both_languages() -> None:
    crossed = [overtaking.Crossing(*c, sample="") for c in overtaking.crossings(CURVE, LINES)]
    for words in WORDS.values():
        drawn = to_svg(
            overtaking.figure(CURVE, LINES, crossed, overtaking.Kill(100_000, 100, 39, 40), words), "x"
        )
        for text in (*(words[name] for name in LINES), words["network"], words["x"]):
            assert text in drawn
        assert "39" in drawn and "40" in drawn
        for number in "1234":
            assert re.search(rf"var\(--paper\)[^>]*>{number}</text>", drawn)


def test_intervals_hold_the_seeds_and_the_size_of_the_held_out_set() -> None:
    one, many = labels.Cell.of(16, [0.6], 1000), labels.Cell.of(16, [0.5, 0.6, 0.7], 1000)
    assert one.high - one.low < many.high - many.low
    assert labels.Cell.of(16, [0.6], 4000).high - 0.6 < one.high - 0.6
    table = {"tfidf": [one, labels.Cell.of(64, [0.7], 1000)], "ours": [many, labels.Cell.of(64, [0.8], 1000)]}
    for words in WORDS.values():
        drawn = to_svg(labels.figure(table, 0.5, words["labels"]), "x")
        assert words["labels"]["ours"] in drawn and "80.0 %" in drawn


def test_the_two_languages_say_the_same_things() -> None:
    def keys(tree: dict[str, object]) -> set[str]:
        return set(tree) | {f"labels.{k}" for k in tree.get("labels", {})}  # type: ignore[attr-defined]

    assert keys(WORDS["en"]) == keys(WORDS["zh"])
