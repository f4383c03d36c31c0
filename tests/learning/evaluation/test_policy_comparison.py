"""Several policies on the same scenes: what is given, what is run, what the table says."""

import json
import threading
from dataclasses import replace

import pytest

from benchmarks.remote_latency import run_server
from examples import scripted_droid_server
from tests.servers.fake_engine import ServerThread
from tests.servers.lingbot_double import LingBotDouble
from tests.servers.released_double import FakeProfileServer
from wam_learning.evaluation import evaluate, parallel_eval, policy_comparison
from wam_learning.evaluation.eval_conditions import MAIN, make_trials
from wam_learning.evaluation.eval_worker import EvalJob, run_job
from wam_learning.evaluation.policy_comparison import PolicySpec, parse_policies
from wam_learning.evaluation.server_policy import ServerPolicy
from wam_learning.evaluation.trials import TrialResult
from wam_policy.core.robot.checkpoints import resolve_checkpoint
from wam_sim.physics import sim_robot as robots


def test_a_policy_is_named_by_what_it_is_or_by_a_label():
    found = parse_policies(
        [
            'local',
            'expert',
            'bc=checkpoints/bc',
            'ws://gpu:8000',
            'pi0=ws://gpu:8001#openpi_yam',
            'http://gpu:80/act?a=b',
        ],
        'mini',
    )
    assert found == (
        PolicySpec('local', checkpoint='mini'),
        PolicySpec('expert', checkpoint='expert'),
        PolicySpec('bc', checkpoint='checkpoints/bc'),
        PolicySpec('ws://gpu:8000', server='ws://gpu:8000'),
        PolicySpec('pi0', server='ws://gpu:8001', server_profile='openpi_yam'),
        PolicySpec('http://gpu:80/act?a=b', server='http://gpu:80/act?a=b'),
    )


@pytest.mark.parametrize(
    ('given', 'words'),
    [
        (['--policy', 'local', '--policy', 'local'], 'local is given twice'),
        (['--policy', 'x='], "policy 'x=': want"),
        (['--policy', 'expert'], 'needs --no-ros'),
        (['--policy', 'local', '--baselines', 'steps_1'], 'give one of them'),
    ],
)
def test_wrong_policies_are_refused(given, words, capsys):
    with pytest.raises(SystemExit) as refused:
        evaluate.parse_arguments(given)
    assert refused.value.code == 2 and words in capsys.readouterr().err


def test_every_policy_gets_the_same_scenes_and_one_that_fails_stops_no_other(
    monkeypatch, tmp_path, capsys
):
    jobs, saved = [], {}
    report = tmp_path / 'r.json'

    def run_trials(module, robot, given, workers, log):
        (job,) = given
        jobs.append((module, workers, job))
        if job.server == 'ws://b:1':
            saved.update(json.loads(report.read_text())['policies'])
            raise RuntimeError('a worker exited with status 2:\nno server at ws://b:1')
        solved = {'': 4, 'ws://a:1': 1}[job.server]  # of each: the first ones
        return [
            TrialResult(
                trial,
                (2.0 if i < solved else None, *[None] * (len(trial.goals) - 1)),
                4.0,
                30,
                0.4,
                '',
                (90.0,),
                (),
                (),
                query_ms=(12.0,),
            )
            for i, trial in enumerate(job.trials)
        ]

    monkeypatch.setattr(parallel_eval, 'run_trials', run_trials)
    status = evaluate.main(
        ['--no-ros', '--robot', 'yam', '--checkpoint', 'preset:mini', '--episodes', '5']
        + ['--policy', 'ours=local', '--policy', 'a=ws://a:1#openpi_yam', '--policy', 'ws://b:1']
        + ['--report', str(report), '--trial-log', str(tmp_path / 'log'), '--steps', '3']
    )
    assert status == 1  # one could not be run
    assert len({job.trials for _, _, job in jobs}) == 1
    assert [(job.server, job.server_profile, dict(job.choice)) for _, _, job in jobs] == [
        ('', '', {'steps': 3}),
        ('ws://a:1', 'openpi_yam', {}),
        ('ws://b:1', '', {}),
    ]
    assert [workers for _, workers, _ in jobs] == [2, 1, 1]
    assert list(saved) == ['ours', 'a']  # what is known is kept if the rest is interrupted
    found = json.loads(report.read_text())['policies']
    assert list(found) == ['ours', 'a', 'ws://b:1']
    assert found['ours']['success_rate'] == 0.8 and found['ours']['query_p50_ms'] == 12.0
    assert (found['a']['only_first'], found['a']['only_this']) == (3, 0)
    assert found['ws://b:1']['error'].endswith('no server at ws://b:1')
    table = report.with_suffix('.md').read_text()
    assert table.strip() in capsys.readouterr().out
    assert (
        '| ours | 80 % (38–96, n = 5) | 2.0 / 2.0 s | 0.400 | 90 / 90 ms | 12 / 12 ms |' in table
    )
    assert '| a | 20 % (4–62, n = 5) |' in table and '| 3 / 0 |' in table
    assert '| ws://b:1 | not run: no server at ws://b:1 |' in table
    assert len((tmp_path / 'log').read_text().splitlines()) == 10


