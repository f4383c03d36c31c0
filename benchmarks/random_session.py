"""Run a transformer with random weights, latents and context, without encoders, and time it."""

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch

from benchmarks import flops
from wam_policy.model.execution import engines
from wam_policy.model.execution.device_clock import make_device_clock
from wam_policy.model.network import model_config
from wam_policy.model.network.cfg import CfgRole, ClassifierFreeGuidance
from wam_policy.model.network.kv_cache import KVCache
from wam_policy.model.network.video_action_dit import VideoActionDiT
from wam_policy.model.sampling import sampler

IMAGE_TOKENS = flops.IMAGE_TOKENS


class TimedEngine:
    """Time every pass of an engine on the timeline of its device, without waiting for it."""

    def __init__(self, inner: engines.ExecutionEngine, device: torch.device) -> None:
        self._engine = inner
        self._now = make_device_clock(device, time.perf_counter)
        self._calls: list[tuple[str, int, int, Any, Any]] = []

    @property
    def calls(self) -> list[tuple[str, int, int, float]]:
        """Return (pass, cached frames, new frames, ms) of every call; wait for the device."""
        return [
            (kind, cached, frames, 1e3 * (end - start))
            for kind, cached, frames, start, end in self._calls
        ]

    def clear(self) -> None:
        self._calls.clear()

    def append_kv(self, *arguments: Any, **named: Any) -> None:
        self._time_call('append_kv', arguments, named)

    def denoise(self, *arguments: Any, **named: Any) -> tuple[torch.Tensor, torch.Tensor]:
        return self._time_call('denoise', arguments, named)

    def _time_call(self, method: str, arguments: Sequence[Any], named: Mapping[str, Any]) -> Any:
        cache = next(each for each in arguments if isinstance(each, KVCache))
        start = self._now()
        result = getattr(self._engine, method)(*arguments, **named)
        frames = arguments[0].shape[2]
        self._calls.append((method, cache.frames, frames, start, self._now()))
        return result


def make_clock_ms(device: torch.device) -> Callable[[], float]:
    """Return a clock in ms that synchronizes with the device first."""

    def now_ms() -> float:
        if device.type == 'cuda':
            torch.cuda.synchronize(device)
        return 1e3 * time.perf_counter()

    return now_ms


def make_random_model(
    c: model_config.ModelConfig, device: torch.device, dtype: torch.dtype
) -> VideoActionDiT:
    """Make a model with random weights, sampled on its device."""
    with torch.device('meta'):
        model = VideoActionDiT(c).to(dtype)
    model = model.to_empty(device=device).eval().requires_grad_(False)
    torch.manual_seed(0)
    for name, weight in model.named_parameters():
        if weight.ndim < 2:
            weight.fill_(0.0 if name.endswith('bias') else 1.0)
        else:
            inputs = weight.shape[1] if name.endswith('.W') else weight[0].numel()
            weight.normal_(std=inputs**-0.5)
    return model


class RandomLatentSession:
    """Run the fills of one window with random latents."""

    def __init__(
        self,
        model: VideoActionDiT,
        sampling: sampler.SamplingConfig,
        inner_engine: engines.ExecutionEngine,
    ) -> None:
        self.model, self.sampling, self.config = model, sampling, model.config
        self.guidance = ClassifierFreeGuidance(
            model,
            sampling,
            role=CfgRole.BOTH,
            exchange=None,
            guided_video=False,
            engine=inner_engine,
        )
        text = self.sample_noise(1, self.config.text_len, self.config.text_dim)
        self.guidance.set_text(text, -text)
        if self.config.image_context:
            self.guidance.set_image(self.sample_noise(1, IMAGE_TOKENS, self.config.image_dim))
        self.state = self.sample_noise(1, self.config.states_per_block, self.config.state_dim)
        self.noise = sampler.draw_noise(
            0,
            (
                1,
                self.config.latent_channels,
                self.config.frames_per_block,
                *self.config.latent_size,
            ),
            (1, self.config.actions_per_block, self.config.action_dim),
            model.dtype,
            model.device,
        )

    def sample_noise(self, *shape: int) -> torch.Tensor:
        return torch.randn(shape, device=self.model.device, dtype=self.model.dtype)

    def make_condition(self, frames: int) -> torch.Tensor | None:
        channels = self.config.condition_channels
        return (
            self.sample_noise(1, channels, frames, *self.config.latent_size) if channels else None
        )

    def commit(self, frames: int) -> None:
        self.guidance.commit(
            self.sample_noise(1, self.config.latent_channels, frames, *self.config.latent_size),
            self.make_condition(frames),
        )

    def iterate_fills(self) -> Iterator[int]:
        """Commit blocks until the window is full; yield the number of cached frames after each."""
        self.guidance.clear_cache()
        self.commit(1)
        yield self.guidance.frames
        for _ in range(self.config.window_blocks - 1):
            self.commit(self.config.frames_per_block)
            yield self.guidance.frames

    def predict_chunk(self) -> sampler.Sample:
        velocity = self.guidance.make_velocity_fn(
            self.state, self.make_condition(self.config.frames_per_block)
        )
        return sampler.sample(self.sampling, *self.noise, velocity, guided_video=False)


def assume_similar(older: torch.Tensor, newer: torch.Tensor) -> float:
    """Compute the similarity, but return 1; the sampler then makes 4 calls in 16 steps."""
    return 1.0 if math.isfinite(_measured_similarity(older, newer)) else 0.0


_measured_similarity = sampler.velocity_similarity
