"""The picture of a robot shows it from outside, with its own views beside it."""

import numpy as np
import pytest

from wam_sim import screenshot
from wam_sim.physics import sim_robot as robots
from wam_sim.physics.simulation import Simulation


def test_views_are_laid_over_the_left_edge() -> None:
    outside = np.full((720, 1280, 3), 90, np.uint8)
    views = tuple(np.full((480, 640, 3), shade, np.uint8) for shade in (10, 20, 30))
    picture = screenshot.compose_insets(outside, views)
    assert picture.shape == (720, 1280, 3)
    column = picture[:, 150, 0]
    shades = [int(column[np.flatnonzero(column == shade)].size) for shade in (10, 20, 30)]
    assert shades == [screenshot.INSET_SIZE[1]] * 3
    assert (picture[:, 600:] == 90).all() and (outside == 90).all()


@pytest.mark.parametrize('name', robots.list_robots())
def test_the_portrait_shows_robot_and_scene(name: str) -> None:
    simulation = Simulation(robots.load(name), seed=3)
    try:
        picture = screenshot.render_portrait(simulation)
    except RuntimeError as error:
        pytest.skip(str(error))
    assert picture.shape == (720, 1280, 3)
    for item in simulation.scene.cubes:  # each cube's color is somewhere in the picture
        color = simulation.object_colors[item.slot][:3]
        pixels = picture.reshape(-1, 3).astype(float)
        match = pixels @ color / (np.linalg.norm(pixels, axis=1) * np.linalg.norm(color) + 1e-9)
        assert (match > 0.985).sum() > 200, item.color
