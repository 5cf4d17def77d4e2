"""ELMo, the GRU and the convolutional networks memorise; ELMo's runs die and go on with both directions' states."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from plume.models.bilstm import BiLSTMConfig
from plume.models.convolution import ConvolutionConfig
from plume.models.recurrent import RecurrentConfig
from plume.objectives.bidirectional import BidirectionalLM
from plume.objectives.causal import CausalLM
from plume.objectives.classification import Classification, Labelled
from plume.objectives.masked import MaskedLM
from plume.text.windows import SentenceStream
from plume.training.checkpoints import Checkpoints
from plume.training.faults import InjectedFault
from tests.laws.laws import FIRST, framed, window
from tests.learns.test_learns import fit, right, sentences
from tests.training import small
from tests.training.conftest import Arm, arm

__all__ = ["arm"]  # the fixture

ELMO = BiLSTMConfig(
    d_model=24, d_cell=48, d_character=8, filters=((1, 8), (2, 24)), num_highways=1, dropout=0.0
)
CNN = ConvolutionConfig(num_layers=4, d_model=48, before=3, init_std=0.1)


def test_both_directions_memorise() -> None:
    """A token of its own at each end names the sentence, so that what lies between can be known either way."""
    sources = [window(np.concatenate([[FIRST + i], s, [FIRST + i]])) for i, s in enumerate(sentences())]
    objective = BidirectionalLM()
    model, batch = fit(objective, ELMO, sources, 150, packed=False, lr=2e-2)
    for head in ("next_token", "previous_token"):
        assert right(objective, model, batch(0), head) > 0.97, head
    turned = batch(0)
    same = replace(turned.decoder_inputs, input_ids=turned.inputs.input_ids, features=turned.inputs.features)
    wrong = right(objective, model, replace(turned, decoder_inputs=same), "previous_token")
    assert wrong < 0.5  # the backward model knows nothing of a text that is read forwards


@pytest.mark.parametrize(
    ("config", "packed"), [(RecurrentConfig(1, 48, "gru"), False), (CNN, True)], ids=["gru", "cnn"]
)
def test_a_causal_model_memorises(config: Any, packed: bool) -> None:
    sources = [window(np.concatenate([[FIRST + i], s])) for i, s in enumerate(sentences())]
    objective = CausalLM()
    model, batch = fit(objective, config, sources, 150, packed=packed)
    assert right(objective, model, batch(0), "next_token") > 0.95


def test_a_convolutional_encoder_fills_words_in() -> None:
    objective = MaskedLM(noise_density=0.2, mask_share=1.0, random_share=0.0)
    both = replace(CNN, before=2, after=2)
    model, batch = fit(objective, both, [framed(s) for s in sentences()], 150, static=True)
    assert right(objective, model, batch(0), "masked_token") > 0.95


@pytest.mark.parametrize(
    ("config", "reader"),
    [(RecurrentConfig(1, 48, "gru"), CausalLM()), (CNN, CausalLM()), (ELMO, BidirectionalLM())],
    ids=["gru", "cnn", "elmo"],
)
def test_labels_are_memorised(config: Any, reader: Any) -> None:
    objective = Classification(
        reader, ("a", "b", "c"), max_length=32, dropout=0.0, pool=config.pool, mix=config.mixes
    )
    sources = [Labelled((s,), i % 3) for i, s in enumerate(sentences())]
    model, batch = fit(objective, config, sources, 100, packed=False)
    losses = objective.losses(model, batch(0)).heads["label"]
    assert float(losses.count) == 32 and float(losses.total.detach()) / 32 < 0.2


RECIPE = replace(
    small.RECIPES["carried"],
    windows=SentenceStream(6),
    objective=BidirectionalLM(samples=12),
    model=replace(ELMO, d_model=8, d_cell=12, dropout=0.1),
)


def test_a_run_that_died_goes_on_with_the_states_of_both_directions(tmp_path: Path, arm: Arm) -> None:
    """Sampled words and dropout come from each micro-batch's key, states from the checkpoint: bit for bit."""
    straight = small.trainer("elmo", tmp_path / "straight", recipe=RECIPE, optimizer="adagrad")
    assert straight.run() == "finished"
    for death in ("forward@10", "checkpoint.rename@2"):
        arm(f"{death}=fail")
        with pytest.raises(InjectedFault):
            small.trainer("elmo", tmp_path / "died", recipe=RECIPE, optimizer="adagrad").run()
    arm(None)
    again = small.trainer("elmo", tmp_path / "died", recipe=RECIPE, optimizer="adagrad")
    assert again.run() == "finished"
    assert small.result(again) == small.result(straight)
    memory = Checkpoints(again.folder.checkpoints).require().tensors("memory")
    assert len(memory) == 4 * 4 and all(
        bool(t.any()) for t in memory.values()
    )  # h, c of each direction, 4 parts
