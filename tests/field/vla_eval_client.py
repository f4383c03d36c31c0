"""Run one episode of vla-eval's own runner against a server: ADDRESS sync|live.

A program for a Python that has vla-eval: the benchmark is a robot that is where it is told to be.
"""

import sys

import anyio
import numpy as np
from vla_eval.benchmarks.base import StepBenchmark, StepResult, repeat_last_hold
from vla_eval.connection import Connection
from vla_eval.runners.live_runner import LiveEpisodeRunner
from vla_eval.runners.sync_runner import SyncEpisodeRunner

STEPS, JOINTS = 20, 14
HOME = np.array([0.0, 0.6, 0.6, 0.0, 0.0, 0.0, 1.0] * 2, np.float32)


class ToyRobot(StepBenchmark):
    def __init__(self):
        super().__init__()
        self.actions = []

    def get_tasks(self):
        return [{'name': 'touch the red cube'}]

    def get_hold_action(self, last_action):
        return repeat_last_hold(last_action, JOINTS)

    def reset(self, task):
        self.state = HOME
        return

    def step(self, action):
        row = np.asarray(action['actions'], np.float32)
        self.actions.append(row)
        self.state = row if row.any() else self.state  # before the first answer it holds zeros
        return StepResult(None, 0.0, False, {})

    def make_obs(self, raw_obs, task):
        image = np.zeros((96, 128, 3), np.uint8)
        return {
            'images': dict.fromkeys(('top', 'left_wrist', 'right_wrist'), image),
            'task_description': task['name'],
            'states': self.state,
        }

    def get_step_result(self, step_result):
        return {'success': False}


async def run(address, kind):
    robot = ToyRobot()
    runner = SyncEpisodeRunner() if kind == 'sync' else LiveEpisodeRunner(hz=10.0)
    async with Connection(address) as connection:
        result = await runner.run_episode(robot, robot.get_tasks()[0], connection, max_steps=STEPS)
    moved = [row for row in robot.actions if row.any()]
    print(f'steps {result["steps"]}, answers {len(moved)}, rows {np.shape(moved)}')
    print(f'finite {bool(len(moved) and np.isfinite(moved).all())}')


anyio.run(run, *sys.argv[1:])
