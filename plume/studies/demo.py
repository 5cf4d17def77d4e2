"""``make demo``: the main job on real text, from a corpus to a report, in at most 8 minutes on two cores.

It gets a corpus, trains a GPT that it kills with -9 on the way and a BERT, holds the GPT against models that
only count, and asks what pretraining is worth when labels are few. How long each part may take is fixed; how
many steps that buys is measured first and written into the run's configuration.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from plume import config
from plume.drawing.plotting import drawable, save_png, to_svg
from plume.errors import UserError
from plume.evaluation import report
from plume.evaluation.baselines import TfIdf
from plume.evaluation.metrics import Estimate
from plume.models.allocator import hold_freed_memory
from plume.models.transformer import TransformerConfig
from plume.objectives.masked import MaskedLM
from plume.recipes import bert, gpt
from plume.runs import Run, load
from plume.seeding import Permutation, key
from plume.slots import collate
from plume.studies import corpora, labels, overtaking
from plume.studies.words import WORDS
from plume.text.tokenizers import ByteLevelBPE, Characters, Tokenizer, WordPiece
from plume.text.tokens import TokenStore
from plume.text.windows import PackedStream, SegmentPairs
from plume.training import curves
from plume.training.adaptation import Mode, adapt, suitable
from plume.training.checkpoints import Checkpoints
from plume.training.precision import autocast, choose
from plume.training.pretraining import build_model, pretrain
from plume.training.settings import Pretraining

Language = Literal["en", "zh"]
MODES: dict[str, Mode] = {"scratch": "scratch", "ours": "full"}  # a method of the label table -> of adapt
BERT_TOKENS = 4_096
LOOKS = 48  # points of the GPT's curve: the first lines are crossed within a few dozen steps
LINES = ("uniform", "unigram", "bigram", "trigram", "kneser_ney5")


@dataclass(frozen=True)
class Budget:
    """Seconds a part may take, and how much of the data it sees. ``seeds``: runs a cell, by number of labels."""

    gpt: float = 150.0
    bert: float = 40.0
    characters: int = 8_000_000  # of the corpus, so that counting it and reading it once stay affordable
    sizes: tuple[int | None, ...] = (16, 64, 512, None)  # labels, None: all there are
    seeds: tuple[int, ...] = (3, 2, 2, 1)
    heldout: int = 1_000


BUDGETS: dict[Language, Budget] = {
    "en": Budget(),
    "zh": Budget(gpt=105.0),  # twice the labels, and longer texts under them, take what the GPT has less
}


def demo(language: Language, out: Path, budget: Budget | None = None) -> Path:
    """Run the demo into the folder ``out`` and return its report. ``budget``: by default the language's own.

    Raises:
        UserError: something the user can mend went wrong; what was done so far stays in ``out``.
    """
    started, words = time.monotonic(), WORDS[language]
    budget = budget or BUDGETS[language]
    out.mkdir(parents=True, exist_ok=True)

    def say(text: str) -> None:
        print(f"[{time.monotonic() - started:4.0f} s] {text}", flush=True)

    say(words["say.corpus"])
    corpus = _corpus(language, out / "corpus", say)
    text = _cut(corpus.text, budget.characters)
    say(words["say.gpt"])
    killed = _train_and_kill(_gpt_recipe(language, budget), text, out / "gpt", budget.gpt, say, words)
    say(words["say.count"])
    picture = _overtake(out / "gpt", killed, words)
    say(words["say.bert"])
    _bert(language, budget, text, out / "bert")
    table: dict[str, list[labels.Cell]] = {}
    if corpus.labelled is not None:
        table = _label_table(language, corpus.labelled, out, budget, say, words)
    page = out / "report.html"
    _report(page, language, corpus, picture, table, out, time.monotonic() - started)
    _summary(picture, table, words, page, time.monotonic() - started)
    return page


def _corpus(language: Language, folder: Path, say: Any) -> corpora.Corpus:
    try:
        return corpora.english(folder) if language == "en" else corpora.chinese(folder)
    except UserError as error:
        say(f"{error}")
        say(WORDS[language]["say.fallback"])
        return corpora.fallback(language, folder)


def _cut(text: Path, characters: int) -> Path:
    """The first documents of ``text``, up to so many characters, beside it."""
    short = text.with_name(f"{text.stem}-{characters}{text.suffix}")
    if text.stat().st_size <= characters:
        return text
    if not short.exists():
        part, kept = short.with_suffix(".part"), 0
        with text.open(encoding="utf-8") as lines, part.open("w", encoding="utf-8") as cut:
            for line in lines:
                kept += len(line)
                if kept > characters:
                    break
                cut.write(line)
        part.rename(short)
    return short


# ------------------------------------------------------------------------------------------- the GPT


def _gpt_recipe(language: Language, budget: Budget) -> Pretraining:
    """``gpt:tiny`` over bytes (English) or characters (Chinese): few ids, so that most of the work is the network's."""
    tiny = gpt.tiny()
    small = ByteLevelBPE(vocab_size=300) if language == "en" else Characters(vocab_size=4_096)
    training = replace(tiny.training, batch_size=16, lr=4e-3, schedule="linear", eval_batches=12, keep=None)
    # Steps are few, so each should count: weights begin at D^-0.5. GPT-2's 0.02 is meant for
    # 768 and more; at 128 the layers then say next to nothing at first, and the run stays on the bigram line for long.
    assert isinstance(tiny.model, TransformerConfig)
    model = replace(tiny.model, init_std=tiny.model.d_model**-0.5)
    return replace(tiny, tokenizer=small, windows=PackedStream(length=128), model=model, training=training)


