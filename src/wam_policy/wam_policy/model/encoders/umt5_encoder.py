"""Define the encoder of UMT5 (arXiv 2304.09151), with the parameter names of transformers.

Our own, because transformers takes half of a worker's start on a CPU to import (2 s of processor
time): it brings generation, compilers and distributed training. Equality with it is tested.
"""

from __future__ import annotations

import math
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

MAX_DISTANCE = 128  # tokens; larger distances share a bucket
EPS = 1e-6


class UMT5Encoder(nn.Module):
    """Encode token ids; under `torch.device('meta')` construction needs no memory."""

    def __init__(
        self,
        *,
        vocabulary: int,
        dim: int,
        heads: int,
        head_dim: int,
        ffn_dim: int,
        layers: int,
        buckets: int,
    ) -> None:
        super().__init__()
        self.shared = _make_embedding(vocabulary, dim, 1.0)
        self.encoder = nn.Module()
        self.encoder.block = nn.ModuleList(
            _Block(dim, heads, head_dim, ffn_dim, buckets) for _ in range(layers)
        )
        self.encoder.final_layer_norm = _ScaleNorm(dim)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Encode ids [B L] under an additive mask [B 1 1|L L] to [B L dim]."""
        x = self.shared(ids)
        for block in cast(nn.ModuleList, self.encoder.block):
            x = block(x, mask)
        return cast(nn.Module, self.encoder.final_layer_norm)(x)


class _ScaleNorm(nn.Module):
    """Divide by the root mean square in float32 and round before the weight."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        scale = torch.rsqrt(x.float().square().mean(-1, keepdim=True) + EPS)
        return self.weight * (x * scale).to(self.weight.dtype)


class _SelfAttention(nn.Module):
    def __init__(self, dim: int, heads: int, head_dim: int, buckets: int) -> None:
        super().__init__()
        self.heads, self.buckets = heads, buckets
        inner = heads * head_dim
        self.q = _make_linear(dim, inner, (dim * head_dim) ** -0.5)
        self.k, self.v = (_make_linear(dim, inner, dim**-0.5) for _ in range(2))
        self.o = _make_linear(inner, dim, inner**-0.5)
        self.relative_attention_bias = _make_embedding(buckets, heads, dim**-0.5)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        q, k, v = (
            part(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for part in (self.q, self.k, self.v)
        )
        # products are not divided by the root of the width: the weights hold that scale
        scores = q @ k.transpose(-1, -2) + self._compute_bias(x.shape[1]) + mask
        return self.o((scores.softmax(-1) @ v).transpose(1, 2).flatten(-2))

    def _compute_bias(self, tokens: int) -> Tensor:
        """Return the bias [1 heads tokens tokens] of the distances."""
        place = torch.arange(tokens, device=self.relative_attention_bias.weight.device)
        buckets = find_distance_bucket(place[None] - place[:, None], self.buckets)
        return self.relative_attention_bias(buckets).permute(2, 0, 1)[None]


def find_distance_bucket(distance: Tensor, buckets: int) -> Tensor:
    """Return the bucket of signed distances: exact if near, by logarithm if far."""
    half = buckets // 2
    exact, size = half // 2, distance.abs()
    share = torch.log(size.float() / exact) / math.log(MAX_DISTANCE / exact)
    far = (exact + (share * (half - exact)).long()).clamp(max=half - 1)
    return torch.where(size < exact, size, far) + (distance > 0).long() * half


class _GatedFFN(nn.Module):
    def __init__(self, dim: int, ffn_dim: int) -> None:
        super().__init__()
        self.wi_0, self.wi_1 = (_make_linear(dim, ffn_dim, dim**-0.5) for _ in range(2))
        self.wo = _make_linear(ffn_dim, dim, ffn_dim**-0.5)

    def forward(self, x: Tensor) -> Tensor:
        return self.wo(F.gelu(self.wi_0(x), approximate='tanh') * self.wi_1(x))


class _AttentionLayer(nn.Module):
    def __init__(self, dim: int, heads: int, head_dim: int, buckets: int) -> None:
        super().__init__()
        self.SelfAttention = _SelfAttention(dim, heads, head_dim, buckets)
        self.layer_norm = _ScaleNorm(dim)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        return x + self.SelfAttention(self.layer_norm(x), mask)


class _FFNLayer(nn.Module):
    def __init__(self, dim: int, ffn_dim: int) -> None:
        super().__init__()
        self.DenseReluDense = _GatedFFN(dim, ffn_dim)
        self.layer_norm = _ScaleNorm(dim)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.DenseReluDense(self.layer_norm(x))


class _Block(nn.Module):
    def __init__(self, dim: int, heads: int, head_dim: int, ffn_dim: int, buckets: int) -> None:
        super().__init__()
        self.layer = nn.ModuleList(
            [_AttentionLayer(dim, heads, head_dim, buckets), _FFNLayer(dim, ffn_dim)]
        )

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        attention, gated = self.layer
        return gated(attention(x, mask))


def _make_linear(inputs: int, outputs: int, std: float) -> nn.Linear:
    linear = nn.Linear(inputs, outputs, bias=False)
    if not linear.weight.is_meta:
        nn.init.normal_(linear.weight, std=std)
    return linear


def _make_embedding(count: int, dim: int, std: float) -> nn.Embedding:
    values = torch.empty(count, dim)
    return nn.Embedding(count, dim, _weight=values if values.is_meta else values.normal_(std=std))
