"""Configurations: strict JSON, names, words, and files from strangers."""

from __future__ import annotations

import importlib
import json
import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plume import config
from plume.errors import UserError
from plume.objectives.causal import CausalLM
from plume.objectives.masked import MaskedLM
from plume.vocabulary import Vocabulary

OWN = """
from __future__ import annotations
from dataclasses import dataclass, field
from typing import Any, Literal, Mapping, Protocol
from plume.objectives.base import Objective
from plume.objectives.masked import MaskedLM

class Cut(Protocol):
    @property
    def length(self) -> int: ...

@dataclass(frozen=True)
class Stream:
    length: int = 128

@dataclass(frozen=True)
class Sentences:
    length: int
    cross_documents: bool = True

@dataclass(frozen=True)
class Unlike:
    width: int = 3

@dataclass(frozen=True)
class Part:
    until: int | None = None
    windows: Cut | None = None

@dataclass(frozen=True, kw_only=True)
class Training:
    steps: int = 10
    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)
    compile: bool = False
    schedule: Literal["linear", "cosine"] = "linear"
    note: str | None = None
    shares: Mapping[str, float] = field(default_factory=lambda: {"en": 0.5})

    def __post_init__(self):
        if self.steps < 1:
            raise ValueError(f"steps must be at least 1, got {self.steps}")

@dataclass(frozen=True, kw_only=True)
class Recipe:
    windows: Cut
    objective: Objective[Any]
    training: Training = Training()
    stages: tuple[Part, ...] = ()

def tiny() -> Recipe:
    return Recipe(windows=Stream(), objective=MaskedLM(), stages=(Part(until=5, windows=Stream(64)), Part()))

def lazy(n):
    return n

def wrong():
    return 3
"""


@pytest.fixture
def own(tmp_path: Path) -> Path:
    path = tmp_path / "own.py"
    path.write_text(OWN, encoding="utf-8")
    return path


@pytest.fixture
def recipe(own: Path) -> Any:
    return config.resolve(f"{own}:tiny")


