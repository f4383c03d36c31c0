"""The workers as the policy sees them: its requests become messages, their news become states."""

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from wam_policy.core.observation.frame_history import Grid
from wam_policy.core.robot import checkpoints, embodiment
from wam_policy.core.session.model_requests import Answer, Cache, Commit, Query, Request, Reset
from wam_policy.core.session.policy_session import Workers
from wam_policy.nodes.parameters import PolicyParams
from wam_policy.workers import model_options
from wam_policy.workers.supervisor import Pair, Plan, State, Status

PATIENCE = 0.9  # share of the query's timeout that a far server may take of it


@dataclass(frozen=True, slots=True)
class News:
    """Tell what has become of the workers."""

    workers: Workers
    reason: str
    grid: Grid | None = None  # READY: how their memory is cut
    model: str = ''
    trained: bool = False
    restarts: int = 0
    query_per_commit: bool | None = None  # their rhythm; None: as they were told to
    newest_posture: bool | None = None
    decodes: bool = True  # they can show what they predicted


def plan(params: PolicyParams, checkpoint: str) -> Plan:
    """Return what to run; raises ValueError for a checkpoint or an address that cannot be."""
    if params.backend == 'remote':
        return _remote(params)
    place = checkpoints.located(stood_in(checkpoint, params.embodiment))
    asking = model_options.advised(
        params.recipe, params.steps, params.cfg, checkpoints.advice(place)
    )
    arguments = {
        'checkpoint': place,
        'embodiment': params.embodiment,
        'mode': params.mode,
        'cfg': asking.cfg,
        'seed': params.seed,
        'threads': params.worker_threads,
        'engine': params.engine,
        'precision': params.precision,
        **({} if params.window == 'advised' else {'window': params.window}),
        **({'recipe': asking.recipe} if asking.recipe else {}),
        **({'steps': asking.steps} if asking.steps else {}),
    }
    flags = ('--guided-video',) if params.guided_video else ()
    return Plan(
        devices=params.devices,
        guided=model_options.guided(asking.recipe, asking.steps, asking.cfg, params.guided_video),
        arguments=tuple(
            part for key, value in arguments.items() for part in (f'--{key}', str(value))
        )
        + flags,
        program=(params.worker_python or sys.executable, '-m', 'wam_policy.workers.run_worker'),
        start_timeout_s=params.start_timeout_s,
    )


def stood_in(checkpoint: str, robot: str) -> str:
    """Return `checkpoint`, or what stands in where the default one was not trained on `robot`."""
    return checkpoints.fitting(checkpoint, embodiment.load(robot).model_tag)


def _remote(params: PolicyParams) -> Plan:
    """Return the worker that asks a far server: one, whatever runs behind it."""
    if not params.server:
        raise ValueError('server: backend remote needs an address, ws://HOST:PORT')
    flavour = ('--flavour', params.flavour) if params.flavour else ()
    return Plan(
        devices=('cpu',),
        guided=False,
        arguments=(
            '--server',
            params.server,
            '--embodiment',
            params.embodiment,
            '--timeout',
            f'{PATIENCE * params.query_timeout_s:g}',
            *flavour,
        ),
        program=(
            params.worker_python or sys.executable,
            '-m',
            'wam_policy.servers.run_remote_worker',
        ),
        start_timeout_s=params.start_timeout_s,
    )


class Engine:
    """Hold one pair of workers and speak the policy's language with it."""

    def __init__(
        self,
        made: Plan,
        params: PolicyParams,
        on_line: Callable[[int, str], None],
        on_news: Callable[[News], None],
    ) -> None:
        """Take listeners for the workers' stderr lines and news; another thread calls them."""
        self._seed, self._timeout_s = params.seed, params.query_timeout_s
        self._wants_newest = self._sees_newest = params.sight == 'newest'
        self._on_news = on_news
        self._death = ''  # why the last generation ended
        self._pair = Pair(made, on_line, self._on_status)

    def start(self) -> None:
        """Begin to start the workers and return."""
        self._pair.start()

    def close(self) -> None:
        self._pair.close()

    def interrupt(self) -> None:
        """Give up the request that is under way."""
        self._pair.interrupt()

    def ask(self, request: Request) -> Cache | Answer | None:
        """Ask and wait; raises what Pair.request raises."""
        if isinstance(request, Reset):
            self._request(
                'reset', {'session': request.session, 'instruction': request.instruction}
            )
            return None
        if isinstance(request, Commit):
            said = self._request(
                'commit',
                {
                    'session': request.session,
                    'block': request.number,
                    'stamps_ns': list(request.block.stamps_ns),
                },
                {f'frames/{camera}': pixels for camera, pixels in request.block.pixels().items()},
            )
            return Cache(
                said.fields['cached_blocks'], said.fields['window_fill'], said.fields['rebuilds']
            )
        return self._chunk(request)

    def video(self) -> np.ndarray:
        """Return the newest prediction as pixels, uint8 [frames height width 3]."""
        return self._request('video', {}).arrays['frames']

    def _chunk(self, query: Query) -> Answer:
        seen = query.observation
        arrays = {'joints': seen.joints.position}
        if self._sees_newest:
            arrays |= {f'newest/{frame.camera}': frame.rgb for frame in seen.frames}
        said = self._request(
            'query',
            {
                'session': query.session,
                'sequence': query.sequence,
                'stamp_ns': seen.stamp_ns,
                'seed': self._seed,
            },
            arrays,
        )
        return Answer(
            said.fields['step_dt_s'],
            said.arrays['targets'],
            said.arrays['reference'],
            said.fields['timings_ms'],
        )

    def _request(
        self, kind: str, fields: Mapping[str, Any], arrays: Mapping[str, np.ndarray] | None = None
    ) -> Any:
        return self._pair.request(kind, fields, arrays, timeout_s=self._timeout_s)

    def _on_status(self, status: Status) -> None:
        self._on_news(self._news(status))

    def _news(self, status: Status) -> News:
        if status.state is State.READY:
            self._death = ''
            facts = status.facts
            geometry = facts['geometry']
            grid = Grid(
                geometry['frames_per_block'],
                round(geometry['frame_period_s'] * 1e9),
                geometry['window_blocks'],
            )
            # a far server says how it wants to be asked; local workers do as they were told
            sight = facts.get('sight')
            self._sees_newest = self._wants_newest or sight == 'newest'
            return News(
                Workers.READY,
                '',
                grid,
                facts['model'],
                facts['trained'],
                status.restarts,
                None if sight is None else facts['mode'] == 'reference',
                None if sight is None else not self._sees_newest,
                facts.get('video', True),
            )
        if status.state in (State.FAILED, State.STOPPED):
            self._death = status.reason
            down = status.state is State.FAILED and status.retry_s is not None
            return News(
                Workers.DOWN if down else Workers.FAILED, status.reason, restarts=status.restarts
            )
        reason = f'workers are {status.state}: {status.reason}'
        if self._death:
            return News(Workers.DOWN, f'{self._death}; {reason}', restarts=status.restarts)
        return News(Workers.STARTING, reason, restarts=status.restarts)
