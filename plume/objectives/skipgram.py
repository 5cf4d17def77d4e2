"""Skip-gram and CBOW: a word's neighbours say which word it is (spec 02 section E).

The same draws feed two roads. ``example`` gives them to the trainer as slots; ``walk`` updates the tables in place,
word after word and compiled, at some hundred times the speed.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from plume.models.heads import Head
from plume.models.lookup import Lookup
from plume.models.word_heads import HierarchicalSoftmax, NegativeSampling, Tree
from plume.objectives.base import InPlace
from plume.slots import IGNORE, Example, Loss, Slots
from plume.text.windows import Window
from plume.vocabulary import Vocabulary

if TYPE_CHECKING:
    from plume.models.backbone import Backbone
    from plume.models.pretrained import PretrainedModel
    from plume.models.skipgram_kernels import Tables
    from plume.slots import Array

HEAD = "context_word"


@dataclass(frozen=True)
class SkipGram(InPlace[Window]):
    """Words of a sentence, frequent ones thinned out; each is asked of its neighbours, one by one or (``cbow``) of
    their mean.

    The input row is the neighbour's and the answer is the word in the middle, as in word2vec.c. A word whose share
    z of the text is above ``sample`` is read with probability (sqrt(z/sample) + 1) sample/z (``thinning="paper"``:
    sqrt(sample/z)); windows reach over what was left out. The window of each word is drawn from 1 ... ``window``
    (``shrink``). Noise words are drawn by count ** ``noise_power``; one that is the answer is left out.
    ``share_negatives``: the pairs of one middle word share their noise words, which is ours: the same loss on
    average, three times as fast. ``exact=False`` looks the sigmoid up in word2vec.c's table.
    """

    window: int = 5
    negatives: int = 5
    sample: float = 1e-3
    noise_power: float = 0.75
    cbow: bool = False
    output: Literal["negative", "hierarchical"] = "negative"
    shrink: bool = True
    thinning: Literal["program", "paper"] = "program"
    share_negatives: bool = True
    exact: bool = True

    def __post_init__(self) -> None:
        if self.window < 1 or self.negatives < 1:
            raise ValueError(
                f"window and negatives must be at least 1, got {self.window} and {self.negatives}"
            )
        if self.sample < 0:
            raise ValueError(f"sample must be at least 0 (0: read every word), got {self.sample}")

    @property
    def likelihoods(self) -> bool:
        return self.output == "hierarchical"  # telling a word from noise is not saying which word it is

    def example(self, source: Window, vocab: Vocabulary, rng: np.random.Generator) -> Example[Array] | None:
        known = _words(vocab)
        ids = source.ids[~source.special]
        ids = ids[known[ids]]
        if self.sample:
            ids = ids[rng.random(len(ids)) < self.keep(vocab)[ids]]
        radius = rng.integers(1, self.window + 1, len(ids)) if self.shrink else np.full(len(ids), self.window)
        offsets = np.array([o for o in range(-self.window, self.window + 1) if o])
        place = np.arange(len(ids))[:, None] + offsets
        inside = (place >= 0) & (place < len(ids)) & (np.abs(offsets) <= radius[:, None])
        centre, at = np.nonzero(inside)
        if not len(centre):
            return None
        context = place[centre, at]
        labels = ids[centre]
        group = np.unique(centre, return_inverse=True)[1]
        given = {}
        if self.output == "negative":
            together = self.share_negatives or self.cbow
            draws = rng.random((int(group[-1]) + 1 if together else len(centre), self.negatives))
            drawn = np.searchsorted(np.cumsum(self.noise(vocab)), draws, "right").clip(max=vocab.size - 1)
            drawn = drawn[group] if together else drawn
            drawn[drawn == labels[:, None]] = -1
            given = {f"{HEAD}.{i}": drawn[:, i].astype(np.float32) for i in range(self.negatives)}
        documents = np.arange(len(centre))
        if self.cbow:  # the neighbours of a word are one bag; its first slot answers
            documents = group
            labels = np.where(np.diff(group, prepend=-1) > 0, labels, IGNORE)
        return Example(
            Slots.bidirectional(
                ids[context], position_ids=context, document_ids=documents, labels={HEAD: labels}, given=given
            )
        )

    def restore(self, example: Example[Array]) -> Array:
        """The words that were read; with ``sample`` those are not all."""
        slots = example.inputs
        ids = np.zeros(int(slots.position_ids.max()) + 1, np.int64)
        ids[slots.position_ids] = slots.input_ids
        return ids

    def heads(self, backbone: Backbone, vocab: Vocabulary) -> dict[str, Head]:
        if self.cbow and isinstance(backbone, Lookup) and not backbone.config.bag:
            raise ValueError("objective.cbow asks the mean of a word's neighbours: set model.bag=true")
        if vocab.size > 2**24:
            raise ValueError(
                f"a vocabulary of {vocab.size} words is more than 16,777,216: raise tokenizer.min_count"
            )
        if self.output == "hierarchical":
            return {HEAD: HierarchicalSoftmax(backbone, _tree(vocab))}
        return {HEAD: NegativeSampling(backbone, vocab.size, name=HEAD, negatives=self.negatives)}

    def read(self, segments: Sequence[Array], vocab: Vocabulary) -> tuple[Slots[Array], int]:
        """The known words of a text; any slot sums them up where the table's rows are pooled."""
        return self.ask_next(np.concatenate(segments), vocab)[0], 0

    def ask_next(self, ids: Array, vocab: Vocabulary) -> tuple[Slots[Array], int]:
        known = ids[_words(vocab)[ids]]
        return Slots.bidirectional(known if len(known) else ids), max(0, len(known) - 1)

    def ask_each(self, ids: Array, vocab: Vocabulary) -> tuple[Slots[Array], Array]:
        """Every word, unknown ones too."""
        return Slots.bidirectional(ids), np.arange(len(ids))

    def keep(self, vocab: Vocabulary) -> NDArray[np.float64]:
        """The probability that an occurrence of each word is read, [V]; 0 for what is no word."""
        known = _words(vocab)
        if not self.sample:
            return known.astype(np.float64)
        share = _counts(vocab) / max(1, _counts(vocab).sum())
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio = self.sample / share
            kept = np.sqrt(ratio) + (ratio if self.thinning == "program" else 0.0)
        found: NDArray[np.float64] = np.where(share > 0, np.minimum(1.0, kept), 1.0) * known
        return found

    def noise(self, vocab: Vocabulary) -> NDArray[np.float64]:
        """The noise distribution, [V].

        >>> import numpy as np
        >>> vocab = Vocabulary(size=5, counts=(10, 6, 4, 3, 1))
        >>> np.round(SkipGram().noise(vocab), 7).tolist()
        [0.3612856, 0.2462999, 0.1817171, 0.1464508, 0.0642467]
        """
        known = _words(vocab)
        weight: NDArray[np.float64] = known.astype(np.float64)
        if self.noise_power:
            weight = weight * _counts(vocab) ** self.noise_power
        shares: NDArray[np.float64] = weight / weight.sum()
        return shares

    def walk(
        self,
        model: PretrainedModel,
        ids: Array,
        ends: Array,
        vocab: Vocabulary,
        *,
        rate: float,
        seeds: Sequence[int],
        tables: Any,
    ) -> Loss:
        from plume.models import skipgram_kernels as kernels

        backbone, head = model.backbone, model.heads[HEAD]
        if not isinstance(backbone, Lookup):
            raise ValueError(
                "training.updates=word needs a table of vectors: set model=LookupConfig, or updates=batch"
            )
        table, output = backbone.embedding.weight.detach().numpy(), head.output.weight.detach().numpy()
        rules = kernels.Rules(
            self.window, int(self.shrink), self.negatives, int(self.share_negatives), int(self.cbow),
            int(backbone.config.full_error), int(self.output == "hierarchical"), int(self.exact),
        )  # fmt: skip
        cuts = np.searchsorted(ends, np.linspace(0, ends[-1], len(seeds) + 1)[1:-1])
        parts = [*zip([0, *cuts], [*cuts, len(ends) - 1], seeds, strict=True)]

        def run(part: tuple[int, int, int]) -> tuple[float, int, int]:
            first, last, seed = part
            settings: Any = (*tables, *rules, rate, seed)
            return kernels.walk(table, output, ids, ends[first : last + 1], *settings)

        if len(parts) == 1:
            found = [run(parts[0])]
        else:
            with ThreadPoolExecutor(len(parts)) as pool:
                found = list(pool.map(run, parts))
        loss, measured, total = map(sum, zip(*found, strict=True))
        scale = total / measured if measured else 0.0  # every 16th group was measured
        return Loss(torch.tensor(loss * scale), torch.tensor(float(total)))

    def tables(self, vocab: Vocabulary) -> Tables:
        from plume.models.skipgram_kernels import Tables

        accept, alias = _alias(self.noise(vocab))
        empty = np.zeros(1, np.int64), np.zeros(0, np.int32), np.zeros(0, np.int8)
        begin, nodes, bits = empty
        if self.output == "hierarchical":
            tree = _tree(vocab)
            begin, nodes, bits = tree.begin, tree.nodes, tree.bits
        return Tables(self.keep(vocab).astype(np.float32), accept, alias, begin, nodes, bits)


