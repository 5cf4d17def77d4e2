"""``plume show``: draw what recipes ask of a model, before there is any data or tokenizer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from plume.commands.words import Flag, Json, tell
from plume.errors import UserError

if TYPE_CHECKING:
    from plume.drawing.phrases import Language
    from plume.drawing.picture import Picture
    from plume.text.tokenizers import Tokenizer

MAX_SLOTS = 64


@dataclass(frozen=True)
class Shown:
    """Pictures of what recipes ask. Draws itself in a notebook; ``html()`` is a page of its own."""

    pictures: tuple[Picture, ...]

    def _repr_html_(self) -> str:
        from plume.drawing.html import fragment

        return fragment(self.pictures)

    def html(self) -> str:
        """A whole HTML document that needs nothing else."""
        from plume.drawing.html import page
        from plume.drawing.phrases import phrase

        language = self.pictures[0].language
        about = "page" if any(picture.stacks for picture in self.pictures) else "page.counted"
        return page(
            self.pictures,
            title=phrase(language, f"{about}.title"),
            words=phrase(language, f"{about}.words"),
            language=language,
        )

    def to_json(self) -> dict[str, Any]:
        """Slots, answers and who sees whom, a string of 0 and 1 a slot."""
        return {
            "pictures": [
                {
                    "recipe": picture.title,
                    "facts": list(picture.facts),
                    "says": list(picture.says),
                    "stacks": [
                        {
                            "name": stack.name,
                            "slots": [
                                {"reads": s.shown, "state": s.state, "answers": dict(s.answers)}
                                for s in stack.slots
                            ],
                            "notes": {name: list(words) for name, words in stack.notes.items()},
                            "sees": ["".join("01"[int(seen)] for seen in row) for row in stack.sees],
                            "banded": [
                                {
                                    "says": words,
                                    "sees": ["".join("01"[int(seen)] for seen in row) for row in sees],
                                }
                                for words, sees in stack.banded
                            ],
                            "across": ["".join("01"[int(seen)] for seen in row) for row in stack.across]
                            if stack.across is not None
                            else [],
                        }
                        for stack in picture.stacks
                    ],
                }
                | (
                    {
                        "listings": [
                            {
                                "caption": listing.caption,
                                "head": list(listing.head),
                                "rows": [*map(list, listing.rows)],
                            }
                            for listing in picture.listings
                        ]
                    }
                    if picture.listings
                    else {}
                )
                for picture in self.pictures
            ]
        }


def show(
    *recipes: Any,
    text: str | None = None,
    tasks: str | Path | None = None,
    slots: int = 24,
    language: Language | None = None,
) -> Shown:
    """Draw an example of each recipe (a name like ``"bert:tiny"`` or the object itself).

    ``text``: draw this text; else a small one that comes with plume. ``tasks``: a file of tasks; a row of each is drawn
    too. ``slots``: how many to draw at most.
    ``language`` of the words around it: "en" or "zh", else that of the text.

    Raises:
        UserError: no such recipe, or nothing can be drawn of the text.
    """
    from plume.drawing.phrases import language_of

    if not recipes:
        raise UserError("name a recipe to draw, for instance: plume show gpt:tiny bert:tiny")
    if not 5 <= slots <= MAX_SLOTS:
        raise UserError(f"--slots must lie between 5 and {MAX_SLOTS}, got {slots}")
    if text is not None and not text.strip():
        raise UserError("--text is empty: give a sentence or two, or leave it out")
    language = language or language_of(text or "")
    drawn = [_draw(recipe, text, tasks, slots, language) for recipe in recipes]
    return Shown(tuple(picture for pictures in drawn for picture in pictures))


def _draw(
    given: Any, text: str | None, tasks: str | Path | None, slots: int, language: Language
) -> list[Picture]:
    from dataclasses import replace

    from plume import config
    from plume.commands.counted import picture_of_counts
    from plume.commands.examples import example_of, first_rows, on_the_spot, picture_of, rows_of, small_texts
    from plume.commands.pretrain import with_tasks
    from plume.training.counting import Counting
    from plume.training.settings import Adaptation, Pretraining
    from plume.training.sparse import Sparse

    name = given if isinstance(given, str) else type(given).__name__
    recipe = config.resolve(given) if isinstance(given, str) else config.checked(given)
    rows: dict[str, list[tuple[str, ...]]] = {}
    if tasks is not None:
        if not isinstance(recipe, Pretraining):
            raise UserError(f"{name} is a {type(recipe).__name__}, which mixes no tasks: leave --tasks out")
        recipe, files = with_tasks(recipe, tasks)
        assert recipe.tasks is not None
        rows = {task.name: first_rows(task, files[task.name]) for task in recipe.tasks.members}
    if isinstance(recipe, Counting | Sparse):
        return [picture_of_counts(recipe, _run_of(given), name, text, slots, language)]
    if not isinstance(recipe, Pretraining | Adaptation):
        raise UserError(f"{name} is a {type(recipe).__name__}, which has no examples to draw")
    own = rows_of(recipe, [part for part in (text or "").split("\n\n") if part.strip()])
    small = small_texts(recipe, language)
    tokenizer = _of_run(given) or on_the_spot(
        recipe, [*own, *small, *(r for rs in rows.values() for r in rs)]
    )
    pictures = [
        picture_of(recipe, tokenizer, example_of(recipe, tokenizer, own, small, slots), name, language)
    ]
    for task_name, texts in rows.items():
        assert isinstance(recipe, Pretraining) and recipe.tasks is not None
        windows, objective = (
            recipe.tasks.named(task_name).windows(recipe.windows.length),
            recipe.tasks.objective,
        )
        alone = replace(recipe, windows=windows, objective=objective, stages=(), tasks=None)
        example = example_of(alone, tokenizer, texts, texts, slots)
        pictures.append(picture_of(alone, tokenizer, example, f"{name}, {task_name}", language))
    return pictures


def _run_of(given: Any) -> Path | None:
    """The folder of a run, where one was named."""
    path = Path(given) if isinstance(given, str) else None
    return path.parent if path is not None and path.suffix == ".json" else path


def _of_run(given: Any) -> Tokenizer | None:
    """The tokenizer that lies beside a run's config.json."""
    from plume.text.tokenizers import Tokenizer
    from plume.training.folder import RunFolder

    path = _run_of(given)
    if path is None:
        return None
    folder = RunFolder(path)
    return Tokenizer.load(folder.tokenizer) if folder.tokenizer.is_dir() else None


