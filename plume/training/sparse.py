"""``plume adapt tfidf:words``: labels or clusters on top of counted words, without a network (spec 02 sections A, B).

A run of it is a run like others (configuration, run.json with its scores), with ``sparse.safetensors`` where networks
have checkpoints.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from plume import config
from plume.errors import UserError
from plume.models.sparse import Clusters, Linear, SparseModel
from plume.models.vectors import Bags, TfIdf
from plume.seeding import rng
from plume.text.readers import read
from plume.text.splits import split_of
from plume.text.terms import Analyzer, coded
from plume.training import identity, session
from plume.training.folder import RunFolder
from plume.training.labelled import LabelledText, divide, fingerprint, known, read_labelled
from plume.training.session import say


@dataclass(frozen=True, kw_only=True)
class Sparse:
    """Texts as weighed counts of their terms, and what is learnt on top of them.

    ``analyzer`` and ``ngrams`` say what a term is (``plume.text.terms``); those of fewer than ``min_df`` documents are
    left out. ``task`` "classification" is logistic regression: of ``strengths`` (inverse regularisation) the one that
    does best on dev. "clusters" is k-means with so many ``clusters``; ``seed`` draws where it begins, and which
    examples are taken.
    """

    task: Literal["classification", "clusters"] = "classification"
    analyzer: Analyzer = "words"
    ngrams: tuple[int, int] = (1, 1)
    weights: TfIdf = field(default_factory=TfIdf)
    min_df: int = 1
    strengths: tuple[float, ...] = (0.3, 3.0, 30.0)
    clusters: int = 8
    examples: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        low, high = self.ngrams
        if not 1 <= low <= high:
            raise ValueError(
                f"ngrams are from how many units to how many, such as [1, 2], not {list(self.ngrams)}"
            )
        if self.clusters < 1:
            raise ValueError(f"clusters must be at least 1, got {self.clusters}")
        if not self.strengths or min(self.strengths) <= 0:
            raise ValueError(f"strengths must be above 0 and one at least, got {list(self.strengths)}")


def adapt(
    recipe: Sparse,
    *,
    data: Sequence[Path],
    evaluation: Sequence[Path] | None = None,
    out: Path,
    text_column: str = "text",
    label_column: str = "label",
    pair_column: str | None = None,
) -> Path:
    """Learn the labels of the training part of ``data``, or find clusters in it, into the run folder ``out``.

    Raises:
        UserError: anything the user can mend; the sentence says how.
    """
    recipe, folder = config.checked(recipe), RunFolder(out)
    columns = {"text_column": text_column, "label_column": label_column, "pair_column": pair_column}
    with folder.lock():
        if folder.exists() and (lines := config.differences(folder.read_config(), recipe)):
            raise UserError(
                f"{folder.path} holds a run with other settings ({'; '.join(lines)}): give it the same ones, or choose "
                f"another --out"
            )
        if folder.read_run().get("finished"):
            say(f"{folder.path} is finished")
            return out
        if recipe.task == "clusters":
            model, record = _cluster(recipe, data, text_column)
        else:
            rows = read_labelled(data, **columns)  # type: ignore[arg-type]
            labels = tuple(sorted({row.label for row in rows}))
            others = [] if evaluation is None else read_labelled(evaluation, **columns)  # type: ignore[arg-type]
            model, record = _classify(recipe, rows, known(others, labels), labels)
        session.begin(folder, recipe)
        model.save(folder.sparse)
        folder.write_run(
            {
                "kind": "sparse",
                "plume": session.version(),
                "identity": {
                    "config": config.digest(recipe),
                    "data": record.pop("data"),
                    "code": identity.code(),
                    "revision": identity.revision(),
                },
                "parent": None,
                "terms": len(model.terms),
                **record,
                "telling": dict(zip(model.labels, model.telling(), strict=True)),
                "finished": 1,
            }
        )
    return out


def shares(model: SparseModel, recipe: Sparse, texts: Sequence[str]) -> NDArray[np.float64]:
    """How likely each label is, [N, K]."""
    return model.top.shares(model.rows(*coded(texts, recipe.analyzer, recipe.ngrams)))


def _vectors(recipe: Sparse, texts: Sequence[str]) -> tuple[Bags, NDArray[np.float64], Any]:
    """Counts, idf and rows of the texts that a model is made of."""
    try:
        bags = Bags.of_codes(*coded(texts, recipe.analyzer, recipe.ngrams), min_df=recipe.min_df)
    except ValueError:
        raise UserError(
            f"the texts have no word to learn from: lower min_df (now {recipe.min_df}), or try analyzer=characters"
        ) from None
    idf = recipe.weights.idf(bags)
    return bags, idf, bags.matrix(recipe.weights.weights(bags, idf))


def _joined(rows: Sequence[LabelledText]) -> list[str]:
    return ["\n".join(row.segments) for row in rows]


def _classify(
    recipe: Sparse, rows: Sequence[LabelledText], others: Sequence[LabelledText], labels: tuple[str, ...]
) -> tuple[SparseModel, dict[str, Any]]:
    train, dev = divide(rows, labels, recipe.examples, recipe.seed)
    bags, idf, matrix = _vectors(recipe, _joined(train))
    number = {label: i for i, label in enumerate(labels)}
    gold = {
        name: np.array([number[row.label] for row in part])
        for name, part in (("train", train), ("dev", dev), ("test", others))
    }
    empty = SparseModel(bags.terms, idf, recipe.weights, labels, Linear(np.zeros((0, 0)), np.zeros(0)))
    asked = {
        name: empty.rows(*coded(_joined(part), recipe.analyzer, recipe.ngrams))
        for name, part in (("dev", dev), ("test", others))
        if part
    }
    tried = recipe.strengths if dev else [recipe.strengths[len(recipe.strengths) // 2]]
    fits = [(strength, Linear.fit(matrix, gold["train"], strength=strength)) for strength in tried]

    def right(top: Linear, name: str) -> float:
        return float((top.shares(asked[name]).argmax(1) == gold[name]).mean())

    strength, top = max(fits, key=lambda fit: right(fit[1], "dev")) if dev else fits[0]
    scores = {name: {"accuracy": right(top, name), "texts": len(gold[name])} for name in asked}
    for name, score in scores.items():
        say(f"{name}: {score['accuracy']:.1%} of {score['texts']} texts right")
    model = SparseModel(bags.terms, idf, recipe.weights, labels, top)
    return model, {"scores": scores, "strength": strength, "data": fingerprint([*train, *dev])}


def _cluster(recipe: Sparse, data: Sequence[Path], column: str) -> tuple[SparseModel, dict[str, Any]]:
    texts = [d.text for d in read(list(data), text_column=column) if split_of(d.text) == "train"]
    if not texts:
        raise UserError("the training part of the data has no text: add documents")
    texts = texts[: recipe.examples]
    bags, idf, matrix = _vectors(recipe, texts)
    top, found = Clusters.fit(matrix, recipe.clusters, rng(recipe.seed, "clusters"))
    numbers = tuple(map(str, range(len(top.centres))))
    telling = SparseModel(bags.terms, idf, recipe.weights, numbers, top).telling(3)
    # A cluster is called by what weighs most in it.
    names = [" ".join(terms) or "-" for terms in telling]
    twice = Counter(names)
    labels = tuple(f"{name} ({i})" if twice[name] > 1 else name for i, name in enumerate(names))
    sizes = np.bincount(found, minlength=len(labels)).tolist()
    model = SparseModel(bags.terms, idf, recipe.weights, labels, top)
    return model, {
        "scores": {"train": {"inertia": top.inertia, "texts": len(texts)}},
        "sizes": dict(zip(labels, sizes, strict=True)),
        "data": fingerprint([LabelledText((text,), "") for text in texts]),
    }
