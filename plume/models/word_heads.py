"""Heads that ask for one word of a large vocabulary without a softmax over it: Word2Vec's two (spec 02 section E.3).

N labelled slots, D = d_model, V = vocabulary. Both begin with output rows of 0, as word2vec.c does.
"""

from __future__ import annotations

import heapq

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from plume.models.backbone import Backbone
from plume.models.embedding import Linear
from plume.models.heads import Asked, Head
from plume.slots import Loss


class NegativeSampling(Head):
    """-ln s(u_w h) - sum ln s(-u_n h), s the sigmoid; the words n come with the slot.

    ``given["NAME.0"]`` ... ``given["NAME.K-1"]``, NAME being ``name``, are a slot's noise words; -1: none.
    """

    def __init__(self, backbone: Backbone, vocab_size: int, *, name: str, negatives: int) -> None:
        super().__init__()
        self.names = tuple(f"{name}.{i}" for i in range(negatives))
        self.output = Linear(backbone.d_model, vocab_size, bias=False, init_scale=0.0)

    def logits(self, hidden: Tensor) -> Tensor:
        """[..., D] -> [..., V]: ln of how much likelier a word is here than in the noise, and a constant."""
        scores: Tensor = self.output(hidden)
        return scores

    def loss(self, asked: Asked) -> Loss:
        """Summed over the labelled slots, a slot's noise words included, in nats."""
        hidden = asked.hidden.to(torch.promote_types(asked.hidden.dtype, torch.float32))
        table = self.output.weight.to(hidden.dtype)
        total = F.softplus(-(hidden * F.embedding(asked.labels, table)).sum(-1)).sum()
        for name in self.names:
            if name in asked.given:
                words = asked.given[name].round().long()
                score = (hidden * F.embedding(words.clamp(min=0), table)).sum(-1)
                total = total + F.softplus(score)[words >= 0].sum()
        return Loss(total, self.count(asked.labels, asked.document, asked.example, asked.given))


class HierarchicalSoftmax(Head):
    """-sum ln s((1 - 2 d_j) v_j h) along the word's path in the Huffman tree: a softmax, by ln V decisions."""

    def __init__(self, backbone: Backbone, tree: Tree) -> None:
        super().__init__()
        self.tree = tree
        self.output = Linear(backbone.d_model, max(1, len(tree.begin) - 2), bias=False, init_scale=0.0)

    def logits(self, hidden: Tensor) -> Tensor:
        """[..., D] -> [..., V]: log-probabilities, which sum to 1 over the vocabulary."""
        decisions: Tensor = self.output(hidden)
        sign, node, owner = self._paths(torch.arange(len(self.tree.begin) - 1, device=hidden.device))
        steps = F.logsigmoid(decisions[..., node] * sign)
        found = hidden.new_zeros(*hidden.shape[:-1], len(self.tree.begin) - 1)
        return found.index_add(-1, owner, steps)

    def loss(self, asked: Asked) -> Loss:
        """Cross-entropy in nats, summed over the labelled slots."""
        hidden = asked.hidden.to(torch.promote_types(asked.hidden.dtype, torch.float32))
        sign, node, owner = self._paths(asked.labels)
        score = (hidden[owner] * F.embedding(node, self.output.weight.to(hidden.dtype))).sum(-1)
        total = F.softplus(-score * sign).sum()
        return Loss(total, self.count(asked.labels, asked.document, asked.example, asked.given))

    def _paths(self, words: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The steps of every word's path: +1 or -1, the node, and which of ``words`` it belongs to."""
        wanted = words.cpu().numpy()
        first, sizes = self.tree.begin[wanted], np.diff(self.tree.begin)[wanted]
        owner = np.repeat(np.arange(len(wanted)), sizes)
        place = np.arange(len(owner)) - np.repeat(np.cumsum(sizes) - sizes, sizes) + first[owner]
        sign = 1.0 - 2.0 * self.tree.bits[place]
        steps = (sign.astype(np.float32), self.tree.nodes[place].astype(np.int64), owner)
        made = [torch.from_numpy(np.ascontiguousarray(step)).to(words.device) for step in steps]
        return made[0], made[1], made[2]


class Tree:
    """The Huffman tree over word counts: the path of word w is ``begin[w]:begin[w + 1]`` of nodes and bits.

    Paths begin at the root, the last node made; of two counts that are alike the inner node is taken first, and
    the second of a pair gets bit 1 (spec 02 section E.3).

    >>> tree = Tree([10, 6, 4, 3, 1])
    >>> [tree.path(w) for w in (0, 2, 4)]
    [([3], [0]), ([3, 2, 1], [1, 1, 1]), ([3, 2, 1, 0], [1, 1, 0, 0])]
    """

    def __init__(self, counts: NDArray[np.int64] | list[int]) -> None:
        size = len(counts)
        # A leaf is taken before an inner node only where its count is smaller; of equal leaves the later word.
        waiting = [(int(n), 1, -w, w) for w, n in enumerate(counts)]
        heapq.heapify(waiting)
        parent, bit = np.full(2 * size, -1, np.int64), np.zeros(2 * size, np.int8)
        for made in range(size, 2 * size - 1):
            first, second = heapq.heappop(waiting), heapq.heappop(waiting)
            parent[[first[3], second[3]]] = made
            bit[second[3]] = 1
            heapq.heappush(waiting, (first[0] + second[0], 0, made, made))
        # All words climb one step at a time; what they meet is written from the end of their path to its front.
        at, steps = np.arange(size), []
        while (alive := parent[at] >= 0).any():
            steps.append((np.flatnonzero(alive), parent[at[alive]] - size, bit[at[alive]]))
            at = np.where(alive, parent[at], at)
        length = np.zeros(size, np.int64)
        for words, _, _ in steps:
            length[words] += 1
        self.begin = np.concatenate([[0], np.cumsum(length)]).astype(np.int64)
        self.nodes = np.zeros(int(self.begin[-1]), np.int32)
        self.bits = np.zeros(int(self.begin[-1]), np.int8)
        for number, (words, node, which) in enumerate(steps):
            place = self.begin[words + 1] - 1 - number
            self.nodes[place], self.bits[place] = node, which

    def path(self, word: int) -> tuple[list[int], list[int]]:
        """(nodes, bits) from the root to ``word``."""
        here = slice(int(self.begin[word]), int(self.begin[word + 1]))
        return self.nodes[here].tolist(), self.bits[here].tolist()
