"""New vocabulary for an old tokenizer: what a domain writes often and the old pieces cut to bits.

Two neighbouring tokens of a word that stand together most often become one, again and again, as byte-pair encoding
does (Sennrich et al. 2016). What a tokenizer knew stays as it was: old ids keep their meaning, new ones come after.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from heapq import heapify, heappop, heappush
from itertools import pairwise
from math import log
from pathlib import Path
from typing import Any

import tokenizers as library

from plume.config import read
from plume.errors import UserError
from plume.text.readers import clean, valid
from plume.text.splits import sample
from plume.text.tokenizing import Tokenizer

SEEN = 20_000_000  # characters of text that are looked at
RARE = 2  # what occurs less often gets no piece of its own
FILE = "extends.json"
Pair = tuple[int, int]


@dataclass(frozen=True)
class Extension:
    """What a grown tokenizer has come from: the old one's fingerprint and size, and for each new id (from ``size``
    on) the old ids that its text used to become.
    """

    fingerprint: str
    size: int
    pieces: tuple[tuple[int, ...], ...]

    def save(self, folder: Path) -> None:
        """Write it beside the tokenizer."""
        tree = {"from": self.fingerprint, "size": self.size, "pieces": self.pieces}
        (folder / FILE).write_text(json.dumps(tree) + "\n", encoding="utf-8")

    @staticmethod
    def load(folder: Path) -> Extension | None:
        """What ``save`` wrote; None where this tokenizer extends no other.

        Raises:
            UserError: the file is damaged.
        """
        path = folder / FILE
        if not path.is_file():
            return None
        tree = read(path)
        try:
            size, pieces = int(tree["size"]), tuple(tuple(int(i) for i in row) for row in tree["pieces"])
            if any(not row or not all(0 <= i < size for i in row) for row in pieces):
                raise ValueError("a new piece is made of ids that the old tokenizer does not have")
            return Extension(str(tree["from"]), size, pieces)
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"{path} is damaged ({error}): extend the tokenizer again") from None


def extend(tokenizer: Tokenizer, texts: Iterable[str], count: int) -> tuple[Tokenizer, Extension]:
    """The tokenizer with up to ``count`` new pieces, those that save most tokens on ``texts``.

    Raises:
        UserError: there is no text, nothing to add, or the kind of tokenizer cannot grow.
    """
    if tokenizer.kind not in ("wordpiece", "bpe", "unigram", "characters"):
        raise UserError(f"a tokenizer of {tokenizer.kind} cannot be extended: train a new one")
    if count < 1:
        raise UserError(
            f"--vocab-size must be more than the {tokenizer.vocabulary.size} tokens there are already"
        )
    settings = json.loads(tokenizer._inner.to_str())
    kept = sample((t if t.isascii() or valid(t) else clean(t) for t in texts), SEEN)
    words, unknown = _words(tokenizer, kept)
    if not words and not unknown:
        raise UserError(
            "there is no text to extend the tokenizer with: the data is empty, or its training part is"
        )
    names = {number: piece for piece, number in tokenizer._inner.get_vocab(with_added_tokens=True).items()}
    size = tokenizer.vocabulary.size
    grown = _Grown(names, size)
    for character, times in unknown.most_common(count):
        if times >= RARE and tokenizer.vocabulary.unk is not None:
            grown.add(character, (tokenizer.vocabulary.unk,), times)
    if tokenizer.kind != "characters":
        continuing = settings["model"].get("continuing_subword_prefix") or ""
        _merge(words, grown, count, continuing, tokenizer.vocabulary.special)
    if not grown.pieces:
        raise UserError(
            f"the old tokenizer has a piece for all that occurs {RARE} times: there is nothing to add"
        )
    inner = _rebuilt(settings, grown, sum(len(word) * times for word, times in words.items()))
    vocabulary = replace(tokenizer.vocabulary, size=size + len(grown.pieces), counts=())
    new = Tokenizer(inner, tokenizer.kind, vocabulary)
    return new, Extension(tokenizer.fingerprint, size, tuple(tuple(p) for p in grown.pieces))


class _Grown:
    """The new pieces: their names, the old ids that each is made of, how often each occurs, and BPE's merges."""

    def __init__(self, names: dict[int, str], size: int) -> None:
        self.names, self.size = names, size
        self.known = set(names.values())
        self.pieces: list[tuple[int, ...]] = []
        self.added: list[tuple[str, int]] = []
        self.merges: list[tuple[str, str]] = []

    def old(self, number: int) -> tuple[int, ...]:
        """The old ids of a piece, new or old."""
        return self.pieces[number - self.size] if number >= self.size else (number,)

    def add(self, name: str, old: tuple[int, ...], times: int) -> int:
        number = self.size + len(self.pieces)
        self.names[number] = name
        self.known.add(name)
        self.pieces.append(old)
        self.added.append((name, times))
        return number


