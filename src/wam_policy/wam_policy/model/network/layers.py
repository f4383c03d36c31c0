"""Define the layers of the transformer, with the parameter names of the released checkpoints."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wam_policy.model.network.attention import GroupedAttention, attend
from wam_policy.model.network.kv_cache import BatchedLayerKVCache, LayerKVCache
from wam_policy.model.network.model_config import ModelConfig
from wam_policy.model.network.rope import Rotation, apply_rotation


class ContextKV(NamedTuple):
    """Hold the cross-attention keys and values of one layer, [batch heads tokens head_dim]."""

    text: tuple[Tensor, Tensor]
    image: tuple[Tensor, Tensor] | None
    text_bias: Tensor | None = None  # [batch 1 1 text tokens], of the scores; see fold_padding


class ContextEmbeddings(NamedTuple):
    """Hold embedded text and image [batch tokens dim]; each layer computes keys and values.

    Training passes these to the blocks, so that a block is the unit of sharding and gradient
    checkpointing.
    """

    text: Tensor
    image: Tensor | None


def fold_padding(text: Tensor) -> tuple[Tensor, Tensor | None]:
    """Return text [batch tokens dim] with one row for its padding, and the bias of the scores.

    Padding is zero rows at the end, to which the released models attend, too. Equal rows have
    equal keys and values, so that n of them have the weight of one whose score is log(n) higher:
    an instruction of 40 tokens has 41 keys instead of 512. The bias is None if little is saved.
    """
    used = text.ne(0).any(dim=-1).any(dim=0).nonzero()
    kept = int(used.max()) + 1 if len(used) else 0
    if 2 * (kept + 1) > text.shape[1]:
        return text, None
    bias = text.new_zeros(len(text), 1, 1, kept + 1)
    bias[..., -1] = math.log(text.shape[1] - kept)
    return text[:, : kept + 1], bias


class RMSNorm(nn.Module):
    """Normalize in float32 and round before multiplying by the weight, as the released models."""

    def __init__(self, dim: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x.float(), x.shape[-1:], eps=self.eps).to(x.dtype) * self.weight


class CategoryLinear(nn.Module):
    """Apply an affine map stored [category in out]; released models have one category."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.W = make_normal_parameter((1, inputs, outputs), 0.02)
        self.b = nn.Parameter(torch.zeros(1, outputs))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.W[0] + self.b[0]


