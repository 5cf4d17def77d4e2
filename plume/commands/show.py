"""``plume show``: draw what recipes ask of a model, before there is any data or tokenizer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from plume.commands.words import Flag, Json, tell
from plume.errors import UserError

if TYPE_CHECKING:
    from plume.drawing.phrases import Language
    from plume.drawing.picture import Picture
    from plume.models.pretrained import PretrainedModel
    from plume.slots import Array, Example
    from plume.text.tokenizers import Tokenizer
    from plume.text.tokens import Tokens
    from plume.text.windows import Window

DRAWS = 256  # the one that shows most is taken
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
        return page(
            self.pictures,
            title=phrase(language, "page.title"),
            words=phrase(language, "page.words"),
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
                            "sees": ["".join("01"[int(seen)] for seen in row) for row in stack.sees],
                        }
                        for stack in picture.stacks
                    ],
                }
                for picture in self.pictures
            ]
        }


def show(*recipes: Any, text: str | None = None, slots: int = 24, language: Language | None = None) -> Shown:
    """Draw an example of each recipe (a name like ``"bert:tiny"`` or the object itself).

    ``text``: draw this text; else a small one that comes with plume. ``slots``: how many to draw at most.
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
    return Shown(tuple(_draw(recipe, text, slots, language) for recipe in recipes))


def _draw(given: Any, text: str | None, slots: int, language: Language) -> Picture:
    from plume import config
    from plume.drawing.texts import TEXTS
    from plume.training.settings import Adaptation, Pretraining

    name = given if isinstance(given, str) else type(given).__name__
    recipe = config.resolve(given) if isinstance(given, str) else config.checked(given)
    if not isinstance(recipe, Pretraining | Adaptation):
        raise UserError(f"{name} is a {type(recipe).__name__}, which has no examples to draw")
    own = [part for part in (text or "").split("\n\n") if part.strip()]
    tokenizer = _tokenizer(given, recipe, [*own, *TEXTS[language]])
    artist = _Artist(recipe, tokenizer, _network(recipe, tokenizer), name, language)
    return artist.picture(artist.example(own, list(TEXTS[language]), slots))


def _tokenizer(given: Any, recipe: Any, texts: Sequence[str]) -> Tokenizer:
    """The run's own tokenizer, or one of the recipe's kind trained on the spot."""
    import dataclasses

    from plume.drawing.phrases import apart
    from plume.text.tokenizers import Tokenizer
    from plume.training.folder import RunFolder
    from plume.training.settings import Adaptation

    if isinstance(given, str):
        path = Path(given)
        folder = RunFolder(path.parent if path.suffix == ".json" else path)
        if folder.tokenizer.is_dir():
            return Tokenizer.load(folder.tokenizer)
    if isinstance(recipe, Adaptation):
        raise UserError(f"{given} has no tokenizer beside it: name the run folder")
    kind = recipe.tokenizer
    if "vocab_size" in {f.name for f in dataclasses.fields(kind)}:
        kind = dataclasses.replace(kind, vocab_size=min(kind.vocab_size, 2_000))
    # Of so little text a tokenizer would make tokens of whole Chinese sentences: it gets the characters alone.
    trained: Tokenizer = kind.train([part for text in texts for part in apart(text)])
    return trained


def _network(recipe: Any, tokenizer: Tokenizer) -> PretrainedModel:
    """The shapes of the network and its heads, without weights; of the recipe's vocabulary size, if it says one."""
    from dataclasses import replace

    from plume import config
    from plume.models.pretrained import PretrainedModel

    size = int(config.settings(recipe).get("tokenizer.vocab_size", tokenizer.vocabulary.size))
    vocab = replace(tokenizer.vocabulary, size=max(size, tokenizer.vocabulary.size))
    return PretrainedModel.build(
        recipe.model, vocab, lambda b: recipe.objective.heads(b, vocab), seed=0, device="meta"
    )


