"""What motion_node tells about itself: one snapshot of motion as a message."""

from wam_msgs.msg import MotionStatus
from wam_policy.core.motion.motion_control import Snapshot
from wam_policy.core.robot.embodiment import Embodiment
from wam_policy.nodes import message_conversion
from wam_policy.nodes.motion.control_loop import ControlLoop


def message(
    snapshot: Snapshot, robot: Embodiment, loop: ControlLoop | None, now_ns: int
) -> MotionStatus:
    """Return the status at `now_ns`; without a loop nothing ticks."""
    tally = snapshot.tally
    age_s = snapshot.chunk_age_s
    msg = MotionStatus(
        state=snapshot.state.value,
        state_name=snapshot.state.name,
        robot=robot.name,
        enabled=snapshot.enabled,
        estop=snapshot.estop,
        first_move=snapshot.first_move,
        dry_run=snapshot.dry_run,
        deadman_ok=snapshot.deadman_ok,
        joint_names=list(robot.commanded),
        clamp_counts=snapshot.clamp_counts.tolist(),
        seam_offset=snapshot.seam_offset,
        chunk_age_ms=-1.0 if age_s is None else age_s * 1e3,
        rows_left=snapshot.rows_left,
        chunks_accepted=tally.accepted,
        chunks_rejected=tally.rejected,
        late_chunks=tally.late,
        underruns=tally.underruns,
        late_ticks=loop.late_ticks if loop else 0,
        tick_jitter_p99_ms=loop.jitter_p99_ms if loop else 0.0,
        max_step=tally.max_step,
        max_velocity_ratio=tally.velocity_ratio,
        max_acceleration_ratio=tally.acceleration_ratio,
        max_jerk_ratio=tally.jerk_ratio,
        contacts_ahead=tally.contacts,
        commands_lost=tally.lost,
        reason=snapshot.reason,
    )
    msg.header.stamp = message_conversion.time(now_ns)
    return msg
