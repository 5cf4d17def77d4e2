"""FLOPs against torch's own counter, rows that survive, and the line that a user watches (spec 25 section 7)."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from plume.models.pretrained import PretrainedModel
from plume.models.recurrent import RecurrentConfig
from plume.models.transformer import TransformerConfig
from plume.objectives.base import Objective
from plume.objectives.causal import CausalLM
from plume.objectives.classification import Classification
from plume.objectives.masked import MaskedLM
from plume.objectives.permuted import PermutedLM
from plume.slots import Batch, Example, Slots, collate
from plume.training.fit import microbatch_size
from plume.training.flops import Flops
from plume.training.meters import MetricsFile, ProgressLine, ShareLine, history
from plume.training.precision import matmul_peak
from plume.vocabulary import Vocabulary
from tests.training.conftest import Arm
from tests.training.small import VOCAB, window


def made(
    objective: Objective[Any], model: Any, count: int = 2, length: int = 64
) -> tuple[PretrainedModel, Batch]:
    rng = np.random.default_rng(0)
    examples = [objective.example(window(rng.integers(6, 40, length)), VOCAB, rng) for _ in range(count)]
    batch = collate([e for e in examples if e is not None])
    return PretrainedModel.build(model, VOCAB, lambda b: objective.heads(b, VOCAB), seed=0), batch


SHAPE = TransformerConfig(
    num_layers=2, d_model=64, num_heads=2, d_ff=256, max_positions=128, dropout=0.0, attention_dropout=0.0
)


@pytest.mark.parametrize(
    ("objective", "shape"),
    [
        (CausalLM(), SHAPE),
        (MaskedLM(), replace(SHAPE, norm_order="post", token_types=2, embedding_norm=True)),
    ],
    ids=["causal", "masked"],
)
def test_the_formula_agrees_with_torchs_counter(
    objective: Objective[Any], shape: TransformerConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, batch = made(objective, shape)
    with FlopCounterMode(display=False) as counter:
        losses = objective.losses(model, batch).heads
        torch.stack([loss.total for loss in losses.values()]).sum().backward()
    counted, said = counter.get_total_flops(), Flops.of(model).step(batch)
    assert said == pytest.approx(counted, rel=0.01)


def test_gpt2s_published_figure(tmp_path: Path) -> None:
    """854,438,400 FLOPs a token at T = 1024 (spec 25 section 7), computed without memory for its weights."""
    shape = TransformerConfig(num_layers=12, d_model=768, num_heads=12, d_ff=3072, max_positions=1024)
    vocab = Vocabulary(size=50_257, eos=50_256)
    model = PretrainedModel.build(shape, vocab, lambda b: CausalLM().heads(b, vocab), seed=0, device="meta")
    rng = np.random.default_rng(0)
    example = CausalLM().example(window(rng.integers(0, 50_000, 1025)), vocab, rng)
    assert example is not None
    assert Flops.of(model).step(collate([example])) / 1024 == 854_438_400


def test_packed_rows_padding_and_frozen_backbones_count_what_is_useful() -> None:
    rng = np.random.default_rng(0)
    objective = MaskedLM()
    model = PretrainedModel.build(SHAPE, VOCAB, lambda b: objective.heads(b, VOCAB), seed=0)
    short = [
        objective.example(window(rng.integers(6, 40, n)), VOCAB, np.random.default_rng(n))
        for n in (10, 20, 30)
    ]
    examples = [e for e in short if e is not None]
    flops = Flops.of(model)
    apart = sum(flops.step(collate([e])) for e in examples)
    assert flops.step(collate(examples)) == apart == flops.step(collate(examples, packed=False))
    model.backbone.requires_grad_(False)
    assert Flops.of(model).step(collate(examples)) < apart / 2


def test_a_band_counts_what_lies_in_it() -> None:
    """By hand: of 7 slots 7 + 6 + 6 + 5 + 5 = 29 pairs lie fewer than 3 apart, of 2 all 4."""
    banded = replace(SHAPE, bands=(None, 3))
    dense, narrow = (
        Flops.of(PretrainedModel.build(shape, VOCAB, lambda b: CausalLM().heads(b, VOCAB), seed=0))
        for shape in (SHAPE, banded)
    )
    batch = collate([Example(Slots.causal(np.full(n, 7))) for n in (7, 2)])
    assert dense.step(batch) - narrow.step(batch) == 3 * 2 * (2 * 64) * ((49 + 4) - (29 + 4))
    wide = Flops.of(
        PretrainedModel.build(
            replace(SHAPE, bands=(9, 7)), VOCAB, lambda b: CausalLM().heads(b, VOCAB), seed=0
        )
    )
    assert wide.step(batch) == dense.step(batch)


def test_query_slots_are_no_keys_and_distances_are_asked_a_third_time() -> None:
    """By hand: 6 slots of text and 2 queries make 8 x 6 pairs; 2 x 6 - 1 distances pass a matrix of 64 x 64."""
    shape = TransformerConfig(1, 64, 2, 128, positions="relative", virtual_tokens=1, norm_order="post")
    objective = PermutedLM()
    model = PretrainedModel.build(shape, VOCAB, lambda b: objective.heads(b, VOCAB), seed=0)
    labels = {"permuted_token": np.array([-100] * 6 + [7, 8])}
    slots = Slots.permuted(np.arange(7, 13), np.arange(6), [1, 4], VOCAB.size, labels=labels)
    tail = 64 * 64 + 2 * 64 * 128  # the last layer answers for the two queries alone
    body = 8 * 3 * 64 * 64 + 2 * tail + 3 * 64 * (8 * 6) + 11 * 64 * 64
    assert Flops.of(model).step(collate([Example(slots)])) == 3 * 2 * body + 6 * 2 * VOCAB.size * 64


def test_recurrent_cells_and_idle_heads() -> None:
    model, batch = made(CausalLM(), RecurrentConfig(2, 16))
    weights = 2 * 2 * 4 * 16 * 16  # two layers of two matrices of four gates
    assert Flops.of(model).step(batch) == 6 * 126 * (weights + 40 * 16)
    classifier = Classification(MaskedLM(), ("a", "b"))
    other = PretrainedModel.build(SHAPE, VOCAB, lambda b: classifier.heads(b, VOCAB), seed=0)
    assert Flops.of(other).heads == {"label": 64 * 64 + 2 * 64}


def test_the_probe_gives_a_plausible_peak() -> None:
    assert 1e8 < matmul_peak("fp32", torch.device("cpu"), seconds=0.02) < 1e15


def test_a_machine_with_other_work_does_not_lower_the_peak(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a step in a quieter minute shows an MFU of 300 %."""
    monkeypatch.setattr("plume.training.precision._wait", lambda _: time.sleep(0.3))
    assert matmul_peak("fp32", torch.device("cpu"), seconds=0) > 2 * 1024**3 / 0.3


