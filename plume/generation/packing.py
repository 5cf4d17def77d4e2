"""A model as decoding wants it: cast once, its large matrices laid out for the few rows of a decoding step.

A step multiplies 1 to a few dozen rows with every weight, and so is bound by reading the weights. oneDNN reads a matrix
that was brought into its blocked layout once with all threads, where the plain product of a few rows may have one.
What decoding gains by it depends on the machine: benchmarks/decoding.py.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

if TYPE_CHECKING:
    from plume.models.pretrained import PretrainedModel

_SMALLEST = 2**19  # elements; a smaller matrix is multiplied faster than oneDNN is called
_MOST_ROWS = 48  # beyond this (reading a prompt) the plain layout is as fast


class PackedLinear(nn.Module):
    """``F.linear`` with a frozen weight [outputs, inputs], which is kept packed once it has served a few rows."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.weight = weight.detach()
        self.bias = None if bias is None else bias.detach()
        self._packed: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        """[..., inputs] -> [..., outputs]."""
        if x.numel() // x.shape[-1] > _MOST_ROWS:
            return F.linear(x, self.weight, self.bias)
        if self._packed is None:
            self._packed = torch.ops.mkldnn._reorder_linear_weight(self.weight)
        answer: Tensor = torch.ops.mkldnn._linear_pointwise(x, self._packed, self.bias, "none", [], "")
        return answer


def packable(weight: Tensor) -> bool:
    """Whether oneDNN would serve this matrix better packed."""
    if weight.device.type != "cpu" or weight.numel() < _SMALLEST or not torch.backends.mkldnn.is_available():
        return False
    if weight.dtype == torch.bfloat16:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return weight.dtype == torch.float32


def prepared(model: PretrainedModel, dtype: torch.dtype | None = None) -> PretrainedModel:
    """A copy of ``model`` for decoding, in evaluation mode; ``dtype`` casts it.

    Uncast, it shares the weights with ``model`` until they are packed: it is for weights that no longer change.
    """
    if dtype is None or all(p.dtype == dtype for p in model.parameters()):
        shared = {id(t): t for t in (*model.parameters(), *model.buffers())}
        twin = copy.deepcopy(model, shared)
    else:
        twin = copy.deepcopy(model).to(dtype)
    for parent in list(twin.modules()):
        for name, child in parent.named_children():
            if isinstance(child, nn.Linear) and packable(child.weight):
                setattr(parent, name, PackedLinear(child.weight, child.bias))
    return twin.eval()
