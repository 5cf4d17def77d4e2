"""The lines beside a loss curve are what counting models need; the picture stands alone in both languages."""

import math
import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from plume.drawing import plotting
from plume.errors import UserError
from plume.models.ngrams import NGrams
from plume.models.smoothing import KneserNey
from plume.objectives.masked import MaskedLM
from plume.objectives.skipgram import SkipGram
from plume.text.store import Tokens
from plume.training import curve_figure
from plume.training.curve_figure import draw
from plume.training.curves import (
    Entropies,
    Point,
    crossings,
    curves,
    entropies,
    label_entropy,
    lines_of,
    own_labels,
)  # fmt: skip
from plume.vocabulary import Vocabulary
from tests.training import small

ENGLISH = [
    "the cat sat on the mat",
    "the dog sat on the log",
    "a cat saw the dog on the mat",
    "the dog ran",
] * 3
CHINESE = ["猫坐在垫子上", "狗坐在木头上", "一只猫看见了垫子上的狗", "狗跑了"] * 3
LINES = Entropies(9.01, 6.72, 5.24, 4.71, 4.42, 0.24, 8_000_000, 31_000_000, 400_000, 400_000)


def tokens(texts: list[str], letters: list[str], name: str = "train") -> Tokens:
    ids = [[letters.index(c) + 1 for c in text] for text in texts]
    documents = np.cumsum([0, *map(len, ids)])
    flat = np.array([i for part in ids for i in part], np.uint16)
    return Tokens(flat, np.zeros(len(flat), np.uint8), documents, sum(len(t.encode()) for t in texts), name)


@pytest.mark.parametrize("texts", [ENGLISH, CHINESE], ids=["english", "chinese"])
def test_each_line_is_what_that_model_needs_for_the_held_out_text(texts: list[str]) -> None:
    letters = sorted(set("".join(texts)))
    vocab = Vocabulary(size=len(letters) + 1, eos=0)
    train, held_out = tokens(texts, letters), tokens(texts[1:4], letters, "dev")
    found = entropies(train, held_out, vocab)
    assert found.uniform == math.log(vocab.size) > found.unigram > found.bigram > found.trigram
    documents = [[letters.index(c) + 1 for c in text] for text in texts]
    for name, order in {"unigram": 1, "bigram": 2, "trigram": 3, "kneser_ney5": 5}.items():
        model = NGrams.fit(documents, order, vocab.size, KneserNey((0.5, 1.0, 1.5)), eos=0)
        nats = np.concatenate([model.log_probs([*d, 0]) for d in documents[1:4]])
        assert found.lines()[name] == pytest.approx(-nats.mean(), abs=1e-12)
    num_bytes = sum(len(t.encode()) for t in texts[1:4])
    bits = found.trigram * len(nats) / math.log(2) / num_bytes
    assert found.bits_per_byte(found.trigram) == pytest.approx(bits)
    assert (found.counted, found.scored) == (found.train_tokens, found.heldout_tokens)


def test_a_model_that_is_never_asked_for_ends_is_compared_without_them() -> None:
    letters = sorted(set("".join(ENGLISH)))
    vocab = Vocabulary(size=len(letters) + 1, eos=0)
    train, held_out = tokens(ENGLISH, letters), tokens(ENGLISH[:3], letters)
    found = entropies(train, held_out, vocab, ends=False)
    model = NGrams.fit([train.ids], 1, vocab.size, KneserNey((0.5, 1.0, 1.5)))
    assert found.unigram == pytest.approx(-model.log_probs(held_out.ids).mean(), abs=1e-12)
    assert found.tokens_per_byte == 1  # a letter is a byte, and no end is asked about
    with_ends = entropies(train, held_out, vocab)
    assert with_ends.unigram != found.unigram
    assert with_ends.tokens_per_byte > 1


def test_a_long_text_is_sampled_by_whole_documents_and_says_so() -> None:
    letters = sorted(set("".join(ENGLISH)))
    vocab = Vocabulary(size=len(letters) + 1, eos=0)
    train = tokens(ENGLISH * 20, letters)
    found = entropies(train, train, vocab, max_counted=300, max_scored=100)
    assert found == entropies(train, train, vocab, max_counted=300, max_scored=100)
    assert (found.counted, found.scored) == (300, 100)
    assert (found.train_tokens, found.heldout_tokens) == (train.num_tokens, train.num_tokens)
    assert found.tokens_per_byte == entropies(train, train, vocab).tokens_per_byte


def test_no_text_is_one_sentence() -> None:
    nothing = Tokens(np.zeros(0, np.uint16), np.zeros(0, np.uint8), np.zeros(1, np.int64), 0, "dev")
    some = Tokens(np.ones(9, np.uint16), np.zeros(9, np.uint8), np.array([0, 9]), 9, "train")
    with pytest.raises(UserError, match="no held-out text"):
        entropies(some, nothing, Vocabulary(size=3, eos=0))


