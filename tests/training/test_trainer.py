"""The loop: exact division, guards, precision, accumulation, held-out loss (spec 25, reliability A7, C4)."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from plume.errors import UserError
from plume.objectives.causal import CausalLM
from plume.objectives.masked import MaskedLM
from plume.slots import Batch, Losses
from plume.training.folder import RunFolder
from plume.training.guard import Guard
from plume.training.meters import history
from plume.training.trainer import Trainer
from tests.training import small
from tests.training.test_loader import Picky


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def losses(run: Trainer) -> list[float]:
    return [row["loss"] for row in history(run.folder.metrics)]


def weights(run: Trainer) -> dict[str, Tensor]:
    return {name: t.clone() for name, t in run.model.state().items()}


# ---- the objective's mean is over the whole batch


def test_accumulation_is_exact_to_the_global_count(tmp_path: Path) -> None:
    """1 x 8 = 2 x 4 = 8 x 1 although masked windows of a batch have different numbers of labels."""
    results = []
    for size in (8, 2, 1):
        recipe = replace(
            small.RECIPES["masked"], objective=MaskedLM(selection="bernoulli", noise_density=0.3)
        )
        recipe = replace(recipe, model=replace(small.TRANSFORMER, dropout=0.0, attention_dropout=0.0))
        run = small.trainer("masked", tmp_path / str(size), recipe=recipe, microbatch_size=size)
        run.run()
        results.append(losses(run))
    assert results[1] == pytest.approx(results[0], abs=2e-6)
    assert results[2] == pytest.approx(results[0], abs=2e-6)


def test_the_gradient_is_that_of_the_plain_mean(tmp_path: Path) -> None:
    recipe = replace(
        small.RECIPES["causal"], model=replace(small.TRANSFORMER, dropout=0.0, attention_dropout=0.0)
    )
    run = small.trainer(
        "causal", tmp_path, recipe=recipe, steps=1, clip_norm=None, eval_every=None, warmup_steps=0
    )
    work = run.loader.work(0)
    whole = run.loader.collate(work.phase, list(work.sample_ids))
    assert whole is not None
    loss = work.phase.objective.losses(run.model, whole).heads["next_token"]
    mean = loss.total / loss.count
    mean.backward()
    norm = float(torch.nn.utils.get_total_norm([p.grad for p in run.parameters if p.grad is not None]))
    run._forget_gradients()
    run.run()
    row = next(history(run.folder.metrics))
    assert row["loss"] == pytest.approx(mean.item(), abs=1e-6)
    assert row["grad_norm"] == pytest.approx(norm, rel=1e-5)


def test_the_norm_is_clipped_after_accumulation(tmp_path: Path) -> None:
    run = small.trainer("causal", tmp_path, clip_norm=1.0)
    p, q = run.parameters[:2]
    gradients = [torch.zeros_like(t) for t in run.parameters]
    gradients[0].view(-1)[0], gradients[1].view(-1)[0] = 3.0, 4.0
    run._step(gradients, 5.0, 1.0, 1e-3)
    first = (
        run.optimizer.state[p]["exp_avg"].view(-1)[0].item(),
        run.optimizer.state[q]["exp_avg"].view(-1)[0].item(),
    )
    assert first == pytest.approx((0.1 * 0.59999988, 0.1 * 0.79999984), rel=1e-6)  # 5 / (5 + 1e-6), torch's


# ---- A7: what is skipped


@dataclass(frozen=True)
class Spoilt(CausalLM):
    """Spoils the loss, or one element of a gradient, of the steps in which sample ``first`` is read."""

    factor: float = math.nan
    first: tuple[int, ...] = (40,)
    element: bool = False

    def losses(self, model: Any, batch: Batch) -> Losses:
        found = super().losses(model, batch)
        if not set(self.first) & set(batch.sample_ids.tolist()) or not model.training:
            return found
        loss = found.heads["next_token"]
        total = loss.total * self.factor
        if self.element:
            poison = torch.zeros_like(model.backbone.embedding.weight)
            poison[7, 3] = self.factor
            total = loss.total + (model.backbone.embedding.weight * poison).sum() * 0.0 + _leak(model, poison)
        return found._replace(heads={"next_token": loss._replace(total=total)})


def _leak(model: Any, poison: Tensor) -> Tensor:
    # Value 0, gradient ``poison``.
    weight = model.backbone.embedding.weight
    leak: Tensor = ((weight - weight.detach()) * poison.nan_to_num(posinf=torch.inf)).sum()
    return leak if torch.isfinite(leak) else leak.detach() * 0 + _Poison.apply(weight, poison)


class _Poison(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight: Tensor, poison: Tensor) -> Tensor:
        ctx.save_for_backward(poison)
        return torch.zeros(())

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        return ctx.saved_tensors[0], None


@pytest.mark.parametrize("element", [False, True], ids=["loss", "one gradient element"])
@pytest.mark.parametrize("factor", [math.nan, math.inf, 1e9])
def test_a_spoilt_step_leaves_the_weights_bit_identical(tmp_path: Path, factor: float, element: bool) -> None:
    recipe = replace(small.RECIPES["causal"], objective=Spoilt(factor=factor, element=element))
    run = small.trainer("causal", tmp_path, recipe=recipe, eval_every=None)
    before: dict[str, Tensor] = {}
    update = run._update

    def watch(work: Any) -> bool:
        if work.step == 5:
            before.update(weights(run) | {f"{i}": t.clone() for i, t in enumerate(_moments(run))})
        taken = update(work)
        if work.step == 5:
            after = weights(run) | {f"{i}": t for i, t in enumerate(_moments(run))}
            assert all(torch.equal(before[name], after[name]) for name in before)
        return taken

    run._update = watch  # type: ignore[method-assign]
    assert run.run() == "finished"
    rows = {row["step"]: row for row in history(run.folder.metrics)}
    assert [step for step, row in rows.items() if "skipped" in row] == [6]
    assert rows[6]["sample_ids"] == list(range(40, 48)) and rows[6]["skipped"].startswith("the ")
    assert before and not all(torch.equal(before[name], t) for name, t in weights(run).items())
    # Replay: the same step of the same run says the same thing.
    again = small.trainer("causal", tmp_path / "again", recipe=recipe, eval_every=None)
    again.run()
    assert [row.get("skipped") for row in history(again.folder.metrics)] == [
        row.get("skipped") for row in rows.values()
    ]


def _moments(run: Trainer) -> list[Tensor]:
    return [tensor for state in run.optimizer.state.values() for tensor in state.values()]


def test_without_the_guard_the_weights_would_be_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The negative control."""
    monkeypatch.setattr(Guard, "judge", lambda self, loss, norm: None)
    run = small.trainer(
        "causal", tmp_path, recipe=replace(small.RECIPES["causal"], objective=Spoilt()), eval_every=None
    )
    run.run()
    assert any(not torch.isfinite(tensor).all() for tensor in run.model.state().values())


