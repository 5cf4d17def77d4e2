"""What is learnt on top of sparse vectors: a linear classifier, and clusters by k-means (spec 02 sections A to C).

N documents, V terms, K labels or clusters. Rows are ``Bags.matrix``: scipy's compressed rows.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from plume.errors import UserError
from plume.models.storage import writing
from plume.models.vectors import Bags, Terms, TfIdf

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
FORMAT = "plume-sparse-1"


@dataclass(frozen=True)
class Linear:
    """Logistic regression: shares of the labels = softmax(x weight^T + bias). weight [K, V], bias [K]."""

    weight: Floats
    bias: Floats

    @staticmethod
    def fit(rows: Any, labels: ArrayLike, *, strength: float = 1.0) -> Linear:
        """The minimum of ``strength`` times the summed cross-entropy + the sum of squared weights / 2, which is
        scikit-learn's definition, found by its solver. labels [N]: numbers from 0 to K - 1, each of them there.

        Raises:
            UserError: scikit-learn is not installed.
        """
        try:
            from sklearn.linear_model import LogisticRegression
        except ImportError as error:
            raise UserError("logistic regression needs scikit-learn: pip install 'plume-lm[eval]'") from error
        found = LogisticRegression(C=strength, max_iter=1000).fit(rows, labels)
        weight, bias = found.coef_.astype(np.float64), found.intercept_.astype(np.float64)
        if len(weight) == 1:  # of two labels it keeps the second one's score over the first's
            weight, bias = np.concatenate([0 * weight, weight]), np.concatenate([0 * bias, bias])
        return Linear(weight, bias)

    def shares(self, rows: Any) -> Floats:
        """The probability of each label, [N, K]."""
        scores: Floats = rows @ self.weight.T + self.bias
        shares = np.exp(scores - scores.max(1, keepdims=True))
        found: Floats = shares / shares.sum(1, keepdims=True)
        return found


@dataclass(frozen=True)
class Clusters:
    """k-means: centres [K, V], and the sum of the squared distances of all documents to theirs."""

    centres: Floats
    inertia: float

    @staticmethod
    def fit(
        rows: Any,
        count: int,
        rng: np.random.Generator,
        *,
        starts: int = 4,
        centres: Floats | None = None,
        most: int = 300,
    ) -> tuple[Clusters, Ints]:
        """``count`` clusters of rows [N, V], and the number of each row's cluster [N].

        Lloyd's algorithm until no row changes its cluster or ``most`` rounds are over; the best of ``starts``
        beginnings by k-means++ (``centres``: this one beginning). A cluster that loses its last row begins anew at the
        row that lies farthest from its centre, as scikit-learn's does.

        Raises:
            UserError: there are fewer than ``count`` different rows.
        """
        size = rows.shape[0]
        if not 1 <= count <= size:
            raise UserError(
                f"{count} clusters of {size} texts: there must be from 1 to {size}; say clusters={max(1, min(8, size))}"
            )
        squares = np.asarray(rows.multiply(rows).sum(1)).ravel()
        begun = (
            [_beginning(rows, squares, count, rng) for _ in range(starts)] if centres is None else [centres]
        )
        found = [_lloyd(rows, squares, begin, most) for begin in begun]
        return min(found, key=lambda pair: pair[0].inertia)

    def nearest(self, rows: Any) -> Ints:
        """The number of the nearest centre, [N]; of equally near ones the first."""
        found: Ints = (_lengths(self.centres) - 2 * (rows @ self.centres.T)).argmin(1)
        return found

    def shares(self, rows: Any) -> Floats:
        """1 for the nearest centre and 0 for the others, [N, K]: k-means knows no shares."""
        return np.eye(len(self.centres))[self.nearest(rows)]


def _lengths(table: Floats) -> Floats:
    squares: Floats = np.einsum("kv,kv->k", table, table)
    return squares


def _beginning(rows: Any, squares: Floats, count: int, rng: np.random.Generator) -> Floats:
    """k-means++ (Arthur and Vassilvitskii 2007): each centre is a row, drawn by its squared distance to those before.

    Of 2 + ln K draws the one is taken that lowers the sum of distances most, as scikit-learn does.
    """
    chosen = [int(rng.integers(rows.shape[0]))]
    near = _distances(rows, squares, chosen)[0]
    while len(chosen) < count:
        if not near.any():
            raise UserError(f"there are only {len(chosen)} different texts: ask for at most as many clusters")
        drawn = np.searchsorted(np.cumsum(near), rng.random(2 + int(np.log(count))) * near.sum(), "right")
        tried = np.minimum(near, _distances(rows, squares, np.minimum(drawn, len(near) - 1).tolist()))
        best = int(tried.sum(1).argmin())
        chosen.append(int(min(drawn[best], len(near) - 1)))
        near = tried[best]
    centres: Floats = rows[chosen].toarray().astype(np.float64)
    return centres


def _distances(rows: Any, squares: Floats, chosen: Sequence[int]) -> Floats:
    """Squared distances from each of the chosen rows to all, [C, N]."""
    products = (rows @ rows[list(chosen)].T).toarray().T
    found: Floats = np.maximum(squares - 2 * products + squares[list(chosen)][:, None], 0)
    found[found < 1e-12 * squares.max(initial=0.0)] = 0  # a row and its like: what is left is rounding
    return found


def _lloyd(rows: Any, squares: Floats, centres: Floats, most: int) -> tuple[Clusters, Ints]:
    size, count = rows.shape[0], len(centres)
    labels = np.full(size, -1)
    for _ in range(most):
        distances = squares[:, None] + _lengths(centres) - 2 * (rows @ centres.T)
        before, labels = labels, distances.argmin(1)
        if (labels == before).all():
            break
        own = np.maximum(distances[np.arange(size), labels], 0)
        moved = labels.copy()
        empty = np.flatnonzero(np.bincount(labels, minlength=count) == 0)
        moved[np.argsort(-own, kind="stable")[: len(empty)]] = empty
        centres = _means(rows, moved, count)
    distances = squares[:, None] + _lengths(centres) - 2 * (rows @ centres.T)
    labels = distances.argmin(1)
    return Clusters(centres, float(np.maximum(distances[np.arange(size), labels], 0).sum())), labels


def _means(rows: Any, labels: Ints, count: int) -> Floats:
    """The mean of each cluster's rows, [K, V]."""
    from scipy.sparse import csr_array

    members = csr_array((np.ones(len(labels)), (labels, np.arange(len(labels)))), shape=(count, len(labels)))
    sizes = np.maximum(np.bincount(labels, minlength=count), 1)
    means: Floats = (members @ rows).toarray() / sizes[:, None]
    return means


