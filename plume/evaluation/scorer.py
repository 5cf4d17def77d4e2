"""Likelihoods and perplexities of texts, for every family that has a head for tokens (spec 14 section 6, 15 section 3).

What a model can be asked is in ``answerers``; here is how a text is cut into such questions, and what the
answers add up to.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from plume.errors import UserError
from plume.evaluation.answerers import Answer, Answerer, Ints, Question

if TYPE_CHECKING:
    from plume.slots import Array

Mode = Literal["rolling", "stride", "disjoint"]


class Span(NamedTuple):
    """One window over a text of n tokens: it reads up to token ``end`` and scores the last ``scored`` of them.

    Token i's context begins at token ``start`` - 1, where -1 is the prefix token that stands before the text;
    ``fresh``: the prefix takes the place of what stands there (disjoint windows).
    """

    start: int
    end: int
    scored: int
    fresh: bool = False


def spans(
    num_tokens: int, window: int, mode: Mode = "rolling", *, stride: int | None = None, context: int = 1
) -> list[Span]:
    """The windows of ``window`` slots in which each of ``num_tokens`` tokens is scored exactly once.

    ``disjoint``: blocks with no context from before (an upper bound). ``stride``: a window every ``stride``
    tokens (default: half a window), scoring what was not scored before. ``rolling``: the rule of the lm-eval
    harness, where each window scores up to ``window - context + 1`` new tokens and the last one is
    right-aligned; its default ``context=1`` is the cheapest, larger ones give more context.

    >>> [(s.start, s.end, s.scored) for s in spans(10, 4)]
    [(0, 4, 4), (4, 8, 4), (6, 10, 2)]

    Raises:
        ValueError: ``stride`` or ``context`` does not lie between 1 and ``window``.
    """
    step = {"rolling": window - context + 1, "stride": stride or max(1, window // 2), "disjoint": window}[
        mode
    ]
    if not 1 <= step <= window or context < 1:
        raise ValueError(
            f"stride and context lie between 1 and the window of {window}, got {stride}, {context}"
        )
    found: list[Span] = []
    done = 0
    while done < num_tokens:
        if mode == "stride":
            start = len(found) * step
            end = min(start + window, num_tokens)
        else:
            end = min(done + (window if done == 0 else step), num_tokens)
            start = done if mode == "disjoint" else max(0, end - window)
        found.append(Span(start, end, end - done, fresh=mode == "disjoint"))
        done = end
    return found


@dataclass(frozen=True, slots=True)
class Likelihood:
    """log p of some tokens in nats; ``greedy``: each of them was the model's first choice."""

    log_prob: float
    greedy: bool
    num_tokens: int


@dataclass(frozen=True, slots=True)
class Perplexity:
    """The negative log-likelihood of texts, in nats, and what it can be divided by; sums of both add up.

    ``words`` are the pieces between runs of whitespace, as the field counts them. ``pseudo``: each token was asked
    about with both of its sides in sight, so this compares with its like only.
    """

    nats: float
    tokens: int
    words: int
    bytes: int
    characters: int
    documents: int = 1
    pseudo: bool = False

    def __add__(self, other: Perplexity) -> Perplexity:
        return Perplexity(
            self.nats + other.nats,
            self.tokens + other.tokens,
            self.words + other.words,
            self.bytes + other.bytes,
            self.characters + other.characters,
            self.documents + other.documents,
            self.pseudo or other.pseudo,
        )

    @property
    def nats_per_token(self) -> float:
        return self.nats / self.tokens

    @property
    def token_perplexity(self) -> float:
        return _exp(self.nats_per_token)

    @property
    def word_perplexity(self) -> float:
        return _exp(self.nats / self.words)

    @property
    def byte_perplexity(self) -> float:
        return _exp(self.nats / self.bytes)

    @property
    def bits_per_byte(self) -> float:
        return self.nats / math.log(2) / self.bytes

    @property
    def bits_per_character(self) -> float:
        """A Chinese character is three bytes: the two units differ by that factor."""
        return self.nats / math.log(2) / self.characters

    def to_json(self) -> dict[str, float | bool]:
        names = ("nats_per_token", "token_perplexity", "word_perplexity", "byte_perplexity", "bits_per_byte",
                 "bits_per_character")  # fmt: skip
        fields = {name: getattr(self, name) for name in Perplexity.__slots__}
        return fields | {name: value for name in names if math.isfinite(value := getattr(self, name))}


def _exp(nats: float) -> float:
    return math.exp(nats) if nats < 700 else math.inf


class Encodes(Protocol):
    """What is needed of a tokenizer."""

    def encode(self, text: str) -> Array: ...


