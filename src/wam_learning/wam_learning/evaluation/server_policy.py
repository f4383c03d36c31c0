"""A policy server as the policy of a rollout, through the remote worker that policy_node uses.

The worker is a program of its own; what it answers has passed the checks and conversions of the
server's profile. A failed request ends the trial, not the evaluation.
"""

import subprocess
import sys
import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from wam_learning.evaluation.rollout import (
    CommitCount,
    PolicyFailure,
    QuerySchedule,
    QueryTargets,
    TimeBase,
)
from wam_policy.core.robot.embodiment import Embodiment
from wam_policy.core.session.model_requests import read_max_committed_rows
from wam_policy.workers import protocol
from wam_policy.workers.protocol import WorkerMessage

START_TIMEOUT_S = 60.0  # a server may still load its model
REQUEST_TIMEOUT_S = 60.0  # more than the worker's own limits
EXIT_TIMEOUT_S = 5.0


class ServerPolicy:
    """Send the requests of a rollout to a policy server."""

    def __init__(
        self,
        robot: Embodiment,
        server: str,
        server_profile: str = '',
        start_timeout_s: float = START_TIMEOUT_S,
    ) -> None:
        """Connect; ValueError if the server cannot be reached or does not fit the robot."""
        self.server = server
        self._sock, worker_end = protocol.make_socket_pair()
        with worker_end:
            command = [sys.executable, '-m', 'wam_policy.servers.run_remote_worker']
            command += ['--server', server, '--embodiment', robot.name]
            command += ['--server-profile', server_profile, '--fd', str(worker_end.fileno())]
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, pass_fds=(worker_end.fileno(),)
            )
        self._session, self._sessions, self._blocks = '', 0, 0
        self._rebuilds, self._sequence = 0, 0
        info = self._wait_ready(time.monotonic() + start_timeout_s)
        shape = info['geometry']
        if shape['follows_chunks']:
            self.close()
            raise ValueError(
                f'policy server {server} learns what the robot executed of each answer, and only '
                'policy_node tells it that: evaluate it through ROS, without --no-ros'
            )
        self.geometry = TimeBase(
            shape['frames_per_block'],
            shape['frame_period_s'],
            shape['window_blocks'],
            shape['step_dt_s'],
        )
        self.model, self.trained = str(info['model']), bool(info['trained'])
        self.max_committed_rows = read_max_committed_rows(info['rtc'])
        self.query_schedule = QuerySchedule(
            query_per_commit=info['memory_update'] == 'released',
            latest_images=info['query_images'] == 'latest',
        )

    @property
    def memory(self) -> CommitCount:
        window = self.geometry.window_blocks
        return CommitCount(min(self._blocks, window), window, self._blocks, self._rebuilds)

    def reset(self, instruction: str) -> Mapping[str, float]:
        """Start a session; raise PolicyFailure if the server refuses."""
        self._sessions += 1
        self._session, self._blocks = f'eval-{self._sessions}', 0
        return self._request('reset', {'instruction': instruction}).fields['timings_ms']

    def commit(self, views: Mapping[str, np.ndarray]) -> Mapping[str, float]:
        """Send the images of a block, uint8 [T h w 3] per camera."""
        arrays = {f'frames/{camera}': pixels for camera, pixels in views.items()}
        answer = self._request('commit', {'block': self._blocks}, arrays)
        self._blocks += 1
        self._rebuilds = answer.fields['rebuilds']
        return answer.fields['timings_ms']

    def query(
        self,
        joints: np.ndarray,
        seed: int,
        newest: Mapping[str, np.ndarray] | None = None,
        committed: np.ndarray | None = None,
    ) -> QueryTargets:
        """Return the actions for positions [observed], after rows [n commanded] that are given."""
        self._sequence += 1
        arrays = {'joints': joints}
        arrays |= {f'newest/{camera}': pixels for camera, pixels in (newest or {}).items()}
        arrays |= {} if committed is None else {'committed': committed}
        fields = {'sequence': self._sequence, 'stamp_ns': 0, 'seed': seed}
        answer = self._request('query', fields, arrays)
        return QueryTargets(
            answer.arrays['targets'], answer.arrays['reference'], answer.fields['timings_ms']
        )

    def close(self) -> None:
        """End the worker."""
        self._sock.close()
        try:
            self._process.wait(EXIT_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _wait_ready(self, deadline_s: float) -> Mapping[str, Any]:
        reason = 'no answer'
        while True:
            try:
                message = protocol.receive(self._sock, max(0.001, deadline_s - time.monotonic()))
            except protocol.ProtocolError as error:
                self.close()
                raise ValueError(
                    f'policy server {self.server}: {reason}; {error}; see the lines above'
                ) from error
            if message.kind == 'ready':
                return message.fields
            reason = str(message.fields.get('reason', reason))

    def _request(
        self, kind: str, fields: Mapping[str, Any], arrays: Mapping[str, np.ndarray] | None = None
    ) -> WorkerMessage:
        """Return the answer; PolicyFailure with the server's reason."""
        try:
            protocol.send(
                self._sock,
                WorkerMessage(kind, {**fields, 'session': self._session, 'id': 1}, arrays or {}),
                REQUEST_TIMEOUT_S,
            )
            answer = protocol.receive(self._sock, REQUEST_TIMEOUT_S)
        except protocol.ProtocolError as error:
            raise PolicyFailure(f'{self.server}: {error}') from error
        if answer.kind == 'error':
            raise PolicyFailure(f'{self.server}: {answer.fields["what"]}')
        return answer
