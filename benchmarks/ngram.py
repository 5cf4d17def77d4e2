"""n-gram models beside the field's: nltk.lm, a polars group-by, KenLM's Python module (speed.md section 6).

    python benchmarks/ngram.py                          # made-up text, a minute
    python benchmarks/ngram.py --text enwik8.txt        # a file of one's own, a sentence a line
    python benchmarks/ngram.py --words 5000000          # some minutes on two cores

The peers: pip install nltk polars kenlm (kenlm has no wheel: it needs cmake and a C++ compiler). A row whose
peer is not installed says so. The two sides of a row take turns in this process; medians of ``--repeats`` are compared,
by the clock and by processor time. Everything may use ``--threads``, except nltk and KenLM, which have one.

- pipeline: from a text file on disk to a saved Kneser-Ney model that answers, tokenising (at blanks) included;
  nltk reads, splits, fits KneserNeyInterpolated and stays in memory. nltk gets ``--nltk-words`` words, and words a
  second are compared. ``plume pretrain`` does the same by the command line's function: its tokenizer parts words from
  punctuation, and documents are hashed, split into train, dev and test, stored and scored.
- counting: every order's n-grams of ids, over one polars group_by an order.
- scoring: text that was held out, one batch of ours over one ``kenlm.Model.score`` a line, both from one ARPA file's
  model: with ids in, and with lines in that are split and numbered first. The largest difference is in log10 a word.
- bytes: what a saved 5-gram model takes an n-gram, mapped, beside the ARPA file's.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import itertools
import json
import os
import statistics
import sys
import tempfile
import time
import warnings
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

THREADS = (
    sys.argv[sys.argv.index("--threads") + 1] if "--threads" in sys.argv[:-1] else str(os.cpu_count() or 1)
)
for name in ("OMP_NUM_THREADS", "POLARS_MAX_THREADS"):  # read when they are imported
    os.environ[name] = THREADS

import numpy as np  # noqa: E402

import plume  # noqa: E402
from plume import config  # noqa: E402
from plume.models import arpa  # noqa: E402
from plume.models.counts import Counts  # noqa: E402
from plume.models.ngrams import NGrams  # noqa: E402
from plume.models.smoothing import KneserNey  # noqa: E402
from plume.text.numbering import BlankWords  # noqa: E402

UNK, EOS = 0, 1
Ids = np.ndarray[Any, Any]


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


def tokenize(path: Path) -> tuple[Ids, list[str]]:
    """Ids of a file's words, an EOS at the end of each line, and the words by id."""
    number: defaultdict[str, int] = defaultdict(itertools.count(EOS).__next__, {"": -1})
    number["\n"]  # the first: EOS
    words = path.read_text(encoding="utf-8").replace("\n", " \n ").split(" ")
    ids = np.fromiter(map(number.__getitem__, words), np.int64, len(words))
    return ids[ids >= 0], ["<unk>", "</s>", *list(number)[2:]]


