"""Texts as sparse vectors of their terms: counts, TF-IDF and BM25, and the search over them (spec 02 sections A to D).

Terms are given: ``plume.text.terms`` makes them of texts. Rows are documents, columns terms in code point order.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from plume.errors import UserError

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Terms = Sequence[str]

FORMAT = "plume-vectors-1"
_ARRAYS = ("rows", "columns", "counts")


@dataclass(frozen=True)
class Bags:
    """How often each term is in each document, as compressed rows.

    terms: the columns, sorted; rows [N + 1]: where each document's entries begin; columns and counts [E]; an entry's
    columns ascend. ``scipy.sparse.csr_array((counts, columns, rows))`` is the matrix.
    """

    terms: tuple[str, ...]
    rows: Ints
    columns: NDArray[np.int32]
    counts: NDArray[np.int32]

    @staticmethod
    def of(
        documents: Iterable[Terms],
        *,
        min_df: int | float = 1,
        max_df: int | float = 1.0,
        max_features: int | None = None,
        binary: bool = False,
        vocabulary: Sequence[str] | Mapping[str, int] | None = None,
    ) -> Bags:
        """Count; scikit-learn's ``CountVectorizer`` with the same options (a float is a share of the documents).

        ``vocabulary``: the only terms to be counted; a mapping says their columns, in the order of its keys.

        Raises:
            ValueError: no term is left.
        """
        numbers: dict[str, int] = {}
        found = [[numbers.setdefault(term, len(numbers)) for term in document] for document in documents]
        lengths = np.fromiter(map(len, found), np.int64, len(found))
        codes = np.fromiter((code for document in found for code in document), np.int32, int(lengths.sum()))
        return Bags.of_codes(
            list(numbers), codes, lengths,
            min_df=min_df, max_df=max_df, max_features=max_features, binary=binary, vocabulary=vocabulary,
        )  # fmt: skip

    @staticmethod
    def of_codes(
        names: Sequence[str],
        codes: NDArray[Any],
        lengths: NDArray[Any],
        *,
        min_df: int | float = 1,
        max_df: int | float = 1.0,
        max_features: int | None = None,
        binary: bool = False,
        vocabulary: Sequence[str] | Mapping[str, int] | None = None,
    ) -> Bags:
        """The same of documents whose terms are numbers (``plume.text.terms.coded``): codes [N] say which of the
        different ``names`` stand in the documents, lengths [D] how many of them are each one's.

        Raises:
            ValueError: no term is left.
        """
        if vocabulary is not None:
            own = vocabulary
            if not isinstance(own, Mapping):
                own = {term: number for number, term in enumerate(sorted(set(own)))}
            place = np.fromiter((own.get(name, -1) for name in names), np.int64, len(names))
            inside = place[codes] >= 0
            owners = np.repeat(np.arange(len(lengths)), lengths)[inside]
            lengths = np.bincount(owners, minlength=len(lengths))
            return _counted(tuple(own), place, codes[inside], lengths, binary)
        order = sorted(range(len(names)), key=names.__getitem__)
        place = np.empty(len(names), np.int64)
        place[order] = np.arange(len(names))
        bags = _counted(tuple(names[i] for i in order), place, codes, lengths, binary)
        df = bags.df()
        most = max_df if isinstance(max_df, int) else max_df * len(bags)
        least = min_df if isinstance(min_df, int) else min_df * len(bags)
        kept = (df >= least) & (df <= most)
        if max_features is not None and kept.sum() > max_features:
            total = np.bincount(place[codes], minlength=len(names))[kept]
            best = np.argsort(-total, kind="stable")[:max_features]
            kept[np.delete(np.flatnonzero(kept), best)] = False
        if not kept.any():
            raise ValueError("no terms are left: the documents are empty, or min_df and max_df leave none")
        if kept.all():
            return bags
        inside = kept[bags.columns]
        rows = np.concatenate([[0], np.cumsum(inside)])[bags.rows]
        columns = (np.cumsum(kept) - 1)[bags.columns[inside]].astype(np.int32)
        terms = tuple(term for term, keep in zip(bags.terms, kept.tolist(), strict=True) if keep)
        return Bags(terms, rows, columns, bags.counts[inside])

    def __len__(self) -> int:
        return len(self.rows) - 1

    def df(self) -> Ints:
        """How many documents have each term."""
        return np.bincount(self.columns, minlength=len(self.terms))

    def owners(self) -> Ints:
        """The document of each entry."""
        return np.repeat(np.arange(len(self)), np.diff(self.rows))

    def matrix(self, values: NDArray[Any]) -> Any:
        """The entries with these values as scipy's sparse matrix [N, V], for scikit-learn's classifiers and k-means."""
        from scipy.sparse import csr_array

        kind = np.int32 if len(values) < 2**31 else np.int64
        shape = (len(self), len(self.terms))
        return csr_array((values, self.columns.astype(kind), self.rows.astype(kind)), shape=shape)

    def row(self, document: int) -> dict[str, int]:
        """The terms of a document and how often each is there."""
        here = slice(int(self.rows[document]), int(self.rows[document + 1]))
        return {
            self.terms[c]: int(n)
            for c, n in zip(self.columns[here].tolist(), self.counts[here].tolist(), strict=True)
        }


def _counted(
    terms: tuple[str, ...], place: Ints, codes: NDArray[Any], lengths: NDArray[Any], binary: bool
) -> Bags:
    """Documents of codes, whose columns are ``place[code]``, as bags."""
    from plume.models import vector_kernels as kernels

    columns, counts = np.empty(len(codes), np.int32), np.empty(len(codes), np.int32)
    rows = np.zeros(len(lengths) + 1, np.int64)
    kernels.count(codes, lengths, place, np.zeros(len(terms), np.int32), rows, columns, counts)
    size = int(rows[-1])
    return Bags(terms, rows, columns[:size], np.ones(size, np.int32) if binary else counts[:size])


@dataclass(frozen=True)
class TfIdf:
    """tf idf, rows of length 1: idf = ln((1 + n) / (1 + df)) + 1, or ln(n / df) + 1 without ``smooth_idf``.

    ``sublinear_tf``: 1 + ln tf. The names and values are scikit-learn's.
    """

    norm: Literal["l2", "l1"] | None = "l2"
    use_idf: bool = True
    smooth_idf: bool = True
    sublinear_tf: bool = False

    def idf(self, bags: Bags) -> Floats:
        """The weight of each term, [V].

        >>> bags = Bags.of([d.split() for d in ("the cat sat", "the cat sat on the mat", "dog")])
        >>> np.round(TfIdf().idf(bags), 8).tolist()
        [1.28768207, 1.69314718, 1.69314718, 1.69314718, 1.28768207, 1.28768207]
        """
        if not self.use_idf:
            return np.ones(len(bags.terms))
        smooth = int(self.smooth_idf)
        with np.errstate(divide="ignore"):
            weight: Floats = np.log((len(bags) + smooth) / (bags.df() + smooth)) + 1
        return weight

    def weights(self, bags: Bags, idf: Floats | None = None) -> Floats:
        """The value of each entry of ``bags``, [E]; ``idf``: of the documents they are searched among."""
        tf = bags.counts.astype(np.float64)
        if self.sublinear_tf:
            tf = 1 + np.log(tf)
        value = tf * (self.idf(bags) if idf is None else idf)[bags.columns]
        if self.norm is None:
            return value
        owner = bags.owners()
        total = np.bincount(owner, value**2 if self.norm == "l2" else np.abs(value), len(bags))
        length = np.sqrt(total) if self.norm == "l2" else total
        return value / np.where(length > 0, length, 1)[owner]


@dataclass(frozen=True)
class BM25:
    """How well a document answers a query, a sum over its terms (spec 02 section D).

    ``variant``: "lucene" (idf = ln(1 + (N - n + 0.5)/(n + 0.5))), "robertson" (without the 1 +; a negative one becomes
    0.25 of the mean), "lucene_no_k1" (without the factor k1 + 1), "bm25+" and "bm25l" (which pay ``delta`` for a
    term that is there at all).
    """

    k1: float = 1.2
    b: float = 0.75
    variant: Literal["lucene", "robertson", "lucene_no_k1", "bm25+", "bm25l"] = "lucene"
    delta: float | None = None
    floor: bool = True

    def idf(self, bags: Bags) -> Floats:
        """The weight of each term, [V]."""
        n, size = bags.df().astype(np.float64), len(bags)
        odds = (size - n + 0.5) / (n + 0.5)
        if self.variant != "robertson":
            found: Floats = np.log1p(odds)
            return found
        weight: Floats = np.log(odds)
        return np.where(weight < 0, 0.25 * weight.mean(), weight) if self.floor and len(weight) else weight

    def weights(self, bags: Bags) -> Floats:
        """What each entry of ``bags`` adds to the score of its document, [E]."""
        f, k1 = bags.counts.astype(np.float64), self.k1
        owner = bags.owners()
        length = np.bincount(owner, f, len(bags))
        mean = length.mean() if length.any() else 1.0
        relative = (1 - self.b + self.b * length / mean)[owner]
        delta = self.delta if self.delta is not None else {"bm25+": 1.0, "bm25l": 0.5}.get(self.variant, 0.0)
        if self.variant == "bm25l":
            c = f / relative + delta
            share = (k1 + 1) * c / (k1 + c)
        else:
            share = f * (1.0 if self.variant == "lucene_no_k1" else k1 + 1) / (f + k1 * relative) + delta
        value: Floats = self.idf(bags)[bags.columns] * share
        return value


@dataclass(frozen=True)
class Index:
    """Documents to be searched: for each term the documents that have it, and what it adds to each.

    begins [V + 1]; documents and weights, beside each other, [E]. ``idf``: what a query's own terms weigh (TF-IDF).
    """

    bags: Bags
    scheme: TfIdf | BM25
    numbers: dict[str, int]
    begins: Ints
    documents: NDArray[np.int32]
    weights: NDArray[np.float32]
    idf: Floats

    @staticmethod
    def of(bags: Bags, scheme: TfIdf | BM25) -> Index:
        """Invert ``bags`` under a scheme of weights."""
        order = np.argsort(bags.columns, kind="stable")
        begins = np.concatenate([[0], np.cumsum(bags.df())])
        documents = bags.owners()[order].astype(np.int32)
        weights = scheme.weights(bags)[order].astype(np.float32)
        numbers = {term: i for i, term in enumerate(bags.terms)}
        return Index(bags, scheme, numbers, begins, documents, weights, scheme.idf(bags))

    def search(self, query: Terms, top: int = 10) -> list[tuple[int, float]]:
        """The best documents and their scores, descending, ties by the lower number; those of score 0 left out."""
        return self.search_many([query], top)[0]

    def search_many(self, queries: Sequence[Terms], top: int = 10) -> list[list[tuple[int, float]]]:
        """The same for many queries at once, on all threads."""
        from plume.compiling import threads
        from plume.models import vector_kernels as kernels

        weighed = [self._weighed(query) for query in queries]
        ends = np.cumsum([0, *map(len, weighed)])
        begins, documents, weights = map(
            np.asarray, (self.begins, self.documents, self.weights)
        )  # mapped ones too
        asked = np.fromiter((term for w in weighed for term in w), np.int64, int(ends[-1]))
        factors = np.fromiter((f for w in weighed for f in w.values()), np.float64, int(ends[-1]))
        size = max(0, min(top, len(self.bags)))
        found, values = np.empty((len(queries), size), np.int32), np.empty((len(queries), size))
        sizes = np.zeros(len(queries), np.int64)

        def work(part: slice) -> None:
            count = len(self.bags)
            scores, seen, touched = np.zeros(count), np.zeros(count, np.bool_), np.empty(count, np.int32)
            kernels.best(
                begins, documents, weights, asked, factors, ends[part.start : part.stop + 1], scores, seen, touched,
                found[part], values[part], sizes[part],
            )  # fmt: skip

        if size and len(queries):
            cuts = np.linspace(0, len(queries), min(len(queries), threads()) + 1).astype(int).tolist()
            with ThreadPoolExecutor(len(cuts) - 1) as pool:
                list(pool.map(work, [slice(x, y) for x, y in pairwise(cuts)]))
        rows = zip(found.tolist(), values.tolist(), sizes.tolist(), strict=True)
        return [list(zip(d[:n], v[:n], strict=True)) for d, v, n in rows]

    def scores(self, query: Terms) -> Floats:
        """Every document's score, [N]: the cosine (TF-IDF) or the sum of BM25's weights."""
        scores = np.zeros(len(self.bags))
        for term, w in self._weighed(query).items():
            here = slice(int(self.begins[term]), int(self.begins[term + 1]))
            scores[self.documents[here]] += w * self.weights[here]  # a document is there once a term
        return scores

    def _weighed(self, query: Terms) -> dict[int, float]:
        """The known terms of a query and what each of them counts."""
        asked: dict[int, float] = {}
        for term in query:
            if (number := self.numbers.get(term)) is not None:
                asked[number] = asked.get(number, 0.0) + 1.0
        if not asked or not isinstance(self.scheme, TfIdf):
            return asked
        sublinear = self.scheme.sublinear_tf
        weight = {t: (1 + math.log(n) if sublinear else n) * float(self.idf[t]) for t, n in asked.items()}
        length = math.sqrt(sum(w * w for w in weight.values()))
        return {t: w / length for t, w in weight.items()}

    def similar(self, document: int, top: int = 10) -> list[tuple[int, float]]:
        """More like this: the documents nearest to one of them, itself left out."""
        terms = [term for term, n in self.bags.row(document).items() for _ in range(n)]
        return [(d, score) for d, score in self.search(terms, top + 1) if d != document][:top]

    def save(self, folder: Path) -> None:
        """Write arrays that ``load`` maps into memory, and the terms beside them."""
        folder.mkdir(parents=True, exist_ok=True)
        for name in _ARRAYS:
            np.save(folder / f"{name}.npy", getattr(self.bags, name))
        np.save(folder / "begins.npy", self.begins)
        np.save(folder / "documents.npy", self.documents)
        np.save(folder / "weights.npy", self.weights)
        kind = "tfidf" if isinstance(self.scheme, TfIdf) else "bm25"
        header = {"format": FORMAT, "kind": kind, "scheme": asdict(self.scheme), "terms": self.bags.terms}
        (folder / "vectors.json").write_text(json.dumps(header, ensure_ascii=False), encoding="utf-8")

    @staticmethod
    def load(folder: Path) -> Index:
        """What ``save`` wrote; the arrays stay on disk until they are asked for.

        Raises:
            UserError: it is missing, damaged or of another kind.
        """
        try:
            header = json.loads((folder / "vectors.json").read_text(encoding="utf-8"))
            if header["format"] != FORMAT:
                raise UserError(f"{folder} has the format {header['format']}, not {FORMAT}: delete it")
            names = (*_ARRAYS, "begins", "documents", "weights")
            found: dict[str, Any] = {n: np.load(folder / f"{n}.npy", mmap_mode="r") for n in names}
            scheme = (TfIdf if header["kind"] == "tfidf" else BM25)(**header["scheme"])
            bags = Bags(tuple(header["terms"]), *(found[n] for n in _ARRAYS))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"{folder} cannot be read as an index ({error}): delete it, to be made anew"
            ) from None
        numbers = {term: i for i, term in enumerate(bags.terms)}
        return Index(
            bags, scheme, numbers, found["begins"], found["documents"], found["weights"], scheme.idf(bags)
        )
