"""Pictures and a posture become targets of that very posture, live and offline alike."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from wam_policy.core.robot import embodiment, transforms
from wam_policy.model.checkpoint import checkpoint_folder
from wam_policy.model.network.cfg import CfgRole
from wam_policy.model.robot_policy import InferenceOptions, Policy

ROBOTS = ('agibot_g1', 'yam')


@pytest.fixture(scope='module')
def loaded() -> checkpoint_folder.WorldActionModel:
    torch.set_num_threads(1)
    return checkpoint_folder.load('preset:tiny', torch.device('cpu'), torch.float32)


def views(robot: embodiment.Embodiment, count: int, seed: int = 0) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    return {
        camera.key: random.integers(0, 256, (count, 24, 32, 3), dtype=np.uint8)
        for camera in robot.cameras
    }


def start_policy(loaded: checkpoint_folder.WorldActionModel, name: str, **choice) -> Policy:
    policy = Policy(
        loaded, embodiment.load_embodiment(name), InferenceOptions(**{'steps': 2, **choice})
    )
    policy.reset('wave')
    policy.commit(views(policy.robot, 1))
    return policy


@pytest.mark.parametrize('name', ROBOTS)
def test_a_query_answers_in_the_robots_own_joints(loaded, name):
    policy = start_policy(loaded, name)
    robot = policy.robot
    posture = robot.home_positions(robot.observed) + 0.02
    found = policy.query(posture, 1)
    assert found.targets.shape == (policy.geometry.horizon, len(robot.commanded))
    assert found.targets.dtype == np.float64 and np.isfinite(found.targets).all()
    wanted = [posture[robot.observed.index(joint)] for joint in robot.commanded]
    np.testing.assert_array_equal(found.reference, wanted)


@pytest.mark.parametrize('name', ROBOTS)
def test_targets_are_the_models_offsets_on_the_posture_of_that_query(loaded, name):
    policy = start_policy(loaded, name)
    robot = policy.robot
    posture = robot.home_positions(robot.observed)
    found = policy.query(posture, 1)
    actions = policy._last_result.actions.numpy()
    by_key = policy._normalizer.denormalize_actions(
        actions, transforms.to_model_state(robot, posture)
    )
    column = 0
    for key, field in zip(robot.action_keys, policy._normalizer.action_keys, strict=True):
        if not key.masked and key.relative:
            statistics = policy._normalizer.metadata.action[key.key]
            span = statistics.q99 - statistics.q01
            offset = (actions[:, column : column + key.size] + 1) / 2 * span + statistics.q01
            state = transforms.to_model_state(robot, posture)[key.key]
            np.testing.assert_allclose(by_key[key.key], state + offset, atol=1e-5)
        column += field.width
    np.testing.assert_array_equal(found.targets, transforms.from_model_actions(robot, by_key))


def test_the_same_question_has_the_same_answer_and_stages_do_not_overlap(loaded):
    ticks = iter(range(10**6))
    policy = Policy(
        loaded,
        embodiment.load_embodiment('yam'),
        InferenceOptions(steps=2),
        now=lambda: next(ticks) / 1e3,
    )
    policy.reset('wave')
    committed = policy.commit(views(policy.robot, 1))
    assert set(committed) == {'preprocess', 'encode', 'kv_update'}
    posture = policy.robot.home_positions(policy.robot.observed)
    first, again = (policy.query(posture, 4, views(policy.robot, 1, 9)) for _ in range(2))
    np.testing.assert_array_equal(first.targets, again.targets)
    assert set(first.timings_ms) == {
        'preprocess',
        'encode',
        'kv_update',
        'denoise',
        'exchange',
        'postprocess',
    }
    before = next(ticks)
    spent = policy.query(posture, 4).timings_ms
    assert sum(spent.values()) <= next(ticks) - before


def test_the_time_of_swaps_is_not_counted_twice(loaded):
    ticks = iter(range(10**6))

    def exchange(video: torch.Tensor, action: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        for _ in range(10):
            next(ticks)
        return video, action

    policy = Policy(
        loaded,
        embodiment.load_embodiment('yam'),
        InferenceOptions(steps=3),
        role=CfgRole.COND,
        exchange=exchange,
        now=lambda: next(ticks) / 1e3,
    )
    policy.reset('wave')
    policy.commit(views(policy.robot, 1))
    spent = policy.query(policy.robot.home_positions(policy.robot.observed), 0).timings_ms
    assert spent['exchange'] == pytest.approx(2 * 11)  # the last call needs no guidance
    assert 0 < spent['denoise'] < 22


def test_the_released_rhythm_takes_frames_with_every_query(loaded):
    policy = start_policy(loaded, 'agibot_g1', mode='released')
    posture = policy.robot.home_positions(policy.robot.observed)
    assert policy.query(posture, 1).targets.shape == (24, 16)
    assert policy.needs_commit
    with pytest.raises(RuntimeError, match='commit first'):
        policy.query(posture, 1, views(policy.robot, 1))
    policy.commit(views(policy.robot, policy.geometry.frames_per_block, 3))
    assert not policy.needs_commit
    assert np.isfinite(policy.query(posture, 1).targets).all()


def test_what_does_not_fit_is_said_before_anything_moves(loaded):
    robot = embodiment.load_embodiment('yam')
    with pytest.raises(ValueError, match='sampler'):
        InferenceOptions('fast')
    with pytest.raises(ValueError, match='mode'):
        InferenceOptions(mode='offline')
    with pytest.raises(ValueError, match='unconditional'):
        Policy(
            loaded,
            robot,
            InferenceOptions('one_step'),
            role=CfgRole.UNCOND,
            exchange=lambda v, a: (v, a),
        )
    policy = start_policy(loaded, 'yam')
    for broken in (np.zeros(3), np.full(len(robot.observed), np.nan)):
        with pytest.raises(ValueError, match='finite values'):
            policy.query(broken, 1)
    policy.reset('wave')
    with pytest.raises(RuntimeError, match='observe'):
        policy.query(robot.home_positions(robot.observed), 1)
    with pytest.raises(RuntimeError, match='query first'):
        policy.decode_prediction()


def test_policies_side_by_side_share_a_network_and_no_memory(loaded):
    one = start_policy(loaded, 'yam')
    posture = one.robot.home_positions(one.robot.observed)
    wanted = one.query(posture, 3).targets
    other = one.with_shared_weights()
    assert other.model is loaded and other._engine is one._engine
    other.reset('fold it')
    other.commit(views(one.robot, 1, 5))
    assert np.abs(other.query(posture, 3).targets - wanted).max() > 1e-6
    np.testing.assert_array_equal(one.query(posture, 3).targets, wanted)


def test_a_reset_chooses_the_rhythm_and_forgets_the_other(loaded):
    policy = Policy(loaded, embodiment.load_embodiment('yam'), InferenceOptions(steps=2))
    posture = policy.robot.home_positions(policy.robot.observed)

    def lived(mode: str | None) -> list[np.ndarray]:
        policy.reset('wave', mode)
        policy.commit(views(policy.robot, 1))
        found = [policy.query(posture, 3).targets]
        policy.commit(views(policy.robot, policy.geometry.frames_per_block, 1))
        return [*found, policy.query(posture, 3).targets]

    clocked = lived(None)
    assert policy.streaming and not policy.needs_commit
    released = lived('released')
    assert not policy.streaming and policy.needs_commit
    alone = start_policy(loaded, 'yam', mode='released')
    np.testing.assert_array_equal(alone.query(posture, 3).targets, released[0])
    assert np.abs(released[1] - clocked[1]).max() > 1e-6
    np.testing.assert_array_equal(lived(None), clocked)


def test_imagination_is_compared_with_exactly_the_block_that_was_predicted(loaded):
    policy = start_policy(loaded, 'yam')
    robot, size = policy.robot, policy.geometry.frames_per_block
    posture = robot.home_positions(robot.observed)
    assert policy.imagination_error is None  # nothing was predicted yet
    policy.query(posture, 1)
    predicted = policy.predicted_latents
    policy.commit(views(robot, size, 1))
    truth = policy._streaming_session._inference_context.encoders.encode_frames(
        policy._inference_context.preprocess(
            torch.cat(
                [
                    policy.compose_views(views(robot, 1)),
                    policy.compose_views(views(robot, size, 1)),
                ]
            )
        )
    )[:, :, 1:]
    wanted = (predicted - truth).square().mean().sqrt() / truth.std()
    assert policy.imagination_error == pytest.approx(float(wanted), rel=1e-3)
    policy.commit(views(robot, size, 2))  # without a query in between
    assert policy.imagination_error is None
    policy.query(posture, 2, views(robot, 2, 3))  # predicts from newer frames on: another block
    policy.commit(views(robot, size, 3))
    assert policy.imagination_error is None


def with_committed_rows(loaded: checkpoint_folder.WorldActionModel, rows: int):
    return replace(loaded, spec=replace(loaded.spec, max_committed_rows=rows))


@pytest.mark.parametrize('mode', ['streaming', 'released'])
@pytest.mark.parametrize('name', ROBOTS)
def test_committed_rows_come_back_as_they_are_and_change_the_rest(loaded, name, mode):
    model = with_committed_rows(loaded, 6)
    found = []
    for offset in (None, 0.02, 0.03):
        policy = start_policy(model, name, mode=mode)
        robot = policy.robot
        posture = robot.home_positions(robot.observed)
        home = robot.home_positions(robot.commanded)
        rows = None if offset is None else home + offset * np.arange(5)[:, None] / 5
        found.append(policy.query(posture, 1, None, rows).targets)
        if rows is not None:
            np.testing.assert_array_equal(found[-1][:5], rows)
    later = [targets[5:] for targets in found]
    assert not np.allclose(later[0], later[1]) and not np.allclose(later[1], later[2])


def test_committed_rows_that_the_model_cannot_continue_are_refused(loaded):
    policy = start_policy(loaded, 'yam')
    robot = policy.robot
    posture, home = robot.home_positions(robot.observed), robot.home_positions(robot.commanded)
    rows = np.tile(home, (7, 1))
    with pytest.raises(
        ValueError, match='cannot continue committed rows: train it with ./wam train'
    ):
        policy.query(posture, 1, None, rows)
    policy = start_policy(with_committed_rows(loaded, 6), 'yam')
    for wrong in (rows, rows[:0], rows[:3, :5], np.full_like(rows[:3], np.nan)):
        with pytest.raises(ValueError, match='want 1 to 6 rows of 14 finite numbers'):
            policy.query(posture, 1, None, wrong)
    assert np.isfinite(policy.query(posture, 1, None, rows[:6]).targets).all()