def _steps_for(recipe: Pretraining, vocab_size: int, seconds: float, looks: int) -> int:
    """How many steps of ``recipe``, held-out text looked at ``looks`` times, fit into ``seconds`` on this machine.

    A few are tried.
    """
    from plume.text.windows import Window
    from plume.vocabulary import Vocabulary

    vocab = Vocabulary(size=vocab_size, pad=0, unk=1, cls=2, sep=3, mask=4, bos=5, eos=6)
    model, objective = build_model(recipe, vocab).train(), recipe.objective
    length = objective.window_length(recipe.windows.length)
    hold_freed_memory()  # as the training does: without it a step takes half as long again
    draw = np.random.default_rng(0)
    window = Window(
        ids=draw.integers(7, vocab_size, length),
        marks=np.ones(length, np.uint8),
        special=np.zeros(length, bool),
        token_type_ids=np.zeros(length, np.int64),
        labels={"next_sentence": 0},
    )
    examples = [objective.example(window, vocab, draw) for _ in range(recipe.training.batch_size)]
    batch = collate([e for e in examples if e is not None])
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    device = torch.device("cpu")
    numbers = choose(recipe.training.precision, device)

    def step() -> None:
        with autocast(numbers, device):
            losses = objective.losses(model, batch).heads
        sum((loss.total / loss.count for loss in losses.values()), torch.zeros(())).backward()
        optimizer.step()
        optimizer.zero_grad()

    for _ in range(3):
        step()
    taken: list[float] = []
    while sum(taken) < 2.5:
        before = time.monotonic()
        step()
        taken.append(time.monotonic() - before)
    # A batch that is looked at, and its share of a checkpoint, is half a step; a step with all beside it a third more.
    room = seconds / sorted(taken)[len(taken) // 2] - looks * recipe.training.eval_batches / 2
    return max(60, min(20_000, int(room / 1.3)))


def _train_and_kill(
    recipe: Pretraining, text: Path, run: Path, seconds: float, say: Any, words: Mapping[str, str]
) -> overtaking.Kill | None:
    """Train in a process of its own, kill that with -9 between two checkpoints, and run the same command again."""
    if (run / "config.json").exists():
        recipe = config.resolve(str(run))
    else:
        ids = 300 if isinstance(recipe.tokenizer, ByteLevelBPE) else 4_096
        steps = _steps_for(recipe, ids, seconds, LOOKS)
        every = max(10, steps // LOOKS)
        recipe = replace(
            recipe, training=replace(recipe.training, steps=steps, eval_every=every, save_every=every)
        )
    say(words["say.steps"].format(steps=f"{recipe.training.steps:,}"))
    every = recipe.training.save_every
    plan = run.with_suffix(".recipe.json")
    plan.parent.mkdir(parents=True, exist_ok=True)
    plan.write_text(json.dumps(config.to_json(recipe), ensure_ascii=False, indent=1), "utf-8")
    command = [sys.executable, "-m", "plume", "pretrain", str(plan), "--data", str(text), "--out", str(run)]
    apart = every - every // 8  # a checkpoint begins an eighth early, see the trainer
    fatal = recipe.training.steps // 2 // apart * apart + apart * 3 // 4
    survived = any(row["step"] >= fatal for row in _rows(run))  # this demo was begun before
    first = subprocess.Popen(command)  # noqa: S603
    while first.poll() is None:
        if not survived and (step := _last_step(run)) >= fatal:
            os.kill(first.pid, signal.SIGKILL)
            first.wait()
            say(words["say.killed"].format(step=step))
        time.sleep(0.02)
    if first.returncode not in (0, -signal.SIGKILL):
        raise UserError(f"training the GPT stopped with exit code {first.returncode}: see the lines above")
    if first.returncode != 0 and subprocess.run(command, check=False).returncode != 0:  # noqa: S603
        raise UserError("the GPT could not be resumed after the kill: see the lines above")
    return _compare(_rows(run))


def _last_step(run: Path) -> int:
    """The step of the last whole row. Only the end is read: whoever looks often must not take a core to do it."""
    path = run / "metrics.jsonl"
    if not path.exists():
        return 0
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 4_096))
        lines = file.read().split(b"\n")[1:-1]
    return int(json.loads(lines[-1])["step"]) if lines else 0


