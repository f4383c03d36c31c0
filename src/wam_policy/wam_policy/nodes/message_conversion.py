"""Convert between ROS messages and core types; every message is validated here, once.

An invalid message raises ValueError with its part and the fix in the text; converted values are
trusted from then on. No node reads a field of a sensor message itself. Images: `nodes.images`.
"""

from array import array
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence

import numpy as np
from builtin_interfaces.msg import Duration, Time
from control_msgs.msg import JointTrajectoryControllerState
from sensor_msgs.msg import JointState as JointStateMsg
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from wam_msgs.msg import ActionChunk
from wam_policy.core.motion.trajectory import Trajectory
from wam_policy.core.robot.embodiment import Controller, Gripper
from wam_policy.core.types import Chunk, JointState, Setpoint

NS_PER_S = 1_000_000_000


def to_ns(stamp: Time | Duration) -> int:
    return stamp.sec * NS_PER_S + stamp.nanosec


def time_to_msg(stamp_ns: int) -> Time:
    sec, nanosec = divmod(stamp_ns, NS_PER_S)
    return Time(sec=sec, nanosec=nanosec)


def duration_to_msg(duration_ns: int) -> Duration:
    sec, nanosec = divmod(duration_ns, NS_PER_S)
    return Duration(sec=sec, nanosec=nanosec)


# --- joints ---------------------------------------------------------------------------------


def joint_state_from_msg(
    msg: JointStateMsg, names: Sequence[str], optional_names: Sequence[str] = ()
) -> JointState:
    """Return the state of `names` in that order, then of `optional_names` if all are present.

    Joints beyond them are ignored. joint_state_broadcaster writes NaN for what a robot does not
    report: an effort that is not finite is NaN in the result, for its joint alone; velocities
    are None unless all of them are finite.
    """
    column = _find_joint_columns(msg)
    missing = [name for name in names if name not in column]
    if missing:
        raise ValueError(
            f'joint state: {", ".join(missing)} missing; got {", ".join(msg.name) or "no names"}'
        )
    names = (*names, *(optional_names if set(optional_names) <= set(column) else ()))
    return _read_joints(msg, names, column)


def joint_state_part_from_msg(msg: JointStateMsg, names: Collection[str]) -> JointState:
    """Return the state of those of `names` that the message has, in its order; others are ignored.

    One of several publishers may know only some joints; JointStateMerger puts them together.
    """
    column = _find_joint_columns(msg)
    return _read_joints(msg, tuple(name for name in column if name in names), column)


def _find_joint_columns(msg: JointStateMsg) -> dict[str, int]:
    if len(set(msg.name)) != len(msg.name):
        twice = sorted(name for name, count in Counter(msg.name).items() if count > 1)
        raise ValueError(f'joint state: {", ".join(twice)} named twice')
    if len(msg.position) != len(msg.name):
        raise ValueError(f'joint state: {len(msg.position)} positions for {len(msg.name)} names')
    return {name: i for i, name in enumerate(msg.name)}


def _read_joints(
    msg: JointStateMsg, names: tuple[str, ...], column: Mapping[str, int]
) -> JointState:
    columns = [column[name] for name in names]
    velocity = _read_optional_field(msg, 'velocity', columns)
    return JointState(
        to_ns(msg.header.stamp),
        names,
        np.array(msg.position)[columns],
        velocity if velocity is not None and np.isfinite(velocity).all() else None,
        _read_optional_field(msg, 'effort', columns),
    )


def _read_optional_field(
    msg: JointStateMsg, field: str, columns: Sequence[int]
) -> np.ndarray | None:
    """Return an optional field of a joint state at `columns`; None where it is empty."""
    values = np.array(getattr(msg, field))
    if not len(values):
        return None
    if len(values) != len(msg.name):
        raise ValueError(f'joint state: {len(values)} {field} values for {len(msg.name)} names')
    return values[list(columns)]


def joint_state_to_msg(state: JointState) -> JointStateMsg:
    msg = JointStateMsg(name=list(state.names), position=_to_double_array(state.position))
    msg.header.stamp = time_to_msg(state.stamp_ns)
    if state.velocity is not None:
        msg.velocity = _to_double_array(state.velocity)
    if state.effort is not None:
        msg.effort = _to_double_array(state.effort)
    return msg


def positions_from_unnamed_msg(
    msg: JointStateMsg, names: Sequence[str], layouts: Iterable[Mapping[str, int]]
) -> np.ndarray:
    """Return the positions of a vendor's message whose order counts and whose names do not.

    `layouts` tells, per number of values (`at_least`), where ours begin (`first`); the longest
    that fits is used. Returns [names] in rad; raises ValueError when none fits.
    """
    count = len(msg.position)
    fitting = [layout for layout in layouts if count >= layout['at_least']]
    if not fitting:
        raise ValueError(f'joint list: {count} values, too few for {len(names)} joints')
    first = max(fitting, key=lambda layout: layout['at_least'])['first']
    values = np.array(msg.position[first : first + len(names)], dtype=np.float64)
    if len(values) != len(names):
        raise ValueError(f'joint list: {count} values end before joint {names[len(values)]}')
    broken = [name for name, good in zip(names, np.isfinite(values), strict=True) if not good]
    if broken:
        raise ValueError(f'joint list: {", ".join(broken)} not finite')
    return values


def gripper_opening_from_raw(raw: float, gripper: Gripper) -> float:
    """Return a driver's reading as 0 closed .. 1 open.

    A reading outside the configured range means another unit or firmware: it is refused, because
    scaling it would give a wrong but plausible position.
    """
    if not gripper.is_valid_raw(raw):
        low, high = gripper.raw_range
        guess = 'looks like a scale of 0 to 1; ' if 0.0 <= raw <= 1.0 else ''
        raise ValueError(
            f'{gripper.name}: reading {raw:g} is outside [{low:g}, {high:g}]; {guess}'
            'measure raw_open, raw_closed and raw_range on this robot'
        )
    return float(gripper.from_raw(raw))