@dataclass(frozen=True)
class _Artist:
    """Draws examples of one recipe."""

    recipe: Any
    tokenizer: Tokenizer
    network: PretrainedModel
    name: str
    language: Language

    @property
    def carries(self) -> bool:
        """Whether a window goes on where the last one stopped."""
        from plume.training.settings import Pretraining

        return isinstance(self.recipe, Pretraining) and self.recipe.windows.carries

    def picture(self, example: Example[Array]) -> Picture:
        from plume.drawing.phrases import phrase
        from plume.drawing.picture import picture
        from plume.models.heads import TokenHead
        from plume.objectives.classification import Classification

        objective = self.recipe.objective
        return picture(
            example,
            self.tokenizer.pieces,
            self.tokenizer.vocabulary,
            title=self.name,
            facts=self.facts(len(example.inputs)),
            says=[phrase(self.language, "says.carries")] if self.carries else [],
            language=self.language,
            names={"label": objective.labels} if isinstance(objective, Classification) else {},
            token_heads=[name for name, head in self.network.heads.items() if isinstance(head, TokenHead)],
        )

    def example(self, own: list[str], small: list[str], slots: int) -> Example[Array]:
        """One of the user's own text, or of the small one. A text too short for a window gets company from it."""
        from plume.objectives.classification import Classification, Labelled
        from plume.seeding import rng

        vocab, objective = self.tokenizer.vocabulary, self.recipe.objective
        error = UserError(f"nothing can be drawn of {self.name} with so little text: give --text more of it")
        if isinstance(objective, Classification):
            ids = self.tokenizer.encode((own or small)[0])[: slots - 3]
            found = objective.example(Labelled((ids,), 0), vocab, rng(0, "show"))
            if found is None:
                raise error
            return found
        for texts, length in [*((own, n) for n in range(slots, 4, -1) if own), ([*own, *small], slots)]:
            try:
                return self._most_telling(texts, length)
            except UserError as reason:
                error = reason
        raise error

    def _most_telling(self, texts: list[str], length: int) -> Example[Array]:
        """Of many draws the one with most kinds of slots, of segments that begin with a sentence, of slots."""
        from plume.drawing.picture import picture
        from plume.text.tokens import Tokens

        best, best_score = None, (-1, -1.0, -1, False)
        for window, example in self._draws(Tokens.of(self.tokenizer, texts), length):
            states = picture(example, self.tokenizer.pieces, self.tokenizer.vocabulary).states
            score = (len(states), _whole(window), len(window), not window.special[0])
            if score > best_score:
                best, best_score = example, score
        if best is None:
            raise UserError("the objective found nothing to ask in this text: give --text more of it")
        return best

    def _draws(self, tokens: Tokens, length: int) -> Iterator[tuple[Window, Example[Array]]]:
        from dataclasses import replace

        from plume.seeding import rng

        objective, vocab = self.recipe.objective, self.tokenizer.vocabulary
        windows = replace(self.recipe.windows, length=min(self.recipe.windows.length, length))
        reads = objective.window_length(windows.length)
        done = 0
        for epoch in range(DRAWS):
            plan = windows.plan(tokens, vocab, length=reads, batch_size=1, seed=0, epoch=epoch)
            for index in range(len(plan)):
                window = plan[index]
                example = objective.example(window, vocab, rng(0, "show", epoch, index))
                done += 1
                if example is not None:
                    yield window, example
                if done == DRAWS:
                    return

    def facts(self, drawn: int) -> list[str]:
        """What the recipe is made of, in a few words."""
        from plume import config
        from plume.drawing.phrases import phrase

        settings, language = config.settings(self.recipe), self.language
        facts = [settings["objective"]]
        if "windows" in settings:
            name, length = settings["windows"], settings["windows.length"]
            facts.append(phrase(language, "fact.windows", name=name, length=length, drawn=drawn))
        size = int(settings.get("tokenizer.vocab_size", self.tokenizer.vocabulary.size))
        kind = settings.get("tokenizer", self.tokenizer.kind)
        facts.append(phrase(language, "fact.tokenizer", name=kind, size=f"{size:,}"))
        count = sum(p.numel() for p in self.network.parameters())
        facts.append(
            phrase(
                language,
                "fact.model",
                layers=settings["model.num_layers"],
                width=settings["model.d_model"],
                millions=f"{count / 1e6:.1f}",
            )
        )
        if settings["objective"] == "MaskedLM" and "masking" in settings:
            facts.append(phrase(language, f"fact.{settings['masking']}"))
        return facts


def _whole(window: Window) -> float:
    """The share of a window's segments that begin with a sentence: the others were cut at their front."""
    import numpy as np

    from plume.text.marks import SENTENCE

    inside = ~window.special
    begins = inside & ~np.concatenate([[False], inside[:-1]])
    return float((window.marks[begins] & SENTENCE != 0).mean()) if begins.any() else 0.0


def command(
    *recipes: Annotated[str, Parameter(name="RECIPE")],
    text: str | None = None,
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
    shown = show(*recipes, text=text, slots=slots, language=language)
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
