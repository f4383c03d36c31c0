"""Rows are due by stamp, seams fade, and what cannot be executed is refused whole."""

from dataclasses import replace

import numpy as np
import pytest

from wam_policy.core.motion import chunk_blending, chunk_validator, qp_planner
from wam_policy.core.motion.qp_planner import STEP_NS
from wam_policy.core.motion.trajectory import JointMotion, make_hold
from wam_policy.core.robot import limits
from wam_policy.core.robot.embodiment import load_embodiment
from wam_policy.core.types import Chunk

ROBOT = load_embodiment('agibot_g1')
N = len(ROBOT.commanded)
GRIPS = limits.gripper_mask(ROBOT)
S = 1_000_000_000
CENTER = np.where(GRIPS, 0.5, 0.0)


def chunk(stamp_ns: int = 10 * S, sequence: int = 1, **changes) -> Chunk:
    """Return a chunk that raises every joint by 0.01 per row."""
    rows = CENTER + 0.01 * np.arange(24)[:, None]
    return replace(
        Chunk(
            stamp_ns,
            'first',
            sequence,
            ROBOT.step_dt_s,
            ROBOT.commanded,
            np.broadcast_to(rows, (24, N)),
            CENTER,
            ROBOT.config_hash,
            {},
        ),
        **changes,
    )


def corrupt_targets(value: float, row: int = 3, joint: int = 2) -> np.ndarray:
    targets = np.array(chunk().targets)
    targets[row, joint] = value
    return targets


