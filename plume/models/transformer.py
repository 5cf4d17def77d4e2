"""One Transformer: one stack, or two with cross-attention; who sees whom comes with the slots (spec 05, 06, 14).

Shapes: R rows, L slots, D = d_model, H heads, d = D / H.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal, cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from plume.models.activations import Activation, activate
from plume.models.attention import Sight, attend, attend_merged, look
from plume.models.dropout import add_dropped, dropout
from plume.models.embedding import Embedding, Linear
from plume.models.memory import Growing, follow
from plume.models.positions import Kind, Positions, Relate
from plume.models.pretrained import Hidden
from plume.slots import Memory, Slots
from plume.vocabulary import Vocabulary


@dataclass(frozen=True)
class TransformerConfig:
    """The shape of a Transformer.

    norm_order: "post" is the original and BERT, "pre" is GPT-2 (then one more norm ends each stack).
    num_decoder_layers > 0 adds a second stack that attends to the first. token_types: segment rows added to
    the embeddings. embedding_norm: LayerNorm on the summed embeddings (BERT). scale_embedding: times
    sqrt(D) (the original). scale_by_layer: GPT-2's ``scale_attn_by_inverse_layer_idx``. virtual_tokens:
    learned rows for ids beyond the vocabulary (XLNet's query, prompts). dropout is used on embeddings and before
    each residual sum, attention_dropout on the attention weights; embedding_dropout, where set, on the embeddings.
    """

    num_layers: int
    d_model: int
    num_heads: int
    d_ff: int
    norm_order: Literal["pre", "post"] = "pre"
    positions: Kind = "learned"
    max_positions: int = 512
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
    init_std: float = 0.02

    def __post_init__(self) -> None:
        if self.d_model % self.num_heads:
            raise ValueError(f"d_model {self.d_model} must be a multiple of num_heads {self.num_heads}")

    def build(self, vocab: Vocabulary) -> Transformer:
        """A Transformer over ``vocab``; its weights are set by ``PretrainedModel.build`` or a load."""
        return Transformer(self, vocab)


class Transformer(nn.Module):
    """Embeddings, a stack, and a second one with cross-attention where ``num_decoder_layers`` > 0."""

    packs = True

    def __init__(self, config: TransformerConfig, vocab: Vocabulary) -> None:
        super().__init__()
        self.config = config
        self.d_model = config.d_model
        self.activation: Activation = config.activation
        self.norm_eps = config.norm_eps
        self.init_std = config.init_std
        self.activation_checkpointing = False
        self.embedding = Embedding(
            vocab, config.d_model, token_types=config.token_types, virtual_tokens=config.virtual_tokens
        )
        self.positions = Positions(config.positions, config.max_positions, config.d_model)
        self.embedding_norm = nn.LayerNorm(config.d_model, config.norm_eps) if config.embedding_norm else None
        self.stack = Stack(config, config.num_layers, cross=False)
        self.decoder = (
            Stack(config, config.num_decoder_layers, cross=True) if config.num_decoder_layers else None
        )

    def forward(
        self,
        inputs: Slots[Tensor],
        decoder_inputs: Slots[Tensor] | None = None,
        *,
        memory: Memory | None = None,
        use_memory: bool = False,
    ) -> Hidden:
        """Hidden states of ``inputs``, or with two stacks of ``decoder_inputs``, which attend to ``inputs``.

        ``memory`` holds the keys and values of earlier slots of the last stack, which stay visible by their
        ranks; ``use_memory`` asks for the next one. With two stacks a memory also holds what the encoder said, so
        that ``inputs`` are not encoded again; they must be those of the first call.

        Raises:
            ValueError: one stack was given two inputs or two stacks one, or a position lies beyond
                ``max_positions``.
        """
        if (decoder_inputs is None) != (self.decoder is None):
            stacks = "one stack: it takes no" if self.decoder is None else "two stacks: it needs"
            raise ValueError(f"this model has {stacks} decoder inputs")
        checkpointing = self.activation_checkpointing and torch.is_grad_enabled()
        if self.decoder is None or decoder_inputs is None:
            states, kept = self.stack(
                self.embed(inputs), inputs, self.positions, memory, use_memory, checkpointing
            )
            return Hidden(states[-1], layers=states, memory=kept)
        encoded = None
        if memory is None:
            encoded = self.stack(self.embed(inputs), inputs, self.positions, None, False, checkpointing)[0][
                -1
            ]
        x = self.embed(decoder_inputs)
        states, kept = self.decoder(
            x, decoder_inputs, self.positions, memory, use_memory, checkpointing, inputs, encoded
        )
        return Hidden(states[-1], encoder=encoded, layers=states, memory=kept)

    def embed(self, slots: Slots[Tensor]) -> Tensor:
        """[R, L] -> [R, L, D]: tokens, segments and positions summed, normalised where the family does, dropped."""
        c = self.config
        # On a GPU the question would wait for it; there the loader's window length is the guard.
        free = slots.position_ids.device.type == "cpu" and not torch.compiler.is_compiling()
        if free and (last := int(slots.position_ids.max())) >= c.max_positions:
            raise ValueError(f"position {last} lies beyond the model's max_positions {c.max_positions}")
        x = self.embedding(slots)
        if c.scale_embedding:
            x = x * math.sqrt(c.d_model)
        x = x + self.positions.embed(slots.position_ids)
        if self.embedding_norm is not None:
            x = self.embedding_norm(x)
        if c.norm_order == "post" and x.device.type == "cpu" and torch.is_autocast_enabled("cpu"):
            # Post-norm states are normalised at every step, so they may flow in the precision of the matmuls;
            # a pre-norm stream grows with depth and stays in fp32.
            x = x.to(torch.get_autocast_dtype("cpu"))
        return dropout(x, c.dropout if c.embedding_dropout is None else c.embedding_dropout, self.training)


class Stack(nn.Module):
    """Layers, and after the last one of a pre-norm stack one more norm."""

    def __init__(self, config: TransformerConfig, num_layers: int, *, cross: bool) -> None:
        super().__init__()
        self.config = config
        self.layers = nn.ModuleList(Layer(config, i, num_layers, cross=cross) for i in range(num_layers))
        self.norm = nn.LayerNorm(config.d_model, config.norm_eps) if config.norm_order == "pre" else None

    def forward(
        self,
        x: Tensor,
        slots: Slots[Tensor],
        positions: Positions,
        memory: Memory | None,
        use_memory: bool,
        checkpointing: bool,
        encoder_slots: Slots[Tensor] | None = None,
        encoded: Tensor | None = None,
    ) -> tuple[tuple[Tensor, ...], Memory | None]:
        """x [R, L, D] -> the states before, between and after the layers, and the next memory if asked for."""
        count, heads = len(self.layers), self.config.num_heads
        rate = self.config.attention_dropout if self.training else 0.0
        past = None if memory is None else memory.slots
        keys = slots if past is None else follow(past, slots)
        growing = None
        if memory is not None or use_memory:
            held = 0 if past is None else len(past)
            growing = Growing(() if memory is None else memory.layers, held, len(slots))
        relate = positions.prepare(slots, keys)
        merged = past is None and relate is None
        sight = look(slots, keys, num_heads=heads, merged=merged, related=relate is not None, rate=rate)
        across: Sight | None = None
        answers: list[Tensor] = []
        if encoder_slots is not None:
            across = look(slots, encoder_slots, num_heads=heads, cross=True, rate=rate)
            if memory is not None:
                answers = list(memory.layers[count:])
        states = [x]
        for i, layer in enumerate(cast(Sequence[Layer], self.layers)):
            if across is not None and memory is None and encoded is not None:
                answers.append(layer.answers(encoded))
            asked = None if across is None else answers[i]
            memorise = None if growing is None else partial(growing.extend, i)
            inputs = (x, sight, merged, relate, memorise, across, asked)
            x = checkpoint(layer, *inputs, use_reentrant=False) if checkpointing else layer(*inputs)
            states.append(x)
        if self.norm is not None:
            states[-1] = self.norm(x)
        kept = growing.memory(keys, tuple(answers)) if growing is not None and use_memory else None
        return tuple(states), kept


class Layer(nn.Module):
    """Self-attention, cross-attention in a second stack, feed-forward; each added to what it read."""

    def __init__(self, config: TransformerConfig, index: int, num_layers: int, *, cross: bool) -> None:
        super().__init__()
        d, self.config = config.d_model, config
        # GPT-2: 2 * num_layers sums would make a pre-norm stream grow without this (spec 14 section 2.1).
        residual = (2 * num_layers) ** -0.5 if config.norm_order == "pre" else 1.0
        self.scale = (d // config.num_heads) ** -0.5
        if config.scale_by_layer:
            self.scale /= index + 1
        self.attention_norm = nn.LayerNorm(d, config.norm_eps)
        self.qkv = Linear(d, 3 * d)
        self.attention_out = Linear(d, d, init_scale=residual)
        self.cross_norm = nn.LayerNorm(d, config.norm_eps) if cross else None
        if cross:
            self.cross_q = Linear(d, d)
            self.cross_kv = Linear(d, 2 * d)
            self.cross_out = Linear(d, d, init_scale=residual)
        self.up_norm = nn.LayerNorm(d, config.norm_eps)
        self.up = Linear(d, config.d_ff)
        self.down = Linear(config.d_ff, d, init_scale=residual)

    def forward(
        self,
        x: Tensor,
        sight: Sight,
        merged: bool,
        relate: Relate | None,
        memorise: Callable[[Tensor], Tensor] | None,
        across: Sight | None,
        answers: Tensor | None,
    ) -> Tensor:
        """[R, L, D] -> [R, L, D].

        merged: the keys are the queries' own slots, and nothing relates their positions. memorise: takes our keys
        and values [R, H, 2, L, d] and gives all that are seen, the past's first.
        """
        pre = self.config.norm_order == "pre"
        y = self._attend(self.attention_norm(x) if pre else x, sight, merged, relate, memorise)
        x = self._add(x, self.attention_out(y))
        x = x if pre else self.attention_norm(x)
        if across is not None and answers is not None and self.cross_norm is not None:
            y = self._ask(self.cross_norm(x) if pre else x, across, answers)
            x = self._add(x, self.cross_out(y))
            x = x if pre else self.cross_norm(x)
        y = self.down(activate(self.up(self.up_norm(x) if pre else x), self.config.activation))
        x = self._add(x, y)
        return x if pre else self.up_norm(x)

    def answers(self, encoded: Tensor) -> Tensor:
        """What cross-attention finds in the first stack's states: keys and values, [R, H, 2, L, d]."""
        kv: Tensor = self.cross_kv(encoded)
        return kv.view(*kv.shape[:2], 2, self.config.num_heads, -1).permute(0, 3, 2, 1, 4)

    def _attend(
        self,
        x: Tensor,
        sight: Sight,
        merged: bool,
        relate: Relate | None,
        memorise: Callable[[Tensor], Tensor] | None,
    ) -> Tensor:
        qkv: Tensor = self.qkv(x)
        qkv = qkv.view(*qkv.shape[:2], 3, self.config.num_heads, -1)
        rate = self.config.attention_dropout if self.training else 0.0
        kv = qkv[:, :, 1:].permute(0, 3, 2, 1, 4)
        if memorise is not None:
            kv = memorise(kv)
        if merged:
            return attend_merged(qkv, sight, scale=self.scale, rate=rate).flatten(2)
        q, k, v, bias = qkv[:, :, 0].transpose(1, 2), kv[:, :, 0], kv[:, :, 1], None
        if relate is not None:
            q, k, bias = relate(q, k)
        return attend(q, k, v, sight, scale=self.scale, bias=bias, rate=rate).transpose(1, 2).flatten(2)

    def _ask(self, x: Tensor, across: Sight, answers: Tensor) -> Tensor:
        q: Tensor = self.cross_q(x)
        q = q.view(*q.shape[:2], self.config.num_heads, -1).transpose(1, 2)
        rate = self.config.attention_dropout if self.training else 0.0
        return (
            attend(q, answers[:, :, 0], answers[:, :, 1], across, scale=self.scale, rate=rate)
            .transpose(1, 2)
            .flatten(2)
        )

    def _add(self, residual: Tensor, x: Tensor) -> Tensor:
        return add_dropped(residual, x, self.config.dropout, self.training)
