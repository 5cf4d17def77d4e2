"""A report is one file that shows every text as text, in two languages."""

import re
from html.parser import HTMLParser

import numpy as np
import pytest

from plume.evaluation import report
from plume.evaluation.metrics import Estimate, classification, confusion
from plume.evaluation.scorer import Perplexity

EVIL = "<script>alert('x')</script> & \"猫\" <img src=http://a.b onerror=x>"


class Seen(HTMLParser):
    """Tags, and the text between them."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.open: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def seen(html: str) -> Seen:
    parser = Seen()
    parser.feed(html)
    parser.close()
    assert not parser.open
    return parser


def everything(language: report.Language) -> list[report.Html]:
    gold, predicted = [0, 1, 1, 0, 1, 1], [0, 1, 0, 0, 1, 1]
    found, confused = classification(gold, predicted, draws=50), confusion(gold, predicted)
    return [
        report.heading(EVIL), report.paragraph(EVIL), report.paragraph(EVIL, quiet=True),
        report.table([EVIL, "n"], [[EVIL, "1"], ["x", report.with_interval(Estimate(0.5, 0.1, 0.4, 0.6))]], own=[0]),
        report.samples([(EVIL, EVIL, EVIL)]), report.commands([EVIL, "plume show bert:tiny"]),
        report.figure("<svg></svg>", EVIL),
        report.classification(found, confused, [EVIL, "好"], language),
        report.perplexity(Perplexity(120, 40, 20, 100, 60, pseudo=True), language),
    ]  # fmt: skip


@pytest.mark.parametrize("language", ["en", "zh"])
def test_whatever_a_text_holds_it_is_shown_and_does_nothing(language: report.Language) -> None:
    page = report.page(EVIL, everything(language), language)
    found = seen(page)
    assert not {"script", "img", "link", "iframe", "object"} & set(found.tags)
    assert found.text.count(EVIL) == 14  # each of them, whole
    assert "default-src 'none'" in page
    assert report.page(EVIL, everything(language), language) == page


@pytest.mark.parametrize(
    ("language", "words"), [("en", ["macro F1", "Pseudo-perplexity"]), ("zh", ["宏平均 F1", "伪困惑度"])]
)
def test_a_report_speaks_two_languages(language: report.Language, words: list[str]) -> None:
    text = seen(report.page("", everything(language), language)).text
    assert all(word in text for word in words)
    assert f'lang="{"en" if language == "en" else "zh-Hans"}"' in report.page("", [], language)
    assert report.WORDS["en"].keys() == report.WORDS["zh"].keys()


def test_numbers_are_those_that_were_given() -> None:
    text = seen(report.perplexity(Perplexity(120, 40, 20, 100, 60))).text
    assert all(number in text for number in ("403.429", "3.3201", "1.7312", "20.086"))
    assert "seudo" not in text
    gold, predicted = np.array([0, 0, 1, 1]), np.array([0, 1, 1, 1])
    html = report.classification(
        classification(gold, predicted, draws=50), confusion(gold, predicted), ["a", "b"]
    )
    assert re.search(r"accuracy</td><td>75\.0 % <small>30\.1–95\.4</small>", html)
    assert "<td>a</td><td>1</td><td>1</td>" in html and "<td>b</td><td>0</td><td>2</td>" in html


def test_a_row_that_does_not_fit_its_header_is_refused() -> None:
    with pytest.raises(ValueError, match="3 cells under a header of 2"):
        report.table(["a", "b"], [["1", "2", "3"]])
