"""A picture says what is in the example: every slot, every answer, who sees whom; and nothing runs in it."""

from __future__ import annotations

from collections.abc import Sequence
from html.parser import HTMLParser
from io import StringIO

import numpy as np
import pytest
from rich.console import Console

import plume
from plume.drawing.html import fragment, page
from plume.drawing.phrases import Language, phrase
from plume.drawing.picture import Picture, picture
from plume.drawing.terminal import draw
from plume.slots import IGNORE, Array, Example, Slots
from plume.vocabulary import Vocabulary

VOCAB = Vocabulary(size=12, pad=0, cls=1, sep=2, mask=3, eos=4)
PIECES = ["[PAD]", "[CLS]", "[SEP]", "[MASK]", "</s>", "电", "影", "很", "好", "<b>&\"'", "film", "long"]


def pieces(ids: Sequence[int]) -> list[str]:
    return [PIECES[i] for i in ids]


def masked(language: Language = "zh") -> Picture:
    labels = np.full(7, IGNORE)
    labels[[1, 3, 4]] = [5, 7, 8]
    sentence = np.full(7, IGNORE)
    sentence[0] = 1
    slots = Slots.bidirectional(
        [1, 3, 6, 9, 8, 2, 2], labels={"masked_token": labels, "next_sentence": sentence}
    )
    return picture(Example(slots), pieces, VOCAB, title="bert:<tiny>", facts=["a & b"], language=language)


def causal() -> Picture:
    slots = Slots.causal([5, 6, 7], labels={"next_token": np.array([6, 7, 8])})
    return picture(Example(slots), pieces, VOCAB, title="gpt:tiny")


def test_the_states_of_masked_slots() -> None:
    [stack] = masked().stacks
    assert [slot.state for slot in stack.slots] == [
        "special", "hidden", "plain", "swapped", "kept", "special", "special",
    ]  # fmt: skip
    assert [dict(slot.answers) for slot in stack.slots][:5] == [
        {"next_sentence": "后段随机"}, {"masked_token": "电"}, {}, {"masked_token": "很"}, {"masked_token": "好"},
    ]  # fmt: skip
    assert stack.sees.all()


@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_words_count_what_is_there(language: Language) -> None:
    says = masked(language).says
    assert says[0] == phrase(language, "visible.bidirectional")
    assert says[1] == phrase(language, "head.masked_token", n=3, all=7, hidden=1, swapped=1, kept=1)
    assert phrase(language, "next_sentence.1") in says[2]


def test_patterns_are_read_off_the_ranks() -> None:
    def said(slots: Slots[Array]) -> str:
        return picture(Example(slots), pieces, VOCAB).says[0]

    ids = [5, 6, 7, 8]
    assert said(Slots.causal(ids)) == phrase("en", "visible.causal")
    backwards = np.arange(4)[::-1]
    assert said(Slots.bidirectional(ids, document_ids=np.array([0, 0, 1, 1]))) == phrase(
        "en", "visible.bidirectional"
    )
    right = Slots.causal(ids)
    from dataclasses import replace

    assert said(replace(right, visible_at=backwards, sees_until=backwards)) == phrase(
        "en", "visible.right-to-left"
    )
    assert said(Slots.prefix(ids, 2)) == phrase("en", "visible.prefix", n=2)
    uneven = replace(right, sees_until=np.array([1, 0, 2, 3]))
    assert said(uneven) == phrase("en", "visible.ranked", mean=2.5, all=4)  # 2 + 1 + 3 + 4 of 16
    query = Slots.permuted(ids, [1, 3, 0, 2], [3, 1], VOCAB.size)
    drawn = picture(Example(query), pieces, VOCAB)
    assert [slot.state for slot in drawn.stacks[0].slots][4:] == ["query", "query"]
    assert not drawn.stacks[0].sees[:, 4:].any(), "nobody sees a query slot"
    assert drawn.says[0] == phrase("en", "visible.permuted")
    # A query stands where its content stands in the order, and at its position.
    assert drawn.stacks[0].notes["order"] == ("2.", "4.", "1.", "3.", "3.", "4.")
    assert drawn.stacks[0].notes["position"] == ("0", "1", "2", "3", "3", "1")
    assert "in the order" in text_of(drawn, 80) and "<small>3.</small>" in fragment([drawn])


