"""Continued pretraining: a model goes on with text of a domain, with new vocabulary, and what that did is measured."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from plume.errors import UserError
from plume.models.pretrained import PretrainedModel
from plume.text.extending import Extension
from plume.text.readers import read
from plume.text.splits import split_of
from plume.text.tokenizers import Tokenizer
from plume.text.tokens import Tokens
from plume.training import precision, stages
from plume.training.folder import RunFolder, write_json
from plume.training.held_out import held_out_loss
from plume.training.loader import Loader
from plume.training.parallel import Ranks
from plume.training.settings import Pretraining

DOCUMENTS = 2_000  # of general text that are looked at


def grown(
    state: Mapping[str, Tensor], model: PretrainedModel, tokenizer: Path, start: Tokenizer
) -> Mapping[str, Tensor]:
    """``state`` with a row for every new piece, the mean of its old pieces', in every table of one row a token.

    ``tokenizer`` is the folder of the one that the new model uses, ``start`` the old model's own.

    Raises:
        UserError: the tokenizer extends another one than the model's.
    """
    made = Extension.load(tokenizer)
    if made is None:
        return state
    if made.fingerprint != start.fingerprint:
        raise UserError(
            f"{tokenizer} extends another tokenizer than this model's: make it with plume tokenizer --extend and this "
            f"model's own folder"
        )
    own = model.state()
    result = dict(state)
    for name, old in state.items():
        new = own.get(model.ties.get(name, name))
        if new is None or old.shape[:1] != (made.size,) or new.shape[1:] != old.shape[1:]:
            continue
        if new.shape[:1] == (made.size + len(made.pieces),):
            means = [old[list(pieces)].double().mean(0).to(old.dtype) for pieces in made.pieces]
            result[name] = torch.cat([old, torch.stack(means)])
    return result


def general_texts(data: Sequence[Path], column: str) -> list[str]:
    """Held-out documents of general text: its dev split, or all of it where it is too small to have one."""
    if not data:
        return []

    def texts(splits: Iterable[str]) -> list[str]:
        found = (d.text for d in read(list(data), text_column=column) if split_of(d.text) in splits)
        return list(islice(found, DOCUMENTS))

    return texts(("dev",)) or texts(("train", "dev", "test"))


def measure(
    recipe: Pretraining, model: PretrainedModel, tokenizer: Tokenizer, dev: Tokens, general: Sequence[str]
) -> dict[str, float]:
    """Held-out loss in nats of the last stage's objective, on the domain and on general text where there is some.

    Text too short for a window is left out.
    """
    found = {}
    texts = {"domain": dev}
    if general:
        texts["general"] = Tokens.of(tokenizer, general, name="general")
    device = next(model.parameters()).device
    size = recipe.training.microbatch_size or min(16, recipe.training.batch_size)
    numbers = precision.choose(recipe.training.precision, device)
    was_training = model.training
    model.eval()
    for name, tokens in texts.items():
        phase = stages.held_out(recipe, tokens, tokenizer.vocabulary)[-1]
        if isinstance(phase, str):
            continue
        loader = Loader(
            [phase], tokenizer.vocabulary, model.heads, size, model.backbone.packs, device, Ranks()
        )
        row = held_out_loss(
            model, phase, loader, seed=recipe.training.noise_seed,
            precision=lambda: precision.autocast(numbers, device), leave=lambda: False,
        )  # fmt: skip
        if row is not None:
            found[name] = float(row["loss"])
    model.train(was_training)
    return found


def note(folder: RunFolder, when: str, losses: Mapping[str, float]) -> None:
    """Write down what was measured ``when`` ("before" or "after"), in the run's continued.json."""
    write_json(folder.continued, {**noted(folder), when: dict(losses)})


def noted(folder: RunFolder) -> dict[str, Any]:
    """What has been measured so far; empty for a run that began from nothing."""
    from plume.config import read as read_json

    return read_json(folder.continued) if folder.continued.is_file() else {}