# ---- rows


def row(step: int, **more: Any) -> dict[str, Any]:
    return {"step": step, "attempt": 1, "split": "train", "loss": step / 3, **more}


def test_a_torn_row_is_cut_off_and_later_attempts_win(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    first = MetricsFile(path)
    assert first.last_attempt == 0
    for step in range(1, 4):
        first.write(row(step))
    first.close()
    with path.open("ab") as file:
        file.write(b'{"step": 4, "att')
    second = MetricsFile(path)
    assert second.last_attempt == 1
    second.write(row(3, attempt=2, loss=7.0))
    second.close()
    assert [r["loss"] for r in history(path)] == [1 / 3, 2 / 3, 7.0]
    assert len(path.read_text().splitlines()) == 4
    assert list(history(path, "dev")) == []


def test_no_row_is_lost_to_a_full_disk(tmp_path: Path, arm: Arm) -> None:
    path, said = tmp_path / "metrics.jsonl", []
    file = MetricsFile(path, said.append)
    arm("metrics@2=full,metrics@3=full")
    for step in range(1, 5):
        file.write(row(step))
    file.close()
    assert [r["step"] for r in history(path)] == [1, 2, 3, 4]
    assert len(said) == 1 and "wait in memory" in said[0]


def test_a_row_that_fits_only_in_part_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "metrics.jsonl"
    file = MetricsFile(path, lambda _: None)
    file.write(row(1))
    write = os.write
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", lambda handle, data: write(handle, data[: len(data) // 2]))
        file.write(row(2))
    assert path.read_text().count("\n") == 1 and path.read_text().endswith("\n")
    file.write(row(3))
    file.close()
    assert [r["step"] for r in history(path)] == [1, 2, 3]


def test_floats_come_back_to_the_last_bit(tmp_path: Path) -> None:
    values = np.random.default_rng(0).lognormal(0, 20, 200).tolist()
    file = MetricsFile(tmp_path / "m.jsonl")
    for step, value in enumerate(values):
        file.write(row(step, loss=value))
    file.close()
    assert [r["loss"].hex() for r in history(tmp_path / "m.jsonl")] == [v.hex() for v in values]


# ---- the line


def test_plain_lines_elsewhere_than_on_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with ProgressLine("gpt-1", 100, peak=1e9, every=0.0) as line:
        for step in range(1, 101):
            line.show(step, step * 1000, step * 1e6, 5 - step / 50)
        line.say("a sentence")
    printed = capsys.readouterr()
    assert printed.out == ""
    last = printed.err.splitlines()[-2]
    assert last.startswith("gpt-1  step 100/100  loss 3.0000  ") and "tokens/s" in last and "MFU" in last
    assert last.endswith("0:00:00 left") and printed.err.endswith("a sentence\n")


def test_a_bar_on_a_terminal(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    monkeypatch.setenv("FORCE_COLOR", "1")
    with ProgressLine("训练", 3, peak=1e9) as line:
        line.show(3, 3000, 1e6, 1.25)
        line.say("[red]not markup[/red]")
    shown = capsys.readouterr().err
    assert "训练" in shown and "3/3" in shown and "loss 1.25" in shown and "[red]not markup[/red]" in shown


def test_a_share_is_told_by_what_is_done_now(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with ShareLine("counting", every=0.0) as line:
        line.show(0.25, "order 2 of 3")
    assert capsys.readouterr().err == "counting: 25%, order 2 of 3\n"
    with ShareLine("counting") as line:  # not more often than every ten seconds
        line.show(0.25, "order 2 of 3")
    assert capsys.readouterr().err == ""
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    monkeypatch.setenv("FORCE_COLOR", "1")
    with ShareLine("计数") as line:
        line.show(0.25, "order 2 of 3")
        line.show(0.5, "order 3 of 3")  # a bar never says what is over
    shown = capsys.readouterr().err
    assert "计数" in shown and "500/1000" in shown and "order 3 of 3" in shown


# ---- what fits


def test_the_size_that_fits_is_found_by_trying(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = torch.device("cpu")
    assert microbatch_size(256, 128, 1, cpu, lambda size: None) == 32
    assert microbatch_size(7, 8, 1, cpu, lambda size: None) == 7
    assert microbatch_size(8, 5000, 2, cpu, lambda size: None) == 1
    tried = []

    def trial(size: int) -> None:
        tried.append(size)
        if size > 24:
            raise torch.OutOfMemoryError

    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda device: None)
    monkeypatch.setattr(torch.cuda, "max_memory_reserved", lambda device: 1)
    monkeypatch.setattr(
        torch.cuda, "get_device_properties", lambda device: type("Card", (), {"total_memory": 100})
    )
    assert microbatch_size(96, 128, 1, torch.device("cuda"), trial) == 24
    assert tried == [96, 48, 24]
