"""UniLM and prefix masks against ``transformers``' BERT with an explicit mask (spec 20 test 8)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import BertConfig, BertForMaskedLM

from plume.errors import UserError
from plume.models import interop
from plume.models.interop import bert
from plume.models.interop.folder import to_theirs
from plume.models.pretrained import PretrainedModel
from plume.objectives.prefix import Cloze, Mode, unilm
from plume.seeding import rng
from plume.slots import IGNORE, collate
from plume.vocabulary import Vocabulary
from tests.objectives.test_prefix import pair

VOCAB = Vocabulary(size=61, pad=0, cls=2, sep=3, mask=4)


def reference() -> Any:
    torch.manual_seed(5)
    model = BertForMaskedLM(BertConfig(
        vocab_size=61, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48,
        max_position_embeddings=24, type_vocab_size=6, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
        attn_implementation="eager",
    ))  # fmt: skip
    for name, p in model.named_parameters():
        torch.nn.init.normal_(p, 1.0 if "LayerNorm.weight" in name else 0.0, 0.2)
    return model.eval()


def error(ours: torch.Tensor, theirs: torch.Tensor, tolerance: float) -> float:
    torch.testing.assert_close(ours, theirs, rtol=0, atol=tolerance)
    return float((ours - theirs).detach().abs().max())


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 2e-5)])
@pytest.mark.parametrize("mode", ["seq2seq", "left_to_right", "right_to_left", "bidirectional"])
@pytest.mark.parametrize("packed", [False, True])
def test_states_logits_loss_and_gradients(
    tmp_path: Path, dtype: Any, tolerance: float, mode: Mode, packed: bool, record_property: Any
) -> None:
    theirs = reference()
    theirs.save_pretrained(tmp_path)
    ours = interop.load(tmp_path).model(VOCAB).to(dtype)
    assert ours.backbone.config.token_types == 6
    theirs = theirs.to(dtype)
    objective = Cloze(mode, noise_density=0.4)
    sizes = ((7, 5), (2, 1), (3, 2), (1, 1))
    made = [e for i, (a, b) in enumerate(sizes) if (e := objective.example(pair(a, b), VOCAB, rng(i, "n")))]
    assert len(made) == 4
    padded, batch = collate(made, packed=False), collate(made, packed=packed)
    assert (len(batch.inputs.input_ids) < 4) == packed
    s = padded.inputs
    real = s.document_ids >= 0
    # Additive and in floats: bool masks are silently added to the scores there.
    mask = torch.zeros(s.sees()[:, None].shape, dtype=dtype).masked_fill_(~s.sees()[:, None], -1e9)
    expected = theirs(s.input_ids, token_type_ids=s.token_type_ids, attention_mask=mask,
                      labels=s.labels["masked_token"], output_hidden_states=True)  # fmt: skip

    hidden = ours.backbone(batch.inputs)
    at = torch.cat([(batch.inputs.example_ids == n).nonzero() for n in range(4)]).unbind(1)
    record_property("hidden", max(
        error(state[at], other[real], tolerance)
        for state, other in zip(hidden.layers, expected.hidden_states, strict=True)
    ))  # fmt: skip
    logits = ours.heads["masked_token"].logits(hidden.last)
    record_property("logits", error(logits[at], expected.logits[real], tolerance))
    loss = objective.losses(ours, batch).heads["masked_token"]
    assert loss.count == (s.labels["masked_token"] != IGNORE).sum()
    mean = loss.total / loss.count
    record_property("loss", error(mean, expected.loss.to(mean.dtype), tolerance))
    mean.backward()
    expected.loss.backward()
    grads = {name: p.grad for name, p in ours.named_parameters()}
    mine = to_theirs(bert.rules(2, "next_sentence"), grads)
    record_property("gradients", max(
        error(mine[name.removeprefix("bert.")], p.grad, tolerance) for name, p in theirs.named_parameters()
    ))  # fmt: skip


def test_unilm_begins_from_bert(tmp_path: Path) -> None:
    """Segments 2, 3 and 4 begin as BERT's first, 5 as its second; everything else as it was (spec 20 section 3)."""
    theirs = BertForMaskedLM(BertConfig(**{**reference().config.to_dict(), "type_vocab_size": 2}))
    theirs.save_pretrained(tmp_path)
    read = interop.load(tmp_path)
    config = replace(read.config, token_types=6)
    model = PretrainedModel.build(config, VOCAB, lambda b: unilm().heads(b, VOCAB), seed=0)
    left = model.start_from(read.state)
    assert left and all(name.startswith("heads.next_sentence.") for name in left)
    two = theirs.bert.embeddings.token_type_embeddings.weight
    torch.testing.assert_close(
        model.state()["backbone.embedding.types"], two[[0, 1, 0, 0, 0, 1]], rtol=0, atol=0
    )
    three = PretrainedModel.build(replace(config, token_types=3), VOCAB, lambda b: {}, seed=0)
    with pytest.raises(UserError, match="types"):
        three.start_from(read.state)


def test_a_mask_of_another_mode_is_another_model(tmp_path: Path) -> None:
    """The control: what is compared above hangs on who sees whom."""
    theirs = reference().double()
    theirs.save_pretrained(tmp_path)
    ours = interop.load(tmp_path).model(VOCAB).double()
    made = Cloze("seq2seq").example(pair(4, 4), VOCAB, rng(0, "n"))
    assert made is not None
    s = collate([made]).inputs
    with torch.no_grad():
        plain = theirs(s.input_ids, token_type_ids=s.token_type_ids, output_hidden_states=True).hidden_states[
            -1
        ]
        assert float((ours.backbone(s).last - plain).abs().max()) > 1e-3
