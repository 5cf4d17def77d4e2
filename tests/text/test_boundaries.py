"""Words and sentences, English and Chinese."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plume.text.boundaries import codepoints, segment, sentence_starts, sentences, word_starts, words


@pytest.mark.parametrize(
    "parts",
    [
        ["One.", "Two!", "Three?", "Four"],
        ["Dr. Li met Mrs. Wu in the U.S. on Jan. 3, i.e. early.", "It cost 3.50, see example.com."],
        ["J. K. Rowling wrote it.", '"Really?"', "(Yes.)", "Fine..."],
        ["He waited... and waited.", "Then…", "Nothing."],
        ["A heading", "A line that was\nwrapped on.", "Another"],
        ["他来了。", "真的吗？！", "“是的。”", "好……", "他走了"],
        ["他说：“好！”", "然后走了。", "It works.", "好的！", "第3.5版发布了。"],
        ["春眠不觉晓，", "处处闻啼鸟。"],
        ["是吗?", "是的!", "好"],
    ],
)
def test_sentences(parts: list[str]) -> None:
    for newline in (False, True):
        cjk = any(c > "\u2e80" for c in "".join(parts))
        glue = "\n" if newline or parts[0] in ("A heading", "春眠不觉晓，") else "" if cjk else " "
        text = glue.join(parts)
        if not newline and cjk:
            text = text.replace("It works.好的", "It works. 好的")
        assert [text[a:b] for a, b in sentences(text)] == parts


def test_the_ellipsis_before_a_latin_capital_is_no_end_without_a_blank() -> None:
    assert len(sentences("wait…Now")) == 1


@settings(deadline=None)
@given(st.text(alphabet=st.sampled_from("ab A.!?…。！？”\"')】 \n\t中文\u0301\u3000́x3")))
def test_spans_hold_all_that_is_no_blank(text: str) -> None:
    for spans in (sentences(text), words(text)):
        assert all(a < b for a, b in spans)
        assert all(b <= c for (_, b), (c, _) in pairwise(spans))
    held = set()
    for a, b in sentences(text):
        held.update(range(a, b))
    assert all(i in held or text[i].isspace() for i in range(len(text)))
    starts = sentence_starts(text)
    assert (np.diff(starts) > 0).all() and (len(starts) == 0 or (starts[0] > 0 and starts[-1] < len(text)))


def test_words() -> None:
    text = "I'm 25; 我们喜欢北京的well-known café！"
    assert [text[a:b] for a, b in words(text)] == [
        "I'm", "25", ";", "我们", "喜欢", "北京", "的", "well-known", "café", "！",
    ]  # fmt: skip
    assert words("") == [] and words(" \n") == []


def test_word_starts() -> None:
    text = "ab 中文cd, é\u0301x 😀👍🏽"
    begins = word_starts(codepoints(text))
    assert [c for c, b in zip(text, begins, strict=True) if b] == ["a", "中", "文", "c", ",", "é", "😀", "👍"]
    text = "我们喜欢北京"
    cuts = word_starts(codepoints(text), segmented=segment(text))
    assert [i for i, b in enumerate(cuts) if b] == [0, 2, 4]
