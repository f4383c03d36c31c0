"""Trials through ROS: what is launched for which job, and two short trials of the whole."""

import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest

pytest.importorskip('rclpy', reason='needs a ROS 2 environment: run ./wam test')
from wam_policy.nodes import message_conversion
from wam_tools import evaluate_ros
from wam_tools.sim_operator import SceneSetupError
from wam_tools.task_loop import TASK_TIMEOUT_S, TaskLoop

pytestmark = [pytest.mark.ros, pytest.mark.stack, pytest.mark.timeout(180)]
TOY = Path(__file__).parents[1] / 'nodes' / 'toy_worker.py'


def trial(seed, **changes):
    goal = {
        'family': 'touch',
        'instruction': 'touch the red cube with the left hand',
        'slot': 'cube_0',
        'side': 'left',
        'onto': '',
        'mark_s': 0.0,
    }
    return {
        'series': 'main',
        'seed': seed,
        'family': 'touch',
        'combinations': 'all',
        'instructions': [[0.0, goal['instruction']]],
        'goals': [goal],
        'limit_s': 1.5,
        **changes,
    }


def test_the_launch_leaves_to_the_checkpoint_what_a_job_does_not_choose():
    job = {'checkpoint': 'mini', 'choice': {}, 'trials': []}
    command = evaluate_ros.make_launch_command('yam', job, ['camera_hz:=10'])
    assert command[:4] == ['ros2', 'launch', 'wam_bringup', 'yam.launch.py']
    assert set(command[4:]) == {
        'sim:=true',
        'enable_motion:=true',
        'checkpoint:=mini',
        'console:=false',
        'camera_hz:=10',
    }
    job['choice'] = {'steps': 1, 'guidance': 2.0}
    job['pace'] = {'execution': 'rolled_forward'}
    chosen = {'steps:=1', 'guidance_scale:=2.0', 'execution:=rolled_forward'}
    assert chosen < set(evaluate_ros.make_launch_command('yam', job))


def test_jobs_that_need_the_same_stack_share_it():
    jobs = [
        {'checkpoint': 'a', 'choice': {}, 'trials': [1]},
        {'checkpoint': 'b', 'choice': {}, 'trials': [2]},
        {'checkpoint': 'a', 'choice': {'steps': 1}, 'trials': [3]},
        {'checkpoint': 'a', 'choice': {}, 'trials': [4]},
        {'checkpoint': 'a', 'choice': {}, 'pace': {'execution': 'blended'}, 'trials': [5]},
        {'checkpoint': 'a', 'choice': {}, 'pace': {'execution': 'blended'}, 'trials': [6]},
    ]
    trials = [job['trials'] for job in evaluate_ros.merge_jobs(jobs)]
    assert trials == [[1, 4], [2], [3], [5, 6]]


def test_what_was_reached_before_the_last_words_does_not_count():
    stamp = message_conversion.time_to_msg(5_000_000_000)
    assert evaluate_ros._reached_after_s(stamp, True, 3_000_000_000) == 2.0
    assert evaluate_ros._reached_after_s(stamp, True, 6_000_000_000) is None
    assert (
        evaluate_ros._reached_after_s(message_conversion.time_to_msg(0), False, 3_000_000_000)
        is None
    )


def test_a_share_of_one_robot_is_refused(capsys):
    with pytest.raises(SystemExit) as refused:
        evaluate_ros.main(['--robot', 'yam', '--job-file', 'x', '--shard', '0/2'])
    assert refused.value.code == 2 and 'want 0/1' in capsys.readouterr().err


class FakeMonitor:
    """Fake monitor that records instructions and pauses."""

    def __init__(self):
        self.said, self.pauses = [], []
        self.metrics = SimpleNamespace(
            pause=lambda s: self.pauses.append(('pause', s)),
            resume=lambda s: self.pauses.append(('resume', s)),
        )
        self.policy = SimpleNamespace(instruction='', state_name='RUNNING')
        self.sim = SimpleNamespace(
            robot='yam', episode_index=0, instruction='a', goals_reached=[False]
        )

    def ensure_instruction(self, instruction):
        self.said.append(instruction)
        self.policy.instruction = instruction