def _rows(run: Path, split: str = "train") -> list[dict[str, Any]]:
    """The metrics of ``split`` so far; a line that is being written is not there yet."""
    path = run / "metrics.jsonl"
    rows = []
    for line in path.read_text("utf-8").splitlines() if path.exists() else ():
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            continue
        if row.get("split") == split and row.get("loss") is not None:
            rows.append(row)
    return rows


def _compare(rows: Sequence[Mapping[str, Any]]) -> overtaking.Kill | None:
    """Which losses the resumed run computed again, and how many came out the same to the last bit."""
    before = {row["step"]: row for row in rows if row["attempt"] == 1}
    again = {row["step"]: row for row in rows if row["attempt"] > 1}
    shared = sorted(before.keys() & again.keys())
    if not shared:
        return None
    same = sum(before[step]["loss"] == again[step]["loss"] for step in shared)
    last = before[shared[-1]]
    return overtaking.Kill(int(last["bytes"]), int(last["step"]), same, len(shared))


@dataclass(frozen=True)
class Picture:
    """What the overtaking figure shows."""

    curve: list[tuple[int, int, float]]
    lines: dict[str, float]
    crossed: list[overtaking.Crossing]
    kill: overtaking.Kill | None
    last_sample: str


def _overtake(run: Path, kill: overtaking.Kill | None, words: Mapping[str, str]) -> Picture:
    store, vocab = TokenStore.open(run / "tokens"), Tokenizer.load(run / "tokenizer").vocabulary
    counted = curves.entropies(store.split("train"), store.split("dev"), vocab)
    lines = {name: counted.bits_per_byte(counted.lines()[name]) for name in LINES}
    newest = {row["step"]: row for row in _rows(run, "dev")}
    curve = [(s, int(r["bytes"]), counted.bits_per_byte(r["loss"])) for s, r in sorted(newest.items())]
    crossed = [
        overtaking.Crossing(name, step, read, _sample(run, words["prompt"], step))
        for name, step, read in overtaking.crossings(curve, lines)
    ]
    return Picture(curve, lines, crossed, kill, _sample(run, words["prompt"], None))


def _sample(run: Path, prompt: str, step: int | None) -> str:
    """What the run wrote at ``step``, or at the first checkpoint after it; None: at its end."""
    kept = Checkpoints(run / "checkpoints").steps()
    near = kept[-1] if step is None else next((s for s in kept if s >= step), kept[-1])
    return load(run, step=near).generate(prompt, max_new_tokens=120, temperature=0.8, seed=1)


# --------------------------------------------------------------------------------- BERT and the labels


