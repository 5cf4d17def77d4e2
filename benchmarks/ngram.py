"""n-gram models: tokens a second of counting, of Kneser-Ney and of scoring, beside dictionaries of tuples.

    python benchmarks/ngram.py                        # a few seconds
    python benchmarks/ngram.py --tokens 2000000 --order 5

The peer is the model as one writes it in Python, with the same rules (spec 01 section 3) and the same result,
which is checked. Both sides run in turns on the same text, one core each; figures are medians, ratios are
between the two of one run. A last row gives our rate alone on a text ``--large`` times as long.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from plume.models.counts import Counts
from plume.models.ngrams import NGrams
from plume.models.smoothing import KneserNey, discounts

Gram = tuple[int, ...]
EOS = 0
FALLBACK = (0.5, 1.0, 1.5)


def documents(tokens: int, vocab_size: int, seed: int) -> list[np.ndarray[Any, np.dtype[np.uint16]]]:
    """Made-up text in documents of 200 tokens: Zipf words that mostly follow one of eight favourites."""
    draw = np.random.default_rng(seed)
    weights = 1 / np.arange(1, vocab_size)
    weights /= weights.sum()
    follow = np.random.default_rng(0).choice(vocab_size - 1, size=(vocab_size, 8), p=weights)
    rows = tokens // 200
    text = np.empty((rows, 200), np.int64)
    text[:, 0] = draw.choice(vocab_size - 1, rows, p=weights)
    for t in range(1, 200):
        favourite = follow[text[:, t - 1], np.minimum(draw.geometric(0.3, rows) - 1, 7)]
        text[:, t] = np.where(
            draw.random(rows) < 0.7, favourite, draw.choice(vocab_size - 1, rows, p=weights)
        )
    return list((text + 1).astype(np.uint16))


def count(texts: Sequence[Sequence[int]], order: int, begin: int) -> list[Counter[Gram]]:
    """What occurred how often, an order a dictionary."""
    found: list[Counter[Gram]] = [Counter() for _ in range(order + 1)]
    for text in texts:
        padded = (begin, *text, EOS)
        for k in range(1, order + 1):
            found[k].update(zip(*(padded[i:] for i in range(k)), strict=False))
    del found[1][(begin,)]
    return found


class Dictionaries:
    """Interpolated modified Kneser-Ney over dictionaries of tuples."""

    def __init__(self, texts: Sequence[Sequence[int]], order: int, vocab_size: int) -> None:
        self.order, self.begin = order, vocab_size
        raw = count(texts, order, vocab_size)
        left: list[Counter[Gram]] = [Counter(g[1:] for g in raw[k + 1]) for k in range(order)]
        seen = [{g: left[k].get(g, n) for g, n in raw[k].items()} if k < order else dict(raw[k])
                for k in range(order + 1)]  # fmt: skip
        self.prob: dict[Gram, float] = {}
        self.weight: dict[Gram, float] = {}
        for k in range(1, order + 1):
            t = Counter(seen[k].values())
            discount = (0.0, *(discounts([t[j] for j in (1, 2, 3, 4)]) or FALLBACK))
            total: defaultdict[Gram, int] = defaultdict(int)
            taken: defaultdict[Gram, float] = defaultdict(float)
            for g, n in seen[k].items():
                total[g[:-1]] += n
                taken[g[:-1]] += discount[min(n, 3)]
            for h, n in total.items():
                self.weight[h] = taken[h] / n
            for g, n in seen[k].items():
                lower = self.prob[g[1:]] if k > 1 else 1 / vocab_size
                self.prob[g] = (n - discount[min(n, 3)]) / total[g[:-1]] + self.weight[g[:-1]] * lower
        for token in range(vocab_size):
            self.prob.setdefault((token,), self.weight[()] / vocab_size)

    def log_probs(self, text: Sequence[int]) -> list[float]:
        padded = (self.begin, *text, EOS)
        found = []
        for t in range(1, len(padded)):
            backed_off = 1.0
            for start in range(max(0, t - self.order + 1), t + 1):
                stored = self.prob.get(padded[start : t + 1])
                if stored is not None:
                    found.append(math.log(backed_off * stored))
                    break
                backed_off *= self.weight.get(padded[start:t], 1.0)
        return found


def seconds(work: Callable[[], Any]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=int, default=200_000)
    parser.add_argument("--vocab-size", type=int, default=8192)
    parser.add_argument("--order", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument(
        "--large", type=int, default=20, help="the last row's text, as a multiple of --tokens"
    )
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    order, size = given.order, given.vocab_size
    texts, held_out = documents(given.tokens, size, seed=1), documents(given.tokens // 4, size, seed=2)
    lists, held_out_lists = ([text.tolist() for text in part] for part in (texts, held_out))

    ours = NGrams.fit(texts, order, size, KneserNey(FALLBACK), eos=EOS)
    theirs = Dictionaries(lists, order, size)
    wanted = np.concatenate([theirs.log_probs(text) for text in held_out_lists])
    error = float(np.abs(ours.score(held_out) - wanted).max())
    assert error < 1e-9, f"the two models differ by {error}"

    rows: dict[str, tuple[int, Callable[[], Any], Callable[[], Any]]] = {
        "count": (given.tokens, lambda: Counts.of(texts, order, size, eos=EOS), lambda: count(lists, order, size)),
        "count and smooth": (
            given.tokens,
            lambda: NGrams.fit(texts, order, size, KneserNey(FALLBACK), eos=EOS),
            lambda: Dictionaries(lists, order, size),
        ),
        "score held-out text": (
            given.tokens // 4,
            lambda: ours.score(held_out),
            lambda: [theirs.log_probs(text) for text in held_out_lists],
        ),
    }  # fmt: skip
    table = []
    for name, (tokens, mine, peer) in rows.items():
        times = [(seconds(mine), seconds(peer)) for _ in range(given.repeats)]
        a, b = (statistics.median(column) for column in zip(*times, strict=True))
        table.append({"measure": name, "plume": tokens / a, "dictionaries": tokens / b, "ratio": b / a})
    large = documents(given.tokens * given.large, size, seed=3)
    took = seconds(lambda: NGrams.fit(large, order, size, KneserNey(FALLBACK), eos=EOS))
    millions = given.tokens * given.large / 1e6
    table.append({"measure": f"count and smooth, {millions:g} M tokens", "plume": millions * 1e6 / took,
                  "dictionaries": None, "ratio": None})  # fmt: skip
    if given.json:
        print(json.dumps({"tokens": given.tokens, "order": order, "vocab_size": size, "rows": table}))
        return
    print(f"order {order}, {size} token types, {given.tokens:,} tokens; thousand tokens/s\n")
    print(
        f"| {'measure':36} |    plume | dictionaries |  ratio |\n|{'-' * 38}|---------:|-------------:|-------:|"
    )
    for row in table:
        peer_rate = f"{row['dictionaries'] / 1e3:12,.0f}" if row["dictionaries"] else " " * 12
        ratio = f"x{row['ratio']:5.1f}" if row["ratio"] else " " * 6
        print(f"| {row['measure']:36} | {row['plume'] / 1e3:8,.0f} | {peer_rate} | {ratio} |")


if __name__ == "__main__":
    main()
