"""``plume import``: make a run of a Hugging Face folder, of an ARPA file or of a file of word vectors."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from plume.commands.words import Json, table, tell
from plume.errors import UserError

if TYPE_CHECKING:
    from plume.models.interop import Imported
    from plume.runs import Run
    from plume.text.tokenizers import Tokenizer
    from plume.training.folder import RunFolder

VECTORS = (".bin", ".txt", ".vec")


def import_folder(folder: str | Path, *, out: str | Path) -> Run:
    """Make the run ``out`` of a Hugging Face folder: its weights are the checkpoint of step 0. Or of
    an n-gram model in an ARPA file (.gz too), whose words are what stands between blanks. Or of word vectors in a
    .bin, .txt or .vec file of word2vec.c, gensim, fastText or GloVe.

    Raises:
        UserError: the folder cannot be read, or ``out`` holds something already.
    """
    from plume import config
    from plume.models import interop
    from plume.runs import load
    from plume.text.tokenizers import Tokenizer
    from plume.training.checkpoints import Checkpoints
    from plume.training.folder import RunFolder, write_json

    source, run = Path(folder), RunFolder(Path(out))
    if not source.exists():
        raise UserError(f"{source} does not exist: name the folder or the file of a published model")
    if source.is_file():
        return _import_vectors(source, run) if source.suffix in VECTORS else _import_arpa(source, run)
    imported = interop.load(source)
    tokenizer = Tokenizer.from_hf(source).with_rows(imported.vocab_size)
    imported.model(tokenizer.vocabulary)  # does it fit?
    recipe = recipe_of(imported, tokenizer)
    with run.lock():
        if run.exists() or run.checkpoints.exists():
            raise UserError(f"{out} holds a run already: choose another --out")
        tokenizer.save(run.tokenizer)
        write_json(run.config, config.to_json(recipe))
        parent = {"path": str(source.resolve()), "step": None, "fingerprint": None}
        run.write_run({"kind": "imported", "parent": parent, "finished": 1})
        Checkpoints(run.checkpoints).save(0, {"model": dict(imported.state)}, {})
    return load(out)


def _import_arpa(source: Path, run: RunFolder) -> Run:
    from plume import config
    from plume.models import arpa
    from plume.models.smoothing import KneserNey
    from plume.runs import load
    from plume.text.tokenizers import Words, blank_separated
    from plume.training.counting import Counting, NGramConfig
    from plume.training.folder import write_json

    found = arpa.read(source)
    tokenizer = blank_separated(found.words, unknown=arpa.UNKNOWN, begin=arpa.BEGIN, end=arpa.END)
    vocab = tokenizer.vocabulary
    ids = {piece: id for id, piece in enumerate(tokenizer.pieces(range(vocab.size)))}
    model = found.model(ids, vocab.size, vocab.require("eos"))
    # A recipe that would count such a model; how this one was smoothed, its file does not say.
    shape = NGramConfig(order=model.order, smoothing=KneserNey())
    with run.lock():
        if run.exists() or run.ngrams.exists():
            raise UserError(f"{run.path} holds a run already: choose another --out")
        tokenizer.save(run.tokenizer)
        write_json(
            run.config, config.to_json(Counting(tokenizer=Words(vocab.size, lowercase=False), model=shape))
        )
        model.save(run.ngrams)
        parent = {"path": str(source.resolve()), "step": None, "fingerprint": None}
        run.write_run({"kind": "imported", "parent": parent, "finished": 1})
    return load(run.path)


def _import_vectors(source: Path, run: RunFolder) -> Run:
    from dataclasses import replace

    import numpy as np
    import torch

    from plume import config
    from plume.models.lookup import LookupConfig
    from plume.models.word_vectors import WordVectors
    from plume.recipes import word2vec
    from plume.runs import load
    from plume.text.tokenizers import Words, of_words
    from plume.training.checkpoints import Checkpoints
    from plume.training.folder import write_json

    found = WordVectors.read(source)
    special = {f"[{n}]" for n in ("PAD", "UNK", "CLS", "SEP", "MASK", "BOS", "EOS")}
    words = [word for word in found.index if word and word not in special]
    lowercase = all(word == word.lower() for word in words[:10_000])
    # How often each word occurred the file does not say, only which was commoner.
    tokenizer = of_words(words, range(len(words), 0, -1), lowercase=lowercase)
    table = np.zeros((tokenizer.vocabulary.size, found.table.shape[1]), np.float32)
    table[len(table) - len(words) :] = found.table[[found.index[word] for word in words]]
    recipe = replace(
        word2vec.skipgram(),
        tokenizer=Words(tokenizer.vocabulary.size, lowercase=lowercase),
        model=LookupConfig(table.shape[1]),
    )
    with run.lock():
        if run.exists() or run.checkpoints.exists():
            raise UserError(f"{run.path} holds a run already: choose another --out")
        tokenizer.save(run.tokenizer)
        write_json(run.config, config.to_json(recipe))
        parent = {"path": str(source.resolve()), "step": None, "fingerprint": None}
        run.write_run({"kind": "imported", "parent": parent, "finished": 1})
        state = {"backbone.embedding.weight": torch.from_numpy(table)}
        Checkpoints(run.checkpoints).save(0, {"model": state}, {})
    return load(run.path)


def recipe_of(imported: Imported, tokenizer: Tokenizer) -> Any:
    """A recipe that goes on where the published model stopped: its shape, its objective, plain training values."""
    from plume.objectives.classification import Classification
    from plume.objectives.published import objective_of
    from plume.objectives.sequence_to_sequence import SequenceToSequence
    from plume.text.tokenizers import ByteLevelBPE, Characters, Unigram, WordPiece, Words
    from plume.text.windows import (
        FullSentences,
        PackedStream,
        SegmentPairs,
        SentenceStream,
        TextPairs,
        Windows,
    )
    from plume.training.settings import Adaptation, Pretraining, Training

    objective, size = objective_of(imported), tokenizer.vocabulary.size
    training = Training(steps=1, batch_size=32, lr=2e-5)
    if (
        imported.family == "elmo"
    ):  # a recurrent network has no longest text; its authors' windows are of 20 words
        words = Words(size, lowercase=False, spelled=True)
        return Pretraining(
            tokenizer=words,
            windows=SentenceStream(20),
            objective=objective,
            model=imported.config,
            training=training,
        )
    length = imported.config.max_positions
    if isinstance(objective, Classification):
        return Adaptation(objective=objective, model=imported.config, training=training)
    kinds = {"wordpiece": WordPiece, "bpe": ByteLevelBPE, "unigram": Unigram, "characters": Characters,
             "words": Words}  # fmt: skip
    windows: Windows = PackedStream(length) if imported.family == "gpt2" else FullSentences(length)
    if isinstance(objective, SequenceToSequence):
        windows = TextPairs(length)
    pairs = "next_sentence" in imported.heads
    return Pretraining(
        tokenizer=kinds[tokenizer.kind](size),
        windows=SegmentPairs(length) if pairs else windows,
        objective=objective,
        model=imported.config,
        training=training,
    )


def command(
    folder: Annotated[Path, Parameter(name="HF_FOLDER")],
    /,
    *,
    out: Path,
    json: Json = False,
) -> None:
    """Make a run of a published model, to be adapted, evaluated or trained on: a Hugging Face folder (GPT-1, GPT-2,
    BERT, RoBERTa, ERNIE, ELECTRA, XLNet, T5, BART, Marian), ELMo's, an ARPA file or word vectors.

    Parameters
    ----------
    folder
        The folder: config.json, model.safetensors and the tokenizer's files. Or a file of n-grams:
        model.arpa(.gz); or of word vectors: .bin, .txt, .vec.
    out
        The run folder to make.
    """
    run = import_folder(folder, out=out)
    facts = run.facts()
    tell(
        {"run": str(out), "can": list(run.can), **facts},
        table({**facts, "can": ", ".join(run.can)}),
        as_json=json,
    )
