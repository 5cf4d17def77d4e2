"""``plume export``: write a run as a folder that transformers loads, or as an ARPA file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from plume.commands.words import Json, TrustCode, table, tell
from plume.errors import UserError

if TYPE_CHECKING:
    from plume.models.ngrams import NGrams
    from plume.runs import Run

_HELD = ("config.json", "model.safetensors", "model.arpa", "vectors.bin", "vectors.txt")


def export(run: str | Path | Run, *, to: str | Path, part: str | None = None) -> Path:
    """Write a run (a folder or a loaded one) as a Hugging Face folder, an n-gram model as ``model.arpa`` and its
    tokenizer; returns the folder.

    ``part``: one of the networks that its model falls into (ELECTRA: "discriminator" or "generator"); by default the
    one that is kept.

    Raises:
        UserError: transformers or ARPA has no place for this model, the folder holds something already, or there is
            no such part.
    """
    from plume.models import interop
    from plume.models.ngrams import NGrams
    from plume.runs import Run, load
    from plume.training.folder import RunFolder

    loaded = run if isinstance(run, Run) else load(run)
    folder = Path(to)
    if (folder / "checkpoints").exists() or (folder / "run.json").exists():
        raise UserError(f"{folder} is a run: export to a folder of its own")
    if held := next((name for name in _HELD if (folder / name).exists()), None):
        raise UserError(f"{folder} holds a model already ({held}): choose another --to, or remove it first")
    if isinstance(loaded.model, NGrams):
        _export_arpa(loaded, loaded.model, folder)
        return folder
    if part is not None and part not in loaded.parts:
        names = " and ".join(filter(None, loaded.parts)) or "no parts: leave --part out"
        raise UserError(f"{loaded.name} has no part {part!r}; it has {names}")
    own = RunFolder(loaded.path).tokenizer
    interop.save(
        loaded.parts[part or next(iter(loaded.parts))],
        loaded.tokenizer.vocabulary,
        folder,
        tokenizer=own if own.is_dir() else loaded.path,
        labels=loaded.labels,
    )
    return folder


def _export_arpa(run: Run, model: NGrams, folder: Path) -> None:
    from plume.models import arpa

    words = run.tokenizer.pieces(range(model.vocab_size))
    for id, name in ((run.tokenizer.vocabulary.unk, arpa.UNKNOWN), (model.eos, arpa.END)):
        if id is not None:
            words[id] = name
    folder.mkdir(parents=True, exist_ok=True)
    arpa.write(model, words, folder / "model.arpa")
    run.tokenizer.save(folder)


def command(
    run: Annotated[Path, Parameter(name="RUN")],
    /,
    *,
    to: Path,
    part: str | None = None,
    trust_code: TrustCode = False,
    json: Json = False,
) -> None:
    """Write a run as a folder that transformers loads: config.json, model.safetensors and the tokenizer. An n-gram
    model becomes model.arpa.

    Parameters
    ----------
    run
        The run.
    to
        The folder to write.
    part
        Of a model of two networks this one: discriminator (what is written by default) or generator.
    """
    from plume.runs import load

    folder = export(load(run, trust_code=trust_code), to=to, part=part)
    files = sorted(path.name for path in folder.iterdir() if path.is_file())
    result = {"run": str(run), "folder": str(folder), "files": files}
    tell(result, table({"folder": str(folder), "files": ", ".join(files)}), as_json=json)