# --- chunks and trajectories ----------------------------------------------------------------


def chunk_from_msg(msg: ActionChunk) -> Chunk:
    """Return the chunk as it was sent; values are judged by whoever executes it."""
    joints, rows = len(msg.joint_names), msg.horizon
    if len(msg.positions) != rows * joints:
        raise ValueError(
            f'chunk: {len(msg.positions)} positions, want {rows} rows of {joints} joints'
        )
    if len(msg.stage_names) != len(msg.stage_ms):
        raise ValueError(f'chunk: {len(msg.stage_ms)} timings for {len(msg.stage_names)} names')
    if not msg.step_dt > 0.0:
        raise ValueError(f'chunk: step_dt is {msg.step_dt}, want above 0 s')
    return Chunk(
        stamp_ns=to_ns(msg.header.stamp),
        session=msg.session,
        sequence=msg.sequence,
        step_dt_s=msg.step_dt,
        names=tuple(msg.joint_names),
        targets=np.array(msg.positions, dtype=np.float64).reshape(rows, joints),
        reference=np.array(msg.reference_positions, dtype=np.float64),
        embodiment_hash=msg.embodiment_hash,
        timings_ms=dict(zip(msg.stage_names, msg.stage_ms, strict=True)),
    )


def chunk_to_msg(
    chunk: Chunk, robot_name: str, inference_end_ns: int, trained: bool
) -> ActionChunk:
    msg = ActionChunk(
        session=chunk.session,
        sequence=chunk.sequence,
        inference_end_stamp=time_to_msg(inference_end_ns),
        step_dt=chunk.step_dt_s,
        horizon=chunk.horizon,
        joint_names=list(chunk.names),
        positions=_to_double_array(chunk.targets),
        reference_positions=_to_double_array(chunk.reference),
        embodiment_hash=chunk.embodiment_hash,
        trained=trained,
        stage_names=list(chunk.timings_ms),
        stage_ms=array('f', chunk.timings_ms.values()),
    )
    msg.header.stamp = time_to_msg(chunk.stamp_ns)
    msg.header.frame_id = robot_name
    return msg


def trajectory_to_msg(trajectory: Trajectory, joints: Sequence[str]) -> JointTrajectory:
    """Return the part of a trajectory that one controller drives, all of (p, v, a) per point."""
    columns = [trajectory.names.index(name) for name in joints]
    msg = JointTrajectory(joint_names=list(joints))
    msg.header.stamp = time_to_msg(trajectory.start_ns)
    msg.points = [
        JointTrajectoryPoint(
            positions=_to_double_array(position[columns]),
            velocities=_to_double_array(velocity[columns]),
            accelerations=_to_double_array(acceleration[columns]),
            time_from_start=duration_to_msg(int(after_ns)),
        )
        for after_ns, position, velocity, acceleration in zip(
            trajectory.time_ns,
            trajectory.position,
            trajectory.velocity,
            trajectory.acceleration,
            strict=True,
        )
    ]
    return msg


def setpoint_from_msg(msg: JointTrajectoryControllerState, controller: Controller) -> Setpoint:
    """Return what a controller says it commands, in the order of its joints."""
    column = {name: i for i, name in enumerate(msg.joint_names)}
    if set(column) != set(controller.joints) or len(column) != len(msg.joint_names):
        raise ValueError(
            f'{controller.name}: state of {", ".join(msg.joint_names) or "no joints"}'
            f'; want each of {", ".join(controller.joints)} once: does another '
            'controller publish there?'
        )
    reference = msg.reference
    fields = reference.positions, reference.velocities, reference.accelerations
    if any(len(field) != len(column) for field in fields):
        given = '/'.join(str(len(field)) for field in fields)
        raise ValueError(
            f'{controller.name}: reference has {given} positions/velocities/'
            f'accelerations, want {len(column)} each: without them it cannot be told '
            'which command is followed'
        )
    columns = [column[name] for name in controller.joints]
    return Setpoint(
        controller.name, to_ns(msg.header.stamp), *(np.array(field)[columns] for field in fields)
    )


def setpoint_to_msg(
    setpoint: Setpoint, controller: Controller, speed_scaling: float = 1.0
) -> JointTrajectoryControllerState:
    msg = JointTrajectoryControllerState(
        joint_names=list(controller.joints), speed_scaling_factor=speed_scaling
    )
    msg.header.stamp = time_to_msg(setpoint.stamp_ns)
    msg.reference = JointTrajectoryPoint(
        positions=_to_double_array(setpoint.position),
        velocities=_to_double_array(setpoint.velocity),
        accelerations=_to_double_array(setpoint.acceleration),
    )
    return msg


def trajectory_from_msg(msg: JointTrajectory) -> Trajectory:
    """Return a command of ours as it was planned; ValueError for one that was not."""
    rows = [
        [getattr(point, field) for point in msg.points]
        for field in ('positions', 'velocities', 'accelerations')
    ]
    if any(len(row) != len(msg.joint_names) for block in rows for row in block):
        raise ValueError(
            'trajectory: want position, velocity and acceleration of '
            f'{len(msg.joint_names)} joints in every point'
        )
    return Trajectory(
        tuple(msg.joint_names),
        to_ns(msg.header.stamp),
        np.array([to_ns(point.time_from_start) for point in msg.points]),
        *(np.array(block) for block in rows),
    )


def _to_double_array(values: np.ndarray) -> array:
    """Return the values as the array type that message setters take without walking it."""
    return array('d', np.ascontiguousarray(values, dtype=np.float64).tobytes())
