"""Parameters of the policy node become the workers' command line."""

from dataclasses import replace

import pytest

pytest.importorskip('rclpy')

from wam_policy.core.session.policy_session import WorkerAvailability
from wam_policy.nodes.parameters import PolicyParams
from wam_policy.nodes.policy import worker_backend
from wam_policy.workers import run_worker
from wam_policy.workers.supervisor import WorkerState, WorkerStatus

pytestmark = pytest.mark.ros


def parse_worker_settings(**changes):
    made = worker_backend.build_worker_spec(replace(PolicyParams(), **changes), 'preset:tiny')
    return run_worker.parse_settings(made.arguments), made


def test_every_mode_of_inference_is_a_parameter():
    chosen, _ = parse_worker_settings(
        sampler='dynamic4',
        steps=4,
        guidance_scale=2.5,
        seed=7,
        memory_update='released',
        kv_window='slide',
        guided_video=True,
        engine='compiled',
        precision='fp8',
    )
    assert (chosen.sampler, chosen.steps, chosen.guidance_scale, chosen.seed) == (
        'dynamic4',
        4,
        2.5,
        7,
    )
    assert (chosen.memory_update, chosen.kv_window, chosen.guided_video) == (
        'released',
        'slide',
        True,
    )
    assert (chosen.engine, chosen.precision) == ('compiled', 'fp8')


def test_defaults_are_those_of_the_worker():
    chosen, _ = parse_worker_settings()
    alone = run_worker.parse_settings(['--checkpoint', 'preset:tiny', '--embodiment', 'agibot_g1'])
    assert chosen == replace(alone, guidance_scale=5.0)  # how many workers there are depends on it


@pytest.mark.parametrize(
    'changes, roles',
    [
        ({}, ('cond', 'uncond')),
        ({'guidance_scale': 1.0}, ('cond',)),
        ({'sampler': 'one_step'}, ('cond',)),
        ({'sampler': 'one_step', 'guided_video': True}, ('cond', 'uncond')),
        ({'sampler': 'one_step', 'steps': 4}, ('cond', 'uncond')),
        ({'steps': 1}, ('cond',)),
    ],
)
def test_a_branch_that_nothing_reads_gets_no_worker(changes, roles):
    assert parse_worker_settings(**changes)[1].roles == roles


@pytest.mark.parametrize(
    'wrong',
    [{'sampler': 'fast'}, {'engine': 'tensorrt:'}, {'engine': 'warp'}, {'kv_window': 'grow'}],
)
def test_values_that_are_none_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        replace(PolicyParams(), **wrong)


@pytest.mark.parametrize(
    ('execution', 'rtc', 'words'),
    [
        ('blended', {'committed': 'ignored'}, ''),
        ('trained_prefix', {'committed': 'held', 'max_rows': 6}, ''),
        ('trained_prefix', {'committed': 'ignored'}, 'train it with ./wam train --committed-rows'),
        ('trained_prefix', None, 'was not trained to continue'),  # a server of others
    ],
)
def test_workers_that_cannot_continue_rows_are_refused_where_they_have_to(execution, rtc, words):
    params = replace(PolicyParams(), execution=execution)
    made = worker_backend.build_worker_spec(params, 'preset:tiny')
    backend = worker_backend.WorkerBackend(made, params, lambda *line: None, lambda status: None)
    geometry = {'frames_per_block': 4, 'frame_period_s': 0.2, 'window_blocks': 4}
    info = {'geometry': geometry, 'model': 'mini', 'trained': True, 'memory_update': 'streaming'}
    status = WorkerStatus(
        WorkerState.READY, '', info=info if rtc is None else {**info, 'rtc': rtc}
    )
    found = backend._to_backend_status(status)
    assert words in found.reason
    wanted = WorkerAvailability.FAILED if words else WorkerAvailability.READY
    assert found.availability is wanted
    assert found.max_committed_rows == (rtc or {}).get('max_rows', 0)
