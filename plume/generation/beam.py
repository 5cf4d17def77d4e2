"""Beam search: the likeliest continuations that a search of bounded width finds (spec 21 section 4).

S sources, B = num_beams live ones each, V = vocabulary. Rows of the model's batch are source-major: the live
hypotheses of a source lie side by side, so that what its first stack read stays where it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from plume.errors import UserError
from plume.generation.decoding import select_rows
from plume.generation.language_models import LanguageModel, WritingNetwork, slotwise
from plume.generation.sampling import Decoding, Row, penalize
from plume.slots import Array, Example, Layout, Memory, Slots, collate

NONE = float("-inf")


@dataclass(frozen=True, slots=True, kw_only=True)
class Beam:
    """How a search is done.

    A finished hypothesis is worth its summed log-probability over length^``length_penalty``, its end token counted
    and its prompt not ("power": transformers, fairseq), or over ((5 + length) / 6)^length_penalty ("gnmt": the
    Transformer's 0.6, T5). 0 prefers short ones, more prefers longer ones. ``early_stopping``: True ends the search
    of a source when ``num_beams`` are finished, False when none that lives is worth more than the worst of them as
    it is, "never" when none could become so.

    Raises:
        UserError: fewer than one beam.
    """

    num_beams: int = 4
    length_penalty: float = 1.0
    length_norm: Literal["power", "gnmt"] = "power"
    early_stopping: bool | Literal["never"] = False

    def __post_init__(self) -> None:
        if self.num_beams < 1:
            raise UserError(f"num_beams must be at least 1, got {self.num_beams}")

    def norm(self, length: int) -> float:
        """What a summed log-probability of ``length`` tokens is divided by."""
        base = length if self.length_norm == "power" else (5 + length) / 6
        return float(base**self.length_penalty)


@dataclass(frozen=True, slots=True)
class Hypothesis:
    """A continuation: ids with the end token if it came, their log-probabilities in nats, and what it is worth."""

    ids: tuple[int, ...]
    log_probs: tuple[float, ...]
    score: float

    @property
    def log_prob(self) -> float:
        """That of all ids together."""
        return sum(self.log_probs)


@dataclass
class _Search:
    """One source: what lives, best first, and what is finished. ``rows`` hold the ids of the living, ``scores`` their
    summed log-probabilities and ``paths`` how those came about.
    """

    rows: list[Row]
    scores: list[float]
    paths: list[tuple[float, ...]]
    done: list[Hypothesis]
    open: bool = True

    def advance(self, candidates: Sequence[tuple[int, int, float]], how: Decoding, beam: Beam) -> list[int]:
        """Take the best (parent, token, summed log-probability), best first; the parents of what lives now."""
        length = self.rows[0].num_new + 1
        rows: list[Row] = []
        scores: list[float] = []
        parents: list[int] = []
        paths: list[tuple[float, ...]] = []
        for rank, (parent, token, score) in enumerate(candidates):
            if score == NONE:
                break
            path = (*self.paths[parent], score - self.scores[parent])
            ids = (*self.rows[parent].ids[self.rows[parent].num_prompt :], token)
            if token in (how.eos or ()) or length >= how.max_new_tokens:
                if rank < beam.num_beams:
                    self.done.append(Hypothesis(ids, path, score / beam.norm(length)))
            elif len(rows) < beam.num_beams:
                row = self.rows[parent].branch()
                row.append(token)
                rows.append(row)
                scores.append(score)
                parents.append(parent)
                paths.append(path)
        self.done = sorted(self.done, key=lambda h: -h.score)[: beam.num_beams]
        self.rows, self.scores, self.paths = rows, scores, paths
        self.open = bool(rows) and self._hopes(length, how, beam)
        return parents

    def _hopes(self, length: int, how: Decoding, beam: Beam) -> bool:
        if len(self.done) < beam.num_beams:
            return True
        if beam.early_stopping is True or beam.num_beams == 1:
            return False
        longest = beam.early_stopping == "never" and beam.length_penalty > 0
        best = self.scores[0] / beam.norm(how.max_new_tokens if longest else length)
        return best > self.done[-1].score


def search(
    model: LanguageModel,
    prompts: Sequence[Example[Array]],
    decoding: Decoding,
    beam: Beam | None = None,
    *,
    batch_size: int = 16,
) -> list[list[Hypothesis]]:
    """The ``num_beams`` best hypotheses of each prompt, best first.

    A prompt's last stack is gone on with: the second, beside what the first reads, or the only one. Of ``decoding``
    the lengths, ``eos``, ``suppress``, penalties and ``no_repeat_ngram`` are used, on log-probabilities; nothing is
    drawn. ``batch_size`` prompts are searched at once; it changes the speed and nothing else.

    Raises:
        UserError: a prompt is empty, or a text would outgrow the model's positions.
    """
    beam = beam or Beam()
    for number, prompt in enumerate(prompts, start=1):
        _check(model, prompt, decoding, number)
    order = sorted(range(len(prompts)), key=lambda i: -len(prompts[i].inputs))
    found: dict[int, list[Hypothesis]] = {}
    for start in range(0, len(order), batch_size):
        part = order[start : start + batch_size]
        found |= dict(zip(part, _search(model, [prompts[i] for i in part], decoding, beam), strict=True))
    return [found[i] for i in range(len(prompts))]


def _check(model: LanguageModel, prompt: Example[Array], how: Decoding, number: int) -> None:
    last = prompt.inputs if prompt.decoder_inputs is None else prompt.decoder_inputs
    room = model.room if isinstance(model, WritingNetwork) else model.context_length
    if not len(last):
        raise UserError(f"prompt {number} is empty: give it at least one token")
    if room is None:
        return
    if len(prompt.inputs) > room:
        raise UserError(
            f"prompt {number} has {len(prompt.inputs)} slots, but this model reads at most {room}: shorten it"
        )
    if how.max_new_tokens and len(last) + how.max_new_tokens - 1 > room:
        raise UserError(
            f"prompt {number} may grow to {len(last) + how.max_new_tokens - 1} slots, but this model reads at most "
            f"{room}: ask for at most {room - len(last) + 1} new tokens"
        )


@torch.inference_mode()
def _search(
    model: LanguageModel, prompts: Sequence[Example[Array]], how: Decoding, beam: Beam
) -> list[list[Hypothesis]]:
    lasts = [p.inputs if p.decoder_inputs is None else p.decoder_inputs for p in prompts]
    searches = [_Search([Row(slots.input_ids.tolist(), how)], [0.0], [()], []) for slots in lasts]
    if not how.max_new_tokens:
        return [[Hypothesis((), (), 0.0)] for _ in prompts]
    batch = collate(prompts, packed=False).to(model.device)
    inputs, decoder = batch.inputs, batch.decoder_inputs
    memory: Memory | None = None
    live = list(range(len(prompts)))
    while live:
        answer = model.next_token_log_probs(inputs, decoder, memory=memory)
        rows = [row for s in live for row in searches[s].rows]
        log_probs = penalize(answer.logits.log_softmax(-1), rows)
        if bool(log_probs.isnan().any()):
            raise UserError(
                "the model's scores are not numbers: its training diverged or its weights are damaged; go back to an "
                "earlier checkpoint"
            )
        at, parents = 0, []
        for s in live:
            this = searches[s]
            scores = torch.tensor(this.scores, dtype=log_probs.dtype, device=log_probs.device)
            sums = log_probs[at : at + len(this.rows)] + scores[:, None]
            chosen = this.advance(_best(sums, how, beam), how, beam)
            if this.open:
                parents += [at + parent for parent in chosen]
            at += len(sums)
        live = [s for s in live if searches[s].open]
        if not live:
            break
        index = torch.tensor(parents, device=model.device)
        assert answer.memory is not None
        memory = select_rows(answer.memory, index)
        following = _next_slots([row for s in live for row in searches[s].rows], model.device)
        if decoder is None:
            inputs = following
        else:  # rows of one source read the same
            inputs, decoder = _rows(inputs, index), following
    return [this.done or _unfinished(this, beam) for this in searches]


def _best(sums: Tensor, how: Decoding, beam: Beam) -> list[tuple[int, int, float]]:
    """The best (parent, token, sum) of sums [b, V]: enough of them that as many live on as should."""
    count = min((max(1, len(how.eos or ())) + 1) * beam.num_beams, sums.numel())
    values, places = sums.flatten().topk(count)
    size = sums.shape[1]
    return [(p // size, p % size, v) for v, p in zip(values.tolist(), places.tolist(), strict=True)]


def _unfinished(this: _Search, beam: Beam) -> list[Hypothesis]:
    """Nothing could be finished (every id is banned): what lives is all there is."""
    found = []
    for row, score, path in zip(this.rows, this.scores, this.paths, strict=True):
        ids = tuple(row.ids[row.num_prompt :])
        found.append(Hypothesis(ids, path, score / beam.norm(max(1, len(ids)))))
    return found or [Hypothesis((), (), 0.0)]


def _rows(slots: Slots[Tensor], index: Tensor) -> Slots[Tensor]:
    chosen = slotwise(lambda field: field[index], slots)
    documents = torch.stack([torch.arange(len(index)), torch.zeros(len(index), dtype=torch.long)], 1)
    lengths = (chosen.document_ids >= 0).sum(1).cpu()
    table = torch.cat([documents, lengths[:, None]], 1).numpy()
    pattern = "bidirectional" if slots.layout is None else slots.layout.pattern
    return replace(chosen, layout=Layout(pattern, table, bool((lengths == len(slots)).all())))


def _next_slots(rows: Sequence[Row], device: torch.device) -> Slots[Tensor]:
    ids = torch.tensor([[row.ids[-1]] for row in rows], device=device)
    ranks = torch.tensor([[len(row.ids) - 1] for row in rows], device=device)
    zeros = torch.zeros_like(ids)
    documents = np.array([[r, 0, 1] for r in range(len(rows))])
    return Slots(
        input_ids=ids, position_ids=ranks, token_type_ids=zeros, visible_at=ranks, sees_until=ranks,
        document_ids=zeros, example_ids=zeros, layout=Layout("causal", documents, True),
    )  # fmt: skip
