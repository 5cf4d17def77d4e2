"""``plume check``: put an objective to the laws, and draw the smallest example that breaks one."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from plume.commands.words import Json, tell
from plume.errors import UserError

if TYPE_CHECKING:
    import numpy as np

    from plume.drawing.phrases import Language
    from plume.drawing.picture import Picture
    from plume.studies.checking import Report, Verdict
    from plume.studies.laws import Case
    from plume.text.window import Window
    from plume.training.settings import Pretraining

_MARKS = {True: "✓", False: "✗", None: "–"}
_TOLD = {
    "en": {
        True: "{name}: every law holds",
        False: "{name}: {n} of {all} laws are broken",
        "unjudged": "cannot be judged here",
        "shown": "{share:.0%} of the answers can be seen (kept tokens, or text that a denoiser copies)",
        "smallest": "the smallest text that breaks it has {n} tokens: {text}",
    },
    "zh": {
        True: "{name}：所有定律都成立",
        False: "{name}：{all} 条定律中有 {n} 条不成立",
        "unjudged": "这里无法判断",
        "shown": "{share:.0%} 的答案写在看得见的地方（保留原样的词元，或者去噪模型照抄的文本）",
        "smallest": "违反它的最短文本有 {n} 个词元：{text}",
    },
}  # fmt: skip


@dataclass(frozen=True)
class Checked:
    """What the laws say of one or more objectives. Draws itself in a notebook."""

    reports: tuple[Report, ...]
    language: Language = "en"

    @property
    def holds(self) -> bool:
        """Whether every law holds for each of them."""
        return all(report.holds for report in self.reports)

    @property
    def pictures(self) -> tuple[Picture, ...]:
        """The smallest counterexamples, one a broken law."""
        found = (
            counterexample(report.case, verdict, self.language)
            for report in self.reports
            for verdict in report.verdicts
        )
        return tuple(picture for picture in found if picture is not None)

    def _repr_html_(self) -> str:
        from html import escape

        from plume.drawing.html import fragment

        return f"<pre>{escape(self.text())}</pre>{fragment(self.pictures)}"

    def text(self) -> str:
        """The verdicts, a line each."""
        from plume.studies.broken import LAWS_SAY

        told, column = _TOLD[self.language], {"en": 0, "zh": 1}[self.language]
        lines: list[str] = []
        for report in self.reports:
            broken = [v for v in report.verdicts if v.holds is False]
            all_of = len(report.verdicts)
            lines.append(told[not broken].format(name=report.case.name, n=len(broken), all=all_of))
            for verdict in report.verdicts:
                says = LAWS_SAY[verdict.law][column]
                unjudged = f" ({told['unjudged']})" if verdict.holds is None else ""
                lines.append(f"  {_MARKS[verdict.holds]} {verdict.law}: {says}{unjudged}")
                if verdict.broken is not None:
                    lines.append(f"      {verdict.broken.sentence(self.language)}")
                    if verdict.ids:
                        text = " ".join(pieces(verdict.ids))
                        lines.append(f"      {told['smallest'].format(n=len(verdict.ids), text=text)}")
            if report.shown:
                lines.append(f"  {told['shown'].format(share=report.shown)}")
        return "\n".join(lines)

    def to_json(self) -> dict[str, Any]:
        """Verdicts by objective and law, in words and numbers."""
        return {
            "holds": self.holds,
            "objectives": {
                report.case.name: {
                    "holds": report.holds,
                    "shown": report.shown,
                    "laws": {v.law: self._verdict(v) for v in report.verdicts},
                }
                for report in self.reports
            },
        }

    def _verdict(self, verdict: Verdict) -> dict[str, Any]:
        result: dict[str, Any] = {"holds": verdict.holds}
        if verdict.broken is not None:
            result |= {"sentence": verdict.broken.sentence(self.language), "slot": verdict.broken.slot}
        if verdict.ids:
            result |= {"text": pieces(verdict.ids), "seed": verdict.seed}
        return result


def check(objective: Any, *, examples: int = 25, language: Language = "en") -> Checked:
    """Put an objective to the laws: a file ``"my_objective.py"``, ``"my_objective.py:name"``, a recipe or an objective.

    ``examples``: texts a law is tried on. A recipe is tried with its own windows and its own backbone made small.

    Raises:
        UserError: there is no such file or objective, or hypothesis is not installed.
    """
    from plume.studies import checking

    if examples < 1:
        raise UserError(f"--examples must be at least 1, got {examples}")
    cases = list(_cases(objective))
    return Checked(tuple(checking.check(case, examples=examples) for case in cases), language)


def _cases(given: Any) -> Iterator[Case]:
    from plume import config
    from plume.objectives.base import Objective
    from plume.training import stages
    from plume.training.settings import Pretraining

    found = dict(_named(given)) if isinstance(given, str) else {type(given).__name__: given}
    for name, one in found.items():
        if isinstance(one, Objective):
            yield _case(name, one)
        elif isinstance(one, Pretraining):
            recipe = config.checked(one)
            parts = list(stages.resolve(recipe))
            for number, (_, windows, objective, _) in enumerate(parts):
                if any(objective == earlier for _, _, earlier, _ in parts[:number]):
                    continue  # a stage that changes something else
                stage = dataclasses.replace(recipe, windows=windows, objective=objective, stages=())
                yield _case(f"{name}, stage {number + 1}" if number else name, objective, stage)
        else:
            raise UserError(f"{name} is a {type(one).__name__}: plume check takes an objective or a recipe")


def _named(name: str) -> Iterator[tuple[str, Any]]:
    """The recipes or objectives behind ``my_file.py``, ``my_file.py:name``, ``bert:tiny``."""
    from plume import config
    from plume.objectives.base import Objective
    from plume.training.settings import Pretraining

    source, _, wanted = name.rpartition(":") if not name.endswith(".py") else (name, "", "")
    if not source.endswith(".py"):
        yield name, config.resolve(name)
        return
    module = config.load_file(Path(source))
    own = {
        n: value for n, value in vars(module).items() if getattr(value, "__module__", None) == module.__name__
    }
    classes = {n: c for n, c in own.items() if inspect.isclass(c) and issubclass(c, Objective)}
    if wanted and wanted not in classes:
        yield name, config.resolve(name)
        return
    if wanted:
        yield name, _default(classes[wanted], source)
        return
    functions = [
        n
        for n, f in own.items()
        if inspect.isfunction(f) and not n.startswith("_") and not inspect.signature(f).parameters
    ]
    recipes = {n: made for n in functions if isinstance(made := config.resolve(f"{source}:{n}"), Pretraining)}
    if recipes:
        yield from ((f"{source}:{n}", recipe) for n, recipe in recipes.items())
    elif classes:
        yield from (
            (f"{source}:{n}", _default(c, source)) for n, c in classes.items() if not inspect.isabstract(c)
        )
    else:
        raise UserError(
            f"{source} holds neither a recipe (a function that returns a Pretraining) nor an Objective"
        )


def _default(cls: type[Any], source: str) -> Any:
    if not dataclasses.is_dataclass(cls.__mro__[0]) or inspect.isabstract(cls):
        raise UserError(f"{source}:{cls.__name__} is no complete objective: it needs @dataclass(frozen=True), example, "
                        f"heads and restore")  # fmt: skip
    try:
        return cls()
    except TypeError as error:
        raise UserError(
            f"{source}:{cls.__name__} cannot be made without arguments ({error}): name a recipe that makes it"
        ) from None


def _case(name: str, objective: Any, recipe: Pretraining | None = None) -> Case:
    """How an objective is put to the laws: windows and backbone of its recipe, else whatever it can draw from."""
    from plume.studies import laws

    case = laws.Case(name, objective, vocab=laws.WITH_SENTINELS, shows=True)
    if recipe is not None:
        window = _window(recipe)
        model = laws.shrunk(recipe.model)
        return dataclasses.replace(case, source=_source(window), model=model)
    if laws.draw(case, _text(), 0) is None:
        return dataclasses.replace(case, source=laws.framed)
    return case


def _text() -> np.ndarray[Any, Any]:
    import numpy as np

    from plume.studies.laws import FIRST, TEXT

    return np.arange(24) % (TEXT - FIRST) + FIRST


def _source(window: Window | None) -> Callable[[Any], Window]:
    """Windows of random ids, formed as the recipe's are: framed or bare, with the labels its cutting knows."""
    from plume.studies import laws

    if window is None or not window.special.any():
        return laws.window
    names = list(window.labels)

    def source(ids: Any) -> Window:
        return dataclasses.replace(laws.framed(ids), labels={name: len(ids) % 2 for name in names})

    return source


