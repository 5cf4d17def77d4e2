"""The kinds of tokenizers, by what they were trained on: WordPiece, byte-level BPE, Unigram, characters, words.

A configuration is a frozen dataclass; ``train`` makes a ``Tokenizer`` (``plume.text.tokenizing``) of texts.
Every kind has all special tokens (pad, unk, cls, sep, mask, bos, eos), so that every kind serves every objective;
``sentinels`` adds the marks that objectives with spans put in their place (T5 has 100, spec 18 section 3). They
are counted in ``vocab_size`` and come last, the first one at the very end, as T5 numbers them.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import tokenizers as library

from plume.errors import UserError
from plume.text.boundaries import codepoints
from plume.text.encoding import Array, Kind
from plume.text.numbering import Numbers
from plume.text.readers import clean, valid
from plume.text.spelling import INNER
from plume.text.splits import sample
from plume.text.tokenizing import AT_BLANKS
from plume.text.tokenizing import Encoding as Encoding
from plume.text.tokenizing import Tokenizer as Tokenizer
from plume.text.words import numbered
from plume.vocabulary import Vocabulary

_BRACKETS = {n: f"[{n.upper()}]" for n in ("pad", "unk", "cls", "sep", "mask", "bos", "eos")}
_ANGLES = {
    "bos": "<s>",
    "cls": "<s>",
    "pad": "<pad>",
    "eos": "</s>",
    "sep": "</s>",
    "unk": "<unk>",
    "mask": "<mask>",
}


class TokenizerConfig(Protocol):
    """A kind of tokenizer and its size. ``train`` reads the texts once and keeps an even sample of them."""

    def train(self, texts: Iterable[str]) -> Tokenizer: ...


@dataclass(frozen=True)
class WordPiece:
    """BERT's (spec 06 section 1). ``lowercase`` also strips accents. Merges by frequency, then ``##``."""

    vocab_size: int
    lowercase: bool = True
    sentinels: int = 0

    def __post_init__(self) -> None:
        _room(self.vocab_size, self.sentinels)

    def train(self, texts: Iterable[str]) -> Tokenizer:
        kept = _sample(texts, 100_000_000)
        inner = self._empty({})
        alphabet = self._alphabet(inner, kept)
        # The library numbers the characters inside words in no fixed order, and breaks ties by number; given
        # beforehand, as if they were special, they make training repeatable.
        inside = [f"##{c}" for c in alphabet if len(_cut(inner, f"a{c}a")) == 1]
        trainer = library.trainers.WordPieceTrainer(
            vocab_size=self.vocab_size - self.sentinels,
            special_tokens=[*_BRACKETS.values(), *inside],
            initial_alphabet=alphabet,
            limit_alphabet=len(alphabet),
            show_progress=False,
        )
        inner.train_from_iterator(kept, trainer, length=len(kept))
        final = self._empty(inner.get_vocab(with_added_tokens=True))
        final.add_special_tokens(list(_BRACKETS.values()))
        return _finish(final, "wordpiece", _BRACKETS, sentinels=self.sentinels)

    def _empty(self, vocabulary: dict[str, int]) -> library.Tokenizer:
        inner = library.Tokenizer(library.models.WordPiece(vocabulary, unk_token="[UNK]"))  # noqa: S106
        inner.normalizer = library.normalizers.BertNormalizer(lowercase=self.lowercase)
        inner.pre_tokenizer = library.pre_tokenizers.BertPreTokenizer()
        inner.decoder = library.decoders.WordPiece()
        return inner

    def _alphabet(self, inner: library.Tokenizer, texts: Sequence[str]) -> list[str]:
        """The characters that make up 99.99 % of the text as it is read; the others are noise."""
        raw = _count_characters(texts)
        counts: Counter[str] = Counter()
        for code in np.flatnonzero(raw).tolist():
            for piece in _cut(inner, chr(code)):
                for character in piece:
                    counts[character] += int(raw[code])
        ranked = sorted(counts, key=lambda c: (-counts[c], c))
        share = np.cumsum([counts[c] for c in ranked])
        enough = int(np.searchsorted(share, 0.9999 * share[-1])) + 1 if len(share) else 0
        return sorted(ranked[: min(enough, max(64, self.vocab_size * 3 // 4))])


@dataclass(frozen=True)
class ByteLevelBPE:
    """GPT-2's (spec 14 section 3): any string comes back exactly, nothing is unknown."""

    vocab_size: int
    sentinels: int = 0

    def __post_init__(self) -> None:
        _room(self.vocab_size, self.sentinels)

    def train(self, texts: Iterable[str]) -> Tokenizer:
        inner = library.Tokenizer(library.models.BPE())
        inner.pre_tokenizer = library.pre_tokenizers.ByteLevel(add_prefix_space=False)
        inner.decoder = library.decoders.ByteLevel()
        names = list(dict.fromkeys(_ANGLES.values()))
        if self.vocab_size - self.sentinels < 256 + len(names):
            raise UserError(
                f"a byte-level vocabulary has at least {256 + len(names) + self.sentinels} tokens, "
                f"not {self.vocab_size}"
            )
        trainer = library.trainers.BpeTrainer(
            vocab_size=self.vocab_size - self.sentinels,
            special_tokens=names,
            initial_alphabet=library.pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        kept = _sample(texts, 50_000_000)
        inner.train_from_iterator(kept, trainer, length=len(kept))
        return _finish(inner, "bpe", _ANGLES, sentinels=self.sentinels)


@dataclass(frozen=True)
class WordBPE:
    """GPT-1's (spec 13 section 3): small letters, words, and merges inside them; ``</w>`` ends a word.

    Every ideograph is a word, so that Chinese is read character by character; what the vocabulary lacks is unknown.
    """

    vocab_size: int

    def train(self, texts: Iterable[str]) -> Tokenizer:
        inner = word_bpe(library.models.BPE(unk_token="[UNK]", end_of_word_suffix="</w>"))  # noqa: S106
        kept = _sample(texts, 50_000_000)
        raw = _count_characters(kept)
        counts: Counter[str] = Counter()
        for code in np.flatnonzero(raw).tolist():
            for piece in _cut(inner, chr(code)):
                for character in piece:
                    counts[character] += int(raw[code])
        room = (self.vocab_size - len(_BRACKETS)) // 4  # each character stands inside words and at their end
        alphabet = sorted(sorted(counts, key=lambda c: (-counts[c], c))[:room])
        trainer = library.trainers.BpeTrainer(
            vocab_size=self.vocab_size,
            # As in WordPiece: given beforehand, as if they were special, they make training repeatable.
            special_tokens=[*_BRACKETS.values(), *(f"{c}</w>" for c in alphabet)],
            initial_alphabet=alphabet,
            limit_alphabet=room,
            end_of_word_suffix="</w>",
            show_progress=False,
        )
        inner.train_from_iterator(kept, trainer, length=len(kept))
        model = json.loads(inner.to_str())["model"]
        final = word_bpe(
            library.models.BPE(
                vocab=model["vocab"],
                merges=[tuple(pair) for pair in model["merges"]],
                unk_token="[UNK]",  # noqa: S106
                end_of_word_suffix="</w>",
            )
        )
        final.add_special_tokens(list(_BRACKETS.values()))
        return _finish(final, "bpe", _BRACKETS)


def word_bpe(model: library.models.BPE) -> library.Tokenizer:
    """GPT-1's way of cutting words round a model of merges, as ``transformers`` has it."""
    inner = library.Tokenizer(model)
    inner.normalizer = library.normalizers.BertNormalizer(lowercase=True)
    inner.pre_tokenizer = library.pre_tokenizers.BertPreTokenizer()
    inner.decoder = library.decoders.BPEDecoder(suffix="</w>")
    return inner


@dataclass(frozen=True)
class Unigram:
    """SentencePiece's unigram model. Its training is slow on text without blanks: it sees 4 M characters at most."""

    vocab_size: int
    sentinels: int = 0

    def __post_init__(self) -> None:
        _room(self.vocab_size, self.sentinels)

    def train(self, texts: Iterable[str]) -> Tokenizer:
        inner = library.Tokenizer(library.models.Unigram())
        # Chinese marks and newlines split too: without blanks a page would be one word. So do brackets, or
        # the model would find the piece "[MASK]" in a user's text.
        inner.pre_tokenizer = library.pre_tokenizers.Sequence(
            [
                library.pre_tokenizers.Metaspace(prepend_scheme="first"),
                library.pre_tokenizers.Split(library.Regex(r"[\n\[\]，。！？；：、…“”（）《》]"), "isolated"),
            ]
        )
        inner.decoder = library.decoders.Metaspace(prepend_scheme="first")
        trainer = library.trainers.UnigramTrainer(
            vocab_size=self.vocab_size - self.sentinels,
            special_tokens=list(_BRACKETS.values()),
            unk_token="[UNK]",  # noqa: S106
            show_progress=False,
        )
        kept = _sample(texts, 4_000_000)
        try:
            inner.train_from_iterator(kept, trainer, length=len(kept))
        except Exception as error:  # the library raises nothing more particular
            if "not large enough" not in str(error):
                raise
            characters = int(np.count_nonzero(_count_characters(kept)))
            raise UserError(
                f"a unigram vocabulary holds every character of its text: {self.vocab_size} tokens are too few for "
                f"{characters} different ones; set tokenizer.vocab_size to {2 * characters} or more"
            ) from None
        model = json.loads(inner.to_str())["model"]
        special = [(piece, float(score)) for piece, score in model["vocab"][: len(_BRACKETS)]]
        pieces = _ordered(dict(model["vocab"][len(_BRACKETS) :]))
        inner.model = library.models.Unigram([*special, *pieces], unk_id=model["unk_id"])
        return _finish(inner, "unigram", _BRACKETS, sentinels=self.sentinels)


@dataclass(frozen=True)
class Characters:
    """One token a character, the most frequent ones; the others are unknown."""

    vocab_size: int
    sentinels: int = 0

    def __post_init__(self) -> None:
        _room(self.vocab_size, self.sentinels)

    def train(self, texts: Iterable[str]) -> Tokenizer:
        counts = _count_characters(_sample(texts, 100_000_000))
        room = self.vocab_size - self.sentinels - len(_BRACKETS)
        if room < 1:
            raise UserError(f"a vocabulary of characters needs at least {len(_BRACKETS) + 1} tokens")
        order = np.argsort(-counts, kind="stable")[:room]
        names = [*_BRACKETS.values(), *(chr(c) for c in order.tolist() if counts[c])]
        inner = library.Tokenizer(
            library.models.WordLevel({n: i for i, n in enumerate(names)}, unk_token="[UNK]")  # noqa: S106
        )
        inner.pre_tokenizer = library.pre_tokenizers.Split(library.Regex(r"[\s\S]"), "isolated")
        inner.decoder = library.decoders.Fuse()
        inner.add_special_tokens(list(_BRACKETS.values()))
        return _finish(inner, "characters", _BRACKETS, sentinels=self.sentinels)


@dataclass(frozen=True)
class Words:
    """One token a word (``plume.text.words``; Chinese by rjieba), the more frequent first; the others are unknown.

    ``vocab_size`` at most, and none that occurs fewer than ``min_count`` times. Every word of the text is
    counted, and the vocabulary keeps the counts (spec 02 section E.1). ``spelled`` keeps the characters of unknown
    words, for models that read those (ELMo): single characters, written ``##c``, have ids of their own at the end.
    """

    vocab_size: int = 100_000
    min_count: int = 1
    lowercase: bool = True
    spelled: bool = False

    def train(self, texts: Iterable[str]) -> Tokenizer:
        room = self.vocab_size - len(_BRACKETS)
        if room < 1 or self.min_count < 1:
            raise UserError(
                f"a vocabulary of words needs at least {len(_BRACKETS) + 1} tokens and a min_count of 1, "
                f"not {self.vocab_size} and {self.min_count}"
            )
        counts = _count_words(texts, lowercase=self.lowercase)
        if not counts:
            raise UserError(
                "there is no text to train a tokenizer on: the data is empty, or its training part is"
            )
        kept = [w for w, n in counts.items() if n >= self.min_count and w not in _BRACKETS.values()]
        if not kept:
            raise UserError(
                f"no word of the text occurs {self.min_count} times: lower tokenizer.min_count, or bring more text"
            )
        alphabet = _alphabet(counts, room // 4) if self.spelled else []
        kept = sorted(kept, key=lambda w: (-counts[w], w))[: room - len(alphabet)]
        spelled = [f"{INNER}{c}" for c in alphabet]
        known = [counts[w] for w in kept] + [0] * len(spelled)
        return of_words([*kept, *spelled], known, lowercase=self.lowercase)


def of_words(words: Sequence[str], counts: Sequence[int], *, lowercase: bool) -> Tokenizer:
    """A tokenizer of these words, different ones and none a special token's name, behind the special tokens."""
    names = [*_BRACKETS.values(), *words]
    inner = library.Tokenizer(
        library.models.WordLevel({n: i for i, n in enumerate(names)}, unk_token="[UNK]")  # noqa: S106
    )
    inner.normalizer = library.normalizers.Lowercase() if lowercase else None
    inner.pre_tokenizer = library.pre_tokenizers.BertPreTokenizer()
    inner.add_special_tokens(list(_BRACKETS.values()))
    return _finish(inner, "words", _BRACKETS, (*[0] * len(_BRACKETS), *counts))


def _count_words(texts: Iterable[str], *, lowercase: bool) -> dict[str, int]:
    table, counts = Numbers(), np.zeros(0, np.int64)
    held: list[str] = []
    size = 0

    def count() -> Array:
        found = np.bincount(numbered(held, table, lowercase=lowercase), minlength=len(table))
        found[: len(counts)] += counts
        return found

    for text in texts:
        held.append(text if valid(text) else clean(text))
        size += len(text)
        if size > 2**20:
            counts = count()
            held, size = [], 0
    counts = count() if held else counts
    return dict(zip(table.names(), counts.tolist(), strict=True))


def _alphabet(words: Mapping[str, int], most: int) -> list[str]:
    """The characters of some words, the most frequent first."""
    counts: Counter[str] = Counter()
    for word, times in words.items():
        for character in word:
            counts[character] += times
    return sorted(counts, key=lambda c: (-counts[c], c))[:most]


def blank_separated(words: Sequence[str], *, unknown: str, begin: str, end: str) -> Tokenizer:
    """A tokenizer of given words, which are whatever stands between blanks: that of an n-gram model from a file."""
    roles = {"unk": unknown, "bos": begin, "eos": end}
    names = list(dict.fromkeys([*roles.values(), *words]))
    ids = {name: i for i, name in enumerate(names)}
    inner = library.Tokenizer(library.models.WordLevel(ids, unk_token=unknown))
    # Other blanks than these may stand inside a word of such a file (spec 01 section 5).
    inner.pre_tokenizer = library.pre_tokenizers.Split(library.Regex(AT_BLANKS), "removed")
    inner.add_special_tokens(list(roles.values()))
    vocabulary = Vocabulary(size=len(names), unk=ids[unknown], bos=ids[begin], eos=ids[end])
    return Tokenizer(inner, "words", vocabulary)


def _room(vocab_size: int, sentinels: int) -> None:
    if not 0 <= sentinels <= vocab_size // 2:
        raise ValueError(f"sentinels must lie between 0 and half of vocab_size={vocab_size}, got {sentinels}")


def _sample(texts: Iterable[str], characters: int) -> list[str]:
    kept = sample((t if t.isascii() or valid(t) else clean(t) for t in texts), characters)
    if not any(text and not text.isspace() for text in kept):
        raise UserError(
            "there is no text to train a tokenizer on: the data is empty, or its training part is"
        )
    return kept


def _count_characters(texts: Sequence[str]) -> Array:
    """How often each code point occurs, int64 [0x110000]."""
    counts = np.zeros(0x110000, np.int64)
    held: list[str] = []
    size = 0
    for number, text in enumerate(texts):
        held.append(text)
        size += len(text)
        if size > 2**22 or number == len(texts) - 1:
            values, times = np.unique(codepoints("".join(held)), return_counts=True)
            counts[values] += times
            held, size = [], 0
    return counts


def _ordered(scores: dict[str, float]) -> list[tuple[str, float]]:
    """Pieces and their log probabilities, without what chance left in them.

    The library sums in no fixed order (the last digits differ from run to run), and puts the characters that its
    pruning lost on top of the least likely piece, one every 0.0001, in no fixed order. Here they stand there in the
    order of their names.
    """
    least = min(scores.values(), default=0.0)
    characters = [piece for piece in scores if len(piece) == 1]
    lost = sorted(p for p in characters if scores[p] <= least + 1e-4 * (len(characters) + 1))
    fixed = {piece: round(score, 4) for piece, score in scores.items()}
    fixed |= {piece: round(least + 1e-4 * i, 4) for i, piece in enumerate(reversed(lost))}
    return sorted(fixed.items(), key=lambda item: (-item[1], item[0]))


def _cut(inner: library.Tokenizer, text: str) -> list[str]:
    """The words of ``text`` as the tokenizer sees them."""
    return [piece for piece, _ in inner.pre_tokenizer.pre_tokenize_str(inner.normalizer.normalize_str(text))]


def _finish(
    inner: library.Tokenizer,
    kind: Kind,
    names: dict[str, str],
    counts: tuple[int, ...] = (),
    *,
    sentinels: int = 0,
) -> Tokenizer:
    marks = [f"<extra_id_{n}>" for n in range(sentinels)]
    inner.add_special_tokens(marks[::-1])
    cls, sep = names["cls"], names["sep"]
    inner.post_processor = library.processors.TemplateProcessing(
        single=f"{cls} $A {sep}",
        pair=f"{cls} $A {sep} $B:1 {sep}:1",
        special_tokens=[(name, _id(inner, name)) for name in (cls, sep)],
    )
    ids = {role: _id(inner, name) for role, name in names.items()}
    return Tokenizer(
        inner,
        kind,
        Vocabulary(
            size=inner.get_vocab_size(with_added_tokens=True),
            pad=ids["pad"], bos=ids["bos"], eos=ids["eos"], unk=ids["unk"], cls=ids["cls"], sep=ids["sep"],
            mask=ids["mask"], sentinels=tuple(_id(inner, mark) for mark in marks), counts=counts,
        ),
    )  # fmt: skip


def _id(inner: library.Tokenizer, name: str) -> int:
    number = inner.token_to_id(name)
    assert number is not None, f"the trainer did not make {name}"
    return int(number)