def test_two_stacks_are_two_parts() -> None:
    decoder = Slots.causal([4, 5], labels={"next_token": np.array([5, 4])})
    drawn = picture(Example(Slots.bidirectional([5, 6]), decoder), pieces, VOCAB)
    assert [stack.name for stack in drawn.stacks] == ["encoder", "decoder"]
    assert "encoder" in text_of(drawn, 80) and "decoder" in fragment([drawn])
    across = drawn.stacks[1].across
    assert across is not None and across.shape == (2, 2) and across.all()
    assert "Second stack: " + phrase("en", "visible.across") in drawn.says
    [first, second] = [line for line in text_of(drawn, 80).splitlines() if "■ ■ │ ■" in line]
    assert "■ ■ │ ■ · " in first and "■ ■ │ ■ ■ " in second
    assert fragment([drawn]).count("data-across='11'") == 2


def test_two_directions_see_nothing_of_one_another() -> None:
    """ELMo's: what would be a decoder's view of the encoder is not drawn, and the words say so."""
    made = Example(Slots.causal([1, 2, 3]), Slots.causal([3, 2, 1]))
    drawn = picture(made, lambda ids: [str(i) for i in ids], VOCAB, directions=True)
    assert [stack.name for stack in drawn.stacks] == ["forward", "backward"]
    assert all(stack.across is None for stack in drawn.stacks)
    assert not any("first stack" in said.lower() for said in drawn.says)
    assert any(
        stack.across is not None for stack in picture(made, lambda ids: [str(i) for i in ids], VOCAB).stacks
    )
    elmo, gpt3 = plume.show("elmo:tiny", slots=8), plume.show("gpt:gpt3_125m", slots=8)
    assert "see nothing of one another" in elmo.html() and "6 of 12 layers" in gpt3.html()


def test_a_second_stack_sees_its_own_document_of_the_first_alone() -> None:
    apart = np.array([0, 0, 1])
    decoder = Slots.causal([4, 5], document_ids=np.array([0, 1]))
    drawn = picture(Example(Slots.bidirectional([5, 6, 7], document_ids=apart), decoder), pieces, VOCAB)
    assert drawn.stacks[1].across is not None
    assert drawn.stacks[1].across.tolist() == [[True, True, False], [False, False, True]]
    assert drawn.stacks[1].notes["document"] == ("1", "2")


def test_a_slot_can_be_pointed_at() -> None:
    slots = Slots.causal([5, 6, 7], token_type_ids=np.array([0, 0, 1]))
    drawn = picture(Example(slots), pieces, VOCAB, marked=(0, 1))
    assert drawn.stacks[0].marked == {1} and drawn.stacks[0].notes["segment"] == ("A", "A", "B")
    assert fragment([drawn]).count("slot plain marked") == 1


def text_of(drawn: Picture | list[Picture], width: int) -> str:
    stream = StringIO()
    draw(drawn if isinstance(drawn, list) else [drawn], Console(file=stream, width=width))
    return stream.getvalue()


@pytest.mark.parametrize("width", [60, 80, 120])
def test_the_terminal_shows_every_slot_and_answer_within_its_width(width: int) -> None:
    from rich.cells import cell_len

    text = text_of(masked(), width)
    assert all(cell_len(line) <= width for line in text.splitlines())
    for word in (
        "?[MASK]",
        "≠<b>",
        "=好",
        "→电",
        "→很",
        "→后段随机",
        "谁看得见谁",
    ):
        assert word in text
    assert "".join(masked().says[0].split()) in "".join(text.replace("│", "").split())
    grid = [line for line in text.splitlines() if "■" in line and line.strip("│ ")[0].isdigit()]
    assert len(grid) == 7 and all(line.count("■") == 7 for line in grid)


def test_a_causal_grid_is_a_triangle() -> None:
    grid = [
        line for line in text_of(causal(), 80).splitlines() if "■" in line and line.strip("│ ")[0].isdigit()
    ]
    assert [line.count("■") for line in grid] == [1, 2, 3]


def test_two_pictures_stand_side_by_side_where_there_is_room() -> None:
    both = [causal(), masked()]
    wide, narrow = text_of(both, 160), text_of(both, 80)
    assert "gpt:tiny" in wide.splitlines()[0] and "bert:<tiny>" in wide.splitlines()[0]
    assert "bert:<tiny>" not in narrow.splitlines()[0] and "bert:<tiny>" in narrow