@dataclass(frozen=True)
class SparseModel:
    """Weighed counts of ``terms`` [V], sorted, and what tells the ``labels`` from them.

    idf [V] is that of the documents it was made of.
    """

    terms: tuple[str, ...]
    idf: Floats
    weighting: TfIdf
    labels: tuple[str, ...]
    top: Linear | Clusters

    @cached_property
    def numbers(self) -> dict[str, int]:
        return {term: number for number, term in enumerate(self.terms)}

    def rows(self, names: Sequence[str], codes: NDArray[Any], lengths: NDArray[Any]) -> Any:
        """Documents, their terms as ``Bags.of_codes`` takes them, as scipy's sparse matrix [N, V]; unknown ones are
        left out."""
        return self._rows(Bags.of_codes(names, codes, lengths, vocabulary=self.numbers))

    def rows_of(self, documents: Iterable[Terms]) -> Any:
        """The same of documents whose terms are strings."""
        return self._rows(Bags.of(documents, vocabulary=self.numbers))

    def _rows(self, bags: Bags) -> Any:
        return bags.matrix(self.weighting.weights(bags, self.idf))

    def telling(self, most: int = 10) -> list[list[str]]:
        """The terms that speak for each label most, or weigh most in each cluster."""
        table = self.top.centres if isinstance(self.top, Clusters) else self.top.weight
        if isinstance(self.top, Linear) and len(table) == 2:
            table = np.stack([table[0] - table[1], table[1] - table[0]])
        best = np.argsort(-table, axis=1, kind="stable")[:, :most]
        return [[self.terms[v] for v in row.tolist() if table[k, v] > 0] for k, row in enumerate(best)]

    def save(self, path: Path) -> None:
        """Write one safetensors file."""
        top = self.top
        arrays: dict[str, NDArray[Any]] = {
            "idf": self.idf,
            "terms": np.frombuffer("\n".join(self.terms).encode(), np.uint8),
        }
        if isinstance(top, Linear):
            arrays |= {"weight": np.ascontiguousarray(top.weight), "bias": top.bias}
        else:
            arrays |= {"centres": np.ascontiguousarray(top.centres), "inertia": np.array([top.inertia])}
        header = {
            "format": FORMAT,
            "labels": json.dumps(self.labels, ensure_ascii=False),
            "weighting": json.dumps(asdict(self.weighting)),
        }
        with writing(path):
            save_file(arrays, path, header)

    @staticmethod
    def load(path: Path) -> SparseModel:
        """What ``save`` wrote.

        Raises:
            UserError: it is missing, damaged or of another kind.
        """
        try:
            with safe_open(path, "np") as file:
                header = file.metadata() or {}
                if header.get("format") != FORMAT:
                    raise UserError(
                        f"{path} has the format {header.get('format')}, not {FORMAT}: make it anew"
                    )
                found = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
            labels, weighting = tuple(json.loads(header["labels"])), TfIdf(**json.loads(header["weighting"]))
            top = (
                Linear(found["weight"], found["bias"])
                if "weight" in found
                else Clusters(found["centres"], float(found["inertia"][0]))
            )
            terms = tuple(bytes(found["terms"]).decode().split("\n"))
        except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path} cannot be read as sparse vectors ({error}): make it anew") from None
        return SparseModel(terms, found["idf"], weighting, labels, top)
