"""What a model can do, by its heads, and the one sentence for what it cannot."""

from __future__ import annotations

from typing import Any

from plume.errors import UserError
from plume.models.heads import TokenHead
from plume.models.lookup import Lookup
from plume.models.ngrams import NGrams
from plume.models.pretrained import PretrainedModel
from plume.models.sparse import SparseModel
from plume.objectives.base import Objective
from plume.objectives.classification import Classification

Model = PretrainedModel | NGrams | SparseModel
ASKED = ("next_token", "masked_token", "permuted_token")  # the head that ``logits`` asks, the first there is
_WORDS = {
    "fill_mask": "fill masks", "loglikelihood": "say how likely a text is", "nearest": "find the nearest words",
    "loglikelihood_rolling": "say how likely a text is", "logits": "say how likely each token is",
    "embed": "embed a text", "hidden_states": "give hidden states", "analogy": "complete an analogy",
    "similarity": "compare two words",
}  # fmt: skip
_WANTS = {
    "generate": "a head that says how likely each token is, as gpt:tiny has (ELMo and vectors have none)",
    "fill_mask": "a model that was pretrained to fill masks, such as one by bert:tiny",
    "classify": "a model that was adapted to labels: plume adapt makes one of this run",
    "tag": "a model that was adapted to tags: plume adapt --task tagging makes one",
    "nearest": "a table of words, such as one by word2vec:tiny",
}


def methods(model: Model, objective: Objective[Any]) -> tuple[str, ...]:
    """The methods of a ``Run`` that this model's heads can do."""
    if isinstance(model, NGrams):
        return ("generate", "loglikelihood", "loglikelihood_rolling", "logits")
    if isinstance(model, SparseModel):
        return ("classify",)
    heads = set(model.heads)
    # ELMo answers with the words of its table, and what it reads may be others: those have no probability.
    speaks = any(isinstance(head, TokenHead) for head in model.heads.values())
    labelled = bool(labels_of(model, objective))
    tags = labelled and isinstance(objective, Classification) and objective.unit == "word"
    found = {
        "generate": speaks,
        "fill_mask": bool(heads & {"masked_token", "permuted_token"}),
        "classify": labelled and not tags, "tag": tags,
        "loglikelihood": speaks, "loglikelihood_rolling": speaks, "logits": bool(heads & set(ASKED)),
        "nearest": isinstance(model.backbone, Lookup),
    }  # fmt: skip
    found["analogy"] = found["similarity"] = found["nearest"]
    able = [name for name, yes in found.items() if yes]
    return (*able, "embed", "hidden_states")


def labels_of(model: Model, objective: Objective[Any]) -> tuple[str, ...]:
    """What a model answers with that was adapted to labels; empty for any other."""
    if isinstance(model, SparseModel):
        return model.labels
    if not isinstance(objective, Classification) or isinstance(model, NGrams) or "label" not in model.heads:
        return ()
    return objective.labels


def require(method: str, name: str, model: Model, objective: Objective[Any]) -> None:
    """That the model called ``name`` can do ``method``.

    Raises:
        UserError: it cannot; the sentence says which can.
    """
    if method in methods(model, objective):
        return
    heads = "none, it counts"
    if isinstance(model, PretrainedModel):
        heads = ", ".join(model.heads) or "none"
    wanted = _WANTS.get(method, _WANTS["generate"])
    raise UserError(f"{name} cannot {_WORDS.get(method, method)} (its heads: {heads}); that takes {wanted}")
