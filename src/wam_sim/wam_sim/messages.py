"""Convert simulator values to ROS messages."""

from collections.abc import Sequence

import numpy as np
from control_msgs.msg import JointTrajectoryControllerState
from sensor_msgs.msg import CameraInfo
from trajectory_msgs.msg import JointTrajectoryPoint
from visualization_msgs.msg import Marker, MarkerArray

from wam_msgs.msg import DriverStatus
from wam_policy.core.robot.embodiment import Camera
from wam_policy.nodes.message_conversion import time_to_msg
from wam_sim.physics.simulation import SceneGeom


def make_camera_info(
    camera: Camera, now_ns: int, intrinsics: np.ndarray, size: tuple[int, int]
) -> CameraInfo:
    """Return the calibration of a pinhole camera with matrix K [3 3], without distortion."""
    message = CameraInfo(
        width=size[0],
        height=size[1],
        distortion_model='plumb_bob',
        d=[0.0] * 5,
        k=intrinsics.ravel(),
        r=np.eye(3).ravel(),
        p=np.hstack([intrinsics, np.zeros((3, 1))]).ravel(),
    )
    message.header.stamp, message.header.frame_id = time_to_msg(now_ns), camera.frame_id
    return message


def make_controller_state(
    now_ns: int,
    names: tuple[str, ...],
    reference: np.ndarray,
    feedback: np.ndarray,
    speed_scaling: float = 1.0,
) -> JointTrajectoryControllerState:
    """Return a controller's state from setpoint [3 joints] and measurement [2 joints].

    Rows are position, velocity and acceleration; the measured acceleration is unknown.
    """
    message = JointTrajectoryControllerState(
        joint_names=list(names),
        reference=_make_point(reference),
        feedback=_make_point(feedback),
        error=_make_point(reference[:2] - feedback),
        output=_make_point(reference[:1]),
        speed_scaling_factor=speed_scaling,
    )
    message.header.stamp = time_to_msg(now_ns)
    return message


def make_driver_status(robot_name: str, now_ns: int) -> DriverStatus:
    """Return the status of a simulated robot, with the checks its motors do not support."""
    message = DriverStatus(
        robot=robot_name,
        simulated=True,
        inactive_checks=['temperature', 'driver_faults'],
        inactive_reasons=['simulated motors have no temperature', 'simulated motors do not fail'],
    )
    message.header.stamp = time_to_msg(now_ns)
    return message


def make_objects(geoms: Sequence[SceneGeom], now_ns: int) -> MarkerArray:
    """Return the scene's objects as markers in the world frame; `text` says what each is."""
    return MarkerArray(
        markers=[_make_marker(number, geom, now_ns) for number, geom in enumerate(geoms)]
    )


def _make_marker(number: int, geom: SceneGeom, now_ns: int) -> Marker:
    marker = Marker(
        ns='objects',
        id=number,
        text=geom.text,
        type=Marker.CUBE if geom.is_box else Marker.CYLINDER,
    )
    marker.header.stamp, marker.header.frame_id = time_to_msg(now_ns), 'world'
    x, y, z = geom.size.tolist() if geom.is_box else (geom.size[0], geom.size[0], geom.size[1])
    marker.scale.x, marker.scale.y, marker.scale.z = 2.0 * x, 2.0 * y, 2.0 * z
    color, place, turn = marker.color, marker.pose.position, marker.pose.orientation
    color.r, color.g, color.b, color.a = geom.rgba.tolist()
    place.x, place.y, place.z = geom.position.tolist()
    turn.w, turn.x, turn.y, turn.z = geom.quaternion.tolist()
    return marker


def _make_point(rows: np.ndarray) -> JointTrajectoryPoint:
    return JointTrajectoryPoint(
        **{
            field: row.tolist()
            for field, row in zip(('positions', 'velocities', 'accelerations'), rows, strict=False)
        }
    )  # feedback has no acceleration
