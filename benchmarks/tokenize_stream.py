"""From a Chinese jsonl.zst to a token store, beside a bare ``tokenizers`` loop: MB/s of text and peak memory.

    python benchmarks/tokenize_stream.py --megabytes 1000

The peer gets texts that lie in memory and only its ``encode_batch`` calls are timed, results thrown away. Ours
is everything: unpacking, JSON, splits, encoding, word and sentence marks, hashes, files, fsync. The two run
in turns, each in a process of its own, all cores free to both.
"""

from __future__ import annotations

import argparse
import io
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from plume.text.readers import read
from plume.text.store import build
from plume.text.tokenizers import ByteLevelBPE, Tokenizer, WordPiece

ENGLISH = [
    "the",
    "model",
    "of",
    "language",
    "is",
    "text",
    "GPT-2",
    "BERT",
    "Python",
    "2026",
    "3.14",
    "learning",
]


def generate(path: Path, megabytes: float, seed: int = 0) -> None:
    """Documents of a few sentences each: Zipf words of one to four characters, marks, numbers, some English."""
    import zstandard

    draw = np.random.default_rng(seed)
    characters = np.array([chr(0x4E00 + i) for i in draw.permutation(6000)])
    weights = 1 / np.arange(2, 6002)
    weights /= weights.sum()
    sizes = draw.choice([1, 2, 3, 4], 60_000, p=[0.1, 0.65, 0.15, 0.1])
    letters = draw.choice(characters, int(sizes.sum()), p=weights)
    cuts = np.cumsum(sizes)
    words = np.array(["".join(letters[b - n : b]) for b, n in zip(cuts, sizes, strict=True)] + ENGLISH * 20)
    usage = 1 / np.arange(5, 5 + len(words))
    usage = draw.permutation(usage / usage.sum())
    marks = np.array(["，", "，", "，", "、", "。", "。", "！", "？", "“", "”", "\n"])
    with open(path, "wb") as file, zstandard.ZstdCompressor(level=3).stream_writer(file) as packed:
        out, written = io.TextIOWrapper(packed, encoding="utf-8", write_through=True), 0.0
        while written < megabytes * 1e6:
            stock = draw.choice(words, 40_000, p=usage)
            ends = draw.choice(marks, 8_000)
            clauses = ["".join(stock[i * 5 : i * 5 + 5]) + ends[i] for i in range(8_000)]
            at = 0
            while at < len(clauses):
                n = int(draw.integers(5, 60))
                text = "".join(clauses[at : at + n]).strip()
                out.write(json.dumps({"text": text, "source": "synthetic"}, ensure_ascii=False) + "\n")
                written += len(text.encode())
                at += n
        out.flush()


def bare(data: Path, tokenizer: Path, method: str, megabytes: float) -> dict[str, float]:
    inner = Tokenizer.load(tokenizer)._inner
    encode = getattr(inner, method)
    seconds = cpu = size = 0.0
    batch: list[str] = []
    for document in read(data):
        batch.append(document.text)
        if len(batch) == 1000:
            size += sum(len(t.encode()) for t in batch)
            start, used = time.perf_counter(), time.process_time()
            encode(batch, add_special_tokens=False)
            seconds += time.perf_counter() - start
            cpu += time.process_time() - used
            batch = []
            if size > megabytes * 1e6:
                break
    return {"MB/s": size / 1e6 / seconds, "MB/CPU s": size / 1e6 / cpu}


def ours(data: Path, tokenizer: Path, folder: Path) -> dict[str, float]:
    start, used = time.perf_counter(), time.process_time()
    store = build(data, Tokenizer.load(tokenizer), folder)
    seconds, cpu = time.perf_counter() - start, time.process_time() - used
    size = store.card["bytes"] / 1e6
    return {"MB/s": size / seconds, "MB/CPU s": size / cpu, "tokens": store.card["tokens"]}


def peak_memory() -> float:
    """Megabytes. Not ``ru_maxrss``, which a child begins with its parent's."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1e3


def child(arguments: list[str]) -> dict[str, Any]:
    done = subprocess.run([sys.executable, __file__, *arguments], check=True, capture_output=True, text=True)
    assert not done.stderr, done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--megabytes", type=float, default=100)
    parser.add_argument("--peer-megabytes", type=float, default=100, help="of these the peer encodes so many")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--kinds", nargs="+", default=["wordpiece", "bpe"])
    parser.add_argument("--child", nargs="+", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        what, *rest = args.child
        paths = [Path(p) for p in rest]
        result = ours(*paths) if what == "ours" else bare(paths[0], paths[1], what, args.peer_megabytes)
        result["peak MB"] = peak_memory()
        print(json.dumps(result))
        return
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        data = root / "data.jsonl.zst"
        generate(data, args.megabytes)
        generate(root / "small.jsonl.zst", 5)
        print(f"{args.megabytes:.0f} MB of text, {data.stat().st_size / 1e6:.0f} MB packed")
        print(
            "| tokenizer | encode_batch | encode_batch_fast | whole store | over encode_batch | per CPU s | peak |"
        )
        print("|---|---|---|---|---|---|---|")
        for kind in args.kinds:
            config = WordPiece(8192) if kind == "wordpiece" else ByteLevelBPE(8192)
            config.train(d.text for d in read(root / "small.jsonl.zst")).save(root / kind)
            speeds: dict[str, list[float]] = {"encode_batch": [], "ours": [], "encode_batch_fast": []}
            per_cpu: dict[str, list[float]] = {what: [] for what in speeds}
            peak = 0.0
            for turn in range(args.rounds):
                for what, seen in speeds.items():
                    folder = [str(root / f"{kind}-{turn}")] if what == "ours" else []
                    options = ["--peer-megabytes", str(args.peer_megabytes)]
                    result = child([*options, "--child", what, str(data), str(root / kind), *folder])
                    seen.append(result["MB/s"])
                    per_cpu[what].append(result["MB/CPU s"])
                    peak = max(peak, result["peak MB"]) if what == "ours" else peak
            a, b, fast = (statistics.median(seen) for seen in speeds.values())
            cpu = statistics.median(per_cpu["ours"]) / statistics.median(per_cpu["encode_batch"])
            print(
                f"| {kind} | {a:.1f} MB/s | {fast:.1f} | {b:.1f} | x{b / a:.2f} | x{cpu:.2f} | {peak:.0f} MB |"
            )


if __name__ == "__main__":
    main()