class CategoryMLP(nn.Module):
    def __init__(self, inputs: int, hidden: int, outputs: int) -> None:
        super().__init__()
        self.layer1 = CategoryLinear(inputs, hidden)
        self.layer2 = CategoryLinear(hidden, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer2(F.relu(self.layer1(x)))


class ActionEncoder(nn.Module):
    def __init__(self, action_dim: int, dim: int) -> None:
        super().__init__()
        self.W1 = CategoryLinear(action_dim, dim)
        self.W2 = CategoryLinear(2 * dim, dim)
        self.W3 = CategoryLinear(dim, dim)

    def forward(self, action: Tensor, timestep_features: Tensor) -> Tensor:
        lifted = self.W1(action)
        return self.W3(
            F.silu(self.W2(torch.cat([lifted, timestep_features.expand_as(lifted)], dim=-1)))
        )


class ImageEmbedding(nn.Module):
    def __init__(self, image_dim: int, dim: int) -> None:
        super().__init__()
        self.proj = nn.Sequential(
            nn.LayerNorm(image_dim),
            nn.Linear(image_dim, image_dim),
            nn.GELU(),
            nn.Linear(image_dim, dim),
            nn.LayerNorm(dim),
        )

    def forward(self, image: Tensor) -> Tensor:
        return self.proj(image)


class SelfAttention(nn.Module):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.q, self.k, self.v, self.o = (nn.Linear(config.dim, config.dim) for _ in range(4))
        self.norm_q = RMSNorm(config.dim, config.eps)
        self.norm_k = RMSNorm(config.dim, config.eps)
        self._qkv: nn.Module | None = None
        self._fused_types: tuple[type[nn.Module], ...] = ()

    def forward(
        self,
        x: Tensor,
        rotation: Rotation,
        kv_cache: LayerKVCache | BatchedLayerKVCache | None,
        grouped: GroupedAttention | None,
    ) -> Tensor:
        q, k, v = self._project(x)
        q = self._rotate(self.norm_q(q), rotation)
        k, v = self._rotate(self.norm_k(k), rotation), self._split_heads(v)
        if isinstance(kv_cache, BatchedLayerKVCache):
            return self.o(kv_cache.attend(q, k, v).transpose(1, 2).flatten(-2))
        if kv_cache is not None:
            k, v = kv_cache.append(k, v)
        seen = attend(q, k, v) if grouped is None else grouped.attend(q, k, v)
        return self.o(seen.transpose(1, 2).flatten(-2))

    def append_kv(self, x: Tensor, rotation: Rotation, kv_cache: LayerKVCache) -> None:
        """Write keys and values of x only: what a pass needs of its last layer."""
        k = self._rotate(self.norm_k(self.k(x)), rotation)
        kv_cache.append(k, self._split_heads(self.v(x)))

    def fuse_projections(self, join: Callable[[list[Any]], nn.Module]) -> None:
        """Compute queries, keys and values by one product from now on.

        `join` makes one module of three; the three stay, as views of it. If one of them is
        replaced later (quantized, adapted), all three are used again.
        """
        parts = [self.q, self.k, self.v]
        self._qkv, self._fused_types = join(parts), tuple(type(part) for part in parts)

    def _project(self, x: Tensor) -> tuple[Tensor, ...]:
        current = type(self.q), type(self.k), type(self.v)
        # a fused weight takes no gradient
        if self._qkv is None or current != self._fused_types or torch.is_grad_enabled():
            return self.q(x), self.k(x), self.v(x)
        return self._qkv(x).chunk(3, dim=-1)

    def _split_heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def _rotate(self, x: Tensor, rotation: Rotation) -> Tensor:
        return apply_rotation(x.unflatten(-1, (self.heads, -1)), rotation).transpose(1, 2)


class FusedLinear(nn.Module):
    """Apply several linears to the same input as one; they become views of its weight."""

    weight: Tensor
    bias: Tensor

    def __init__(self, linears: Sequence[nn.Module]) -> None:
        super().__init__()
        for name in ('weight', 'bias'):
            parts = [linear.get_parameter(name) for linear in linears]
            whole = torch.cat([part.detach() for part in parts])
            self.register_buffer(name, whole, persistent=False)
            for part, view in zip(parts, whole.split([len(part) for part in parts]), strict=True):
                part.data = view

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias)


class CrossAttention(nn.Module):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.q, self.k, self.v, self.o = (nn.Linear(config.dim, config.dim) for _ in range(4))
        self.norm_q = RMSNorm(config.dim, config.eps)
        self.norm_k = RMSNorm(config.dim, config.eps)
        if config.image_context:
            self.k_img, self.v_img = (nn.Linear(config.dim, config.dim) for _ in range(2))
            self.norm_k_img = RMSNorm(config.dim, config.eps)

    def compute_text_kv(self, text: Tensor) -> tuple[Tensor, Tensor]:
        """Compute keys and values of embedded text once for all passes that read them."""
        return self._split_heads(self.norm_k(self.k(text))), self._split_heads(self.v(text))

    def compute_image_kv(self, image: Tensor) -> tuple[Tensor, Tensor]:
        return self._split_heads(self.norm_k_img(self.k_img(image))), self._split_heads(
            self.v_img(image)
        )

    def compute_kv(self, embeddings: ContextEmbeddings) -> ContextKV:
        """Compute keys and values of text and image."""
        image = None if embeddings.image is None else self.compute_image_kv(embeddings.image)
        return ContextKV(self.compute_text_kv(embeddings.text), image)

    def forward(self, x: Tensor, context: ContextKV | ContextEmbeddings) -> Tensor:
        if isinstance(context, ContextEmbeddings):
            context = self.compute_kv(context)
        q = self._split_heads(self.norm_q(self.q(x)))
        seen = attend(q, *context.text, context.text_bias)
        if context.image is not None:
            seen = seen + attend(q, *context.image)
        return self.o(seen.transpose(1, 2).flatten(-2))

    def _split_heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)


