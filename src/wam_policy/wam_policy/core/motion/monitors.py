"""What is watched while the robot moves: the measured posture, and how often limits intervene."""

from collections import deque

import numpy as np

from wam_policy.core.motion.trajectory import NS_PER_S
from wam_policy.core.observation.clock_offsets import describe_delay
from wam_policy.core.observation.joint_plausibility import JointPlausibility
from wam_policy.core.robot.embodiment import Embodiment
from wam_policy.core.types import JointState

AT_REST_SPREAD_RAD = 0.01  # less movement than this over the window is a robot at rest
AT_REST_WINDOW_NS = 200_000_000
MAX_EFFORT_GAP_NS = 100_000_000  # ten samples at 100 Hz; a push of 0.3 s is seen in between
EFFORT_MISSING_NS = 1_000_000_000
NEVER_NS = -(10**18)  # 32 years before any stamp
REFUSAL_SHOWN_NS = 1_000_000_000  # a refusal explains the lack of joint states for so long
MAX_FUTURE_STAMP_NS = 50_000_000  # a stamp this far in the future is a wrong clock, not jitter


class JointStateMonitor:
    """Keep the newest measured posture and enough of its past to tell whether it moves."""

    def __init__(self, robot: Embodiment) -> None:
        self.names = robot.commanded
        self.max_age_ns = round(robot.safety.observation.joints_max_age_s * NS_PER_S)
        self.newest: JointState | None = None
        # how the joints stand that are only read; the rest posture until they are
        self.state_only_names = robot.observed[len(robot.commanded) :]
        self.state_only_positions = robot.home_positions(self.state_only_names)
        self._state_only_seen = not self.state_only_names
        self.history: deque[tuple[int, np.ndarray]] = deque(maxlen=1000)
        self._plausibility = JointPlausibility(robot)
        self._last_stamp_ns: int | None = None  # of the newest state, plausible or not
        self._refusal = ''  # why messages are refused
        self._refusal_ns = self._refused_ns = 0  # when that was found, and the last refusal

    def update(self, state: JointState, now_ns: int) -> str | None:
        """Take one joint state; return why not: its stamp, or a posture that cannot be true."""
        flaw = self._find_flaw(state, now_ns)
        if flaw:
            self.note_refusal(flaw, now_ns)
            return flaw
        late_ns = now_ns - state.stamp_ns
        if late_ns > self.max_age_ns:  # taken, and of no use: say why
            self.note_refusal(f'joint states: {describe_delay(late_ns)}', now_ns)
        self.newest = state
        self.history.append((state.stamp_ns, state.positions(self.names)))
        if set(self.state_only_names) <= set(state.names):
            self.state_only_positions = state.positions(self.state_only_names)
            self._state_only_seen = True
        while self.history[0][0] < state.stamp_ns - 2 * AT_REST_WINDOW_NS:
            self.history.popleft()
        return None

    def note_refusal(self, reason: str, now_ns: int) -> None:
        """Keep why a message was refused, for `check_age`.

        The figures in a reason change with every message: it is renewed once per second.
        """
        if not self._refusal or now_ns - self._refusal_ns > REFUSAL_SHOWN_NS:
            self._refusal, self._refusal_ns = reason, now_ns
        self._refused_ns = now_ns

    def _find_flaw(self, state: JointState, now_ns: int) -> str | None:
        if state.stamp_ns > now_ns + MAX_FUTURE_STAMP_NS:
            return (
                f'joint state is stamped {(state.stamp_ns - now_ns) / NS_PER_S:.2f} s in the '
                'future: clocks differ'
            )
        if self._last_stamp_ns is not None and state.stamp_ns <= self._last_stamp_ns:
            return 'joint state is not newer than the one before'
        self._last_stamp_ns = state.stamp_ns
        return self._plausibility.check(state)

    def reset(self) -> None:
        """Start again, as after a jump of the clock."""
        self.newest = self._last_stamp_ns = None
        self._refusal = ''
        self.history.clear()
        self._plausibility.reset()

    @property
    def missing_state_only(self) -> str:
        """Return why the joints that are only read are assumed; empty if they are measured."""
        if self._state_only_seen:
            return ''
        return f'joint states lack {", ".join(self.state_only_names)}: assumed at home'

    @property
    def position(self) -> np.ndarray:
        """Return the newest posture of the commanded joints, [joints]."""
        return self.history[-1][1]

    def check_age(self, now_ns: int) -> str | None:
        """Return why the posture cannot be relied on now."""
        if self.newest is None:
            reason = 'no joint state yet'
        elif now_ns - self.newest.stamp_ns > self.max_age_ns:
            reason = f'no joint state for more than {self.max_age_ns / NS_PER_S:g} s'
        else:
            return None
        refused = self._refusal and now_ns - self._refused_ns <= REFUSAL_SHOWN_NS
        return f'{reason}: {self._refusal}' if refused else reason

    def check_at_rest(self) -> str | None:
        """Return what still moves, or that nobody knows yet.

        While the newest state is refused, the accepted one may be where the robot is not.
        """
        if self.newest is not None and self._last_stamp_ns != self.newest.stamp_ns:
            return self._refusal
        if not self.history or self.history[-1][0] - self.history[0][0] < AT_REST_WINDOW_NS:
            return 'joint states too short to tell whether the robot is still'
        first_ns = self.history[-1][0] - AT_REST_WINDOW_NS
        recent = np.stack(
            [position for stamp_ns, position in self.history if stamp_ns >= first_ns]
        )
        spread = np.ptp(recent, axis=0)
        joint = int(spread.argmax())
        if spread[joint] > AT_REST_SPREAD_RAD:
            return f'{self.names[joint]} still moves'
        return None


