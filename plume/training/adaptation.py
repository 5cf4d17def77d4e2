"""``plume adapt``: a pretrained model learns to classify texts (spec 11 section 2)."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from plume import config
from plume.errors import UserError
from plume.models.pretrained import PretrainedModel
from plume.models.transformer import TransformerConfig
from plume.objectives.base import ask
from plume.objectives.causal import CausalLM
from plume.objectives.classification import Classification, Labelled
from plume.seeding import Permutation, key, rng
from plume.text.readers import read_rows
from plume.text.splits import SPLITS, Split, split_of
from plume.text.tokenizers import Tokenizer
from plume.training import session
from plume.training.folder import RunFolder
from plume.training.loader import Epochs, Phase
from plume.training.precision import autocast
from plume.training.session import Session, say
from plume.training.settings import Adaptation, Pretraining, Training
from plume.training.starts import open_start
from plume.training.trainer import Trainer

Mode = Literal["full", "frozen", "scratch"]


@dataclass(frozen=True)
class LabelledText:
    """A text, or a pair of texts, and its label's name."""

    segments: tuple[str, ...]
    label: str

    @property
    def split(self) -> Split:
        """Where it belongs, by its content alone: its label may not decide it."""
        return split_of("\n".join(self.segments))


def read_labelled(
    data: Sequence[Path],
    *,
    text_column: str = "text",
    label_column: str = "label",
    pair_column: str | None = None,
) -> list[LabelledText]:
    """The labelled texts of csv, tsv, jsonl or parquet files, those without a text or a label left out.

    Raises:
        UserError: a column is missing, or nothing is left.
    """
    texts = [text_column] if pair_column is None else [text_column, pair_column]
    rows = [
        LabelledText(tuple(row[c] for c in texts), row[label_column].strip())
        for row in read_rows(list(data), [*texts, label_column])
    ]
    kept = [row for row in rows if row.label and any(s.strip() for s in row.segments)]
    if len(kept) < len(rows):
        say(f"{len(rows) - len(kept)} rows without a text or a label were left out")
    if not kept:
        raise UserError(
            f"{', '.join(map(str, data))} has no row with both a {text_column} and a {label_column}"
        )
    return kept


def adapt(
    run: Path,
    *,
    data: Sequence[Path],
    evaluation: Sequence[Path] | None = None,
    out: Path,
    text_column: str = "text",
    label_column: str = "label",
    pair_column: str | None = None,
    examples: int | None = None,
    mode: Mode = "full",
    objective: Classification | None = None,
    training: Training | None = None,
    trust_code: bool = False,
    accept_changes: bool = False,
) -> Path:
    """Teach the model of ``run`` to classify texts, into the run folder ``out``, or go on where that stopped.

    Of ``data`` the training split trains and the dev split picks the best weights; its test split is left for
    ``plume evaluate``. ``evaluation``: other labelled texts to be scored once, at the end. ``examples``: train
    on that many texts, spread evenly over the labels and drawn by ``training.data_seed``, and pick by as many.
    ``mode``: "full" trains everything, "frozen" the new head alone, "scratch" everything from random weights:
    what the same network learns without pretraining. ``objective=None``: what suits the network (``classifier``);
    ``training=None``: values that suit the data (``suitable``). The scores stand in ``run.json``.

    Raises:
        UserError: anything the user can mend; the sentence says how.
        SystemExit: a signal came; everything is saved.
    """
    parent = config.resolve(str(run), trust_code=trust_code)
    pieces = Tokenizer.load(RunFolder(run).tokenizer)
    columns = {"text_column": text_column, "label_column": label_column, "pair_column": pair_column}
    rows = read_labelled(data, **columns)  # type: ignore[arg-type]
    parts = {name: [row for row in rows if row.split == name] for name in SPLITS}
    labels = tuple(sorted({row.label for row in rows}))
    seed = 0 if training is None else training.data_seed
    train = choose(parts["train"], labels, examples, seed, "examples")
    dev = choose(parts["dev"], labels, examples, seed, "dev examples")
    _check(train, labels, examples)
    scored = [] if evaluation is None else _known(read_labelled(evaluation, **columns), labels)  # type: ignore[arg-type]
    if training is None:
        training = suitable(len(train), parent.model, mode)
    if objective is None:
        objective = classifier(parent, labels)
    recipe = config.checked(
        Adaptation(
            objective=objective,
            model=parent.model,
            training=training,
            mode=mode,
            examples=examples,
        )
    )
    with session.hold(out, recipe, "adaptation", accept_changes=accept_changes) as held:
        if held.finished:
            held.only_first(lambda: say(f"{out} is finished: {training.steps} steps are done"))
            return out
        held.only_first(lambda: _prepare(held, pieces))
        model = _model(held, recipe, pieces, run)
        encoded = {"train": encode(train, labels, pieces), "dev": encode(dev, labels, pieces)}
        size = min(recipe.objective.max_length, max(map(_length, encoded["train"])))
        trainer = session.train(
            held,
            model,
            [_phase(recipe, encoded["train"], held_out=False)],
            [
                _phase(recipe, encoded["dev"], held_out=True)
                if dev
                else "no labelled text fell into the dev split"
            ],
            pieces.vocabulary,
            length=size,
            bytes_per_token=_bytes_per_token(train, encoded["train"]),
            made_of={"data": fingerprint([*train, *dev]), "tokenizer": pieces.fingerprint},
            parent=_parent(held, run),
            early=recipe.early and bool(dev),
        )
        encoded["test"] = encode(scored, labels, pieces)
        held.only_first(lambda: session.finish(held, scores=_scores(trainer, recipe, encoded)))
    return out