def test_label_entropy_is_the_cross_entropy_of_the_frequencies() -> None:
    assert label_entropy([0, 0, 0, 1] * 1000, [0, 0, 0, 1], 2) == pytest.approx(0.5623, abs=1e-3)
    assert label_entropy([0, 0], [1], 3) == pytest.approx(math.log(5))


def row(step: int, loss: float | None, split: str = "train", attempt: int = 1, **more: Any) -> dict[str, Any]:
    return {"step": step, "attempt": attempt, "split": split, "loss": loss, "losses": {"next_token": loss},
            "tokens": step * 100, "bytes": step * 400, **more}  # fmt: skip


def test_what_was_done_again_counts_once_and_skipped_steps_do_not() -> None:
    rows = [row(1, 5.0), row(2, 4.0), row(3, 9.0), row(2, 4.1, attempt=2), row(3, 3.0, attempt=2),
            row(3, 3.5, "dev"), row(4, 80.0, skipped="a spike"), row(5, None)]  # fmt: skip
    [curve] = curves(rows)
    assert [(p.step, p.loss) for p in curve.train] == [(1, 5.0), (2, 4.1), (3, 3.0)]
    assert [(p.step, p.tokens, p.bytes, p.loss) for p in curve.heldout] == [(3, 300, 1200, 3.5)]
    assert [p.step for p in curve.resumed] == [2]


def test_the_head_that_predicts_tokens_comes_first() -> None:
    rows = [{**row(1, 1.0), "losses": {"next_sentence": 0.7, "masked_token": 8.0}}]
    assert [c.head for c in curves(rows)] == ["masked_token", "next_sentence"]
    assert [c.head for c in curves([{"step": 1, "loss": 2.0}])] == ["loss"]


def test_crossings_lie_between_the_points_around_them() -> None:
    points = [
        Point(s, 10.0 * s, 40.0 * s, loss, 1)
        for s, loss in ((1, 9.5), (2, 7.0), (3, 6.0), (4, 6.9), (5, 5.0))
    ]
    found = {c.name: c for c in crossings(points, LINES.lines())}
    assert list(found) == ["uniform", "unigram", "bigram"]
    assert found["uniform"].step == pytest.approx(2 ** ((9.5 - 9.01) / 2.5))
    assert found["unigram"].tokens == pytest.approx(20 * 1.5**0.28)


def test_a_line_that_was_crossed_before_the_first_evaluation_counts_from_step_one() -> None:
    points = [Point(0, 0, 0, 9.5, 1), Point(64, 6400, 25600, 8.0, 1)]
    [found] = crossings(points, LINES.lines())
    assert found.step == pytest.approx(64 ** ((9.5 - 9.01) / 1.5))
    assert found.tokens == pytest.approx(100 * found.step)