@pytest.mark.parametrize(
    ('changes', 'word'),
    [
        ({'targets': corrupt_targets(np.nan)}, 'not finite: idx23_arm_l_joint3'),
        ({'targets': corrupt_targets(-np.inf)}, 'not finite'),
        ({'targets': corrupt_targets(1e300)}, 'wrong unit'),
        ({'targets': corrupt_targets(90.0)}, 'wrong unit'),
        ({'reference': np.full(N, np.nan)}, 'not finite'),
        ({'names': ('x', *ROBOT.commanded[1:])}, 'other joints'),
        ({'names': ROBOT.commanded[::-1]}, 'order'),
        ({'step_dt_s': 0.1}, 'rows are 0.1 s apart'),
        ({'embodiment_hash': 'other'}, 'contract'),
        ({'stamp_ns': 11 * S}, 'future'),
        ({'stamp_ns': 1}, 'late'),
    ],
)
def test_a_flawed_chunk_is_refused_whole(changes, word):
    gate = chunk_validator.ChunkValidator(ROBOT)
    assert word in gate.validate(chunk(**changes), 10 * S + S // 2)
    assert gate.session is None  # and leaves no trace
    assert gate.validate(chunk(), 10 * S + S // 2) is None


def test_a_chunk_of_another_size_is_refused():
    names = ROBOT.commanded[:3]
    small = replace(chunk(), names=names, targets=np.zeros((24, 3)), reference=np.zeros(3))
    assert 'other joints' in chunk_validator.ChunkValidator(ROBOT).validate(small, 10 * S)


def test_two_policies_are_refused_both_and_the_one_that_stays_is_followed_again():
    gate, refused = chunk_validator.ChunkValidator(ROBOT), []
    for at in range(40):  # ten chunks per second; a rival from 1 s to 2 s
        now_ns = (10 + at // 10) * S + at % 10 * S // 10
        for session in ('first', 'rival') if 10 <= at < 20 else ('first',):
            refused.append(
                (at, gate.validate(chunk(now_ns, sequence=at, session=session), now_ns))
            )
    during = [str(reason) for at, reason in refused if 11 <= at < 29]
    assert during and all('two policies publish' in reason for reason in during)
    assert all(reason is None for at, reason in refused if at < 10 or at >= 30)
    late = chunk(12 * S, sequence=99, session='rival')
    assert gate.validate(late, 14 * S) is not None  # what it saw is older than the present


def test_order_within_and_between_sessions():
    gate = chunk_validator.ChunkValidator(ROBOT)
    assert gate.validate(chunk(sequence=5), 10 * S) is None
    for sequence in (5, 4):
        assert 'came after' in gate.validate(chunk(sequence=sequence), 10 * S)
    assert gate.validate(chunk(sequence=7), 10 * S) is None
    assert gate.validate(chunk(sequence=0, session='second'), 10 * S) is None
    assert 'old session' in gate.validate(chunk(sequence=99), 10 * S)
    gate.reject_until(10 * S)
    assert 'paused' in gate.validate(chunk(sequence=1, session='third'), 10 * S)
    assert gate.validate(chunk(10 * S + 1, 1, session='third'), 10 * S + 2) is None


def test_rows_are_anchored_at_the_observation_and_rest_does_not_consume_them():
    one, switch = chunk(), 10 * S + 300_000_000
    assert chunk_blending.compute_chunk_start_ns(one, switch, None) == one.stamp_ns
    assert chunk_blending.compute_chunk_start_ns(one, switch, 9 * S) == switch  # skip 0
    rested = 10 * S + 100_000_000  # 3 rows were executed, then rest
    assert chunk_blending.compute_chunk_start_ns(one, switch, rested) == one.stamp_ns + 200_000_000


def test_rows_left_and_lateness():
    one = chunk()
    assert chunk_blending.count_rows_left(one, one.stamp_ns, one.stamp_ns) == pytest.approx(23)
    assert chunk_blending.count_rows_left(one, one.stamp_ns, one.stamp_ns + S) == 0
    assert (
        chunk_blending.check_chunk_lateness(one, one.stamp_ns, one.stamp_ns + S // 2, 1.0) is None
    )
    assert 'late' in chunk_blending.check_chunk_lateness(one, one.stamp_ns, one.stamp_ns + S, 1.0)
    assert 'behind' in chunk_blending.check_chunk_lateness(
        one, one.stamp_ns, one.stamp_ns + S // 2, 0.4
    )


def test_a_seam_starts_at_the_command_and_fades_but_grippers_do_not_average():
    one, start = chunk(), 10 * S + 200_000_000
    command = JointMotion.at_rest(CENTER + 0.16)
    join = chunk_blending.blend(one, one.stamp_ns, command, start, 0.25, GRIPS)
    # the row due at the switch is 0.06 above the center: six rows of 1/30 s have passed
    assert join.blend_offset == pytest.approx(np.where(GRIPS, 0.0, 0.1))
    due = CENTER + 0.01 * (0.2 + STEP_NS / S * np.arange(1, len(join.targets) + 1)[:, None]) * 30
    assert join.targets[:, GRIPS] == pytest.approx(due[:, GRIPS])
    left = (join.targets - due)[:, 0]
    assert left[0] == pytest.approx(0.1 * (1 - 0.1**2 * (3 - 0.2)))
    assert (np.diff(left) <= 1e-12).all() and left[9:] == pytest.approx(0.0)
    straight = chunk_blending.blend(one, one.stamp_ns, command, start, 0.0, GRIPS)
    assert straight.targets == pytest.approx(due)


def test_rows_are_met_exactly_where_they_fall_on_the_grid():
    rng = np.random.default_rng(0)
    one = chunk(targets=CENTER + rng.uniform(-0.2, 0.2, (24, N)))
    join = chunk_blending.blend(
        one, one.stamp_ns, JointMotion.at_rest(CENTER), one.stamp_ns, 0.0, GRIPS
    )
    for row, step in ((3, 4), (6, 8), (21, 28)):  # 3 rows are 4 steps
        assert join.targets[step - 1] == pytest.approx(one.targets[row])


def test_pacing_keeps_the_direction_of_both_arms_also_while_they_gain_speed():
    limits_ = limits.limits_with_margin(ROBOT)
    toward = np.where(GRIPS, 0.0, np.linspace(0.2, 1.0, N))
    rows = chunk_blending.limit_speed(
        np.tile(CENTER + toward, (30, 1)), JointMotion.at_rest(CENTER), limits_, GRIPS
    )
    steps = np.diff(np.vstack([CENTER, rows]), axis=0)[:, ~GRIPS]
    reach = limits_.velocity[~GRIPS] * STEP_NS / S
    gain = limits_.acceleration[~GRIPS] * (STEP_NS / S) ** 2
    assert (np.abs(steps) <= reach + 1e-12).all()
    assert np.abs(steps / reach).max() == pytest.approx(1.0)
    assert np.diff(np.vstack([0 * reach, np.abs(steps)]), axis=0).max() <= gain.max()
    for step in steps[:8]:
        assert step / np.linalg.norm(step) == pytest.approx(
            toward[~GRIPS] / np.linalg.norm(toward[~GRIPS])
        )


def test_a_plan_stays_on_the_path_that_was_asked_for_at_a_lower_speed():
    limits_ = limits.limits_with_margin(ROBOT)
    speed = np.where(GRIPS, 0.0, 2.5 * np.linspace(-1.0, 1.0, N))  # rad/s, 1.5 is allowed
    rows = CENTER + STEP_NS / S * np.arange(1, 21)[:, None] * speed
    old = make_hold(ROBOT.commanded, CENTER, 0)

    def aside(reference: np.ndarray) -> float:
        plan = qp_planner.plan_tracking(old, 0, reference, limits_).position[: len(rows)] - CENTER
        along = speed / np.linalg.norm(speed)
        return float(np.abs(plan - np.outer(plan @ along, along)).max())

    kept = aside(chunk_blending.limit_speed(rows, JointMotion.at_rest(CENTER), limits_, GRIPS))
    assert kept < 0.02 < 0.1 < aside(rows)  # rad; each joint for itself leaves it


def test_pacing_keeps_margins_but_never_pushes_a_joint_that_is_beyond():
    limits_ = limits.limits_with_margin(ROBOT)
    start = np.where(GRIPS, 0.5, limits_.upper + 0.015)
    outward = chunk_blending.limit_speed(
        np.tile(start + 1.0, (10, 1)), JointMotion.at_rest(start), limits_, GRIPS
    )
    assert outward[:, ~GRIPS] == pytest.approx(np.tile(start, (10, 1))[:, ~GRIPS])
    inside = np.where(GRIPS, 0.5, limits_.upper - 0.01)
    assert (
        chunk_blending.limit_speed(
            np.tile(inside + 1.0, (10, 1)), JointMotion.at_rest(inside), limits_, GRIPS
        )
        <= limits_.upper + 1e-12
    ).all()
