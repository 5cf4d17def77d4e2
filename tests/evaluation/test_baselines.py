"""The baselines learn in both languages, alike each time, and say what they cannot do."""

import sys

import numpy as np
import pytest

from plume.errors import UserError
from plume.evaluation.baselines import Commonest, TfIdf, chinese_terms, english_terms

ENGLISH = {
    "good": [
        "a wonderful film",
        "I loved it!",
        "warm and funny",
        "loved the wonderful actors",
        "funny, warm, alive",
    ],
    "bad": [
        "a dull film",
        "I hated it",
        "cold and boring",
        "hated the dull actors",
        "boring, cold, not funny",
    ],
}
CHINESE = {
    "好": ["质量很好，喜欢", "物流快，很满意", "非常喜欢这本书", "东西不错，满意", "好看，喜欢"],
    "差": ["质量太差，失望", "物流慢，不满意", "非常讨厌这本书", "东西坏了，失望", "难看，讨厌"],
}


def split(corpus: dict[str, list[str]]) -> tuple[list[str], list[str]]:
    return [t for texts in corpus.values() for t in texts], [
        label for label, texts in corpus.items() for _ in texts
    ]


@pytest.mark.parametrize(
    ("corpus", "asked"),
    [
        (ENGLISH, ["a warm and wonderful film", "dull and boring!"]),
        (CHINESE, ["很喜欢，质量不错", "太失望了，讨厌"]),
    ],
    ids=["english", "chinese"],
)
def test_tf_idf_learns_from_words(corpus: dict[str, list[str]], asked: list[str]) -> None:
    texts, labels = split(corpus)
    model = TfIdf.fit(texts, labels)
    assert model.predict(asked) == list(corpus)
    found = model.probabilities(asked)
    np.testing.assert_allclose(found.sum(1), 1)
    assert [model.labels[i] for i in found.argmax(1)] == list(corpus)
    np.testing.assert_array_equal(found, TfIdf.fit(texts, labels).probabilities(asked))


def test_the_strength_is_chosen_on_dev_and_never_on_what_is_asked() -> None:
    texts, labels = split(ENGLISH)
    flipped = ["bad" if label == "good" else "good" for label in labels]
    assert TfIdf.fit(texts, labels).strength == 3.0
    assert TfIdf.fit(texts, labels, dev=(texts, labels), strengths=(1e-9, 10.0)).strength in (1e-9, 10.0)
    rare = [*texts[:5], *texts[5:7]], [*labels[:5], *labels[5:7]]  # too weak a model calls all of them good
    assert TfIdf.fit(*rare, dev=(texts, labels), strengths=(1e-9, 10.0)).strength == 10.0
    assert TfIdf.fit(*rare, dev=(texts[:5], labels[:5]), strengths=(1e-9, 10.0)).strength == 1e-9
    assert TfIdf.fit(texts, labels, dev=(texts, flipped), strengths=(5.0, 7.0)).strength == 5.0


def test_terms() -> None:
    assert english_terms("It's NOT good!") == ["it's", "not", "good", "!", "it's not", "not good", "good !"]
    words = chinese_terms("质量 很好")
    assert {"质量", ".质", ".好"} <= set(words) and " " not in words


def test_chinese_without_its_segmenter_is_read_by_characters(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rjieba", None)
    assert chinese_terms("很 好") == ["很", "好", "很 好"]
    assert TfIdf.fit(*split(CHINESE)).predict(["很喜欢，不错"]) == ["好"]


def test_the_commonest_label() -> None:
    assert Commonest.fit(["b", "a", "b", "a"]).predict(["x", "y"]) == ["a", "a"]
    assert Commonest.fit(["差", "好", "差"]).predict(["x"]) == ["差"]


def test_what_cannot_be_learned_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="two labels"):
        TfIdf.fit(["a film", "a book"], ["good", "good"])
    with pytest.raises(UserError, match="no words"):
        TfIdf.fit(["...", "---"], ["good", "bad"], language="en")
    with pytest.raises(ValueError, match="2 texts and 1 labels"):
        TfIdf.fit(["a", "b"], ["good"])
    with pytest.raises(UserError, match="none"):
        Commonest.fit([])
    monkeypatch.setitem(sys.modules, "sklearn.linear_model", None)
    with pytest.raises(UserError, match=r"plume-lm\[eval\]"):
        TfIdf.fit(["a", "b"], ["good", "bad"])