def _window(recipe: Pretraining) -> Window | None:
    """A window of the recipe's kind, over the small text that comes with plume."""
    from plume.commands.examples import on_the_spot
    from plume.drawing.texts import TEXTS
    from plume.text.tokens import Tokens
    from plume.text.windows import Reading

    tokenizer = on_the_spot(recipe, TEXTS["en"])
    windows: Any = dataclasses.replace(recipe.windows, length=min(recipe.windows.length, 24))
    try:
        reading = Reading(recipe.objective.window_length(windows.length))
        window: Window = windows.plan(Tokens.of(tokenizer, TEXTS["en"]), tokenizer.vocabulary, reading)[0]
    except UserError:
        return None
    return window


def pieces(ids: Any) -> list[str]:
    """The laws' ids as a person reads them: a, b, ..., and the names of special tokens."""
    from plume.studies.laws import FIRST, TEXT, WITH_SENTINELS

    roles = ("pad", "unk", "cls", "sep", "mask", "bos", "eos")
    names = {getattr(WITH_SENTINELS, role): f"[{role.upper()}]" for role in roles}
    names |= {number: f"<{n}>" for n, number in enumerate(WITH_SENTINELS.sentinels)}
    letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
    return [
        names.get(int(i)) or (letters[int(i) - FIRST] if FIRST <= int(i) < TEXT else f"#{int(i)}")
        for i in ids
    ]