def test_five_in_a_row_stop_the_run_which_can_be_tried_again(tmp_path: Path) -> None:
    spoilt = replace(small.RECIPES["causal"], objective=Spoilt(first=tuple(range(16, 56))))
    run = small.trainer("causal", tmp_path, recipe=spoilt)
    with pytest.raises(UserError, match="5 steps in a row"):
        run.run()
    assert run.progress.step == 7 and run.checkpoints.require().step == 7
    again = small.trainer("causal", tmp_path)
    assert again.run() == "finished"
    assert [row["step"] for row in history(again.folder.metrics)] == list(range(1, 13))


def test_rows_are_json_even_where_the_loss_is_not_a_number(tmp_path: Path) -> None:
    recipe = replace(small.RECIPES["causal"], objective=Spoilt())
    run = small.trainer("causal", tmp_path, recipe=recipe)
    run.run()
    for line in run.folder.metrics.read_text().splitlines():
        json.loads(line, parse_constant=lambda name: pytest.fail(name))


@pytest.mark.parametrize(
    "clean",
    [
        lambda rng, i: 5 + 4 * math.exp(-i / 100) + 0.15 * rng.normal(),  # a language model that learns
        lambda rng, i: abs(rng.standard_t(3)) * 0.05 + (0.7 if rng.random() < 0.02 else 0),  # nearly by heart
        lambda rng, i: 3.0 + 0.15 * rng.standard_t(4),  # heavy tails
        lambda rng, i: 40.0 + 2 * rng.normal(),  # ELECTRA's weighted sum
    ],
)
def test_no_clean_step_is_skipped_in_two_thousand(clean: Callable[[np.random.Generator, int], float]) -> None:
    rng = np.random.default_rng(1)
    guard = Guard(6.0, 1.0)
    for step in range(2000):
        loss, norm = clean(rng, step), float(rng.lognormal(-1, 1))
        assert guard.judge(loss, norm) is None, (step, loss, norm)
        guard.accept(loss, norm)
    for loss, norm in ((2e9, 1.0), (3.0, math.nan), (math.inf, 1.0), (3.0, 1e9)):
        assert guard.judge(loss, norm) is not None