class Checked(HTMLParser):
    """Complains about tags that are not closed in order, and about anything fetched or run."""

    VOID = ("meta", "img", "br")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.words = ""
        self.feed(text)
        assert not self.open, f"left open: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag not in ("link", "iframe", "object"), tag
        assert not any(name.startswith("on") or name in ("src", "href") for name, _ in attrs), attrs
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not {"style", "script"} & set(self.open):
            self.words += data


@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_page_is_whole_and_needs_nothing_else(language: Language) -> None:
    drawn = [causal(), masked(language)]
    found = Checked(page(drawn, title="<t>", words="a & b", language=language))
    for word in (
        "<t>",
        "a & b",
        "bert:<tiny>",
        "<b>&\"'",
        "[MASK]",
        *drawn[1].says,
        phrase(language, "point"),
    ):
        assert word in found.words
    html = page(drawn, title="t", language=language)
    assert (
        "http" not in html
        and html.count("<td class='cell on'>") == 6 + 49
        and html.count("data-sees='") == 10
    )
    Checked(fragment(drawn))
    assert "<script" not in fragment(drawn), "a notebook runs nothing of ours"
    assert drawn[0]._repr_html_() == fragment(drawn[:1])


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("The film was long, but nobody left. We stayed for the music.", "en"),
        ("这部电影很长。可是没有人离开，我们都在听音乐。", "zh"),
        ("好", "zh"),
    ],
)
@pytest.mark.parametrize("recipe", ["gpt:tiny", "bert:tiny", "lstm:tiny"])
def test_a_text_of_ones_own(recipe: str, text: str, language: str) -> None:
    shown = plume.show(recipe, text=text)
    [picture] = shown.pictures
    assert picture.language == language
    drawn = "".join(slot.shown.strip("#␣") for slot in picture.stacks[0].slots)
    if len(text) > 5:
        hits = sum(character in drawn for character in set(text.lower()) if character.isalnum())
        assert hits > 0.5 * len({c for c in text.lower() if c.isalnum()})
    saved = shown.to_json()["pictures"][0]
    assert saved["recipe"] == recipe and len(saved["stacks"][0]["sees"]) == len(saved["stacks"][0]["slots"])


def test_two_draws_are_the_same_draw() -> None:
    assert plume.show("bert:tiny").html() == plume.show("bert:tiny").html()


@pytest.mark.parametrize("language", ["en", "zh"])
def test_words_are_shown_as_the_characters_they_are_read_by(language: Language) -> None:
    """And ELMo's two directions as two streams, neither of which sees the other."""
    [drawn] = plume.show("elmo:tiny", slots=12, language=language).pictures
    assert [stack.name for stack in drawn.stacks] == ["forward", "backward"]
    for stack in drawn.stacks:
        assert stack.across is None
        for slot, characters in zip(stack.slots, stack.notes["characters"], strict=True):
            spelled = characters.removeprefix("⟨ ").rpartition(" ⟩")[0].split()
            if not slot.shown.startswith("["):
                inside = "".join(x if len(x) == 1 else "".join(map(chr, bytes.fromhex(x))) for x in spelled)
                assert inside.encode("latin-1").decode() == slot.shown
    assert not any("first stack" in words or "第一个堆栈" in words for words in drawn.says)


def test_a_banded_layer_stands_beside_a_dense_one() -> None:
    [drawn] = plume.show("gpt:gpt3_125m", slots=16).pictures
    [stack] = drawn.stacks
    [(words, sees)] = stack.banded
    assert stack.sees.sum(1).tolist() == list(range(1, 17)) and "256" in words
    assert sees.sum(1).tolist() == [1, 2, 3, *[4] * 13] and not (sees & ~stack.sees).any()
    console = Console(width=120, file=StringIO())
    draw([drawn], console)
    assert words in console.file.getvalue() and fragment([drawn]).count("<table") == 2
    [plain] = plume.show("gpt:tiny", slots=16).pictures
    assert not plain.stacks[0].banded and fragment([plain]).count("<table") == 1


