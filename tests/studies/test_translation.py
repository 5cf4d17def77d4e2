"""The benchmark's pairs: what a page shows, in two languages, and nothing that is in both parts."""

from __future__ import annotations

from pathlib import Path

from benchmarks.translation import aligned, distinct

PAGES = {
    "en-US": [
        'Press <span hidden="true" id="MAC1" class="MAC">Command</span><span hidden="true" id="default1">Ctrl</span>'
        '<span class="keycode">+F</span> to open<br>page 1 &amp; find.',
        "Press Ctrl+F to open page 2 &amp; find!",
        "Another way to find a page again.",
        "Not translated yet.",
    ],
    "zh-CN": ["按 Ctrl+F 打开第 1 页。", "再按一次。", "按 Ctrl+F 打开第 3 页。", "Not translated yet."],
}


def test_a_page_becomes_pairs_of_which_none_is_like_another(tmp_path: Path) -> None:
    for language, paragraphs in PAGES.items():
        folder = tmp_path / "help" / language / "text"
        folder.mkdir(parents=True)
        body = "".join(f'<p id="par_{i}" class="paragraph">{text}</p>' for i, text in enumerate(paragraphs))
        (folder / "a.html").write_text(f'<html><h1 id="h">{language}</h1>{body}<p>no id</p></html>', "utf-8")
    pairs = aligned(tmp_path)
    assert pairs[0] == ("en-US", "zh-CN") and len(pairs) == 5
    assert pairs[1] == ("Press Ctrl+F to open page 1 & find.", "按 Ctrl+F 打开第 1 页。")
    # The second has the first one's source, the third the first one's target, but for figures; the last is English.
    assert distinct(pairs) == [{"en": pairs[1][0], "zh": pairs[1][1]}]
