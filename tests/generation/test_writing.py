"""Two stacks write: greedy text is transformers', the cache changes nothing, and likelihoods are the decoder's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import T5Config, T5ForConditionalGeneration

import plume
from plume.errors import UserError
from plume.evaluation import answerers
from plume.evaluation.answerers import Question
from plume.generation.decoding import Decoding, generate
from plume.generation.language_models import WritingNetwork, language_model
from plume.models import interop
from plume.models.pretrained import PretrainedModel
from plume.models.transformer import TransformerConfig
from plume.objectives.sequence_to_sequence import SequenceToSequence
from plume.objectives.span_corruption import SpanCorruption
from plume.slots import Example, Slots, collate
from plume.text.tokenizers import ByteLevelBPE
from plume.vocabulary import Vocabulary

VOCAB = Vocabulary(size=61, pad=0, eos=1, bos=2, sentinels=tuple(range(60, 50, -1)))
PROMPTS = [[7, 9, 12, 5], [30, 8], [40, 41, 42, 43, 44, 45, 46], [3]]


def published(folder: Path) -> T5ForConditionalGeneration:
    torch.manual_seed(3)
    settings = T5Config(d_model=16, d_kv=5, d_ff=24, num_layers=2, num_heads=3, vocab_size=61, dropout_rate=0.0,
                        decoder_start_token_id=0)  # fmt: skip
    theirs = T5ForConditionalGeneration(settings).eval()
    for name, p in theirs.named_parameters():
        torch.nn.init.normal_(p, 1.0 if "norm" in name else 0.0, 0.5)
    theirs.save_pretrained(folder)
    return theirs


def learned() -> PretrainedModel:
    """Two stacks with a limit: BART's shape."""
    config = TransformerConfig(
        1, 16, 2, 24, num_decoder_layers=2, norm_order="post", max_positions=12, init_std=0.4
    )
    objective = SequenceToSequence()
    return PretrainedModel.build(config, VOCAB, lambda b: objective.heads(b, VOCAB), seed=1).eval()


def test_greedy_text_is_that_of_transformers(tmp_path: Path) -> None:
    theirs = published(tmp_path)
    model = language_model(interop.load(tmp_path).model(VOCAB), SequenceToSequence(start="pad"), VOCAB)
    assert isinstance(model, WritingNetwork)
    found = generate(model, PROMPTS, Decoding(max_new_tokens=9, temperature=0.0, eos=(1,)))
    for prompt, ours in zip(PROMPTS, found, strict=True):
        ids = torch.tensor([[*prompt, 1]])
        expected = theirs.generate(ids, max_new_tokens=9, do_sample=False, num_beams=1)[0, 1:].tolist()
        assert list(ours.ids) == expected[: len(ours.ids)]
        assert ours.finish == "eos" or len(ours.ids) == 9


@pytest.mark.parametrize(
    "objective", [SequenceToSequence(start="pad"), SpanCorruption()], ids=["task", "spans"]
)
def test_with_the_cache_it_says_what_one_pass_says(tmp_path: Path, objective) -> None:
    """Sampled rows of several lengths that end at different times; then all of it read again at once."""
    published(tmp_path)
    network = interop.load(tmp_path).model(VOCAB).double()
    model = language_model(network, objective, VOCAB)
    found = generate(model, PROMPTS, Decoding(max_new_tokens=7, seed=4, eos=(1, 20, 33, 48)), samples=2)
    alone = generate(
        model, PROMPTS, Decoding(max_new_tokens=7, seed=4, eos=(1, 20, 33, 48)), samples=2, batch_size=1
    )
    answerer = answerers.network(network, objective, VOCAB, max_length=None)
    questions = [
        Question(np.array([*PROMPTS[i // 2], *row.ids]), len(row.ids)) for i, row in enumerate(found)
    ]
    answers = answerer.answer(questions)
    for i, (row, other, answer) in enumerate(zip(found, alone, answers, strict=True)):
        assert row.ids == other.ids
        begun = objective.prompt(np.array(PROMPTS[i // 2]), VOCAB)
        start = begun.decoder_inputs.input_ids
        batch = collate([Example(begun.inputs, Slots.causal(np.array([*start, *row.ids[:-1]])))])
        with torch.no_grad():
            last = network.backbone(batch.inputs, batch.decoder_inputs).last[0, len(start) - 1 :]
            log_probs = network.heads["next_token"].logits(last).log_softmax(-1)
        expected = log_probs[torch.arange(len(row.ids)), torch.tensor(row.ids)]
        np.testing.assert_allclose(row.log_probs, expected, rtol=0, atol=1e-10)
        np.testing.assert_allclose(answer.log_probs, expected, rtol=0, atol=1e-10)
    assert len({len(row.ids) for row in found}) > 1


def test_what_does_not_fit_is_said() -> None:
    model = language_model(learned(), SequenceToSequence(), VOCAB, context_length=12)
    with pytest.raises(UserError, match="the prompt has 13 slots"):
        generate(model, [list(range(5, 17))], Decoding(max_new_tokens=2))
    with pytest.raises(UserError, match="writes at most 12"):
        generate(model, [[5]], Decoding(max_new_tokens=20))
    assert len(generate(model, [[5]], Decoding(max_new_tokens=12))[0].ids) == 12


def test_an_exported_folder_writes_embeds_and_scores(tmp_path: Path) -> None:
    tokenizer = ByteLevelBPE(vocab_size=330, sentinels=20).train(["一个 old tale, 一个老故事"] * 3)
    tokenizer.save(tmp_path / "tokenizer")
    vocab = tokenizer.vocabulary
    config = TransformerConfig(
        1, 16, 2, 24, num_decoder_layers=1, norm="rms", bias=False, positions="buckets", scale_attention=False,
        activation="relu", d_head=8, init="fan_in", init_std=1.0,
    )  # fmt: skip
    objective = SpanCorruption()
    model = PretrainedModel.build(config, vocab, lambda b: objective.heads(b, vocab), seed=2).eval()
    interop.save(model, vocab, tmp_path / "t5", tokenizer=tmp_path / "tokenizer")
    run = plume.load(tmp_path / "t5")
    assert isinstance(run.generate("an old", max_new_tokens=5), str)
    assert run.generate(["an old", "一个"], max_new_tokens=5) == run.generate(
        ["an old", "一个"], max_new_tokens=5
    )
    assert run.loglikelihood("an old", " tale") < 0 and run.loglikelihood_rolling("一个老故事") < 0
    assert run.embed("an old tale").shape == (16,) and run.logits("一个").shape[-1] == vocab.size
