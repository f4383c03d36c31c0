"""Select the attention kernel, and build the mask of teacher forcing."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from wam_policy.model.network.model_config import ModelConfig


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """Attend over tensors [batch heads tokens head_dim].

    `mask` [queries keys] is True where a query may attend to a key.
    """
    if q.requires_grad and q.device.type == 'cpu' and q.dtype != torch.float32:
        return _attend_unfused(q, k, v, mask)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)


def _attend_unfused(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    # The backward pass of the CPU's fused kernel is slow in half precision: a training step of
    # 121 tokens took 0.45 s with it and 0.25 s with this one (one core, batch 32). In float32 the
    # fused kernel is faster: 0.95 s against 1.18 s on a core without half-precision instructions.
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
    if mask is not None:
        scores = scores.masked_fill(~mask, -math.inf)
    return scores.softmax(-1) @ v


def make_teacher_forcing_mask(
    config: ModelConfig,
    frames: int,
    with_noisy: bool,
    device: torch.device,
    skip_unused_tokens: bool = False,
) -> Tensor:
    """Return the mask [tokens tokens] of the training sequence [clean | noisy | actions | states].

    With `skip_unused_tokens` the sequence has neither the clean last block nor the noisy frame 0.

    Clean blocks attend to frame 0 and a window of clean frames up to their own end. Noisy, action
    and state tokens of a block attend to the clean past and each other. With `masked_state` a
    state token attends to itself only, as in the training of the released models.
    """
    per_block, per_frame = config.frames_per_block, config.frame_tokens
    blocks = torch.arange((frames - 1) // per_block, device=device) + 1
    frame = torch.arange(frames, device=device).repeat_interleave(per_frame)
    block = torch.where(frame > 0, (frame - 1) // per_block + 1, 0)
    action = blocks.repeat_interleave(config.actions_per_block)
    state = blocks.repeat_interleave(config.states_per_block)

    noisy = block[block > 0] if skip_unused_tokens else block
    future_blocks = torch.cat([noisy if with_noisy else block[:0], action, state])
    if skip_unused_tokens:
        frame, block = frame[block < len(blocks)], block[block < len(blocks)]
    clean, future = len(block), len(future_blocks)
    mask = torch.zeros(clean + future, clean + future, dtype=torch.bool, device=device)

    oldest = block * per_block + 1 - config.window_frames
    in_window = (frame[None] == 0) | (frame[None] >= oldest[:, None])
    mask[:clean, :clean] = (block[None] <= block[:, None]) & in_window
    mask[clean:, :clean] = block[None] < future_blocks[:, None]
    mask[clean:, clean:] = future_blocks[None] == future_blocks[:, None]
    if config.masked_state:
        states = slice(clean + future - len(state), None)
        mask[states] = False
        mask[states, states] = torch.eye(len(state), dtype=torch.bool, device=device)
    return mask
