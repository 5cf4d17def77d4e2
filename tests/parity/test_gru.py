"""The GRU against ``torch.nn.GRU``: states, logits, loss and the gradient of every weight."""

from __future__ import annotations

import pytest
import torch

from tests.parity.recurrent import parity


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 2e-5)])
@pytest.mark.parametrize("carried", [False, True])
def test_states_logits_losses_and_gradients(dtype, tolerance, carried, record_property):
    for name, error in parity("gru", dtype, carried).items():
        record_property(name, error)
        assert error < tolerance, name