def _bert(language: Language, budget: Budget, text: Path, run: Path) -> None:
    if (run / "config.json").exists():
        recipe = config.resolve(str(run))
    else:
        tiny = bert.tiny()
        recipe = replace(
            tiny,
            tokenizer=WordPiece(vocab_size=BERT_TOKENS),
            windows=SegmentPairs(length=64),
            # Twice the paper's share of hidden tokens and small batches: of a text read for a minute, every question
            # counts. At a rate of 2e-3 all slots soon looked alike and nothing could be learnt from [CLS] again.
            objective=MaskedLM(noise_density=0.3, next_sentence=True),
            training=replace(tiny.training, batch_size=16, lr=1e-3, eval_batches=16, keep=1),
        )
        steps = _steps_for(recipe, BERT_TOKENS, budget.bert, 10)
        every = max(10, steps // 10)
        recipe = replace(
            recipe, training=replace(recipe.training, steps=steps, eval_every=every, save_every=every)
        )
    pretrain(recipe, data=[text], out=run)


def _label_table(
    language: Language, labelled: Path, out: Path, budget: Budget, say: Any, words: Mapping[str, str]
) -> dict[str, list[labels.Cell]]:
    """Accuracy on one held-out set for every method and number of labels."""
    # Not splitlines: texts hold U+2028 and U+0085, which end no line of JSON.
    rows = [json.loads(line) for line in labelled.read_text("utf-8").split("\n") if line]
    order = Permutation(len(rows), key(0, "heldout"))
    test = [rows[order[i]] for i in range(budget.heldout)]
    pool = [rows[order[i]] for i in range(budget.heldout, len(rows))]
    train, heldout = out / "labels" / "train.jsonl", out / "labels" / "heldout.jsonl"
    train.parent.mkdir(parents=True, exist_ok=True)
    for path, part in ((train, pool), (heldout, test)):
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in part), "utf-8")
    vectors = {"vectors": _vectors(load(out / "bert"), pool, test)}
    if language == "en" and (model := _published(out / "corpus", say)):
        vectors["published"] = _vectors(model, pool, test)
    table: dict[str, list[labels.Cell]] = {}
    # Two runs at a time: so small a network keeps one core busy, not two.
    with ProcessPoolExecutor(
        2, get_context("spawn"), _work_quietly, (train.with_name("log.txt"),)
    ) as workers:
        for size, seeds in zip(budget.sizes, budget.seeds, strict=True):
            count = size or len(pool)
            jobs = [
                _Job(out, train, heldout, method, size, count, seed)
                for seed in range(seeds)
                for method in MODES
            ]
            answers = workers.map(_adapted, jobs)
            found: dict[str, list[float]] = {}
            for seed in range(seeds):
                chosen = _draw(pool, size, seed)
                texts, gold = [row["text"] for row in chosen], [row["label"] for row in chosen]
                said = TfIdf.fit(texts, gold).predict([row["text"] for row in test])
                found.setdefault("tfidf", []).append(_accuracy(said, test))
                for method, accuracy_of in vectors.items():
                    found.setdefault(method, []).append(accuracy_of(chosen))
            for job, accuracy in zip(jobs, answers, strict=True):
                found.setdefault(job.method, []).append(accuracy)
            for method in ("tfidf", *MODES, *vectors):
                table.setdefault(method, []).append(labels.Cell.of(count, found[method], len(test)))
            say(words["say.labels"].format(count=f"{count:,}", **_best(table)))
    return table


def _draw(pool: Sequence[dict[str, str]], size: int | None, seed: int) -> list[dict[str, str]]:
    """``size`` texts, as many of each label; None: all."""
    order = Permutation(len(pool), key(seed, "labels"))
    shuffled = [pool[order[i]] for i in range(len(pool))]
    if size is None:
        return shuffled
    names = sorted({row["label"] for row in pool})
    return [
        row for name in names for row in [r for r in shuffled if r["label"] == name][: size // len(names)]
    ]


def _accuracy(said: Sequence[str], test: Sequence[Mapping[str, str]]) -> float:
    return float(np.mean([s == row["label"] for s, row in zip(said, test, strict=True)]))


@dataclass(frozen=True)
class _Job:
    """One run of one cell. ``count``: how many labels ``size`` is."""

    out: Path
    train: Path
    heldout: Path
    method: str
    size: int | None
    count: int
    seed: int


def _work_quietly(log: Path) -> None:
    """A worker's first act: what its runs say goes into a file, and it keeps to one core."""
    os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND), sys.stderr.fileno())
    torch.set_num_threads(1)


