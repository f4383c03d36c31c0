"""Rotation conventions of policy servers, each with its inverse.

The names say the order of the numbers: servers differ in the order of quaternions, and in whether
the six numbers of a 6-D rotation are the first two columns or the first two rows of the matrix.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from scipy.spatial.transform import Rotation

MIN_NORM = 1e-3  # of a quaternion or an axis; a smaller one states no rotation
MAX_MATRIX_ERROR = 0.05  # of R R^T to the identity; a larger one is no rotation


@dataclass(frozen=True, slots=True)
class RotationFormat:
    """One convention: matrices [n 3 3] to numbers [n width], and back."""

    width: int
    encode: Callable[[np.ndarray], np.ndarray]
    decode: Callable[[np.ndarray], np.ndarray]


def _encode_quat_xyzw(matrices: np.ndarray) -> np.ndarray:
    quats = Rotation.from_matrix(matrices).as_quat()
    # q and -q are the same rotation: the one with w >= 0 makes rows continuous at rest
    return quats * np.where(quats[:, 3:] < 0, -1.0, 1.0)


def _decode_quat_xyzw(values: np.ndarray) -> np.ndarray:
    norms = np.linalg.norm(values, axis=1)
    if (norms < MIN_NORM).any():
        raise ValueError(f'a quaternion of length {norms.min():.3g}; want a unit quaternion')
    return Rotation.from_quat(values).as_matrix()


def _decode_matrix(values: np.ndarray) -> np.ndarray:
    matrices = values.reshape(-1, 3, 3)
    errors = np.abs(matrices @ matrices.transpose(0, 2, 1) - np.eye(3)).max(axis=(1, 2))
    if (errors > MAX_MATRIX_ERROR).any() or (np.linalg.det(matrices) < 0).any():
        raise ValueError('nine numbers that are no rotation matrix')
    return Rotation.from_matrix(matrices).as_matrix()


def _orthonormalize(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return matrices [n 3 3] whose first two columns are two vectors made orthonormal."""
    lengths = np.linalg.norm(first, axis=1, keepdims=True)
    if (lengths < MIN_NORM).any():
        raise ValueError('the first vector of a 6-D rotation has no length')
    first = first / lengths
    second = second - (first * second).sum(axis=1, keepdims=True) * first
    lengths = np.linalg.norm(second, axis=1, keepdims=True)
    if (lengths < MIN_NORM).any():
        raise ValueError('the two vectors of a 6-D rotation are parallel')
    second = second / lengths
    return np.stack([first, second, np.cross(first, second)], axis=2)


FORMATS: Mapping[str, RotationFormat] = MappingProxyType(
    {
        'quat_xyzw': RotationFormat(4, _encode_quat_xyzw, _decode_quat_xyzw),
        'quat_wxyz': RotationFormat(
            4,
            lambda matrices: np.roll(_encode_quat_xyzw(matrices), 1, axis=1),
            lambda values: _decode_quat_xyzw(np.roll(values, -1, axis=1)),
        ),
        'rotvec': RotationFormat(
            3,
            lambda matrices: Rotation.from_matrix(matrices).as_rotvec(),
            lambda values: Rotation.from_rotvec(values).as_matrix(),
        ),
        # roll, pitch, yaw about the fixed axes x, y, z
        'euler_xyz': RotationFormat(
            3,
            lambda matrices: Rotation.from_matrix(matrices).as_euler('xyz'),
            lambda values: Rotation.from_euler('xyz', values).as_matrix(),
        ),
        'matrix': RotationFormat(  # row-major
            9, lambda matrices: matrices.reshape(-1, 9), _decode_matrix
        ),
        'rot6d_columns': RotationFormat(
            6,
            lambda matrices: matrices[:, :, :2].transpose(0, 2, 1).reshape(-1, 6),
            lambda values: _orthonormalize(values[:, :3], values[:, 3:]),
        ),
        'rot6d_rows': RotationFormat(
            6,
            lambda matrices: matrices[:, :2].reshape(-1, 6),
            lambda values: _orthonormalize(values[:, :3], values[:, 3:]).transpose(0, 2, 1),
        ),
    }
)
