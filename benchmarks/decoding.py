"""Greedy decoding of a random 124M GPT-2 beside ``transformers``' ``generate``: tokens/s, memory, same tokens.

    python benchmarks/decoding.py --threads 2 --repeats 5

The same weights on both sides, at the same precision, the sides in turns A B C A B C; the peer with its dynamic
and its static cache, of which the better counts. The prompt is read within the time. Medians of wall time; the
ratio of CPU time stands beside it, for machines that others use at the same time. In fp32 the tokens have to be
the same. Peak memory is that of a process of its own which loads the weights and decodes once.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

Tokens = list[list[int]]
Run = Callable[[], Tokens]
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class Setting:
    dtype: str
    batch: int
    prompt: int
    new: int

    def prompts(self) -> Tokens:
        draw = torch.Generator().manual_seed(self.batch)
        return torch.randint(0, 50257, (self.batch, self.prompt), generator=draw).tolist()


def write_model(folder: Path, num_layers: int) -> None:
    """A GPT-2 of random weights, as ``transformers`` initialises and stores it."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    GPT2LMHeadModel(GPT2Config(n_layer=num_layers)).save_pretrained(folder)


def plume_side(folder: Path, setting: Setting) -> dict[str, Run]:
    from plume.generation.decoding import generate
    from plume.generation.language_models import language_model
    from plume.generation.sampling import Decoding
    from plume.models import interop
    from plume.objectives.causal import CausalLM
    from plume.vocabulary import Vocabulary

    dtype = DTYPES[setting.dtype]
    model = interop.load(folder).model().to(dtype)
    reader = language_model(model, CausalLM(), Vocabulary(size=50257), context_length=1024)
    how = Decoding(temperature=0, max_new_tokens=setting.new)

    def run() -> Tokens:
        return [list(text.ids) for text in generate(reader, setting.prompts(), how)]

    return {"plume": run}


def peer_side(folder: Path, setting: Setting) -> dict[str, Run]:
    from transformers import GenerationConfig, GPT2LMHeadModel

    model = GPT2LMHeadModel.from_pretrained(folder, dtype=DTYPES[setting.dtype]).eval()
    ids = torch.tensor(setting.prompts())

    def runner(cache: str | None) -> Run:
        config = GenerationConfig(
            max_new_tokens=setting.new, min_new_tokens=setting.new, do_sample=False, use_cache=True,
            cache_implementation=cache, pad_token_id=0,
        )  # fmt: skip

        def run() -> Tokens:
            with torch.inference_mode():
                out = model.generate(ids, attention_mask=torch.ones_like(ids), generation_config=config)
            return out[:, ids.shape[1] :].tolist()

        return run

    return {"transformers, dynamic cache": runner(None), "transformers, static cache": runner("static")}


def measure(folder: Path, setting: Setting, repeats: int) -> dict[str, object]:
    """Both sides in turns: medians of wall and CPU seconds a run, and whether the tokens agree."""
    sides = plume_side(folder, setting) | peer_side(folder, setting)
    tokens = {name: run() for name, run in sides.items()}  # and the first, slower run of each
    wall: dict[str, list[float]] = {name: [] for name in sides}
    cpu: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(repeats):
        for name, run in sides.items():
            began, used = time.perf_counter(), time.process_time()
            run()
            wall[name].append(time.perf_counter() - began)
            cpu[name].append(time.process_time() - used)
    seconds = {name: statistics.median(times) for name, times in wall.items()}
    work = {name: statistics.median(times) for name, times in cpu.items()}
    best = min((name for name in sides if name != "plume"), key=seconds.__getitem__)
    ours, theirs = tokens["plume"], tokens[best]
    same = sum(a == b for x, y in zip(ours, theirs, strict=True) for a, b in zip(x, y, strict=True))
    total = setting.batch * setting.new
    return {
        **asdict(setting),
        "tokens_per_second": {name: round(total / s, 1) for name, s in seconds.items()},
        "peer": best,
        "ratio": round(seconds[best] / seconds["plume"], 2),
        "cpu_ratio": round(min(w for n, w in work.items() if n != "plume") / work["plume"], 2),
        "same_tokens": round(same / total, 3),
        "seconds": {name: [round(t, 3) for t in times] for name, times in wall.items()},
    }


def peak_memory(folder: Path, setting: Setting, side: str, threads: int) -> float:
    """MiB at the most, in a process that does nothing else."""
    command = [sys.executable, __file__, "--alone", side, "--folder", str(folder), "--threads", str(threads)]
    command += ["--setting", json.dumps(asdict(setting))]
    out = subprocess.run(command, check=True, capture_output=True, text=True)
    return round(float(out.stdout.split()[-1]))


def high_water() -> float:
    """Peak resident MiB of this process. Not ``ru_maxrss``: a child starts with its parent's."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--prompt", type=int, default=64)
    parser.add_argument("--new", type=int, default=32)
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--dtype", nargs="+", choices=DTYPES, default=list(DTYPES))
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--no-memory", action="store_true")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--alone", choices=["plume", "peer"], help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--setting", type=json.loads, help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.alone:
        side = plume_side if args.alone == "plume" else peer_side
        next(iter(side(args.folder, Setting(**args.setting)).values()))()
        print(high_water())
        return
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        write_model(Path(folder), args.layers)
        print(f"{args.layers} layers, prompt {args.prompt}, {args.new} new tokens, {args.threads} threads")
        print(
            "| precision, batch | plume tok/s | peer tok/s (its cache) | ratio | CPU time | same tokens | MiB |"
        )
        print("|---|---|---|---|---|---|---|")
        for dtype in args.dtype:
            for batch in args.batch:
                setting = Setting(dtype, batch, args.prompt, args.new)
                row = measure(Path(folder), setting, args.repeats)
                memory = {
                    side: 0 if args.no_memory else peak_memory(Path(folder), setting, side, args.threads)
                    for side in ("plume", "peer")
                }
                rows.append(row | {"memory_mib": memory})
                speed, peer = row["tokens_per_second"], str(row["peer"])
                assert isinstance(speed, dict)
                print(
                    f"| {dtype}, {batch} | {speed['plume']} | {speed[peer]} ({peer.split(', ')[1]}) | x{row['ratio']} "
                    f"| x{row['cpu_ratio']} | {row['same_tokens']} | {memory['plume']} / {memory['peer']} |",
                    flush=True,
                )
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
