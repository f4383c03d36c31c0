"""Markers and paths of a plan, for RViz, Foxglove and whoever draws visualization_msgs."""

from collections.abc import Sequence

import numpy as np
from builtin_interfaces.msg import Duration
from geometry_msgs.msg import Point, PoseStamped
from nav_msgs.msg import Path
from std_msgs.msg import ColorRGBA
from visualization_msgs.msg import Marker, MarkerArray

from wam_policy.nodes.message_conversion import time_to_msg

# of tools, in order: blue and orange, which color-blind people tell apart
TOOL_COLORS = ((0.13, 0.55, 0.95), (0.95, 0.55, 0.13))
PAST_COLOR, CONTACT_COLOR = (0.6, 0.6, 0.6), (0.9, 0.1, 0.1)
LINE_WIDTH_M, GOAL_SIZE_M, CONTACT_SIZE_M, TEXT_HEIGHT_M = 0.006, 0.025, 0.05, 0.035
LIFETIME_S = 1.0  # a marker of a node that has gone does not stay
AHEAD, PAST, GOAL = 0, 1, 2  # ids within the namespace of a tool


def make_path(
    frame_id: str,
    now_ns: int,
    times_ns: np.ndarray,
    positions: np.ndarray,
    quaternions: np.ndarray,
) -> Path:
    """Return a tool's path: positions [rows 3] in m, quaternions [rows 4], xyzw."""
    path, poses = Path(), []
    path.header.frame_id, path.header.stamp = frame_id, time_to_msg(now_ns)
    for at_ns, (x, y, z), (qx, qy, qz, qw) in zip(
        times_ns.tolist(), positions.tolist(), quaternions.tolist(), strict=True
    ):
        pose = PoseStamped()
        pose.header.frame_id, pose.header.stamp = frame_id, time_to_msg(at_ns)
        place, turn = pose.pose.position, pose.pose.orientation
        place.x, place.y, place.z = x, y, z
        turn.x, turn.y, turn.z, turn.w = qx, qy, qz, qw
        poses.append(pose)
    path.poses = poses
    return path


def make_tool_markers(
    frame_id: str, now_ns: int, tools: Sequence[tuple[str, np.ndarray]], past_rows: int
) -> MarkerArray:
    """Return line and goal of each tool's path [rows 3]; the part that is over is gray."""
    markers = []
    for number, (tool, points) in enumerate(tools):
        color = TOOL_COLORS[number % len(TOOL_COLORS)]
        ahead = _make_marker(frame_id, now_ns, tool, AHEAD, Marker.LINE_STRIP, color)
        past = _make_marker(frame_id, now_ns, tool, PAST, Marker.LINE_STRIP, PAST_COLOR)
        goal = _make_marker(frame_id, now_ns, tool, GOAL, Marker.SPHERE, color)
        join = max(0, past_rows - 1)  # the lines meet
        ahead.points, past.points = _to_points(points[join:]), _to_points(points[:past_rows])
        goal.pose.position = _to_points(points[-1:])[0]
        for line in (ahead, past):
            line.scale.x = LINE_WIDTH_M
            if len(line.points) < 2:  # viewers refuse such a line
                line.action = Marker.DELETE
        goal.scale.x = goal.scale.y = goal.scale.z = GOAL_SIZE_M
        markers += [ahead, past, goal]
    return MarkerArray(markers=markers)


def make_contact_markers(frame_id: str, now_ns: int, point: np.ndarray, text: str) -> MarkerArray:
    """Return a sphere at a contact, [3] in m, with its name above."""
    sphere = _make_marker(frame_id, now_ns, 'contact', 0, Marker.SPHERE, CONTACT_COLOR, 0.7)
    sphere.pose.position = _to_points(point[None])[0]
    sphere.scale.x = sphere.scale.y = sphere.scale.z = CONTACT_SIZE_M
    label = _make_marker(frame_id, now_ns, 'contact', 1, Marker.TEXT_VIEW_FACING, CONTACT_COLOR)
    label.pose.position = _to_points(point[None] + (0.0, 0.0, 2 * CONTACT_SIZE_M))[0]
    label.scale.z, label.text = TEXT_HEIGHT_M, text
    return MarkerArray(markers=[sphere, label])


def make_deletion(frame_id: str, now_ns: int) -> MarkerArray:
    """Return what removes every marker of the topic."""
    marker = _make_marker(frame_id, now_ns, '', 0, Marker.SPHERE, PAST_COLOR)
    marker.action = Marker.DELETEALL
    return MarkerArray(markers=[marker])


def _make_marker(
    frame_id: str,
    now_ns: int,
    namespace: str,
    number: int,
    kind: int,
    color: tuple[float, float, float],
    alpha: float = 1.0,
) -> Marker:
    red, green, blue = color
    marker = Marker(
        ns=namespace,
        id=number,
        type=kind,
        color=ColorRGBA(r=red, g=green, b=blue, a=alpha),
        lifetime=Duration(sec=int(LIFETIME_S)),
    )
    marker.header.frame_id, marker.header.stamp = frame_id, time_to_msg(now_ns)
    marker.pose.orientation.w = 1.0
    return marker


def _to_points(rows: np.ndarray) -> list[Point]:
    return [Point(x=x, y=y, z=z) for x, y, z in rows.tolist()]
