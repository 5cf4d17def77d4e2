"""Text in, text out: prompts continued by any language model, whole or as they grow (spec 21)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

from plume.generation.beam import Beam, search
from plume.generation.decoding import Finish, Session, Token, check
from plume.generation.language_models import LanguageModel
from plume.generation.sampling import Decoding, Row
from plume.generation.streaming import Detokenizes, TextStream
from plume.slots import Array, Example, Slots
from plume.vocabulary import Vocabulary


class Prompts(Protocol):
    """What is needed of an objective here: how its family is given a text to go on with or to answer."""

    def prompt(self, ids: Array, vocab: Vocabulary) -> Example[Array] | None: ...

    def ask_next(self, ids: Array, vocab: Vocabulary) -> tuple[Slots[Array], int]: ...


class Tokenizes(Detokenizes, Protocol):
    """What is needed of a tokenizer here."""

    @property
    def vocabulary(self) -> Vocabulary: ...

    def encode(self, text: str) -> np.ndarray[Any, np.dtype[np.int64]]: ...


@dataclass(frozen=True, slots=True)
class Delta:
    """A step of one text: what became certain of it, and the token that did it.

    ``row`` = prompt * samples + sample. ``finish`` is set on a text's last delta. A token may settle no text
    (half a character), so deltas may be empty. ``token`` is ``None`` only where no token was asked for.
    """

    row: int
    text: str
    token: Token | None
    finish: Finish | None


@dataclass(frozen=True, slots=True)
class Completion:
    """A finished continuation: ``text`` without prompt, end token and stop string; ``ids`` with all of them.

    ``log_probs`` [len(ids)] are the model's own, ``final`` those of the distribution drawn from, in nats.
    """

    text: str
    ids: tuple[int, ...]
    log_probs: tuple[float, ...]
    final: tuple[float, ...]
    finish: Finish


def stream(
    model: LanguageModel,
    tokenizer: Tokenizes,
    prompts: Sequence[str],
    decoding: Decoding | None = None,
    *,
    samples: int = 1,
    batch_size: int = 32,
) -> Iterator[Delta]:
    """Continue ``prompts``, ``samples`` times each, and give out the text as it grows, rows interleaved.

    The deltas of a row add up to its ``Completion.text`` exactly. An empty prompt begins where texts begin:
    after the eos token, which closes the documents of a packed stream, or without one at the bos token. Where
    ``decoding`` names no ``eos`` and ``suppress``, the tokenizer's end token ends a text and its other special
    tokens and its unknown one are never chosen.

    Raises:
        UserError: see ``Session``; raised by the call itself, before any delta is asked for.
    """
    decoding = for_text(decoding or Decoding(), tokenizer.vocabulary)
    rows = [Row(ids, decoding, sample) for ids in _prompts(tokenizer, prompts) for sample in range(samples)]
    check(rows, model.context_length)  # now, and not when the first delta is asked for
    return _stream(model, tokenizer, rows, decoding, batch_size)


def complete(
    model: LanguageModel,
    tokenizer: Tokenizes,
    prompts: Sequence[str],
    decoding: Decoding | None = None,
    *,
    samples: int = 1,
    batch_size: int = 32,
) -> list[Completion]:
    """What ``stream`` gives, collected: sample j of prompt i is entry i * samples + j."""
    deltas: list[list[Delta]] = [[] for _ in range(len(prompts) * samples)]
    for delta in stream(model, tokenizer, prompts, decoding, samples=samples, batch_size=batch_size):
        deltas[delta.row].append(delta)
    return [_collected(row) for row in deltas]


def best(
    model: LanguageModel,
    tokenizer: Tokenizes,
    asks: Prompts,
    prompts: Sequence[str],
    decoding: Decoding | None = None,
    beam: Beam | None = None,
    *,
    batch_size: int = 16,
) -> list[Completion]:
    """What beam search finds best after each prompt. ``asks`` is the objective, which knows how to give it one.

    ``max_new_tokens`` is cut to what fits the model; a prompt is not.

    Raises:
        UserError: see ``beam.search``.
    """
    vocab = tokenizer.vocabulary
    decoding = for_text(decoding or Decoding(), vocab)
    given = []
    for prompt in _prompts(tokenizer, prompts):
        text = np.array(prompt, np.int64)
        given.append(asks.prompt(text, vocab) or Example(asks.ask_next(text, vocab)[0]))
    if given and (room := model.context_length) is not None:
        longest = max(len(g.inputs if g.decoder_inputs is None else g.decoder_inputs) for g in given)
        most = max(1, room - longest + 1)
        decoding = replace(decoding, max_new_tokens=min(decoding.max_new_tokens, most))
    found = []
    for hypotheses in search(model, given, decoding, beam, batch_size=batch_size):
        ids, ended = hypotheses[0].ids, hypotheses[0].ids[-1:]
        finish: Finish = "eos" if ended and ended[0] in (decoding.eos or ()) else "length"
        log_probs = hypotheses[0].log_probs
        found.append(Completion(_text(tokenizer, ids), ids, log_probs, log_probs, finish))
    return found


def _text(tokenizer: Tokenizes, ids: Sequence[int]) -> str:
    text = TextStream(tokenizer, [], ())
    ends = {tokenizer.vocabulary.eos}
    return "".join(text.push(i) for i in ids if i not in ends) + text.finish()


def for_text(decoding: Decoding, vocab: Vocabulary) -> Decoding:
    """``decoding`` with what the tokenizer knows filled in: its end token, and what is not text."""
    eos = decoding.eos
    if eos is None:
        eos = () if vocab.eos is None else (vocab.eos,)
    suppress = decoding.suppress
    if suppress is None:
        unknown = frozenset(() if vocab.unk is None else (vocab.unk,))
        suppress = tuple(sorted((vocab.special | unknown) - frozenset(eos)))
    return replace(decoding, eos=eos, suppress=suppress)


def _prompts(tokenizer: Tokenizes, prompts: Sequence[str]) -> Iterator[list[int]]:
    vocab = tokenizer.vocabulary
    begin = vocab.bos if vocab.eos is None else vocab.eos
    for prompt in prompts:
        ids = [int(i) for i in tokenizer.encode(prompt)]
        yield ids or ([] if begin is None else [begin])


def _stream(
    model: LanguageModel, tokenizer: Tokenizes, rows: Sequence[Row], decoding: Decoding, batch_size: int
) -> Iterator[Delta]:
    if not decoding.max_new_tokens:
        yield from (Delta(row, "", None, "length") for row in range(len(rows)))
        return
    for start in range(0, len(rows), batch_size):
        part = rows[start : start + batch_size]
        texts = [TextStream(tokenizer, r.ids, decoding.stop, include=decoding.include_stop) for r in part]
        session = Session(model, part)
        while session.live:
            for token in session.step():
                text, finish = texts[token.row], token.finish
                delta = "" if finish == "eos" else text.push(token.id)
                if finish and not text.stopped:
                    delta += text.finish()
                if text.stopped:
                    finish = "stop"
                    session.end(token.row)
                yield Delta(start + token.row, delta, token, finish)


def _collected(deltas: Sequence[Delta]) -> Completion:
    tokens = [d.token for d in deltas if d.token is not None]
    finish = deltas[-1].finish
    assert finish is not None
    return Completion(
        "".join(d.text for d in deltas),
        tuple(t.id for t in tokens),
        tuple(t.log_prob for t in tokens),
        tuple(t.final for t in tokens),
        finish,
    )
