"""Examples of a recipe before there is any data: what ``plume show`` draws and ``plume pretrain`` rehearses."""

from __future__ import annotations

import dataclasses
import itertools
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from plume import config
from plume.drawing.phrases import Language, apart, phrase
from plume.drawing.picture import TOKEN_HEADS, Picture, picture
from plume.drawing.texts import PAIRS, TEXTS
from plume.errors import UserError
from plume.models.heads import TokenHead
from plume.models.pretrained import PretrainedModel
from plume.models.transformer import TransformerConfig
from plume.objectives.base import Objective
from plume.objectives.classification import Classification, Labelled
from plume.seeding import rng
from plume.slots import NEVER, Array, Example
from plume.studies import pairs
from plume.text.marks import SENTENCE
from plume.text.readers import read
from plume.text.spelling import WIDTH, shown
from plume.text.tokenizers import Tokenizer
from plume.text.tokens import Tokens
from plume.text.units import Lexicon
from plume.text.windows import Reading, Window, Windows
from plume.training import pretraining, stages
from plume.training.settings import Adaptation, Pretraining
from plume.training.tasks import Task

DRAWS = 256  # the one that shows most is taken

Row = str | tuple[str, ...]  # a text, or a row of several columns


def small_texts(recipe: Pretraining | Adaptation, language: Language) -> Sequence[Row]:
    """A small text of the kind that the recipe reads."""
    pairs = isinstance(recipe, Pretraining) and len(recipe.windows.columns) == 2
    return PAIRS[language] if pairs else TEXTS[language]


def rows_of(recipe: Pretraining | Adaptation, texts: Sequence[str]) -> Sequence[Row]:
    """A person's own texts as the recipe reads them: each alone, or as many as there are columns together.

    Raises:
        UserError: there are not as many as it takes.
    """
    columns = recipe.windows.columns if isinstance(recipe, Pretraining) else ()
    if not columns:
        return texts
    if len(texts) % len(columns):
        raise UserError(
            f"this recipe reads rows of {' and '.join(columns)}: give all of them, an empty line between"
        )
    return list(zip(*[iter(texts)] * len(columns), strict=True))


def first_rows(task: Task, files: Sequence[Path], most: int = 64) -> list[tuple[str, ...]]:
    """The first rows of a task's data, as they are read.

    Raises:
        UserError: there are none, or a column is missing.
    """
    found = read(list(files), text_column=task.source, more=(task.target,))
    rows = [(task.prefix + row.text, *row.more) for row in itertools.islice(found, most)]
    if not rows:
        raise UserError(f"the task {task.name}: there is no row with text in {', '.join(map(str, files))}")
    return rows


def on_the_spot(recipe: Pretraining | Adaptation, texts: Sequence[Row]) -> Tokenizer:
    """A small tokenizer of the recipe's kind, trained on a few texts.

    Raises:
        UserError: an adaptation has the tokenizer of its run, and no kind of its own.
    """
    if isinstance(recipe, Adaptation):
        raise UserError("this configuration has no tokenizer beside it: name the run folder")
    kind: Any = recipe.tokenizer
    known = {f.name for f in dataclasses.fields(kind)}
    if "vocab_size" in known:
        kind = dataclasses.replace(kind, vocab_size=min(kind.vocab_size, 2_000))
    if "min_count" in known:  # hardly a word of a small text comes twice
        kind = dataclasses.replace(kind, min_count=1)
    # Of so little text a tokenizer would make tokens of whole Chinese sentences: it gets the characters alone.
    columns = [text for row in texts for text in ((row,) if isinstance(row, str) else row)]
    trained: Tokenizer = kind.train([part for text in columns for part in apart(text)])
    return trained


