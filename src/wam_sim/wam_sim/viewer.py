"""Optional viewer window; the robot's camera images do not depend on it."""

import os
from typing import Any

import mujoco
import numpy as np

from wam_sim.physics.mjcf_model import EXTERNAL_VIEW_GROUP
from wam_sim.physics.sim_robot import SimRobot


def has_display() -> bool:
    return bool(os.environ.get('DISPLAY') or os.environ.get('WAYLAND_DISPLAY'))


def open_viewer(robot: SimRobot, model: mujoco.MjModel, data: mujoco.MjData) -> Any:
    """Open a window that shows `data` at each `sync`, from the portrait camera's position."""
    import mujoco.viewer  # importing it needs a display

    window = mujoco.viewer.launch_passive(model, data, show_left_ui=False, show_right_ui=False)
    window.opt.geomgroup[EXTERNAL_VIEW_GROUP] = 1
    look = np.subtract(robot.portrait_camera.look_at, robot.portrait_camera.position)
    window.cam.lookat[:] = robot.portrait_camera.look_at
    window.cam.distance = np.linalg.norm(look)
    window.cam.azimuth = np.rad2deg(np.arctan2(look[1], look[0]))
    window.cam.elevation = np.rad2deg(np.arcsin(look[2] / np.linalg.norm(look)))
    return window
