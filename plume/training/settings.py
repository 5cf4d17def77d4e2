"""What a training run is made of: frozen dataclasses, which are also its configuration file.

A recipe returns a ``Pretraining``; ``plume adapt`` builds an ``Adaptation``. Names are those of DESIGN
section 4: ``batch_size`` is global and in sequences, ``microbatch_size`` is what fits, accumulation is derived.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

from plume.models.backbone import BackboneConfig
from plume.objectives.base import Objective
from plume.objectives.mixture import Mixture
from plume.text.tokenizers import TokenizerConfig
from plume.text.windows import Windows
from plume.training.tasks import Tasks

Schedule = Literal[
    "linear", "linear_from_zero", "linear_throughout", "cosine", "wsd", "inverse_sqrt", "constant_inverse_sqrt",
    "noam", "constant",
]  # fmt: skip
Optimizer = Literal["adamw", "adafactor", "adagrad"]
Precision = Literal["auto", "fp32", "bf16", "fp16"]
Reduction = Literal["fast", "canonical"]
Masking = Literal["static", "dynamic"]
Updates = Literal["batch", "word"]


@dataclass(frozen=True, kw_only=True)
class Training:
    """How a model is trained; everything here is the same for every objective.

    ``optimizer``: "adafactor" is T5's, whose updates are ``lr`` times a parameter's own size; it knows no
    ``weight_decay``, ``betas`` and ``eps``. "adagrad" is ELMo's, with sums that start at 1; no ``betas`` either.
    ``lr`` is the peak, reached after ``warmup_steps`` (None: a twentieth of the steps). ``min_lr_share`` is the
    floor of the decay as a share of it, ``decay_share`` the last part of the steps, in which wsd decays.
    ``decay_tokens`` makes the schedule a function of the tokens read and says where it ends, ``warmup_tokens`` where
    its warm-up does (GPT-3, spec 15); the rate then stays at its floor.
    ``microbatch_size=None`` finds what fits and records it in the run.
    ``precision="auto"`` is bf16 where the machine multiplies bf16 natively, else fp32. ``reduction``:
    "canonical" sums gradients in one fixed tree, so that 1, 2 and 4 processes give the same bits; "fast" is a
    plain all-reduce. ``spike_sigma`` is how far above its recent mean a loss must lie for its step to be
    skipped (None: only what is not finite is skipped). ``updates``: "batch" is one update a step; "word" updates
    in place at every word of the step's windows by plain gradient descent, on all threads at once (one, and so
    repeatable to the last bit, with ``reduction="canonical"``), which Word2Vec's objective can.
    ``bias_correction=False`` is BERT's own Adam (spec 06, section 6); "in_rate" corrects the learning rate instead of
    the moments, so that the weight decay has its share and ``eps`` counts beside what is not corrected: GPT-1's (spec
    13, section 6). ``save_every`` is how many steps a kill may cost at most; ``keep`` how many checkpoints stay
    (None: all). Every ``eval_every`` steps (None: never) ``eval_batches`` global batches of held-out text are read.
    ``data_seed`` orders the data, ``init_seed`` draws the weights, ``noise_seed`` masks and drops out.
    """

    steps: int
    batch_size: int
    lr: float
    optimizer: Optimizer = "adamw"
    microbatch_size: int | None = None
    schedule: Schedule = "linear"
    warmup_steps: int | None = None
    warmup_tokens: int | None = None
    decay_tokens: int | None = None
    decay_share: float = 0.1
    min_lr_share: float = 0.0
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    bias_correction: bool | Literal["in_rate"] = True
    clip_norm: float | None = 1.0
    spike_sigma: float | None = 6.0
    precision: Precision = "auto"
    compile: bool = False
    activation_checkpointing: bool = False
    reduction: Reduction = "fast"
    updates: Updates = "batch"
    eval_every: int | None = 200
    eval_batches: int = 8
    save_every: int = 200
    keep: int | None = 2
    data_seed: int = 0
    init_seed: int = 0
    noise_seed: int = 0

    def __post_init__(self) -> None:
        for name in (
            "steps",
            "batch_size",
            "microbatch_size",
            "eval_every",
            "eval_batches",
            "save_every",
            "keep",
        ):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        if not self.lr > 0:
            raise ValueError(f"lr must be above 0, got {self.lr}")
        if not 0 <= self.warmup <= self.steps:
            raise ValueError(
                f"warmup_steps={self.warmup_steps} must lie between 0 and steps={self.steps}: set both, or "
                f"warmup_steps=null for a twentieth of the steps"
            )
        if self.warmup_tokens is not None and not 0 <= self.warmup_tokens <= (self.decay_tokens or 0):
            raise ValueError(
                f"warmup_tokens={self.warmup_tokens} must lie between 0 and decay_tokens={self.decay_tokens}: set both"
            )
        for name in ("decay_share", "min_lr_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must lie between 0 and 1, got {getattr(self, name)}")
        if self.clip_norm is not None and not self.clip_norm > 0:
            raise ValueError(f"clip_norm must be above 0 (none: null), got {self.clip_norm}")

    @property
    def warmup(self) -> int:
        """Steps of warm-up: ``warmup_steps``, else a twentieth of all steps."""
        return self.steps // 20 if self.warmup_steps is None else self.warmup_steps


@dataclass(frozen=True, kw_only=True)
class Stage:
    """What changes until step ``until`` (None: the end). A field left None keeps the recipe's own value."""

    until: int | None = None
    windows: Windows | None = None
    objective: Objective[Any] | None = None
    batch_size: int | None = None


