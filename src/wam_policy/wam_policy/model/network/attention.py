"""Select the attention kernel; list which tokens attend to which in teacher forcing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from wam_policy.model.network.model_config import ModelConfig

# On CUDA in this order: cuDNN's kernel is the fastest on Hopper and newer, the others stand in
# where a build, a device or a shape is not supported. 'math' is left out: it would hold all scores
# (2.3 GB a layer at 14B) and hide that a fast kernel was refused.
CUDA_BACKENDS = (
    SDPBackend.CUDNN_ATTENTION,
    SDPBackend.FLASH_ATTENTION,
    SDPBackend.EFFICIENT_ATTENTION,
)


def attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
    """Attend over tensors [batch heads tokens head_dim]; every query attends to every key.

    `bias` [batch 1 1 keys] is added to the scores; only float32 on a CPU takes one.
    """
    if bias is not None:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
    if q.requires_grad and q.device.type == 'cpu' and q.dtype != torch.float32:
        return _attend_unfused(q, k, v)
    if q.is_cuda and q.dtype != torch.float32:
        with sdpa_kernel(list(CUDA_BACKENDS), set_priority=True):
            return F.scaled_dot_product_attention(q, k, v)
    return F.scaled_dot_product_attention(q, k, v)


def _attend_unfused(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    # The backward pass of the CPU's fused kernel is slow in half precision: a training step of
    # 121 tokens took 0.45 s with it and 0.25 s with this one (one core, batch 32). In float32 the
    # fused kernel is faster: 0.95 s against 1.18 s on a core without half-precision instructions.
    return ((q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)).softmax(-1) @ v


# ---- teacher forcing


@dataclass(frozen=True, slots=True)
class TokenGroup:
    """Name the queries that attend to the same keys; both are runs [first, stop) of tokens."""

    queries: tuple[tuple[int, int], ...]
    keys: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class GroupedAttention:
    """Attend group by group, each to its own keys only.

    The same as one attention under a mask, for a third of the operations at 14B, without the mask
    and with the kernels that take none.
    """

    groups: tuple[TokenGroup, ...]

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attend over tensors [batch heads tokens head_dim]."""
        parts: dict[int, Tensor] = {}
        for group in self.groups:
            found = attend(
                _take_runs(q, group.queries),
                _take_runs(k, group.keys),
                _take_runs(v, group.keys),
            )
            sizes = [stop - first for first, stop in group.queries]
            for (first, _), part in zip(group.queries, found.split(sizes, dim=2), strict=True):
                parts[first] = part
        return torch.cat([parts[first] for first in sorted(parts)], dim=2)

    def make_mask(self, tokens: int) -> Tensor:
        """Return the same as a mask [tokens tokens], True where a query attends to a key."""
        mask = torch.zeros(tokens, tokens, dtype=torch.bool)
        for group in self.groups:
            for first, stop in group.queries:
                for first_key, stop_key in group.keys:
                    mask[first:stop, first_key:stop_key] = True
        return mask


def _take_runs(x: Tensor, runs: Sequence[tuple[int, int]]) -> Tensor:
    parts = [x[:, :, first:stop] for first, stop in runs]
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=2)


@lru_cache(maxsize=16)
def group_teacher_forcing(
    config: ModelConfig, frames: int, with_noisy: bool, skip_unused_tokens: bool = False
) -> GroupedAttention:
    """Return the attention of the training sequence [clean | noisy | actions | states].

    With `skip_unused_tokens` the sequence has neither the clean last block nor the noisy frame 0.

    Clean blocks attend to frame 0 and a window of clean frames up to their own end. Noisy, action
    and state tokens of a block attend to the clean past and each other. With `masked_state` a
    state token attends to itself only, as in the training of the released models.
    """
    c, size = config, config.frame_tokens
    blocks = (frames - 1) // c.frames_per_block
    clean_frames = frames - c.frames_per_block if skip_unused_tokens else frames
    noisy_start = clean_frames * size
    # where the noisy frame 0 is, or would be
    noisy_zero = noisy_start - size if skip_unused_tokens else noisy_start
    noisy_end = noisy_zero + frames * size if with_noisy else noisy_start
    states_start = noisy_end + blocks * c.actions_per_block
    groups = [_make_run_group((0, size), [(0, size)])]
    if with_noisy and not skip_unused_tokens:  # frame 0 is no part of a block
        own = (noisy_start, noisy_start + size)
        groups.append(_make_run_group(own, [own]))
    for block in range(1, blocks + 1):
        first, stop = 1 + (block - 1) * c.frames_per_block, 1 + block * c.frames_per_block
        if stop <= clean_frames:
            oldest = max(1, stop - c.window_frames)
            groups.append(
                _make_run_group(
                    (first * size, stop * size),
                    [(0, size), (oldest * size, stop * size)],
                )
            )
        video = [(noisy_zero + first * size, noisy_zero + stop * size)] if with_noisy else []
        acts = noisy_end + (block - 1) * c.actions_per_block
        states = states_start + (block - 1) * c.states_per_block
        own_runs = [
            *video,
            (acts, acts + c.actions_per_block),
            (states, states + c.states_per_block),
        ]
        keys = [(0, first * size), *own_runs]
        if not c.masked_state:
            groups.append(TokenGroup(tuple(own_runs), _join_runs(keys)))
            continue
        groups.append(TokenGroup(tuple(own_runs[:-1]), _join_runs(keys)))
        groups += [
            _make_run_group((state, state + 1), [(state, state + 1)])
            for state in range(states, states + c.states_per_block)
        ]
    return GroupedAttention(tuple(groups))


def _make_run_group(queries: tuple[int, int], keys: list[tuple[int, int]]) -> TokenGroup:
    return TokenGroup((queries,), _join_runs(keys))


def _join_runs(runs: list[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    """Join runs that follow one another, so that fewer pieces are copied."""
    joined = [runs[0]]
    for first, stop in runs[1:]:
        if first == joined[-1][1]:
            joined[-1] = (joined[-1][0], stop)
        else:
            joined.append((first, stop))
    return tuple(joined)
