"""Poses of tools in messages: joint positions to numbers of a pose, and rows of poses to joints.

Kinds of rows: absolute in the tool's base frame; relative to the pose at the observation, or at
the start of the episode: position = start + number, rotation = start rotation times the row's.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from wam_policy.core.robot.embodiment import Embodiment
from wam_policy.core.robot.kinematics import RobotKinematics, UnreachablePose
from wam_policy.servers.mapping.nested_keys import ProfileMismatch
from wam_policy.servers.mapping.rotation_format import FORMATS
from wam_policy.servers.profile_fields import PoseGroup, ServerProfile


class PoseMapper:
    """Mapping of one profile's poses, for use by one thread."""

    def __init__(self, profile: ServerProfile, robot: Embodiment) -> None:
        """Load the kinematics if the profile has tools; raises ValueError for a wrong tool.

        Most profiles have none, and their worker does not load MuJoCo.
        """
        self._profile = profile
        self._kinematics: RobotKinematics | None = None
        if profile.tools:
            from wam_policy.mujoco_kinematics import MujocoKinematics

            self._kinematics = MujocoKinematics(robot)
            for tool in profile.tools.values():
                self._kinematics.check_tool(tool)

    def encode_rows(
        self,
        group: PoseGroup,
        rows: np.ndarray,
        joint_positions: np.ndarray,
        episode_positions: np.ndarray | None,
    ) -> np.ndarray:
        """Invert `decode_rows` for one group: numbers [rows width] of rows [rows observed]."""
        poses = [self._compute_pose(group.pose, row) for row in rows]
        positions = np.array([position for position, _ in poses])
        rotations = np.array([rotation for _, rotation in poses])
        start = self._select_start(group, joint_positions, episode_positions)
        if start is not None:
            positions = positions - start[0]
            rotations = start[1].T @ rotations
        parts = []
        if group.part != 'rotation':
            parts.append(positions)
        if group.part != 'xyz':
            parts.append(FORMATS[group.rotation].encode(rotations))
        return np.hstack(parts)

    def decode_rows(
        self,
        groups: Sequence[tuple[PoseGroup, np.ndarray]],
        joint_positions: np.ndarray,
        episode_positions: np.ndarray | None,
    ) -> Mapping[str, np.ndarray]:
        """Return rows [rows joints of the tool] by tool for the numbers [rows width] of groups.

        Raises ProfileMismatch that names the row and the tool.
        """
        positions: dict[str, np.ndarray] = {}
        rotations: dict[str, np.ndarray] = {}
        for group, values in groups:
            start = self._select_start(group, joint_positions, episode_positions)
            if group.part != 'rotation':
                offset = 0.0 if start is None else start[0]
                positions[group.pose] = values[:, :3] + offset
            if group.part != 'xyz':
                try:
                    matrices = FORMATS[group.rotation].decode(
                        values[:, -FORMATS[group.rotation].width :]
                    )
                except ValueError as error:
                    raise ProfileMismatch(f'pose {group.pose}: {error}') from error
                rotations[group.pose] = matrices if start is None else start[1] @ matrices
        return {
            name: self._solve(name, positions[name], rotations[name], joint_positions)
            for name in positions
        }

    def _solve(
        self, name: str, positions: np.ndarray, rotations: np.ndarray, joint_positions: np.ndarray
    ) -> np.ndarray:
        assert self._kinematics is not None
        try:
            return self._kinematics.solve_rows(
                self._profile.tools[name], positions, rotations, joint_positions
            )
        except UnreachablePose as error:
            raise ProfileMismatch(
                f'pose {name}, {error}; check tools.{name} and the rotation of the server profile'
            ) from error

    def _select_start(
        self,
        group: PoseGroup,
        joint_positions: np.ndarray,
        episode_positions: np.ndarray | None,
    ) -> tuple[np.ndarray, np.ndarray] | None:
        if group.kind == 'absolute':
            return None
        from_episode = group.kind == 'episode_relative' and episode_positions is not None
        start = episode_positions if from_episode else joint_positions
        assert start is not None
        return self._compute_pose(group.pose, start)

    def _compute_pose(
        self, name: str, joint_positions: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        assert self._kinematics is not None
        return self._kinematics.compute_pose(self._profile.tools[name], joint_positions)