def history(head: str = "next_token", floor: float = 3.9) -> list[dict[str, Any]]:
    def at(step: int, split: str) -> dict[str, Any]:
        loss = floor + 5.3 * math.exp(-step / 8) + 0.1 * math.sin(step)
        losses = {head: loss} | ({"next_sentence": 0.6} if head == "masked_token" else {})
        return {**row(step, loss, split, 1 if step < 30 else 2), "losses": losses}

    return [at(s, "train") for s in range(1, 51)] + [at(s, "dev") for s in (0, 10, 20, 40, 50)]


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A causal model's page in Chinese, a masked one's in English."""
    folder = tmp_path_factory.mktemp("pages")
    draw(history(), LINES, html=folder / "zh.html", title="<GPT> & 小", language="zh")
    labels = {"masked_token": 4.0, "next_sentence": 0.69}
    draw(
        history("masked_token", floor=4.5), LINES, html=folder / "en.html", title="<BERT> & 小", labels=labels
    )
    return {language: (folder / f"{language}.html").read_text(encoding="utf-8") for language in ("zh", "en")}


@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_page_stands_alone_in_both_languages(pages: dict[str, str], language: str) -> None:
    text = pages[language]
    words = curve_figure.WORDS[language]
    shown = {"heldout", "train", "how", "ours", "resumed", "tokens"}
    counting = {"unigram", "bigram", "trigram", "kneser_ney5"}
    shown |= {"guess", "left", "labels", "never"} if language == "en" else {"bits", "lower"} | counting
    assert not [name for name in shown if words[name] not in text]
    # A masked head's curve has no line of a model that counts the next token, and says why.
    assert language == "zh" or not [name for name in counting if words[name] in text]
    assert f'<html lang="{"en" if language == "en" else "zh-Hans"}">' in text
    name = "BERT" if language == "en" else "GPT"
    assert f"&lt;{name}&gt; &amp; 小" in text and f"<{name}>" not in text
    assert not re.search(r"<script|javascript:|\bon\w+=|@import|<link|<img|<metadata", text)
    outside = set(re.findall(r"https?://[^\s\"'<]+", text))
    assert outside <= {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}  # names, not addresses
    assert "prefers-color-scheme: dark" in text
    svg = text[text.index("<svg") : text.index("</svg>")]
    assert not set(plotting.ROLES) & set(
        re.findall(r"#[0-9a-f]{6}", svg)
    )  # all colours follow light and dark


def test_figures_of_one_page_share_no_ids(pages: dict[str, str]) -> None:
    ids = {language: set(re.findall(r'\bid="([^"]+)"', text)) for language, text in pages.items()}
    assert not ids["en"] & ids["zh"]
    for language, text in pages.items():
        used = {a or b for a, b in re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)', text)}
        assert used and used <= ids[language]


def test_equal_rows_give_an_equal_page(pages: dict[str, str], tmp_path: Path) -> None:
    draw(history(), LINES, html=tmp_path / "zh.html", title="<GPT> & 小", language="zh")
    assert (tmp_path / "zh.html").read_text(encoding="utf-8") == pages["zh"]


def test_a_picture_without_a_chinese_font_speaks_english(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plotting, "CHINESE_FONTS", ())
    draw([row(1, 5.0)], LINES, png=tmp_path / "en.png", language="en")
    draw([row(1, 5.0)], LINES, png=tmp_path / "zh.png", language="zh")
    assert (tmp_path / "en.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "zh.png").read_bytes() == (tmp_path / "en.png").read_bytes()


def test_a_run_that_says_nothing_yet_is_not_drawn(tmp_path: Path) -> None:
    draw([], LINES, png=tmp_path / "curve.png", html=tmp_path / "curve.html")
    assert not list(tmp_path.iterdir())
    draw([row(1, 5.0)], None, html=tmp_path / "curve.html")  # one point, no lines
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize(
    ("level", "says"),
    [
        (9.5, "above ln V"),
        (7.0, "which tokens are frequent"),
        (5.0, "more than one token"),
        (4.0, "5-gram included"),
    ],
)
def test_the_verdict_names_the_lines_around_the_loss(level: float, says: str) -> None:
    [curve] = curves([row(1, level, "dev")])
    assert says in " ".join(curve_figure.verdict(curve, LINES.lines()))


def test_the_verdict_sees_a_text_learnt_by_heart() -> None:
    rows = [row(s, 6 - s / 20) for s in range(1, 101)]
    rows += [row(s, loss, "dev") for s, loss in ((20, 5.2), (40, 4.6), (60, 4.7), (100, 5.0))]
    [curve] = curves(rows)
    assert "after step 40" in curve_figure.verdict(curve, LINES.lines())[-1]
    assert "第 40 步之后" in curve_figure.verdict(curve, LINES.lines(), "zh")[-1]
    [fine] = curves(rows[:-2])
    assert len(curve_figure.verdict(fine, LINES.lines())) == 1


def test_every_phrase_exists_in_both_languages() -> None:
    assert curve_figure.WORDS["en"].keys() == curve_figure.WORDS["zh"].keys()


def test_labels_keep_their_order_and_their_distance() -> None:
    for wanted in ([4.0, 4.1, 4.15, 9.0], [0.0, 0.0, 0.0], [3.9, 4.0], []):
        placed = plotting.place_labels(wanted, 0.3, 0.0, 4.0 if max(wanted, default=0) <= 4 else 9.0)
        ordered = sorted(placed)
        assert all(b - a >= 0.3 - 1e-9 for a, b in pairwise(ordered))
        assert all(p >= 0 for p in placed)
        assert [placed[i] for i in np.argsort(wanted, kind="stable")] == ordered


def test_each_heads_own_labels_have_an_entropy() -> None:
    recipe = small.RECIPES["masked"]
    train, held_out = small.tokens(6_000), small.tokens(1_500, seed=1)
    found = own_labels(recipe, train, held_out, small.VOCAB)
    assert "masked_token" in found
    # About as much as the tokens themselves, which are nearly uniform over 34 of 40.
    assert found["masked_token"] == pytest.approx(label_entropy(train.ids, held_out.ids, 40), abs=0.1)
    for head, nats in found.items():
        assert lines_of(head, LINES, found)["labels"] == nats
    assert lines_of("masked_token", LINES, found).keys() == {"uniform", "labels"}
    assert lines_of("next_token", LINES, found) == LINES.lines()


def test_telling_words_from_noise_is_not_compared_with_guessing_words(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert SkipGram(output="hierarchical").likelihoods
    monkeypatch.setattr(MaskedLM, "likelihoods", SkipGram().likelihoods)
    assert own_labels(small.RECIPES["masked"], small.tokens(6_000), small.tokens(1_500), small.VOCAB) == {}
