"""What motion_node publishes on motion_status and logs, made from a snapshot of its motion."""

from rclpy.node import Node

from wam_msgs.msg import MotionStatus
from wam_policy.core.motion.motion_control import MotionSnapshot
from wam_policy.core.robot.embodiment import Embodiment
from wam_policy.nodes import message_conversion
from wam_policy.nodes.motion.control_loop import ControlLoop


def make_status_msg(
    snapshot: MotionSnapshot, robot: Embodiment, control_loop: ControlLoop | None, now_ns: int
) -> MotionStatus:
    """Return the status at `now_ns`; without a loop nothing ticks."""
    counters = snapshot.counters
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
        blend_offset=snapshot.blend_offset,
        chunk_age_ms=-1.0 if age_s is None else age_s * 1e3,
        rows_left=snapshot.rows_left,
        chunks_accepted=counters.accepted,
        chunks_rejected=counters.rejected,
        chunks_late=counters.late,
        underruns=counters.underruns,
        late_ticks=control_loop.late_ticks if control_loop else 0,
        tick_jitter_p99_ms=control_loop.jitter_p99_ms if control_loop else 0.0,
        max_step=counters.max_step,
        max_velocity_ratio=counters.velocity_ratio,
        max_acceleration_ratio=counters.acceleration_ratio,
        max_jerk_ratio=counters.jerk_ratio,
        predicted_collisions=counters.predicted_collisions,
        commands_lost=counters.commands_lost,
        inactive_checks=list(snapshot.inactive_checks),
        inactive_reasons=list(snapshot.inactive_checks.values()),
        stops=counters.stops,
        reason=snapshot.reason,
    )
    msg.header.stamp = message_conversion.time_to_msg(now_ns)
    return msg


class StatusChangeLog:
    """Log what changes from one snapshot to the next, once."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._last: tuple = ()

    def reset(self) -> None:
        """Take the next snapshot as new."""
        self._last = ()

    def update(self, snapshot: MotionSnapshot) -> bool:
        """Tell whether something changed that must be published at once."""
        now = (
            snapshot.state,
            snapshot.reason,
            snapshot.deadman_ok,
            snapshot.first_move,
            snapshot.report_warning,
            # at start nothing has arrived yet: what matters is what lacks when the robot may move
            tuple(snapshot.inactive_checks) if snapshot.enabled else (),
        )
        last, self._last = self._last, now
        logger = self._node.get_logger()
        if now[:2] != last[:2]:
            logger.info(f'{snapshot.state.name}: {snapshot.reason}')
        if snapshot.report_warning and now[4:5] != last[4:5]:
            logger.warning(f'{snapshot.report_warning}: lost commands go unnoticed')
        if now[5:] != last[5:]:
            for name in now[5]:
                reason = snapshot.inactive_checks[name]
                logger.warning(f'check {name} is not active: {reason}')
        return now != last
