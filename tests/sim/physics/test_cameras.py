"""Views show the scene where the published calibration says it is."""

import mujoco
import numpy as np
import pytest

from wam_sim.physics import sim_robot as robots
from wam_sim.physics.cameras import (
    NOISY_VALUES,
    add_noise,
    compute_intrinsics,
    project_visible_object,
)
from wam_sim.physics.scene import PALETTE
from wam_sim.physics.simulation import Simulation


@pytest.fixture(scope='module', params=robots.list_robots())
def seen(request: pytest.FixtureRequest) -> tuple[Simulation, object]:
    simulation = Simulation(robots.load(request.param), seed=3, image_size=(320, 240))
    try:
        observation = simulation.observe()
    except RuntimeError as error:
        pytest.skip(str(error))
    yield simulation, observation
    simulation.close()


def test_frames_are_those_of_the_embodiment(seen: tuple) -> None:
    simulation, observation = seen
    keys = [camera.key for camera in simulation.robot.embodiment.cameras]
    assert [frame.camera for frame in observation.frames] == keys
    for frame in observation.frames:
        assert frame.rgb.shape == (240, 320, 3)
        assert frame.stamp_ns == simulation.now_ns
        assert frame.rgb.std() > 10  # a picture, not a plain color


def test_calibration_finds_the_cubes(seen: tuple) -> None:
    """Project each cube with K and the camera's pose; the pixel there has the cube's color."""
    simulation, observation = seen
    key = simulation.robot.cameras[0].key
    matrix = compute_intrinsics(simulation.model, key, (320, 240))
    camera = simulation.data.cam(key)
    optical = camera.xmat.reshape(3, 3) * [1, -1, -1]  # x right, y down, z forward
    for cube in simulation.scene.cubes:
        u, v, w = matrix @ optical.T @ (simulation.state().objects[cube.slot] - camera.xpos)
        pixel = observation.frame(key).rgb[round(v / w), round(u / w)].astype(float)
        color = np.array(PALETTE[cube.color])
        match = pixel @ color / np.linalg.norm(pixel) / np.linalg.norm(color)
        assert match > 0.97, (cube.color, pixel)


def test_an_object_behind_another_is_not_shown() -> None:
    simulation = Simulation(robots.load('agibot_g1'), seed=3)
    key, size = simulation.robot.cameras[0].key, (320, 240)
    mujoco.mj_forward(simulation.model, simulation.data)
    free = project_visible_object(simulation.model, simulation.data, key, size, 'cube_0')
    assert (free > 0.1).all() and (free < 0.9).all()
    camera, cube = simulation.data.cam(key).xpos, simulation.data.body('cube_0').xpos
    simulation.data.joint('can').qpos[:3] = cube + 0.15 * (camera - cube)
    mujoco.mj_forward(simulation.model, simulation.data)
    assert np.isnan(
        project_visible_object(simulation.model, simulation.data, key, size, 'cube_0')
    ).all()
    assert np.isfinite(
        project_visible_object(simulation.model, simulation.data, key, size, 'can')
    ).all()


def test_observing_changes_nothing() -> None:
    runs = []
    for looks in (False, True):
        simulation = Simulation(robots.load('yam'), seed=8)
        for _ in range(20):
            simulation.step(5)
            if looks:
                try:
                    simulation.observe()
                except RuntimeError as error:
                    pytest.skip(str(error))
        runs.append(simulation.data.qpos.copy())
        simulation.close()
    np.testing.assert_array_equal(*runs)


def test_two_pictures_share_no_memory(seen: tuple) -> None:
    simulation, first = seen
    kept = first.frames[0].rgb.copy()
    simulation.reset(4)
    second = simulation.observe()
    np.testing.assert_array_equal(first.frames[0].rgb, kept)
    assert not np.array_equal(second.frames[0].rgb, kept)


def test_noise_makes_two_images_of_an_unmoved_scene_differ_by_one_step_in_few_places():
    rng, image = np.random.default_rng(1), np.full((24, 32, 3), 255, np.uint8)
    first, second = image.copy(), image.copy()
    for noisy in (first, second):
        add_noise(noisy, rng)
        changed = noisy != image
        assert 0 < changed.sum() <= NOISY_VALUES and noisy.min() == 254
    assert not np.array_equal(first, second)
