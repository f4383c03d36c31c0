"""Run inference over an episode with a KV cache that follows the real frames.

`observe` encodes real frames and commits them to the cache; `infer` predicts the next block after
the last commit and leaves the cache unchanged, bit for bit. A session starts with one frame and
then takes whole blocks. `ReleasedSession` reproduces the loop of the released code instead.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from wam_policy.model.execution.device_clock import Instant
from wam_policy.model.execution.engines import ExecutionEngine
from wam_policy.model.network.cfg import CfgRole, ClassifierFreeGuidance
from wam_policy.model.network.model_config import WINDOW_MODES, ModelConfig
from wam_policy.model.network.video_action_dit import VideoActionDiT
from wam_policy.model.sampling import sampler

PreprocessFn = Callable[[Tensor], Tensor]  # uint8 [1 T h w 3] -> [1 3 T h w] in [-1, 1]
NoiseFn = Callable[[int], sampler.Velocities]  # seed -> noise of video and action


class EncodersProtocol(Protocol):
    """Define the encoder methods that sessions call; shapes as in `encoders.encoder_stack`."""

    tokenizer: Any  # text_encoder.Tokenizer; None only where no prompt is encoded

    def encode_prompts(self, prompts: list[str]) -> Tensor: ...
    def encode_text(self, ids: Tensor, mask: Tensor) -> Tensor: ...
    def encode_image(self, frame: Tensor) -> Tensor: ...
    def encode_frames(self, video: Tensor) -> Tensor: ...
    def encode_first_frame(self, first: Tensor) -> tuple[Tensor, Any]: ...
    def encode_next_frames(self, state: Any, frames: Tensor) -> tuple[Tensor, Any]: ...


@dataclass(frozen=True, slots=True)
class InferenceResult:
    """Hold the result of one query, in normalized model values."""

    actions: Tensor | None  # [actions action_dim]; None from an unconditional branch
    video: Tensor  # predicted latents [1 channels frames rows columns]
    evaluations: int
    timings_ms: dict[str, float]


@dataclass(frozen=True, slots=True)
class MemoryUsage:
    """Count the cached frames, commits and rebuilds of a session."""

    frames: int  # cached latent frames
    window_frames: int
    commits: int  # since reset
    rebuilds: int  # restarts or slides of a full window since reset


class Stopwatch:
    """Sum the durations of named stages; reading them waits for the device of the clock."""

    def __init__(self, now: Callable[[], Instant]) -> None:
        self._now = now
        self._last = now()
        self._laps: list[tuple[str, Instant, Instant]] = []

    def lap(self, name: str) -> None:
        start, self._last = self._last, self._now()
        self._laps.append((name, start, self._last))

    @property
    def laps_ms(self) -> dict[str, float]:
        total: dict[str, float] = {}
        for name, start, end in self._laps:
            total[name] = total.get(name, 0.0) + 1e3 * (end - start)
        return total


@dataclass(frozen=True, slots=True)
class PredictionInputs:
    """Hold the inputs of one prediction, of batch 1."""

    state: Tensor  # [1 states state_dim]
    condition: Tensor | None  # [1 channels frames rows columns]
    video_noise: Tensor
    action_noise: Tensor
    committed: sampler.CommittedActions | None


@dataclass(frozen=True, slots=True)
class PendingInference:
    """Hold a query between its preparation and its result."""

    watch: Stopwatch
    frames: int  # cached latent frames: before the query, or of a window that it extends


class InferenceContext:
    """Hold the model, its encoders and caches, which both kinds of session use."""

    def __init__(
        self,
        model: VideoActionDiT,
        encoders: EncodersProtocol,
        preprocess: PreprocessFn,
        sampling: sampler.SamplingConfig,
        *,
        now: Callable[[], Instant],
        role: CfgRole = CfgRole.BOTH,
        exchange: sampler.ExchangeFn | None = None,
        guided_video: bool = False,
        noise_fn: NoiseFn | None = None,
        engine: ExecutionEngine | None = None,
    ) -> None:
        """Run passes by `engine`; without one, by the model itself."""
        self.model, self.encoders = model, encoders
        self.config: ModelConfig = model.config
        self.now = now
        self.guidance = ClassifierFreeGuidance(
            model,
            sampling,
            role=role,
            exchange=exchange,
            guided_video=guided_video,
            engine=engine,
        )
        self._preprocess, self.sampling, self.guided_video = preprocess, sampling, guided_video
        self._noise_fn = noise_fn or self._draw_noise
        self._condition: Tensor | None = None

    def preprocess(self, frames: Any) -> Tensor:
        """Convert canvases uint8 [T h w 3] to the encoders' input [1 3 T h w]."""
        frames = torch.as_tensor(frames)
        if frames.dtype != torch.uint8 or frames.ndim != 4:
            raise ValueError(
                f'want canvases uint8 [T h w 3], got {frames.dtype} {tuple(frames.shape)}'
            )
        return self._preprocess(frames[None].to(self.model.device))

    def start_window(self, image: Tensor, first: Tensor) -> None:
        """Clear the cache and commit the first latent frame; `image` [1 3 1 h w] is its pixels."""
        if self.config.image_context:
            self.guidance.set_image(
                self.encoders.encode_image(image[:, :, 0]).to(self.model.dtype)
            )
        self.guidance.clear_cache()
        self.commit(first)

    def commit(self, latents: Tensor) -> None:
        latents = latents.to(self.model.dtype)
        self.guidance.commit(latents, self.slice_condition(self.guidance.frames, latents.shape[2]))

    def set_condition(self, image_latents: Tensor) -> None:
        """Set latents of [image, gray, gray, ...] as the condition of the next window."""
        self._condition = self._prepend_mask(image_latents, 1.0)
        self._condition[:, : -image_latents.shape[1], 1:] = 0

    def append_condition(self, gray_latents: Tensor) -> None:
        """Append the latents of more gray frames."""
        past = [] if self._condition is None else [self._condition]
        self._condition = torch.cat([*past, self._prepend_mask(gray_latents, 0.0)], dim=2)

    @property
    def condition_frames(self) -> int:
        """Count the latent frames that the condition covers."""
        return 0 if self._condition is None else self._condition.shape[2]

    def _prepend_mask(self, latents: Tensor, known: float) -> Tensor:
        copies = self.config.condition_channels - latents.shape[1]
        mask = torch.full_like(latents[:, :1], known).expand(-1, copies, -1, -1, -1)
        return torch.cat([mask, latents], dim=1).to(self.model.dtype)

    def slice_condition(self, start: int, frames: int) -> Tensor | None:
        """Return the condition of some frames; past its end, that of the last ones."""
        if self._condition is None:
            return None
        cut = self._condition[:, :, start : start + frames]
        return cut if cut.shape[2] == frames else self._condition[:, :, -frames:]

    def prepare_prediction(self, state: Any, seed: int, committed: Any = None) -> PredictionInputs:
        """Return what sampling the block that follows the cached frames starts from.

        `committed` [n action_dim] are its first actions, if they are executed anyway.
        """
        c, model = self.config, self.model
        state = torch.as_tensor(state).to(model.device, model.dtype)
        return PredictionInputs(
            state.reshape(1, c.states_per_block, c.state_dim),
            self.slice_condition(self.guidance.frames, c.frames_per_block),
            *self._noise_fn(seed),
            None if committed is None else self._pad_committed(committed),
        )

    def _pad_committed(self, committed: Any) -> sampler.CommittedActions:
        rows = torch.as_tensor(committed).to(self.model.device, self.model.dtype)
        missing = self.config.actions_per_block - len(rows)
        padded = torch.nn.functional.pad(rows, (0, 0, 0, missing))
        return sampler.CommittedActions(padded[None], (len(rows),))

    @torch.inference_mode()
    def predict(self, state: Any, seed: int, committed: Any = None) -> sampler.Sample:
        """Sample the block that follows the cached frames; the cache is unchanged.

        `committed` [n action_dim] are its first actions, if they are executed anyway.
        """
        given = self.prepare_prediction(state, seed, committed)
        count = 0 if given.committed is None else given.committed.counts[0]
        return sampler.sample(
            self.sampling,
            given.video_noise,
            given.action_noise,
            self.guidance.make_velocity_fn(given.state, given.condition, count),
            guided_video=self.guided_video,
            committed=given.committed,
        )

    def make_result(self, sample: sampler.Sample, watch: Stopwatch) -> InferenceResult:
        acts = self.guidance.role is not CfgRole.UNCOND
        return InferenceResult(
            sample.action[0] if acts else None, sample.video, sum(sample.evaluated), watch.laps_ms
        )

    def _draw_noise(self, seed: int) -> sampler.Velocities:
        c = self.config
        return sampler.draw_noise(
            seed,
            (1, c.latent_channels, c.frames_per_block, *c.latent_size),
            (1, c.actions_per_block, c.action_dim),
            self.model.dtype,
            self.model.device,
        )