@pytest.mark.parametrize("language", ["en", "zh"])
def test_a_bag_of_neighbours_is_drawn_as_one(language: Language) -> None:
    [drawn] = plume.show("word2vec:cbow", slots=24, language=language).pictures
    [stack] = drawn.stacks
    bags = np.unique(stack.sees, axis=0)
    assert 8 <= len(stack.slots) <= 32 and bags.sum(1).max() > 2, (
        "words of a small text are known that come once"
    )
    assert len(bags) == sum(bool(slot.answers) for slot in stack.slots) < len(stack.slots)
    asked = phrase(language, "head.context_word.some", n=len(bags), all=len(stack.slots))
    assert asked in drawn.says


def test_a_drawing_of_pairs_says_from_which_words_and_against_which() -> None:
    language: Language = "en"
    [drawn] = plume.show("word2vec:tiny", slots=24, language=language).pictures
    [stack] = drawn.stacks
    assert 8 <= len(stack.slots) <= 32
    *_, noise, source = drawn.says
    read = source.removeprefix(phrase(language, "source", words="")).split()
    assert (
        {slot.shown for slot in stack.slots}
        == set(read)
        >= {a for s in stack.slots for a in s.answers.values()}
    )
    first = next(slot for slot in stack.slots if slot.answers)
    assert f"{first.answers['context_word']}" in noise


@pytest.mark.parametrize("language", ["en", "zh"])
@pytest.mark.parametrize("smoothing", ["kneser_ney", "laplace", "notes"])
def test_what_an_n_gram_model_says_of_each_word(language: Language, smoothing: str) -> None:
    shown = plume.show(f"ngram:{smoothing}", language=language)
    [drawn] = shown.pictures
    text, after = drawn.listings
    orders = [str(row[2]) for row in text.rows]
    assert {phrase(language, "counts.order", k=k) for k in (2, 3)} <= set(orders), "no back-off is seen"
    for before, _, told, *shares in text.rows:
        assert isinstance(before, str) and len(before.split()) <= 2
        met = [p for p in shares if p is not None]
        assert all(isinstance(p, float) and 0 < p <= 1 for p in met) and shares[: len(met)] == met
        assert any(told == phrase(language, "counts.order", k=k) for k in range(1, len(met) + 1))
    last = [float(row[-1]) for row in after.rows if row[-1] is not None]
    assert last == sorted(last, reverse=True) and sum(last) <= 1 + 1e-9
    assert shown.to_json()["pictures"][0]["listings"][0]["rows"][0][3] == text.rows[0][3]
    both = plume.show(f"ngram:{smoothing}", "gpt:tiny", language=language)
    for page_of, words, others in ((shown, "page.counted", "page"), (both, "page", "page.counted")):
        assert phrase(language, f"{words}.words") in page_of.html()
        assert phrase(language, f"{others}.words") not in page_of.html()


@pytest.mark.parametrize("language", ["en", "zh"])
def test_a_text_as_the_vector_of_its_terms(language: Language) -> None:
    own = {"en": "the cat and the dog the <b>", "zh": "老师和老师的钟，<b>"}[language]
    [drawn] = plume.show("tfidf:words", text=own, language=language).pictures
    terms, near = drawn.listings
    values = {str(row[0]): float(row[-1] or 0) for row in terms.rows}
    assert sum(value**2 for value in values.values()) == pytest.approx(1)
    often = {"en": ("the", "3"), "zh": ("老师", "2")}[language]
    assert often in [row[:2] for row in terms.rows] and all(0 <= float(row[1] or 0) <= 1 for row in near.rows)
    for drawing in (plume.show("tfidf:words", text=own, language=language).html(), fragment([drawn])):
        assert "<b>" not in drawing.replace("<b></b>", "") and "&lt;b&gt;" in drawing
        assert drawing.count("class='listing'") == 2 and "legend'" not in drawing.split("</style>")[1]
    console = Console(file=StringIO(), width=100)
    draw([drawn], console)
    printed = console.file.getvalue()  # type: ignore[attr-defined]
    assert often[0] in printed and "■" in printed
    # A bar is a share of the whole: how often a term occurs is none, nor is its idf, which may be 1.
    assert all([type(cell) for cell in row[3:]] == [str, float] for row in terms.rows)
    [counted] = plume.show("bow:words", text=own, language=language).pictures
    assert (*often, *counted.listings[0].rows[0][2:4], often[1]) == counted.listings[0].rows[0]
    with pytest.raises(plume.UserError, match="no known word"):
        plume.show("bow:words", text="?!")
