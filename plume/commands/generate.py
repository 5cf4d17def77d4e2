"""``plume generate``: continue a text, or fill its [MASK]."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from plume.commands.words import Json, TrustCode, tell

if TYPE_CHECKING:
    from plume.generation.beam import Beam
    from plume.generation.sampling import Decoding
    from plume.runs import Run


def generate(run: str | Path | Run, prompt: Any = "", **settings: Any) -> Any:
    """Continuations of one prompt or many by a run (a folder or a loaded one): ``Run.generate``."""
    from plume.runs import Run, load

    loaded = run if isinstance(run, Run) else load(run)
    return loaded.generate(prompt, **settings)


def command(
    run: Annotated[Path, Parameter(name="RUN")],
    /,
    *,
    prompt: Annotated[list[str] | None, Parameter(name="--prompt")] = None,
    max_new_tokens: int = 100,
    temperature: float = 0.8,
    top_k: int = 0,
    top_p: float = 0.95,
    stop: Annotated[list[str] | None, Parameter(name="--stop")] = None,
    samples: int = 1,
    num_beams: int | None = None,
    length_penalty: float | None = None,
    seed: int = 0,
    trust_code: TrustCode = False,
    json: Json = False,
) -> None:
    """Continue a text. A model that was pretrained to fill masks fills every [MASK] of the prompt instead; one that
    was trained on pairs of texts (a translator) writes the second of a pair.

    Parameters
    ----------
    run
        A run, or a Hugging Face folder.
    prompt
        The text to go on from (default: none, the model begins a text). May be given again.
    max_new_tokens
        At most so many tokens.
    temperature
        0: always the likeliest token; 1: as the model says; more is wilder.
    top_k
        Draw from so many likeliest tokens only (0: from all).
    top_p
        Draw from the likeliest tokens that together have this probability.
    stop
        End before this string. May be given again.
    samples
        So many continuations of each prompt.
    num_beams
        More than 1: search for the likeliest text with so many beams, instead of drawing one (default: 4 for a
        model of pairs, 1 for others).
    length_penalty
        With beams: 0 prefers short texts, more than 1 long ones (default: 0.6 for a model of pairs, by the
        formula of 2017; 1 for others).
    seed
        The same seed gives the same text.
    """
    from plume.generation.beam import Beam
    from plume.generation.sampling import Decoding
    from plume.runs import load
    from plume.training.settings import Pretraining

    prompts = prompt or [""]
    loaded = load(run, trust_code=trust_code)
    if "fill_mask" in loaded.can and any("[MASK]" in p for p in prompts):
        _fill(loaded, prompts, as_json=json)
        return
    decoding = Decoding(max_new_tokens=max_new_tokens, temperature=temperature, top_k=top_k, top_p=top_p,
                        stop=tuple(stop or ()), seed=seed, overflow="slide")  # fmt: skip
    pairs = isinstance(loaded.recipe, Pretraining) and len(loaded.recipe.windows.columns) == 2
    beams = num_beams if num_beams is not None else 4 if pairs else 1
    if beams > 1:
        penalty = length_penalty if length_penalty is not None else 0.6 if pairs else 1.0
        beam = Beam(num_beams=beams, length_penalty=penalty, length_norm="gnmt" if pairs else "power")
        _search(loaded, prompts, decoding, beam, as_json=json)
        return
    if not json and len(prompts) * samples == 1:
        write(loaded, prompts[0], decoding, echo=not pairs)
        return
    found = loaded.complete(prompts, decoding, samples=samples)
    texts = [
        {"prompt": prompts[i // samples], "text": c.text, "finish": c.finish} for i, c in enumerate(found)
    ]
    tell(
        {"run": str(run), "texts": texts},
        "\n\n".join(t["text"] if pairs else f"{t['prompt']}{t['text']}" for t in texts),
        as_json=json,
    )


def write(run: Run, prompt: str, decoding: Decoding, *, echo: bool = True) -> str:
    """Write a prompt (``echo``) and its continuation to standard output as it grows; the continuation."""
    deltas = run.stream([prompt], decoding)  # before anything is written: perhaps it cannot
    sys.stdout.write(prompt if echo else "")
    sys.stdout.flush()
    parts = []
    try:
        for delta in deltas:
            parts.append(delta.text)
            sys.stdout.write(delta.text)
            sys.stdout.flush()
    finally:
        sys.stdout.write("\n")
        sys.stdout.flush()
    return "".join(parts)


def _search(run: Run, prompts: Sequence[str], decoding: Decoding, beam: Beam, *, as_json: bool) -> None:
    from plume.generation.completion import best

    run.know_prompts(prompts)
    found = best(run.language_model, run.tokenizer, run.answers, prompts, decoding, beam)
    texts = [{"prompt": p, "text": c.text, "finish": c.finish} for p, c in zip(prompts, found, strict=True)]
    tell({"run": str(run.path), "texts": texts}, "\n\n".join(c.text for c in found), as_json=as_json)


def _fill(run: Run, prompts: Sequence[str], *, as_json: bool) -> None:
    result, lines = [], []
    for prompt in prompts:
        found = run.fill_mask(prompt)
        masks = found if found and isinstance(found[0], list) else [found]
        result.append({"prompt": prompt, "masks": [[vars(filled) for filled in mask] for mask in masks]})
        for number, mask in enumerate(masks):
            lines += [f"[MASK] {number + 1}:"] if len(masks) > 1 else []
            lines += [f"{filled.probability:6.1%}  {filled.token}" for filled in mask]
    tell({"run": str(run.path), "texts": result}, "\n".join(lines), as_json=as_json)