@pytest.fixture(scope='module')
def droid():
    return robots.load('droid')


def make_short_job(robot, port, profile):
    trials = make_trials(MAIN, robot, ['touch'], 1, 5)
    return EvalJob(
        '',
        (replace(trials[0], limit_s=2.5),),
        pace={'fast': True},
        server=f'ws://127.0.0.1:{port}',
        server_profile=profile,
    )


def test_a_server_without_memory_is_asked_at_the_query_rate_with_the_newest_images(droid):
    policy = scripted_droid_server.ScriptedDroidPolicy()
    server = scripted_droid_server.make_server(policy, '127.0.0.1', 0)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    port = server.socket.getsockname()[1]
    (result,) = run_job(droid, make_short_job(droid, port, 'openpi'))
    server.shutdown()
    assert result.stop_reason == '' and result.chunks > 8
    assert len(result.query_ms) >= result.chunks and min(result.query_ms) > 0
    assert policy.waypoint >= 1  # the simulated arm has moved there


def test_the_released_server_is_asked_once_per_block(droid):
    server = FakeProfileServer('dreamzero_droid', sway_rad=0.05)
    (result,) = run_job(droid, make_short_job(droid, server.port, 'dreamzero_droid'))
    server.close()
    assert server.calls == ['reset', 'infer', 'infer'] and result.chunks == 2
    assert [len(shown[server.view_keys[0]]) for _, shown in server.observations] == [1, 4]


def test_a_server_that_fails_fails_its_trial_with_its_reason(droid):
    server = FakeProfileServer('dreamzero_droid')
    server.fault = 'crash'
    (result,) = run_job(droid, make_short_job(droid, server.port, ''))
    server.close()
    assert not result.success and 'CUDA error' in result.stop_reason


def test_our_own_server_keeps_the_memory_of_real_frames(droid):
    server = ServerThread('dreamzero_droid')
    policy = ServerPolicy(droid.embodiment, f'ws://127.0.0.1:{server.port}')
    try:
        assert policy.query_schedule == type(policy.query_schedule)()
        assert policy.geometry.step_dt_s == pytest.approx(1 / 15)
    finally:
        policy.close()
        server.stop()


@pytest.mark.slow
def test_the_shipped_model_acts_the_same_behind_our_own_server():
    """Joints, images and committed rows arrive as they do in a local worker."""
    robot = robots.load('agibot_g1')
    trials = tuple(make_trials(MAIN, robot, ['touch'], 1, 9_977_000))
    mini = resolve_checkpoint('mini')
    command = ('-m', 'wam_policy.servers.serve', '--embodiment', 'agibot_g1')
    command += ('--checkpoint', 'mini', '--devices', 'cpu', '--port', '0', '--quiet')
    with run_server(*command) as address:
        for execution in ('blended', 'trained_prefix'):
            pace = {'execution': execution, 'query_s': 0.2}
            (local,) = run_job(robot, EvalJob(mini, trials, pace=pace))
            (served,) = run_job(robot, EvalJob('', trials, pace=pace, server=address))
            assert (served.success, served.chunks) == (True, local.chunks), served.stop_reason
            assert served.reached_s == pytest.approx(local.reached_s, abs=0.1)


def test_a_server_that_learns_what_was_executed_needs_the_stack():
    server = LingBotDouble()
    try:
        with pytest.raises(ValueError, match='without --no-ros'):
            ServerPolicy(robots.load('yam').embodiment, server.url, 'lingbot_va_yam')
    finally:
        server.close()


def test_no_server_is_an_error_with_the_address():
    robot = robots.load('droid').embodiment
    with pytest.raises(ValueError, match='policy server ws://127.0.0.1:9: .*no server at'):
        ServerPolicy(robot, 'ws://127.0.0.1:9', start_timeout_s=10.0)


def test_a_comparison_needs_no_first_result():
    *_, found = policy_comparison.compare_policies(
        [PolicySpec('a', server='ws://a:1'), PolicySpec('b', checkpoint='mini')],
        [],
        lambda job: (_ for _ in ()).throw(ValueError('broken')) if job.server else [],
        {},
        {},
    )
    assert found['a']['error'] == 'broken' and found['b']['success_trials'] == 0
    assert 'only_this' not in found['b']