def check_tracking_error(
    command: np.ndarray, joint_monitor: JointStateMonitor, step_limit: np.ndarray
) -> str | None:
    """Return which joint is further from its command than `step_limit` allows, [joints] each.

    `command` is the one at the stamp of the newest joint state.
    """
    over = np.abs(command - joint_monitor.position) - step_limit
    joint = int(over.argmax())
    if over[joint] > 0.0:
        return (
            f'{joint_monitor.names[joint]} is {over[joint] + step_limit[joint]:.3f} rad from its '
            f'command, more than {step_limit[joint]:g}'
        )
    return None


class LimitRateMonitor:
    """Count rows that fall due limited, per joint, and tell when it is too often."""

    def __init__(self, robot: Embodiment, gripper_mask: np.ndarray) -> None:
        self.config = robot.safety.clamp_trip
        self.arm_mask = ~gripper_mask
        self.counts = np.zeros(len(robot.commanded), dtype=np.int64)
        self.recent_ns: deque[int] = deque()
        self.counted_until_ns = 0

    def count_rows(self, due_ns: np.ndarray, limited: np.ndarray, now_ns: int) -> np.ndarray:
        """Count the rows due since the last call; return which joints were limited, [joints]."""
        fresh = (due_ns > self.counted_until_ns) & (due_ns <= now_ns)
        self.counted_until_ns = max(self.counted_until_ns, now_ns)
        rows = limited[fresh]
        self.counts += rows.sum(axis=0)
        self.recent_ns.extend(due_ns[fresh][rows[:, self.arm_mask].any(axis=1)].tolist())
        while self.recent_ns and self.recent_ns[0] <= now_ns - round(
            self.config.window_s * NS_PER_S
        ):
            self.recent_ns.popleft()
        return rows.any(axis=0)

    @property
    def rate_hz(self) -> float:
        """Return limited rows per second, over the trip's window; grippers aside."""
        return len(self.recent_ns) / self.config.window_s

    def check_rate(self) -> str | None:
        if self.rate_hz > self.config.rate_hz:
            return (
                f'{self.rate_hz:.0f} rows per second limited, more than '
                f'{self.config.rate_hz:g}: the policy asks for what the arm may not do'
            )
        return None

    def clear_window(self, now_ns: int) -> None:
        """Drop what would trip; the counts stay."""
        self.recent_ns.clear()
        self.counted_until_ns = now_ns


class EffortMonitor:
    """Tell when an arm joint pushes harder than it should, for longer than a jolt.

    Every joint is judged by itself: one that is not measured hides no other. A gap of up to
    MAX_EFFORT_GAP_NS between two measurements of a joint does not interrupt a push.
    """

    def __init__(self, robot: Embodiment, gripper_mask: np.ndarray) -> None:
        self.config, self.names = robot.safety.effort_trip, robot.commanded
        full = np.array([robot.joint(name).hw_effort for name in robot.commanded])
        self.limit = np.where(gripper_mask, np.inf, self.config.share * full)  # a grip is a push
        self.reset()

    def check_effort(self, state: JointState) -> str | None:
        """Take the measured efforts, if any; return which joint pushes too hard."""
        effort = state.efforts(self.names)
        if effort is None:
            return None
        measured, now_ns = np.isfinite(effort), state.stamp_ns
        self._is_nonzero |= bool((measured & (effort != 0.0) & np.isfinite(self.limit)).any())
        over = measured & (np.abs(effort) > self.limit)
        interrupted = now_ns - self.measured_ns > MAX_EFFORT_GAP_NS
        begins = over & (interrupted | ~self.is_over)
        self.over_since_ns[begins] = now_ns
        self.is_over[measured] = over[measured]
        self.measured_ns[measured] = now_ns
        for_s = np.where(over, now_ns - self.over_since_ns, 0) / NS_PER_S
        joint = int(for_s.argmax())
        if over[joint] and for_s[joint] >= self.config.duration_s:
            return (
                f'{self.names[joint]} pushes with {abs(effort[joint]):.1f}, more than '
                f'{self.limit[joint]:g}, for {self.config.duration_s:g} s: overload or contact'
            )
        return None

    def check_inputs(self, now_ns: int) -> str:
        """Return which arm joints' efforts are not measured, and why; empty if all are."""
        arm = np.isfinite(self.limit)
        missing = arm & (now_ns - self.measured_ns > EFFORT_MISSING_NS)
        if (missing == arm).all():
            return 'joint states carry no efforts'
        if missing.any():
            names = [self.names[joint] for joint in np.flatnonzero(missing)]
            return f'joint states carry no effort of {", ".join(names)}'
        return '' if self._is_nonzero else 'every effort is exactly 0: not measured'

    def reset(self) -> None:
        """Forget what was measured."""
        count = len(self.names)
        self._is_nonzero = False  # some arm joint's effort was not exactly 0
        self.is_over = np.zeros(count, dtype=bool)  # at its last measurement
        self.over_since_ns = np.zeros(count, dtype=np.int64)
        self.measured_ns = np.full(count, NEVER_NS)  # of each joint's last measurement
