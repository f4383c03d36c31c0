"""What is watched while the robot moves: the measured posture, and how often limits intervene."""

from collections import deque

import numpy as np

from wam_policy.core.motion.trajectory import NS_PER_S, Trajectory
from wam_policy.core.robot.embodiment import Embodiment
from wam_policy.core.types import JointState

STILL_RAD = 0.01  # less movement than this over the window is a robot at rest
STILL_WINDOW_NS = 200_000_000
AHEAD_NS = 50_000_000  # a stamp this far in the future is a wrong clock, not jitter


class Posture:
    """Keep the newest measured posture and enough of its past to tell whether it moves."""

    def __init__(self, robot: Embodiment) -> None:
        self.names = robot.commanded
        self.max_age_ns = round(robot.safety.observation.joints_max_age_s * NS_PER_S)
        self.newest: JointState | None = None
        # how the joints stand that are only read; the rest posture until they are
        self.held = robot.observed[len(robot.commanded) :]
        self.body = robot.rest_of(self.held)
        self.past: deque[tuple[int, np.ndarray]] = deque(maxlen=1000)

    def put(self, state: JointState, now_ns: int) -> str | None:
        """Take one joint state; return why not when its stamp is wrong or not newer."""
        if state.stamp_ns > now_ns + AHEAD_NS:
            return (
                f'joint state is stamped {(state.stamp_ns - now_ns) / NS_PER_S:.2f} s in the '
                'future: clocks differ'
            )
        if self.newest is not None and state.stamp_ns <= self.newest.stamp_ns:
            return 'joint state is not newer than the one before'
        self.newest = state
        self.past.append((state.stamp_ns, state.positions(self.names)))
        if set(self.held) <= set(state.names):
            self.body = state.positions(self.held)
        while self.past[0][0] < state.stamp_ns - 2 * STILL_WINDOW_NS:
            self.past.popleft()
        return None

    def forget(self) -> None:
        """Start again, as after a jump of the clock."""
        self.newest = None
        self.past.clear()

    @property
    def position(self) -> np.ndarray:
        """Return the newest posture of the commanded joints, [joints]."""
        return self.past[-1][1]

    def staleness(self, now_ns: int) -> str | None:
        """Return why the posture cannot be relied on now."""
        if self.newest is None:
            return 'no joint state yet'
        if now_ns - self.newest.stamp_ns > self.max_age_ns:
            return f'no joint state for more than {self.max_age_ns / NS_PER_S:g} s'
        return None

    def movement(self) -> str | None:
        """Return what still moves, or that nobody knows yet."""
        if not self.past or self.past[-1][0] - self.past[0][0] < STILL_WINDOW_NS:
            return 'joint states too short to tell whether the robot is still'
        first_ns = self.past[-1][0] - STILL_WINDOW_NS
        recent = np.stack([position for stamp_ns, position in self.past if stamp_ns >= first_ns])
        spread = np.ptp(recent, axis=0)
        joint = int(spread.argmax())
        if spread[joint] > STILL_RAD:
            return f'{self.names[joint]} still moves'
        return None


def strayed(command: Trajectory, posture: Posture, step_limit: np.ndarray) -> str | None:
    """Return which joint is further from its command than `step_limit` [joints] allows."""
    due = command.at(posture.newest.stamp_ns).position
    over = np.abs(due - posture.position) - step_limit
    joint = int(over.argmax())
    if over[joint] > 0.0:
        return (
            f'{posture.names[joint]} is {over[joint] + step_limit[joint]:.3f} rad from its '
            f'command, more than {step_limit[joint]:g}'
        )
    return None


class Clamps:
    """Count rows that fall due limited, per joint, and tell when it is too often."""

    def __init__(self, robot: Embodiment, gripping: np.ndarray) -> None:
        self.trip = robot.safety.clamp_trip
        self.arms = ~gripping
        self.counts = np.zeros(len(robot.commanded), dtype=np.int64)
        self.recent: deque[int] = deque()
        self.done_ns = 0

    def pass_rows(self, due_ns: np.ndarray, limited: np.ndarray, now_ns: int) -> np.ndarray:
        """Count the rows due since the last call; return which joints were limited, [joints]."""
        fresh = (due_ns > self.done_ns) & (due_ns <= now_ns)
        self.done_ns = max(self.done_ns, now_ns)
        rows = limited[fresh]
        self.counts += rows.sum(axis=0)
        self.recent.extend(due_ns[fresh][rows[:, self.arms].any(axis=1)].tolist())
        while self.recent and self.recent[0] <= now_ns - round(self.trip.window_s * NS_PER_S):
            self.recent.popleft()
        return rows.any(axis=0)

    @property
    def rate_hz(self) -> float:
        """Return limited rows per second, over the trip's window; grippers aside."""
        return len(self.recent) / self.trip.window_s

    def excess(self) -> str | None:
        if self.rate_hz > self.trip.rate_hz:
            return (
                f'{self.rate_hz:.0f} rows per second limited, more than '
                f'{self.trip.rate_hz:g}: the policy asks for what the arm may not do'
            )
        return None

    def forget(self, now_ns: int) -> None:
        """Drop what would trip; the counts stay."""
        self.recent.clear()
        self.done_ns = now_ns


class Strain:
    """Tell when an arm joint pushes harder than it should, for longer than a jolt."""

    def __init__(self, robot: Embodiment, gripping: np.ndarray) -> None:
        self.rule, self.names = robot.safety.effort_trip, robot.commanded
        full = np.array([robot.joint(name).hw_effort for name in robot.commanded])
        self.limit = np.where(gripping, np.inf, self.rule.share * full)  # a grip is a push
        self.since_ns: np.ndarray | None = None  # int64 [joints], where it is exceeded

    def excess(self, state: JointState) -> str | None:
        """Take the measured efforts, if any; return which joint pushes too hard."""
        effort = state.efforts(self.names)
        if effort is None:
            self.since_ns = None
            return None
        over = np.abs(effort) > self.limit
        before = np.full(len(over), state.stamp_ns) if self.since_ns is None else self.since_ns
        self.since_ns = np.where(over, before, state.stamp_ns)
        for_s = (state.stamp_ns - self.since_ns) / NS_PER_S
        joint = int(for_s.argmax())
        if over[joint] and for_s[joint] >= self.rule.duration_s:
            return (
                f'{self.names[joint]} pushes with {abs(effort[joint]):.1f}, more than '
                f'{self.limit[joint]:g}, for {self.rule.duration_s:g} s: overload or contact'
            )
        return None

    def forget(self) -> None:
        self.since_ns = None