def command(
    *recipes: Annotated[str, Parameter(name="RECIPE")],
    text: str | None = None,
    tasks: Path | None = None,
    html: Path | None = None,
    slots: int = 24,
    language: Literal["en", "zh"] | None = None,
    settings: Annotated[bool, Flag] = False,
    json: Json = False,
) -> None:
    """Draw what recipes ask of a model: the tokens as it sees them, who sees whom, what it must predict where.

    Parameters
    ----------
    recipes
        bert:tiny, gpt:tiny, ..., my_file.py:function, a config.json or a run folder.
    text
        Draw this text instead of a small one that comes with plume.
    tasks
        A file of tasks that are mixed with the text: a row of each is drawn too.
    html
        Write the drawing to this file too, for a browser.
    slots
        How many slots to draw at most.
    language
        Language of the words around the drawing (default: that of the text).
    settings
        List every setting of the recipes instead, as key=value words.
    json
        Print the drawing as one JSON object.
    """
    if settings:
        _list_settings(recipes, as_json=json)
        return
    shown = show(*recipes, text=text, tasks=tasks, slots=slots, language=language)
    if html is not None:
        html.parent.mkdir(parents=True, exist_ok=True)
        html.write_text(shown.html(), encoding="utf-8")
    if json:
        tell(shown.to_json(), "", as_json=True)
        return
    from rich.console import Console

    from plume.drawing.terminal import draw

    draw(shown.pictures, Console())


def _list_settings(names: Sequence[str], *, as_json: bool) -> None:
    from plume import config

    found = {name: config.settings(config.resolve(name)) for name in names}
    lines = [f"{key}={value}" for values in found.values() for key, value in values.items()]
    tell(found, "\n".join(lines), as_json=as_json)
