"""TF-IDF and the search over it, beside scikit-learn on real text: film reviews, and questions made of their words.

    python benchmarks/vectors.py --corpus runs/demo/corpus

The corpus is fetched there unless `make demo` has put it there already. Both sides get texts that lie in memory and the
same analyser (words of two letters and more, in small letters), and make the same matrix, which is checked first. They
run in turns; medians, CPU time beside wall time. Fit: texts to weighed rows. Search: the ten nearest documents of each
of some thousand questions of five words, from their text; scikit-learn's way is one sparse product for all of them.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from plume.models.vectors import Bags, Index, TfIdf
from plume.studies import corpora
from plume.text.terms import analyzer, coded

TOP = 10


def reviews(folder: Path, count: int) -> list[str]:
    path = corpora.english(folder).text
    with path.open(encoding="utf-8") as file:
        return [json.loads(line)["text"] for _, line in zip(range(count), file, strict=False)]


def questions(texts: list[str], count: int) -> list[str]:
    """Five words of one review each: frequent words are asked for often, as they are by people."""
    draw, terms = np.random.default_rng(0), analyzer("pattern")
    found = []
    while len(found) < count:
        words = terms(texts[int(draw.integers(len(texts)))])
        if len(words) >= 5:
            found.append(" ".join(draw.choice(words, 5)))
    return found


def fit(texts: list[str]) -> tuple[Bags, Any]:
    bags = Bags.of_codes(*coded(texts, "pattern"))
    return bags, TfIdf().weights(bags)


def their_fit(texts: list[str]) -> tuple[Any, Any]:
    from sklearn.feature_extraction.text import TfidfVectorizer

    vectorizer = TfidfVectorizer()
    return vectorizer, vectorizer.fit_transform(texts)


def search(index: Index, asked: list[str]) -> list[list[tuple[int, float]]]:
    terms = analyzer("pattern")
    return index.search_many([terms(question) for question in asked], TOP)


def their_search(vectorizer: Any, rows: Any, asked: list[str]) -> list[list[tuple[int, float]]]:
    scores = (vectorizer.transform(asked) @ rows.T).tocsr()
    found = []
    for begin, end in zip(scores.indptr[:-1], scores.indptr[1:], strict=True):
        documents, values = scores.indices[begin:end], scores.data[begin:end]
        best = np.argpartition(-values, TOP)[:TOP] if len(values) > TOP else np.arange(len(values))
        best = best[np.lexsort((documents[best], -values[best]))]
        found.append(list(zip(documents[best].tolist(), values[best].tolist(), strict=True)))
    return found


def timed(work: Callable[[], Any]) -> tuple[float, float]:
    wall, used = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - used


def in_turns(
    ours: Callable[[], Any], theirs: Callable[[], Any], rounds: int
) -> tuple[Any, Any, float, float]:
    """Median (wall, CPU) seconds of both, and how many times less ours takes of each."""
    both: dict[str, list[tuple[float, float]]] = {"ours": [], "theirs": []}
    for _ in range(rounds):
        both["theirs"].append(timed(theirs))
        both["ours"].append(timed(ours))
    (a, b), (c, d) = (
        [statistics.median(column) for column in zip(*both[n], strict=True)] for n in ("ours", "theirs")
    )
    return (a, b), (c, d), c / a, d / b


def peak(what: str, folder: Path, count: int) -> float:
    """Megabytes that a process of its own took at most beyond the texts themselves, to make the rows."""
    done = subprocess.run(
        [sys.executable, __file__, "--child", what, "--corpus", str(folder), "--documents", str(count)],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    return float(done.stdout)


def memory() -> float:
    """Megabytes that this process has taken at most. Not ``ru_maxrss``, which a child begins with its parent's."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1e3


def child(what: str, folder: Path, count: int) -> None:
    texts, make = reviews(folder, count), fit if what == "ours" else their_fit
    make(texts[:50])  # what is imported and compiled is no part of it
    before = memory()
    kept = make(texts)
    print(memory() - before)
    del kept


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--corpus", type=Path, default=Path("runs/demo/corpus"))
    parser.add_argument("--documents", type=int, default=10_000)
    parser.add_argument("--questions", type=int, default=2_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        child(args.child, args.corpus, args.documents)
        return
    texts = reviews(args.corpus, args.documents)
    size = sum(len(text.encode()) for text in texts) / 1e6
    fit(texts[:50])  # compiles
    bags, values = fit(texts)
    vectorizer, rows = their_fit(texts)
    assert list(bags.terms) == vectorizer.get_feature_names_out().tolist()
    error = float(abs(bags.matrix(values) - rows).max())
    print(f"{len(texts):,} reviews, {size:.1f} MB, {len(bags.terms):,} terms; largest difference {error:.1e}")
    assert error < 1e-12
    index, asked = Index.of(bags, TfIdf()), questions(texts, args.questions)
    search(index, asked[:10])
    for ours, theirs in zip(search(index, asked), their_search(vectorizer, rows, asked), strict=True):
        np.testing.assert_allclose([s for _, s in ours], [s for _, s in theirs], atol=1e-6)
    print("| measure | scikit-learn | Plume | wall | CPU |\n|---|---|---|---|---|")
    (a, _), (b, _), wall, cpu = in_turns(lambda: fit(texts), lambda: their_fit(texts), args.rounds)
    print(f"| fit, MB/s | {size / b:.1f} | {size / a:.1f} | x{wall:.2f} | x{cpu:.2f} |")
    (a, _), (b, _), wall, cpu = in_turns(
        lambda: search(index, asked), lambda: their_search(vectorizer, rows, asked), args.rounds
    )
    speeds = (len(asked) / b, len(asked) / a)
    print(
        f"| top {TOP} of a batch, questions/s | {speeds[0]:,.0f} | {speeds[1]:,.0f} | x{wall:.2f} | x{cpu:.2f} |"
    )
    memory = [peak(what, args.corpus, args.documents) for what in ("theirs", "ours")]
    print(
        f"| memory of the fit, MB | {memory[0]:.0f} | {memory[1]:.0f} | x{memory[0] / max(memory[1], 1e-9):.2f} | |"
    )


if __name__ == "__main__":
    main()