def _words(vocab: Vocabulary) -> NDArray[np.bool_]:
    """Which ids are words: all but the special ones and the unknown one."""
    known = np.ones(vocab.size, bool)
    known[[i for i in (*vocab.special, vocab.unk) if i is not None]] = False
    return known


def _counts(vocab: Vocabulary) -> NDArray[np.float64]:
    if not vocab.counts:
        raise ValueError(
            "this tokenizer does not know how often its tokens occur, which thinning and noise words need: use "
            "tokenizer=Words, or set objective.sample=0 and objective.noise_power=0"
        )
    counts = np.zeros(vocab.size)
    counts[: len(vocab.counts)] = vocab.counts[: vocab.size]
    return counts * _words(vocab)


def _tree(vocab: Vocabulary) -> Tree:
    """Special ids are leaves too, rarer than any word."""
    return Tree((_counts(vocab) if vocab.counts else _words(vocab)).astype(np.int64))


def _alias(shares: NDArray[np.float64]) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    """Vose's tables: draw a place uniformly; it stands for itself with probability ``accept``, else for ``alias``."""
    size = len(shares)
    accept, alias = shares * size, np.arange(size, dtype=np.int32)
    small, large = [*np.flatnonzero(accept < 1).tolist()], [*np.flatnonzero(accept >= 1).tolist()]
    while small and large:
        low, high = small.pop(), large[-1]
        alias[low] = high
        accept[high] -= 1 - accept[low]
        if accept[high] < 1:
            small.append(large.pop())
    for left in (*small, *large):
        accept[left] = 1.0
    return accept.astype(np.float32), alias
