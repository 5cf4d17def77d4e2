"""The loop (DESIGN section 2): one for every objective, on one process or many.

Counts are known before backward; each micro-batch draws from a generator of its own; gradients are reduced here
and not by a wrapper. Steps are counted from 0; a row, a checkpoint and ``Trainer.step`` of N mean "after N updates".
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Tensor

from plume.errors import UserError
from plume.models.pretrained import PretrainedModel
from plume.seeding import key
from plume.slots import Memory
from plume.training import carried, optimizers, parallel
from plume.training.checkpoints import (
    Checkpoint,
    Checkpoints,
    DamagedCheckpoint,
    folder_name,
    open_checkpoint,
)
from plume.training.faults import fault
from plume.training.flops import Flops
from plume.training.folder import RunFolder
from plume.training.guard import LIMIT, Guard
from plume.training.held_out import held_out_loss
from plume.training.loader import Loader, MicroBatch, Phase, Work
from plume.training.meters import MetricsFile, ProgressLine, parts_of, peak_memory
from plume.training.precision import LossScale, Numbers, autocast
from plume.training.saver import Saver
from plume.training.schedules import learning_rate, same_until
from plume.training.settings import Training
from plume.training.signals import StopSignals
from plume.vocabulary import Vocabulary

Outcome = Literal["finished", "stopped"]


@dataclass(frozen=True)
class Setting:
    """Where and how a run happens, settled before it begins. ``bytes_per_token`` is the training text's mean."""

    ranks: parallel.Ranks
    device: torch.device
    numbers: Numbers
    microbatch_size: int
    bytes_per_token: float
    peak: float = float("inf")
    quiet: bool = False


@dataclass
class Progress:
    """What a checkpoint says beside its tensors: all that a resumed run must know and could not compute."""

    step: int = 0
    attempt: int = 1
    tokens: int = 0
    flops: float = 0.0
    seconds: float = 0.0
    dropped: int = 0
    evaluated: int = -1  # the last step whose held-out loss is written
    best_loss: float | None = None  # the lowest held-out loss so far, and where it was
    best_step: int = -1


