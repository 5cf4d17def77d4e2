"""BLEU and chrF: the golden numbers of spec 26, and the signature that makes them comparable."""

from __future__ import annotations

import pytest

from plume.evaluation.overlap import overlap


def test_the_golden_numbers() -> None:
    found = overlap(["the cat sat on the mat"], ["the cat is on the mat"], draws=2)
    assert found["bleu"].value == pytest.approx(37.9918, abs=1e-4)
    assert found["chrf"].value == pytest.approx(64.5779, abs=1e-4)
    assert "case:mixed|eff:no|tok:13a|smooth:exp|version:" in found["bleu"].signature
    assert "nc:6|nw:0" in found["chrf"].signature


def test_chinese_is_cut_into_characters() -> None:
    """With the cut for English the same pair has no BLEU at all."""
    texts, references = ["我喜欢吃苹果。"], ["我爱吃苹果。"]
    found = overlap(texts, references, draws=2)
    assert found["bleu"].value == pytest.approx(43.4721, abs=1e-4) and "tok:zh" in found["bleu"].signature
    assert found["chrf"].value == pytest.approx(36.2145, abs=1e-4)
    assert overlap(texts, references, cut="13a", draws=2)["bleu"].value == pytest.approx(0.0, abs=1e-9)


def test_the_interval_is_of_the_corpus_and_repeats() -> None:
    references = [f"number {i} sat on the mat in the sun" for i in range(40)]
    texts = [r if i % 3 else r.replace("mat", "rug") for i, r in enumerate(references)]
    one, two = overlap(texts, references, draws=200), overlap(texts, references, draws=200)
    assert one == two and one["bleu"].low < one["bleu"].value < one["bleu"].high < 100
    assert overlap(references, references, draws=2)["bleu"].value == pytest.approx(100)
    with pytest.raises(ValueError, match="1 texts and 2 references"):
        overlap(["a"], ["a", "b"])


def test_texts_of_which_some_share_nothing_have_an_interval_too() -> None:
    """A model that has learnt little: sacrebleu's own mean of its resamples raised a TypeError here."""
    found = overlap(["", "abc", "好"], ["good", "bad", "好"], draws=100)
    assert found["bleu"].value >= 0 and 0 < found["chrf"].value < 100
    assert found["chrf"].low < found["chrf"].value < found["chrf"].high
