"""Every shipped robot through every shipped design: pictures in, absolute targets out."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from wam_policy.core.robot import embodiment, transforms
from wam_policy.core.robot.embodiment import Embodiment
from wam_policy.model.checkpoint import model_spec, random_checkpoint
from wam_policy.model.encoders import encoder_stack, view_layout
from wam_policy.model.normalizer import Normalizer

ROBOTS = [embodiment.load_embodiment(name) for name in embodiment.list_robots()]
TAGS = {tag.name: tag for tag in random_checkpoint.make_metadata(ROBOTS)}
each_robot = pytest.mark.parametrize('robot', ROBOTS, ids=lambda robot: robot.name)


def normaliser(robot: Embodiment) -> Normalizer:
    return Normalizer.from_metadata(
        TAGS[robot.model_tag], robot, 'q99', state_width=64, action_width=32
    )


def posture(robot: Embodiment, seed: int) -> np.ndarray:
    limits = robot.limits(robot.observed)
    return np.random.default_rng(seed).uniform(limits.lower, limits.upper)


@each_robot
@settings(deadline=None, max_examples=20)
@given(st.integers(0, 2**31))
def test_targets_near_the_posture_survive_the_way_to_the_model_and_back(robot, seed) -> None:
    parts, here = normaliser(robot), posture(robot, seed)
    reference = transforms.to_model_state(robot, here)
    columns = [robot.observed.index(name) for name in robot.commanded]
    nearby = np.random.default_rng(seed + 1).uniform(-1, 1, (24, len(columns)))
    wanted = np.clip(
        here[columns] + 0.99 * random_checkpoint.OFFSET_STD_RAD * nearby,
        *(getattr(robot.limits(), bound) for bound in ('lower', 'upper')),
    )
    actions = parts.normalize_targets(transforms.to_model_actions(robot, wanted), reference)
    assert np.abs(actions).max() <= 1 and (actions[:, ~parts.action_mask()] == 0).all()
    back = transforms.from_model_actions(robot, parts.denormalize_actions(actions, reference))
    assert np.allclose(back, wanted, atol=2e-6)


@each_robot
def test_no_relative_motion_holds_the_posture_of_the_query(robot) -> None:
    """A zero offset is the middle of the statistics here, whatever the gripper's sense."""
    parts, here = normaliser(robot), posture(robot, 5)
    values = parts.denormalize_actions(np.zeros((3, 32)), transforms.to_model_state(robot, here))
    held = transforms.from_model_actions(robot, values)
    absolute = [name for key in robot.action_keys if not key.relative for name in key.joints]
    for column, name in enumerate(robot.commanded):
        if name not in absolute:
            assert np.allclose(held[:, column], here[robot.observed.index(name)], atol=1e-6), name


@each_robot
def test_the_state_vector_keeps_the_models_order_and_pads_with_zeros(robot) -> None:
    parts = normaliser(robot)
    width = sum(key.size for key in robot.state_keys)
    start = 0
    for key in robot.state_keys:
        moved = np.zeros(len(robot.observed))
        moved[[robot.observed.index(name) for name in key.joints]] = 0.25
        still = parts.normalize_state(
            transforms.to_model_state(robot, np.zeros(len(robot.observed)))
        )
        vector = parts.normalize_state(transforms.to_model_state(robot, moved))
        changed = np.flatnonzero(vector != still)
        assert changed.tolist() == list(range(start, start + key.size))
        start += key.size
    assert (vector[width:] == 0).all()


@each_robot
@pytest.mark.parametrize('name', encoder_stack.PRESETS)
def test_camera_pictures_become_the_models_input(robot, name) -> None:
    made = model_spec.make_preset_spec(name)
    plan = made.canvas.make_layout(robot.model_tag, tuple(camera.key for camera in robot.cameras))
    views = {
        camera.key: torch.full(
            (1, camera.size[1], camera.size[0], 3), 60 * (place + 1), dtype=torch.uint8
        )
        for place, camera in enumerate(robot.cameras)
    }
    picture = view_layout.compose_views(views, plan)
    for tile in plan.tiles:  # each view lands where its tile says
        seen = picture[0, tile.top + tile.height // 2, tile.left + tile.width // 2].int()
        assert (seen - views[tile.view][0, 0, 0].int()).abs().max() <= 1
    video = view_layout.to_model_input(picture[None], torch.bfloat16, made.canvas.size)
    assert video.shape == (1, 3, 1, *made.canvas.image_size)
    rows, columns = made.model.latent_size
    stride = made.encoders.vae.stride
    assert (video.shape[-2] // stride, video.shape[-1] // stride) == (rows, columns)
    assert video.abs().max() <= 1
