"""Run one model on one robot: camera frames and joint positions in, joint targets out.

Used by live workers and offline programs alike: composes views to a canvas, converts joint
positions to the model state, and its actions to absolute targets from those positions.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import torch

from wam_policy.core.robot import transforms
from wam_policy.core.robot.embodiment import Embodiment
from wam_policy.model import batched_inference
from wam_policy.model.checkpoint import checkpoint_folder
from wam_policy.model.checkpoint.model_spec import ModelInferenceDefaults
from wam_policy.model.committed_rows import normalize_committed_rows
from wam_policy.model.encoders import imagined_frames, view_layout
from wam_policy.model.encoders.conv_vae import ConvVae
from wam_policy.model.execution import engines, quantization
from wam_policy.model.execution.device_clock import make_device_clock
from wam_policy.model.network.cfg import CfgRole
from wam_policy.model.released_session import ReleasedSession
from wam_policy.model.sampling import sampler
from wam_policy.model.streaming_session import (
    InferenceContext,
    InferenceResult,
    MemoryUsage,
    PendingInference,
    Stopwatch,
    StreamingSession,
)

MEMORY_UPDATE_MODES = ('streaming', 'released')

Views = Mapping[str, np.ndarray]  # camera key -> uint8 [T h w 3]


@dataclass(frozen=True, slots=True)
class InferenceOptions:
    """Hold the settings of inference, as opposed to those of the model."""

    recipe: str = 'static8'  # a key of sampler.SAMPLERS
    steps: int | None = None  # evaluate at every one of so many steps instead
    guidance: float = 5.0  # 1: the conditional branch alone
    mode: str = 'streaming'  # one of MEMORY_UPDATE_MODES
    window: str = 'restart'  # what a full cache does: restart | slide
    guided_video: bool = False  # guide video also where it cannot affect actions
    engine: str = engines.EAGER  # eager | compiled | tensorrt:FOLDER
    precision: str = quantization.FULL_PRECISION  # full | fp8 | int8 | calibration file
    noise_scale: float = 1.0  # of the initial noise, 0 to 1
    pack_weights: bool = True  # of an eager float32 model on a CPU; not if calibrated later

    def __post_init__(self) -> None:
        if self.recipe not in sampler.SAMPLERS:
            raise ValueError(f'sampler {self.recipe!r}: want one of {", ".join(sampler.SAMPLERS)}')
        if self.mode not in MEMORY_UPDATE_MODES:
            raise ValueError(f'mode {self.mode!r}: want one of {", ".join(MEMORY_UPDATE_MODES)}')

    @classmethod
    def from_defaults(cls, defaults: ModelInferenceDefaults | None, **given: Any) -> Self:
        """Return options: those given, else those the model recommends, else the defaults.

        None counts as not given. A given sampler comes with its own number of steps.
        """
        chosen = {name: value for name, value in given.items() if value is not None}
        if defaults is not None:
            steps = None if 'recipe' in chosen else defaults.steps
            chosen = {
                'recipe': defaults.recipe,
                'steps': steps,
                'guidance': defaults.guidance,
                'window': defaults.window,
                'noise_scale': defaults.noise_scale,
                **chosen,
            }
        return cls(**chosen)

    def make_sampling_config(self, video_final_noise: float | None) -> sampler.SamplingConfig:
        """Return the sampling configuration; `video_final_noise` of the model overrides it."""
        named = sampler.SAMPLERS[self.recipe]
        if self.steps is not None:
            named = replace(named, steps=self.steps, evaluations=None, dynamic=False)
        if video_final_noise is not None:
            named = replace(named, video_final_noise=video_final_noise)
        return replace(named, guidance=self.guidance, noise_scale=self.noise_scale)


@dataclass(frozen=True, slots=True)
class PolicyGeometry:
    """Hold the sizes and the time base of a model on a robot."""

    cameras: tuple[str, ...]
    frame_size: tuple[int, int]  # [rows columns] of the canvas
    frames_per_block: int  # pixel frames in a commit after the first
    frame_period_s: float  # between two of them
    first_frames: int  # pixel frames in the first commit
    horizon: int  # rows of targets
    step_dt_s: float  # between two of them
    window_blocks: int
    action_dim: int


@dataclass(frozen=True, slots=True, eq=False)
class PolicyOutput:
    """Hold the result of a query; the unconditional branch has no targets."""

    targets: np.ndarray | None  # float64 [horizon commanded], absolute
    reference: np.ndarray  # float64 [commanded], positions that they are relative to
    timings_ms: Mapping[str, float]  # disjoint stages


@dataclass(frozen=True, slots=True, eq=False)
class PendingQuery:
    """Hold a query between its preparation and its result."""

    joints: np.ndarray  # float64 [observed]
    values: Mapping[str, np.ndarray]  # the model state that they give, by key
    state: torch.Tensor  # normalized
    committed: np.ndarray | None  # float64 [n commanded], first targets that are held
    committed_actions: np.ndarray | None  # [n action_dim], the same for the model
    watch: Stopwatch
    inference: PendingInference
    has_newest: bool  # it saw frames since the last commit


class Policy:
    """Run inference of one model on one robot, episode by episode."""

    def __init__(
        self,
        model: checkpoint_folder.WorldActionModel,
        robot: Embodiment,
        options: InferenceOptions,
        *,
        role: CfgRole = CfgRole.BOTH,
        exchange: sampler.ExchangeFn | None = None,
        now: Callable[[], float] = time.perf_counter,
        share_weights_with: 'Policy | None' = None,
    ) -> None:
        """Raise ValueError if model, robot and options do not fit together.

        The transformer of `model` is quantized and compiled in place as `options`
        specify, unless that was done for the policy `share_weights_with`.
        """
        self.model, self.robot, self.options, self.role = model, robot, options, role
        design = model.spec
        self._normalizer = model.make_normalizer(robot)
        self._layout = design.canvas.make_layout(
            robot.model_tag, tuple(camera.key for camera in robot.cameras)
        )
        self._commanded_indices = [robot.observed.index(name) for name in robot.commanded]
        self._now = now
        self._device_now = make_device_clock(model.dit.device, now)
        self._exchanges: list[Stopwatch] = []  # of the current query
        dtype, size = model.dit.dtype, design.canvas.size
        self.exchange = exchange
        self._engine = share_weights_with._engine if share_weights_with else self._prepare_engine()
        self._inference_context = InferenceContext(
            model.dit,
            model.encoders,
            lambda canvases: view_layout.to_model_input(canvases, dtype, size),
            options.make_sampling_config(design.video_final_noise),
            now=self._device_now,
            role=role,
            exchange=None if exchange is None else self._time_exchange(exchange),
            guided_video=options.guided_video,
            engine=self._engine,
        )
        self._released_session: ReleasedSession | None = None
        self._streaming_session: StreamingSession | None = None
        self._set_mode(options.mode)
        self._prompt: str | None = None
        self._pending: torch.Tensor | None = None  # released mode: frames for the next query
        self._commits = 0
        # uint8 [1 h w 3]: the newest committed frame, and the one before the last prediction
        self._last_canvas: torch.Tensor | None = None
        self._predicted_after: torch.Tensor | None = None
        self._last_result: InferenceResult | None = None
        self._is_prediction_next = False  # the last result predicts the block after the cache
        self.imagination_error: float | None = None  # of the last committed block

    @property
    def view_layout_name(self) -> str:
        """Return how the views stand on a predicted image."""
        tag = self.robot.model_tag
        return self.model.spec.canvas.layout_name(tag, len(self.robot.cameras))

    @property
    def geometry(self) -> PolicyGeometry:
        design = self.model.spec.with_control_rate(self.robot.step_dt_s)
        model = design.model
        return PolicyGeometry(
            cameras=self._layout.views,
            frame_size=design.canvas.size or (self._layout.height, self._layout.width),
            frames_per_block=model.frames_per_block * model.pixel_frames_per_latent,
            frame_period_s=1 / model.video_hz,
            first_frames=1,
            horizon=model.actions_per_block,
            step_dt_s=self.robot.step_dt_s,
            window_blocks=model.window_blocks,
            action_dim=model.action_dim,
        )

    @property
    def memory(self) -> MemoryUsage:
        """Return the usage of the cache; the released mode counts commits only."""
        if self._streaming_session is not None:
            return self._streaming_session.memory
        assert self._released_session is not None
        window = self.model.dit.config.window_frames
        return MemoryUsage(
            min(self._released_session.start_frame, window), window, self._commits, 0
        )

    @property
    def max_committed_rows(self) -> int:
        """Return how many rows the model was trained to continue; 0: it cannot."""
        plan = self.options.engine.startswith(engines.TENSORRT)  # one time for all actions
        return 0 if plan else self.model.spec.max_committed_rows

    @property
    def streaming(self) -> bool:
        """Return whether the mode is streaming, not released."""
        return self._streaming_session is not None

    @property
    def needs_commit(self) -> bool:
        """Return whether a query must wait for a commit: the released mode has one per block."""
        return self._released_session is not None and self._pending is None

    def with_shared_weights(self) -> 'Policy':
        """Return another policy with its own cache and the same prepared network."""
        return Policy(
            self.model,
            self.robot,
            self.options,
            role=self.role,
            exchange=self.exchange,
            now=self._now,
            share_weights_with=self,
        )

    def reset(self, instruction: str, mode: str | None = None) -> Mapping[str, float]:
        """Start an instruction with an empty cache; return stage durations in ms.

        `mode` is one of MEMORY_UPDATE_MODES (default: that of the options). Raise PromptTooLong
        if the end of the instruction would not be read.
        """
        tokenizer, spec = self.model.encoders.tokenizer, self.model.spec
        if tokenizer is not None:
            tokenizer.check_length(spec.make_prompt_head(self.robot.model_tag, instruction))
        self._set_mode(mode or self.options.mode)
        self._prompt = self.model.spec.make_prompt(self.robot.model_tag, instruction)
        self._pending, self._last_result, self._commits = None, None, 0
        self._is_prediction_next, self.imagination_error = False, None
        self._last_canvas = None
        if self._streaming_session is not None:
            self._streaming_session.reset(self._prompt)
            return self._streaming_session.timings_ms
        assert self._released_session is not None
        self._released_session.reset()
        return {}

    def commit(self, views: Views) -> Mapping[str, float]:
        """Commit real frames, 1 at first, then a block; return stage durations in ms."""
        watch = Stopwatch(self._device_now)
        canvases = self.compose_views(views)
        self._last_canvas = canvases[-1:]
        watch.lap('preprocess')
        if self._streaming_session is not None:
            real = self._streaming_session.observe(canvases)
            self._compare_prediction(real)
            return _sum_timings(watch.laps_ms, self._streaming_session.timings_ms)
        # the released mode takes frames and predicts in one call: keep them for the query
        self._pending = canvases
        self._commits += 1
        return watch.laps_ms

    def query(
        self,
        joints: np.ndarray,
        seed: int,
        newest: Views | None = None,
        committed: np.ndarray | None = None,
    ) -> PolicyOutput:
        """Predict targets from joint positions [observed] after the committed frames.

        `newest` frames are used for this query only; the released mode ignores them. `committed`
        [n commanded] are the first targets, executed meanwhile: they come back unchanged. Raises
        ValueError for invalid joints or rows, RuntimeError if no frame has been committed.
        """
        pending = self.begin_query(joints, newest, committed)
        self.restart_exchange_timer()
        try:
            sample = self._inference_context.predict(
                pending.state, seed, pending.committed_actions
            )
        except BaseException:
            self.cancel_query(pending)
            raise
        return self.finish_query(pending, sample)

    def begin_query(
        self, joints: np.ndarray, newest: Views | None = None, committed: np.ndarray | None = None
    ) -> PendingQuery:
        """Prepare a query; `finish_query` or `cancel_query` must follow. Raises as `query`."""
        watch = Stopwatch(self._device_now)
        joints = np.asarray(joints, dtype=np.float64)
        if joints.shape != (len(self.robot.observed),) or not np.isfinite(joints).all():
            raise ValueError(
                f'joints: want {len(self.robot.observed)} finite values, got {joints.tolist()}'
            )
        values = transforms.to_model_state(self.robot, joints)
        state = torch.from_numpy(self._normalizer.normalize_state(values))
        actions = normalize_committed_rows(
            committed, values, self.robot, self._normalizer, self.max_committed_rows
        )
        seen = None if newest is None or self._released_session else self.compose_views(newest)
        watch.lap('preprocess')
        if self._streaming_session is not None:
            inference = self._streaming_session.begin_infer(seen)
        else:
            assert self._released_session is not None
            frames, self._pending = self._pending, None
            if frames is None or self._prompt is None:
                raise RuntimeError('no frames since the last query: call commit first')
            inference = self._released_session.begin_step(frames, self._prompt)
        return PendingQuery(
            joints, values, state, committed, actions, watch, inference, seen is not None
        )

    def restart_exchange_timer(self) -> None:
        self._exchanges.clear()

    def cancel_query(self, pending: PendingQuery) -> None:
        """Give up a query; the cache is as before it, except in the released mode."""
        if self._streaming_session is not None:
            self._streaming_session.cancel_infer(pending.inference)

    def finish_query(self, pending: PendingQuery, sample: sampler.Sample) -> PolicyOutput:
        """Return the output of a query for its sample."""
        if self._streaming_session is not None:
            found = self._streaming_session.finish_infer(pending.inference, sample)
        else:
            assert self._released_session is not None
            found = self._released_session.finish_step(pending.inference, sample)
        joints, values, watch = pending.joints, pending.values, pending.watch
        self._last_result, self._predicted_after = found, self._last_canvas
        # with newer frames the prediction starts inside a block and has no counterpart
        self._is_prediction_next = not pending.has_newest
        inner = dict(found.timings_ms)
        inner['exchange'] = sum(watch.laps_ms['exchange'] for watch in self._exchanges)
        inner['denoise'] -= inner['exchange']  # of a batch: of all its queries
        after = Stopwatch(self._device_now)
        targets = None
        if found.actions is not None:
            actions = found.actions.float().cpu().numpy()
            targets = transforms.from_model_actions(
                self.robot, self._normalizer.denormalize_actions(actions, values)
            )
            if pending.committed is not None:  # without the rounding of the normalization
                targets[: len(pending.committed)] = pending.committed
        after.lap('postprocess')
        stages_ms = _sum_timings(watch.laps_ms, inner, after.laps_ms)
        return PolicyOutput(targets, joints[self._commanded_indices], stages_ms)

    def _compare_prediction(self, real: torch.Tensor | None) -> None:
        """Measure how far the last prediction was from the block that became real.

        Root mean square of the difference over the spread of the real latents: cheap, because
        both are there, and nothing is decoded. None without a prediction of exactly this block.
        """
        self.imagination_error = None
        found, is_next = self._last_result, self._is_prediction_next
        self._is_prediction_next = False
        if found is None or not is_next or real is None or real.shape != found.video.shape:
            return
        truth = real.float()
        spread = truth.std().clamp_min(1e-6)
        difference = (found.video.float() - truth).square().mean().sqrt()
        self.imagination_error = float(difference / spread)

    @property
    def can_batch(self) -> bool:
        """Return whether policies with shared weights can be sampled together.

        A dynamic sampler selects its steps by session; compiled passes have one batch size.
        """
        return (
            self.options.engine == engines.EAGER and not self._inference_context.sampling.dynamic
        )

    @property
    def inference_context(self) -> InferenceContext:
        return self._inference_context

    @property
    def predicted_latents(self) -> torch.Tensor | None:
        """Return the latents of the last prediction [1 C T h w]; None before there is one."""
        return None if self._last_result is None else self._last_result.video

    def decode_prediction(self) -> np.ndarray:
        """Decode the last predicted block: uint8 [T h w 3]. RuntimeError if there is none.

        With our own autoencoder, which decodes each latent frame alone, what does not move has
        the pixels of the newest real frame (`encoders.imagined_frames`).
        """
        if self._last_result is None:
            raise RuntimeError('no prediction yet: call query first')
        encoders = self.model.encoders
        with torch.inference_mode():
            video = self._last_result.video.to(self.model.dit.dtype)
            # the first latent of a clip decodes to one frame: prepend one
            frames = encoders.decode(torch.cat([video[:, :, :1], video], dim=2))[0, 1:].cpu()
        last = self._predicted_after
        if last is None or not isinstance(encoders.vae, ConvVae):
            return frames.numpy()
        return imagined_frames.draw_onto(last.cpu(), self.reconstruct(last), frames).numpy()

    def reconstruct(self, canvases: torch.Tensor) -> torch.Tensor:
        """Encode and decode canvases uint8 [T h w 3], T = 1 or 4n: the best a prediction can do.

        The result stays on the CPU.
        """
        encoders = self.model.encoders
        with torch.inference_mode():
            clip = canvases if len(canvases) == 1 else torch.cat([canvases[:1], canvases])
            pixels = self._inference_context.preprocess(clip)
            frames = encoders.decode(encoders.encode_frames(pixels))[0]
        return frames[-len(canvases) :].cpu()

    def compose_views(self, views: Views) -> torch.Tensor:
        """Compose camera views to canvases, uint8 [T h w 3]."""
        frames = {name: torch.from_numpy(view) for name, view in views.items()}
        return view_layout.compose_views(frames, self._layout)

    def _prepare_engine(self) -> engines.ExecutionEngine:
        """Quantize the network and make the engine, as `options` specify."""
        if (calibration := quantization.load_calibration(self.options.precision)) is not None:
            quantization.install_quantized_linears(self.model.dit, calibration)
        pack, vae = self.options.pack_weights, self.model.encoders.vae
        return engines.make_engine(self.options.engine, self.model.dit, pack_weights=pack, vae=vae)

    def _set_mode(self, mode: str) -> None:
        """Switch to a mode; both share one cache, so the session of the other ends."""
        negative = self.model.spec.negative_prompt
        if mode == 'released' and self._released_session is None:
            self._released_session = ReleasedSession(self._inference_context, negative=negative)
            self._streaming_session = None
        elif mode == 'streaming' and self._streaming_session is None:
            self._released_session = None
            self._streaming_session = StreamingSession(
                self._inference_context, negative=negative, window=self.options.window
            )

    def _time_exchange(self, exchange: sampler.ExchangeFn) -> sampler.ExchangeFn:
        def time_exchange(video: torch.Tensor, action: torch.Tensor) -> sampler.Velocities:
            watch = Stopwatch(self._device_now)
            theirs = exchange(video, action)
            watch.lap('exchange')
            self._exchanges.append(watch)
            return theirs

        return time_exchange


def predict_batch(
    policies: Sequence[Policy], queries: Sequence[PendingQuery], seeds: Sequence[int]
) -> list[sampler.Sample]:
    """Sample prepared queries of policies with shared weights, together if they can be."""
    contexts = [policy.inference_context for policy in policies]
    states = [query.state for query in queries]
    committed = [query.committed_actions for query in queries]
    for policy in policies:
        policy.restart_exchange_timer()
    if len(policies) > 1 and policies[0].can_batch:
        return batched_inference.predict_batch(contexts, states, seeds, committed)
    return [
        context.predict(state, seed, rows)
        for context, state, seed, rows in zip(contexts, states, seeds, committed, strict=True)
    ]


def _sum_timings(*groups: Mapping[str, float]) -> dict[str, float]:
    total: dict[str, float] = {}
    for group in groups:
        for name, value in group.items():
            total[name] = total.get(name, 0.0) + value
    return total
