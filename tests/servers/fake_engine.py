"""An engine without a model and a server around it: targets are the posture plus what was seen."""

import asyncio
import threading
import time

import numpy as np

from wam_policy.core.robot import embodiment
from wam_policy.servers import handshake, server_profile
from wam_policy.servers.session_manager import Desk
from wam_policy.servers.transports.websocket_server import Limits, Server


class FakeEngine:
    first_frames, frames_per_block = 1, 4

    def __init__(self, robot, act):
        self.robot, self.act, self.calls, self.frames = robot, act, [], {}
        self.of = [robot.observed.index(name) for name in robot.commanded]
        self.generation, self.restarts, self.fault = 1, 0, ''

    def of_memory(self, session):
        return [call for of, call in self.calls if of == session]

    def reset(self, session, instruction, mode):
        self.calls.append((session, ('reset', instruction, mode)))
        self.frames[session] = 0

    def commit(self, session, block, views):
        assert block == self.frames[session]
        self.frames[session] += 1
        self.calls.append(
            (session, ('commit', [int(f[0, 0, 0]) for f in next(iter(views.values()))]))
        )
        return {
            'cached_blocks': block,
            'window_fill': (block + 1) / 5,
            'rebuilds': 0,
            'timings_ms': {'encode': 1.0},
        }

    def query(self, session, sequence, joints, seed, newest=None):
        self.calls.append((session, ('query', seed, newest and len(next(iter(newest.values()))))))
        time.sleep(self.act.get('seconds', 0.0))
        if 'fault' in self.act:
            raise self.act['fault']
        return np.tile(joints[self.of], (24, 1)) + 0.01 * self.frames[session]


class Served:
    """Run a server in a thread."""

    def __init__(self, name='dreamzero_yam', capacity=4, token='', limits=None, port=0):
        self.flavour = server_profile.load(name)
        self.robot = embodiment.load(self.flavour.robot)
        self.act, self.lines = {}, []
        self.engine = FakeEngine(self.robot, self.act)
        self.desk = Desk(
            self.flavour, self.robot, self.engine, self.engine, capacity, self.lines.append
        )
        memory = {
            'kind': 'clocked',
            'first_frames': 1,
            'frames_per_block': 4,
            'frame_period_s': 0.2,
            'window_blocks': 4,
        }
        said = handshake.offered(
            self.flavour, self.robot, {'model': 'fake', 'trained': False}, memory
        )
        self.ready, self.token, self.limits, self.said = threading.Event(), token, limits, said
        self.thread = threading.Thread(target=lambda: asyncio.run(self.run(port)), daemon=True)
        self.thread.start()
        assert self.ready.wait(10)

    async def run(self, port):
        self.server = Server(
            self.desk,
            self.said,
            token=self.token,
            limits=self.limits or Limits(),
            say=self.lines.append,
            engine=self.engine,
        )
        self.loop = asyncio.get_running_loop()
        await self.server.run('127.0.0.1', port, self.on_ready)

    def on_ready(self, port):
        self.port = port
        self.ready.set()

    def stop(self):
        self.loop.call_soon_threadsafe(self.server.stop)
        self.thread.join(20)
        assert not self.thread.is_alive()
