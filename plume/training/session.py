"""What every training verb does around the loop: hold the folder, refuse another run's settings, know the machine.

The order in which things become durable: config.json, then the verb's own data, then run.json, then checkpoints.
A run that is killed in between finds what it had and goes on.
"""

from __future__ import annotations

import contextlib
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import torch

from plume import config
from plume.errors import UserError
from plume.models.allocator import hold_freed_memory
from plume.models.pretrained import PretrainedModel
from plume.text.tokenizers import Tokenizer
from plume.training import fit, identity, parallel, precision
from plume.training.folder import RunFolder, write_json
from plume.training.loader import Loader, Phase
from plume.training.settings import Adaptation, Pretraining
from plume.training.trainer import Setting, Trainer
from plume.training.walker import Walker
from plume.vocabulary import Vocabulary

Kind = Literal["pretraining", "adaptation"]
Recipe = Pretraining | Adaptation

# Where these schedules stand does not depend on the end, so that a run may be given more steps.
GROWING = ("constant", "inverse_sqrt", "constant_inverse_sqrt", "noam", "wsd")


def say(message: str) -> None:
    """A sentence for the user; standard output is for results."""
    print(message, file=sys.stderr, flush=True)


@dataclass(frozen=True)
class Session:
    """A run folder that is held by this process and is of this recipe."""

    folder: RunFolder
    recipe: Recipe
    kind: Kind
    ranks: parallel.Ranks
    device: torch.device
    accept_changes: bool

    @property
    def known(self) -> Mapping[str, Any]:
        """Its run.json so far."""
        return self.folder.read_run()

    @property
    def finished(self) -> bool:
        """Whether all that was asked for is done."""
        return bool(self.known.get("finished") == self.recipe.training.steps)

    def only_first(self, work: Callable[[], object]) -> None:
        """Do something on the first rank while the others wait."""
        if self.ranks.first:
            work()
        self.ranks.wait()


@contextlib.contextmanager
def hold(out: Path, recipe: Recipe, kind: Kind, *, accept_changes: bool = False) -> Iterator[Session]:
    """Hold ``out`` for a run of ``recipe``; on leaving, the lock is freed and the processes part.

    Raises:
        UserError: another process holds it, or it is a run of something else.
    """
    folder = RunFolder(out)
    with parallel.ranks() as ranks, folder.lock() if ranks.first else contextlib.nullcontext():
        hold_freed_memory()
        if ranks.first:
            _same(folder, recipe)
        ranks.wait()
        cuda = torch.cuda.is_available()
        device = torch.device("cuda", torch.cuda.current_device()) if cuda else torch.device("cpu")
        yield Session(folder, recipe, kind, ranks, device, accept_changes)


def begin(folder: RunFolder, recipe: object) -> None:
    """Write the configuration of a new run, and copies of the user's own files it was built from. For the first
    rank alone.
    """
    if folder.exists():
        return
    config.copy_code(recipe, folder.code)
    write_json(folder.config, config.to_json(recipe))


def keep_tokenizer(folder: RunFolder, pieces: Tokenizer) -> None:
    """Write the run's own copy of its tokenizer, all of it or nothing. For the first rank alone."""
    if folder.tokenizer.is_dir():
        return
    aside = folder.path / ".tokenizer"
    try:
        shutil.rmtree(aside, ignore_errors=True)
        pieces.save(aside)
        aside.rename(folder.tokenizer)
    except OSError as error:
        shutil.rmtree(aside, ignore_errors=True)
        raise UserError(
            f"{folder.tokenizer} cannot be written ({error.strerror}): make room or choose another --out"
        ) from error


