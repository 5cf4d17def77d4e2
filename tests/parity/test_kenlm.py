"""KenLM reads our ARPA files and gives our scores (spec 01 section 9). It has no wheel: `make test-all` builds it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from plume.models import arpa
from plume.models.ngrams import NGrams
from plume.models.smoothing import KneserNey, Laplace
from tests.conftest import documents

QUIET = (0.5, 1.0, 1.5)


@pytest.mark.slow
@pytest.mark.parametrize(
    "smoothing", [KneserNey(QUIET), KneserNey(QUIET, (0, 0, 1)), KneserNey(QUIET, (0, 1)), Laplace(0.5)]
)
@pytest.mark.parametrize("language", ["en", "zh"])
def test_kenlm_scores_our_models_as_we_do(
    tmp_path: Path,
    language: str,
    smoothing: KneserNey | Laplace,
    record_property: Callable[[str, object], None],
) -> None:
    import kenlm

    texts = [text.split() if language == "en" else list(text) for text in documents(language, 400)]
    train, held_out = texts[:300], texts[300:]
    names = ["<unk>", "</s>", *sorted({word for text in train for word in text})]
    ids = {name: id for id, name in enumerate(names)}
    model = NGrams.fit([[ids[w] for w in text] for text in train], 4, len(names), smoothing, eos=1)
    arpa.write(model, names, tmp_path / "model.arpa")
    theirs = kenlm.Model(str(tmp_path / "model.arpa"))
    largest = 0.0
    for text in held_out:
        mine = model.log_probs([*(ids.get(w, 0) for w in text), 1]) / np.log(10)
        scores = [log for log, _, _ in theirs.full_scores(" ".join(text))]
        np.testing.assert_allclose(mine, scores, atol=1e-5)
        largest = max(largest, float(np.abs(mine - scores).max()))
    record_property("log10 p", largest)
