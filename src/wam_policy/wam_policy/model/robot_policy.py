"""Camera frames and a posture in, joint targets out: one model on one robot, without sockets.

The same glue serves live workers and everything offline: views become a canvas, a posture becomes
the model's state, its actions become absolute targets of the posture they were asked for.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import torch

from wam_policy.core.robot import transforms
from wam_policy.core.robot.embodiment import Embodiment
from wam_policy.model.checkpoint import checkpoint_folder
from wam_policy.model.checkpoint.model_spec import Advice
from wam_policy.model.encoders import view_layout
from wam_policy.model.execution import engines, quantization
from wam_policy.model.network.cfg import Role
from wam_policy.model.released_session import ReferenceSession
from wam_policy.model.sampling import sampler
from wam_policy.model.streaming_session import Episode, Inference, Memory, Session, Stopwatch

MODES = ('clocked', 'reference')

Views = Mapping[str, np.ndarray]  # camera key -> uint8 [T h w 3]


@dataclass(frozen=True, slots=True)
class Choice:
    """Say how a model is run, as opposed to what it is."""

    recipe: str = 'static8'  # a key of sampler.MODES
    steps: int | None = None  # evaluate at every one of so many steps instead
    guidance: float = 5.0  # 1: the conditional branch alone
    mode: str = 'clocked'  # one of MODES
    window: str = 'restart'  # what a full memory does: restart | slide
    guided_video: bool = False  # guide the picture where it no longer matters to actions
    engine: str = engines.EAGER  # eager | compiled | tensorrt:FOLDER
    precision: str = quantization.FULL  # full | fp8 | int8 | the file of a calibration

    def __post_init__(self) -> None:
        if self.recipe not in sampler.MODES:
            raise ValueError(f'recipe {self.recipe!r}: want one of {", ".join(sampler.MODES)}')
        if self.mode not in MODES:
            raise ValueError(f'mode {self.mode!r}: want one of {", ".join(MODES)}')

    @classmethod
    def advised(cls, advice: Advice | None, **given: Any) -> Self:
        """Return what is given, else what a model advises, else the defaults; None gives nothing.

        A recipe that is given comes with its own number of steps.
        """
        chosen = {name: value for name, value in given.items() if value is not None}
        if advice is not None:
            steps = None if 'recipe' in chosen else advice.steps
            chosen = {
                'recipe': advice.recipe,
                'steps': steps,
                'guidance': advice.guidance,
                'window': advice.window,
                **chosen,
            }
        return cls(**chosen)

    def sampling(self, video_final_noise: float | None) -> sampler.Recipe:
        """Give the walk; a model trained for a noisy video end has the last word on that."""
        named = sampler.MODES[self.recipe]
        if self.steps is not None:
            named = replace(named, steps=self.steps, evaluations=None, dynamic=False)
        if video_final_noise is not None:
            named = replace(named, video_final_noise=video_final_noise)
        return replace(named, guidance=self.guidance)


@dataclass(frozen=True, slots=True)
class Geometry:
    """State a model's sizes and time base on a robot."""

    cameras: tuple[str, ...]
    frame_size: tuple[int, int]  # [rows columns] of the canvas the views are put on
    frames_per_block: int  # pixel frames in a commit after the first
    frame_period_s: float  # between two of them
    first_frames: int  # pixel frames in the first commit
    horizon: int  # rows of targets
    step_dt_s: float  # between two of them
    window_blocks: int
    action_dim: int


@dataclass(frozen=True, slots=True, eq=False)
class Targets:
    """Hold what a query gives; the unconditional branch has no targets of its own."""

    targets: np.ndarray | None  # float64 [horizon commanded], absolute
    reference: np.ndarray  # float64 [commanded], posture they are relative to
    timings_ms: Mapping[str, float]  # disjoint stages


