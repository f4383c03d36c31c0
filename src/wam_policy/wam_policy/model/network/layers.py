"""Define the layers of the transformer, with the parameter names of the released checkpoints."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wam_policy.model.network.attention import attend
from wam_policy.model.network.kv_cache import BatchedLayerKVCache, LayerKVCache
from wam_policy.model.network.model_config import ModelConfig
from wam_policy.model.network.rope import Rotation, apply_rotation


class ContextKV(NamedTuple):
    """Hold the cross-attention keys and values of one layer, [batch heads tokens head_dim]."""

    text: tuple[Tensor, Tensor]
    image: tuple[Tensor, Tensor] | None


class ContextEmbeddings(NamedTuple):
    """Hold embedded text and image [batch tokens dim]; each layer computes keys and values.

    Training passes these to the blocks, so that a block is the unit of sharding and gradient
    checkpointing.
    """

    text: Tensor
    image: Tensor | None


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
        self.W = nn.Parameter(0.02 * torch.randn(1, inputs, outputs))
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

    def forward(
        self,
        x: Tensor,
        rotation: Rotation,
        kv_cache: LayerKVCache | BatchedLayerKVCache | None,
        mask: Tensor | None,
    ) -> Tensor:
        split = (self.heads, -1)
        q = apply_rotation(self.norm_q(self.q(x)).unflatten(-1, split), rotation).transpose(1, 2)
        k = apply_rotation(self.norm_k(self.k(x)).unflatten(-1, split), rotation).transpose(1, 2)
        v = self.v(x).unflatten(-1, split).transpose(1, 2)
        if isinstance(kv_cache, BatchedLayerKVCache):
            return self.o(kv_cache.attend(q, k, v).transpose(1, 2).flatten(-2))
        if kv_cache is not None:
            k, v = kv_cache.append(k, v)
        return self.o(attend(q, k, v, mask).transpose(1, 2).flatten(-2))


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
        seen = attend(q, *context.text)
        if context.image is not None:
            seen = seen + attend(q, *context.image)
        return self.o(seen.transpose(1, 2).flatten(-2))

    def _split_heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)


class TransformerBlock(nn.Module):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.eps = config.eps
        self.modulation = nn.Parameter(torch.randn(1, 6, config.dim) / config.dim**0.5)
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
        mask: Tensor | None = None,
    ) -> Tensor:
        shift1, scale1, gate1, shift2, scale2, gate2 = (self.modulation + modulation).unbind(-2)
        h = modulate(x, shift1, scale1, self.eps)
        x = x + gate1 * self.self_attn(h, rotation, kv_cache, mask)
        x = x + self.cross_attn(self.norm3(x), context)
        h = modulate(x, shift2, scale2, self.eps)
        return x + gate2 * self.ffn(h)


class OutputHead(nn.Module):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.eps = config.eps
        self.modulation = nn.Parameter(torch.randn(1, 2, config.dim) / config.dim**0.5)
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
    return F.layer_norm(x, x.shape[-1:], eps=eps) * (1 + scale) + shift
