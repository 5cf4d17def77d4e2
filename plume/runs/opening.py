"""From a folder to a ``Run``: one of Plume's own, or a published Hugging Face folder."""

from __future__ import annotations

from pathlib import Path

import torch

from plume import config
from plume.errors import UserError
from plume.models import interop
from plume.models.backbone import Backbone
from plume.models.heads import Head
from plume.models.ngrams import NGrams
from plume.models.pretrained import PretrainedModel, has_weights
from plume.models.sparse import SparseModel
from plume.objectives.causal import CausalLM
from plume.objectives.published import objective_of
from plume.runs.run import Run
from plume.text.tokenizers import Tokenizer, of_words
from plume.training import sparse, stages
from plume.training.checkpoints import Checkpoints, folder_name, open_checkpoint
from plume.training.counting import Counting
from plume.training.folder import RunFolder
from plume.training.settings import Adaptation, Pretraining


def load(
    path: str | Path, *, step: int | None = None, trust_code: bool = False, device: str | torch.device = "cpu"
) -> Run:
    """A run folder, or a Hugging Face folder (BERT, GPT-2), as one object.

    ``step``: as a run was then, if that checkpoint was kept; None: the newest.
    ``trust_code``: run the author's own Python files that the run was made with (``code/``).

    Raises:
        UserError: it is neither, damaged, or made with code that was not trusted.
    """
    path = Path(path)
    folder = RunFolder(path)
    if not path.is_dir():
        raise UserError(f"{path} is no folder: name a run, or a Hugging Face folder")
    if folder.checkpoints.is_dir() or folder.run.is_file():
        run = _load_run(folder, step, trust_code)
    elif interop.is_folder(path):
        if (own := path / "config.json").is_file() and "class" in config.read(own):
            raise UserError(f"{path} holds a run that was begun but has no checkpoint yet: train it first")
        run = _load_published(path)
    else:
        raise UserError(
            f"{path} is neither a run (it has no checkpoints) nor a Hugging Face folder (no config.json)"
        )
    if isinstance(run.model, PretrainedModel):
        run.model.to(device).eval()
    return run


def _load_run(folder: RunFolder, step: int | None, trust_code: bool) -> Run:
    recipe = config.resolve(str(folder.path), trust_code=trust_code)
    if isinstance(recipe, Counting):
        if not folder.ngrams.is_file():
            raise UserError(f"{folder.path} is not counted to its end: run the command that began it again")
        counted = NGrams.load(folder.ngrams)
        return Run(folder.path, counted, CausalLM(), Tokenizer.load(folder.tokenizer), recipe, 1)
    if isinstance(recipe, sparse.Sparse):
        weighed = SparseModel.load(folder.sparse)
        return Run(folder.path, weighed, CausalLM(), of_words((), (), lowercase=True), recipe, 1)
    if not isinstance(recipe, Pretraining | Adaptation):
        raise UserError(f"{folder.config} is a {type(recipe).__name__}, which cannot be loaded as a model")
    kept = Checkpoints(folder.checkpoints, say=lambda _: None)
    if step is not None and step not in kept.steps():
        there = ", ".join(map(str, kept.steps())) or "none"
        raise UserError(f"{folder.path} keeps no checkpoint of step {step}; it has {there}")
    checkpoint = kept.require() if step is None else open_checkpoint(kept.folder / folder_name(step))
    state = checkpoint.tensors("model")
    tokenizer = Tokenizer.load(folder.tokenizer)
    vocab = tokenizer.vocabulary
    objectives = stages.objectives(recipe) if isinstance(recipe, Pretraining) else [recipe.objective]

    def heads(backbone: Backbone) -> dict[str, Head]:
        merged: dict[str, Head] = {}
        for objective in objectives:
            merged = {**objective.heads(backbone, vocab), **merged}
        # An imported folder may lack heads of its family's objective: what has no weights cannot answer.
        return {name: head for name, head in merged.items() if has_weights(name, head, backbone, state)}

    model = PretrainedModel.build(recipe.model, vocab, heads, seed=0)
    # An imported folder may keep more than can answer here, such as a pooler that `plume adapt` will use.
    named = tuple(f"heads.{name}." for name in model.heads)
    used = {n: t for n, t in state.items() if n.startswith(("backbone.", *named))}
    model.load_state(used, str(checkpoint.path))
    return Run(folder.path, model, recipe.objective, tokenizer, recipe, checkpoint.step)


def _load_published(path: Path) -> Run:
    imported = interop.load(path)
    tokenizer = Tokenizer.from_hf(path).with_rows(imported.vocab_size)
    return Run(path, imported.model(tokenizer.vocabulary), objective_of(imported), tokenizer)
