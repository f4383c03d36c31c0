"""Draw a picture of a robot and its scene from outside, above a row of its own camera views.

`python -m wam_sim.screenshot ROBOT OUT.png [--seed N]`
"""

import argparse
from pathlib import Path

import cv2
import mujoco
import numpy as np

from wam_sim.physics import sim_robot as robots
from wam_sim.physics.cameras import Cameras
from wam_sim.physics.mjcf_model import OUTSIDE_GROUP
from wam_sim.physics.simulation import Simulation, compiled, prepare

SIZE = (1280, 720)
FINER = 2  # drawn this much larger: smooth shadows
INSET = (256, 192)
MARGIN_PX = 20
BORDER_PX = 3


def portrait(simulation: Simulation) -> np.ndarray:
    """Return the scene from the robot's portrait camera, uint8 [720 1280 3]."""
    robot = simulation.robot
    model = compiled(robot, simulation.held, fine=True)
    data = mujoco.MjData(model)
    simulation.snapshot(data)
    for slot in simulation.colours:
        model.geom(slot).rgba[:] = simulation.colours[slot]
    prepare(model, data)
    camera = Cameras(
        model, [robot.portrait.key], (FINER * SIZE[0], FINER * SIZE[1]), groups=(OUTSIDE_GROUP,)
    )
    (picture,) = camera.render(data)
    camera.close()
    return cv2.resize(picture, SIZE, interpolation=cv2.INTER_AREA)


def composed(outside: np.ndarray, views: tuple[np.ndarray, ...]) -> np.ndarray:
    """Lay the camera views as a framed column over the left edge of the picture."""
    picture = outside.copy()
    width, height = INSET
    top = (picture.shape[0] - len(views) * height - (len(views) - 1) * MARGIN_PX) // 2
    for i, view in enumerate(views):
        y, x = top + i * (height + MARGIN_PX), MARGIN_PX
        frame = (
            slice(y - BORDER_PX, y + height + BORDER_PX),
            slice(x - BORDER_PX, x + width + BORDER_PX),
        )
        picture[frame] = 255
        picture[y : y + height, x : x + width] = cv2.resize(
            view, INSET, interpolation=cv2.INTER_AREA
        )
    return picture


def main() -> None:
    parser = argparse.ArgumentParser(description='Draw a picture of a robot')
    parser.add_argument('robot', choices=robots.names())
    parser.add_argument('out', type=Path)
    parser.add_argument('--seed', type=int, default=0)
    options = parser.parse_args()
    simulation = Simulation(robots.load(options.robot), seed=options.seed, image_size=(640, 480))
    simulation.step(50)
    views = tuple(frame.rgb for frame in simulation.observe().frames)
    simulation.close()
    cv2.imwrite(str(options.out), composed(portrait(simulation), views)[..., ::-1])


if __name__ == '__main__':
    main()
