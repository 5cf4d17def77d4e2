"""The laws put to one objective, its smallest counterexample found by hypothesis."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from plume.errors import UserError
from plume.models.heads import TokenHead
from plume.slots import IGNORE, Example
from plume.studies import laws
from plume.studies.broken import Broken
from plume.studies.laws import FIRST, TEXT, Case, stacks

LONGEST = 14  # tokens of the texts that laws are tried on
TOLERANCE = 0.02  # of a loss on random text, in nats


@dataclass(frozen=True)
class Verdict:
    """A law on one objective. ``holds`` is None where it cannot be judged.

    Where it broke: ``broken`` says how, ``ids`` is the smallest text [T] and ``seed`` the draw that show it.
    """

    law: str
    holds: bool | None
    broken: Broken | None = None
    ids: tuple[int, ...] = ()
    seed: int = 0


@dataclass(frozen=True)
class Report:
    """Every law on one objective. ``shown``: the share of its answers that the draw leaves in sight."""

    case: Case
    verdicts: tuple[Verdict, ...]
    shown: float = 0.0

    @property
    def holds(self) -> bool:
        """Whether no law broke."""
        return not any(verdict.holds is False for verdict in self.verdicts)


def check(case: Case, *, examples: int = 25, seed: int = 0) -> Report:
    """Put every law to an objective, each on ``examples`` texts of 1 to 14 tokens, and shrink what breaks it.

    Raises:
        UserError: hypothesis is not installed.
    """
    found = [_tried(case, law, examples, seed) for law in laws.LAWS]
    if not all(verdict.holds for verdict in found):  # what is broken in itself teaches a model nothing
        return Report(case, (*found, Verdict("random_text", None)))
    shown, copies, asked = _shares(case)
    if shown > 0.5 and not copies:
        told = Broken("no_leak.shown", example=asked[0], head=" + ".join(asked[0].inputs.labels), share=shown)
        found = [replace(v, holds=False, broken=told) if v.law == "no_leak" else v for v in found]
        return Report(case, (*found, Verdict("random_text", None)), shown)
    control = Verdict("random_text", None) if copies else _control(case, asked, shown)
    return Report(case, (*found, control), shown)


def _tried(case: Case, law: Callable[[Case, np.ndarray, int], None], examples: int, seed: int) -> Verdict:
    try:
        from hypothesis import HealthCheck, Phase, find, settings
        from hypothesis import strategies as st
        from hypothesis.errors import Flaky, NoSuchExample
    except ImportError:
        raise UserError("plume check needs hypothesis: pip install 'plume-lm[check]'") from None
    from random import Random

    texts = st.lists(st.integers(FIRST, TEXT - 1), min_size=1, max_size=LONGEST)

    smallest: tuple[list[int], int, Broken] | None = None

    def breaks(drawn: tuple[list[int], int]) -> bool:
        nonlocal smallest
        broken = _broken(case, law, *drawn)
        if broken is not None and (smallest is None or len(drawn[0]) <= len(smallest[0])):
            smallest = (*drawn, broken)
        return broken is not None

    with suppress(NoSuchExample, Flaky):  # an objective with randomness of its own does not break every time
        found = find(
            st.tuples(texts, st.integers(0, 1000)),
            breaks,
            settings=settings(
                max_examples=examples, deadline=None, database=None, suppress_health_check=list(HealthCheck),
                phases=(Phase.generate, Phase.shrink),
            ),
            random=Random(seed),  # noqa: S311 # which texts are tried, nothing secret
        )  # fmt: skip
        if (broken := _broken(case, law, *found)) is not None:
            smallest = (*found, broken)
    if smallest is not None:
        ids, at, told = smallest
        return Verdict(law.__name__, False, told, tuple(ids), at)
    if law is laws.rate and all(_drawn(case, n, k) is None for n in (LONGEST, 2 * LONGEST) for k in range(4)):
        return Verdict("rate", False, Broken("rate.never", length=2 * LONGEST))
    return Verdict(law.__name__, True)


def _broken(
    case: Case, law: Callable[[Case, np.ndarray, int], None], ids: Sequence[int], seed: int
) -> Broken | None:
    text = np.array(ids, np.int64)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            law(case, text, seed)
    except Broken as broken:
        return broken
    except Exception as error:  # whatever a user's code raises
        try:
            example = laws.draw(case, text, seed)
        except Exception:
            example = None
        return Broken("crash", law=law.__name__, example=example, error=f"{type(error).__name__}: {error}")
    return None


def _text(length: int, seed: int) -> np.ndarray[Any, Any]:
    """No token twice, so that an answer is never in sight by chance."""
    ids: np.ndarray[Any, Any] = (
        FIRST + np.random.default_rng([length, seed]).permutation(TEXT - FIRST)[:length]
    )
    return ids


def _drawn(case: Case, length: int, seed: int) -> Example[Any] | None:
    return laws.draw(case, _text(length, seed), seed)


def _shares(case: Case) -> tuple[float, bool, list[Example[Any]]]:
    """The share of token answers in sight of who is asked, whether a second stack copies some, the examples."""
    kept = copied = total = 0
    examples = []
    for seed in range(16):
        example = _drawn(case, 2 * LONGEST, seed)
        if example is None:
            continue
        examples.append(example)
        for head, labels, slots in _token_labels(case, example):
            asked = np.flatnonzero(labels != IGNORE)
            total += len(asked)
            if slots is example.inputs:
                kept += int((slots.input_ids[asked] == labels[asked]).sum())
            else:
                copied += _copied(case, example, seed, head)
    return min(1.0, (kept + copied) / max(total, 1)), copied > 0, examples


def _copied(case: Case, example: Example[Any], seed: int, head: str) -> int:
    """Labels of the second stack whose tokens stand in the first: change the text there, and both change."""
    ids, copied = _text(2 * LONGEST, seed), 0
    for at in range(len(ids)):
        other = ids.copy()
        other[at] = FIRST + (ids[at] - FIRST + 1) % (TEXT - FIRST)
        changed = laws.draw(case, other, seed)
        if changed is None or changed.decoder_inputs is None or example.decoder_inputs is None:
            continue
        if not np.array_equal(example.inputs.input_ids, changed.inputs.input_ids):
            before, after = example.decoder_inputs.labels[head], changed.decoder_inputs.labels[head]
            copied += int((before != after).sum()) if before.shape == after.shape else 0
    return copied


def _token_labels(case: Case, example: Example[Any]) -> Iterator[tuple[str, np.ndarray, Any]]:
    model = laws.built(case, example)
    for slots in stacks(example):
        for head, labels in slots.labels.items():
            if isinstance(model.heads[head], TokenHead):
                yield head, labels, slots


def _control(case: Case, examples: Sequence[Example[Any]], shown: float) -> Verdict:
    """Train on uniform random tokens: no loss may fall below the entropy of the text among its answers."""
    floors: dict[str, Callable[[int], float]] = {}
    for head in {head for e in examples for head, *_ in _token_labels(case, e)}:
        labels = np.concatenate([
            s.labels[head][s.labels[head] != IGNORE] for e in examples for s in stacks(e) if head in s.labels
        ])  # fmt: skip
        share = float(((labels >= FIRST) & (labels < TEXT)).mean()) if len(labels) else 0.0
        floors[head] = lambda v, share=share * (1 - shown): share * math.log(v)  # type: ignore[misc]
    if not floors:
        return Verdict("random_text", None)
    # Of what is shown (BERT's kept tokens) the best that can be done is to know it all.
    asked = sum(int((labels != IGNORE).sum()) for e in examples for _, labels, _ in _token_labels(case, e))
    slack = TOLERANCE + 3 * math.sqrt(shown * (1 - shown) / max(asked, 1)) * math.log(TEXT - FIRST)
    try:
        reached = laws.random_text(replace(case, floor=floors))
    except Exception as error:  # whatever a user's code raises
        return Verdict(
            "random_text", False, Broken("crash", law="random_text", error=f"{type(error).__name__}: {error}")
        )
    for head, (loss, floor) in reached.items():
        if loss < floor - slack:
            told = Broken("random_text.below", example=examples[0], head=head, loss=loss, floor=floor)
            return Verdict("random_text", False, told)
    return Verdict("random_text", True)