def test_the_guard_sees_a_real_spike_and_forgets_at_a_new_stage() -> None:
    guard = Guard(6.0, 1.0)
    for step in range(100):
        guard.accept(3.0 + 0.02 * (step % 5), 0.5)
    assert guard.judge(4.6, 0.5) is not None
    assert guard.judge(3.9, 0.5) is None
    copy = Guard(6.0, 1.0)
    copy.load_state(json.loads(json.dumps(guard.state())))
    assert copy.judge(4.6, 0.5) == guard.judge(4.6, 0.5)
    guard.forget()
    assert guard.judge(4.6, 0.5) is None
    assert Guard(None, None).judge(1e30, 1e30) is None


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["causal", "masked", "carried"])
def test_two_thousand_real_steps_without_a_false_skip(kind: str, tmp_path: Path) -> None:
    run = small.trainer(kind, tmp_path, steps=2000, eval_every=None, save_every=1000)
    run.run()
    rows = list(history(run.folder.metrics))
    assert len(rows) == 2000 and not [row for row in rows if "skipped" in row]
    assert rows[-1]["loss"] < rows[0]["loss"]


# ---- precision, checkpointing of activations, held-out text


def test_bf16_and_fp16_learn_the_same_and_say_so(tmp_path: Path) -> None:
    found = {}
    for precision in ("fp32", "bf16", "fp16"):
        run = small.trainer("causal", tmp_path / precision, precision=precision, steps=8)
        run.run()
        found[precision] = losses(run)
        assert run.scale.value == (2.0**16 if precision == "fp16" else 1.0)
    assert found["bf16"] == pytest.approx(found["fp32"], rel=0.02) and found["bf16"] != found["fp32"]
    assert found["fp16"] == pytest.approx(found["fp32"], rel=0.02)


def test_fp16_halves_its_scale_until_the_gradient_fits(tmp_path: Path) -> None:
    run = small.trainer("causal", tmp_path, precision="fp16", steps=6, save_every=3)
    run.scale.value = 2.0**60
    before = weights(run)
    run._update(run.loader.work(0))
    assert run.scale.value == 2.0**59
    assert all(torch.equal(before[name], t) for name, t in run.model.state().items())
    run.scale.value = 2.0**18
    assert run.run() == "finished"
    assert run.guard.refused == 0 and "overflowed" not in str(list(history(run.folder.metrics))[-1])


def test_activation_checkpointing_changes_no_bit(tmp_path: Path) -> None:
    results = []
    for switch in (False, True):
        run = small.trainer("causal", tmp_path / str(switch), activation_checkpointing=switch, steps=6)
        run.run()
        results.append(small.result(run))
    assert results[0] == results[1]  # dropout included: each micro-batch has its generator


