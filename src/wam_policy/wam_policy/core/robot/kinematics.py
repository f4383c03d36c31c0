"""Kinematics of a robot as others use it: poses of tools for joint positions, and back."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np


class UnreachablePose(ValueError):
    """Report a pose without a joint configuration near the one before."""


@dataclass(frozen=True, slots=True)
class ToolFrame:
    """Tool point of an arm, and the frame in which its poses are given."""

    joints: tuple[str, ...]  # that move it
    link: str  # body of collision.xml
    tool_xyz: tuple[float, float, float]  # of the tool in the link, m
    tool_quat_wxyz: tuple[float, float, float, float]
    base: str  # body in whose frame poses are given; 'world': that of the model


class RobotKinematics(Protocol):
    """Forward and inverse kinematics; all positions are [observed]."""

    def check_tool(self, tool: ToolFrame) -> None:
        """Raise ValueError if the robot has not the link, the base or a joint of a tool."""
        ...

    def compute_pose(
        self, tool: ToolFrame, joint_positions: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return position [3], m, and rotation [3 3] of a tool in its base."""
        ...

    def solve_rows(
        self,
        tool: ToolFrame,
        positions: np.ndarray,
        rotations: np.ndarray,
        joint_positions: np.ndarray,
    ) -> np.ndarray:
        """Return joint rows [rows joints of the tool] for tool poses [rows 3], [rows 3 3].

        The other joints stay at `joint_positions`, from where the first row starts. Raises
        UnreachablePose that names the row.
        """
        ...
