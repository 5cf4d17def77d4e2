"""BLEU and chrF of texts against references, by sacrebleu (spec 26 section 3).

Figures are comparable only where their signatures are the same: the signature is part of the result. Chinese is cut
into characters ("zh"), everything else at blanks and marks ("13a").
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from plume.errors import UserError
from plume.evaluation.baselines import is_chinese

Cut = Literal["13a", "zh", "intl", "char"]


@dataclass(frozen=True, slots=True)
class Overlap:
    """A corpus score from 0 to 100, its 95 % interval [low, high] by the bootstrap over texts, and how it was got."""

    value: float
    low: float
    high: float
    signature: str

    def to_json(self) -> dict[str, Any]:
        return {"value": self.value, "ci95": [self.low, self.high], "signature": self.signature}


def overlap(
    texts: Sequence[str], references: Sequence[str], *, cut: Cut | None = None, draws: int = 1000
) -> dict[str, Overlap]:
    """ "bleu" and "chrf" of ``texts`` against a reference each. ``cut=None``: by the references' language.

    ``draws``: bootstrap samples behind the intervals, always the same ones.

    Raises:
        UserError: sacrebleu is not installed.
        ValueError: there are not as many texts as references, or none.
    """
    if len(texts) != len(references) or not texts:
        raise ValueError(f"{len(texts)} texts and {len(references)} references: there must be one of each")
    try:
        from sacrebleu.metrics.bleu import BLEU
        from sacrebleu.metrics.chrf import CHRF
    except ImportError:
        raise UserError("BLEU and chrF need sacrebleu: pip install sacrebleu") from None
    tokenize = cut or ("zh" if is_chinese(references) else "13a")
    found = {}
    for name, metric in (("bleu", BLEU(tokenize=tokenize)), ("chrf", CHRF())):
        _with_floats(metric)
        score = metric.corpus_score(list(texts), [list(references)], n_bootstrap=max(draws, 2))
        middle, wide = float(score._mean), float(score._ci)
        found[name] = Overlap(float(score.score), middle - wide, middle + wide, str(metric.get_signature()))
    return found


def _with_floats(metric: Any) -> None:
    """Of texts without one common word some resamples score 0.0 and others a numpy number, and sacrebleu's own mean of
    the two raises: let all of them be floats."""
    compute = metric._compute_score_from_stats

    def plain(stats: Any) -> Any:
        score = compute(stats)
        score.score = float(score.score)
        return score

    metric._compute_score_from_stats = plain
