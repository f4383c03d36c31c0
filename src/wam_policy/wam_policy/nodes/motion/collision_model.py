"""The collision checker that motion_node's parameters ask for; mujoco is needed for it alone."""

from wam_policy.core.motion.collision_check import CollisionChecker
from wam_policy.core.robot.embodiment import Embodiment
from wam_policy.nodes.parameters import DescriptionParams, MotionParams


def make_collision_checker(
    robot: Embodiment, params: MotionParams | DescriptionParams
) -> CollisionChecker | None:
    """Return what plans keep away from; ValueError says what is missing and the fix."""
    if params.collision_check == 'none':
        return None
    try:
        from wam_policy.mujoco_collision import MujocoCollisionChecker
    except ImportError as error:
        raise ValueError(
            "mujoco is not installed in this node's Python, and contact is looked "
            'for with it: pip install mujoco, or set collision_check to none'
        ) from error
    return MujocoCollisionChecker(
        robot,
        table=params.collision_check == 'table',
        table_height_m=params.table_height_m if params.table_height_m > -1.0 else None,
    )