def rehearse(recipe: Pretraining, tokenizer: Tokenizer | None) -> None:
    """Draw an example of every stage from a small text, so that settings which do not fit together are told
    before anything is written. ``tokenizer``: the one that will be used, where it is known already.

    Raises:
        UserError: they do not fit together.
    """
    texts = small_texts(recipe, "en")
    tokenizer = tokenizer or on_the_spot(recipe, [*texts, *(PAIRS["en"] if recipe.tasks else ())])
    for _, windows, objective, _ in stages.resolve(recipe):
        room = _room(recipe.model)
        if room is not None and windows.length > room:
            raise UserError(
                f"windows.length={windows.length} is more than the model's {room} positions: shorten the windows, "
                f"or set model.max_positions={windows.length} too"
            )
        alone = dataclasses.replace(recipe, tasks=None)
        _rehearse(alone, windows, objective, tokenizer, texts)
        if recipe.tasks is not None:
            rows = recipe.tasks.members[0].windows(windows.length)
            _rehearse(alone, rows, recipe.tasks.objective, tokenizer, PAIRS["en"])
            try:
                pretraining.build_model(recipe, tokenizer.vocabulary, device="meta")
            except ValueError as error:  # of two heads of one name
                raise UserError(str(error)) from error


def _rehearse(
    recipe: Pretraining,
    windows: Windows,
    objective: Objective[Any],
    tokenizer: Tokenizer,
    texts: Sequence[Row],
) -> None:
    stage = dataclasses.replace(recipe, windows=windows, objective=objective, stages=())
    try:
        drawn = next(draws(stage, tokenizer, texts, 16), None)
    except ValueError as error:  # an objective's word on what it cannot be asked with
        raise UserError(str(error)) from error
    except UserError:
        return  # of a longer text it could perhaps be drawn
    if drawn is not None:
        pairs.require(recipe, objective, drawn[1], tokenizer.vocabulary, carries=windows.carries)


def _room(shape: object) -> int | None:
    """How many slots fit, where positions are learned; None: any number."""
    if isinstance(shape, TransformerConfig) and shape.positions == "learned":
        return shape.max_positions
    return None


def as_tokens(recipe: Pretraining, tokenizer: Tokenizer, texts: Sequence[Row]) -> Tokens:
    """The texts' tokens; where phrases are masked, those that two of these words make twice."""
    lexicon = None
    if stages.grains(recipe) & {"phrase", "entity"}:
        plain = (text for row in texts for text in ((row,) if isinstance(row, str) else row))
        lexicon = Lexicon.find(plain, min_count=2, surplus=1.0)
    return Tokens.of(tokenizer, texts, lexicon=lexicon)


def draws(
    recipe: Pretraining, tokenizer: Tokenizer, texts: Sequence[Row], length: int
) -> Iterator[tuple[Window, Example[Array]]]:
    """Windows of at most ``length`` slots over some texts, and the example drawn of each.

    Raises:
        UserError: the texts are too short for a window.
    """
    vocab, objective, tokens = tokenizer.vocabulary, recipe.objective, as_tokens(recipe, tokenizer, texts)
    windows: Any = recipe.windows
    windows = dataclasses.replace(windows, length=min(windows.length, length))
    reads = objective.window_length(windows.length)
    done = 0
    for epoch in range(DRAWS):
        plan = windows.plan(tokens, vocab, Reading(reads, epoch=epoch))
        for index in range(len(plan)):
            window: Window = plan[index]
            example = objective.example(window, vocab, rng(0, "show", epoch, index))
            done += 1
            if example is not None:
                yield window, example
            if done == DRAWS:
                return


def example_of(
    recipe: Pretraining | Adaptation,
    tokenizer: Tokenizer,
    own: Sequence[Row],
    small: Sequence[Row],
    slots: int,
) -> Example[Array]:
    """An example of the user's own text, or of the small one. A text too short for a window gets company from it.

    Raises:
        UserError: nothing can be drawn of so little text.
    """
    if isinstance(recipe, Adaptation):
        return _labelled(recipe.objective, tokenizer, str([*own, *small][0]), slots)
    nothing = UserError("nothing can be drawn of so little text: give --text more of it")
    for texts, length in [*((own, n) for n in range(slots, 4, -1) if own), ([*own, *small], slots)]:
        try:
            found = _most_telling(recipe, tokenizer, texts, length)
        except UserError as error:
            nothing = error
            continue
        if found is not None:
            return found
    raise nothing


