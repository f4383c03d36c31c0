"""A policy without a model and a server around it: targets are the posture plus what was seen."""

import asyncio
import threading
import time
from types import SimpleNamespace

import numpy as np
from wam_policy.core import embodiment
from wam_policy.remote import agreement, flavour
from wam_policy.serve.desk import Desk
from wam_policy.serve.server import Limits, Server


class FakePolicy:
    geometry = SimpleNamespace(first_frames=1, frames_per_block=4, window_blocks=4)

    def __init__(self, robot, clocked, act):
        self.robot, self.clocked, self.act, self.calls, self.frames = robot, clocked, act, [], 0
        self.of = [robot.observed.index(name) for name in robot.commanded]

    @property
    def memory(self):
        return SimpleNamespace(frames=self.frames, window_frames=5, rebuilds=0)

    def reset(self, instruction):
        self.calls.append(('reset', instruction))
        self.frames = 0
        return {}

    def commit(self, views):
        self.frames += 1
        self.calls.append(('commit', [int(f[0, 0, 0]) for f in next(iter(views.values()))]))
        return {'encode': 1.0}

    def query(self, joints, seed, newest=None):
        self.calls.append(('query', seed, newest and len(next(iter(newest.values())))))
        time.sleep(self.act.get('seconds', 0.0))
        if 'fault' in self.act:
            raise self.act['fault']
        targets = np.tile(joints[self.of], (24, 1))
        return SimpleNamespace(targets=targets + 0.01 * self.frames, reference=joints[self.of])


class Served:
    """Run a server in a thread."""

    def __init__(self, name='dreamzero_yam', capacity=4, token='', limits=None, port=0):
        self.flavour = flavour.load(name)
        self.robot = embodiment.load(self.flavour.robot)
        self.act, self.policies, self.lines = {}, [], []
        self.desk = Desk(self.flavour, self.robot, self.make, capacity, self.lines.append)
        memory = {'kind': 'clocked', 'first_frames': 1, 'frames_per_block': 4,
                  'frame_period_s': 0.2, 'window_blocks': 4}
        said = agreement.offered(self.flavour, self.robot, {'model': 'fake', 'trained': False},
                                 memory)
        self.ready, self.token, self.limits, self.said = threading.Event(), token, limits, said
        self.thread = threading.Thread(target=lambda: asyncio.run(self.run(port)), daemon=True)
        self.thread.start()
        assert self.ready.wait(10)

    def make(self, clocked):
        self.policies.append(FakePolicy(self.robot, clocked, self.act))
        return self.policies[-1]

    async def run(self, port):
        self.server = Server(self.desk, self.said, token=self.token,
                             limits=self.limits or Limits(), say=self.lines.append)
        self.loop = asyncio.get_running_loop()
        await self.server.run('127.0.0.1', port, self.on_ready)

    def on_ready(self, port):
        self.port = port
        self.ready.set()

    def stop(self):
        self.loop.call_soon_threadsafe(self.server.stop)
        self.thread.join(20)
        assert not self.thread.is_alive()
