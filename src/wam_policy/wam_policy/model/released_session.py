"""Reproduce the loop of the released policy: observe and predict in one call, restart at 9 frames.

Differences from `StreamingSession`: every call commits its frames, an incomplete block repeats
them, each block is encoded without its predecessor, a full window restarts.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from wam_policy.model.sampling import sampler
from wam_policy.model.streaming_session import (
    InferenceContext,
    InferenceResult,
    PendingInference,
    Stopwatch,
)

NOISE_SEED = 1140  # the same noise in every call
LAST_FRAME_COUNTS = (4, 9)  # a restart with this many frames uses the newest as condition


class ReleasedSession:
    """Run inference as the released code does."""

    def __init__(self, inference_context: InferenceContext, *, negative: str) -> None:
        self._inference_context = inference_context
        self._config = inference_context.config
        self._encoders = inference_context.encoders
        self._negative = negative
        self._ids: Tensor | None = None
        self.start_frame = 0  # where the next call's prediction begins, before any reset

    def reset(self) -> None:
        """Clear prompt and frames: the next call starts a window."""
        self._ids = None

    @torch.inference_mode()
    def step(
        self, canvas: Any, prompt: str, state: Any, seed: int = NOISE_SEED
    ) -> InferenceResult:
        """Take frames uint8 [T h w 3], a prompt and a state; return actions and latents."""
        pending = self.begin_step(canvas, prompt)
        return self.finish_step(pending, self._inference_context.predict(state, seed))

    @torch.inference_mode()
    def begin_step(self, canvas: Any, prompt: str) -> PendingInference:
        """Commit frames uint8 [T h w 3]; `finish_step` takes the prediction that follows."""
        watch = Stopwatch(self._inference_context.now)
        pixels = self._inference_context.preprocess(canvas)
        watch.lap('preprocess')
        ids, mask = self._encoders.tokenizer([prompt])
        if self._needs_restart(ids, pixels.shape[2]):
            self._ids = ids
            self._start_window(pixels, self._encode_text(ids, mask))
        else:
            latents = self._encoders.encode_frames(self._pad_to_block(pixels))
            self._inference_context.commit(latents[:, :, -self._config.frames_per_block :])
        watch.lap('kv_update')
        return PendingInference(watch, self._inference_context.guidance.frames)

    @torch.inference_mode()
    def finish_step(self, pending: PendingInference, sample: sampler.Sample) -> InferenceResult:
        """Return the result of the prediction after `begin_step`."""
        pending.watch.lap('denoise')
        self.start_frame = pending.frames + self._config.frames_per_block
        result = self._inference_context.make_result(sample, pending.watch)
        if pending.frames > 1:
            return result
        video = torch.cat([self._first, sample.video], dim=2)
        return InferenceResult(result.actions, video, result.evaluations, result.timings_ms)

    def _needs_restart(self, ids: Tensor, frames: int) -> bool:
        return (
            self._ids is None
            or not torch.equal(ids, self._ids)
            or frames == 1
            or self.start_frame >= self._config.window_frames
        )

    def _start_window(self, pixels: Tensor, text: Tensor) -> None:
        frames = pixels.shape[2]
        image = pixels[:, :, -1:] if frames in LAST_FRAME_COUNTS else pixels[:, :, :1]
        negative = None
        if self._inference_context.guidance.uses_negative_text:
            negative = self._encode_text(*self._encoders.tokenizer([self._negative]))
        self._inference_context.guidance.set_text(text, negative)
        gray = torch.zeros_like(image).expand(-1, -1, self._config.window_pixel_frames - 1, -1, -1)
        latents = self._encoders.encode_frames(torch.cat([image, gray], dim=2))
        if self._config.condition_channels:
            self._inference_context.set_condition(latents)
        self._first = latents[:, :, :1].to(self._inference_context.model.dtype)
        self._inference_context.start_window(image, self._first)

    def _pad_to_block(self, pixels: Tensor) -> Tensor:
        """Pad to one context frame and a block by repeating frames."""
        per_latent, block = self._config.pixel_frames_per_latent, self._config.frames_per_block
        wanted, frames = 1 + per_latent * block, pixels.shape[2]
        if (frames - 1) // per_latent == block:
            return pixels[:, :, :wanted]
        groups = frames // per_latent
        if not 1 <= groups <= block:
            raise ValueError(f'want 1 or {per_latent} to {wanted} frames in a call, got {frames}')
        pixels = pixels.repeat_interleave(block // groups, dim=2)
        return torch.cat([pixels[:, :, :1], pixels], dim=2)[:, :, :wanted]

    def _encode_text(self, ids: Tensor, mask: Tensor) -> Tensor:
        device = self._inference_context.model.device
        text = self._encoders.encode_text(ids.to(device), mask.to(device))
        return text.to(self._inference_context.model.dtype)
