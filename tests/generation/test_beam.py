"""Beam search against ``transformers``' own, against trying everything, and against greedy decoding."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import BartConfig, BartForConditionalGeneration, GPT2Config, GPT2LMHeadModel

from plume.errors import UserError
from plume.generation.beam import Beam, search
from plume.generation.decoding import generate
from plume.generation.language_models import HistoryModel, language_model
from plume.generation.sampling import Decoding
from plume.models import interop
from plume.objectives.causal import CausalLM
from plume.objectives.sequence_to_sequence import SequenceToSequence
from plume.slots import Example, Slots
from plume.vocabulary import Vocabulary

VOCAB = Vocabulary(size=23, bos=0, pad=1, eos=2)
ASKS = SequenceToSequence(start="eos")


@pytest.fixture(scope="module")
def bart(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    """Weights so large that an end is likely enough to come early, late and never."""
    torch.manual_seed(11)
    theirs = BartForConditionalGeneration(BartConfig(
        vocab_size=23, d_model=16, encoder_layers=1, decoder_layers=2, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=16, decoder_ffn_dim=16, max_position_embeddings=40,
    )).eval()  # fmt: skip
    for parameter in theirs.parameters():
        torch.nn.init.normal_(parameter, 0.0, 0.6)
    theirs.final_logits_bias[0, 2] = 2.0
    folder = tmp_path_factory.mktemp("bart")
    theirs.save_pretrained(folder)
    theirs.config.forced_eos_token_id = theirs.generation_config.forced_eos_token_id = None
    ours = interop.load(folder).model(VOCAB).double()
    return theirs.double(), language_model(ours, ASKS, VOCAB, context_length=40)


def sources(count: int = 4) -> list[np.ndarray]:
    draw = np.random.default_rng(4)
    return [draw.integers(3, 23, n) for n in (7, 3, 5, 9)[:count]]


@pytest.mark.parametrize("beams", [2, 4])
@pytest.mark.parametrize("alpha", [0.0, 0.6, 1.0, 2.0])
@pytest.mark.parametrize("early", [True, False, "never"])
def test_it_finds_what_transformers_finds(bart: Any, beams: int, alpha: float, early: Any) -> None:
    """Padded sources in one batch: the same sequences, the same scores (spec 21 section 10)."""
    theirs, ours = bart
    extra = {2: {}, 4: {"no_repeat_ngram_size": 2, "min_new_tokens": 3}}[beams]
    how = Decoding(max_new_tokens=9, eos=(2,), suppress=(), no_repeat_ngram=2 if beams == 4 else 0,
                   min_new_tokens=3 if beams == 4 else 0)  # fmt: skip
    prompts = [ASKS.prompt(ids, VOCAB) for ids in sources()]
    found = search(ours, prompts, how, Beam(num_beams=beams, length_penalty=alpha, early_stopping=early))
    framed = [p.inputs.input_ids for p in prompts]
    width = max(map(len, framed))
    ids = torch.tensor([[*row, *[1] * (width - len(row))] for row in framed])
    expected = theirs.generate(
        ids, attention_mask=(ids != 1).long(), num_beams=beams, num_return_sequences=beams, length_penalty=alpha,
        early_stopping=early, max_new_tokens=9, do_sample=False, return_dict_in_generate=True, output_scores=True,
        **extra,
    )  # fmt: skip
    for number, hypotheses in enumerate(found):
        assert len(hypotheses) == beams
        for rank, mine in enumerate(hypotheses):
            theirs_ids = expected.sequences[number * beams + rank, 1:].tolist()
            assert list(mine.ids) + [1] * (len(theirs_ids) - len(mine.ids)) == theirs_ids
            assert mine.score == pytest.approx(
                float(expected.sequences_scores[number * beams + rank]), rel=1e-6
            )


def test_a_decoder_alone_is_searched_too(tmp_path: Path) -> None:
    torch.manual_seed(3)
    theirs = GPT2LMHeadModel(GPT2Config(vocab_size=23, n_embd=16, n_layer=2, n_head=2, n_positions=40)).eval()
    for parameter in theirs.parameters():
        torch.nn.init.normal_(parameter, 0.0, 0.5)
    theirs.save_pretrained(tmp_path)
    ours = language_model(interop.load(tmp_path).model(VOCAB).double(), CausalLM(), VOCAB, context_length=40)
    prompts = sources(3)
    found = search(
        ours,
        [Example(Slots.causal(ids)) for ids in prompts],
        Decoding(max_new_tokens=8, eos=(2,)),
        Beam(num_beams=3),
    )
    for ids, hypotheses in zip(prompts, found, strict=True):
        [expected] = theirs.double().generate(
            torch.tensor(ids)[None], attention_mask=torch.ones(1, len(ids)).long(), num_beams=3, max_new_tokens=8,
            do_sample=False, eos_token_id=2, pad_token_id=1,
        )  # fmt: skip
        assert list(hypotheses[0].ids) == expected[len(ids) :].tolist()


def test_a_beam_as_wide_as_all_texts_finds_the_best() -> None:
    """Spec 21 section 10: V = 5, T = 4. Greedy misses it here."""
    draw = np.random.default_rng(0)
    table = {h: draw.dirichlet(np.full(5, 0.4)) for n in range(5) for h in product(range(5), repeat=n)}
    model = HistoryModel(lambda ids: np.log(table[tuple(ids[1:].tolist())] + 1e-12))
    how = Decoding(max_new_tokens=4, eos=(4,))
    prompt = Example(Slots.causal([0]))

    def worth(ids: tuple[int, ...]) -> float:
        return float(sum(np.log(table[ids[:t]][token] + 1e-12) for t, token in enumerate(ids)))

    ends = [(*h, 4) for n in range(4) for h in product(range(4), repeat=n)]
    everything = ends + list(product(range(4), repeat=4))
    best = max(everything, key=worth)
    [[first, *others]] = search(
        model, [prompt], how, Beam(num_beams=625, length_penalty=0.0, early_stopping="never")
    )
    assert first.ids == best and first.log_prob == pytest.approx(worth(best), abs=1e-5)
    assert [h.score for h in others] == sorted((h.score for h in others), reverse=True)
    for beams in (1, 2, 3, 8):
        [[found, *_]] = search(
            model, [prompt], how, Beam(num_beams=beams, length_penalty=0.0, early_stopping="never")
        )
        assert (
            found.log_prob == pytest.approx(worth(found.ids), abs=1e-5) and found.score <= first.score + 1e-6
        )


def test_one_beam_is_greedy_and_company_changes_nothing(tmp_path: Path, bart: Any) -> None:
    _, ours = bart
    prompts = [ASKS.prompt(ids, VOCAB) for ids in sources()]
    how = Decoding(max_new_tokens=9, eos=(2,))
    together = search(ours, prompts, how, Beam(num_beams=3))
    alone = [search(ours, [p], how, Beam(num_beams=3))[0] for p in prompts]
    assert [[h.ids for h in hs] for hs in together] == [[h.ids for h in hs] for hs in alone]
    for these, those in zip(together, alone, strict=True):
        assert [h.score for h in these] == pytest.approx([h.score for h in those], abs=1e-9)
    counting = HistoryModel(lambda ids: np.log(np.roll([0.6, 0.3, 0.1], int(ids[-1]))))
    [greedy] = generate(counting, [[0]], Decoding(max_new_tokens=5, temperature=0, eos=(2,)))
    [[one]] = search(
        counting, [Example(Slots.causal([0]))], Decoding(max_new_tokens=5, eos=(2,)), Beam(num_beams=1)
    )
    assert one.ids == greedy.ids


def test_the_two_norms() -> None:
    assert Beam(length_penalty=0.6, length_norm="gnmt").norm(7) == pytest.approx(2**0.6)
    assert Beam(length_penalty=2.0).norm(3) == 9 and Beam(length_penalty=0.0).norm(3) == 1


def test_what_cannot_be_searched_is_told(bart: Any) -> None:
    _, ours = bart
    prompt = ASKS.prompt(sources()[0], VOCAB)
    with pytest.raises(UserError, match="at most 40 new tokens"):
        search(ours, [prompt], Decoding(max_new_tokens=60, eos=(2,)))
    with pytest.raises(UserError, match="reads at most 40: shorten"):
        search(ours, [ASKS.prompt(np.full(50, 5), VOCAB)], Decoding(max_new_tokens=5, eos=(2,)))
    with pytest.raises(UserError, match="num_beams"):
        Beam(num_beams=0)
    assert search(ours, [prompt], Decoding(max_new_tokens=0, eos=(2,)))[0][0].ids == ()