def _labelled(objective: Any, tokenizer: Tokenizer, text: str, slots: int) -> Example[Array]:
    ids = tokenizer.encode(text)[: slots - 3]
    found: Example[Array] | None = objective.example(
        Labelled((ids,), 0), tokenizer.vocabulary, rng(0, "show")
    )
    if found is None:
        raise UserError("nothing can be drawn of so little text: give --text more of it")
    return found


def _most_telling(
    recipe: Pretraining, tokenizer: Tokenizer, texts: Sequence[Row], length: int
) -> Example[Array] | None:
    """Of many draws the one with most kinds of slots, of segments that begin with a sentence, of slots."""
    best, best_score = None, (-1, -1.0, -(10**9), -1, False)
    for window, example in draws(recipe, tokenizer, texts, length):
        states = picture(example, tokenizer.pieces, tokenizer.vocabulary).states
        # As many slots as there is room for, queries beside them: pairs of neighbours may be far more than words.
        read = int((example.inputs.visible_at != NEVER).sum())
        size = read if read <= length else -read
        score = (len(states), _whole(window), size, len(example.inputs), not window.special[0])
        if score > best_score:
            best, best_score = example, score
    return best


def _whole(window: Window) -> float:
    """The share of a window's segments that begin with a sentence: the others were cut at their front."""
    inside = ~window.special
    begins = inside & ~np.concatenate([[False], inside[:-1]])
    return float((window.marks[begins] & SENTENCE != 0).mean()) if begins.any() else 0.0


def picture_of(
    recipe: Pretraining | Adaptation,
    tokenizer: Tokenizer,
    example: Example[Array],
    name: str,
    language: Language,
) -> Picture:
    """The picture of an example, with what the recipe is made of in a few words."""
    # The shapes of the network, without weights; of the recipe's vocabulary size, if it says one.
    settings, objective = config.settings(recipe), recipe.objective
    size = max(int(settings.get("tokenizer.vocab_size", 0)), tokenizer.vocabulary.size)
    vocab = dataclasses.replace(tokenizer.vocabulary, size=size)
    network = PretrainedModel.build(
        recipe.model, vocab, lambda b: objective.heads(b, vocab), seed=0, device="meta"
    )
    facts, says = [settings["objective"]], []
    if isinstance(recipe, Pretraining):
        length, drawn = recipe.windows.length, len(example.inputs)
        facts.append(phrase(language, "fact.windows", name=settings["windows"], length=length, drawn=drawn))
        if recipe.windows.carries:
            says.append(phrase(language, "says.carries"))
    if len(np.unique(example.inputs.document_ids)) > 1:  # then the text cannot be read off the slots
        words = " ".join(tokenizer.pieces([int(i) for i in objective.restore(example)]))
        says.append(phrase(language, "source", words=words))
    model, features = recipe.model, example.inputs.features
    bands = Counter((model.bands or ()) if isinstance(model, TransformerConfig) else ())
    for band, times in bands.items():
        if band is not None:
            total = settings["model.num_layers"]
            says.append(phrase(language, "says.bands", n=times, layers=total, band=band))
    kind = settings.get("tokenizer", tokenizer.kind)
    facts.append(phrase(language, "fact.tokenizer", name=kind, size=f"{size:,}"))
    count = sum(parameter.numel() for parameter in network.parameters()) / 1e6
    layers, width = settings.get("model.num_layers", 0), network.backbone.d_model
    facts.append(phrase(language, "fact.model", layers=layers, width=width, millions=f"{count:.1f}"))
    if settings["objective"] == "MaskedLM" and "masking" in settings:
        facts.append(phrase(language, f"fact.{settings['masking']}"))
    return picture(
        example,
        tokenizer.pieces,
        tokenizer.vocabulary,
        title=name,
        facts=facts,
        says=says,
        language=language,
        names={"label": objective.labels} if isinstance(objective, Classification) else {},
        spelled=shown if features is not None and features.shape[1:] == (WIDTH,) else None,
        bands=sorted(band for band in bands if band is not None),
        token_heads=[
            n for n, head in network.heads.items() if isinstance(head, TokenHead) or n in TOKEN_HEADS
        ],
        directions=any(head.reads == "backward" for head in network.heads.values()),
    )