class StreamingSession:
    """Commit real frames as they arrive; answer queries at any time between commits.

    `window` selects what happens when the cache and a prediction no longer fit the training
    window: 'restart' from the newest frame, or 'slide' over the oldest block.
    """

    def __init__(
        self, inference_context: InferenceContext, *, negative: str, window: str = 'restart'
    ) -> None:
        if window not in WINDOW_MODES:
            raise ValueError(f'window {window!r}: want one of {", ".join(WINDOW_MODES)}')
        if window == 'slide' and inference_context.config.window_blocks < 2:
            raise ValueError('a window of one block cannot slide: use restart')
        self._inference_context = inference_context
        self._config = inference_context.config
        self._slides = window == 'slide'
        self._vae_state: Any = None
        self._gray_state: Any = None  # of the image condition, which is a separate clip
        self._commits = self._rebuilds = 0
        self.timings_ms: dict[str, float] = {}  # of the last reset or observe
        with torch.inference_mode():
            self._negative = (
                self._encode_prompt(negative)
                if inference_context.guidance.uses_negative_text
                else None
            )

    @property
    def memory(self) -> MemoryUsage:
        frames = self._inference_context.guidance.frames
        return MemoryUsage(frames, self._config.window_frames, self._commits, self._rebuilds)

    @torch.inference_mode()
    def reset(self, prompt: str) -> None:
        """Start a new episode with a prompt and an empty cache."""
        watch = Stopwatch(self._inference_context.now)
        self._inference_context.guidance.set_text(self._encode_prompt(prompt), self._negative)
        self._vae_state = None
        self._commits = self._rebuilds = 0
        watch.lap('text')
        self.timings_ms = watch.laps_ms

    @torch.inference_mode()
    def observe(self, canvas: Any) -> Tensor | None:
        """Commit real frames, canvases uint8 [T h w 3]: one at first, then a block.

        Return the latents of a block [1 C T h w]; None where a window starts with one frame.
        """
        watch = Stopwatch(self._inference_context.now)
        pixels = self._inference_context.preprocess(canvas)
        first = self._vae_state is None
        wanted = 1 if first else self._config.block_pixel_frames
        if pixels.shape[2] != wanted:
            raise ValueError(f'this commit takes {wanted} frames, got {pixels.shape[2]}')
        watch.lap('preprocess')
        latents: Tensor | None = None
        if first:
            self._start_window(pixels, watch)
        else:
            latents = self._commit_block(pixels, watch)
        self._commits += 1
        self.timings_ms = watch.laps_ms
        return latents

    @torch.inference_mode()
    def infer(self, state: Any, seed: int, newest: Any = None) -> InferenceResult:
        """Predict the block after the last commit from the state [states*state_dim].

        `newest`, canvases uint8 [T h w 3] taken since the last commit (at most a block), is
        used for this query only. Raises RuntimeError without a commit since the last reset.
        """
        pending = self.begin_infer(newest)
        try:
            sample = self._inference_context.predict(state, seed)
        except BaseException:
            self.cancel_infer(pending)
            raise
        return self.finish_infer(pending, sample)

    @torch.inference_mode()
    def begin_infer(self, newest: Any = None) -> PendingInference:
        """Prepare the cache for a prediction; `finish_infer` or `cancel_infer` must follow."""
        if self._vae_state is None:
            raise RuntimeError('no frame observed since the last reset: call observe first')
        watch = Stopwatch(self._inference_context.now)
        pending = PendingInference(watch, self._inference_context.guidance.frames)
        if newest is not None:
            try:
                self._append_temporary(newest, watch)
            except BaseException:
                self.cancel_infer(pending)
                raise
        return pending

    def finish_infer(self, pending: PendingInference, sample: sampler.Sample) -> InferenceResult:
        """Return the result of a prediction; the cache is as before `begin_infer`."""
        self.cancel_infer(pending)
        pending.watch.lap('denoise')
        return self._inference_context.make_result(sample, pending.watch)

    def cancel_infer(self, pending: PendingInference) -> None:
        """Leave the cache as it was before `begin_infer`."""
        self._inference_context.guidance.truncate(pending.frames)

    def _encode_prompt(self, prompt: str) -> Tensor:
        return self._inference_context.encoders.encode_prompts([prompt]).to(
            self._inference_context.model.dtype
        )

    def _start_window(self, image: Tensor, watch: Stopwatch) -> None:
        """Start a window with one frame [1 3 1 h w]."""
        latent, self._vae_state = self._inference_context.encoders.encode_first_frame(image)
        if self._config.condition_channels:
            self._gray_state = self._vae_state
            self._inference_context.set_condition(latent)
            self._extend_condition(1 + self._config.frames_per_block, image)
        watch.lap('encode')
        self._inference_context.start_window(image, latent)
        watch.lap('kv_update')

    def _extend_condition(self, frames: int, like: Tensor) -> None:
        """Encode the gray frames of the image condition block by block, as far as needed.

        A restart then waits for one block of gray frames, not for a window.
        """
        if not self._config.condition_channels:
            return
        gray = torch.zeros_like(like[:, :, :1]).expand(
            -1, -1, self._config.block_pixel_frames, -1, -1
        )
        while self._inference_context.condition_frames < min(frames, self._config.window_frames):
            latents, self._gray_state = self._inference_context.encoders.encode_next_frames(
                self._gray_state, gray
            )
            self._inference_context.append_condition(latents)

    def _commit_block(self, pixels: Tensor, watch: Stopwatch) -> Tensor | None:
        """Commit a block; restart or slide first if the next prediction would not fit.

        Return its latents; None after a restart, which encodes one frame only.
        """
        guidance, block = self._inference_context.guidance, self._config.frames_per_block
        full = guidance.frames + 2 * block > self._config.window_frames
        if full:
            self._rebuilds += 1
        if full and not self._slides:
            self._start_window(pixels[:, :, -1:], watch)
            return None
        latents, self._vae_state = self._inference_context.encoders.encode_next_frames(
            self._vae_state, pixels
        )
        watch.lap('encode')
        if full:
            guidance.slide(block)
        self._inference_context.commit(latents)
        watch.lap('kv_update')
        self._extend_condition(guidance.frames + block, pixels)
        watch.lap('encode')
        return latents

    def _append_temporary(self, newest: Any, watch: Stopwatch) -> None:
        """Append frames of an incomplete block; the newest is repeated to fill a latent frame."""
        pixels, c = self._inference_context.preprocess(newest), self._config
        count = pixels.shape[2]
        if not 1 <= count <= c.block_pixel_frames:
            raise ValueError(f'newest: want 1 to {c.block_pixel_frames} frames, got {count}')
        missing = -count % c.pixel_frames_per_latent
        pixels = torch.cat([pixels, pixels[:, :, -1:].expand(-1, -1, missing, -1, -1)], dim=2)
        watch.lap('preprocess')
        latents, _ = self._inference_context.encoders.encode_next_frames(self._vae_state, pixels)
        guidance = self._inference_context.guidance
        reach = guidance.frames + latents.shape[2] + c.frames_per_block
        self._extend_condition(reach, pixels)
        watch.lap('encode')
        condition = self._inference_context.slice_condition(guidance.frames, latents.shape[2])
        guidance.commit_temporary(latents.to(self._inference_context.model.dtype), condition)
        watch.lap('kv_update')
