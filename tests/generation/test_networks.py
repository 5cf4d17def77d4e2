"""Decoding with networks: equal to `transformers`, equal with and without memory, equal alone and in a batch."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import GenerationConfig, GPT2Config, GPT2LMHeadModel

from plume.errors import UserError
from plume.generation.decoding import generate
from plume.generation.language_models import AskingNetwork, CausalNetwork, language_model
from plume.generation.packing import DecodingLinear, packable, prepared
from plume.generation.sampling import Decoding
from plume.models import interop
from plume.models.backbone import BackboneConfig
from plume.models.heads import PooledHead
from plume.models.pretrained import PretrainedModel
from plume.models.recurrent import RecurrentConfig
from plume.models.transformer import TransformerConfig
from plume.objectives.base import Objective
from plume.objectives.causal import CausalLM
from plume.objectives.masked import MaskedLM
from plume.slots import Array, Slots
from plume.vocabulary import Vocabulary

VOCAB = Vocabulary(size=40, pad=0, cls=1, sep=2, mask=3, eos=4)
PROMPTS = [[5, 6, 7], [30], [9, 8, 7, 6, 5, 4, 3, 2, 1], [11, 12], [30]]
PRE = TransformerConfig(2, 16, 2, 32, norm_order="pre", max_positions=48, init_std=0.4)
POST = TransformerConfig(
    2, 16, 2, 32, norm_order="post", max_positions=48, token_types=2, embedding_norm=True, init_std=0.4
)
SINUSOIDAL = TransformerConfig(1, 16, 4, 32, positions="sinusoidal", max_positions=48, init_std=0.4)
LSTM = RecurrentConfig(2, 16, init_std=1.5)
SERVED = [d for d in (torch.float32, torch.bfloat16) if packable(torch.empty(1024, 1024, dtype=d))]


def network(config: BackboneConfig, objective: Objective) -> PretrainedModel:
    model = PretrainedModel.build(config, VOCAB, lambda b: objective.heads(b, VOCAB), seed=1)
    return model.double().train()  # in training mode: decoding must not use dropout


class Anew(CausalLM):
    """A causal family whose past is never kept: it asks through a slot of its own."""

    def ask_next(self, ids: Array, vocab: Vocabulary) -> tuple[Slots[Array], int]:
        return Slots.causal(np.append(ids, 0)), len(ids) - 1


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> tuple[GPT2LMHeadModel, PretrainedModel]:
    """A random GPT-2 of `transformers` and the same one read from its folder, both in fp64."""
    folder = tmp_path_factory.mktemp("gpt2")
    torch.manual_seed(0)
    sizes = {"vocab_size": 60, "n_positions": 64, "n_embd": 24, "n_layer": 2, "n_head": 3}
    theirs = GPT2LMHeadModel(
        GPT2Config(**sizes, initializer_range=0.3, bos_token_id=0, eos_token_id=0)
    ).eval()
    theirs.save_pretrained(folder)
    return theirs.double(), interop.load(Path(folder)).model().double()


@pytest.mark.parametrize(
    "extra",
    [
        {},
        {"no_repeat_ngram_size": 2},
        {"no_repeat_ngram_size": 3, "min_new_tokens": 9},
        {"repetition_penalty": 1.5},
        {"repetition_penalty": 0.8, "min_new_tokens": 3},
    ],
    ids=str,
)
def test_greedy_equals_generate_of_transformers_for_prompts_of_different_lengths(reference, extra):
    theirs, ours = reference
    draw = np.random.default_rng(0)
    prompts = [draw.integers(1, 60, n).tolist() for n in (5, 1, 12, 3, 7)]
    model = language_model(ours, CausalLM(), Vocabulary(size=60), context_length=64)
    free = generate(model, prompts, Decoding(temperature=0, max_new_tokens=12))
    ends = (free[0].ids[3], free[2].ids[8])  # so that some rows end early
    how = Decoding(
        temperature=0, max_new_tokens=20, eos=ends, no_repeat_ngram=extra.get("no_repeat_ngram_size", 0),
        min_new_tokens=extra.get("min_new_tokens", 0), repetition_penalty=extra.get("repetition_penalty", 1.0),
    )  # fmt: skip
    found = generate(model, prompts, how)
    settings = GenerationConfig(
        max_new_tokens=20, do_sample=False, eos_token_id=list(ends), pad_token_id=0, **extra
    )
    for prompt, text in zip(prompts, found, strict=True):
        ids = torch.tensor([prompt])
        expected = theirs.generate(ids, attention_mask=torch.ones_like(ids), generation_config=settings)
        assert list(text.ids) == expected[0, len(prompt) :].tolist()
        assert text.finish == ("eos" if text.ids[-1] in ends else "length")
    assert "eos" in {t.finish for t in found}


def test_log_probs_are_those_of_one_forward_pass(reference):
    theirs, ours = reference
    text = generate(
        language_model(ours, CausalLM(), Vocabulary(size=60)), [[3, 4, 5]], Decoding(max_new_tokens=9)
    )[0]
    ids = torch.tensor([[3, 4, 5, *text.ids]])
    expected = theirs(ids).logits.log_softmax(-1)[0, 2:-1].gather(-1, ids[0, 3:, None]).squeeze(-1)
    assert torch.tensor(text.log_probs, dtype=torch.float64).sub(expected).abs().max() < 1e-10


@pytest.mark.parametrize("config", [PRE, POST, SINUSOIDAL, LSTM], ids=lambda c: type(c).__name__)
@pytest.mark.parametrize(
    "how", [Decoding(temperature=0, max_new_tokens=12), Decoding(max_new_tokens=12, top_p=0.95)]
)
def test_memory_batches_and_padding_change_nothing(config, how):
    model = network(config, CausalLM())
    kept = language_model(model, CausalLM(), VOCAB, context_length=48)
    assert isinstance(kept, CausalNetwork)
    together = generate(kept, PROMPTS, how)
    alone = [generate(kept, [p], how)[0] for p in PROMPTS]
    anew = language_model(model, Anew(), VOCAB)
    assert isinstance(anew, AskingNetwork)
    for texts in (
        alone,
        generate(anew, PROMPTS, how),
        generate(kept, PROMPTS[::-1], how, batch_size=2)[::-1],
    ):
        assert [t.ids for t in texts] == [t.ids for t in together]
        for one, other in zip(texts, together, strict=True):
            assert np.abs(np.array(one.log_probs) - other.log_probs).max() < 1e-10
    assert len({t.log_probs[0] for t in together}) >= 4
    assert model.training


def test_a_row_that_ends_early_leaves_the_others_alone():
    model = language_model(network(PRE, CausalLM()), CausalLM(), VOCAB, context_length=48)
    free = generate(model, PROMPTS, Decoding(temperature=0, max_new_tokens=15))
    how = Decoding(temperature=0, max_new_tokens=15, eos=(free[1].ids[2],))
    for text, full in zip(generate(model, PROMPTS, how), free, strict=True):
        assert text.ids == full.ids[: len(text.ids)]
        assert text.finish == ("length" if len(text.ids) == 15 else "eos")


def test_a_memory_can_be_gone_on_with_twice():
    model = language_model(network(PRE, CausalLM()), CausalLM(), VOCAB)
    first = model.next_token_log_probs(batch([[5, 6, 7]]))
    again = [model.next_token_log_probs(one(token, 3), memory=first.memory) for token in (8, 9, 8)]
    assert torch.equal(again[0].logits, again[2].logits)
    assert not torch.allclose(again[0].logits, again[1].logits)
    further = [model.next_token_log_probs(one(10, 4), memory=step.memory).logits for step in again]
    whole = [model.next_token_log_probs(batch([[5, 6, 7, token, 10]])).logits for token in (8, 9)]
    assert (further[0] - whole[0]).abs().max() < 1e-10
    assert (further[1] - whole[1]).abs().max() < 1e-10
    assert (again[0].log_probs.exp().sum(-1) - 1).abs().max() < 1e-12


def batch(rows: list[list[int]]) -> Slots[torch.Tensor]:
    from plume.slots import Example, collate

    return collate([Example(Slots.causal(r)) for r in rows], packed=False).inputs


def one(token: int, rank: int) -> Slots[torch.Tensor]:
    at, zero = torch.tensor([[rank]]), torch.zeros(1, 1, dtype=torch.long)
    return Slots(input_ids=zero + token, position_ids=at, token_type_ids=zero, visible_at=at, sees_until=at,
                 document_ids=zero, example_ids=zero)  # fmt: skip


def test_a_masked_model_is_asked_at_its_mask_anew_for_every_token():
    model = network(POST, MaskedLM())
    kept = language_model(model, MaskedLM(), VOCAB, context_length=48)
    assert kept.context_length == 45  # [CLS] [MASK] [SEP]
    texts = generate(kept, PROMPTS, Decoding(temperature=0, max_new_tokens=4))
    twin = copy.deepcopy(model).eval()
    for prompt, text in zip(PROMPTS, texts, strict=True):
        ids = list(prompt)
        for token in text.ids:
            slots = batch([[1, *ids, 3, 2]])
            seen = Slots(**{f: getattr(slots, f) for f in ("input_ids", "position_ids", "token_type_ids")},
                         visible_at=torch.zeros_like(slots.input_ids), sees_until=torch.zeros_like(slots.input_ids),
                         document_ids=slots.document_ids, example_ids=slots.example_ids)  # fmt: skip
            states = twin.backbone(seen).last[0, len(ids) + 1]
            assert int(twin.heads["masked_token"].logits(states).argmax()) == token
            ids.append(token)


def test_a_text_beyond_the_positions_is_an_error_or_a_sliding_window():
    model = language_model(network(PRE, CausalLM()), CausalLM(), VOCAB, context_length=48)
    with pytest.raises(UserError, match="at most 48"):
        generate(model, [[5]], Decoding(max_new_tokens=60))
    texts = generate(model, [[5], [6] * 50], Decoding(max_new_tokens=60, temperature=0, overflow="slide"))
    assert [len(t.ids) for t in texts] == [60, 60]
    assert texts[0].ids[:30] == generate(model, [[5]], Decoding(max_new_tokens=30, temperature=0))[0].ids


def test_a_model_without_token_heads_says_what_to_do():
    model = PretrainedModel.build(PRE, VOCAB, lambda b: {"label": PooledHead(b, 2)}, seed=0)
    with pytest.raises(UserError, match=r"cannot generate: its heads \(label\) predict no tokens"):
        language_model(model, CausalLM(), VOCAB)


@pytest.mark.parametrize("rows", [1, 2, 8, 48, 64, 256, 300])
@pytest.mark.parametrize("dtype", SERVED)
@pytest.mark.parametrize("outputs", [1024, 1021])  # 1021: no number of threads divides it
@pytest.mark.parametrize("biased", [True, False])
def test_matrices_for_decoding_multiply_as_plain_ones(rows, dtype, outputs, biased):
    draw = torch.Generator().manual_seed(0)
    weight = torch.randn(outputs, 1024, generator=draw, dtype=torch.float64).to(dtype)
    bias = torch.randn(outputs, generator=draw).to(dtype) if biased else None
    x = torch.randn(rows, 1, 1024, generator=draw).to(dtype)
    expected = x.double() @ weight.double().T + (0 if bias is None else bias.double())
    bound = {torch.float32: 1e-5, torch.bfloat16: 4e-3}[dtype]
    layer = DecodingLinear(weight, bias)
    with torch.inference_mode():
        for _ in range(2):
            found = layer(x)
            assert found.shape == expected.shape
            assert (found.double() - expected).abs().max() / expected.abs().max() < bound
            layer(x[:2])  # now, at the latest, it is packed


def test_a_second_layout_is_kept_for_steps_of_several_rows_alone():
    layer = DecodingLinear(torch.randn(1024, 1024), None)
    with torch.inference_mode():
        for rows, packed in ((64, False), (1, False), (2, True)):
            layer(torch.randn(rows, 1024))
            assert (layer._packed is not None) is packed


def test_the_copy_for_decoding_packs_what_is_large_and_leaves_the_model_alone():
    large = TransformerConfig(1, 512, 4, 2048, max_positions=16)
    model = PretrainedModel.build(large, VOCAB, lambda b: CausalLM().heads(b, VOCAB), seed=0)
    before = {name: t.clone() for name, t in model.state().items()}
    twin = prepared(model)
    layer, kept = twin.backbone.stack.layers[0], model.backbone.stack.layers[0]
    assert isinstance(layer.up, DecodingLinear)
    assert not isinstance(layer.attention_out, DecodingLinear)
    assert not isinstance(kept.up, DecodingLinear)
    assert layer.attention_out.weight is kept.attention_out.weight
    half = prepared(model, torch.bfloat16)
    assert half.heads["next_token"].weight.dtype == torch.bfloat16
    assert all(torch.equal(t, before[name]) for name, t in model.state().items())
    prompts = [[5, 6], [7, 8], [9, 10]]
    texts = generate(language_model(model, CausalLM(), VOCAB), prompts, Decoding(max_new_tokens=6))
    plain = CausalNetwork(model, "next_token", None)
    plain._backbone = model.eval().backbone
    assert [t.ids for t in generate(plain, prompts, Decoding(max_new_tokens=6))] == [t.ids for t in texts]