def classifier(parent: Pretraining | Adaptation, labels: tuple[str, ...]) -> Classification:
    """How a run's network is taught ``labels``: it reads texts as it did, and sums them up as its backbone can.

    A reader of GPT-1's kind keeps half of its language model's loss (spec 13 section 4).
    """
    model = parent.model
    longest = model.max_positions if isinstance(model, TransformerConfig) else 512
    reader = parent.objective.reader if isinstance(parent.objective, Classification) else parent.objective
    keeps = isinstance(reader, CausalLM) and reader.delimited
    return Classification(
        reader,
        labels,
        max_length=min(longest, 512),
        hidden=not keeps,
        pool=model.pool,
        mix=model.mixes,
        lm_weight=0.5 if keeps else 0.0,
    )


def suitable(count: int, model: object, mode: Mode) -> Training:
    """Values for ``count`` labelled texts: 3 epochs and at least 150 steps of 32 texts (16 for a few), linear decay.

    The rate is BERT's 5e-5 for 768 wide networks, higher for narrower ones; a new head alone bears more.
    """
    batch_size = 32 if count >= 256 else min(16, count)
    steps = max(150, math.ceil(3 * count / batch_size))
    width = model.d_model if isinstance(model, TransformerConfig) else 768
    every = max(10, steps // 15)
    return Training(
        steps=steps,
        batch_size=batch_size,
        lr=1e-3 if mode == "frozen" else 5e-5 * max(1.0, 768 / width),
        warmup_steps=steps // 10,
        spike_sigma=None,  # a few labels a batch jump about by nature
        eval_every=every,
        eval_batches=math.ceil(2048 / batch_size),
        save_every=every,
        keep=1,
    )


def choose(
    rows: Sequence[LabelledText], labels: Sequence[str], examples: int | None, seed: int, stream: str
) -> list[LabelledText]:
    """``examples`` of the rows, each label as often as the others as far as there are enough; None: all."""
    if examples is None or examples >= len(rows):
        return list(rows)
    by_label = {label: [row for row in rows if row.label == label] for label in labels}
    order = {label: rng(seed, stream, i).permutation(len(by_label[label])) for i, label in enumerate(labels)}
    chosen: list[LabelledText] = []
    for turn in range(len(rows)):
        for label in labels:
            if turn < len(by_label[label]) and len(chosen) < examples:
                chosen.append(by_label[label][order[label][turn]])
    return chosen


def encode(rows: Sequence[LabelledText], labels: Sequence[str], pieces: Tokenizer) -> list[Labelled]:
    """The rows as ids and label numbers."""
    number = {label: i for i, label in enumerate(labels)}
    flat = iter(pieces.encode_batch([segment for row in rows for segment in row.segments]))
    return [
        Labelled(tuple(next(flat).ids.astype(np.int64) for _ in row.segments), number[row.label])
        for row in rows
    ]


def fingerprint(rows: Sequence[LabelledText]) -> str:
    """SHA-256 of the texts and labels in their order."""
    digest = hashlib.sha256()
    for row in rows:
        digest.update(repr((row.segments, row.label)).encode("utf-8", "surrogatepass"))
    return digest.hexdigest()


@dataclass(frozen=True)
class _Epoch:
    """Labelled texts in an order of their own for each epoch; in their own order where they are only scored."""

    rows: Sequence[Labelled]
    permutation: Permutation | None

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Labelled:
        return self.rows[self.order(index)]

    def order(self, index: int) -> int:
        return index if self.permutation is None else self.permutation[index]

    def starts(self, index: int) -> bool:
        return True


def _phase(recipe: Adaptation, rows: Sequence[Labelled], *, held_out: bool) -> Phase[Labelled]:
    training = recipe.training

    def plan(epoch: int) -> _Epoch:
        shuffled = None if held_out else Permutation(len(rows), key(training.data_seed, "order", epoch))
        return _Epoch(rows, shuffled)

    return Phase(
        objective=recipe.objective,
        epochs=Epochs(plan),
        batch_size=training.batch_size,
        seeds=(training.noise_seed, 0),
        static=held_out,
        stream="held-out" if held_out else "noise",
        samples=min(len(rows), training.eval_batches * training.batch_size) if held_out else None,
    )


def _check(train: Sequence[LabelledText], labels: Sequence[str], examples: int | None) -> None:
    if len(labels) < 2:
        raise UserError(
            f"every text has the label {labels[0]!r}: classification needs at least two different ones"
        )
    if len(labels) > 1000 or (len(labels) > 50 and len(labels) * 2 > len(train)):
        raise UserError(
            f"{len(labels)} different labels for {len(train)} texts: is --label-column the right one?"
        )
    missing = sorted(set(labels) - {row.label for row in train})
    if missing:
        some = ", ".join(repr(label) for label in missing[:5])
        more = "raise --examples" if examples else "bring more labelled texts"
        raise UserError(f"no training text has the label {some}: {more}")


def _prepare(held: Session, pieces: Tokenizer) -> None:
    session.begin(held.folder, held.recipe)
    session.keep_tokenizer(held.folder, pieces)


def _model(held: Session, recipe: Adaptation, pieces: Tokenizer, run: Path) -> PretrainedModel:
    vocab, objective = pieces.vocabulary, recipe.objective
    model = PretrainedModel.build(
        recipe.model, vocab, lambda b: objective.heads(b, vocab), seed=recipe.training.init_seed
    )
    if recipe.mode != "scratch":
        model.start_from(open_start(run).state, str(run))
    if recipe.mode == "frozen":
        model.backbone.requires_grad_(False)
    return model


def _parent(held: Session, run: Path) -> Mapping[str, Any]:
    recorded = held.known.get("parent")
    if recorded is not None and recorded.get("path") == str(run.resolve()):
        return dict(recorded)
    return open_start(run).record


def _known(rows: Sequence[LabelledText], labels: Sequence[str]) -> list[LabelledText]:
    if strange := sorted({row.label for row in rows} - set(labels)):
        raise UserError(
            f"the evaluation has labels that no training text has: {', '.join(map(repr, strange[:5]))}"
        )
    return list(rows)


def _scores(
    trainer: Trainer, recipe: Adaptation, encoded: Mapping[str, Sequence[Labelled]]
) -> dict[str, Any]:
    """Accuracy on what was held out. ``plume evaluate`` has the other measures, and the intervals."""
    scores = {}
    for split, rows in encoded.items():
        if split != "train" and rows:
            right = predict(trainer, recipe, rows) == np.array([row.label for row in rows])
            scores[split] = {"accuracy": float(right.mean()), "texts": len(rows)}
            say(f"{split}: {right.mean():.1%} of {len(rows)} texts right")
    return scores


@torch.no_grad()
def predict(trainer: Trainer, recipe: Adaptation, rows: Sequence[Labelled]) -> NDArray[np.int64]:
    """The label numbers that the trained model gives, [N]; an empty text gets label 0."""
    model, setting = trainer.model.eval(), trainer.setting
    phase, loader = _phase(recipe, rows, held_out=True), trainer.loader
    answers = np.zeros(len(rows), np.int64)
    # Texts of like lengths together: a row is as long as its longest text.
    order = sorted(range(len(rows)), key=lambda i: _length(rows[i]))
    for start in range(0, len(order), 64):
        batch = loader.collate(phase, order[start : start + 64])
        if batch is not None:
            batch = batch.to(setting.device)
            with autocast(setting.numbers, setting.device):
                head = model.heads["label"]
                hidden = model.backbone(batch.inputs, batch.decoder_inputs)
                logits, example = head.answers(ask(batch, "label", hidden[head.reads]))
            answers[batch.sample_ids[example.cpu()].numpy()] = logits.argmax(-1).cpu().numpy()
    return answers


def _length(row: Labelled) -> int:
    return sum(len(segment) for segment in row.segments) + 3


def _bytes_per_token(rows: Sequence[LabelledText], encoded: Sequence[Labelled]) -> float:
    size = sum(len(segment.encode("utf-8", "surrogatepass")) for row in rows for segment in row.segments)
    return size / max(1, sum(map(_length, encoded)))
