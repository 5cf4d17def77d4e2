"""n-gram models beside the field's: nltk.lm, a polars group-by, KenLM's Python module (speed.md section 6).

    python benchmarks/ngram.py                          # made-up text, a minute
    python benchmarks/ngram.py --text enwik8.txt        # a file of one's own, a sentence a line
    python benchmarks/ngram.py --words 5000000 --order 3

The peers: pip install nltk polars kenlm (kenlm has no wheel: it needs cmake and a C++ compiler). A row whose
peer is not installed says so. Every ratio is of two times taken one after the other in this process:

- pipeline: from a text file on disk to a saved Kneser-Ney model that answers, tokenising (at blanks) included;
  nltk reads, splits, fits KneserNeyInterpolated and stays in memory. nltk gets ``--nltk-words`` words, and its
  rate is compared.
- counting: every order's n-grams of ids, over one polars group_by an order.
- scoring: our batch over one ``kenlm.Model.score`` a sentence, both from one ARPA file's model, with the largest
  difference in log10 a sentence's word.
- bytes: what a saved 5-gram model takes an n-gram, mapped, beside the ARPA file's.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from plume.models import arpa
from plume.models.counts import Counts
from plume.models.ngrams import NGrams
from plume.models.smoothing import KneserNey

UNK, EOS = 0, 1
QUIET = KneserNey((0.5, 1.0, 1.5))


def made_up(words: int, kinds: int, path: Path) -> None:
    """Sentences of 20 Zipf words that mostly follow one of eight favourites."""
    draw = np.random.default_rng(1)
    weights = 1 / np.arange(1, kinds + 1)
    weights /= weights.sum()
    follow = draw.choice(kinds, size=(kinds, 8), p=weights)
    rows = words // 20
    text = np.empty((rows, 20), np.int64)
    text[:, 0] = draw.choice(kinds, rows, p=weights)
    for t in range(1, 20):
        favourite = follow[text[:, t - 1], np.minimum(draw.geometric(0.3, rows) - 1, 7)]
        text[:, t] = np.where(draw.random(rows) < 0.7, favourite, draw.choice(kinds, rows, p=weights))
    names = np.array([f"w{i}" for i in range(kinds)], object)
    path.write_text("\n".join(" ".join(row) for row in names[text]) + "\n", encoding="utf-8")


def tokenize(path: Path) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any], list[str]]:
    """Ids of a file's words, where each line begins (and the end), and the words by id."""
    lines = path.read_text(encoding="utf-8").split("\n")
    if not lines[-1]:
        lines.pop()
    words = " ".join(lines).split()
    ends = np.cumsum([0, *(line.count(" ") + 1 if line else 0 for line in lines)])
    if ends[-1] != len(words):  # runs of blanks
        ends = np.cumsum([0, *(len(line.split()) for line in lines)])
    kinds = [w for w, _ in Counter(words).most_common()]
    number = dict(zip(kinds, range(2, len(kinds) + 2), strict=True))
    ids = np.fromiter(map(number.__getitem__, words), np.int64, len(words))
    return ids, ends, ["<unk>", "</s>", *kinds]