class TransformerBlock(nn.Module):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.eps = config.eps
        self.modulation = make_normal_parameter((1, 6, config.dim), config.dim**-0.5)
        self.self_attn = SelfAttention(config)
        self.norm3 = nn.LayerNorm(config.dim, eps=config.eps)
        self.cross_attn = CrossAttention(config)
        self.ffn = nn.Sequential(
            nn.Linear(config.dim, config.ffn_dim),
            nn.GELU(approximate='tanh'),
            nn.Linear(config.ffn_dim, config.dim),
        )

    def forward(
        self,
        x: Tensor,
        modulation: Tensor,
        rotation: Rotation,
        context: ContextKV | ContextEmbeddings,
        kv_cache: LayerKVCache | BatchedLayerKVCache | None = None,
        grouped: GroupedAttention | None = None,
        keys_only: bool = False,
    ) -> Tensor:
        """Return the next hidden tokens; with `keys_only` fill the cache and return x."""
        shift1, scale1, gate1, shift2, scale2, gate2 = (self.modulation + modulation).unbind(-2)
        h = modulate(x, shift1, scale1, self.eps)
        if keys_only:
            assert kv_cache is not None and not isinstance(kv_cache, BatchedLayerKVCache)
            self.self_attn.append_kv(h, rotation, kv_cache)
            return x
        x = x + gate1 * self.self_attn(h, rotation, kv_cache, grouped)
        x = x + self.cross_attn(self.norm3(x), context)
        h = modulate(x, shift2, scale2, self.eps)
        return x + gate2 * self.ffn(h)


class OutputHead(nn.Module):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.eps = config.eps
        self.modulation = make_normal_parameter((1, 2, config.dim), config.dim**-0.5)
        self.head = nn.Linear(config.dim, config.patch**2 * config.latent_channels)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        shift, scale = (self.modulation + embedding[..., None, :]).unbind(-2)
        return self.head(modulate(x, shift, scale, self.eps))


class PatchEmbedding(nn.Module):
    """Embed patches by a matrix product, with the weight layout of the original convolution."""

    def __init__(self, channels: int, dim: int, patch: int) -> None:
        super().__init__()
        self.patch = patch
        self.weight = nn.Parameter(torch.empty(dim, channels, 1, patch, patch))
        self.bias = nn.Parameter(torch.zeros(dim))
        nn.init.xavier_uniform_(self.weight.flatten(1))

    def forward(self, video: Tensor) -> Tensor:
        """Embed [batch channels frames rows columns] as tokens [batch tokens dim], frame-major."""
        p = self.patch
        x = video.unflatten(4, (-1, p)).unflatten(3, (-1, p))  # b c f r p q p
        x = x.permute(0, 2, 3, 5, 1, 4, 6).flatten(4).flatten(1, 3)
        return F.linear(x, self.weight.flatten(1), self.bias)


def modulate(x: Tensor, shift: Tensor, scale: Tensor, eps: float) -> Tensor:
    if x.device.type == 'cpu' and x.dtype == torch.float32 and scale.numel() == x.shape[-1]:
        # one kernel, where all tokens share a flow time: 0.08 instead of 0.20 ms for 465 tokens
        return F.layer_norm(x, x.shape[-1:], (1 + scale).flatten(), shift.flatten(), eps)
    return F.layer_norm(x, x.shape[-1:], eps=eps) * (1 + scale) + shift


def make_normal_parameter(shape: tuple[int, ...], std: float) -> nn.Parameter:
    """Return a parameter drawn from a normal distribution of mean 0; on meta, without values.

    Drawing on the meta device imports sympy and more of torch: 1.2 s of a worker's start.
    """
    values = torch.empty(shape)
    return nn.Parameter(values if values.is_meta else values.normal_(std=std))
