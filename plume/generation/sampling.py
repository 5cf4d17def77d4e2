"""From next-token scores to a token: the settings, the fixed order of processing, the draw (spec 21 section 2, 3)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from copy import copy
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from plume.errors import UserError
from plume.generation import filters
from plume.seeding import rng


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoding:
    """How a text is continued. Everything is off unless asked for: temperature 1, no filter (spec 21 section 2).

    ``temperature=0`` is greedy. ``top_k=0``, ``top_p=1``, ``min_p=0``, ``typical_p=1``, ``epsilon=0``,
    ``eta=0``, penalties of 1 (repetition) or 0 (frequency, presence) and ``no_repeat_ngram=0`` are off.
    ``eos`` ids end a text and ``suppress`` ids are never chosen; ``None`` means none, or what the tokenizer
    says where there is one (``plume.generation.completion``). ``stop`` strings end a text where they begin
    (``include_stop``: where they end). ``overflow`` says what happens when a text outgrows the model's
    positions: an error before anything is generated, or a window that slides along.

    Raises:
        UserError: a value outside its range.
    """

    max_new_tokens: int = 50
    min_new_tokens: int = 0
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    top_p_rule: filters.TopPRule = "nucleus"
    min_p: float = 0.0
    typical_p: float = 1.0
    epsilon: float = 0.0
    eta: float = 0.0
    repetition_penalty: float = 1.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    no_repeat_ngram: int = 0
    eos: tuple[int, ...] | None = None
    suppress: tuple[int, ...] | None = None
    stop: tuple[str, ...] = ()
    include_stop: bool = False
    seed: int = 0
    overflow: Literal["error", "slide"] = "error"

    def __post_init__(self) -> None:
        for name in (
            "eos",
            "suppress",
            "stop",
        ):  # lists are welcome; a text's rows are grouped by their settings
            given = getattr(self, name)
            if given is not None:
                object.__setattr__(self, name, (given,) if isinstance(given, str) else tuple(given))
        least = {"max_new_tokens": 0, "min_new_tokens": 0, "temperature": 0, "top_k": 0, "no_repeat_ngram": 0}
        for name, bound in least.items():
            if not bound <= getattr(self, name) < math.inf:
                raise UserError(f"{name} must be {bound} or more, got {getattr(self, name)}")
        for name in ("top_p", "min_p", "typical_p", "epsilon", "eta"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(
                    f"{name} is a probability and must lie between 0 and 1, got {getattr(self, name)}"
                )
        if not 0 < self.repetition_penalty < math.inf:
            raise UserError(f"repetition_penalty must be more than 0, got {self.repetition_penalty}")
        if "" in self.stop:
            raise UserError("a stop string must not be empty: every text begins with the empty string")

    @property
    def greedy(self) -> bool:
        return self.temperature < 1e-8  # nothing else is left of a distribution this cold


class Row:
    """One text on its way: its ids so far and its own stream of random numbers.

    The stream is keyed by seed, sample number and prompt, and by nothing else: neighbours in a batch, caches
    and streaming cannot change what a request gets.
    """

    def __init__(self, prompt: Sequence[int], decoding: Decoding, sample: int = 0) -> None:
        self.ids = [int(i) for i in prompt]
        self.decoding = decoding
        self.num_prompt = len(self.ids)
        self._uniform = rng(decoding.seed, "sampling", sample, *self.ids)
        self._seen: Tensor | None = None
        self._repeats: dict[tuple[int, ...], set[int]] = {}
        self._read = 0  # ids that _repeats knows

    @property
    def num_new(self) -> int:
        return len(self.ids) - self.num_prompt

    def uniform(self) -> float:
        """The next number in [0, 1) of this request's stream."""
        return float(self._uniform.random())

    def branch(self) -> Row:
        """A text of its own that begins as this one did so far; what one draws, the other would draw too."""
        other = copy(self)
        other.ids = list(self.ids)
        other._seen = None if self._seen is None else self._seen.clone()
        other._repeats = {gram: set(ends) for gram, ends in self._repeats.items()}
        return other

    def append(self, token: int) -> None:
        self.ids.append(token)
        if self._seen is not None:
            self._seen[token] = True

    def seen(self, vocab_size: int) -> Tensor:
        """bool [V]: which tokens prompt and output hold."""
        if self._seen is None:
            self._seen = torch.zeros(vocab_size, dtype=torch.bool)
            self._seen[self.ids] = True
        return self._seen

    def counts(self, vocab_size: int) -> Tensor:
        """int [V]: how often each token was generated."""
        return torch.bincount(
            torch.tensor(self.ids[self.num_prompt :], dtype=torch.long), minlength=vocab_size
        )

    def banned(self) -> Iterable[int]:
        """Tokens that the next one must not be: ends of repeated n-grams, and an end before its time."""
        size = self.decoding.no_repeat_ngram
        if size:
            while self._read + size <= len(self.ids):
                gram = self.ids[self._read : self._read + size]
                self._repeats.setdefault(tuple(gram[:-1]), set()).add(gram[-1])
                self._read += 1
            yield from self._repeats.get(tuple(self.ids[len(self.ids) - size + 1 :]), ())
        if self.num_new < self.decoding.min_new_tokens:
            yield from self.decoding.eos or ()
        yield from self.decoding.suppress or ()


