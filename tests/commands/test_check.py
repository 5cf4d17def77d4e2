"""``plume check``: a user's own objective before the laws; for each law a planted defect that it names and draws."""

from __future__ import annotations

from pathlib import Path

import pytest

import plume
from tests.commands.conftest import call, ok

PLANTED = '''
from dataclasses import dataclass, replace

import numpy as np

from plume.models.heads import TokenHead
from plume.objectives.base import Objective
from plume.objectives.causal import CausalLM
from plume.objectives.masked import MaskedLM
from plume.slots import IGNORE, Example, Losses, Slots
from plume.text.windows import Window


@dataclass(frozen=True)
class Good(CausalLM):
    pass


@dataclass(frozen=True)
class SeesItsLabel(CausalLM):
    def example(self, source, vocab, rng):
        example = super().example(source, vocab, rng)
        return example and replace(example, inputs=replace(example.inputs, sees_until=example.inputs.sees_until + 1))


@dataclass(frozen=True)
class Unkeyed(MaskedLM):
    def example(self, source, vocab, rng):
        return super().example(source, vocab, np.random.default_rng())


@dataclass(frozen=True)
class Loses(CausalLM):
    def restore(self, example):
        return example.inputs.input_ids


@dataclass(frozen=True)
class AsksTheImpossible(CausalLM):
    def example(self, source, vocab, rng):
        example = super().example(source, vocab, rng)
        labels = example and example.inputs.labels["next_token"] + vocab.size
        return example and replace(example, inputs=replace(example.inputs, labels={"next_token": labels}))

    def restore(self, example):
        return np.append(example.inputs.input_ids, example.inputs.labels["next_token"][-1] - 48)


@dataclass(frozen=True)
class NoHead(MaskedLM):
    def heads(self, backbone, vocab):
        return {}


@dataclass(frozen=True)
class OneDocument(CausalLM):
    def losses(self, model, batch):
        ids = batch.inputs.document_ids.clamp(max=0)
        ranks = np.broadcast_to(np.arange(ids.shape[1]), ids.shape)
        ranks = ids.new_tensor(ranks.copy())
        slots = replace(batch.inputs, document_ids=ids, layout=None, visible_at=ranks, sees_until=ranks)
        return super().losses(model, replace(batch, inputs=slots))


@dataclass(frozen=True)
class Crashes(CausalLM):
    def example(self, source, vocab, rng):
        if len(source.ids) == 3:
            raise KeyError("three")
        return super().example(source, vocab, rng)


@dataclass(frozen=True)
class ShowsEverything(MaskedLM):
    mask_share: float = 0.1
    random_share: float = 0.0


@dataclass(frozen=True)
class LeaksInItsLoss(CausalLM):
    """Nothing is wrong with the examples: the loss lets every slot look one too far."""

    def losses(self, model, batch):
        slots = replace(batch.inputs, sees_until=batch.inputs.sees_until + 1, layout=None)
        return super().losses(model, replace(batch, inputs=slots))


@dataclass(frozen=True)
class TwoStacks(Objective[Window]):
    """The first stack reads the first half and asks for nothing, the second stack says the rest."""

    def example(self, source, vocab, rng):
        half = len(source.ids) // 2
        if not half:
            return None
        said = np.concatenate([[vocab.eos], source.ids[half:-1]])
        return Example(self.shown(source.ids, half), Slots.causal(said, labels={"next_token": source.ids[half:]}))

    def shown(self, ids, half):
        return Slots.bidirectional(ids[:half])

    def heads(self, backbone, vocab):
        return {"next_token": TokenHead(backbone)}

    def restore(self, example):
        return np.append(example.inputs.input_ids, example.decoder_inputs.labels["next_token"])


@dataclass(frozen=True)
class Backwards(TwoStacks):
    """The second stack reads what it must say."""

    def example(self, source, vocab, rng):
        example = super().example(source, vocab, rng)
        if example is None:
            return None
        seen = replace(example.decoder_inputs, sees_until=example.decoder_inputs.sees_until + 1)
        return replace(example, decoder_inputs=seen)
'''


@pytest.fixture
def planted(tmp_path: Path) -> Path:
    path = tmp_path / "mine.py"
    path.write_text(PLANTED, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("name", "law"),
    [
        ("Loses", "restore"),
        ("Unkeyed", "determinism"),
        ("AsksTheImpossible", "rate"),
        ("NoHead", "heads"),
        ("OneDocument", "packing"),
        ("SeesItsLabel", "no_leak"),
        ("Backwards", "no_leak"),
        ("ShowsEverything", "no_leak"),
        ("LeaksInItsLoss", "random_text"),
        ("Crashes", "restore"),
    ],
)
def test_a_planted_defect_breaks_its_law(
    name: str, law: str, planted: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checked = plume.check(f"{planted}:{name}", examples=8)
    [report] = checked.reports
    broken = [verdict.law for verdict in report.verdicts if verdict.holds is False]
    assert not checked.holds and broken[0] == law
    [verdict] = [v for v in report.verdicts if v.law == law]
    assert verdict.broken is not None and verdict.broken.sentence("zh") != verdict.broken.sentence("en")
    assert verdict.broken.sentence() in checked.text()
    assert len(checked.pictures) >= (name != "Crashes")


@pytest.mark.parametrize("name", ["Good", "TwoStacks"])
def test_a_sound_objective_passes_every_law(
    name: str, planted: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = ok(capsys, "check", f"{planted}:{name}", "--examples", 5)
    [found] = said["objectives"].values()
    assert said["holds"] and all(law["holds"] for law in found["laws"].values()) and len(found["laws"]) == 7


@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_smallest_counterexample_is_named_and_drawn(
    language: str, planted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    html = tmp_path / "seen.html"
    words = ["check", f"{planted}:SeesItsLabel", "--examples", 8, "--language", language]
    code, out, err = call(capsys, *words, "--html", html)
    assert code == 1, err
    sees = {"en": "sees its own answer: at slot 0", "zh": "看得见自己的答案：在位置 0"}[language]
    smallest = {
        "en": "the smallest text that breaks it has 3 tokens: a a a",
        "zh": "最短文本有 3 个词元：a a a",
    }
    assert sees in out and smallest[language] in out, "hypothesis shrinks it"
    assert "■" in out and "slot plain marked" in html.read_text(encoding="utf-8")
    code, out, _ = call(capsys, *words, "--json")
    assert code == 1 and out.count("\n") == 1


def test_a_file_is_checked_whole_by_its_recipes_or_its_objectives(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "two.py"
    path.write_text(
        "from plume.recipes import gpt\ndef one():\n    return gpt.tiny()\ndef _no():\n    return 1\n",
        encoding="utf-8",
    )
    said = ok(capsys, "check", path, "--examples", 2)
    assert list(said["objectives"]) == [f"{path}:one"]


def test_what_cannot_be_checked_is_said_in_one_sentence(
    tmp_path: Path, planted: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    empty = tmp_path / "empty.py"
    empty.write_text("x = 1\n", encoding="utf-8")
    for words, remedy in (
        (["check", empty], "neither a recipe"),
        (["check", tmp_path / "none.py"], "cannot read"),
        (["check", f"{planted}:Gone"], "has no function 'Gone'"),
        (["check", f"{planted}:Good", "--examples", 0], "--examples must be at least 1"),
    ):
        code, out, err = call(capsys, *words)
        assert code == 2 and not out and remedy in err and err.count("\n") == 1, err