def _adapted(job: _Job) -> float:
    """Train, and say how many of the held-out texts are right."""
    run = job.out / "labels" / f"{job.method}-{job.size or 'all'}-{job.seed}"
    mode = MODES[job.method]
    own = suitable(job.count, config.resolve(str(job.out / "bert")).model, mode)
    # Enough to see which way it goes, and looked at twice: a cell of the table is several runs. Of all labels,
    # 16,410 in Chinese, each is read once at least.
    steps = 100 if job.size else min(own.steps, 520)
    training = replace(
        own, steps=steps, warmup_steps=steps // 10, eval_every=steps // 2, save_every=steps // 2,
        data_seed=job.seed, init_seed=job.seed, noise_seed=job.seed,
    )  # fmt: skip
    adapt(
        job.out / "bert", data=[job.train], evaluation=[job.heldout], out=run, examples=job.size, mode=mode,
        training=training,
    )  # fmt: skip
    scores = json.loads((run / "run.json").read_text("utf-8"))["scores"]
    return float(scores["test"]["accuracy"])


def _published(folder: Path, say: Any) -> Run | None:
    """The published network, imported; None where it cannot be had."""
    try:
        return load(corpora.minilm(folder))
    except UserError as error:
        say(f"{error}")
        return None


def _vectors(
    model: Run, pool: Sequence[Mapping[str, str]], test: Sequence[Mapping[str, str]]
) -> Callable[[Sequence[Mapping[str, str]]], float]:
    """A pretrained network as it is: the accuracy of logistic regression on its sentence vectors, by what it learns
    from.
    """
    from sklearn.linear_model import LogisticRegression

    texts = [row["text"] for row in (*pool, *test)]
    vectors = dict(zip(texts, model.embed(texts), strict=True))

    def accuracy(chosen: Sequence[Mapping[str, str]]) -> float:
        regression = LogisticRegression(C=10.0, max_iter=1000)
        regression.fit(np.stack([vectors[row["text"]] for row in chosen]), [row["label"] for row in chosen])
        said = regression.predict(np.stack([vectors[row["text"]] for row in test]))
        return _accuracy(list(said), test)

    return accuracy


def _best(table: Mapping[str, Sequence[labels.Cell]]) -> dict[str, str]:
    return {name: f"{100 * table[name][-1].accuracy:.1f} %" if name in table else "-" for name in
            ("tfidf", "scratch", "ours", "vectors", "published")}  # fmt: skip


# ------------------------------------------------------------------------------------------ the report


def _figures(picture: Picture, words: Mapping[str, str]) -> Any:
    return overtaking.figure(picture.curve, picture.lines, picture.crossed, picture.kill, words)


def _report(
    page: Path,
    language: Language,
    corpus: corpora.Corpus,
    picture: Picture,
    table: Mapping[str, Sequence[labels.Cell]],
    out: Path,
    seconds: float,
) -> None:
    words = WORDS[language]
    in_png = WORDS[drawable(language)]
    save_png(_figures(picture, in_png), out / "overtaking.png")
    parts = [
        report.paragraph(words["intro"].format(corpus=corpus.name, minutes=f"{seconds / 60:.1f}")),
        report.heading(words["title"]),
        report.paragraph(words["explain"]),
        report.figure(to_svg(_figures(picture, words), words["title"]), _caption(picture, words)),
        report.heading(words["samples"]),
        report.samples([
            *((f"{i}. {words['below'].format(line=words[c.line], mb=f'{c.bytes_read / 1e6:.2f}')}", words["prompt"],
               c.sample) for i, c in enumerate(picture.crossed, 1)),
            (words["at the end"], words["prompt"], picture.last_sample),
        ]),
    ]  # fmt: skip
    if table:
        save_png(labels.figure(table, 0.5, in_png["labels"]), out / "labels.png")
        drawn = to_svg(labels.figure(table, 0.5, words["labels"]), words["labels"]["title"])
        parts += [
            report.heading(words["labels"]["title"]),
            report.paragraph(words["labels explain"]),
            report.figure(drawn, words["labels caption"]),
            _table(table, words),
            report.paragraph(_worth(table, words)),
        ]
    parts += [
        report.heading(words["masks"]),
        report.paragraph(words["masks explain"]),
        _masks(out / "bert", words),
    ]
    parts += [report.heading(words["go on"]), report.commands(words["commands"].format(out=out).splitlines())]
    report.write(page, words["page"], parts, language)