class FakeSimOperator:
    """Stand in for the stage hand: take words away and count scenes; fail when told to."""

    def __init__(self, monitor):
        self.monitor, self.scenes, self.homes = monitor, 0, 0
        self.may_go, self.setup_error = threading.Event(), ''
        self.may_go.set()

    def clear_instruction(self, stop_event):
        self.monitor.said.append('')
        self.monitor.policy.instruction = ''

    def go_home(self, stop_event):
        assert self.may_go.wait(5.0)
        if self.setup_error:
            raise SceneSetupError(self.setup_error)
        self.homes += 1

    def show_next_scene(self, stop_event):
        self.scenes += 1
        self.monitor.sim = SimpleNamespace(
            robot='yam', episode_index=self.scenes, instruction='a', goals_reached=[False]
        )


def settled(rounds):
    rounds._change_thread.join(5.0)
    assert not rounds._change_thread.is_alive()


def test_rounds_end_with_success_or_with_time_and_begin_at_home():
    monitor = FakeMonitor()
    hand = FakeSimOperator(monitor)
    rounds = TaskLoop(monitor, hand)
    rounds.advance(0.0)
    rounds.advance(1.0)
    assert monitor.said == ['a'] and hand.scenes == 0
    monitor.sim.goals_reached = [True]
    hand.may_go.clear()
    rounds.advance(2.0)
    rounds.advance(3.0)  # the arms are still on their way
    assert 'a' not in monitor.said[1:] and hand.scenes == 0
    hand.may_go.set()
    settled(rounds)
    assert (hand.homes, hand.scenes) == (1, 1)
    rounds.advance(4.0)  # the same words, and yet new
    rounds.advance(5.0)
    rounds.advance(5.0 + TASK_TIMEOUT_S + 0.1)
    settled(rounds)
    assert monitor.said == ['a', '', 'a', ''] and hand.scenes == 2
    assert (rounds.score.attempted, rounds.score.succeeded) == (2, 1)
    assert str(rounds.score) == '1 of 2 tasks done'
    assert [what for what, _ in monitor.pauses] == ['resume', 'pause', 'resume', 'pause']
    rounds.close()


def test_a_change_of_scenes_that_failed_is_tried_again_and_counts_once():
    monitor = FakeMonitor()
    hand = FakeSimOperator(monitor)
    rounds = TaskLoop(monitor, hand)
    rounds.advance(0.0)
    monitor.sim.goals_reached = [True]
    hand.setup_error = 'the arms do not reach home'
    rounds.advance(1.0)
    settled(rounds)
    assert str(rounds) == '1 of 1 tasks done (the arms do not reach home)' and hand.scenes == 0
    hand.setup_error = ''
    rounds.advance(2.0)
    settled(rounds)
    assert rounds.setup_error == '' and hand.scenes == 1 and rounds.score.attempted == 1
    rounds.close()


@pytest.mark.slow
def test_two_trials_through_the_whole_stack(tmp_path):
    """A worker that holds still reaches nothing; scenes, words, goals and times are real."""
    worker = tmp_path / 'python'  # policy_node runs `worker_python -m MODULE ...`
    worker.write_text(f'#!/bin/sh\nshift 2\nexec {sys.executable} {TOY} "$@"\n')
    worker.chmod(0o755)
    jobs = tmp_path / 'jobs'
    # whatever the scene holds: no hand is near a cube, and every cube lies on the table
    other = {**trial(0)['goals'][0], 'slot': 'cube_1', 'side': 'right'}
    jobs.write_text(
        json.dumps(
            {
                'checkpoint': 'preset:tiny',
                'choice': {},
                'trials': [
                    trial(11),
                    trial(
                        12,
                        instructions=[[0.0, 'touch a cube'], [0.7, 'touch another']],
                        goals=[*trial(12)['goals'], other],
                    ),
                ],
            }
        )
        + '\n'
    )
    done = subprocess.run(
        [
            sys.executable,
            '-m',
            'wam_tools.evaluate_ros',
            '--robot',
            'yam',
            '--job-file',
            str(jobs),
            f'worker_python:={worker}',
            'camera_size:=160x120',
        ],
        capture_output=True,
        text=True,
        timeout=250,
        env=os.environ,
    )
    assert done.returncode == 0, done.stderr
    first, second = (json.loads(line) for line in done.stdout.splitlines())
    assert first['trial']['seed'] == 11 and first['reached_s'] == [None]
    assert second['reached_s'] == [None, None] and second['duration_s'] >= 2.2
    for result in (first, second):
        assert result['stop_reason'] == '' and result['chunks'] == len(result['latency_ms']) > 3
        assert result['jerk_ratio'] <= 1.0 + 1e-4
