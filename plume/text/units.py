"""Phrases and entities: from a user's dictionary, or phrases found by how often words go together (spec 08).

A dictionary is a text file of one entry a line: the text, a tab, and ``phrase`` or ``entity``.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from plume.errors import UserError
from plume.text.boundaries import words
from plume.text.encoding import Array, Flat
from plume.text.marks import ENTITY, PHRASE, WORD
from plume.text.splits import sample

if TYPE_CHECKING:
    from plume.text.tokenizing import Tokenizer

KINDS = ("phrase", "entity")
CHARACTERS = 20_000_000  # of text that phrases are looked for in


@dataclass(frozen=True)
class Lexicon:
    """Texts that are one unit, of one word or several, sorted."""

    phrases: tuple[str, ...]
    entities: tuple[str, ...]

    @classmethod
    def read(cls, path: Path) -> Lexicon:
        """A dictionary file. Blank lines are nothing.

        Raises:
            UserError: it cannot be read, a line is broken (all of them are counted), or there is no entry.
        """
        found: dict[str, set[str]] = {kind: set() for kind in KINDS}
        broken: list[int] = []
        shown = ""
        try:
            lines = path.read_bytes().decode("utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(
                f"{path} cannot be read as a dictionary ({error}): it has an entry a line, in UTF-8, its text, a tab, "
                f"and 'phrase' or 'entity'"
            ) from None
        for number, line in enumerate(lines, 1):
            text, _, kind = line.partition("\t")
            if kind.strip() in KINDS and text.strip():
                found[kind.strip()].add(text.strip())
            elif line.strip():
                shown = shown or line
                broken.append(number)
        if broken:
            where = ", ".join(map(str, broken[:5])) + (
                f" and {len(broken) - 5} more" if len(broken) > 5 else ""
            )
            raise UserError(
                f"{path} line {where}: expected a text, a tab and 'phrase' or 'entity', found {shown[:60]!r}: mend "
                f"the file"
            )
        if not any(found.values()):
            raise UserError(f"{path} has no entry: one a line, a text, a tab and 'phrase' or 'entity'")
        return cls(tuple(sorted(found["phrase"])), tuple(sorted(found["entity"])))

    @classmethod
    def find(cls, texts: Iterable[str], *, min_count: int = 5, surplus: float = 3.0) -> Lexicon:
        """Pairs of words that stand together ``min_count`` times and e^surplus times as often as chance would have it.

        Ours (spec 08 section 5.1): the pointwise mutual information of neighbours, in nats.
        """
        single: Counter[str] = Counter()
        pairs: Counter[tuple[str, str, str]] = Counter()
        for text in sample(texts, CHARACTERS):
            before: tuple[int, int] | None = None
            for a, b in words(text):
                if not text[a:b].replace("'", "").isalnum():
                    before = None
                    continue
                single[text[a:b]] += 1
                if before is not None and text[before[1] : a] in ("", " "):
                    pairs[text[slice(*before)], text[before[1] : a], text[a:b]] += 1
                before = (a, b)
        total = sum(single.values())
        phrases = {
            f"{one}{gap}{other}"
            for (one, gap, other), count in pairs.items()
            if count >= min_count and math.log(count * total / (single[one] * single[other])) > surplus
        }
        return cls(tuple(sorted(phrases)), ())

    def save(self, path: Path) -> None:
        """Write what ``read`` reads."""
        rows = [
            (text, kind)
            for kind, texts in zip(KINDS, (self.phrases, self.entities), strict=True)
            for text in texts
        ]
        path.write_text("".join(f"{text}\t{kind}\n" for text, kind in rows), encoding="utf-8")

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the entries."""
        return hashlib.sha256(repr((self.phrases, self.entities)).encode()).hexdigest()


class Units:
    """A lexicon in the ids of one tokenizer: it marks where phrases and entities begin.

    An entry is looked for as the tokens that it becomes, alone and behind a blank, so that whatever the tokenizer does
    to a text (lower case, accents) it does to the entry too; entries of one token, or with an unknown one, are left
    out. A match never begins or ends inside a word.
    """

    def __init__(self, lexicon: Lexicon, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._phrases = self._entries(lexicon.phrases)
        self._entities = self._entries(lexicon.entities)

    def _entries(self, texts: tuple[str, ...]) -> frozenset[tuple[int, ...]]:
        spelled = [variant for text in texts for variant in (text, f" {text}")]
        unknown = self._tokenizer.vocabulary.unk
        entries = (tuple(e.ids.tolist()) for e in self._tokenizer.encode_batch(spelled))
        return frozenset(ids for ids in entries if len(ids) > 1 and unknown not in ids)

    def encode(self, texts: list[str]) -> Flat:
        """The texts' tokens, with words (Chinese ones by rjieba), phrases and entities marked.

        Outside of a phrase every word is a phrase; outside of an entity every phrase is an entity. A phrase that
        overlaps an entity gives way to it.
        """
        flat = self._tokenizer.encode_flat(texts, segment_words=True)
        whole = self._tokenizer.encode_flat(texts).marks & WORD != 0  # every ideograph begins a word here
        document = np.repeat(np.arange(len(flat.lengths)), flat.lengths)
        word = flat.marks & WORD != 0
        phrases = _spans(flat.ids, whole, document, self._phrases)
        entities = _spans(flat.ids, whole, document, self._entities)
        inside = np.zeros(len(flat.ids) + 1, bool)
        for a, b in entities:
            inside[a:b] = True
        alone = [(a, b) for a, b in phrases if not inside[a:b].any()]
        marks = flat.marks | np.where(_begins(word, phrases), PHRASE, 0).astype(np.uint8)
        marks |= np.where(_begins(_begins(word, alone), entities), ENTITY, 0).astype(np.uint8)
        return Flat(flat.ids, marks, flat.lengths)


def _begins(units: Array, spans: list[tuple[int, int]]) -> Array:
    """Where units begin, bool [N], once the spans are units of their own."""
    begins = np.append(units, True)
    for a, b in spans:
        begins[a : b + 1] = False
        begins[a] = begins[b] = True
    return begins[:-1]


def _spans(
    ids: Array, whole: Array, document: Array, entries: frozenset[tuple[int, ...]]
) -> list[tuple[int, int]]:
    """Where entries stand, from left to right, the longest at each place, none over another."""
    if not entries or len(ids) < 2:
        return []
    sizes = sorted({len(entry) for entry in entries}, reverse=True)
    size = int(ids.max()) + 1
    heads = np.unique([a * size + b for a, b, *_ in entries if max(a, b) < size])
    pairs = ids[:-1].astype(np.int64) * size + ids[1:]
    spans: list[tuple[int, int]] = []
    for a in np.flatnonzero(np.isin(pairs, heads) & whole[:-1]).tolist():
        if spans and a < spans[-1][1]:
            continue
        for length in sizes:
            b = a + length
            if b > len(ids) or document[a] != document[b - 1]:
                continue
            ends = b == len(ids) or document[b] != document[a] or whole[b]
            if ends and tuple(ids[a:b].tolist()) in entries:
                spans.append((a, b))
                break
    return spans