def _caption(picture: Picture, words: Mapping[str, str]) -> str:
    last = picture.curve[-1][2]
    behind = [words[name] for name, level in picture.lines.items() if level <= last]
    overtaken = len(picture.lines) - len(behind)
    text = words["caption"].format(
        overtaken=overtaken, of=len(picture.lines), mb=f"{picture.curve[-1][1] / 1e6:.1f}"
    )
    if behind:
        text += " " + words["behind"].format(lines=words["and"].join(behind))
    return text


def _table(table: Mapping[str, Sequence[labels.Cell]], words: Mapping[str, Any]) -> report.Html:
    sizes = [cell.examples for cell in next(iter(table.values()))]
    seeds = [cell.seeds for cell in next(iter(table.values()))]
    header = [
        words["method"],
        *(words["column"].format(n=f"{n:,}", seeds=s) for n, s in zip(sizes, seeds, strict=True)),
    ]
    rows = [[words["labels"][name], *map(_cell, cells)] for name, cells in table.items()]
    return report.table(header, rows, own=[i for i, name in enumerate(table) if name in ("ours", "vectors")])


def _worth(table: Mapping[str, Sequence[labels.Cell]], words: Mapping[str, Any]) -> str:
    """What pretraining added at each number of labels, in points, as a sentence."""

    def points(name: str) -> str:
        gains = (a.accuracy - b.accuracy for a, b in zip(table[name], table["scratch"], strict=True))
        return ", ".join(f"{100 * gain:+.1f}" for gain in gains)

    sizes = ", ".join(f"{cell.examples:,}" for cell in table["ours"])
    text: str = words["worth"].format(sizes=sizes, ours=points("ours"), vectors=points("vectors"))
    return (
        text + words["worth published"].format(theirs=points("published")) if "published" in table else text
    )


def _cell(cell: labels.Cell) -> report.Html:
    return report.with_interval(Estimate(cell.accuracy, 0.0, cell.low, cell.high))


def _masks(run: Path, words: Mapping[str, Any]) -> report.Html:
    model = load(run)
    rows = []
    for text in words["fill"]:
        guesses = ", ".join(f"{g.token} ({100 * g.probability:.0f} %)" for g in model.fill_mask(text, top=4))
        rows.append([text, guesses])
    return report.table([words["sentence"], words["guesses"]], rows)


def _summary(
    picture: Picture,
    table: Mapping[str, Sequence[labels.Cell]],
    words: Mapping[str, Any],
    page: Path,
    seconds: float,
) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console()
    shown = Table(title=words["title"], title_justify="left")
    for column in (words["line"], words["bits"], words["after"]):
        shown.add_column(column)
    crossed = {c.line: f"{c.bytes_read / 1e6:.2f} MB" for c in picture.crossed}
    for name, level in picture.lines.items():
        shown.add_row(words[name], f"{level:.3f}", crossed.get(name, "-"))
    shown.add_row(f"[bold]{words['network']}[/]", f"[bold]{picture.curve[-1][2]:.3f}[/]", "")
    console.print(shown)
    if picture.kill is not None:
        console.print(words["kill"].format(identical=picture.kill.identical, compared=picture.kill.compared))
    if table:
        wide = Table(title=words["labels"]["title"], title_justify="left")
        wide.add_column(words["method"], overflow="fold")  # two names may differ at their end alone
        for cell in next(iter(table.values())):
            wide.add_column(f"{cell.examples:,}")
        for name, cells in table.items():
            wide.add_row(
                words["labels"][name],
                *(f"{100 * c.accuracy:.1f} ({100 * c.low:.0f}–{100 * c.high:.0f})" for c in cells),
            )
        console.print(wide)
    console.print(words["done"].format(page=page, minutes=f"{seconds / 60:.1f}"))
