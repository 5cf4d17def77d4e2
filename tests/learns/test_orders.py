"""XLNet, UniLM and the prefix language model memorise 32 sentences; a cloze learns to copy, a prefix to reverse."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from plume.generation.decoding import generate
from plume.generation.language_models import AskingNetwork, PrefixNetwork, language_model
from plume.generation.sampling import Decoding
from plume.models.transformer import TransformerConfig
from plume.objectives.causal import CausalLM
from plume.objectives.mixture import Mixture
from plume.objectives.permuted import PermutedLM
from plume.objectives.prefix import Cloze, PrefixLM, unilm
from plume.slots import Example, Slots, collate
from plume.text.windows import Window
from tests.laws.laws import FIRST, TEXT, VOCAB, framed, tiny, window
from tests.laws.test_permuted import cls_last
from tests.learns.test_learns import POST, TINY, fit, right, sentences

RELATIVE = TransformerConfig(
    num_layers=2, d_model=32, num_heads=2, d_ff=64, norm_order="post", positions="relative", virtual_tokens=1,
    dropout=0.0, attention_dropout=0.0,
)  # fmt: skip


def test_xlnet_memorises() -> None:
    objective = PermutedLM(noise_density=0.3)
    model, batch = fit(objective, RELATIVE, [cls_last(s) for s in sentences()], 150, static=True)
    assert right(objective, model, batch(0), "permuted_token") > 0.95


def test_unilm_memorises_under_all_four_masks() -> None:
    objective = unilm()
    members = tuple(
        replace(m, mask_share=1.0, random_share=0.0) for m in objective.members if isinstance(m, Cloze)
    )
    objective = replace(objective, members=members)
    config = replace(POST, token_types=6)
    model, batch = fit(objective, config, [framed(s) for s in sentences()], 150, static=True)
    assert right(objective, model, batch(0), "masked_token") > 0.9
    assert right(objective, model, batch(0), "next_sentence") == 1.0


def test_a_prefix_model_memorises() -> None:
    objective = Mixture((PrefixLM(), CausalLM()), (0.5, 0.5))
    sources = [window(np.concatenate([[FIRST + i], s])) for i, s in enumerate(sentences())]
    model, batch = fit(objective, TINY, sources, 150, static=True)
    assert right(objective, model, batch(0), "next_token") > 0.95


def test_a_prefix_is_read_once_and_kept() -> None:
    """With the past in memory, token by token, what one pass over prefix and continuation gives (spec 20 section 2)."""
    objective = PrefixLM()
    model = tiny(objective)
    prompts = [np.arange(FIRST, FIRST + 5), np.arange(FIRST + 9, FIRST + 12)]
    kept = language_model(model, objective, VOCAB)
    assert type(kept) is PrefixNetwork
    found = generate(kept, [p.tolist() for p in prompts], Decoding(max_new_tokens=6, temperature=0.0))
    for prompt, answer in zip(prompts, found, strict=True):
        ids = np.concatenate([prompt, answer.ids])
        with torch.no_grad():
            hidden = model.backbone(collate([Example(Slots.prefix(ids[:-1], len(prompt)))]).inputs).last
            logits = model.heads["next_token"].logits(hidden)[0, len(prompt) - 1 :]
        log_probs = logits.log_softmax(-1)
        np.testing.assert_array_equal(log_probs.argmax(-1), answer.ids)
        chosen = log_probs.gather(1, torch.tensor(answer.ids)[:, None]).squeeze(1)
        np.testing.assert_allclose(chosen, answer.log_probs, atol=1e-9)
    plain = language_model(model, CausalLM(), VOCAB)  # the control: a prompt read causally is another model
    other = generate(plain, [prompts[0].tolist()], Decoding(max_new_tokens=6, temperature=0.0))[0]
    assert not np.allclose(other.log_probs, found[0].log_probs, atol=1e-6)


def test_xlnet_and_unilm_are_asked_anew_for_each_token() -> None:
    for objective, config in ((PermutedLM(), RELATIVE), (unilm(), replace(POST, token_types=6))):
        model = tiny(objective, model=config)
        asked = language_model(model, objective, VOCAB)
        assert type(asked) is AskingNetwork
        text = [FIRST, FIRST + 1, FIRST + 2]
        made = generate(asked, [text], Decoding(max_new_tokens=3, temperature=0.0))[0]
        ids = np.array(text)
        for token in made.ids:
            slots, at = objective.ask_next(ids, VOCAB)
            head: Any = model.heads["permuted_token" if "permuted_token" in model.heads else "masked_token"]
            with torch.no_grad():
                logits = head.logits(model.backbone(collate([Example(slots)]).inputs).last[0, at])
            assert int(logits.argmax()) == token
            ids = np.append(ids, token)


def pairs(reverse: bool, count: int, seed: int) -> list[Window]:
    """[CLS] a [SEP] b [SEP], b what a is, or backwards."""
    draw, made = np.random.default_rng(seed), []
    for _ in range(count):
        a = draw.integers(FIRST, FIRST + 10, 5)
        ids = np.concatenate([[VOCAB.cls], a, [VOCAB.sep], a[::-1] if reverse else a, [VOCAB.sep]])
        special = np.isin(ids, (VOCAB.cls, VOCAB.sep))
        made.append(Window(ids, np.ones(13, np.uint8), special, (np.arange(13) >= 7).astype(np.int64), {}))
    return made


@pytest.mark.slow
@pytest.mark.parametrize("reverse", [False, True])
def test_a_cloze_learns_to_copy_and_to_reverse(reverse: bool) -> None:
    """Spec 20 test 10: 99 % of new texts come out exactly, [SEP] included, token by token."""
    objective = Cloze(
        "seq2seq", noise_density=0.7, ngram_share=0.0, target_only=True, mask_share=1.0, random_share=0.0
    )
    config = replace(POST, d_model=64, d_ff=128, token_types=6)
    model, _ = fit(objective, config, pairs(reverse, 256, 0), 900, lr=3e-3)
    held = pairs(reverse, 100, 1)
    prompts = [w.ids[1:7].tolist() for w in held]  # the source and its [SEP]
    found = generate(language_model(model, objective, VOCAB), prompts,
                     Decoding(max_new_tokens=8, temperature=0.0, eos=(VOCAB.sep,)))  # fmt: skip
    exact = [list(g.ids) == w.ids[7:].tolist() for g, w in zip(found, held, strict=True)]
    assert np.mean(exact) >= 0.99
    assert TEXT > FIRST + 10