@dataclass(frozen=True, kw_only=True)
class Pretraining:
    """A paradigm, complete: window x objective x backbone x seeding, and how to train it (DESIGN section 2).

    ``masking="static"`` draws each window's cut and noise once and for all, "dynamic" anew every epoch. Static text
    comes in ``dupe_factor`` variants, one after the other, as BERT's builder wrote it: epoch e is epoch e modulo
    that many. ``tasks`` are mixed with what the recipe asks of its text, each with data of its own.
    """

    tokenizer: TokenizerConfig
    windows: Windows
    objective: Objective[Any]
    model: BackboneConfig
    training: Training
    masking: Masking = "dynamic"
    dupe_factor: int = 1
    stages: tuple[Stage, ...] = ()
    tasks: Tasks | None = None

    def __post_init__(self) -> None:
        for objective in (self.objective, *(stage.objective for stage in self.stages)):
            if objective is not None:
                self.asks(objective)  # says what cannot be mixed
        for windows in (self.windows, *(stage.windows for stage in self.stages)):
            if self.tasks is not None and windows is not None and windows.carries:
                raise ValueError("tasks cannot be mixed with windows that carry memory from one to the next")
        if self.dupe_factor < 1:
            raise ValueError(f"dupe_factor must be at least 1, got {self.dupe_factor}")
        if self.dupe_factor > 1 and self.masking == "dynamic":
            raise ValueError("dupe_factor is for masking=static: dynamic masks are new every epoch")
        ends = [stage.until for stage in self.stages]
        for before, after in pairwise(ends):
            if before is None or (after is not None and after <= before):
                raise ValueError(
                    f"stages must end one after the other and only the last may be open, got until={ends}"
                )

    def asks(self, objective: Objective[Any]) -> Objective[Any]:
        """What is asked where ``objective`` is that of the text: it alone, or it and that of the tasks."""
        return objective if self.tasks is None else Mixture((objective, self.tasks.objective), asks=1)


@dataclass(frozen=True, kw_only=True)
class Adaptation:
    """A pretrained model made to do a task. ``mode``: "full", "frozen" (the new head alone) or "scratch" (the
    same network from random weights, to know what pretraining was worth).

    ``examples`` keeps that many labelled texts, spread evenly over the labels and drawn by
    ``training.data_seed`` (None: all). ``early``: the checkpoint that does best on dev is the result.
    """

    objective: Objective[Any]
    model: BackboneConfig
    training: Training
    mode: Literal["full", "frozen", "scratch"] = "full"
    examples: int | None = None
    early: bool = True