def counterexample(case: Case, verdict: Verdict, language: Language) -> Picture | None:
    """The picture of what broke a law; None where none did, or no example could be drawn."""
    from plume.drawing.picture import picture
    from plume.models.heads import TokenHead
    from plume.studies import laws

    broken = verdict.broken
    if broken is None or broken.example is None:
        return None
    try:
        heads = laws.built(case, broken.example).heads.items()
        tokens = [name for name, head in heads if isinstance(head, TokenHead)]
    except Exception:  # heads() of a user's objective may be what is broken
        tokens = [name for slots in laws.stacks(broken.example) for name in slots.labels]
    return picture(
        broken.example, pieces, case.vocab, title=f"{case.name}: {verdict.law}",
        says=[broken.sentence(language)], language=language, token_heads=tokens,
        marked=None if broken.slot is None else (broken.stack, broken.slot),
    )  # fmt: skip


def command(
    objective: Annotated[str, Parameter(name="OBJECTIVE")],
    /,
    *,
    examples: int = 25,
    html: Path | None = None,
    language: Literal["en", "zh"] = "en",
    json: Json = False,
) -> int:
    """Put an objective to the laws that plume's own obey; of each that breaks, draw the smallest example.

    It exits with 0 where every law holds, with 1 where one is broken.

    Parameters
    ----------
    objective
        my_objective.py (all it holds), my_objective.py:name, or a recipe such as bert:tiny.
    examples
        Texts that each law is tried on.
    html
        Write the counterexamples to this file too, for a browser.
    language
        Language of the words: en or zh.
    """
    checked = check(objective, examples=examples, language=language)
    if html is not None:
        from plume.drawing.html import page

        html.parent.mkdir(parents=True, exist_ok=True)
        written = page(
            checked.pictures, title=f"plume check {objective}", words=checked.text(), language=language
        )
        html.write_text(written, encoding="utf-8")
    tell(checked.to_json(), checked.text(), as_json=json)
    if not json and checked.pictures:
        from rich.console import Console

        from plume.drawing.terminal import draw

        draw(checked.pictures, Console())
    return 0 if checked.holds else 1
