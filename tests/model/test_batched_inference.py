"""Queries of several sessions in one batch answer as each alone, and leave each cache alone."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from wam_policy.core.robot import embodiment
from wam_policy.model import robot_policy
from wam_policy.model.checkpoint import checkpoint_folder
from wam_policy.model.robot_policy import InferenceOptions, Policy

ROBOT = embodiment.load_embodiment('yam')
HOME = ROBOT.home_positions(ROBOT.observed)


def make_views(count, seed):
    random = np.random.default_rng(seed)
    return {
        camera.key: random.integers(0, 256, (count, 24, 32, 3), dtype=np.uint8)
        for camera in ROBOT.cameras
    }


def make_policies(preset, modes, **options):
    """Return policies with shared weights, whose texts, images and fills of the cache differ."""
    torch.set_num_threads(1)
    model = checkpoint_folder.load(preset, torch.device('cpu'), torch.float32)
    first = Policy(model, ROBOT, InferenceOptions(**{'steps': 2, **options}))
    policies = [first, *(first.with_shared_weights() for _ in modes[1:])]
    for i, (policy, mode) in enumerate(zip(policies, modes, strict=True)):
        policy.reset(f'task {i}' + ', then the next one' * i, mode)  # of different lengths
        policy.commit(make_views(1, i))
        for block in range(i if mode == 'streaming' else 0):
            policy.commit(make_views(policy.geometry.frames_per_block, 10 * i + block))
    return policies


def query_together(policies, newest):
    prepared = [
        policy.begin_query(HOME + 0.01 * i, newest[i]) for i, policy in enumerate(policies)
    ]
    seeds = list(range(len(policies)))
    samples = robot_policy.predict_batch(policies, prepared, seeds)
    return [
        policy.finish_query(pending, sample)
        for policy, pending, sample in zip(policies, prepared, samples, strict=True)
    ]


@pytest.mark.parametrize('preset', ['preset:tiny', 'preset:mini'])
@pytest.mark.parametrize('guidance', [1.0, 5.0])
def test_a_batch_answers_as_single_queries(preset, guidance):
    policies = make_policies(preset, ['streaming'] * 3, guidance=guidance)
    newest = [None, make_views(1, 99), None]
    alone = [
        policy.query(HOME + 0.01 * i, i, newest[i]).targets for i, policy in enumerate(policies)
    ]
    frames = [policy.memory.frames for policy in policies]
    together = query_together(policies, newest)
    assert len(set(frames)) == 3  # the caches had different lengths
    for single, found in zip(alone, together, strict=True):
        np.testing.assert_allclose(found.targets, single, atol=2e-5)
        assert not np.allclose(found.targets, alone[0] if single is not alone[0] else alone[1])
    assert [policy.memory.frames for policy in policies] == frames
    again = [
        policy.query(HOME + 0.01 * i, i, newest[i]).targets for i, policy in enumerate(policies)
    ]
    np.testing.assert_array_equal(again, alone)


def test_a_batch_holds_the_committed_rows_of_each():
    policies = make_policies('preset:mini', ['streaming'] * 3)
    for policy in policies:
        policy.model = replace(policy.model, spec=replace(policy.model.spec, max_committed_rows=8))
    robot = policies[0].robot
    rows = np.tile(robot.home_positions(robot.commanded), (8, 1))
    committed = [rows[:5], None, rows + 0.01]
    alone = [
        policy.query(HOME, 3, None, committed[i]).targets for i, policy in enumerate(policies)
    ]
    pending = [policy.begin_query(HOME, None, committed[i]) for i, policy in enumerate(policies)]
    samples = robot_policy.predict_batch(policies, pending, [3] * 3)
    for i, (policy, single) in enumerate(zip(policies, alone, strict=True)):
        found = policy.finish_query(pending[i], samples[i]).targets
        np.testing.assert_allclose(found, single, atol=2e-5)
    np.testing.assert_array_equal(alone[2][:8], rows + 0.01)


def test_released_and_streaming_sessions_are_batched_together():
    modes = ['released', 'streaming', 'released']
    alone = [
        policy.query(HOME + 0.01 * i, i).targets
        for i, policy in enumerate(make_policies('preset:tiny', modes))
    ]
    policies = make_policies('preset:tiny', modes)
    together = query_together(policies, [None] * 3)
    for single, found in zip(alone, together, strict=True):
        np.testing.assert_allclose(found.targets, single, atol=2e-5)
    assert policies[0].needs_commit and not policies[1].needs_commit


def test_a_sampler_that_skips_by_session_is_not_batched():
    policies = make_policies('preset:tiny', ['streaming'] * 2, recipe='dynamic4', steps=None)
    assert not policies[0].can_batch
    alone = [policy.query(HOME + 0.01 * i, i).targets for i, policy in enumerate(policies)]
    together = [found.targets for found in query_together(policies, [None] * 2)]
    np.testing.assert_array_equal(together, alone)