@pytest.fixture
def forgotten(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As a new process would be: no file of the user's has been named yet."""
    from plume.config import code

    monkeypatch.setattr(code, "_files", {})
    yield


class TestJson:
    def test_a_recipe_survives_the_round_trip(self, recipe: Any) -> None:
        tree = config.to_json(recipe)
        again = json.loads(json.dumps(tree))
        assert config.from_json(again) == recipe
        assert tree["objective"]["class"] == "plume.objectives.masked:MaskedLM"
        assert tree["class"].startswith("own.py@") and tree["class"].endswith(":Recipe")

    @given(
        noise=st.floats(0.01, 1),
        mask=st.floats(0, 0.5),
        next_sentence=st.booleans(),
        cap=st.none() | st.integers(1, 9),
    )
    def test_any_objective_survives_the_round_trip(
        self, noise: float, mask: float, next_sentence: bool, cap: int | None
    ) -> None:
        objective = MaskedLM(noise, mask, next_sentence=next_sentence, max_predictions=cap)
        assert config.from_json(json.loads(json.dumps(config.to_json(objective)))) == objective

    def test_every_problem_is_named_at_once_with_the_nearest_right_name(self) -> None:
        tree = config.to_json(MaskedLM())
        tree |= {"noise_densty": 0.2, "mask_share": "much", "selection": "exactly"}
        with pytest.raises(UserError) as error:
            config.from_json(tree)
        message = str(error.value)
        assert "noise_densty: unknown: did you mean noise_density?" in message
        assert "mask_share: should be a valid number (got much)" in message
        assert "did you mean exact?" in message

    def test_what_the_class_itself_refuses_is_a_problem_too(self) -> None:
        tree = config.to_json(MaskedLM()) | {"noise_density": 3.0}
        with pytest.raises(UserError, match="noise_density must lie in"):
            config.from_json(tree)

    @pytest.mark.parametrize("value", [True, 1.5, "7", None, [1]])
    def test_a_file_is_held_to_the_type_strictly(self, recipe: Any, value: Any) -> None:
        tree = config.to_json(recipe)
        tree["training"]["steps"] = value
        with pytest.raises(UserError, match="training.steps: should be a valid integer"):
            config.from_json(tree)

    @pytest.mark.parametrize(
        ("field", "value", "sentence"),
        [
            ("objective", Vocabulary(size=5), "objective.class: needs Objective, not Vocabulary"),
            ("windows", CausalLM(), "windows.class: needs Cut, not CausalLM"),
            ("training", MaskedLM(), "training.class: needs Training, not MaskedLM"),
            ("stages", MaskedLM(), "stages.class: needs tuple, not MaskedLM"),
        ],
    )
    def test_a_class_must_fit_its_place(self, recipe: Any, field: str, value: Any, sentence: str) -> None:
        tree = config.to_json(recipe) | {field: config.to_json(value)}
        with pytest.raises(UserError, match=sentence):
            config.from_json(tree)

    def test_a_field_left_out_has_its_default_and_one_without_a_default_is_missed(self, recipe: Any) -> None:
        tree = config.to_json(recipe)
        del tree["stages"], tree["windows"]
        with pytest.raises(UserError, match="windows: Recipe needs it"):
            config.from_json(tree)
        tree["windows"] = config.to_json(recipe.windows)
        assert config.from_json(tree).stages == ()

    @pytest.mark.parametrize("bad", [float("nan"), float("inf"), object(), {1: 2}, b"x"])
    def test_what_json_cannot_hold_is_refused_when_written(self, recipe: Any, bad: Any) -> None:
        import dataclasses

        broken = dataclasses.replace(recipe, training=dataclasses.replace(recipe.training, note=bad))
        with pytest.raises(UserError, match="training.note"):
            config.to_json(broken)

    def test_a_recipe_built_in_python_is_held_to_the_same(self, recipe: Any) -> None:
        import dataclasses

        odd = dataclasses.replace(recipe, windows=type(recipe.windows)("long"))
        with pytest.raises(UserError, match="windows.length: should be a valid integer"):
            config.checked(odd)

    def test_digest_and_differences(self, recipe: Any) -> None:
        other = config.override(recipe, ["training.steps=20", "windows=Sentences"])
        assert config.digest(recipe) == config.digest(config.to_json(recipe)) != config.digest(other)
        lines = config.differences(recipe, other)
        assert "training.steps: 10 -> 20" in lines
        assert any(line.startswith("windows: own.py@") and ":Sentences" in line for line in lines)
        assert "windows.cross_documents: (absent) -> true" in lines
        assert len(lines) == 3
        assert config.differences(recipe, recipe) == []


class TestNames:
    @pytest.mark.parametrize(
        ("name", "sentence"),
        [
            ("brt:tiny", "did you mean bert:tiny"),
            ("bert:tny", "did you mean bert:tiny"),
            ("bert:huge", "bert comes as tiny"),
            ("bert", "bert comes as bert:tiny"),
            ("zebra:stripes", "the families are bart, bert"),
            ("", "the families are"),
            ("没有:小", "the families are"),
            ("gone.py:tiny", "cannot read gone.py"),
            ("gone.json", "cannot read gone.json"),
            ("no.such.package:tiny", "cannot import no.such.package"),
            ("../../etc/passwd", "there is no recipe"),
        ],
    )
    def test_an_unknown_name_gets_the_nearest_right_one(self, name: str, sentence: str) -> None:
        with pytest.raises(UserError, match=sentence):
            config.resolve(name)

    def test_a_users_file(self, own: Path) -> None:
        assert config.resolve(f"{own}:tiny").objective == MaskedLM()
        for function, sentence in [
            ("tny", "did you mean tiny"),
            ("lazy", "takes arguments"),
            ("wrong", "returned int"),
            ("MaskedLM", "no function"),
        ]:
            with pytest.raises(UserError, match=sentence):
                config.resolve(f"{own}:{function}")

    def test_a_broken_file_is_one_sentence(self, tmp_path: Path) -> None:
        broken = tmp_path / "broken.py"
        broken.write_text("def tiny(:\n", encoding="utf-8")
        with pytest.raises(UserError, match="broken.py cannot be imported: SyntaxError"):
            config.resolve(f"{broken}:tiny")

    def test_a_run_folder_never_runs_its_copy_of_the_users_code_by_itself(
        self, recipe: Any, own: Path, tmp_path: Path, forgotten: None
    ) -> None:
        run = tmp_path / "run"
        config.load_file(own)
        assert config.copy_code(recipe, run / "code") == [run / "code" / "own.py"]
        (run / "config.json").write_text(json.dumps(config.to_json(recipe)), encoding="utf-8")
        from plume.config import code

        code._files.clear()
        with pytest.raises(UserError, match="--trust-code"):
            config.resolve(str(run))
        assert config.to_json(config.resolve(str(run), trust_code=True)) == config.to_json(
            config.resolve(f"{own}:tiny")
        )

    def test_a_changed_copy_is_not_the_code_the_run_was_made_with(
        self, recipe: Any, own: Path, tmp_path: Path, forgotten: None
    ) -> None:
        run = tmp_path / "run"
        config.load_file(own)
        config.copy_code(recipe, run / "code")
        (run / "config.json").write_text(json.dumps(config.to_json(recipe)), encoding="utf-8")
        from plume.config import code

        code._files.clear()
        with (run / "code" / "own.py").open("a", encoding="utf-8") as file:
            file.write("\n# 改过了\n")
        with pytest.raises(UserError, match="own.py@"):
            config.resolve(str(run), trust_code=True)


class TestWords:
    def test_leaves_take_what_people_write(self, recipe: Any) -> None:
        changed = config.override(
            recipe,
            [
                "training.steps=1e4", "training.lr=3e-4", "training.betas=0.9,0.95", "training.compile=on",
                "training.schedule=cosine", "training.note=注：小样本", "objective.noise_density=0.3",
                "training.shares.zh=1", "stages.0.until=none", "stages.0.windows.length=32", "stages.1.windows=none",
            ],
        )  # fmt: skip
        training = changed.training
        assert (training.steps, training.lr, training.betas) == (10_000, 3e-4, (0.9, 0.95))
        assert training.compile is True and training.schedule == "cosine" and training.note == "注：小样本"
        assert training.shares == {"en": 0.5, "zh": 1.0}
        assert changed.objective == MaskedLM(noise_density=0.3)
        assert changed.stages[0].until is None and changed.stages[0].windows.length == 32
        assert isinstance(training.steps, int)
        assert recipe.training.steps == 10  # the recipe itself is not touched

    def test_another_class_keeps_what_both_have_whatever_the_order_of_the_words(self, recipe: Any) -> None:
        changed = config.override(recipe, ["windows.cross_documents=false", "windows=Sentences"])
        assert type(changed.windows).__name__ == "Sentences"
        assert (changed.windows.length, changed.windows.cross_documents) == (128, False)
        assert config.override(recipe, ["objective=CausalLM"]).objective == CausalLM()
        assert config.override(recipe, ["objective=plume.objectives.causal:CausalLM"]).objective == CausalLM()
        assert config.override(recipe, ["stages=[]"]).stages == ()
        assert config.override(recipe, ["stages.1.windows=Stream"]).stages[1].windows.length == 128

    def test_a_class_of_a_file_the_user_names(self, recipe: Any, tmp_path: Path) -> None:
        mine = tmp_path / "mine.py"
        mine.write_text(
            "from dataclasses import dataclass\n@dataclass(frozen=True)\nclass Mine:\n    length: int = 7\n",
            encoding="utf-8",
        )
        assert config.override(recipe, [f"windows={mine}:Mine"]).windows.length == 128

    @pytest.mark.parametrize(
        ("word", "sentence"),
        [
            ("training.stps=3", "training.stps=3: unknown setting: did you mean training.steps?"),
            ("steps=3", "did you mean training.steps?"),
            ("traning.lr=3", "did you mean training.lr?"),
            ("training.zzzzz=3", r"there are training.steps, "),
            ("training.steps=soon", r"training.steps=soon: should be a valid integer \(got soon\)"),
            ("training.steps=true", "should be a valid integer"),
            ("training.steps=1.5", "should be a valid integer"),
            ("training.lr=nan", "finite numbers only"),
            ("training.lr=1e999", "finite"),
            ("training.steps=0", "steps must be at least 1"),
            ("training.schedule=cosin", "did you mean cosine?"),
            ("training.betas=0.9", "training.betas=0.9"),
            ("windows=Sentence", "did you mean Sentences?"),
            ("windows=Unlike", "no Cut of that name"),
            ("windows=3", "part of its own"),
            ("objective=Window", "no Objective of that name"),
            ("objective=plume.slots:Layout", "needs Objective, not Layout"),
            ("objective=os:PathLike", "lies outside plume"),
            ("stages=3", "several parts"),
            ("stages.7.until=3", "unknown setting"),
            ("training", "looks like key.path=value"),
            ("=3", "looks like key.path=value"),
            ("训练.步数=3", "unknown setting"),
            ("class=Recipe", "unknown setting"),
            ("training.class=Recipe", "unknown setting"),
            ("training.__class__=3", "unknown setting"),
        ],
    )  # fmt: skip
    def test_a_bad_word_is_told_with_the_nearest_right_one(
        self, recipe: Any, word: str, sentence: str
    ) -> None:
        with pytest.raises(UserError, match=sentence):
            config.override(recipe, [word])

    def test_all_bad_words_are_told_at_once_and_none_twice(self, recipe: Any) -> None:
        words = [
            "training.steps=soon",
            "training.lrr=1",
            "windows=Nothing",
            "training.schedule=flat",
            "batch=3",
        ]
        with pytest.raises(UserError) as error:
            config.override(recipe, words)
        lines = str(error.value).splitlines()
        assert lines[0].startswith("5 problems") and len(lines) == 6
        assert all(any(word in line for line in lines) for word in words)

    def test_every_setting_can_be_listed(self, recipe: Any) -> None:
        found = config.settings(recipe)
        assert (
            found["training.steps"] == "10"
            and found["windows"] == "Stream"
            and found["stages.0.until"] == "5"
        )


def hostile() -> list[Any]:
    good = config.to_json(MaskedLM())
    deep: Any = {"class": "plume.objectives.masked:MaskedLM"}
    for _ in range(500):
        deep = {
            "class": "plume.objectives.classification:Classification",
            "reader": deep,
            "labels": ["a", "b"],
        }
    names = [
        "os:system", "subprocess:Popen", "builtins:eval", "builtins:exec", "importlib:import_module", "pickle:loads",
        "plume.config.code:importlib", "plume.config.code:os", "plume.config.code:Path", "plume.seeding:hashlib",
        "plume.objectives.masked:np", "plume.objectives.masked:MaskedLM.__init__", "plume.__main__:main",
        "plume.objectives.masked:__builtins__", "plume.objectives.masked:__loader__", "plume.slots:Slots.permuted",
        "plume.objectives.masked:MaskedLM:example", "plume.seeding:Permutation", "plume:os", "plume.:x", ":x", "x:",
        "plume..os:system", "plume/../os:system", "plume.os:system", "../evil.py:Evil", "/etc/evil.py:Evil",
        "evil.py@0000000000000000:Evil", "http://127.0.0.1:9/x:Y", "antigravity:fly", "this:d", "", " ", "\x00:\x00",
        "plume.objectives.base:Objective", "plume.errors:UserError", "torch.hub:load", "plume.objectives:masked",
        "类:名",
    ]  # fmt: skip
    return [
        *({"class": name} for name in names),
        *(good | {"noise_density": {"class": name}} for name in names[:6]),
        *({"class": value} for value in (None, 1, 1.5, True, [], {}, ["os:system"], {"class": "os:system"})),
        *(
            good | {key: 1}
            for key in ("__class__", "__init__", "__reduce__", "__post_init__", "__dict__", "class_")
        ),
        good | {"noise_density": 10**400},
        good | {"noise_density": [[[[[[]]]]]]},
        good | {"unit": {"$ref": "os:system"}},
        good | {"unit": "${os.system('x')}"},
        {"__reduce__": ["os:system", ["x"]]},
        {
            "class": "plume.objectives.classification:Classification",
            "reader": {"class": "plume.slots:Layout"},
        },
        deep,
        [good],
        "plume.objectives.masked:MaskedLM",
        None,
    ]


class TestStrangers:
    """No value in a configuration can run code, import what is not plume's, or open a socket."""

    @pytest.mark.parametrize("number", range(len(hostile())))
    def test_a_hostile_config_is_refused_in_one_sentence(
        self, number: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        tree = hostile()[number]
        real = importlib.import_module

        def guarded(name: str, package: str | None = None) -> Any:
            assert name.split(".")[0] in ("plume", "pydantic", "pydantic_core"), f"imported {name}"
            return real(name, package)

        def no(*_: Any, **__: Any) -> Any:
            raise AssertionError("a socket was opened")

        before = set(sys.modules)
        with monkeypatch.context() as patch, pytest.raises(UserError) as error:
            patch.setattr(os, "system", no)
            patch.setattr(socket, "socket", no)
            patch.setattr(importlib, "import_module", guarded)
            config.from_json(tree)
        assert len(str(error.value)) < 2000
        foreign = {m.split(".")[0] for m in set(sys.modules) - before} - set(sys.stdlib_module_names)
        assert foreign <= {"plume", "pydantic", "pydantic_core", "typing_inspection", "annotated_types"}

    @pytest.mark.parametrize(
        ("content", "sentence"),
        [
            (b'{"class": 1, "class": 2}', "stands there twice"),
            (b'{"steps": NaN}', "NaN is not a number JSON knows"),
            (b"[" * 100_000, "nested too deeply|not a valid JSON"),
            (b'{"a":' * 100_000, "nested too deeply|not a valid JSON"),
            (b"[1]", "one JSON object"),
            (b"\xff\xfe\x00", "not a valid JSON"),
            (b"", "not a valid JSON"),
            (b'{"steps": ' + b"9" * 5000 + b"}", "not a valid JSON"),
            (b" " * (5 << 20), "larger than any configuration"),
        ],
    )
    def test_a_file_that_is_no_config(self, tmp_path: Path, content: bytes, sentence: str) -> None:
        path = tmp_path / "坏.json"
        path.write_bytes(content)
        with pytest.raises(UserError, match=sentence) as error:
            config.read(path)
        assert "坏.json" in str(error.value)

    def test_the_users_file_runs_as_it_was_hashed(self, tmp_path: Path) -> None:
        path = tmp_path / "mine.py"
        path.write_text("VALUE = 1\n", encoding="utf-8")
        assert config.load_file(path).VALUE == 1
        path.write_text("VALUE = 2\n", encoding="utf-8")
        assert config.load_file(path).VALUE == 2
        assert not list(tmp_path.glob("__pycache__"))