class Chosen(NamedTuple):
    """A token for each row: ids [R], and its log-probability in nats [R].

    ``log_probs`` are the model's own, ``final`` those of the processed distribution it was drawn from (for
    greedy decoding after penalties and bans).
    """

    ids: Tensor
    log_probs: Tensor
    final: Tensor


def choose(logits: Tensor, rows: Sequence[Row]) -> Chosen:
    """The next token of each row from logits [R, V] (fp32 or fp64). All rows share one ``Decoding``."""
    decoding = rows[0].decoding
    scores = penalize(logits, rows)
    if decoding.greedy:
        ids = _argmax(scores)
    else:
        scores = warp(scores.double(), decoding)
        ids = invert(scores.softmax(-1), torch.tensor([row.uniform() for row in rows], dtype=torch.float64))
    log_probs = _log_prob(logits, ids)
    return Chosen(ids, log_probs, log_probs if scores is logits else _log_prob(scores, ids))


def penalize(logits: Tensor, rows: Sequence[Row]) -> Tensor:
    """Penalties and bans, in the order of spec 21: repetition, counts, n-grams, length, suppressed ids."""
    how, size = rows[0].decoding, logits.shape[-1]
    if how.repetition_penalty != 1:
        seen = torch.stack([row.seen(size) for row in rows]).to(logits.device)
        logits = filters.penalize_repetition(logits, seen, how.repetition_penalty)
    if how.frequency_penalty or how.presence_penalty:
        counts = torch.stack([row.counts(size) for row in rows]).to(logits.device)
        logits = filters.penalize_counts(logits, counts, how.frequency_penalty, how.presence_penalty)
    return filters.ban(logits, [list(row.banned()) for row in rows])


def warp(scores: Tensor, how: Decoding) -> Tensor:
    """Temperature, then the filters: top-k, top-p, min-p, typical, epsilon, eta."""
    if how.temperature != 1:
        scores = scores / how.temperature
    if how.top_k:
        scores = filters.top_k(scores, how.top_k)
    if how.top_p < 1:
        scores = filters.top_p(scores, how.top_p, rule=how.top_p_rule)
    if how.min_p:
        scores = filters.min_p(scores, how.min_p)
    if how.typical_p < 1:
        scores = filters.typical(scores, how.typical_p)
    if how.epsilon:
        scores = filters.epsilon(scores, how.epsilon)
    if how.eta:
        scores = filters.eta(scores, how.eta)
    return scores


def invert(probs: Tensor, uniform: Tensor) -> Tensor:
    """Inverse of the cumulative distribution in id order: ids [R] for probs [R, V] and uniform [R], all fp64.

    >>> invert(torch.tensor([[0.0, 0.5, 0.0, 0.5]]).double().expand(3, 4), torch.tensor([0.0, 0.5, 0.999]).double())
    tensor([1, 3, 3])
    """
    mass = probs.cumsum(-1)
    point = uniform.to(mass.device)[:, None] * mass[:, -1:]
    ids = torch.searchsorted(mass, point, right=True).squeeze(-1)
    # u so near 1 that the product rounded up to the whole mass: the last token that has any.
    last = (mass < mass[:, -1:]).sum(-1)
    return torch.minimum(ids, last)


def _argmax(scores: Tensor) -> Tensor:
    # Ties go to the lowest id. On CPU numpy's search is 20 times as fast as torch's, and says so of ties.
    if scores.device.type == "cpu":
        return torch.from_numpy(scores.numpy().argmax(-1))
    return scores.argmax(-1)


def _log_prob(scores: Tensor, ids: Tensor) -> Tensor:
    return scores.log_softmax(-1).gather(-1, ids[:, None]).squeeze(-1)
