"""Hold the rotated keys and values of committed clean frames in preallocated buffers.

A pass writes its own keys and values behind the committed length and attends to both as one slice,
so that nothing is concatenated or reallocated. Only `commit` moves the length: the next pass
overwrites what a denoising pass wrote.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from wam_policy.model.network import rope
from wam_policy.model.network.attention import attend
from wam_policy.model.network.model_config import ModelConfig


class LayerKVCache(NamedTuple):
    """Hold the buffers of one layer during one pass."""

    keys: Tensor  # [batch heads capacity head_dim]
    values: Tensor
    start: int  # oldest token that the pass attends to
    write_index: int  # committed length

    def append(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Append k and v [batch heads tokens head_dim]; return cached and new ones together."""
        end = self.write_index + k.shape[2]
        if end > self.keys.shape[2]:
            raise ValueError(
                f'{self.write_index} cached and {k.shape[2]} new tokens exceed the '
                f'{self.keys.shape[2]} of the KV cache: commit or truncate first'
            )
        self.keys[:, :, self.write_index : end] = k
        self.values[:, :, self.write_index : end] = v
        return self.keys[:, :, self.start : end], self.values[:, :, self.start : end]


class BatchedLayerKVCache(NamedTuple):
    """Hold the buffers of one layer of several sessions, whose lengths may differ."""

    sessions: list[LayerKVCache]  # batch 1 each

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Append each session's k and v to its own cache, and let its q attend to that.

        The linear layers around this run as one batch; only attention runs session by session.
        """
        parts = zip(self.sessions, q.split(1), k.split(1), v.split(1), strict=True)
        return torch.cat(
            [attend(own, *layer.append(new, value)) for layer, own, new, value in parts]
        )


class BatchedKVCache:
    """Run a denoising pass over the caches of several sessions, which stay separate."""

    def __init__(self, caches: Sequence[KVCache]) -> None:
        self._caches = list(caches)

    def open_layers(self, new_frames: int) -> list[BatchedLayerKVCache]:
        """Return the buffers of every layer for a pass over `new_frames` latent frames."""
        opened = [cache.open_layers(new_frames) for cache in self._caches]
        return [BatchedLayerKVCache(list(layers)) for layers in zip(*opened, strict=True)]


class KVCache:
    """Hold up to a window of latent frames, oldest first."""

    def __init__(
        self, config: ModelConfig, batch: int, device: torch.device | str, dtype: torch.dtype
    ) -> None:
        self.frame_tokens = config.frame_tokens
        self.window_frames = config.window_frames
        # room behind a full window for the block and register of a query; a temporary block
        # precedes it only while a block of the window is free
        spare = config.frames_per_block * config.frame_tokens + config.register_tokens
        capacity = config.window_frames * config.frame_tokens + spare
        # tokens before heads: a run of tokens is contiguous, so that TensorRT needs no copy;
        # transposed to [layers batch heads capacity head_dim] for all other users
        shape = (config.layers, batch, capacity, config.heads, config.head_dim)
        self.keys, self.values = (
            torch.zeros(shape, device=device, dtype=dtype).transpose(2, 3) for _ in range(2)
        )
        self.frames = 0

    @property
    def length(self) -> int:
        """Count committed tokens."""
        return self.frames * self.frame_tokens

    @property
    def nbytes(self) -> int:
        return self.keys.nbytes + self.values.nbytes

    def open_layers(self, new_frames: int) -> list[LayerKVCache]:
        """Return the buffers of every layer for a pass over `new_frames` latent frames.

        The pass no longer attends to frames that the new ones push out of the window.
        """
        begin = max(0, self.frames + new_frames - self.window_frames) * self.frame_tokens
        pairs = zip(self.keys, self.values, strict=True)
        return [LayerKVCache(keys, values, begin, self.length) for keys, values in pairs]

    def commit(self, frames: int) -> None:
        """Keep what the last pass wrote for `frames` latent frames; evict what left the window."""
        self.frames += frames
        self.evict_oldest(max(0, self.frames - self.window_frames))

    def commit_temporary(self, frames: int) -> None:
        """Keep like `commit` but evict nothing, so that `truncate` can undo it."""
        self.frames += frames

    def truncate(self, frames: int) -> None:
        """Drop all but the oldest `frames` latent frames."""
        if not 0 <= frames <= self.frames:
            raise ValueError(f'cannot keep {frames} of {self.frames} cached frames')
        self.frames = frames

    def evict_oldest(self, frames: int) -> None:
        """Drop the oldest `frames` latent frames; the others keep their rotation."""
        drop = frames * self.frame_tokens
        if drop == 0:
            return
        for start in range(drop, self.length, drop):  # chunks of `drop` never overlap themselves
            stop = min(start + drop, self.length)
            for buffer in (self.keys, self.values):
                buffer[..., start - drop : stop - drop, :] = buffer[..., start:stop, :]
        self.frames -= frames

    def slide(self, frames: int) -> None:
        """Drop the oldest frames and rotate the remaining keys back by as many positions.

        Positions stay in the range the model was trained on, however long a session lasts.
        Rotations add up, so this is exact but for rounding.
        """
        self.evict_oldest(frames)
        width = rope.time_width(self.keys.shape[-1])
        back = torch.full((1,), -frames, device=self.keys.device)
        turn = rope.Rotation.from_angles(rope.line_angles(back, width))
        for keys in self.keys[..., : self.length, :width]:  # a layer at a time: small temporaries
            keys.copy_(rope.apply_rotation(keys, turn))

    def snapshot(self) -> tuple[Tensor, Tensor]:
        """Copy the committed keys and values, [layers batch heads tokens head_dim] each."""
        return self.keys[..., : self.length, :].clone(), self.values[..., : self.length, :].clone()