def _words(tokenizer: Tokenizer, texts: Sequence[str]) -> tuple[Counter[tuple[int, ...]], Counter[str]]:
    """How often each word occurs, as the ids it becomes; and single characters that become the unknown token."""
    unk = tokenizer.vocabulary.unk
    words: Counter[tuple[int, ...]] = Counter()
    unknown: Counter[str] = Counter()
    for at in range(0, len(texts), 256):
        part = list(texts[at : at + 256])
        for text, encoded in zip(
            part, tokenizer._inner.encode_batch(part, add_special_tokens=False), strict=True
        ):
            word: list[int] = []
            last = None
            for number, of, (start, end) in zip(encoded.ids, encoded.word_ids, encoded.offsets, strict=True):
                if of != last and word:
                    words[tuple(word)] += 1
                    word = []
                last = of
                if number != unk:
                    word.append(number)
                elif end - start == 1:
                    unknown[_normal(tokenizer, text[start:end])] += 1
            if word:
                words[tuple(word)] += 1
    return words, unknown


def _normal(tokenizer: Tokenizer, character: str) -> str:
    normalizer = tokenizer._inner.normalizer
    return character if normalizer is None else str(normalizer.normalize_str(character)).strip() or character


def _merge(
    words: Counter[tuple[int, ...]], grown: _Grown, count: int, continuing: str, special: frozenset[int]
) -> None:
    """Join the most frequent pair of neighbours inside words until there are ``count`` new pieces."""
    spelled = [(list(word), times) for word, times in sorted(words.items()) if len(word) > 1]
    pairs: Counter[Pair] = Counter()
    where: defaultdict[Pair, set[int]] = defaultdict(set)
    for number, (word, times) in enumerate(spelled):
        for pair in pairwise(word):
            pairs[pair] += times
            where[pair].add(number)
    heap = [(-times, pair) for pair, times in pairs.items()]
    heapify(heap)
    while len(grown.pieces) < count and heap:
        less, pair = heappop(heap)
        times = -less
        if pairs.get(pair) != times:  # it was counted anew, and stands there a second time
            continue
        del pairs[pair]
        if times < RARE:
            return
        left, right = grown.names[pair[0]], grown.names[pair[1]]
        name = left + right.removeprefix(continuing)
        if name in grown.known or special & set(pair):
            continue
        new = grown.add(name, (*grown.old(pair[0]), *grown.old(pair[1])), times)
        grown.merges.append((left, right))
        changed: set[Pair] = set()
        for number in where.pop(pair):
            word, often = spelled[number]
            for neighbours in pairwise(word):
                if neighbours != pair:
                    pairs[neighbours] -= often
                    changed.add(neighbours)
            joined: list[int] = []
            for token in word:
                if joined and (joined[-1], token) == pair:
                    joined[-1] = new
                else:
                    joined.append(token)
            word[:] = joined
            for neighbours in pairwise(word):
                if neighbours != pair:
                    pairs[neighbours] += often
                    where[neighbours].add(number)
                    changed.add(neighbours)
        for neighbours in changed:
            if pairs[neighbours] > 0:
                heappush(heap, (-pairs[neighbours], neighbours))
            else:
                del pairs[neighbours]


def _rebuilt(settings: dict[str, Any], grown: _Grown, total: int) -> library.Tokenizer:
    """The library's tokenizer with the new pieces in its model."""
    model = settings["model"]
    if model["type"] == "Unigram":
        last = min(score for _, score in model["vocab"])
        # A piece's id is its place: names that only added tokens have hold theirs.
        model["vocab"] += [
            [grown.names.get(n, f"<unused{n}>"), last - 10] for n in range(len(model["vocab"]), grown.size)
        ]
        model["vocab"] += [[name, max(last, log(times / max(total, 1)))] for name, times in grown.added]
    else:
        # Ids that only added tokens have stand between the model's own and the new ones.
        model["vocab"] |= {name: grown.size + n for n, (name, _) in enumerate(grown.added)}
    if model["type"] == "BPE":
        one = model["merges"][0] if model["merges"] else []
        model["merges"] += [f"{a} {b}" if isinstance(one, str) else [a, b] for a, b in grown.merges]
    return library.Tokenizer.from_str(json.dumps(settings, ensure_ascii=False))