class Policy:
    """Live an episode of one robot with one model."""

    def __init__(
        self,
        loaded: checkpoint_folder.Policy,
        robot: Embodiment,
        choice: Choice,
        *,
        role: Role = Role.BOTH,
        exchange: sampler.Exchange | None = None,
        now: Callable[[], float] = time.perf_counter,
        beside: 'Policy | None' = None,
    ) -> None:
        """Raise ValueError if checkpoint, robot and choice do not fit together.

        The transformer of `loaded` is quantised and compiled in place where `choice` says so,
        unless that was done for the policy `beside` which this one will live.
        """
        self.loaded, self.robot, self.choice, self.role = loaded, robot, choice, role
        design = loaded.design
        self._normaliser = loaded.normaliser(robot)
        self._layout = design.canvas.layout(
            robot.model_tag, tuple(camera.key for camera in robot.cameras)
        )
        self._commanded = [robot.observed.index(name) for name in robot.commanded]
        self._now = now
        self._swapped_s = 0.0
        dtype, size = loaded.dit.dtype, design.canvas.size
        self._exchange, self._engine = exchange, beside._engine if beside else self._prepared()
        self._episode = Episode(
            loaded.dit,
            loaded.encoders,
            lambda canvases: view_layout.model_input(canvases, dtype, size),
            choice.sampling(design.video_final_noise),
            now=self._clock,
            role=role,
            exchange=None if exchange is None else self._timed(exchange),
            guided_video=choice.guided_video,
            engine=self._engine,
        )
        self._reference: ReferenceSession | None = None
        self._clocked: Session | None = None
        self._keep_time(choice.mode)
        self._prompt: str | None = None
        self._pending: torch.Tensor | None = None  # reference mode: not yet taken
        self._commits = 0
        self._last: Inference | None = None

    @property
    def geometry(self) -> Geometry:
        design = self.loaded.design.timed(self.robot.step_dt_s)
        model = design.model
        return Geometry(
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
    def memory(self) -> Memory:
        """Tell what the cache holds; the reference mode counts its own calls only."""
        if self._clocked is not None:
            return self._clocked.memory
        assert self._reference is not None
        window = self.loaded.dit.config.window_frames
        return Memory(min(self._reference.start_frame, window), window, self._commits, 0)

    @property
    def clocked(self) -> bool:
        """Tell whether this session keeps our rhythm, not the released one."""
        return self._clocked is not None

    @property
    def waits_for_frames(self) -> bool:
        """Tell whether a query must wait for a commit: the released rhythm asks once a block."""
        return self._reference is not None and self._pending is None

    def beside(self) -> 'Policy':
        """Give another with a memory of its own on the same prepared network."""
        return Policy(
            self.loaded,
            self.robot,
            self.choice,
            role=self.role,
            exchange=self._exchange,
            now=self._now,
            beside=self,
        )

    def reset(self, instruction: str, mode: str | None = None) -> Mapping[str, float]:
        """Follow an instruction with an empty memory, in a mode of MODES if not in the chosen one;
        give stages in ms.
        """
        self._keep_time(mode or self.choice.mode)
        self._prompt = self.loaded.design.prompt(self.robot.model_tag, instruction)
        self._pending, self._last, self._commits = None, None, 0
        if self._clocked is not None:
            self._clocked.reset(self._prompt)
            return self._clocked.timings_ms
        assert self._reference is not None
        self._reference.reset()
        return {}

    def commit(self, views: Views) -> Mapping[str, float]:
        """Take real frames into memory, 1 at first, then a block's; give stages in ms."""
        watch = Stopwatch(self._clock)
        canvases = self.stitched(views)
        watch.lap('preprocess')
        if self._clocked is not None:
            self._clocked.observe(canvases)
            return _summed(watch.laps_ms, self._clocked.timings_ms)
        # the released rhythm takes frames and predicts in one call: they wait for the query
        self._pending = canvases
        self._commits += 1
        return watch.laps_ms

    def query(self, joints: np.ndarray, seed: int, newest: Views | None = None) -> Targets:
        """Predict targets from a posture [observed] on top of what is committed.

        `newest` frames are seen for this query alone; the released rhythm knows no such thing
        and does not look at them. Raises ValueError for a posture that is not one and
        RuntimeError if nothing has been committed.
        """
        watch = Stopwatch(self._clock)
        joints = np.asarray(joints, dtype=np.float64)
        if joints.shape != (len(self.robot.observed),) or not np.isfinite(joints).all():
            raise ValueError(
                f'joints: want {len(self.robot.observed)} finite values, got {joints.tolist()}'
            )
        values = transforms.state_values(self.robot, joints)
        state = torch.from_numpy(self._normaliser.state(values))
        seen = None if newest is None or self._reference else self.stitched(newest)
        watch.lap('preprocess')
        self._swapped_s = 0.0
        found = self._inferred(state, seed, seen)
        self._last = found
        inner = dict(found.timings_ms)
        inner['exchange'] = 1e3 * self._swapped_s
        inner['denoise'] -= inner['exchange']
        after = Stopwatch(self._clock)
        targets = None
        if found.actions is not None:
            actions = found.actions.float().cpu().numpy()
            targets = transforms.targets(self.robot, self._normaliser.targets(actions, values))
        after.lap('post')
        stages_ms = _summed(watch.laps_ms, inner, after.laps_ms)
        return Targets(targets, joints[self._commanded], stages_ms)

    @property
    def imagined(self) -> torch.Tensor | None:
        """Return the latents of the last prediction [1 C T h w]; None before there is one."""
        return None if self._last is None else self._last.video

    def video(self) -> np.ndarray:
        """Decode the last predicted block: uint8 [T h w 3]. RuntimeError if there is none."""
        if self._last is None:
            raise RuntimeError('nothing predicted yet: query first')
        with torch.inference_mode():
            video = self._last.video.to(self.loaded.dit.dtype)
            # a clip's first latent decodes to one frame: one more leads in
            frames = self.loaded.encoders.decode(torch.cat([video[:, :, :1], video], dim=2))
        return frames[0, 1:].cpu().numpy()

    def stitched(self, views: Views) -> torch.Tensor:
        """Put camera views on the model's canvas, uint8 [T h w 3]."""
        frames = {name: torch.from_numpy(view) for name, view in views.items()}
        return view_layout.stitched(frames, self._layout)

    def _prepared(self) -> engines.Engine:
        """Bring the network into the precision and the engine that were chosen."""
        if (calibration := quantization.chosen(self.choice.precision)) is not None:
            quantization.installed(self.loaded.dit, calibration)
        return engines.made(self.choice.engine, self.loaded.dit)

    def _keep_time(self, mode: str) -> None:
        """Live on in a mode; both share one memory, so the other's session is over."""
        negative = self.loaded.design.negative
        if mode == 'reference' and self._reference is None:
            self._reference, self._clocked = (
                ReferenceSession(self._episode, negative=negative),
                None,
            )
        elif mode == 'clocked' and self._clocked is None:
            self._reference, self._clocked = (
                None,
                Session(self._episode, negative=negative, window=self.choice.window),
            )

    def _inferred(self, state: torch.Tensor, seed: int, seen: torch.Tensor | None) -> Inference:
        if self._clocked is not None:
            return self._clocked.infer(state, seed, seen)
        assert self._reference is not None
        frames, self._pending = self._pending, None
        if frames is None or self._prompt is None:
            raise RuntimeError('no frames since the last query: commit first')
        return self._reference.step(frames, self._prompt, state, seed)

    def _timed(self, exchange: sampler.Exchange) -> sampler.Exchange:
        def swapped(video: torch.Tensor, action: torch.Tensor) -> sampler.Velocities:
            start_s = self._clock()
            theirs = exchange(video, action)
            self._swapped_s += self._clock() - start_s
            return theirs

        return swapped

    def _clock(self) -> float:
        """Read the clock once the device has caught up: a stage's time belongs to the stage."""
        if self.loaded.dit.device.type == 'cuda':
            torch.cuda.synchronize(self.loaded.dit.device)
        return self._now()


def _summed(*groups: Mapping[str, float]) -> dict[str, float]:
    total: dict[str, float] = {}
    for group in groups:
        for name, value in group.items():
            total[name] = total.get(name, 0.0) + value
    return total