class Scorer:
    """Scores texts. ``answerer``: ``answerers.network(...)`` or ``answerers.counts(...)``."""

    def __init__(self, answerer: Answerer, tokenizer: Encodes) -> None:
        self._answerer = answerer
        self._tokenizer = tokenizer

    @property
    def pseudo(self) -> bool:
        """Whether what is scored are pseudo-likelihoods."""
        return self._answerer.pseudo

    def loglikelihood(self, pairs: Sequence[tuple[str, str]]) -> list[Likelihood]:
        """log p(continuation | context) of each pair, in nats (spec 15 section 3).

        Blanks at the end of a context belong to its continuation; both are encoded as one text. Long contexts lose
        their beginning.

        Raises:
            UserError: a continuation does not fit into the model's window.
        """
        questions = []
        for context, continuation in pairs:
            kept = context.rstrip()
            continuation = context[len(kept) :] + continuation
            ids = np.asarray(self._tokenizer.encode(kept + continuation), np.int64)
            before = len(self._tokenizer.encode(kept)) if kept else 0
            scored = max(0, len(ids) - before)
            room = self._answerer.window
            if room is not None and scored > room:
                raise UserError(
                    f"a continuation of {scored} tokens does not fit into this model's window of {room}: "
                    f"shorten it, or score the text with loglikelihood_rolling"
                )
            if before == 0 and self._answerer.prefix is not None:
                ids = np.concatenate([[self._answerer.prefix], ids])
            most = len(ids) if room is None else room + (0 if self._answerer.pseudo else 1)
            questions.append(Question(ids[-most:], scored))
        return [
            Likelihood(float(a.log_probs.sum()), bool(a.greedy.all()), len(a.log_probs))
            for a in self._answered(questions, greedy=True)
        ]

    def loglikelihood_rolling(self, texts: Sequence[str]) -> list[float]:
        """log p of each whole text, in nats, each from its beginning."""
        documents = [np.asarray(self._tokenizer.encode(text), np.int64) for text in texts]
        return [float(scores.sum()) for scores in self.log_probs(documents)]

    def perplexity(
        self,
        texts: Iterable[str],
        *,
        mode: Mode = "rolling",
        window: int | None = None,
        stride: int | None = None,
        context: int = 1,
        eos: int | None = None,
    ) -> Perplexity:
        """The perplexity of a corpus: sums over documents are divided, never their perplexities averaged.

        ``window`` defaults to the most the model can read. ``eos``: the end of each document is asked about too, as
        in training on a packed stream.

        Raises:
            UserError: there is no text.
        """
        total = None
        for group in _grouped(texts, 1 << 20):
            ids = [np.asarray(self._tokenizer.encode(text), np.int64) for text in group]
            asked = ids if eos is None else [np.append(i, eos) for i in ids]
            scores = self.log_probs(asked, mode=mode, window=window, stride=stride, context=context)
            for text, score in zip(group, scores, strict=True):
                if len(score):
                    words, size = len(re.split(r"\s+", text)), len(text.encode("utf-8", "surrogatepass"))
                    one = Perplexity(
                        -float(score.sum()), len(score), words, size, len(text), pseudo=self.pseudo
                    )
                    total = one if total is None else total + one
        if total is None:
            raise UserError("there is no text to score: the data is empty, or its test part is")
        return total

    def log_probs(
        self,
        documents: Sequence[Ints],
        *,
        mode: Mode = "rolling",
        window: int | None = None,
        stride: int | None = None,
        context: int = 1,
    ) -> list[NDArray[np.float64]]:
        """log p of every token of each document of ids, in nats; the windows are those of ``spans``."""
        room = self._answerer.window
        if window is not None and room is not None and window > room:
            raise UserError(f"this model reads at most {room} tokens at once, not {window}")
        questions: list[Question] = []
        owners: list[int] = []
        for number, ids in enumerate(documents):
            size = window or room or max(1, len(ids))
            for span in spans(
                len(ids), size, "disjoint" if self.pseudo else mode, stride=stride, context=context
            ):
                questions.append(self._question(ids, span))
                owners.append(number)
        parts: list[list[NDArray[np.float64]]] = [[np.zeros(0)] for _ in documents]
        for owner, answer in zip(owners, self._answered(questions), strict=True):
            parts[owner].append(answer.log_probs)
        return [np.concatenate(part) for part in parts]

    def _question(self, ids: Ints, span: Span) -> Question:
        prefix = self._answerer.prefix
        before = ids[max(0, span.start - 1) : span.end]
        if span.fresh or span.start == 0:
            before = ids[span.start : span.end]
            before = before if prefix is None else np.concatenate([[prefix], before])
        return Question(before, span.scored)

    def _answered(self, questions: Sequence[Question], *, greedy: bool = False) -> list[Answer]:
        nothing = Answer(np.zeros(0), np.zeros(0, bool))
        asked = [i for i, question in enumerate(questions) if question.scored]
        found = dict(
            zip(asked, self._answerer.answer([questions[i] for i in asked], greedy=greedy), strict=True)
        )
        return [found.get(i, nothing) for i in range(len(questions))]


def _grouped(texts: Iterable[str], characters: int) -> Iterator[list[str]]:
    group: list[str] = []
    size = 0
    for text in texts:
        group.append(text)
        size += len(text)
        if size >= characters:
            yield group
            group, size = [], 0
    if group:
        yield group


def paired(contexts: str | Sequence[str], continuations: str | Sequence[str]) -> list[tuple[str, str]]:
    """Each context with its continuation; one of the one goes with all of the other.

    Raises:
        UserError: there are not as many contexts as continuations.
    """
    before = [contexts] if isinstance(contexts, str) else list(contexts)
    after = [continuations] if isinstance(continuations, str) else list(continuations)
    before, after = (before * len(after) if len(before) == 1 else before,
                     after * len(before) if len(after) == 1 else after)  # fmt: skip
    if len(before) != len(after):
        raise UserError(f"{len(before)} contexts and {len(after)} continuations: there must be one of each")
    return list(zip(before, after, strict=True))
