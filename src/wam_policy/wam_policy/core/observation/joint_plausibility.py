"""Check measured joint positions: within the limits, and reachable from the previous ones.

Positions in degrees, a gripper in millimeters or an encoder with a lost zero exceed the limits by
much more than a robot does. They are rejected and never scaled or clipped, because holding wrong
positions would be a jump.
"""

import math

import numpy as np

from wam_policy.core.robot.embodiment import Embodiment, Joint
from wam_policy.core.types import JointState

NS_PER_S = 1_000_000_000
UNITS = {'revolute': 'rad', 'prismatic': 'm', 'gripper': '(0 closed .. 1 open)'}
# Allowed measurement outside the limits: covers a hand-guided arm pressed against its stop and an
# encoder zero with an error of some degrees, but not another unit.
OUTSIDE_MARGIN = {'revolute': 0.2, 'prismatic': 0.05, 'gripper': 0.2}
# A change above this share of the hardware's velocity is an error of the reading; the tolerance
# covers noise and stamp errors of some milliseconds.
VELOCITY_SHARE = 1.5
JUMP_TOLERANCE = {'revolute': 0.05, 'prismatic': 0.01, 'gripper': 0.1}
# after a jump, positions are accepted again if they are consistent for this long
SETTLE_NS = 200_000_000


class JointPlausibility:
    """Check successive joint states of one robot."""

    def __init__(self, robot: Embodiment) -> None:
        self._joints = {joint.name: joint for joint in robot.joints}
        self._accepted: JointState | None = None
        self._refused: JointState | None = None  # newest of consistent rejected states
        self._agreeing_since_ns = 0

    def reset(self) -> None:
        """Forget previous states, after a jump of the clock."""
        self._accepted = self._refused = None

    def check(self, state: JointState) -> str | None:
        """Return why `state` is rejected, with value, limit and likely cause; None if accepted.

        Stamps must increase from call to call. A jump is rejected; states after it are accepted
        again if they are consistent with each other for SETTLE_NS.
        """
        outside = self._check_limits(state)
        if outside:
            self._refused = None
            return outside
        jump = None if self._accepted is None else self._check_jump(self._accepted, state)
        if jump is None:
            self._accepted, self._refused = state, None
            return None
        if self._refused is None or self._check_jump(self._refused, state):
            self._agreeing_since_ns = state.stamp_ns
        self._refused = state
        if state.stamp_ns - self._agreeing_since_ns < SETTLE_NS:
            return jump
        self._accepted, self._refused = state, None
        return None

    def _check_limits(self, state: JointState) -> str | None:
        joints = [self._joints[name] for name in state.names]
        margin = np.array([OUTSIDE_MARGIN[joint.kind] for joint in joints])
        lower = np.array([joint.lower for joint in joints]) - margin
        upper = np.array([joint.upper for joint in joints]) + margin
        excess = np.maximum(state.position - upper, lower - state.position)
        worst = int(excess.argmax())
        if excess[worst] <= 0.0:
            return None
        joint, value = joints[worst], float(state.position[worst])
        others = int((excess > 0.0).sum()) - 1
        also = f' (and {others} more joints)' if others else ''
        return (
            f'{joint.name} is measured at {value:.4g} {UNITS[joint.kind]}, outside '
            f'[{joint.lower:g}, {joint.upper:g}] by more than {margin[worst]:g}{also}: '
            f'{_guess_unit(joint, value, others)}'
        )

    def _check_jump(self, before: JointState, state: JointState) -> str | None:
        both = [name for name in state.names if name in before.names]
        joints = [self._joints[name] for name in both]
        elapsed_s = (state.stamp_ns - before.stamp_ns) / NS_PER_S
        change = state.positions(both) - before.positions(both)
        allowed = np.array(
            [
                JUMP_TOLERANCE[joint.kind] + VELOCITY_SHARE * joint.hw_velocity * elapsed_s
                for joint in joints
            ]
        )
        excess = np.abs(change) - allowed
        worst = int(excess.argmax())
        if excess[worst] <= 0.0:
            return None
        joint = joints[worst]
        return (
            f'{joint.name} is measured {change[worst]:+.3g} {UNITS[joint.kind]} away from where '
            f'it was {elapsed_s * 1e3:.0f} ms before, more than the {allowed[worst]:.3g} that '
            f'{joint.hw_velocity:g} per s allow: an encoder that slipped, two publishers, or '
            'another unit'
        )


def _guess_unit(joint: Joint, value: float, others: int) -> str:
    """Return the likely cause of `value` outside the limits; `others`: further such joints."""

    def fits(scaled: float) -> bool:
        margin = OUTSIDE_MARGIN[joint.kind]
        return joint.lower - margin <= scaled <= joint.upper + margin

    if joint.kind == 'revolute':
        # one joint alone: 8 is rather 1.7 and a turn than 8 degrees
        turned = math.remainder(value, math.tau)
        if not others and abs(value) < 2.0 * math.tau and fits(turned):
            return 'looks like a turn too many or a lost encoder zero; home this joint'
        if fits(math.radians(value)):
            return 'looks like degrees; the driver must publish radians'
        return 'neither radians nor degrees; check the driver, its encoder zero and joint order'
    if joint.kind == 'prismatic':
        if fits(value / 1000.0):
            return 'looks like millimeters; the driver must publish meters'
        return 'check the unit (meters) and zero of this joint in the driver'
    return 'looks like millimeters, percent or a raw count; the driver must publish 0 to 1'
