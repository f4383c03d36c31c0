"""Buffer recent sensor samples by stamp, and check that they form a valid observation.

Samples are picked by the stamp in their header, never by when a callback ran. One thread owns
these objects: the one that runs the node's callbacks.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from operator import attrgetter
from statistics import median
from types import MappingProxyType

from wam_policy.core.observation.clock_offsets import ClockOffsets
from wam_policy.core.observation.frozen_images import FrozenImageMonitor
from wam_policy.core.observation.joint_plausibility import JointPlausibility
from wam_policy.core.robot.embodiment import Camera, Embodiment
from wam_policy.core.types import Frame, JointState, Observation

# A stamp this far behind the newest means that the clock was set back (a bag that loops, a
# simulator that restarts), not a late sample: the old samples are dropped.
CLOCK_JUMP_NS = 500_000_000
RATE_WINDOW_NS = 2_000_000_000
MAX_STAMPS_PER_CAMERA = 512  # used frames are newer than the last 512
# Capacity relative to history and nominal rate: a source faster than that shortens the history
# instead of using more memory.
CAPACITY_FACTOR = 1.5
MAX_JOINTS_HZ = 500.0  # highest rate with a complete history
# Cameras run freely, often slower than their nominal rate. Limits widen with the median interval
# between frames: frames of one instant are at most half an interval before or after it, the
# newest is at most one interval plus its delay old. A lost camera adds no interval, so it does
# not widen its own limit; the age limit never exceeds twice the configured one.
INTERVAL_FRAMES = 31  # 1 s at 30 Hz
MIN_INTERVALS = 3  # fewer are not sufficient for a rate
SKEW_INTERVALS = 1.25  # one half on each side, and jitter
NEAREST_INTERVALS = 0.75  # one half, and jitter
AGE_INTERVALS = 2.5  # one interval, one lost frame, and half of one for delay and jitter
MAX_AGE_FACTOR = 2.0


@dataclass(frozen=True, slots=True)
class ObservationRejection:
    """Reason why there is no observation now."""

    source: str  # camera key, or 'joints'
    reason: str
    missing: bool  # True: nothing has arrived yet; False: too old or not usable


class StampedBuffer[T: (Frame, JointState)]:
    """Samples of one source, oldest first, limited in time and number."""

    def __init__(self, history_ns: int, capacity: int) -> None:
        if history_ns < 1 or capacity < 1:
            raise ValueError(
                f'ring: want a history and a capacity above 0, got {history_ns} ns and {capacity}'
            )
        self._history_ns = history_ns
        self._capacity = capacity
        self._samples: list[T] = []
        self.received = 0
        self.duplicates = 0  # equal to the newest stamp: a frozen source
        self.reordered = 0  # slightly older than the newest: arrived too late
        self.jumps = 0  # stamps went back: history dropped

    def __len__(self) -> int:
        return len(self._samples)

    def put(self, sample: T) -> bool:
        """Add a sample; return whether it was kept. Stored stamps are strictly increasing."""
        self.received += 1
        if self._samples:
            behind_ns = self._samples[-1].stamp_ns - sample.stamp_ns
            if behind_ns == 0:
                self.duplicates += 1
                return False
            if 0 < behind_ns < CLOCK_JUMP_NS:
                self.reordered += 1
                return False
            if behind_ns >= CLOCK_JUMP_NS:
                self.jumps += 1
                self._samples.clear()
        self._samples.append(sample)
        old = bisect_right(
            self._samples, sample.stamp_ns - self._history_ns, key=attrgetter('stamp_ns')
        )
        del self._samples[: max(old, len(self._samples) - self._capacity)]
        return True

    @property
    def newest(self) -> T | None:
        return self._samples[-1] if self._samples else None

    def as_of(self, t_ns: int) -> T | None:
        """Return the newest sample that is not later than `t_ns`."""
        after = bisect_right(self._samples, t_ns, key=attrgetter('stamp_ns'))
        return self._samples[after - 1] if after else None

    def nearest(self, t_ns: int) -> T | None:
        """Return the sample whose stamp is nearest to `t_ns`; of two as near, the earlier."""
        at = bisect_left(self._samples, t_ns, key=attrgetter('stamp_ns'))
        around = self._samples[max(at - 1, 0) : at + 1]
        return min(around, key=lambda sample: abs(sample.stamp_ns - t_ns), default=None)

    def median_interval_ns(self) -> int | None:
        """Return the median time between the newest samples in ns; None with too few of them."""
        stamps_ns = [sample.stamp_ns for sample in self._samples[-INTERVAL_FRAMES:]]
        if len(stamps_ns) <= MIN_INTERVALS:
            return None
        # not numpy: asked for several times per query, and 30 numbers sort in a few microseconds
        return int(median(later - earlier for earlier, later in pairwise(stamps_ns)))

    def rate_hz(self, now_ns: int) -> float:
        """Return the recent rate of samples, Hz; it decreases when they stop."""
        window_ns = min(self._history_ns, RATE_WINDOW_NS)
        old = bisect_right(self._samples, now_ns - window_ns, key=attrgetter('stamp_ns'))
        return (len(self._samples) - old) / (window_ns / 1e9)

    def clear(self) -> None:
        """Drop the samples, after a jump of the clock; the counters are kept."""
        self._samples.clear()


class FrameUsage:
    """Count distinct camera frames used for queries and commits."""

    def __init__(self) -> None:
        self._stamps_ns: dict[str, dict[int, None]] = {}
        self.used = 0

    def add(self, frames: Iterable[Frame]) -> None:
        for frame in frames:
            stamps_ns = self._stamps_ns.setdefault(frame.camera, {})
            if frame.stamp_ns in stamps_ns:
                continue
            self.used += 1
            stamps_ns[frame.stamp_ns] = None
            if len(stamps_ns) > MAX_STAMPS_PER_CAMERA:
                del stamps_ns[next(iter(stamps_ns))]


class ObservationBuffer:
    """Buffers of one robot's sensors, which provide its observations."""

    def __init__(self, robot: Embodiment, *, detect_frozen_images: bool = False) -> None:
        gate = robot.safety.observation
        self.image_monitor = FrozenImageMonitor(
            (camera.key for camera in robot.cameras), enabled=detect_frozen_images
        )
        history_ns = round(gate.history_s * 1e9)
        self._plausibility = JointPlausibility(robot)
        self.clock_offsets = ClockOffsets()  # by camera key, and 'joints'
        self.bridged_observations = 0  # instants at which a frame was lost within the age limit
        self._counted_ns: int | None = None  # the newest of them
        self._robot = robot
        self._config = gate
        self.camera_buffers: Mapping[str, StampedBuffer[Frame]] = MappingProxyType(
            {
                camera.key: StampedBuffer(
                    history_ns, round(gate.history_s * camera.fps * CAPACITY_FACTOR) + 1
                )
                for camera in robot.cameras
            }
        )
        self.joint_buffer: StampedBuffer[JointState] = StampedBuffer(
            history_ns, round(gate.history_s * MAX_JOINTS_HZ) + 1
        )

    def clear(self) -> None:
        """Drop all samples; call it when the node's clock jumps."""
        for ring in self.camera_buffers.values():
            ring.clear()
        self.joint_buffer.clear()
        self._counted_ns = None
        self.image_monitor.reset()
        self._plausibility.reset()
        self.clock_offsets.reset()

    def describe_clocks(self) -> str:
        """Return whose stamps do not fit our clock or the other cameras'; empty if all do."""
        cameras = [camera.key for camera in self._robot.cameras]
        described = [
            f'{source}: {text}'
            for source in (*cameras, 'joints')
            if (text := self.clock_offsets.describe(source))
        ]
        return described[0] if described else self.clock_offsets.find_outlier(cameras)

    def monitor_frame(self, frame: Frame, now_ns: int) -> None:
        """Note what a frame that arrived at `now_ns` says about its camera."""
        self.image_monitor.update(frame)
        self.clock_offsets.update(frame.camera, frame.stamp_ns, now_ns)

    def check_joint_state(self, state: JointState, now_ns: int) -> str | None:
        """Return why a joint state is rejected; `StampedBuffer.put` handles old stamps."""
        self.clock_offsets.update('joints', state.stamp_ns, now_ns)
        newest = self.joint_buffer.newest
        if newest is not None and state.stamp_ns <= newest.stamp_ns:
            return None
        return self._plausibility.check(state)

    def latest_observation(self, now_ns: int) -> Observation | ObservationRejection:
        """Return the observation at the latest common instant, or why there is none.

        That instant is the stamp of the slowest camera's newest frame: every camera has
        a frame at or after it, so later frames do not change the choice. Ages are measured
        against `now_ns`.
        """
        refusal = self._check_sources(now_ns)
        if refusal:
            return refusal
        newest = [ring.newest for ring in self.camera_buffers.values()]
        return self.observation_at(min(frame.stamp_ns for frame in newest if frame is not None))

    def observation_at(self, t_ns: int) -> Observation | ObservationRejection:
        """Return the observation at `t_ns`, or why there is none.

        Of each camera the frame nearest to `t_ns` is used, within the camera's age limit. If its
        distance is larger than the camera's rate explains, or the frames differ by more than the
        skew limit, frames were lost, and `bridged_observations` counts it. Joints are the newest
        not later than `t_ns`. Live queries and data sets use this function.
        """
        frames = []
        for camera in self._robot.cameras:
            frame = self.camera_buffers[camera.key].nearest(t_ns)
            limit_ns = self.age_limit_ns(camera)
            if frame is None or abs(frame.stamp_ns - t_ns) > limit_ns:
                nearest = f'{(frame.stamp_ns - t_ns) / 1e9:+.3f} s' if frame else 'none'
                return ObservationRejection(
                    camera.key,
                    f'camera {camera.key}: no frame within {limit_ns / 1e9:g} s of the instant '
                    f'(nearest: {nearest})',
                    missing=False,
                )
            frames.append(frame)
        joints = self.joint_buffer.as_of(t_ns)
        limit_s = self._config.joints_max_age_s
        if joints is None or t_ns - joints.stamp_ns > limit_s * 1e9:
            return ObservationRejection(
                'joints', f'no joint state within {limit_s:g} s before the frames', missing=False
            )
        # asked for several times: by queries, the status, the frame history
        is_new = self._counted_ns is None or t_ns > self._counted_ns
        if is_new and self._has_lost_frames(t_ns, frames):
            self.bridged_observations += 1
            self._counted_ns = t_ns
        return Observation(t_ns, tuple(frames), joints)

    def _has_lost_frames(self, t_ns: int, frames: Sequence[Frame]) -> bool:
        intervals_ns = [
            self.camera_buffers[frame.camera].median_interval_ns() or 0 for frame in frames
        ]
        stamps_ns = [frame.stamp_ns for frame in frames]
        skew_limit_ns = max(self._config.camera_skew_s * 1e9, SKEW_INTERVALS * max(intervals_ns))
        return max(stamps_ns) - min(stamps_ns) > skew_limit_ns or any(
            0 < NEAREST_INTERVALS * interval_ns < abs(stamp_ns - t_ns)
            for stamp_ns, interval_ns in zip(stamps_ns, intervals_ns, strict=True)
        )

    def age_limit_ns(self, camera: Camera) -> float:
        """Return the age limit of a camera's frames in ns, widened by its measured rate."""
        limit_ns = camera.max_age_s * 1e9
        interval_ns = self.camera_buffers[camera.key].median_interval_ns() or 0
        return min(max(limit_ns, AGE_INTERVALS * interval_ns), MAX_AGE_FACTOR * limit_ns)

    def _check_sources(self, now_ns: int) -> ObservationRejection | None:
        """Return the first sensor that is missing, too old, in the future or frozen."""
        for camera in self._robot.cameras:
            title = f'camera {camera.key} ({camera.topic})'
            refusal = _check_source(
                camera.key,
                title,
                self.camera_buffers[camera.key].newest,
                now_ns,
                self.age_limit_ns(camera) / 1e9,
                self.clock_offsets.describe(camera.key),
            )
            if refusal:
                return refusal
            flaw = self.image_monitor.check(camera.key)
            if flaw:
                return ObservationRejection(camera.key, f'{title}: {flaw}', missing=False)
        return _check_source(
            'joints',
            'joint states',
            self.joint_buffer.newest,
            now_ns,
            self._config.joints_max_age_s,
            self.clock_offsets.describe('joints'),
        )


def _check_source(
    source: str,
    title: str,
    newest: Frame | JointState | None,
    now_ns: int,
    limit_s: float,
    clock_flaw: str,
) -> ObservationRejection | None:
    if newest is None:
        return ObservationRejection(source, f'{title}: nothing has arrived yet', missing=True)
    age_s = (now_ns - newest.stamp_ns) / 1e9
    if age_s > limit_s:
        why = f'; {clock_flaw}' if clock_flaw else ''
        return ObservationRejection(
            source,
            f'{title}: newest is {age_s:.3f} s old, limit {limit_s:g} s{why}',
            missing=False,
        )
    if -age_s > limit_s:
        return ObservationRejection(
            source,
            f'{title}: newest is stamped {-age_s:.3f} s in the future, limit '
            f'{limit_s:g} s; synchronize the clocks',
            missing=False,
        )
    return None
