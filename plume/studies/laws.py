"""The laws every objective obeys (DESIGN section 6), written once for all of them.

A law takes a ``Case``, the ids of a text and a seed, and raises ``Broken`` (an AssertionError) where it does not
hold. ``tests/laws`` runs every law on plume's own objectives, ``plume check`` on a user's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import lru_cache
from typing import Any

import numpy as np
import torch

from plume.models.backbone import BackboneConfig
from plume.models.pretrained import PretrainedModel
from plume.models.transformer import TransformerConfig
from plume.objectives.base import Objective
from plume.seeding import rng
from plume.slots import IGNORE, Batch, Example, Slots, collate
from plume.studies.broken import Broken
from plume.text.windows import Window
from plume.vocabulary import Vocabulary

FIRST, TEXT = 7, 40  # the ids of a user's text are FIRST ... TEXT - 1
VOCAB = Vocabulary(size=TEXT, pad=0, unk=1, cls=2, sep=3, mask=4, bos=5, eos=6)
# T5's marks beside it, the first one last, as T5 numbers them.
WITH_SENTINELS = replace(VOCAB, size=TEXT + 8, sentinels=tuple(range(TEXT + 7, TEXT - 1, -1)))
PEAK = 8e-3  # learning rate of the random-text control: high, so that 200 steps find what there is to find


def window(ids: np.ndarray) -> Window:
    """A bare window: every token a word of its own."""
    n = len(ids)
    return Window(
        ids=ids,
        marks=np.ones(n, np.uint8),
        special=np.zeros(n, bool),
        token_type_ids=np.zeros(n, np.int64),
        labels={},
    )


def framed(ids: np.ndarray) -> Window:
    """[CLS] ids [SEP], the second half of the tokens a second segment, words of two tokens."""
    n = len(ids)
    types = np.zeros(n + 2, np.int64)
    types[1 + n // 2 :] = 1
    marks = np.ones(n + 2, np.uint8)
    marks[2::2] = 0
    return Window(
        ids=np.concatenate([[VOCAB.cls], ids, [VOCAB.sep]]),
        marks=marks,
        special=np.array([True] + [False] * n + [True]),
        token_type_ids=types,
        labels={"next_sentence": n % 2},
    )


Bounds = Callable[[int], tuple[int, int]]


@dataclass(frozen=True)
class Case:
    """An objective, how a source for it is made from token ids, and what is known of it in advance.

    rate: head -> slots of a source -> fewest and most labels (``None``: any number, one at least). floor: head ->
    number of different ids V -> loss of the best guess on uniform random text. hides: the same objective without
    tokens kept as they are, for the no-leak law. model: a backbone to try it on, when one Transformer with the
    stacks that the examples need will not do. shows: the objective may show a token where it asks for it, or in its
    first stack (BERT's kept tokens, a denoiser that copies), so only what the draw hides is held against it.
    """

    name: str
    objective: Objective[Any]
    source: Callable[[np.ndarray], Any] = window
    rate: Mapping[str, Bounds] | None = None
    floor: Mapping[str, Callable[[int], float]] = field(default_factory=dict)
    hides: Objective[Any] | None = None
    vocab: Vocabulary = VOCAB
    model: BackboneConfig | None = None
    shows: bool = False


def tiny(
    objective: Objective[Any],
    seed: int = 0,
    *,
    vocab: Vocabulary = VOCAB,
    example: Example[Any] | None = None,
    model: BackboneConfig | None = None,
    **changes: Any,
) -> PretrainedModel:
    """A real model with every head of the objective, in fp64 so that no kernel's rounding hides a leak.

    ``example`` says what it needs: two stacks where it has decoder inputs, rows for virtual ids; without one it is
    drawn from a small text. ``model`` is taken instead where given. ``changes`` are fields of the configuration.
    """
    if model is None:
        found = _some_example(objective, vocab) if example is None else example
        model = _needed([] if found is None else stacks(found), vocab)
    config: Any = replace(model, **changes)  # type: ignore[type-var]
    return (
        PretrainedModel.build(config, vocab, lambda b: objective.heads(b, vocab), seed=seed).double().eval()
    )


def _needed(parts: Sequence[Slots[Any]], vocab: Vocabulary) -> TransformerConfig:
    """A small Transformer with the stacks and virtual rows that some slots ask for."""
    virtual = max((int(s.input_ids.max()) - vocab.size + 1 for s in parts if len(s)), default=0)
    return TransformerConfig(
        num_layers=2, d_model=16, num_heads=2, d_ff=32, norm_order="pre", positions="learned", max_positions=64,
        token_types=2, dropout=0.0, attention_dropout=0.0, num_decoder_layers=2 if len(parts) > 1 else 0,
        virtual_tokens=max(0, virtual),
    )  # fmt: skip


def _some_example(objective: Objective[Any], vocab: Vocabulary) -> Example[Any] | None:
    text = np.arange(FIRST, FIRST + 24) % (TEXT - FIRST) + FIRST
    for source in (window, framed):
        try:
            example = objective.example(source(text), vocab, rng(0, "noise", 0, 0))
        except (ValueError, AttributeError):  # its source is framed, or no window at all
            continue
        if example is not None:
            return example
    return None


_SMALL: dict[str, Any] = {
    "num_layers": 2, "num_decoder_layers": 2, "d_model": 16, "num_heads": 2, "d_ff": 32, "d_head": 8,
    "max_positions": 64, "dropout": 0.0, "attention_dropout": 0.0, "embedding_dropout": 0.0,
}  # fmt: skip


def shrunk(model: Any) -> Any:
    """The same kind of backbone, small and without dropout: fields of the usual names, in its parts too."""
    values: dict[str, Any] = {}
    for part in fields(model):
        value = getattr(model, part.name)
        if part.name in _SMALL and value is not None:
            values[part.name] = min(value, _SMALL[part.name]) if part.name != "max_positions" else 64
        elif isinstance(value, TransformerConfig):
            values[part.name] = shrunk(value)
    for kept in (
        (),
        ("num_layers", "num_decoder_layers"),
    ):  # a tuple of one entry a layer forbids fewer layers
        try:
            return replace(model, **{name: v for name, v in values.items() if name not in kept})
        except ValueError:
            continue
    return model


def built(case: Case, example: Example[Any], objective: Objective[Any] | None = None) -> PretrainedModel:
    """The model that a case is tried on; the same for every example that asks the same of it."""
    model: Any = case.model or _needed(stacks(example), case.vocab)
    try:
        return _built(objective or case.objective, case.vocab, model)
    except TypeError:  # an objective that cannot be hashed
        return tiny(objective or case.objective, vocab=case.vocab, model=model)


@lru_cache(maxsize=8)
def _built(objective: Objective[Any], vocab: Vocabulary, model: BackboneConfig) -> PretrainedModel:
    return tiny(objective, vocab=vocab, model=model)


def draw(
    case: Case, ids: np.ndarray, seed: int = 0, objective: Objective[Any] | None = None
) -> Example[Any] | None:
    """The example of a text."""
    return (objective or case.objective).example(case.source(ids), case.vocab, rng(seed, "noise", 0, 0))


def stacks(example: Example[Any]) -> list[Slots[Any]]:
    """The slots of one or two stacks."""
    return [s for s in (example.inputs, example.decoder_inputs) if s is not None]


def restore(case: Case, ids: np.ndarray, seed: int) -> None:
    """Inputs and labels give the source's ids back."""
    example = draw(case, ids, seed)
    if example is None:
        return
    got, wanted = np.asarray(case.objective.restore(example)), np.asarray(case.source(ids).ids)
    if got.shape != wanted.shape:
        raise Broken("restore.shape", example=example, got=len(got), wanted=len(wanted))
    if len(wrong := np.flatnonzero(got != wanted)):
        raise Broken("restore.tokens", example=example, place=int(wrong[0]))


def determinism(case: Case, ids: np.ndarray, seed: int) -> None:
    """The same key draws the same example."""
    a, b = draw(case, ids, seed), draw(case, ids, seed)
    if (a is None) != (b is None):
        raise Broken("determinism.none", example=a or b)
    if a is None or b is None:
        return
    for number, (x, y) in enumerate(zip(stacks(a), stacks(b), strict=True)):
        for name in ("input_ids", "position_ids", "token_type_ids", "visible_at", "sees_until", "features"):
            _equal(a, number, name, getattr(x, name), getattr(y, name))
        for kind, ours, theirs in (("labels", x.labels, y.labels), ("given", x.given, y.given)):
            if set(ours) != set(theirs):
                raise Broken("determinism.field", example=a, stack=number, field=kind)
            for head in ours:
                _equal(a, number, f"{kind} of {head}", ours[head], theirs[head])


def _equal(example: Example[Any], stack: int, name: str, x: Any, y: Any) -> None:
    if not np.array_equal(x, y) and not (x is None and y is None):
        raise Broken("determinism.field", example=example, stack=stack, field=name)


def rate(case: Case, ids: np.ndarray, seed: int) -> None:
    """As many slots are asked as the paper says, and each label is an id of the vocabulary or a class."""
    example = draw(case, ids, seed)
    if example is None:
        return
    asked = {h: (n, labels) for n, slots in enumerate(stacks(example)) for h, labels in slots.labels.items()}
    wanted = case.rate
    if wanted is not None and set(asked) != set(wanted):
        raise Broken("rate.heads", example=example, got=sorted(asked), wanted=sorted(wanted))
    for head, (stack, labels) in asked.items():
        bad = np.flatnonzero((labels != IGNORE) & ((labels < 0) | (labels >= case.vocab.size)))
        if len(bad):
            slot = int(bad[0])
            raise Broken("rate.label", example=example, stack=stack, slot=slot, head=head,
                         label=int(labels[slot]))  # fmt: skip
    total = {head: int((labels != IGNORE).sum()) for head, (_, labels) in asked.items()}
    length = len(example.inputs) if wanted is None else len(case.source(ids).ids)
    if wanted is None:
        if not sum(total.values()):
            raise Broken("rate.count", example=example, head=", ".join(asked), count=0, length=length, fewest=1,
                         most=length)  # fmt: skip
        return
    for head, count in total.items():
        fewest, most = wanted[head](length)
        if not fewest <= count <= most:
            raise Broken("rate.count", example=example, head=head, count=count, length=length, fewest=fewest,
                         most=most)  # fmt: skip


def heads(case: Case, ids: np.ndarray, seed: int) -> None:
    """Every label has a head, and ``counts`` knows before the forward what ``losses`` will divide by."""
    example = draw(case, ids, seed)
    if example is None:
        return
    model = built(case, example)
    asked = {head for slots in stacks(example) for head in slots.labels}
    if missing := asked - set(model.heads):
        raise Broken("heads.missing", example=example, missing=sorted(missing))
    idle = Example(*(replace(s, labels={}, given={}) for s in stacks(example)))
    batch = collate([example, idle], packed=False)
    losses = case.objective.losses(model, batch).heads
    counts = case.objective.counts(batch, dict(model.heads.items()))
    if not set(losses) == set(counts) == set(model.heads):
        raise Broken("heads.names", example=example, losses=sorted(losses), counts=sorted(counts),
                     heads=sorted(model.heads))  # fmt: skip
    for head, loss in losses.items():
        if float(loss.count) != float(counts[head]):
            raise Broken("heads.count", example=example, head=head, before=float(counts[head]),
                         after=float(loss.count))  # fmt: skip
        if not torch.isfinite(loss.total):
            raise Broken("heads.finite", example=example, head=head)


def packing(case: Case, ids: np.ndarray, seed: int) -> None:
    """Packed or padded, alone or together: the same sums, and nothing of a neighbour comes through."""
    parts = [e for i in range(1, len(ids) + 1) if (e := draw(case, ids[:i], seed + i)) is not None]
    if not parts:
        return
    model = built(case, parts[-1])
    with torch.no_grad():
        alone = [case.objective.losses(model, collate([e], packed=False)).heads for e in parts]
        for packed in (True, False) if model.backbone.packs else (False,):
            together = case.objective.losses(model, collate(parts, packed=packed)).heads
            for head, loss in together.items():
                total = sum(float(a[head].total) for a in alone if head in a)
                if not abs(float(loss.total) - total) < 1e-8:
                    raise Broken("packing.sum", example=parts[-1], head=head, together=float(loss.total),
                                 alone=total, how="packed" if packed else "padded")  # fmt: skip


def no_leak(case: Case, ids: np.ndarray, seed: int) -> None:
    """What a slot is asked for never reaches that slot's answer.

    For every labelled slot: change the source only in the token that its label names. Where the draw hides
    that token the hidden state there must stay the same to the last bit.
    """
    objective = case.hides or case.objective
    example = draw(case, ids, seed, objective)
    if example is None:
        return
    model = built(case, example, objective)

    def hidden(e: Example[Any]) -> dict[str, torch.Tensor]:
        batch = collate([e], packed=False)
        with torch.no_grad():
            states = model.backbone(batch.inputs, batch.decoder_inputs)
        return {name: states[head.reads][0] for name, head in model.heads.items()}

    before = hidden(example)
    for at in range(len(ids)):
        other = ids.copy()
        other[at] = FIRST + (ids[at] - FIRST + 1) % (TEXT - FIRST)
        changed = draw(case, other, seed, objective)
        if changed is None or [len(s) for s in stacks(changed)] != [len(s) for s in stacks(example)]:
            if case.shows:
                continue  # what is asked depends on the text: this place cannot be judged
            raise Broken("no_leak.short", example=example)
        after = hidden(changed)
        for number, (x, y) in enumerate(zip(stacks(example), stacks(changed), strict=True)):
            copies = number == 1 and not np.array_equal(example.inputs.input_ids, changed.inputs.input_ids)
            for head, labels in x.labels.items():
                # A slot whose answer changed because this one token changed must not have been able to see it.
                for slot in np.flatnonzero(labels != y.labels[head]).tolist():
                    if case.shows and (copies or _shown(x, y, head, slot)):
                        continue
                    if not torch.equal(before[head][slot], after[head][slot]):
                        raise Broken("no_leak.sees", example=example, stack=number, slot=slot, head=head)


def _shown(x: Slots[Any], y: Slots[Any], head: str, slot: int) -> bool:
    """Whether the slot reads its own answer in the open (BERT's kept tokens), or is not asked in both draws."""
    a, b = int(x.labels[head][slot]), int(y.labels[head][slot])
    return IGNORE in (a, b) or (int(x.input_ids[slot]) == a and int(y.input_ids[slot]) == b)


def random_text(case: Case, steps: int = 200) -> dict[str, tuple[float, float]]:
    """(mean loss, floor) of every head with a floor, after training on uniform random tokens, held out.

    Nothing can be learnt there, so a loss below the floor has seen its answers.
    """
    torch.manual_seed(0)

    def examples(step: int, size: int) -> list[Example[Any]]:
        generator = rng(1, "text", step)
        texts = [generator.integers(FIRST, TEXT, 24) for _ in range(size)]
        drawn = (
            case.objective.example(case.source(text), case.vocab, rng(2, "noise", step, i))
            for i, text in enumerate(texts)
        )
        return [e for e in drawn if e is not None]

    first = examples(0, 16)
    if not first:
        return {}
    wider = {"d_model": 32} if case.model is None else {}
    model = (
        tiny(case.objective, vocab=case.vocab, example=first[0], model=case.model, **wider).float().train()
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=PEAK, weight_decay=0.0)

    def batch(step: int, size: int) -> Batch:
        return collate(examples(step, size), packed=model.backbone.packs)

    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = PEAK * (1 - step / steps)
        losses = case.objective.losses(model, batch(step, 16)).heads
        optimizer.zero_grad()
        sum((loss.total / loss.count.clamp(min=1) for loss in losses.values()), torch.zeros(())).backward()
        optimizer.step()
    model.eval()
    with torch.no_grad():
        heldout = case.objective.losses(model, batch(10_000, 800)).heads
    return {
        head: (float(heldout[head].total / heldout[head].count), floor(TEXT - FIRST))
        for head, floor in case.floor.items()
    }


LAWS: tuple[Callable[[Case, np.ndarray, int], None], ...] = (
    restore, determinism, rate, heads, packing, no_leak,
)  # fmt: skip