def train(
    session: Session,
    model: PretrainedModel,
    phases: Sequence[Phase[Any]],
    held_out: Sequence[Phase[Any] | str],
    vocab: Vocabulary,
    *,
    length: int,
    bytes_per_token: float,
    made_of: Mapping[str, str | None],
    parent: Mapping[str, Any] | None,
    early: bool = False,
) -> Trainer:
    """Train, or go on, to the end. ``length``: of the longest windows; ``made_of``: hashes of data and tokenizer.

    Raises:
        UserError: what the run was made of has changed, or it cannot go on.
        SystemExit: a signal came; the state is saved, the code is 128 + the signal.
    """
    folder, training, ranks = session.folder, session.recipe.training, session.ranks
    in_place = training.updates == "word"
    device = torch.device("cpu") if in_place else session.device
    numbers = precision.choose(training.precision, device)
    model.to(device)
    size = _microbatch_size(session, model, phases, vocab, length, numbers)
    now = {
        "config": config.digest(_without_steps(session.recipe)),
        **made_of,
        "parent": None if parent is None else parent.get("fingerprint"),
        "microbatch_size": size,
        **identity.machine(device, numbers),
    }
    accepted = list(session.known.get("accepted_changes", ()))
    if session.known.get("identity"):
        accepted += identity.check(session.known["identity"], now, folder.path, accept=session.accept_changes)
    record = {
        "kind": session.kind,
        "plume": version(),
        "identity": now,
        "parent": parent,
        "microbatch_size": size,
        "processes": ranks.size,
        "started": session.known.get("started", time.strftime("%Y-%m-%dT%H:%M:%S%z")),
        "accepted_changes": accepted,
        "finished": None,
    }
    peak = precision.matmul_peak(numbers, device) if ranks.first else float("inf")
    setting = Setting(ranks, device, numbers, size, bytes_per_token, peak * ranks.size)
    make = Walker if in_place else Trainer
    trainer = make(model, training, phases, held_out, vocab, folder, setting, now, folder.path.name, early)
    trainer.resume()  # refuses what cannot go on, before anything is written

    def write() -> None:
        write_json(folder.config, config.to_json(session.recipe))  # its steps may have grown
        folder.write_run(record)

    session.only_first(write)
    outcome = trainer.run()
    if outcome == "stopped":
        signal = trainer.signals.received
        trainer.say(f"stopped by {signal.name if signal else 'a signal'}; the same command goes on from here")
        raise SystemExit(128 + (signal or 0))
    return trainer


def finish(held: Session, **results: Any) -> None:
    """Say in run.json that all is done. For the first rank alone."""
    held.folder.write_run({**held.folder.read_run(), **results, "finished": held.recipe.training.steps})


def _microbatch_size(
    session: Session,
    model: PretrainedModel,
    phases: Sequence[Phase[Any]],
    vocab: Vocabulary,
    length: int,
    numbers: precision.Numbers,
) -> int:
    """What the recipe says, or what this run has used so far, or what fits."""
    training = session.recipe.training
    if training.microbatch_size is not None:
        return training.microbatch_size
    if (size := session.known.get("microbatch_size")) is not None:
        return int(size)
    loader = Loader(phases, vocab, model.heads, 1, model.backbone.packs, session.device, session.ranks)

    def trial(size: int) -> None:
        for phase in phases:
            batch = loader.collate(phase, phase.numbers(phase.first_step)[:size])
            if batch is not None:
                with precision.autocast(numbers, session.device):
                    losses = phase.objective.losses(model, batch.to(session.device))
                torch.stack([loss.total for loss in losses.heads.values()]).sum().backward()
        model.zero_grad(set_to_none=True)

    smallest = min(phase.batch_size for phase in phases)
    return session.ranks.agree(
        fit.microbatch_size(smallest, length, session.ranks.size, session.device, trial)
    )


def _same(folder: RunFolder, recipe: Recipe) -> None:
    """Whether the folder is new or of this recipe; its steps may have grown."""
    if not folder.exists():
        return
    before = folder.read_config()
    lines = config.differences(before, recipe)
    if not lines:
        return
    if not folder.learnt():  # it was refused, and is being mended
        say(f"{folder.path} has no checkpoint yet, so it is begun anew with these settings")
        folder.forget()
        return
    old, new = before.get("training", {}).get("steps", 0), recipe.training.steps
    if lines == config.differences(before, _with_steps(before, new)) and old < new:
        if recipe.training.schedule in GROWING and isinstance(recipe, Pretraining):
            say(f"{folder.path} grows from {old} to {new} steps")
            return
        lines.append(f"steps may grow in pretraining with the schedules {', '.join(GROWING)} only")
    raise UserError(
        f"{folder.path} holds a run with other settings ({'; '.join(lines)}): "
        f"give it the same ones, or choose another --out"
    )


def _with_steps(tree: Mapping[str, Any], steps: int) -> dict[str, Any]:
    return {**tree, "training": {**tree.get("training", {}), "steps": steps}}


def _without_steps(recipe: Recipe) -> dict[str, Any]:
    """What may not change at all, as a JSON tree."""
    return _with_steps(config.to_json(recipe), 0)


def version() -> str:
    try:
        return metadata.version("plume-lm")
    except metadata.PackageNotFoundError:  # run from a checkout that was not installed
        return "unknown"
