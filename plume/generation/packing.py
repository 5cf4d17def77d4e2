"""A model as decoding wants it: cast once, its large matrices multiplied as suits the few rows of a decoding step.

A step multiplies 1 to a few dozen rows with every weight, and so is bound by reading the weights. For one row the
plain product has one thread, where a product of pieces has one a piece. For several oneDNN reads a matrix best that was
brought into its blocked layout once. What decoding gains by it depends on the machine: benchmarks/decoding.py.
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
_STEP = 48  # the rows of a decoding step, which are worth a second layout
_PROMPT = 256  # where there is one, it serves up to so many; beyond, the plain layout is as fast


class DecodingLinear(nn.Module):
    """``F.linear`` with a frozen weight [outputs, inputs], which is kept packed too once it has served a few rows."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.weight = weight.detach()
        self.bias = None if bias is None else bias.detach()
        self._packed: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        """[..., inputs] -> [..., outputs]."""
        rows = x.numel() // x.shape[-1]
        if rows == 1 and self.weight.dtype == torch.float32 and self.weight.is_contiguous():
            return self._of_one(x)
        if rows > (_STEP if self._packed is None else _PROMPT):
            return F.linear(x, self.weight, self.bias)
        if self._packed is None:
            self._packed = torch.ops.mkldnn._reorder_linear_weight(self.weight)
        answer: Tensor = torch.ops.mkldnn._linear_pointwise(x, self._packed, self.bias, "none", [], "")
        return answer

    def _of_one(self, x: Tensor) -> Tensor:
        pieces = torch.get_num_threads()
        length = len(self.weight) // pieces
        even, rest = self.weight[: pieces * length], self.weight[pieces * length :]
        row = x.reshape(1, 1, -1).expand(pieces, 1, -1)
        answer = torch.bmm(row, even.view(pieces, length, -1).transpose(1, 2)).view(-1)
        if len(rest):
            answer = torch.cat([answer, rest @ x.reshape(-1)])
        answer = answer if self.bias is None else answer + self.bias
        return answer.view(*x.shape[:-1], -1)


def packable(weight: Tensor) -> bool:
    """Whether decoding would be served better by a ``DecodingLinear``."""
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
                setattr(parent, name, DecodingLinear(child.weight, child.bias))
    return twin.eval()