@dataclass
class Trainer:
    """Trains ``model`` from where its folder's newest valid checkpoint stands to ``training.steps``.

    ``held_out`` has an entry a phase: what to evaluate on, or a sentence that says why there is nothing.
    """

    model: PretrainedModel
    training: Training
    phases: Sequence[Phase[Any]]
    held_out: Sequence[Phase[Any] | str]
    vocab: Vocabulary
    folder: RunFolder
    setting: Setting
    identity: Mapping[str, str | int | None] = field(default_factory=dict)
    name: str = "train"
    early: bool = False  # the weights of the lowest held-out loss are the result

    def __post_init__(self) -> None:
        setting, training = self.setting, self.training
        self.ranks = setting.ranks
        self.model.backbone.activation_checkpointing = training.activation_checkpointing
        if training.compile:
            self.model.backbone.compile()
        self.progress = Progress()
        self.optimizer = optimizers.build(self.model, training)
        self.parameters = [p for p in self.model.parameters() if p.requires_grad]
        self.guard = Guard(training.spike_sigma, training.clip_norm)
        self.scale = LossScale(setting.numbers)
        self.memories: dict[int, Memory] = {}
        self.flops = Flops.of(self.model)
        self.signals = StopSignals()
        self.line = ProgressLine(
            self.name, training.steps, setting.peak, quiet=setting.quiet or not self.ranks.first
        )
        self.loader = self._loader(self.phases)
        self.checkpoints = Checkpoints(self.folder.checkpoints, training.keep, self.say)
        self.saver = Saver(self.checkpoints, self.say)
        self.rows: MetricsFile | None = None
        self._began = 0.0
        self._from = -1  # the step that this attempt began at

    def say(self, message: str) -> None:
        """Tell the user, once for all ranks."""
        if self.ranks.first:
            self.line.say(message)

    def run(self) -> Outcome:
        """Train to the end, or until a signal asks to leave; the state is saved either way.

        Raises:
            UserError: five steps in a row were refused, the disk is full, or the batch cannot feed the ranks.
        """
        for phase in self.phases:
            self.ranks.check(-(-phase.batch_size // self.setting.microbatch_size))
        with self.signals, self.line:
            fault("start")
            if self._from < 0:
                self.resume()
            self._began = time.monotonic() - self.progress.seconds
            if self.ranks.first:
                self.rows = MetricsFile(self.folder.metrics, self.say)
                self.progress.attempt = self.rows.last_attempt + 1
                self.saver.prepare(self._parts())
            try:
                self._train_mode()
                outcome = self._train()
                if outcome == "finished" and self.early:
                    self._take_best()
                self._save()
                if self.ranks.first:
                    self.saver.finish(self.progress.step)
                self.ranks.wait()
                return outcome
            finally:
                self.saver.wait()
                if self.rows is not None:
                    self.rows.close()

    def _train_mode(self) -> None:
        self.model.train()
        if not any(p.requires_grad for p in self.model.backbone.parameters()):
            self.model.backbone.eval()  # frozen features are those that the model gives when it is used

    def _loader(self, phases: Sequence[Phase[Any]]) -> Loader:
        return Loader(
            phases,
            self.vocab,
            self.model.heads,
            self.setting.microbatch_size,
            self.model.backbone.packs,
            self.setting.device,
            self.ranks,
        )

    # ---- the loop

    def _train(self) -> Outcome:
        progress, training = self.progress, self.training
        # A checkpoint begins an eighth early, so that it is durable, by its thread, when it must be.
        interval = training.save_every - training.save_every // 8
        if self._evaluation_due() and not self._evaluate():
            return "stopped"
        for work in self._work():
            if work.step == work.phase.first_step:
                self.memories.clear()
                self.guard.forget()
            self._bound_what_a_kill_costs()
            if not self._update(work):
                return "stopped"
            if self.guard.refused >= LIMIT:
                self._give_up()
            if self._evaluation_due() and not self._evaluate():
                return "stopped"
            if progress.step % interval == 0 and progress.step < training.steps:
                self._save()
        return "finished"

    def _work(self) -> Iterator[Work]:
        """What there is to do in each step that is left."""
        return self.loader.from_step(self.progress.step, self.training.steps)

    def _bound_what_a_kill_costs(self) -> None:
        """No step may be taken that would make a kill cost more than ``save_every`` steps."""
        durable = max(self.saver.saved, self._from)
        if self.progress.step + 1 - durable > self.training.save_every:
            self.saver.wait()

    def _update(self, work: Work) -> bool:
        """One step. False: a signal came before it was over; nothing of it remains."""
        names = list(self.model.heads)
        table = self.ranks.table(self._said(work, names), work.number)
        columns = dict(
            zip((*names, "stop", "tokens", "flops", "dropped"), table.sum(0).tolist(), strict=True)
        )
        if columns["stop"]:
            return False
        counts = {name: max(columns[name], 1.0) for name in names}
        weights = work.phase.objective.weights()
        factors = {name: weights.get(name, 1.0) / counts[name] for name in names}

        canonical = self.training.reduction == "canonical"
        nodes: list[parallel.Node] = []
        memories: dict[int, Memory] = {}
        totals = []
        for m in work.microbatches:
            if self.ranks.size == 1 and self.signals.received:
                self._forget_gradients()
                return False
            totals.append(self._accumulate(work, m, factors, memories))
            if canonical:
                parallel.push(nodes, parallel.Node(m.index, 1, self._take_gradients()))
            fault("accumulate")
        if canonical:
            gradients = parallel.sum_canonically(self.ranks, nodes, work.number)
        else:
            gradients = parallel.sum_fast(self.ranks, self._take_gradients())

        norm_now = torch.nn.utils.get_total_norm(gradients)
        # The step's one look at the device: what each micro-batch lost, and the gradient's norm.
        host = torch.cat([torch.stack(totals).double().flatten(), norm_now.double().reshape(1)]).cpu()
        lost = self.ranks.table(host[:-1].view(len(totals), len(names)), work.number).sum(0).tolist()
        losses = {name: value / counts[name] for name, value in zip(names, lost, strict=True)}
        loss = sum(weights.get(name, 1.0) * losses[name] for name in names)
        norm = float(host[-1]) / self.scale.value

        scale = self.scale.value
        rate = learning_rate(self.training, work.step, self.progress.tokens, round(columns["tokens"]))
        if self.scale.overflowed(norm):
            refusal: str | None = f"fp16 overflowed, the loss scale is now {self.scale.value:g}"
        elif refusal := self.guard.judge(loss, norm):
            self.guard.refused += 1
        else:
            self._step(gradients, norm, scale, rate)
            self.memories.update(memories)
            self.guard.accept(loss, norm)
            self.scale.accept()

        progress = self.progress
        progress.step += 1
        progress.tokens += round(columns["tokens"])
        progress.flops += columns["flops"]
        progress.dropped += round(columns["dropped"])
        row = {"loss": loss, "losses": losses, "lr": rate, "grad_norm": norm}
        if progress.dropped:
            row["dropped"] = progress.dropped
        if refusal:
            self.say(f"step {progress.step} skipped: {refusal}")
            row |= {"skipped": refusal, "sample_ids": list(work.sample_ids)}
        self._write("train", row)
        self.line.show(progress.step, progress.tokens, progress.flops, loss, parts_of(losses, weights))
        return True

    def _said(self, work: Work, names: Sequence[str]) -> Tensor:
        """What this rank knows of each of its micro-batches before any forward: [m, K] float64."""
        stop = float(self.signals.received is not None)
        rows = []
        for m in work.microbatches:
            tokens = 0 if m.batch is None else m.batch.num_tokens
            flops = 0.0 if m.batch is None else self.flops.step(m.batch)
            rows.append([*(m.counts.get(name, 0.0) for name in names), stop, tokens, flops, m.dropped])
        return torch.tensor(rows, dtype=torch.float64)

    def _accumulate(
        self, work: Work, m: MicroBatch, factors: Mapping[str, float], memories: dict[int, Memory]
    ) -> Tensor:
        """Forward and backward of one micro-batch: each head's loss, summed and not divided, [H]."""
        if m.batch is None:
            return torch.zeros(len(factors), device=self.setting.device)
        torch.manual_seed(key(self.training.noise_seed, "model", work.step, m.index))
        batch = m.batch
        if work.phase.carries:
            batch = replace(batch, memory=carried.reset(self.memories.get(m.index), batch.starts))
        with autocast(self.setting.numbers, self.setting.device):
            losses = work.phase.objective.losses(self.model, batch)
        fault("forward")
        shares = [losses.heads[name].total * (factor * self.scale.value) for name, factor in factors.items()]
        torch.stack(shares).sum().backward()
        fault("backward")
        if work.phase.carries and losses.memory is not None:
            memories[m.index] = carried.detach(losses.memory)
        return torch.stack([losses.heads[name].total.detach() for name in factors])

    def _step(self, gradients: list[Tensor], norm: float, scale: float, rate: float) -> None:
        clip = self.training.clip_norm
        factor = (1.0 if clip is None else min(1.0, clip / (norm + 1e-6))) / scale
        if factor != 1.0:
            torch._foreach_mul_(gradients, factor)
        for group in self.optimizer.param_groups:
            group["lr"] = optimizers.rate(self.training, rate, self.progress.step + 1)
        for parameter, gradient in zip(self.parameters, gradients, strict=True):
            parameter.grad = gradient
        fault("step")
        self.optimizer.step()
        self._forget_gradients()

    def _take_gradients(self) -> list[Tensor]:
        """The gradients so far, no longer the parameters'. A part that was asked nothing has zeros, on every rank."""
        taken = [torch.zeros_like(p) if p.grad is None else p.grad for p in self.parameters]
        self._forget_gradients()
        return taken

    def _forget_gradients(self) -> None:
        for parameter in self.parameters:
            parameter.grad = None

    def _give_up(self) -> None:
        self.guard.refused = 0  # so that the same command, run again, tries the next five
        self._save()
        if self.ranks.first:
            self.saver.finish(self.progress.step)
        raise UserError(
            f"{LIMIT} steps in a row were skipped, the last one at step {self.progress.step}: see the rows with "
            f'"skipped" in {self.folder.metrics}; lower training.lr, or look at the samples they name'
        )

    # ---- held-out text

    def _evaluation_due(self) -> bool:
        every, step = self.training.eval_every, self.progress.step
        if every is None or self.progress.evaluated == step:
            return False
        return step % every == 0 or step == self.training.steps

    def _evaluate(self) -> bool:
        """The loss on held-out text, as a row. False: a signal came."""
        number = self.phases.index(self.loader.phase(max(self.progress.step - 1, 0)))
        phase = self.held_out[number] if self.held_out else "there is none"
        if isinstance(phase, str):
            if self.progress.evaluated < 0:
                self.say(f"no held-out loss: {phase}")
            self.progress.evaluated = self.progress.step
            return True
        self.model.eval()
        try:
            row = self._held_out_loss(phase)
        finally:
            self._train_mode()
        if row is None:
            return False
        self._write("dev", row)
        progress = self.progress
        progress.evaluated = progress.step
        if math.isfinite(row["loss"]) and (progress.best_loss is None or row["loss"] < progress.best_loss):
            progress.best_loss, progress.best_step = row["loss"], progress.step
            if self.early and progress.step < self.training.steps:
                self._save()
        return True

    def _take_best(self) -> None:
        """Go back to the weights that did best on held-out text; the last checkpoint is to hold them."""
        step = self.progress.best_step
        if step in (-1, self.progress.step):
            return
        self.saver.wait()
        self.ranks.wait()
        try:
            best = open_checkpoint(self.checkpoints.folder / folder_name(step))
        except DamagedCheckpoint as error:
            self.say(f"step {step} did best on held-out text, but {error}: the last weights are the result")
            return
        self.model.load_state(best.tensors("model"), str(best.path))
        self.say(f"step {step} did best on held-out text: its weights are the result")

    def _held_out_loss(self, phase: Phase[Any]) -> dict[str, Any] | None:
        setting = self.setting
        return held_out_loss(
            self.model,
            phase,
            self._loader([phase]),
            seed=self.training.noise_seed,
            precision=lambda: autocast(setting.numbers, setting.device),
            # Several ranks leave together, at the next step.
            leave=lambda: self.ranks.size == 1 and self.signals.received is not None,
        )

    # ---- rows and checkpoints

    def _write(self, split: str, row: Mapping[str, Any]) -> None:
        if self.rows is None:
            return
        progress = self.progress
        progress.seconds = time.monotonic() - self._began
        finite = {k: _finite(v) for k, v in row.items()}
        self.rows.write(
            {
                "step": progress.step,
                "attempt": progress.attempt,
                "split": split,
                **finite,
                "tokens": progress.tokens,
                "bytes": round(progress.tokens * self.setting.bytes_per_token),
                "flops": progress.flops,
                "seconds": round(progress.seconds, 3),
                "peak_memory": peak_memory(self.setting.device),
            }
        )

    def _gather_memory(self) -> dict[str, Tensor]:
        return self.ranks.gather(carried.to_tensors(self.memories))

    def _save(self) -> None:
        """Begin to write a checkpoint, unless this step's is there already."""
        memory = self._gather_memory()
        if not self.ranks.first or self.saver.has(self.progress.step):
            return
        if self.rows is not None:
            self.rows.sync()
        state = {
            "progress": vars(self.progress),
            "guard": self.guard.state(),
            "scale": self.scale.state(),
            "training": {"steps": self.training.steps},
            "identity": dict(self.identity),
        }
        parts = {**self._parts(), "memory": memory}
        self.saver.save(self.progress.step, parts, state, self._protected(self.progress.best_step))

    def _parts(self) -> dict[str, dict[str, Tensor]]:
        return {"model": self.model.state(), "optimizer": optimizers.state(self.optimizer, self.model)}

    def _protected(self, best: int) -> set[int]:
        return {best} if self.early else set()

    def resume(self) -> None:
        """Go on from the newest checkpoint that is whole and of this run; without one, from the beginning.

        Raises:
            UserError: there are checkpoints, but none that this run would have come by.
        """
        self._from = 0
        found: Checkpoint | None = None
        if self.ranks.first:
            self.checkpoints.sweep()
            found = self.checkpoints.newest(self._fits)
            if found is not None:
                self.checkpoints.go_on_from(found, self._protected(found.state["progress"]["best_step"]))
            elif self.checkpoints.newest() is not None:
                raise UserError(
                    f"{self.folder.path} cannot grow to {self.training.steps} steps: none of its checkpoints was made "
                    f"at the learning rates that those ask for, because its decay had begun or its warm-up is a "
                    f"share of the steps (set training.warmup_steps); choose another --out"
                )
        step = self.ranks.agree(-1 if found is None else found.step)
        if step < 0:
            return
        if found is None:
            found = self.checkpoints.at(step)
        self.model.load_state(found.tensors("model"), str(found.path))
        optimizers.load_state(self.optimizer, self.model, found.tensors("optimizer"))
        self.memories = self._mine(carried.from_tensors(found.tensors("memory"), self.setting.device))
        self.progress = Progress(**found.state["progress"])
        self._from = found.step
        self.guard.load_state(found.state["guard"])
        self.scale.load_state(found.state["scale"])
        self.saver.saved = self.saver.begun = found.step
        self.say(f"going on from {found.path}")

    def _fits(self, checkpoint: Checkpoint) -> bool:
        """Whether this run would have come by here.

        Raises:
            DamagedCheckpoint: its tensors or its state are not those of this model.
        """
        for part, own in (
            ("model", self.model.state()),
            ("optimizer", optimizers.state(self.optimizer, self.model)),
        ):
            shapes = {name: tuple(t.shape) for name, t in own.items()}
            if checkpoint.shapes(part) != shapes:
                raise DamagedCheckpoint(f"{checkpoint.path / part}.safetensors is not of this model")
        try:
            Progress(**checkpoint.state["progress"])
            steps = checkpoint.state["training"]["steps"]
            before = replace(self.training, steps=steps)
        except (KeyError, TypeError, ValueError) as error:
            raise DamagedCheckpoint(f"{checkpoint.path / 'state.json'} lacks {error}") from error
        return same_until(before, self.training, checkpoint.step) == checkpoint.step

    def _mine(self, memories: Mapping[int, Memory]) -> dict[int, Memory]:
        if not memories:
            return {}
        mine = self.ranks.slice(max(memories) + 1)
        return {index: memory for index, memory in memories.items() if index in mine}


def _finite(value: Any) -> Any:
    """JSON has no NaN: what is not finite becomes null."""
    if isinstance(value, dict):
        return {k: _finite(v) for k, v in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value
