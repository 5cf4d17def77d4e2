"""``plume adapt``: a pretrained model learns to classify texts, or to tag their words (spec 11)."""

from __future__ import annotations

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
from plume.models.backbone import BackboneConfig
from plume.models.bilstm import BiLSTMConfig
from plume.models.convolution import ConvolutionConfig
from plume.models.lookup import LookupConfig
from plume.models.pretrained import PretrainedModel
from plume.models.recurrent import RecurrentConfig
from plume.models.transformer import TransformerConfig
from plume.objectives.base import ask
from plume.objectives.causal import CausalLM
from plume.objectives.classification import Classification, Labelled
from plume.seeding import Permutation, key
from plume.slots import IGNORE
from plume.text.tokenizers import Tokenizer
from plume.training import session
from plume.training.folder import RunFolder
from plume.training.labelled import (
    Row,
    divide,
    encode,
    fingerprint,
    known,
    read_labelled,
    read_tagged,
)
from plume.training.loader import Epochs, Phase
from plume.training.precision import autocast
from plume.training.session import Session, say
from plume.training.settings import Adaptation, Pretraining, Training
from plume.training.starts import open_start
from plume.training.trainer import Trainer

Mode = Literal["full", "frozen", "scratch"]
Task = Literal["classification", "tagging"]
Network = Literal["cnn", "bilstm"]


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
    task: Task = "classification",
    model: BackboneConfig | None = None,
    trust_code: bool = False,
    accept_changes: bool = False,
) -> Path:
    """Teach the model of ``run`` to classify texts, into the run folder ``out``, or go on where that stopped.

    ``task`` "tagging": a label for every word. ``model``: another network than the run's, of which only the table of
    word vectors is taken, as that network's input layer (``upon``); "frozen" then keeps the table as it is.

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
    rows = read_rows(data, task, text_column, label_column, pair_column)
    labels = tuple(sorted({name for row in rows for name in row.names}))
    seed = 0 if training is None else training.data_seed
    train, dev = divide(rows, labels, examples, seed)
    others = [] if evaluation is None else read_rows(evaluation, task, text_column, label_column, pair_column)
    scored = known(others, labels)
    shape = parent.model if model is None else model
    if training is None:
        training = suitable(len(train), shape, mode)
    if objective is None:
        objective = classifier(parent, labels, shape, task)
    recipe = config.checked(
        Adaptation(
            objective=objective,
            model=shape,
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
        network = _model(recipe, pieces, run, own=parent.model == recipe.model)
        encoded = {name: _encoded(part, recipe, pieces) for name, part in (("train", train), ("dev", dev))}
        size = min(recipe.objective.max_length, max(map(_length, encoded["train"])))
        trainer = session.train(
            held,
            network,
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
        encoded["test"] = _encoded(scored, recipe, pieces)
        held.only_first(lambda: session.finish(held, scores=_scores(trainer, recipe, encoded)))
    return out


def read_rows(
    data: Sequence[Path], task: Task, text_column: str, label_column: str, pair_column: str | None
) -> list[Row]:
    """Labelled texts, or sentences whose words have labels.

    Raises:
        UserError: they cannot be read, or there are none.
    """
    if task == "classification":
        return [
            *read_labelled(data, text_column=text_column, label_column=label_column, pair_column=pair_column)
        ]
    if pair_column is not None:
        raise UserError("--pair-column is for labels of two texts: a tagger reads one sentence")
    return [*read_tagged(data, text_column=text_column, label_column=label_column)]


def upon(vectors: object, network: Network) -> BackboneConfig:
    """The network that reads a table of word vectors: Kim's windows of five words and the maximum over a text, in the
    gated form of ``cnn:encoder``, or an LSTM each way.

    Raises:
        UserError: the run is no table of word vectors.
    """
    if not isinstance(vectors, LookupConfig):
        raise UserError(
            f"only word vectors can be the input layer of another network, and this run is a "
            f"{type(vectors).__name__.removesuffix('Config')}: leave --network out, or name a run by word2vec:skipgram "
            f"or of plume import vectors.txt"
        )
    width = vectors.d_model
    if network == "cnn":
        return ConvolutionConfig(num_layers=1, d_model=width, before=2, after=2, dropout=0.1)
    return RecurrentConfig(num_layers=1, d_model=width, both_ways=True, dropout=0.1)


def classifier(
    parent: Pretraining | Adaptation,
    labels: tuple[str, ...],
    model: BackboneConfig | None = None,
    task: Task = "classification",
) -> Classification:
    """How a run's network (or ``model`` in its place) is taught ``labels``: it reads texts as it did, and sums them up
    as its backbone can.

    A reader of GPT-1's kind keeps half of its language model's loss (spec 13 section 4).
    """
    model = parent.model if model is None else model
    longest = model.max_positions if isinstance(model, TransformerConfig) else 512
    reader = parent.objective.reader if isinstance(parent.objective, Classification) else parent.objective
    if task == "tagging":
        return Classification(
            reader, labels, max_length=min(longest, 512), hidden=False, mix=model.mixes, unit="word"
        )
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

    The rate is BERT's 5e-5 for 768 wide Transformers, higher for narrower ones; a new head alone bears more, and so do
    the small networks of other kinds, whose layers are new here.
    """
    batch_size = 32 if count >= 256 else min(16, count)
    steps = max(150, math.ceil(3 * count / batch_size))
    width = model.d_model if isinstance(model, TransformerConfig) else 768
    light = not isinstance(model, TransformerConfig | BiLSTMConfig)
    every = max(10, steps // 15)
    return Training(
        steps=steps,
        batch_size=batch_size,
        lr=1e-3 if mode == "frozen" or light else 5e-5 * max(1.0, 768 / width),
        warmup_steps=steps // 10,
        spike_sigma=None,  # a few labels a batch jump about by nature
        eval_every=every,
        eval_batches=math.ceil(2048 / batch_size),
        save_every=every,
        keep=1,
    )


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


def _prepare(held: Session, pieces: Tokenizer) -> None:
    session.begin(held.folder, held.recipe)
    session.keep_tokenizer(held.folder, pieces)


def _model(recipe: Adaptation, pieces: Tokenizer, run: Path, *, own: bool) -> PretrainedModel:
    """``own``: the network is the run's, and not a new one upon its table of vectors."""
    vocab, objective = pieces.vocabulary, recipe.objective
    model = PretrainedModel.build(
        recipe.model, vocab, lambda b: objective.heads(b, vocab), seed=recipe.training.init_seed
    )
    if recipe.mode != "scratch":
        (model.start_from if own else model.take_table)(open_start(run).state, str(run))
    if recipe.mode == "frozen":
        (model.backbone if own else model.backbone.embedding).requires_grad_(False)
    return model


def _parent(held: Session, run: Path) -> Mapping[str, Any]:
    recorded = held.known.get("parent")
    if recorded is not None and recorded.get("path") == str(run.resolve()):
        return dict(recorded)
    return open_start(run).record


def _encoded(rows: Sequence[Row], recipe: Adaptation, pieces: Tokenizer) -> list[Labelled]:
    objective, vocab = recipe.objective, pieces.vocabulary
    assert isinstance(objective, Classification)
    return [part for row in encode(rows, objective.labels, pieces) for part in objective.pieces(row, vocab)]


def _scores(
    trainer: Trainer, recipe: Adaptation, encoded: Mapping[str, Sequence[Labelled]]
) -> dict[str, Any]:
    """Accuracy on what was held out, of texts or words; ``plume evaluate`` has other measures, and intervals."""
    scores = {}
    for split, rows in encoded.items():
        if split != "train" and rows:
            gold = [np.atleast_1d(row.label) for row in rows]
            right = np.concatenate(predict(trainer, recipe, rows)) == np.concatenate(
                [g[g != IGNORE] for g in gold]
            )
            words = isinstance(rows[0].label, np.ndarray)
            scores[split] = {"accuracy": float(right.mean()), ("words" if words else "texts"): len(right)}
            say(f"{split}: {right.mean():.1%} of {len(right)} {'words' if words else 'texts'} right")
    return scores


@torch.no_grad()
def predict(trainer: Trainer, recipe: Adaptation, rows: Sequence[Labelled]) -> list[NDArray[np.int64]]:
    """The label numbers that the trained model gives to each row: one, or one a word; an empty text gets label 0."""
    model, setting = trainer.model.eval(), trainer.setting
    phase, loader = _phase(recipe, rows, held_out=True), trainer.loader
    answers = [np.zeros((np.atleast_1d(row.label) != IGNORE).sum(), np.int64) for row in rows]
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
            found, owners = logits.argmax(-1).cpu().numpy(), batch.sample_ids[example.cpu()].numpy()
            for owner in np.unique(owners).tolist():
                answers[owner] = found[owners == owner]
    return answers


def _length(row: Labelled) -> int:
    return sum(len(segment) for segment in row.segments) + 3


def _bytes_per_token(rows: Sequence[Row], encoded: Sequence[Labelled]) -> float:
    size = sum(len(segment.encode("utf-8", "surrogatepass")) for row in rows for segment in row.segments)
    return size / max(1, sum(map(_length, encoded)))
