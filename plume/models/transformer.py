"""One Transformer: one stack, or two with cross-attention; who sees whom comes with the slots (spec 05, 06, 14, 18).

Shapes: R rows, L slots, D = d_model, H heads, d = d_head.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from plume.errors import UserError
from plume.models.activations import Activation, activate, gated
from plume.models.attention import Sight, attend, attend_across, attend_merged, look
from plume.models.backbone import Hidden, Init, Pool
from plume.models.dropout import add_dropped, dropout
from plume.models.embedding import Embedding, Linear
from plume.models.memory import Growing, follow
from plume.models.norms import Norm, RMSNorm
from plume.models.norms import norm as new_norm
from plume.models.positions import Absolute, Buckets, Kind, Positions, Relate
from plume.models.relative import Relative
from plume.slots import Memory, Slots
from plume.vocabulary import Vocabulary


@dataclass(frozen=True)
class TransformerConfig:
    """The shape of a Transformer.

    norm_order: "post" is the original and BERT, "pre" is GPT-2 (then one more norm ends each stack).
    num_decoder_layers > 0 adds a second stack that attends to the first; the two share the token table, and each
    has positions and norms of its own. max_positions is what can be read; a learned table has position_offset
    rows more, before the first (RoBERTa, BART: 2); positions="buckets" are T5's relative ones, ``num_buckets`` up
    to ``max_distance``, and have no end; "relative" are XLNet's, segments included, which have none either, and bring
    the only biases that attention then has. token_types: segment rows added to the embeddings. embedding_norm: a norm
    on the summed embeddings (BERT). scale_embedding: times sqrt(D) (the original). scale_by_layer: GPT-2's
    ``scale_attn_by_inverse_layer_idx``; scale_attention=False: scores are not divided by sqrt(d_head) (T5).
    virtual_tokens: learned rows for ids beyond the vocabulary (XLNet's query, prompts). embedding_size: the width
    of the tables where it is not d_model; a linear map leads from one to the other (ELECTRA). task_types: rows of
    which the first is added to every embedding (ERNIE). bands, where set, has an entry a layer of each stack: None
    sees all that its ranks let it see, a number only what lies fewer positions away (GPT-3, spec 15). norm: "rms"
    is T5's. bias=False: no linear map and no norm adds anything. d_head: None is D / H. gated: the feed-forward
    multiplies one activated matrix by another (GEGLU).

    dropout is used on embeddings and before each residual sum, attention_dropout on the attention weights;
    embedding_dropout, where set, on the embeddings; activation_dropout inside the feed-forward, final_dropout at
    the end of a stack.

    init="xavier" gives every matrix the variance 2 / (inputs + outputs) (the original), init_std being the tables';
    init="fan_in" divides init_std by the square root of a matrix's inputs, and a query's by sqrt(d_head) too, which
    is where T5 keeps what it leaves out of the scores. tie_head=False gives every token head a table of its own;
    scale_head multiplies by 1 / sqrt(D) what meets the table.
    """

    num_layers: int
    d_model: int
    num_heads: int
    d_ff: int
    norm_order: Literal["pre", "post"] = "pre"
    positions: Kind = "learned"
    max_positions: int = 512
    position_offset: int = 0
    num_decoder_layers: int = 0
    token_types: int = 0
    embedding_norm: bool = False
    scale_embedding: bool = False
    activation: Activation = "gelu"
    dropout: float = 0.1
    attention_dropout: float = 0.1
    embedding_dropout: float | None = None
    norm_eps: float = 1e-5
    scale_by_layer: bool = False
    virtual_tokens: int = 0
    bands: tuple[int | None, ...] | None = None
    embedding_size: int | None = None
    task_types: int = 0
    init_std: float = 0.02
    norm: Norm = "layer"
    bias: bool = True
    d_head: int | None = None
    gated: bool = False
    scale_attention: bool = True
    num_buckets: int = 32
    max_distance: int = 128
    activation_dropout: float = 0.0
    final_dropout: float = 0.0
    init: Init = "normal"
    tie_head: bool = True
    scale_head: bool = False
    pool: ClassVar[Pool] = "slot"
    mixes: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.d_head is None and self.d_model % self.num_heads:
            raise ValueError(f"d_model {self.d_model} must be a multiple of num_heads {self.num_heads}")
        if self.position_offset and self.positions != "learned":
            raise ValueError(
                f"position_offset shifts the rows of a learned table, not {self.positions} positions"
            )
        if self.embedding_size is not None and self.num_decoder_layers:
            raise ValueError("embedding_size is for one stack: leave it out, or set num_decoder_layers=0")
        if self.positions == "buckets" and (
            self.num_buckets < 4 or self.max_distance <= self.num_buckets // 2
        ):
            raise ValueError(
                f"num_buckets must be at least 4 and max_distance more than half as many, got "
                f"{self.num_buckets} and {self.max_distance}"
            )
        layers = {self.num_layers, self.num_decoder_layers or self.num_layers}
        if self.bands is not None and layers != {len(self.bands)}:
            raise ValueError(f"bands needs one entry a layer ({self.num_layers}), got {len(self.bands)}")
        if any(band is not None and band < 1 for band in self.bands or ()):
            raise ValueError(f"a band is at least 1 position wide, got {self.bands}")

    @property
    def head_width(self) -> int:
        """d_head, or what d_model leaves to each head."""
        return self.d_model // self.num_heads if self.d_head is None else self.d_head

    @property
    def embedding_width(self) -> int:
        """E: ``embedding_size``, else d_model."""
        return self.d_model if self.embedding_size is None else self.embedding_size

    def build(self, vocab: Vocabulary) -> Transformer:
        """A Transformer over ``vocab``; its weights are set by ``PretrainedModel.build`` or a load."""
        return Transformer(self, vocab)


class Transformer(nn.Module):
    """Embeddings, a stack, and a second one with cross-attention where ``num_decoder_layers`` > 0.

    ``embeddings``: another Transformer of the same embedding width, whose tables and embedding norm are this one's
    too (ELECTRA's two networks).
    """

    packs = True

    def __init__(
        self, config: TransformerConfig, vocab: Vocabulary, *, embeddings: Transformer | None = None
    ) -> None:
        super().__init__()
        self.config = config
        self.d_model = config.d_model
        self.activation: Activation = config.activation
        self.norm_eps = config.norm_eps
        self.init: Init = config.init
        self.init_std = config.init_std
        self.tie_head = config.tie_head
        self.head_scale = config.d_model**-0.5 if config.scale_head else 1.0
        self.activation_checkpointing = False
        self.features = ((config.num_decoder_layers or config.num_layers) + 1, config.d_model)
        width = config.embedding_width
        if embeddings is None:
            self.embedding = Embedding(
                vocab, width, token_types=config.token_types, virtual_tokens=config.virtual_tokens,
                task_types=config.task_types,
            )  # fmt: skip
            self.positions, self.embedding_norm = self._places(causal=False)
        else:
            self.embedding, self.embedding_norm = embeddings.embedding, embeddings.embedding_norm
            # Relative positions are no table of embeddings, and have as many columns as their stack has heads.
            shared = isinstance(embeddings.positions, Absolute)
            self.positions = embeddings.positions if shared else self._places(causal=False)[0]
        self.embedding_projection = (
            Linear(width, config.d_model, bias=config.bias) if width != config.d_model else None
        )
        self.stack = Stack(config, config.num_layers, cross=False)
        self.decoder: Stack | None = None
        if config.num_decoder_layers:
            self.decoder_positions, self.decoder_embedding_norm = self._places(causal=True)
            self.decoder = Stack(config, config.num_decoder_layers, cross=True)

    def _places(self, *, causal: bool) -> tuple[Positions, nn.LayerNorm | RMSNorm | None]:
        c = self.config
        positions: Positions
        if c.positions == "buckets":
            positions = Buckets(
                c.num_heads, num_buckets=c.num_buckets, max_distance=c.max_distance, causal=causal
            )
        elif c.positions == "relative":
            layers = c.num_decoder_layers if causal else c.num_layers
            positions = Relative(layers, c.num_heads, c.d_model, c.head_width, c.dropout)
        else:
            positions = Absolute(c.positions, c.max_positions, c.embedding_width, offset=c.position_offset)
        return positions, _norm(c, c.embedding_width) if c.embedding_norm else None

    def forward(
        self,
        inputs: Slots[Tensor],
        decoder_inputs: Slots[Tensor] | None = None,
        *,
        memory: Memory | None = None,
        use_memory: bool = False,
        wanted: Tensor | None = None,
    ) -> Hidden:
        """Hidden states of ``inputs``, or with two stacks of ``decoder_inputs``, which attend to ``inputs``.

        ``memory`` holds the keys and values of earlier slots of the last stack, which stay visible by their
        ranks; ``use_memory`` asks for the next one. With two stacks a memory also holds what the encoder said, so
        that ``inputs`` are not encoded again; they must be those of the first call.

        ``wanted`` are the only slots whose ``last`` states will be read, flat indices [N] without repeats: what
        the last layer does slot by slot is then done for them alone, and the others may come back as 0. Of a
        masked language model's slots seven in eight are such.

        Raises:
            ValueError: one stack was given two inputs or two stacks one, or a position lies beyond
                ``max_positions``.
        """
        if (decoder_inputs is None) != (self.decoder is None):
            stacks = "one stack: it takes no" if self.decoder is None else "two stacks: it needs"
            raise ValueError(f"this model has {stacks} decoder inputs")
        checkpointing = self.activation_checkpointing and torch.is_grad_enabled()
        run = partial(self.stack, positions=self.positions, checkpointing=checkpointing)
        if self.decoder is None or decoder_inputs is None:
            x = self.embed(inputs)
            states, kept = run(x, inputs, memory=memory, use_memory=use_memory, wanted=wanted)
            return Hidden(states[-1], layers=states, memory=kept)
        encoded = run(self.embed(inputs), inputs)[0][-1] if memory is None else None
        places, norm = self.decoder_positions, self.decoder_embedding_norm
        states, kept = self.decoder(
            self._embed(decoder_inputs, places, norm), decoder_inputs, positions=places,
            checkpointing=checkpointing, memory=memory, use_memory=use_memory, wanted=wanted,
            encoder=(inputs, encoded),
        )  # fmt: skip
        return Hidden(states[-1], encoder=encoded, layers=states, memory=kept)

    def embed(self, slots: Slots[Tensor]) -> Tensor:
        """[R, L] -> [R, L, D]: what the first stack reads. Tokens, segments and positions are summed, normalised
        where the family does, and dropped."""
        return self._embed(slots, self.positions, self.embedding_norm)

    def _embed(
        self, slots: Slots[Tensor], positions: Positions, norm: nn.LayerNorm | RMSNorm | None
    ) -> Tensor:
        c = self.config
        # On a GPU the question would wait for it; there the loader's window length is the guard.
        free = slots.position_ids.device.type == "cpu" and not torch.compiler.is_compiling()
        limit = positions.limit if free else None
        if limit is not None and (last := int(slots.position_ids.max())) >= limit:
            raise ValueError(f"position {last} lies beyond the model's max_positions {limit}")
        x = self.embedding(slots)
        if c.scale_embedding:
            x = x * math.sqrt(c.d_model)
        places = positions.embed(slots.position_ids)
        if places is not None:
            x = x + places
        if norm is not None:
            x = norm(x)
        if c.norm_order == "post" and x.device.type == "cpu" and torch.is_autocast_enabled("cpu"):
            # Post-norm states are normalised at every step, so they may flow in the precision of the matmuls;
            # a pre-norm stream grows with depth and stays in fp32.
            x = x.to(torch.get_autocast_dtype("cpu"))
        x = dropout(x, c.dropout if c.embedding_dropout is None else c.embedding_dropout, self.training)
        return x if self.embedding_projection is None else self.embedding_projection(x)


@dataclass(frozen=True, slots=True)
class View:
    """What the layers of one pass through a stack share.

    sights: who sees whom, by a layer's band. merged: keys are the queries' own slots. across: who sees whom in the
    first stack.
    """

    sights: Mapping[int | None, Sight]
    relate: Relate | None
    merged: bool
    across: Sight | None


class Stack(nn.Module):
    """Layers, and after the last one of a pre-norm stack one more norm."""

    def __init__(self, config: TransformerConfig, num_layers: int, *, cross: bool) -> None:
        super().__init__()
        self.config = config
        self.layers = nn.ModuleList(Layer(config, i, num_layers, cross=cross) for i in range(num_layers))
        self.norm = _norm(config) if config.norm_order == "pre" else None

    def forward(
        self,
        x: Tensor,
        slots: Slots[Tensor],
        *,
        positions: Positions,
        checkpointing: bool = False,
        memory: Memory | None = None,
        use_memory: bool = False,
        wanted: Tensor | None = None,
        encoder: tuple[Slots[Tensor], Tensor | None] | None = None,
    ) -> tuple[tuple[Tensor, ...], Memory | None]:
        """x [R, L, D] -> the states before, between and after the layers, and the next memory if asked for.

        ``encoder``: the first stack's slots and states; ``None`` for the states where ``memory`` has what they said.
        """
        count, rows = len(self.layers), x.shape[:2]
        layers = cast(Sequence[Layer], self.layers)
        past = None if memory is None else memory.slots
        keys = slots if past is None else follow(past, slots)
        growing = None
        if memory is not None:
            _check_kind(memory, positions)
        if (memory is not None or use_memory) and not positions.remembers_inputs:
            held = 0 if past is None else len(past)
            growing = Growing(() if memory is None else memory.layers, held, len(slots))
        view = self._view(slots, keys, positions, encoder)
        if encoder is None:
            answers: list[Tensor | None] = [None] * count
        elif encoder[1] is None:
            answers = [] if memory is None else list(memory.layers[count:])
        else:
            answers = [layer.answers(encoder[1]) for layer in layers]
        states = [x]
        for i, (layer, answer) in enumerate(zip(layers, answers, strict=True)):
            memorise: Callable[[Tensor], Tensor] | None = None
            if growing is not None:
                memorise = partial(growing.extend, i)
            elif memory is not None:
                memorise = partial(layer.recall, memory.layers[i])
            only = (
                wanted if i == count - 1 and wanted is not None and 2 * len(wanted) < rows.numel() else None
            )
            run = partial(checkpoint, layer, use_reentrant=False) if checkpointing else layer
            x = run(x, view, memorise, answer, only)
            states.append(x)
        x = x if self.norm is None else self.norm(x)
        x = dropout(x, self.config.final_dropout, self.training)
        if x.ndim == 2 and wanted is not None:
            x = x.new_zeros(rows.numel(), x.shape[1]).index_copy(0, wanted, x).view(*rows, -1)
        states[-1] = x
        if not use_memory:
            return tuple(states), None
        said = tuple(a for a in answers if a is not None)
        if growing is not None:
            return tuple(states), growing.memory(keys, said)
        before = [] if memory is None else memory.layers
        read = [torch.cat([*before[i : i + 1], x], 1) for i, x in enumerate(states[:count])]
        return tuple(states), Memory(keys, (*read, *said))

    def _view(
        self,
        slots: Slots[Tensor],
        keys: Slots[Tensor],
        positions: Positions,
        encoder: tuple[Slots[Tensor], Tensor | None] | None,
    ) -> View:
        rate = self.config.attention_dropout if self.training else 0.0
        choose = partial(look, num_heads=self.config.num_heads, rate=rate)
        relate = positions.prepare(slots, keys)
        merged = keys is slots
        bands = dict.fromkeys(self.config.bands or (None,))
        sights = {b: choose(slots, keys, merged=merged, related=relate is not None, band=b) for b in bands}
        return View(
            sights, relate, merged, None if encoder is None else choose(slots, encoder[0], cross=True)
        )


class Layer(nn.Module):
    """Self-attention, cross-attention in a second stack, feed-forward; each added to what it read."""

    def __init__(self, config: TransformerConfig, index: int, num_layers: int, *, cross: bool) -> None:
        super().__init__()
        d, self.config = config.d_model, config
        inner = config.num_heads * config.head_width
        linear = partial(Linear, bias=config.bias)
        # GPT-2: 2 * num_layers sums would make a pre-norm stream grow without this (spec 14 section 2.1).
        grows = config.norm_order == "pre" and config.init == "normal"
        residual = (2 * num_layers) ** -0.5 if grows else 1.0
        query = config.head_width**-0.5 if config.init == "fan_in" else 1.0
        self.index = index
        self.scale = config.head_width**-0.5 if config.scale_attention else 1.0
        if config.scale_by_layer:
            self.scale /= index + 1
        self.band = None if config.bands is None else config.bands[index]
        self.attention_norm = _norm(config)
        # Relative positions bring the queries' biases along, and their papers have no others.
        self.biased = config.bias and config.positions != "relative"
        self.qkv = linear(d, 3 * inner, init_scale=(query, 1.0, 1.0), bias=self.biased)
        self.attention_out = linear(inner, d, init_scale=residual, bias=self.biased)
        self.cross_norm = _norm(config) if cross else None
        if cross:
            self.cross_q = linear(d, inner, init_scale=query)
            self.cross_kv = linear(d, 2 * inner, init_scale=(1.0, 1.0))
            self.cross_out = linear(inner, d, init_scale=residual)
        self.up_norm = _norm(config)
        self.gate = linear(d, config.d_ff) if config.gated else None
        self.up = linear(d, config.d_ff)
        self.down = linear(config.d_ff, d, init_scale=residual)

    def forward(
        self,
        x: Tensor,
        view: View,
        memorise: Callable[[Tensor], Tensor] | None = None,
        answers: Tensor | None = None,
        wanted: Tensor | None = None,
    ) -> Tensor:
        """[R, L, D] -> [R, L, D], or of the ``wanted`` slots [N] alone -> [N, D].

        memorise: takes our keys and values [R, H, 2, L, d] and gives all that are seen, the past's first.
        answers: the first stack's keys and values, likewise.
        """
        pre = self.config.norm_order == "pre"
        y = self._attend(self.attention_norm(x) if pre else x, view, memorise)
        if wanted is not None and answers is None:
            x, y = _pick(x, wanted), _pick(y, wanted)
        x = self._add(x, self.attention_out(y))
        x = x if pre else self.attention_norm(x)
        if view.across is not None and answers is not None and self.cross_norm is not None:
            y = self._ask(self.cross_norm(x) if pre else x, view.across, answers)
            if wanted is not None:
                x, y = _pick(x, wanted), _pick(y, wanted)
            x = self._add(x, self.cross_out(y))
            x = x if pre else self.cross_norm(x)
        x = self._add(x, self._feed_forward(self.up_norm(x) if pre else x))
        return x if pre else self.up_norm(x)

    def recall(self, past: Tensor, new: Tensor) -> Tensor:
        """Keys and values of slots that this layer read before, past [R, P, D], and then the ``new`` ones."""
        x = self.attention_norm(past) if self.config.norm_order == "pre" else past
        inner = len(self.qkv.weight) // 3
        bias = self.qkv.bias[inner:] if self.biased else None
        kv = F.linear(x, self.qkv.weight[inner:], bias).view(*x.shape[:2], 2, self.config.num_heads, -1)
        return torch.cat([kv.permute(0, 3, 2, 1, 4), new], 3)

    def answers(self, encoded: Tensor) -> Tensor:
        """What cross-attention finds in the first stack's states: keys and values, [R, H, 2, L, d]."""
        kv: Tensor = self.cross_kv(encoded)
        return kv.view(*kv.shape[:2], 2, self.config.num_heads, -1).permute(0, 3, 2, 1, 4)

    def _attend(self, x: Tensor, view: View, memorise: Callable[[Tensor], Tensor] | None) -> Tensor:
        qkv: Tensor = self.qkv(x)
        qkv = qkv.view(*qkv.shape[:2], 3, self.config.num_heads, -1)
        rate, sight, bias = self.config.attention_dropout * self.training, view.sights[self.band], None
        if memorise is None:
            own, k, v = qkv.transpose(1, 3).unbind(2)
        else:
            first, kv = qkv.transpose(1, 3).split((1, 2), 2)
            own, (k, v) = first.squeeze(2), memorise(kv).unbind(2)
        q = own
        if view.relate is not None:
            q, k, bias = view.relate(own, k, self.index)
        if view.merged and q is own:  # nothing but a bias relates them
            return attend_merged(qkv, sight, scale=self.scale, bias=bias, rate=rate).flatten(2)
        return attend(q, k, v, sight, scale=self.scale, bias=bias, rate=rate).transpose(1, 2).flatten(2)

    def _ask(self, x: Tensor, across: Sight, answers: Tensor) -> Tensor:
        q: Tensor = self.cross_q(x)
        q = q.view(*q.shape[:2], self.config.num_heads, -1).transpose(1, 2)
        rate = self.config.attention_dropout * self.training
        return attend_across(q, answers, across, scale=self.scale, rate=rate).transpose(1, 2).flatten(2)

    def _feed_forward(self, x: Tensor) -> Tensor:
        if self.gate is None:
            y = activate(self.up(x), self.config.activation)
        else:
            y = gated(self.gate(x), self.up(x), self.config.activation)
        fed: Tensor = self.down(dropout(y, self.config.activation_dropout, self.training))
        return fed

    def _add(self, residual: Tensor, x: Tensor) -> Tensor:
        return add_dropped(residual, x, self.config.dropout, self.training)


def _norm(config: TransformerConfig, width: int | None = None) -> nn.LayerNorm | RMSNorm:
    return new_norm(config.norm, width or config.d_model, config.norm_eps, bias=config.bias)


def _check_kind(memory: Memory, positions: Positions) -> None:
    """Raises UserError if another kind of positions made ``memory``."""
    if memory.layers and (memory.layers[0].ndim == 3) != positions.remembers_inputs:
        raise UserError(
            "this memory is of another kind: only a model with positions=relative carries what its layers read from "
            "window to window (with objective.memory_length=0 nothing is carried)"
        )


def _pick(x: Tensor, wanted: Tensor) -> Tensor:
    return x.flatten(0, 1).index_select(0, wanted)
