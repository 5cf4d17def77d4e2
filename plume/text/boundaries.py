"""Where words and sentences begin, in English and in Chinese.

Spans are (start, end) in characters. Sentences follow spec 24 section 5 (。！？… with closing quotes), and for
Latin scripts a full stop that is followed by a blank and no small letter, abbreviations apart.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from functools import cache
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]

SPACE, LETTER, IDEOGRAPH, SYMBOL, JOINER = range(5)  # classes of characters; a joiner never begins a word

# The ideographs of BERT (spec 06 section 1) and kana: what is written without blanks between words.
IDEOGRAPHS = (
    (0x4E00, 0x9FFF), (0x3400, 0x4DBF), (0x20000, 0x2A6DF), (0x2A700, 0x2B73F), (0x2B740, 0x2B81F),
    (0x2B820, 0x2CEAF), (0xF900, 0xFAFF), (0x2F800, 0x2FA1F),
)  # fmt: skip
KANA = ((0x3041, 0x30FF), (0x31F0, 0x31FF), (0xFF66, 0xFF9D))

_ENDS = "。！？｡．…!?."
_CLOSERS = "”’」』）)\\]】》〉\"'"
_END = re.compile(rf"\n\s*|([{_ENDS}]+)[{_CLOSERS}]*(\s*)")
_STRONG = re.compile("[。！？｡]")
_PLAIN, _UNCLEAR, _STOP, _DOTS, _SURE, _NEWLINE = range(6)  # the last four can end a sentence
_BEFORE_STOP = re.compile(r"(?:^|[^\w.])([\w.]{1,12})$")
_ABBREVIATIONS = frozenset(
    re.findall(
        r"\S+",
        "mr mrs ms dr prof st jr sr vs etc e.g i.e cf al fig no vol pp ed eds inc ltd co corp dept gen col sgt capt "
        "lt rev hon jan feb mar apr jun jul aug sep sept oct nov dec approx est",
    )
)
_WORD = re.compile(r"[^\W_]+(?:['’\-][^\W_]+)*|[^\s]", re.UNICODE)


def codepoints(text: str) -> Array:
    """The characters of ``text`` as uint32 [T]."""
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)


@cache
def character_classes() -> Array:
    """The class of every code point, uint8 [0x110000]: SPACE, LETTER, IDEOGRAPH, SYMBOL or JOINER."""
    table = np.full(0x110000, SYMBOL, np.uint8)
    for c in range(0x10000):
        category = unicodedata.category(chr(c))
        if category[0] in "LN":
            table[c] = LETTER
        elif category[0] == "Z" or chr(c).isspace():
            table[c] = SPACE
        elif category[0] == "M" or category in ("Cf", "Cc", "Cs"):
            table[c] = JOINER
    table[0x10000:0x1F000] = LETTER  # ancient scripts, mathematical letters
    table[0x1F3FB:0x1F400] = JOINER  # skin tones
    table[0xE0000:0xE0200] = JOINER  # tags, variation selectors
    for first, last in IDEOGRAPHS + KANA:
        table[first : last + 1] = IDEOGRAPH
    return table


def word_starts(characters: Array, *, segmented: Array | None = None) -> Array:
    """bool [T]: whether a word begins at each character (uint32 [T]).

    A word begins where the class changes, at every symbol and at every ideograph; with ``segmented`` (bool
    [T]) ideographs begin words only where it says so. Blanks begin nothing.
    """
    kind = character_classes()[characters]
    begins = np.ones(len(kind), bool)
    # A joiner is of the class of what it is joined to; looking back over one of them is near enough.
    begins[1:] = (kind[1:] != kind[:-1]) & (kind[:-1] != JOINER)
    begins |= kind == SYMBOL
    if segmented is None:
        begins |= kind == IDEOGRAPH
    else:
        inside = kind == IDEOGRAPH
        begins[inside] = segmented[inside]
    begins &= (kind != SPACE) & (kind != JOINER)
    return begins


def segment(text: str) -> Array:
    """bool [T]: where the words of a Chinese text begin, by rjieba."""
    import rjieba  # 5 MB of dictionary: only who asks for words pays for it

    begins = np.zeros(len(text) + 1, bool)
    lengths = np.fromiter(map(len, rjieba.cut(text)), np.int64)
    begins[0] = True
    begins[np.cumsum(lengths)] = True
    return begins[:-1]


def words(text: str) -> list[tuple[int, int]]:
    """The words of ``text``; symbols are words of their own, Chinese is segmented by rjieba.

    >>> [("I'm 25, 我们喜欢北京。")[a:b] for a, b in words("I'm 25, 我们喜欢北京。")]
    ["I'm", '25', ',', '我们', '喜欢', '北京', '。']
    """
    spans: list[tuple[int, int]] = []
    kinds = character_classes()[codepoints(text)]
    if not (kinds == IDEOGRAPH).any():
        return [m.span() for m in _WORD.finditer(text)]
    cuts = segment(text)
    edge = np.flatnonzero(np.diff(kinds == IDEOGRAPH, prepend=False, append=False))
    at = 0
    for first, end in (*zip(edge[::2].tolist(), edge[1::2].tolist(), strict=True), (len(text), len(text))):
        spans += [m.span() for m in _WORD.finditer(text, at, first)]
        starts = [first, *(i for i in range(first + 1, end) if cuts[i])] if end > first else []
        spans += zip(starts, [*starts[1:], end], strict=True) if starts else []
        at = end
    return spans


def sentence_starts(text: str, characters: Array | None = None) -> Array:
    """Where the second and later sentences of ``text`` begin, int64 [S], ascending.

    A newline ends a sentence, unless a small letter goes on after it: then the line was only wrapped.
    ``characters`` are the text's code points where the caller has them already.
    """
    if characters is None:
        characters = codepoints(text)
    if len(characters) < 2:
        return np.zeros(0, np.int64)
    role = _roles()[characters]
    at = np.flatnonzero(role[:-1] >= _STOP)
    here, following = role[at], role[at + 1]
    # Nearly every case is decided by the next character alone; Python looks only at the others.
    plain = following == _PLAIN
    sure = plain & ((here == _SURE) | (here == _NEWLINE))
    unsure = at[~plain | (here == _DOTS)].tolist()
    return np.unique(np.concatenate([at[sure] + 1, np.fromiter(_look(text, unsure), np.int64)]))


def sentences(text: str) -> list[tuple[int, int]]:
    """The sentences of ``text``, without the blanks around them.

    >>> text = "Dr. Li paid 3.50. 他说：“好！”然后走了。"
    >>> [text[a:b] for a, b in sentences(text)]
    ['Dr. Li paid 3.50.', '他说：“好！”', '然后走了。']
    """
    spans = []
    cuts = sentence_starts(text).tolist()
    for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True):
        piece = text[start:end]
        if stripped := piece.strip():
            first = start + len(piece) - len(piece.lstrip())
            spans.append((first, first + len(stripped)))
    return spans


def _look(text: str, candidates: list[int]) -> Iterator[int]:
    done = 0
    for candidate in candidates:
        if candidate < done:
            continue  # inside the ending looked at before
        match = _END.match(text, candidate)
        assert match is not None
        stop, after = match[1], match.end()
        done = after
        if after >= len(text):
            return
        following = text[after]
        wide = following > "\u2e80"  # Chinese, and all its punctuation
        if stop is not None and _STRONG.search(stop):
            if not _joins(following):
                yield after
        elif stop is not None and not match[2]:
            # No blank after it: "3.14", "example.com"; but 真的吗?是的 and 他……走了.
            if wide and stop[-1] in "!?…" and not _joins(following):
                yield after
        elif not (following.islower() or _joins(following)) and not (
            stop == "." and "\n" not in match[2] and _abbreviation(text, candidate)
        ):
            yield after


def _abbreviation(text: str, stop: int) -> bool:
    before = _BEFORE_STOP.search(text[max(0, stop - 14) : stop])
    if before is None:
        return False
    word = before[1]
    return (
        word.lower() in _ABBREVIATIONS
        or (len(word) == 1 and word.isupper())
        or (len(word) > 2 and word[-2] == ".")
    )


@cache
def _roles() -> Array:
    """What each code point means for the end of a sentence, uint8 [0x110000]."""
    table = np.full(0x110000, _PLAIN, np.uint8)
    kind = character_classes()
    # What may stand between an end and the next sentence, or makes the case unclear: the slower look.
    table[(kind == SPACE) | (kind == JOINER)] = _UNCLEAR
    table[[ord(c) for c in _CLOSERS.replace("\\", "")]] = _UNCLEAR
    for c in range(0x2E80):
        if chr(c).islower():
            table[c] = _UNCLEAR
    table[[ord(c) for c in ".．"]] = _STOP
    table[[ord(c) for c in "!?…"]] = _DOTS
    table[[ord(c) for c in "。！？｡"]] = _SURE
    table[ord("\n")] = _NEWLINE
    return table


def _joins(character: str) -> bool:
    return character > "\u02ff" and unicodedata.category(character)[0] == "M"