def ours(path: Path, order: int, out: Path) -> tuple[NGrams, list[str]]:
    ids, ends, names = tokenize(path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = NGrams.of(Counts.of_documents(ids, ends, order, len(names), eos=EOS), KneserNey())
    model.save(out)
    return NGrams.load(out), names


def nltks(lines: Sequence[str], order: int) -> Any:
    from nltk.lm import KneserNeyInterpolated
    from nltk.lm.preprocessing import padded_everygram_pipeline

    grams, words = padded_everygram_pipeline(order, [line.split() for line in lines])
    model = KneserNeyInterpolated(order)
    model.fit(grams, words)
    return model


def polars_counts(ids: np.ndarray[Any, Any], ends: np.ndarray[Any, Any], order: int) -> list[Any]:
    """One group-by an order, over the same stream: a begin mark before each sentence, an end after it."""
    import polars as pl

    stream = np.full(len(ids) + 2 * (len(ends) - 1), EOS, np.int64)
    lengths = np.diff(ends)
    begins = ends[:-1] + 2 * np.arange(len(lengths))
    stream[begins] = -1
    stream[np.arange(len(ids)) + np.repeat(2 * np.arange(len(lengths)) + 1, lengths)] = ids
    found = []
    for k in range(1, order + 1):
        columns = {f"w{i}": stream[i : len(stream) - k + 1 + i] for i in range(k)}
        frame = pl.DataFrame(columns).filter(*(pl.col(f"w{i}") >= 0 for i in range(1, k)))
        found.append(frame.group_by(list(columns)).len())
    return found


def seconds(work: Callable[[], Any], repeats: int = 1) -> float:
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--text", type=Path, help="a text file, a sentence a line (default: made up)")
    parser.add_argument("--words", type=int, default=1_000_000)
    parser.add_argument("--vocab-size", type=int, default=30_000)
    parser.add_argument("--nltk-words", type=int, default=100_000)
    parser.add_argument("--order", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    order, rows = given.order, []

    def row(measure: str, plume: float | None, peer: str, theirs: Callable[[], float], unit: str) -> None:
        try:
            other: float | None = theirs()
        except ImportError as error:
            other, peer = None, f"{peer} is not installed: pip install {error.name}"
        ratio = plume / other if plume is not None and other else None
        rows.append(
            {"measure": measure, "plume": plume, "peer": peer, "theirs": other, "ratio": ratio, "unit": unit}
        )

    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        path = given.text or folder / "text.txt"
        if given.text is None:
            made_up(given.words, given.vocab_size, path)
        small = folder / "small.txt"
        lines = path.read_text(encoding="utf-8").split("\n")[: max(1, given.nltk_words // 20)]
        small.write_text("\n".join(lines) + "\n", encoding="utf-8")
        ours(small, order, folder / "warm.safetensors")  # compile
        num_words = len(tokenize(path)[0])

        took = seconds(lambda: ours(path, order, folder / "model.safetensors"), given.repeats)
        held = sum(len(line.split()) for line in lines)
        row(f"file to saved model, {num_words / 1e6:.1f} M words", num_words / took, "nltk.lm",
            lambda: held / seconds(lambda: nltks(lines, order)), "words/s")  # fmt: skip

        ids, ends, names = tokenize(path)
        took = seconds(lambda: Counts.of_documents(ids, ends, order, len(names), eos=EOS), given.repeats)
        row("counting", num_words / took, "polars group_by",
            lambda: num_words / seconds(lambda: polars_counts(ids, ends, order), given.repeats), "words/s")  # fmt: skip

        model, names = ours(path, order, folder / "model.safetensors")
        arpa.write(model, names, folder / "model.arpa")
        asked = lines[: max(1, len(lines) // 2)]
        number = {word: id for id, word in enumerate(names)}
        documents = [np.array([number.get(w, UNK) for w in line.split()], np.int64) for line in asked]
        events = sum(len(d) + 1 for d in documents)
        model.score(documents)
        took = seconds(lambda: model.score(documents), given.repeats)
        differences: list[float] = []

        def kenlms() -> float:
            import kenlm

            theirs = kenlm.Model(str(folder / "model.arpa"))
            time_taken = seconds(lambda: [theirs.score(line) for line in asked], given.repeats)
            for line, document in zip(asked[:200], documents, strict=False):
                mine = model.score([document]).sum() / np.log(10)
                differences.append(abs(theirs.score(line) - mine) / (len(document) + 1))
            return events / time_taken

        row("scoring with back-off, ids in", events / took, "kenlm", kenlms, "words/s")
        if differences:
            rows.append({"measure": "largest difference", "plume": max(differences), "peer": "kenlm", "theirs": None,
                         "ratio": None, "unit": "log10 a word"})  # fmt: skip

        five, names = ours(path, 5, folder / "five.safetensors")
        arpa.write(five, names, folder / "five.arpa")
        count = sum(five.num_ngrams)
        rows.append({"measure": f"5-gram model, {count / 1e6:.1f} M n-grams", "plume": five.num_bytes / count,
                     "peer": "its ARPA file", "theirs": (folder / "five.arpa").stat().st_size / count, "ratio": None,
                     "unit": "bytes an n-gram"})  # fmt: skip
    if given.json:
        print(json.dumps({"order": order, "words": num_words, "rows": rows}))
        return
    print(f"order {order}, {num_words:,} words\n")
    print("| measure | plume | peer | theirs | ratio | unit |\n|---|---:|---|---:|---:|---|")
    for r in rows:
        ratio = "" if r["ratio"] is None else f"x{r['ratio']:.1f}"
        cells = [r["measure"], _number(r["plume"]), r["peer"], _number(r["theirs"]), ratio, r["unit"]]
        print(f"| {' | '.join(cells)} |")


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


if __name__ == "__main__":
    main()