def ours(path: Path, order: int, out: Path) -> tuple[NGrams, list[str]]:
    ids, names = tokenize(path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = NGrams.of(Counts.of([ids], order, len(names), eos=EOS), KneserNey())
    model.save(out)
    return NGrams.load(out), names


def verb(path: Path, order: int) -> None:
    recipe = config.override(config.resolve("ngram:kneser_ney"), [f"model.order={order}"])
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stderr(io.StringIO()):
        plume.pretrain(recipe, data=path, out=Path(folder) / "run")


def nltks(lines: Sequence[str], order: int) -> Any:
    from nltk.lm import KneserNeyInterpolated
    from nltk.lm.preprocessing import padded_everygram_pipeline

    grams, words = padded_everygram_pipeline(order, [line.split() for line in lines])
    model = KneserNeyInterpolated(order)
    model.fit(grams, words)
    return model


def polars_counts(ids: Ids, order: int) -> list[Any]:
    """One group-by an order, over the same stream: a begin mark before each sentence, an end after it."""
    import polars as pl

    starts = np.append(0, np.flatnonzero(ids[:-1] == EOS) + 1)
    stream = np.insert(ids, starts, -1)
    found = []
    for k in range(1, order + 1):
        columns = {f"w{i}": stream[i : len(stream) - k + 1 + i] for i in range(k)}
        frame = pl.DataFrame(columns).filter(*(pl.col(f"w{i}") >= 0 for i in range(1, k)))
        found.append(frame.group_by(list(columns)).len())
    return found


def in_turns(sides: Sequence[Callable[[], Any]], repeats: int) -> list[tuple[float, float]]:
    """(seconds by the clock, seconds of processor time) of each, medians of runs that take turns."""
    taken: list[list[tuple[float, float]]] = [[] for _ in sides]
    for _ in range(repeats):
        for side, times in zip(sides, taken, strict=True):
            wall, cpu = time.perf_counter(), time.process_time()
            side()
            times.append((time.perf_counter() - wall, time.process_time() - cpu))
    return [
        (statistics.median(w for w, _ in times), statistics.median(c for _, c in times)) for times in taken
    ]


class Table:
    """Rows of a measure, ours and the peer's."""

    def __init__(self, repeats: int) -> None:
        self.repeats, self.rows = repeats, list[dict[str, Any]]()

    def race(
        self,
        measure: str,
        words: int,
        mine: Callable[[], Any],
        peer: str,
        theirs: Callable[[], Any],
        their_words: int,
    ) -> None:
        """A row of words a second."""
        try:
            theirs()  # also imports and warms up
        except ImportError as error:
            [(wall, _)] = in_turns([mine], self.repeats)
            self.add(
                measure, words / wall, f"{peer} is not installed: pip install {error.name}", None, "words/s"
            )
            return
        (wall, cpu), (their_wall, their_cpu) = in_turns([mine, theirs], self.repeats)
        mine_each, their_each = (
            (wall / words, cpu / words),
            (their_wall / their_words, their_cpu / their_words),
        )
        by_clock, by_cpu = (b / a for a, b in zip(mine_each, their_each, strict=True))
        self.add(measure, words / wall, peer, their_words / their_wall, "words/s", ratio=by_clock, cpu=by_cpu)

    def add(
        self, measure: str, plume: float, peer: str, theirs: float | None, unit: str, **ratios: float
    ) -> None:
        self.rows.append(
            {"measure": measure, "plume": plume, "peer": peer, "theirs": theirs, "unit": unit, **ratios}
        )

    def __str__(self) -> str:
        lines = ["| measure | plume | peer | theirs | ratio | ratio of CPU time | unit |",
                 "|---|---:|---|---:|---:|---:|---|"]  # fmt: skip
        for r in self.rows:
            ratios = [f"x{r[name]:.2f}" if name in r else "" for name in ("ratio", "cpu")]
            cells = [r["measure"], _number(r["plume"]), r["peer"], _number(r["theirs"]), *ratios, r["unit"]]
            lines.append(f"| {' | '.join(cells)} |")
        return "\n".join(lines)


def measured(path: Path, folder: Path, given: argparse.Namespace) -> tuple[int, Table]:
    order, table = given.order, Table(given.repeats)
    lines = path.read_text(encoding="utf-8").removesuffix("\n").split("\n")
    cut = len(lines) - max(1, min(len(lines) // 10, 25_000))
    train, small = folder / "train.txt", folder / "small.txt"
    train.write_text("\n".join(lines[:cut]) + "\n", encoding="utf-8")
    few = list(itertools.takewhile(lambda i: i * 20 < given.nltk_words, range(cut)))
    small.write_text("\n".join(lines[: len(few)]) + "\n", encoding="utf-8")
    ours(small, order, folder / "warm.safetensors")  # compile
    verb(small, order)
    ids, names = tokenize(train)
    words, held = len(ids), int(tokenize(small)[0].size)

    def nltk_reads() -> Any:
        return nltks(small.read_text(encoding="utf-8").splitlines(), order)

    name = f"{words / 1e6:.1f} M words; nltk {held:,}"
    table.race(f"file to saved model, {name}", words, lambda: ours(train, order, folder / "model.safetensors"),
               "nltk.lm", nltk_reads, held)  # fmt: skip
    table.race(f"plume pretrain, {name}", words, lambda: verb(train, order), "nltk.lm", nltk_reads, held)
    table.race("counting", words, lambda: Counts.of([ids], order, len(names), eos=EOS), "polars group_by",
               lambda: polars_counts(ids, order), words)  # fmt: skip

    model = NGrams.load(folder / "model.safetensors")
    arpa.write(model, names, folder / "model.arpa")
    asked = lines[cut:]
    number = BlankWords({word: id for id, word in enumerate(names)}, UNK)
    flat, ends = number(asked)
    events = len(flat) + len(asked)
    loaded: list[Any] = []

    def kenlms() -> list[float]:
        import kenlm

        if not loaded:
            loaded.append(kenlm.Model(str(folder / "model.arpa")))
        score = loaded[0].score
        return [score(line) for line in asked]

    model.score_documents(flat, ends)
    for what, work in (("ids", lambda: model.score_documents(flat, ends)),
                       ("lines", lambda: model.score_documents(*number(asked)))):  # fmt: skip
        table.race(
            f"scoring {events:,} held-out words with back-off, {what} in",
            events,
            work,
            "kenlm",
            kenlms,
            events,
        )
    if loaded:
        mine = np.add.reduceat(model.score_documents(flat, ends), ends[:-1] + np.arange(len(asked))) / np.log(
            10
        )
        difference = np.abs(mine - np.array(kenlms())) / (np.diff(ends) + 1)
        table.add("largest difference", float(difference.max()), "kenlm", None, "log10 a word")

    five, names = ours(train, 5, folder / "five.safetensors")
    arpa.write(five, names, folder / "five.arpa")
    count = sum(five.num_ngrams)
    table.add(f"5-gram model, {count / 1e6:.1f} M n-grams", five.num_bytes / count, "its ARPA file",
              (folder / "five.arpa").stat().st_size / count, "bytes an n-gram")  # fmt: skip
    return words, table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--text", type=Path, help="a text file, a sentence a line (default: made up)")
    parser.add_argument("--words", type=int, default=1_000_000)
    parser.add_argument("--vocab-size", type=int, default=30_000)
    parser.add_argument("--nltk-words", type=int, default=100_000)
    parser.add_argument("--order", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=int(THREADS))
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        path = given.text or Path(place) / "text.txt"
        if given.text is None:
            made_up(given.words, given.vocab_size, path)
        words, table = measured(path, Path(place), given)
    if given.json:
        print(
            json.dumps({"order": given.order, "words": words, "threads": given.threads, "rows": table.rows})
        )
        return
    print(f"order {given.order}, {words:,} words and ends of lines, {given.threads} threads\n\n{table}")


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


if __name__ == "__main__":
    main()
