"""One Transformer: one stack, or two with cross-attention; who sees whom comes with the slots (spec 05, 06, 14).

Shapes: R rows, L slots, D = d_model, H heads, d = D / H.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from plume.models.attention import Sight, attend, look
from plume.models.dropout import dropout
from plume.models.embedding import Embedding, Linear
from plume.models.heads import ACTIVATIONS, Activation
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
        """Hidden states of ``inputs``, and of ``decoder_inputs`` where the model has two stacks.

        ``memory`` holds the keys and values of earlier slots, which stay visible by their ranks; ``use_memory``
        asks for the new one.

        Raises:
            ValueError: one stack was given two inputs or the reverse, or a position lies beyond ``max_positions``.
        """
        if (decoder_inputs is None) != (self.decoder is None):
            raise ValueError(
                "decoder inputs are for a model with num_decoder_layers > 0, and such a model needs them"
            )
        if self.decoder is not None and (memory is not None or use_memory):
            raise NotImplementedError("memory of two stacks")
        past = None if memory is None else memory
        states, layers = self.stack(
            self.embed(inputs), inputs, past, use_memory, self.activation_checkpointing
        )
        if self.decoder is None or decoder_inputs is None:
            return Hidden(states[-1], layers=states, memory=layers)
        encoded = states[-1]
        states, _ = self.decoder(
            self.embed(decoder_inputs),
            decoder_inputs,
            None,
            False,
            self.activation_checkpointing,
            inputs,
            encoded,
        )
        return Hidden(states[-1], encoder=encoded, layers=states)

    def embed(self, slots: Slots[Tensor]) -> Tensor:
        c = self.config
        x = self.embedding(slots)
        if c.scale_embedding:
            x = x * math.sqrt(c.d_model)
        x = x + self.positions.embed(slots.position_ids)
        if self.embedding_norm is not None:
            x = self.embedding_norm(x)
        return dropout(x, c.dropout if c.embedding_dropout is None else c.embedding_dropout, self.training)


class Stack(nn.Module):
    def __init__(self, config: TransformerConfig, num_layers: int, *, cross: bool) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Layer(config, i, num_layers, cross=cross) for i in range(num_layers))
        self.norm = nn.LayerNorm(config.d_model, config.norm_eps) if config.norm_order == "pre" else None

    def forward(
        self,
        x: Tensor,
        slots: Slots[Tensor],
        memory: Memory | None,
        use_memory: bool,
        checkpointing: bool,
        encoder_slots: Slots[Tensor] | None = None,
        encoded: Tensor | None = None,
    ) -> tuple[tuple[Tensor, ...], Memory | None]:
        keys = slots
        if memory is not None and memory.slots is not None:
            keys = _follow(memory.slots, slots)
        sight = look(slots, keys)
        cross_sight = None if encoder_slots is None else look(slots, encoder_slots, cross=True)
        states, caches = [x], []
        for i, layer in enumerate(self.layers):
            past = None if memory is None else memory.layers[i]
            run: Callable[..., tuple[Tensor, Tensor]] = layer
            if checkpointing and torch.is_grad_enabled():
                x, cache = checkpoint(run, x, sight, past, encoded, cross_sight, use_reentrant=False)
            else:
                x, cache = run(x, sight, past, encoded, cross_sight)
            states.append(x)
            caches.append(cache)
        if self.norm is not None:
            states[-1] = self.norm(x)
        kept = Memory(replace(keys, layout=None), tuple(caches)) if use_memory else None
        return tuple(states), kept


class Layer(nn.Module):
    def __init__(self, config: TransformerConfig, index: int, num_layers: int, *, cross: bool) -> None:
        super().__init__()
        d, self.config = config.d_model, config
        # GPT-2: as many residual sums as 2 * num_layers would make the stream grow without this (spec 14 section 2.1).
        residual = (2 * num_layers) ** -0.5 if config.norm_order == "pre" else 1.0
        self.scale = (d // config.num_heads) ** -0.5 / ((index + 1) if config.scale_by_layer else 1)
        self.attention_norm = nn.LayerNorm(d, config.norm_eps)
        self.qkv = Linear(d, 3 * d)
        self.attention_out = Linear(d, d, init_scale=residual)
        if cross:
            self.cross_norm = nn.LayerNorm(d, config.norm_eps)
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
        past: Tensor | None,
        encoded: Tensor | None,
        cross_sight: Sight | None,
        relate: Relate | None = None,
    ) -> tuple[Tensor, Tensor]:
        c, pre = self.config, self.config.norm_order == "pre"

        def heads(t: Tensor, parts: int) -> tuple[Tensor, ...]:
            return t.view(*t.shape[:-1], parts, c.num_heads, -1).permute(2, 0, 3, 1, 4).unbind(0)

        def mix(q: Tensor, k: Tensor, v: Tensor, who: Sight) -> Tensor:
            mixed = attend(q, k, v, who, rate=c.attention_dropout, training=self.training, scale=self.scale)
            return mixed.transpose(1, 2).flatten(2)

        q, k, v = heads(self.qkv(self.attention_norm(x) if pre else x), 3)
        if past is not None:
            k, v = torch.cat([past[:, 0], k], 2), torch.cat([past[:, 1], v], 2)
        x = x + dropout(self.attention_out(mix(q, k, v, sight)), c.dropout, self.training)
        x = x if pre else self.attention_norm(x)
        if cross_sight is not None and encoded is not None:
            (q,) = heads(self.cross_q(self.cross_norm(x) if pre else x), 1)
            ek, ev = heads(self.cross_kv(encoded), 2)
            x = x + dropout(self.cross_out(mix(q, ek, ev, cross_sight)), c.dropout, self.training)
            x = x if pre else self.cross_norm(x)
        h = ACTIVATIONS[c.activation](self.up(self.up_norm(x) if pre else x))
        x = x + dropout(self.down(h), c.dropout, self.training)
        return x if pre else self.up_norm(x), torch.stack([k, v], 1)


def _follow(past: Slots[Tensor], new: Slots[Tensor]) -> Slots[Tensor]:
    names = (
        "input_ids",
        "position_ids",
        "token_type_ids",
        "visible_at",
        "sees_until",
        "document_ids",
        "example_ids",
    )
    return replace(
        new, layout=None, labels={}, given={}, features=None,
        **{n: torch.cat([getattr(past, n), getattr(new, n)], 1) for n in names},
    )  # fmt: skip
