"""Word2Vec beside gensim: words a second, and whether the vectors are as good.

    python -m pip download --no-deps --no-binary :all: native-sparse-attention-pytorch==0.2.3
    tar xzf native*.tar.gz && gunzip native*/data/enwik8.gz
    python benchmarks/word2vec.py --data native*/data/enwik8 --words 1000000 --seeds 2     # minutes: speed, and a try
    python benchmarks/word2vec.py --data native*/data/enwik8 --seeds 5 --epochs 5          # the whole; 25 minutes

Both sides: skip-gram, 100 wide, window 5, 5 noise words, thinning at 1e-3, words seen 5 times, the rate falling from
0.025 to nothing over all epochs, ``--threads`` threads; the text is enwik8 without its markup, in small letters, an
article's paragraph a sentence. gensim reads it from a file of lines (``corpus_file``, its fastest way) and ours as ids;
building the vocabulary is outside both times. The sides take turns, seed by seed. Judged alike, by
``plume.evaluation.word_tasks`` on the three lists that gensim's wheel brings (``--sets`` names another folder): the
difference's 95 % interval over the seeds is to lie within one point (analogies) and 0.02 of rho.
"""

from __future__ import annotations

import argparse
import html
import itertools
import json
import math
import os
import re
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

if "--threads" in sys.argv[:-1]:  # read when torch and numpy are imported
    os.environ["OMP_NUM_THREADS"] = sys.argv[sys.argv.index("--threads") + 1]

import numpy as np

from plume.evaluation import word_tasks
from plume.models.lookup import LookupConfig
from plume.models.pretrained import PretrainedModel
from plume.models.word_vectors import WordVectors
from plume.objectives.skipgram import SkipGram
from plume.seeding import key
from plume.vocabulary import Vocabulary

WIDTH, MIN_COUNT, RATE, LONGEST = 100, 5, 0.025, 1000
STEP = 1000  # sentences of one rate, as in recipes/word2vec.py
SETS = {"wordsim353": "wordsim353.tsv", "simlex999": "simlex999.txt", "analogies": "questions-words.txt"}
WITHIN = {"wordsim353": 0.02, "simlex999": 0.02, "analogies": 0.01}
T95 = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776, 6: 2.571, 7: 2.447, 8: 2.365, 9: 2.306, 10: 2.262}
# Pictures, categories and other languages; then links, whose words stay, addresses, tags.
ASIDE = r"\[\[(?:image|category|[a-z-]{2,12}):[^\[\]]*(?:\[\[[^\]]*\]\][^\[\]]*)*\]\]"
LINK = r"\[\[(?:[^|\]]*\|)?([^\]]*)\]\]|\[\S+([^\]]*)\]|https?:\S+|<[^>]*>|&\w+;"


def plain(markup: str, most: int) -> list[list[str]]:
    """The first ``most`` words of a wiki dump, a paragraph a list."""
    found, size = [], 0
    for page in re.findall(r"<text[^>]*>(.*?)</text>", markup, re.S):
        if page[:9].upper() == "#REDIRECT":
            continue
        text = html.unescape(html.unescape(page))
        text = re.sub(r"<!--.*?-->|<ref.*?(?:/>|</ref>)|<math>.*?</math>|{\|.*?\|}", " ", text, flags=re.S)
        for _ in range(3):  # templates lie in templates
            text = re.sub(r"{{[^{}]*}}", " ", text)
        text = re.sub(ASIDE, " ", text, flags=re.I)
        text = re.sub(LINK, r" \1\2 ", text)
        for line in text.lower().split("\n"):
            words = re.findall(r"[a-z]+", line.replace("'", ""))
            if len(words) > 3:
                found.append(words)
                size += len(words)
                if size >= most:
                    return found
    return found


@dataclass(frozen=True)
class Text:
    """Sentences as ids and as a file of lines. ``words`` are the known ones, the commonest first, after two marks."""

    words: list[str]
    counts: list[int]
    ids: np.ndarray[Any, Any]
    ends: np.ndarray[Any, Any]
    file: Path
    size: int


def prepared(sentences: Sequence[list[str]], file: Path) -> Text:
    sentences = [s[at : at + LONGEST] for s in sentences for at in range(0, len(s), LONGEST)]
    seen = Counter(itertools.chain.from_iterable(sentences))
    words, counts = zip(*((w, n) for w, n in seen.most_common() if n >= MIN_COUNT), strict=True)
    number = {word: id for id, word in enumerate(words, 2)}
    parts = [np.array([number[w] for w in s if w in number], np.int32) for s in sentences]
    file.write_text("\n".join(map(" ".join, sentences)) + "\n", encoding="utf-8")
    ends = np.cumsum([0, *map(len, parts)])
    return Text(list(words), list(counts), np.concatenate(parts), ends, file, sum(seen.values()))


