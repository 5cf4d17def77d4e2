"""One network, two tasks over the same sources: only the prefix says which answer is right (spec 18 section 8)."""

from __future__ import annotations

from dataclasses import replace
from itertools import permutations

import torch

from plume import config
from plume.models.pretrained import PretrainedModel
from plume.objectives.sequence_to_sequence import SequenceToSequence
from plume.recipes import t5
from plume.seeding import rng
from plume.slots import IGNORE, collate
from plume.text.tokenizers import Tokenizer
from plume.text.tokens import Tokens
from plume.text.windows import Reading
from plume.training import stages
from plume.training.loader import Loader
from plume.training.parallel import Ranks
from plume.training.pretraining import build_model
from plume.training.tasks import Task, Tasks

WORDS = {
    "en": ("copy: ", "turn round: ", " ", ["red", "dog", "cat", "sun"]),
    "zh": ("照抄：", "倒过来：", "，", ["红日", "小猫", "大海", "高山"]),
}
STEPS = 160
Rows = list[tuple[str, str]]


def pieces_of(language: str) -> Tokenizer:
    copy, turn, between, words = WORDS[language]
    kind = replace(t5.tiny().tokenizer, vocab_size=400)
    return kind.train([f"{copy}{a}{between}{b} {turn}{b}{between}{a}" for a, b in permutations(words, 2)] * 4)


def rows_of(language: str, *, told: bool) -> dict[str, Rows]:
    """The rows of both tasks, which have all sources in common. told: which of them it is stands before it."""
    copy, turn, between, words = WORDS[language]
    sources = [(a + between + b, b + between + a) for a, b in permutations(words, 2)]
    return {
        "copy": [(copy * told + source, source) for source, _ in sources],
        "turn": [(turn * told + source, back) for source, back in sources],
    }


def trained_on(rows: dict[str, Rows], pieces: Tokenizer, language: str) -> PretrainedModel:
    """T5's network after ``STEPS`` steps of the mixture of both, by the loader."""
    copy, turn, *_ = WORDS[language]
    members = (Task(name="copy", prefix=copy), Task(name="turn", prefix=turn))
    tasks = Tasks(members=members, text_scale=0.0)  # the run's own text is left out
    small = config.override(
        t5.tiny(), ["windows.length=24", "training.batch_size=16", "model.d_model=32", "model.num_heads=2",
                    "model.d_ff=64", "model.d_head=16"],
    )  # fmt: skip
    recipe = replace(small, tasks=tasks)
    text = Tokens.of(pieces, [" ".join(WORDS[language][3])] * 9)
    sets = {name: Tokens.of(pieces, own) for name, own in rows.items()}
    model = build_model(recipe, pieces.vocabulary).train()
    phases = stages.phases(recipe, text, pieces.vocabulary, sets)
    loader = Loader(phases, pieces.vocabulary, model.heads, 16, True, torch.device("cpu"), Ranks())
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.0)
    for step in range(STEPS):
        for group in optimizer.param_groups:
            group["lr"] = 1e-2 * min(1.0, (step + 1) / 10) * (1 - step / STEPS)
        batch = loader.work(step).microbatches[0].batch
        assert batch is not None
        loss = phases[0].objective.losses(model, batch).heads["next_token"]
        optimizer.zero_grad()
        (loss.total / loss.count).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    return model.eval()


@torch.no_grad()
def exact(model: PretrainedModel, pieces: Tokenizer, rows: Rows) -> float:
    """The share of rows whose target is written to the last token: all best next tokens right is greedy decoding."""
    vocab, objective = pieces.vocabulary, SequenceToSequence()
    plan = Task(name="asked").windows(24).plan(Tokens.of(pieces, rows), vocab, Reading(24))
    assert len(plan) == len(rows)
    drawn = [objective.example(plan[i], vocab, rng(0, "noise", i)) for i in range(len(plan))]
    batch = collate([example for example in drawn if example is not None], packed=False)
    assert batch.decoder_inputs is not None
    answers = model.heads["next_token"].logits(model.backbone(batch.inputs, batch.decoder_inputs).last)
    labels = batch.decoder_inputs.labels["next_token"]
    return float(((answers.argmax(-1) == labels) | (labels == IGNORE)).all(1).float().mean())


def test_the_answer_follows_the_prefix(language: str) -> None:
    pieces, rows = pieces_of(language), rows_of(language, told=True)
    model = trained_on(rows, pieces, language)
    assert exact(model, pieces, rows["copy"]) == exact(model, pieces, rows["turn"]) == 1.0
    # The same sources behind the other prefix no longer have these answers.
    copy, turn, *_ = WORDS[language]
    swapped = [(turn + source.removeprefix(copy), target) for source, target in rows["copy"]]
    assert exact(model, pieces, swapped) == 0.0


def test_without_a_prefix_nobody_can_know() -> None:
    """The negative control: each source has two answers, and but for a leak from the answer nothing tells which."""
    pieces, rows = pieces_of("zh"), rows_of("zh", told=False)
    model = trained_on(rows, pieces, "zh")
    assert 0.2 < exact(model, pieces, [*rows["copy"], *rows["turn"]]) <= 0.5
