"""The files of a Hugging Face folder: config.json, safetensors weights, the tokenizer's."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from plume.errors import UserError
from plume.models.backbone import Backbone
from plume.models.heads import Head, PooledHead, TokenHead
from plume.models.interop.pickled import read_pickled
from plume.models.pretrained import PretrainedModel, read_weights
from plume.models.storage import writing
from plume.models.transformer import TransformerConfig
from plume.vocabulary import Vocabulary

TOKENIZER_FILES = (
    "tokenizer.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "tokenizer_config.json",
    "special_tokens_map.json",
)


# Of the heads' names, their backbone and the number of labels.
MakeHeads = Callable[[Sequence[str], Backbone, int], dict[str, Head]]


def each(make: Callable[[str, Backbone, int], Head]) -> MakeHeads:
    """Heads that are built one by one, of a name, the backbone and the number of labels."""
    return lambda names, backbone, count: {name: make(name, backbone, count) for name in names}


@dataclass(frozen=True, slots=True)
class Imported:
    """A published model in our names.

    heads: those whose every weight was there, by the name their objective gives them: "masked_token",
    "next_sentence", "next_token", "label". ``state`` may hold more, such as a pooler without an answer, which
    ``PretrainedModel.start_from`` knows to use. labels: what the "label" head answers, in order. make: how the
    family's heads are built, where they are not like BERT's.
    """

    family: str
    config: Any  # TransformerConfig, or ELMo's BiLSTMConfig
    vocab_size: int
    heads: tuple[str, ...]
    labels: tuple[str, ...]
    state: Mapping[str, Tensor]
    make: MakeHeads | None = None

    def model(self, vocab: Vocabulary | None = None) -> PretrainedModel:
        """The model with these weights and heads, in evaluation mode; by default over an unnamed vocabulary."""
        vocab = vocab or Vocabulary(size=self.vocab_size)
        if vocab.size != self.vocab_size:
            raise UserError(
                f"the tokenizer has {vocab.size} tokens but the model {self.vocab_size}: "
                f"use the tokenizer files of the model's own folder"
            )

        make = self.make or each(self._head)
        model = PretrainedModel.build(
            self.config, vocab, lambda backbone: make(self.heads, backbone, len(self.labels)), seed=0
        )
        own = model.state()
        model.load_state({name: t for name, t in self.state.items() if name in own})
        return model.eval()

    def _head(self, name: str, backbone: Backbone, count: int) -> Head:
        if name in ("masked_token", "next_token"):
            bert = name == "masked_token"
            return TokenHead(backbone, transform=bert, bias=bert)
        if name == "permuted_token":
            return TokenHead(backbone, bias=True)
        if name == "next_sentence":
            return PooledHead(backbone, 2)
        return PooledHead(backbone, count, dropout=self.config.dropout)


@dataclass(frozen=True, slots=True)
class Rule:
    """One of our tensors: the theirs it is made of, laid one below the other, perhaps transposed."""

    ours: str
    theirs: tuple[str, ...]
    transposed: bool = False


def to_ours(rules: Iterable[Rule], theirs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What ``theirs`` holds, by our names; rules with a tensor missing give nothing."""
    state = {}
    for rule in rules:
        if all(name in theirs for name in rule.theirs):
            parts = [theirs[name].T if rule.transposed else theirs[name] for name in rule.theirs]
            state[rule.ours] = (parts[0] if len(parts) == 1 else torch.cat(parts)).contiguous()
    return state