def ours(
    text: Text, seed: int, epochs: int, threads: int, apart: bool = False
) -> tuple[WordVectors, float, float]:
    """The vectors, and seconds by the clock and of processor time: the steps of ``training.updates=word``."""
    objective = SkipGram(share_negatives=not apart)
    vocab = Vocabulary(size=len(text.words) + 2, pad=0, unk=1, counts=(0, 0, *text.counts))
    model = PretrainedModel.build(LookupConfig(WIDTH), vocab, lambda b: objective.heads(b, vocab), seed=seed)
    tables, sentences = objective.tables(vocab), len(text.ends) - 1
    firsts = range(0, sentences, STEP)
    steps = epochs * len(firsts)
    wall, cpu = time.perf_counter(), time.process_time()
    for step, first in enumerate(itertools.chain.from_iterable(itertools.repeat(firsts, epochs))):
        ends = text.ends[first : first + STEP + 1]
        seeds = [key(seed, "walk", step, thread) for thread in range(threads)]
        rate = RATE * (1e-4 + (1 - 1e-4) * (1 - step / steps))
        ids = text.ids[ends[0] : ends[-1]]
        objective.walk(model, ids, ends - ends[0], vocab, rate=rate, seeds=seeds, tables=tables)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    table = model.backbone.embedding.weight.detach().numpy()[2:]
    return WordVectors(tuple(text.words), table.copy()), wall, cpu


def gensims(text: Text, seed: int, epochs: int, threads: int) -> tuple[WordVectors, float, float]:
    from gensim.models import Word2Vec

    model = Word2Vec(vector_size=WIDTH, window=5, min_count=MIN_COUNT, sample=1e-3, sg=1, negative=5, alpha=RATE,
                     min_alpha=RATE * 1e-4, workers=threads, seed=seed + 1, epochs=epochs)  # fmt: skip
    model.build_vocab(corpus_file=str(text.file))
    wall, cpu = time.perf_counter(), time.process_time()
    model.train(corpus_file=str(text.file), total_words=model.corpus_total_words, total_examples=model.corpus_count,
                epochs=epochs)  # fmt: skip
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return WordVectors(tuple(model.wv.index_to_key), model.wv.vectors), wall, cpu


def judged(vectors: WordVectors, sets: Path) -> dict[str, float]:
    found: dict[str, float] = {}
    for name, file in SETS.items():
        if name == word_tasks.ANALOGIES:
            value = word_tasks.analogies(vectors, sets / file).get("accuracy")
        else:
            value = word_tasks.similarity(vectors, sets / file)["spearman"]
        found[name] = math.nan if value is None else float(value)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--data", type=Path, required=True, help="the file enwik8, or a text, a sentence a line"
    )
    parser.add_argument("--words", type=int, default=10**9, help="of the text, at most")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--apart", action="store_true", help="noise words of its own for every pair, as gensim's"
    )
    parser.add_argument("--sets", type=Path, help="a folder with the three lists")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    sets = given.sets
    if sets is None:
        import gensim

        sets = Path(gensim.__file__).parent / "test" / "test_data"
    whole = given.data.read_text(encoding="utf-8")
    sentences = plain(whole, given.words)
    if not sentences:  # no dump: a text as it is
        found = (re.findall(r"[a-z]+", line.lower()) for line in whole.split("\n"))
        sizes = itertools.accumulate(map(len, lines := [line for line in found if line]), initial=0)
        sentences = [line for line, size in zip(lines, sizes, strict=False) if size < given.words]
    runs: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        text = prepared(sentences, Path(folder) / "text.txt")
        about = f"{text.size:,} words, {len(text.words):,} kinds, {len(text.ends) - 1:,} sentences"
        print(f"{about}, {given.epochs} epochs, {given.threads} threads", flush=True)
        ways = {"ours": partial(ours, apart=given.apart), "gensim": gensims}
        for side in ways.values():  # compile
            side(prepared(sentences[:200] * 3, Path(folder) / "warm.txt"), 0, 1, given.threads)
        for seed in range(given.seeds):
            for name, side in ways.items():
                vectors, wall, cpu = side(text, seed, given.epochs, given.threads)
                words = text.size * given.epochs
                row = {"side": name, "seed": seed, "words/s": words / wall, "words/s of CPU": words / cpu}
                runs.append(row | judged(vectors, sets))
                print(
                    "  ".join(
                        f"{k} {v:,.4g}" if isinstance(v, float) else f"{v}" for k, v in runs[-1].items()
                    ),
                    flush=True,
                )
    print("\n| measure | ours | gensim | ours over gensim |\n|---|---:|---:|---:|")
    for name in ("words/s", "words/s of CPU"):
        a, b = (statistics.median(r[name] for r in runs if r["side"] == side) for side in ("ours", "gensim"))
        print(f"| {name}, median | {a:,.0f} | {b:,.0f} | x{a / b:.2f} |")
    print("\n| quality | ours | gensim | difference, 95 % | within |\n|---|---:|---:|---:|---|")
    for name, limit in WITHIN.items():
        a_, b_ = ([r[name] for r in runs if r["side"] == side] for side in ("ours", "gensim"))
        differences = [x - y for x, y in zip(a_, b_, strict=True)]
        mean, n = statistics.fmean(differences), len(differences)
        half = T95.get(n, 2.0) * statistics.stdev(differences) / math.sqrt(n) if n > 1 else math.inf
        inside = "yes" if abs(mean) + half <= limit else "ours is better" if mean - half > 0 else "no"
        print(f"| {name} | {statistics.fmean(a_):.4f} | {statistics.fmean(b_):.4f} | {mean:+.4f} +- {half:.4f} | "
              f"{limit:g}: {inside} |")  # fmt: skip
    if given.json:
        given.json.write_text(json.dumps(runs) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
