"""A backbone and its heads as one module: how it is initialised, stored and loaded."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Self

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from plume.errors import UserError
from plume.models.backbone import Backbone, BackboneConfig
from plume.models.embedding import Embedding, Linear, SelfStarting
from plume.models.heads import Head, PooledHead
from plume.models.norms import RMSNorm
from plume.models.positions import Buckets, Positions
from plume.models.storage import writing
from plume.seeding import key
from plume.vocabulary import Vocabulary

_TYPES = "backbone.embedding.types"
_TABLE = "backbone.embedding.weight"


class PretrainedModel(nn.Module):
    """A backbone and the heads of an objective.

    Tables that two parts share are shared as *modules*: a token head reads its backbone's embedding. So a
    shared table is one tensor, stored once, and no load, cast or move can part it.
    """

    def __init__(self, backbone: nn.Module, heads: Mapping[str, Head]) -> None:
        super().__init__()
        self.backbone: Any = backbone
        self.heads: Any = nn.ModuleDict(dict(heads))

    @classmethod
    def build(
        cls,
        config: BackboneConfig,
        vocab: Vocabulary,
        heads_of: Callable[[Backbone], Mapping[str, Head]],
        *,
        seed: int,
        device: torch.device | str = "cpu",
    ) -> Self:
        """A new model with the initial weights that ``seed`` says, the same on every device.

        ``device="meta"`` gives the shapes alone.
        """
        with torch.device("meta"):
            backbone = config.build(vocab)
            model = cls(backbone, heads_of(backbone))
        if torch.device(device).type == "meta":
            return model
        model.to_empty(device=device)
        model.initialise(seed)
        return model

    @property
    def ties(self) -> dict[str, str]:
        """Second names of parameters -> the name they are stored under."""
        first: dict[int, str] = {}
        ties = {}
        for name, parameter in self.named_parameters(remove_duplicate=False):
            owner = first.setdefault(id(parameter), name)
            if owner != name:
                ties[name] = owner
        return ties

    def state(self) -> dict[str, Tensor]:
        """Every parameter once, by name, detached; not copied."""
        return {name: parameter.detach() for name, parameter in self.named_parameters()}

    def facts(self) -> dict[str, str]:
        """What there is to say of it, for a card."""
        count, shape = sum(p.numel() for p in self.parameters()), self.backbone.config
        size = f"{shape.num_layers} layers of {shape.d_model}, {count:,} parameters"
        return {"network": size, "heads": ", ".join(self.heads) or "none"}

    def load_state(self, state: Mapping[str, Tensor], source: str = "the state") -> None:
        """Copy ``state`` (as ``state()`` names it; second names are welcome too) into this model.

        Raises:
            UserError: a parameter is missing, unknown or of another shape; ``source`` names the file.
        """
        own = self.state()
        given = {self.ties.get(name, name): tensor for name, tensor in state.items()}
        wrong = [f"{n} is missing" for n in own if n not in given]
        wrong += [f"{n} is not of this model" for n in given if n not in own]
        wrong += [
            f"{n} is {list(t.shape)} there and {list(own[n].shape)} here"
            for n, t in given.items()
            if n in own and own[n].shape != t.shape
        ]
        if wrong:
            raise UserError(f"{source} does not fit this model: {_some(wrong)}. Load it with the configuration "
                            f"and the tokenizer it was trained with.")  # fmt: skip
        for name, tensor in given.items():
            own[name].copy_(tensor)

    def start_from(self, state: Mapping[str, Tensor], source: str = "the state") -> list[str]:
        """Take over a pretrained backbone, and of the heads what fits; returns the names left as they were.

        A head takes what another of its name has in the same shape. A pooled head without such takes its dense
        layer from any pooled head of ``state``: BERT's pooler is pretrained by the next-sentence head and
        kept by every other (spec 11). What ends in a norm is a token head's dense layer, and no pooler. A model with
        UniLM's six segments may begin from one with BERT's two (spec 20 section 3).

        Raises:
            UserError: the backbone does not fit.
        """
        own = self.state()
        given = {self.ties.get(name, name): tensor for name, tensor in state.items()}
        types = given.get(_TYPES)
        if types is not None and _TYPES in own and (len(types), len(own[_TYPES])) == (2, 6):
            given[_TYPES] = types[[0, 1, 0, 0, 0, 1]]
        backbone = {name for name in own if name.startswith("backbone.")}
        theirs = {name for name in given if name.startswith("backbone.")}
        wrong = [f"{n} is missing" for n in sorted(backbone - theirs)]
        wrong += [f"{n} is not of this model" for n in sorted(theirs - backbone)]
        wrong += [
            f"{n} is {list(given[n].shape)} there and {list(own[n].shape)} here"
            for n in sorted(backbone & theirs)
            if given[n].shape != own[n].shape
        ]
        if wrong:
            raise UserError(f"{source} cannot be the start of this model: {_some(wrong)}. Use the model "
                            f"configuration and the tokenizer it was trained with.")  # fmt: skip
        poolers = {
            n.rpartition(".dense.")[2]: t
            for n, t in given.items()
            if n.startswith("heads.") and ".dense." in n and _pools(n.partition(".dense.")[0], given)
        }
        left = []
        for name, tensor in own.items():
            source_tensor = given.get(name)
            if source_tensor is None and name.startswith("heads."):
                head, _, part = name.removeprefix("heads.").partition(".dense.")
                if part and isinstance(self.heads[head], PooledHead):
                    source_tensor = poolers.get(part)
            if source_tensor is not None and source_tensor.shape == tensor.shape:
                tensor.copy_(source_tensor)
            else:
                left.append(name)
        return left

    def take_table(self, state: Mapping[str, Tensor], source: str = "the state") -> None:
        """Take over the token table of another model alone: word vectors as the input layer of a network.

        Raises:
            UserError: there is none, or it is of another size.
        """
        own, given = self.backbone.embedding.weight, state.get(_TABLE)
        if given is None or given.shape != own.shape:
            there = "none" if given is None else f"{list(given.shape)}"
            raise UserError(
                f"{source} cannot be the input layer of this model: its table of vectors is {there}, and "
                f"{list(own.shape)} is wanted"
            )
        own.data.copy_(given)

    def save(self, path: Path) -> None:
        """Write ``state()`` as one safetensors file."""
        with writing(path):
            save_file({name: t.contiguous() for name, t in self.state().items()}, path)

    def load(self, path: Path) -> None:
        """Read what ``save`` wrote.

        Raises:
            UserError: the file cannot be read or does not fit.
        """
        self.load_state(read_weights(path), str(path))

    @torch.no_grad()
    def initialise(self, seed: int) -> None:
        """Set every parameter from a generator keyed by (seed, its name), so that no order matters.

        Matrices are normal with the backbone's ``init_std`` (times their module's ``init_scale``; with ``init``
        "fan_in" over the square root of their inputs, T5's; with "xavier" of variance 2 / (inputs + outputs) instead,
        spec 05 section 4), biases 0, gains 1, recurrent cells uniform in
        +-1/sqrt(D) as torch's, the padding row 0 where the family says so (spec 06 section 3, spec 14
        section 2.1, spec 18 section 2.2).
        """
        names = {id(parameter): name for name, parameter in self.named_parameters()}
        for module in self.modules():
            for own, parameter in module.named_parameters(recurse=False):
                name = names[id(parameter)]
                generator = torch.Generator().manual_seed(key(seed, "init", *name.encode()))
                drawn = torch.empty(parameter.shape)
                if isinstance(module, SelfStarting):
                    module.start(own, drawn, generator)
                elif isinstance(module, nn.LayerNorm | RMSNorm):
                    drawn.fill_(1.0 if own == "weight" else 0.0)
                elif isinstance(module, nn.RNNBase):
                    drawn.uniform_(-(module.hidden_size**-0.5), module.hidden_size**-0.5, generator=generator)
                elif parameter.ndim < 2:
                    drawn.zero_()
                elif isinstance(module, Embedding) and module.uniform is not None:
                    drawn.uniform_(-module.uniform, module.uniform, generator=generator)
                else:
                    stds = self._initial_stds(module)
                    # Blocks that are alike are drawn at once.
                    for block, std in zip(drawn.chunk(len(stds)), stds, strict=True):
                        block.normal_(0.0, std, generator=generator)
                parameter.copy_(drawn)
            if isinstance(module, Embedding) and module.pad is not None:
                module.weight[module.pad] = 0
            if isinstance(module, Positions):
                module.fill()

    def _initial_stds(self, module: nn.Module) -> tuple[float, ...]:
        """The standard deviation of each block of a module's matrix."""
        std: float = self.backbone.init_std
        fan_in = self.backbone.init == "fan_in"
        if isinstance(module, Buckets) and fan_in:
            return (std * self.backbone.d_model**-0.5,)
        if isinstance(module, nn.Linear) and fan_in:
            std *= module.in_features**-0.5
        scales = module.init_scale if isinstance(module, Linear) else (1.0,)
        if isinstance(module, nn.Linear) and self.backbone.init == "xavier":
            std = (2 / (module.in_features + module.out_features / len(scales))) ** 0.5
        return (std * scales[0],) if len(set(scales)) == 1 else tuple(std * scale for scale in scales)


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file.

    Raises:
        UserError: it is not there, truncated, or no safetensors file.
    """
    try:
        return load_file(path)
    except FileNotFoundError:
        raise UserError(f"{path} is not there: give the folder that holds the weights") from None
    except (SafetensorError, OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read as safetensors ({error}): copy or save it again") from None


def _pools(head: str, state: Mapping[str, Tensor]) -> bool:
    """Whether the dense layer of ``head`` is a pooler: an answer may follow it, but no norm, table or generator."""
    others = {n.removeprefix(f"{head}.").split(".")[0] for n in state if n.startswith(f"{head}.")}
    return others <= {"dense", "out"}


def _some(problems: list[str], most: int = 5) -> str:
    rest = f", and {len(problems) - most} more" if len(problems) > most else ""
    return "; ".join(problems[:most]) + rest


def has_weights(name: str, head: Head, backbone: Any, state: Mapping[str, Tensor]) -> bool:
    """Whether all that is the head's alone was stored; tables that it shares lie with the backbone."""
    shared = {id(parameter) for parameter in backbone.parameters()}
    own = [n for n, parameter in head.named_parameters() if id(parameter) not in shared]
    return all(f"heads.{name}.{n}" in state for n in own)