def to_theirs(rules: Iterable[Rule], state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The reverse of ``to_ours``, copied to the CPU; rules whose tensor is missing give nothing."""
    theirs = {}
    for rule in rules:
        if rule.ours in state:
            parts = state[rule.ours].detach().cpu().chunk(len(rule.theirs))
            for name, part in zip(rule.theirs, parts, strict=True):
                theirs[name] = (part.T if rule.transposed else part).contiguous().clone()
    return theirs


def whole_state(
    rules: Sequence[Rule],
    theirs: Mapping[str, Tensor],
    config: Mapping[str, Any],
    folder: Path,
    size: int | None = None,
) -> tuple[dict[str, Tensor], int]:
    """``to_ours``, and the size of the vocabulary (``size`` where config.json does not say it).

    Raises:
        UserError: a tensor of the backbone is missing, or there are not as many tokens as config.json says.
    """
    state = to_ours(rules, theirs)
    for rule in rules:
        if rule.ours.startswith("backbone.") and rule.ours not in state:
            raise UserError(
                f"{folder}: the weights lack {' or '.join(rule.theirs)}, which config.json promises"
            )
    said: int = field(config, "vocab_size", int, size, folder)
    if (given := len(state["backbone.embedding.weight"])) != said:
        raise UserError(f"{folder}: config.json says vocab_size {said}, the weights have {given} rows")
    return state, said


def one_table(output: Tensor | None, state: Mapping[str, Tensor], folder: Path) -> None:
    """Raises:
    UserError: the folder has an ``output`` table that is not its table of embeddings.
    """
    if output is not None and not torch.equal(output, state["backbone.embedding.weight"]):
        raise UserError(
            f"{folder}: its output table differs from its embeddings, and ours are always one table"
        )


def refuse(family: str, wrong: Sequence[str]) -> None:
    """Raises:
    UserError: there is anything wrong, told in clauses.
    """
    if wrong:
        raise UserError(f"this model cannot be written as {family}: {'; '.join(wrong)}")


def beyond(config: TransformerConfig) -> list[str]:
    """What of ``config`` no published family, or only T5, has a place for, in words."""
    parts = (
        (config.norm != "layer", f"its norms are {config.norm}"),
        (not config.bias, "it has no biases"),
        (config.gated, "its feed-forward is gated"),
        (not config.scale_attention, "its attention scores are not scaled"),
        (
            config.head_width * config.num_heads != config.d_model,
            "its heads together are not as wide as the model",
        ),
        (config.positions == "buckets", "its positions are buckets"),
        (config.bands is not None, "some of its layers see only a band"),
        (not config.tie_head or config.scale_head, "its token heads have tables or a scale of their own"),
    )
    return [message for there, message in parts if there]


def read_config(folder: Path) -> dict[str, Any]:
    """config.json.

    Raises:
        UserError: there is none, or it is no JSON object.
    """
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{folder} has no config.json: give the folder of a Hugging Face model") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read as JSON ({error}): copy the model's folder again") from None
    if not isinstance(config, dict):
        raise UserError(f"{path} is not a JSON object: copy the model's folder again")
    return config


def read_folder_weights(folder: Path) -> dict[str, Tensor]:
    """model.safetensors, or the shards its index names; else pytorch_model.bin, read without unpickling it.

    Raises:
        UserError: there are none, or they are damaged, or a pickled file holds more than tensors.
    """
    for name, read in (("model.safetensors", read_weights), ("pytorch_model.bin", read_pickled)):
        index = folder / f"{name}.index.json"
        if index.exists():
            return {n: tensor for shard in _shards(index) for n, tensor in read(folder / shard).items()}
        if (folder / name).exists():
            return read(folder / name)
    return read_weights(folder / "model.safetensors")


def _shards(index: Path) -> list[str]:
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise UserError(f"{index} is no index of weights ({error}): copy the model's folder again") from None
    if any(Path(name).name != name for name in names):
        raise UserError(f"{index} names files outside its folder: copy the model's folder again")
    return names


def field(config: Mapping[str, Any], name: str, kind: type, default: Any, folder: Path) -> Any:
    """A value of config.json.

    Raises:
        UserError: it is of another type.
    """
    value = config.get(name, default)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise UserError(f"{folder / 'config.json'}: {name} is {value!r}, expected {kind.__name__}")
    return value


def labels_of(config: Mapping[str, Any], count: int) -> tuple[str, ...]:
    """The names in ``id2label``, or ``LABEL_0`` and so on."""
    names = config.get("id2label") or {}
    return tuple(str(names.get(str(i), f"LABEL_{i}")) for i in range(count))


def label_tree(model: PretrainedModel, labels: Sequence[str]) -> dict[str, Any]:
    """config.json's names of a classifier's answers; nothing for other models."""
    if "label" not in model.heads:
        return {}
    count = len(model.state()["heads.label.out.weight"])
    names = list(labels) or [f"LABEL_{i}" for i in range(count)]
    return {"id2label": dict(enumerate(names)), "label2id": {n: i for i, n in enumerate(names)}}


def write(
    folder: Path, config: Mapping[str, Any], weights: Mapping[str, Tensor], tokenizer: Mapping[str, str]
) -> None:
    """Write a folder that ``transformers`` loads. ``tokenizer``: file name -> contents."""
    folder.mkdir(parents=True, exist_ok=True)
    with writing(folder / "model.safetensors"):
        save_file(dict(weights), folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(
        json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8"
    )
    for name, text in tokenizer.items():
        (folder / name).write_text(text, encoding="utf-8")


def tokenizer_files(
    tokenizer: Path | None,
    vocab: Vocabulary,
    max_positions: int,
    *,
    frame: bool,
    separators: int = 1,
    cls_last: bool = False,
    plain: bool = False,
) -> dict[str, str]:
    """tokenizer.json and tokenizer_config.json for ``AutoTokenizer``.

    ``tokenizer`` is a folder with a tokenizer.json, whose ids are ``vocab``'s. ``frame``: texts become
    [CLS] A [SEP] B [SEP], as BERT was trained to read them; ``plain``: nothing is put round them, as GPT
    reads. With ``separators=2`` two of them stand between A and B, whose types are both 0, and
    [MASK] swallows the blank before it (RoBERTa). With ``cls_last`` it is A [SEP] B [SEP] [CLS], padded
    on the left (XLNet).
    """
    if tokenizer is None:
        return {}
    path = tokenizer / "tokenizer.json"
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
        pieces = tree["model"]["vocab"]
        names = (
            {int(i): t for t, i in pieces.items()}
            if isinstance(pieces, dict)
            else dict(enumerate(p[0] for p in pieces))
        )
        names |= {int(token["id"]): token["content"] for token in tree.get("added_tokens") or []}
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        raise UserError(
            f"{path} is no tokenizer file ({error!r}): train or import the tokenizer again"
        ) from None
    roles = ("pad", "bos", "eos", "unk", "cls", "sep", "mask")
    special = {role: names[i] for role in roles if (i := getattr(vocab, role)) is not None and i in names}
    if not frame:
        tree["post_processor"] = None
    if frame and {"cls", "sep"} <= special.keys():
        cls, sep = special["cls"], special["sep"]

        def token(name: str, segment: int) -> dict[str, Any]:
            return {"SpecialToken": {"id": name, "type_id": segment}}

        def text(name: str, segment: int) -> dict[str, Any]:
            return {"Sequence": {"id": name, "type_id": segment}}

        one = [text("A", 0), token(sep, 0)]
        two = [*one, text("B", 1), token(sep, 1)]
        if separators == 2:
            two = [*one, token(sep, 0), text("B", 0), token(sep, 0)]
        before, after = ([], [token(cls, 2)]) if cls_last else ([token(cls, 0)], [])
        tree["post_processor"] = {
            "type": "TemplateProcessing",
            "single": [*before, *one, *after],
            "pair": [*before, *two, *after],
            "special_tokens": {
                cls: {"id": cls, "ids": [vocab.cls], "tokens": [cls]},
                sep: {"id": sep, "ids": [vocab.sep], "tokens": [sep]},
            },
        }
    if separators == 2:
        for added in tree.get("added_tokens") or []:
            added["lstrip"] = added["lstrip"] or added["id"] == vocab.mask
    if plain and (tree.get("post_processor") or {}).get("type") == "TemplateProcessing":
        # Every tokenizer of ours can frame texts; a causal family reads them as they are.
        tree["post_processor"] = None
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": max_positions,
        "clean_up_tokenization_spaces": False,
        "model_input_names": [
            "input_ids",
            *(["token_type_ids"] if frame and separators == 1 else []),
            "attention_mask",
        ],
        **({"padding_side": "left"} if cls_last else {}),
        **{f"{role}_token": name for role, name in special.items()},
    }
    return {
        "tokenizer.json": json.dumps(tree, ensure_ascii=False),
        "tokenizer_config.json": json.dumps(settings, indent=2, ensure_ascii=False) + "\n",
    }
