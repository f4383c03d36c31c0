"""Render an image of a robot and its scene, with a column of the robot's camera views.

`python -m wam_sim.screenshot ROBOT OUT.png [--seed N]`
"""

import argparse
from pathlib import Path

import cv2
import mujoco
import numpy as np

from wam_sim.physics import sim_robot as robots
from wam_sim.physics.cameras import CameraRenderer
from wam_sim.physics.mjcf_model import EXTERNAL_VIEW_GROUP
from wam_sim.physics.simulation import Simulation, compile_model, update_kinematics

IMAGE_SIZE = (1280, 720)
SUPERSAMPLING = 2  # per side, for smooth shadows
INSET_SIZE = (256, 192)
MARGIN_PX = 20
BORDER_PX = 3


def render_portrait(simulation: Simulation) -> np.ndarray:
    """Return the scene from the robot's portrait camera, uint8 [720 1280 3]."""
    robot = simulation.robot
    model = compile_model(robot, simulation.fixed_joints, high_quality=True)
    data = mujoco.MjData(model)
    simulation.copy_render_state(data)
    for slot in simulation.object_colors:
        model.geom(slot).rgba[:] = simulation.object_colors[slot]
    update_kinematics(model, data)
    camera = CameraRenderer(
        model,
        [robot.portrait_camera.key],
        (SUPERSAMPLING * IMAGE_SIZE[0], SUPERSAMPLING * IMAGE_SIZE[1]),
        groups=(EXTERNAL_VIEW_GROUP,),
    )
    (picture,) = camera.render(data)
    camera.close()
    return cv2.resize(picture, IMAGE_SIZE, interpolation=cv2.INTER_AREA)


def compose_insets(background: np.ndarray, views: tuple[np.ndarray, ...]) -> np.ndarray:
    """Draw the camera views as a framed column over the left edge of the image."""
    picture = background.copy()
    width, height = INSET_SIZE
    top = (picture.shape[0] - len(views) * height - (len(views) - 1) * MARGIN_PX) // 2
    for i, view in enumerate(views):
        y, x = top + i * (height + MARGIN_PX), MARGIN_PX
        frame = (
            slice(y - BORDER_PX, y + height + BORDER_PX),
            slice(x - BORDER_PX, x + width + BORDER_PX),
        )
        picture[frame] = 255
        picture[y : y + height, x : x + width] = cv2.resize(
            view, INSET_SIZE, interpolation=cv2.INTER_AREA
        )
    return picture


def main() -> None:
    parser = argparse.ArgumentParser(description='Render an image of a robot and its scene')
    parser.add_argument('robot', choices=robots.list_robots())
    parser.add_argument('out', type=Path)
    parser.add_argument('--seed', type=int, default=0)
    options = parser.parse_args()
    simulation = Simulation(robots.load(options.robot), seed=options.seed, image_size=(640, 480))
    simulation.step(50)
    views = tuple(frame.rgb for frame in simulation.observe().frames)
    simulation.close()
    cv2.imwrite(str(options.out), compose_insets(render_portrait(simulation), views)[..., ::-1])


if __name__ == '__main__':
    main()
