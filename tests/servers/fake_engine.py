"""Fake backend and a server thread: targets are the joint positions plus an image value."""

import asyncio
import threading
import time

import numpy as np

from wam_policy.core.robot import embodiment
from wam_policy.core.session.model_requests import describe_committed_rows
from wam_policy.servers import handshake, server_profile
from wam_policy.servers.request_queue import RequestQueue
from wam_policy.servers.server_metrics import ServerMetrics
from wam_policy.servers.session_manager import SessionManager
from wam_policy.servers.transports.episode_server import EpisodeServer
from wam_policy.servers.transports.http_server import ActServer
from wam_policy.servers.transports.websocket_server import PolicyServer
from wam_policy.servers.transports.zmq_server import ZmqServer
from wam_policy.workers.supervisor import WorkerError


class FakeBackend:
    first_frames, frames_per_block, horizon, max_committed_rows = 1, 4, 24, 0

    def __init__(self, robot, behavior):
        self.robot, self.behavior, self.calls, self.committed_blocks = robot, behavior, [], {}
        self.commanded_columns = [robot.observed.index(name) for name in robot.commanded]
        self.generation, self.restarts, self.not_ready_reason = 1, 0, ''
        self.batches, self.queries = [], []

    def calls_of(self, session):
        return [call for of, call in self.calls if of == session]

    def reset(self, session, instruction, mode):
        self.calls.append((session, ('reset', instruction, mode)))
        self.committed_blocks[session] = 0

    def commit(self, session, block, views):
        assert block == self.committed_blocks[session]
        self.committed_blocks[session] += 1
        self.calls.append(
            (session, ('commit', [int(f[0, 0, 0]) for f in next(iter(views.values()))]))
        )
        return {
            'cached_blocks': block,
            'window_fill': (block + 1) / 5,
            'rebuilds': 0,
            'timings_ms': {'encode': 1.0},
        }

    def query_batch(self, queries):
        self.batches.append(len(queries))
        time.sleep(self.behavior.get('seconds', 0.0))
        if 'fault' in self.behavior:
            raise self.behavior['fault']
        return [self.query(query) for query in queries]

    def query(self, query):
        newest = query.newest and len(next(iter(query.newest.values())))
        self.calls.append((query.session, ('query', query.seed, newest)))
        self.queries.append(query)
        if query.seed == self.behavior.get('failing seed'):
            return WorkerError(0, 'of a test', 'reset')
        return (
            np.tile(query.joints[self.commanded_columns], (24, 1))
            + 0.01 * self.committed_blocks[query.session]
        )


class ServerThread:
    """Run a server in a thread."""

    def __init__(self, name='dreamzero_yam', capacity=4, token='', limits=None, port=0):
        self.profile = server_profile.load(name)
        self.robot = embodiment.load_embodiment(self.profile.robot)
        self.behavior, self.lines = {}, []
        self.backend = FakeBackend(self.robot, self.behavior)
        self.session_manager = SessionManager(
            self.robot, self.backend, self.backend, capacity, self.lines.append
        )
        self.metrics = ServerMetrics(self.session_manager, self.backend)
        self.requests = RequestQueue(self.session_manager, self.metrics, self.lines.append)
        memory = {
            'kind': 'clocked',
            'first_frames': 1,
            'frames_per_block': 4,
            'frame_period_s': 0.2,
            'window_blocks': 4,
        }
        said = handshake.make_server_metadata(
            self.profile,
            self.robot,
            {'model': 'fake', 'trained': False, 'rtc': describe_committed_rows(4)},
            memory,
        )
        self.ready, self.token, self.limits, self.metadata = threading.Event(), token, limits, said
        self.thread = threading.Thread(target=lambda: asyncio.run(self.run(port)), daemon=True)
        self.thread.start()
        assert self.ready.wait(10)

    async def run(self, port):
        self.server = self.make_server({'token': self.token, 'limits': self.limits})
        self.loop = asyncio.get_running_loop()
        await self.server.run('127.0.0.1', port, self.on_ready)

    def make_server(self, named):
        kind, backend = self.profile.transport.kind, self.backend
        if kind == 'http':
            return ActServer(self.requests, self.profile, self.metadata, backend=backend, **named)
        if kind == 'zmq':
            return ZmqServer(self.requests, self.profile, **named)
        if self.profile.codec == 'text_keys':
            return EpisodeServer(self.requests, self.profile, 'fake', backend=backend, **named)
        return PolicyServer(
            self.requests,
            self.profile,
            self.metadata,
            metrics=self.metrics,
            backend=backend,
            **named,
        )

    def on_ready(self, port):
        self.port = port
        self.ready.set()

    def stop(self):
        self.loop.call_soon_threadsafe(self.server.stop)
        self.thread.join(20)
        assert not self.thread.is_alive()
        self.requests.close()
