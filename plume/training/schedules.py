"""Learning rates as a share of the peak (spec 25 section 3).

s is the step from 0, S = ``steps``, w = ``warmup_steps``, m = ``floor``. Warm-up is s / w in all of them.
"""

from __future__ import annotations

import math

from plume.training.settings import Schedule, Training


def share(
    schedule: Schedule,
    step: float,
    *,
    steps: int,
    warmup_steps: int = 0,
    decay_share: float = 0.1,
    floor: float = 0.0,
) -> float:
    """What part of the peak step ``step`` gets.

    linear: (S - s) / (S - w) after warm-up; linear_from_zero: 1 - s / S, BERT's own, with its small jump at w
    (spec 06 section 6); linear_throughout: the same, and both factors during warm-up (ELECTRA, spec 09 section 2);
    cosine: half a wave from w to S; inverse_sqrt and noam: sqrt(w / s); constant_inverse_sqrt: the same, and 1
    instead of a warm-up (T5, spec 18 section 6); wsd: 1 until the last
    ``decay_share`` of the steps, then 1 - sqrt of the part of it that is over. The first four decay to ``floor``
    where they have an end.

    >>> [share("linear", s, steps=100, warmup_steps=10) for s in (0, 5, 10, 55, 100)]
    [0.0, 0.5, 1.0, 0.5, 0.0]
    """
    if step < warmup_steps:
        if schedule == "constant_inverse_sqrt":
            return 1.0
        throughout = 1 - step / steps if schedule == "linear_throughout" else 1.0
        return step / warmup_steps * throughout
    if schedule == "constant":
        return 1.0
    if schedule in ("inverse_sqrt", "constant_inverse_sqrt", "noam"):
        start = max(warmup_steps, 1)
        return math.sqrt(start / max(step, start))
    if schedule == "linear":
        left = (steps - step) / max(steps - warmup_steps, 1)
    elif schedule in ("linear_from_zero", "linear_throughout"):
        left = 1 - step / steps
    elif schedule == "cosine":
        left = 0.5 * (1 + math.cos(math.pi * (step - warmup_steps) / max(steps - warmup_steps, 1)))
    else:
        decay = decay_share * steps
        over = step - (steps - decay)
        left = 1.0 if over <= 0 else 1 - math.sqrt(min(over / decay, 1.0))
    return floor + (1 - floor) * max(left, 0.0)


def learning_rate(training: Training, step: int, tokens: int = 0, batch_tokens: int = 0) -> float:
    """The rate of the update that follows ``step`` finished ones, which have read ``tokens``.

    With ``decay_tokens`` the clock counts tokens, so that a batch that grows does not bend the curve, and after the
    decay the rate stays at its floor. Warm-up counts from 1 step here, or from the ``batch_tokens`` that this update
    reads: a first step at rate 0 would read a batch for nothing. "noam" counts so to the end, as the paper does (spec
    05 section 4.2).
    """
    at, warmup, end, ahead = step, training.warmup, training.steps, 1
    if training.decay_tokens is not None:
        at, warmup, end = tokens, training.warmup_tokens or 0, training.decay_tokens
        ahead = max(0, min(batch_tokens, warmup - tokens))
    at = at + ahead if at < warmup or training.schedule == "noam" else min(at, end)
    return training.lr * share(
        training.schedule,
        at,
        steps=end,
        warmup_steps=warmup,
        decay_share=training.decay_share,
        floor=training.min_lr_share,
    )


def noam_peak(d_model: int, warmup_steps: int, factor: float = 1.0) -> float:
    """The highest rate of the Transformer's own schedule, factor / sqrt(d_model * warmup_steps) (spec 05 section 4.2).

    >>> f"{noam_peak(512, 4_000):.6e}"
    '6.987712e-04'
    """
    return float(factor * (d_model * warmup_steps) ** -0.5)


def same_until(old: Training, new: Training, step: int) -> int:
    """How many of the first ``step`` updates have the same rate under both settings, which differ in their steps."""
    if old.decay_tokens is not None and old.decay_tokens == new.decay_tokens:
        return step
    for s in range(step):
        if learning_rate(old, s) != learning_rate(new, s):
            return s
    return step