@pytest.mark.slow
# Both are of torch's compiler: what it imports, and how it looks at its inputs.
@pytest.mark.filterwarnings("ignore:.*torch.jit.script_method:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
def test_compiled_layers_learn_the_same(tmp_path: Path) -> None:
    found = []
    for switch in (False, True):
        shape = replace(small.TRANSFORMER, dropout=0.0, attention_dropout=0.0)
        recipe = replace(small.RECIPES["causal"], model=shape)
        run = small.trainer(
            "causal", tmp_path / str(switch), recipe=recipe, compile=switch, steps=4, eval_every=None
        )
        run.run()
        found.append(losses(run))
    assert found[1] == pytest.approx(found[0], rel=1e-4)


def test_held_out_loss_is_the_same_at_every_look_and_draws_nothing_from_training(tmp_path: Path) -> None:
    often = small.trainer("masked", tmp_path / "often", eval_every=1)
    never = small.trainer("masked", tmp_path / "never", eval_every=None)
    often.run()
    never.run()
    assert losses(often) == losses(never)
    rows = list(history(often.folder.metrics, "dev"))
    assert [row["step"] for row in rows] == list(range(13))
    assert {row["held_out_tokens"] for row in rows} == {rows[0]["held_out_tokens"]}
    assert rows[0]["loss"] == pytest.approx(math.log(40), abs=0.1)
    assert [row["step"] for row in history(never.folder.metrics, "dev")] == []


def test_rows_say_what_they_must(tmp_path: Path) -> None:
    run = small.trainer("causal", tmp_path)
    run.run()
    row = list(history(RunFolder(tmp_path).metrics))[-1]
    assert row.keys() == {
        "step", "attempt", "split", "loss", "losses", "lr", "grad_norm", "tokens", "bytes", "flops", "seconds",
        "peak_memory",
    }  # fmt: skip
    assert row["tokens"] == sum(
        m.batch.num_tokens for step in range(12) for m in run.loader.work(step).microbatches if m.batch
    )
    assert row["bytes"] == 4 * row["tokens"] and row["peak_memory"] > 50e6 and row["seconds"] > 0


def test_a_head_that_is_asked_nothing_keeps_the_run_going(tmp_path: Path) -> None:
    """Its parameters get zeros, on one process as on several."""
    recipe = replace(small.RECIPES["masked"], objective=Two())
    run = small.trainer("masked", tmp_path, recipe=recipe, steps=3)
    assert run.run() == "finished"
    assert list(history(run.folder.metrics))[-1]["losses"]["idle"] == 0


@dataclass(frozen=True)
class Two(MaskedLM):
    """Masked language modelling with a second head that no example ever asks."""

    def heads(self, backbone: Any, vocab: Any) -> dict[str, Any]:
        found = super().heads(backbone, vocab)
        return found | {"idle": super().heads(backbone, vocab)["masked_token"]}


def test_what_was_dropped_is_counted_in_the_rows(tmp_path: Path) -> None:
    recipe = replace(small.RECIPES["causal"], objective=Picky())
    run = small.trainer("causal", tmp_path, recipe=recipe, eval_every=None)
    run.run()
    rows = list(history(run.folder.metrics))
    assert rows[-1]["dropped"] == run.progress.dropped > 20
    assert run.checkpoints.require().state["progress"]["dropped"] == run.progress.dropped


def test_frozen_features_are_those_that_the_model_gives_in_use(tmp_path: Path) -> None:
    run = small.trainer("causal", tmp_path)
    run.model.backbone.requires_grad_(False)
    run._train_mode()
    assert not run.model.backbone.training and run.model.heads.training


def test_early_runs_keep_and_end_with_the_best_weights(tmp_path: Path) -> None:
    run = small.trainer("causal", tmp_path, steps=12, eval_every=2, save_every=4, keep=1)
    run.early = True
    best = {}
    evaluate = run._held_out_loss

    def tampered(phase: Any) -> Any:
        row = evaluate(phase)
        if run.progress.step == 6:
            best.update(weights(run))
        assert row is not None
        return row | {"loss": abs(run.progress.step - 6) + 1.0}  # 6 is best, whatever the model says

    run._held_out_loss = tampered  # type: ignore[method-assign]
    assert run.run() == "finished"
    assert run.progress.best_step == 6
    last = run.checkpoints.require()
    assert last.step == 12
    assert all(torch.equal(tensor, best[name]) for name, tensor in last.tensors("model").items())
