"""The workers as the policy sees them: its requests become messages, their news become states."""

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from wam_policy.command_line import to_options
from wam_policy.core.observation.frame_history import BlockTiming
from wam_policy.core.robot import checkpoints, embodiment
from wam_policy.core.session.model_requests import (
    CacheStatus,
    Commit,
    NoiseSeeds,
    Query,
    QueryResult,
    Request,
    Reset,
    read_max_committed_rows,
)
from wam_policy.core.session.policy_session import WorkerAvailability
from wam_policy.nodes.parameters import PolicyParams
from wam_policy.workers import model_options
from wam_policy.workers.supervisor import WorkerSpec, WorkerState, WorkerStatus, WorkerSupervisor

REMOTE_TIMEOUT_SHARE = 0.9  # share of the query's timeout that a far server may take of it


@dataclass(frozen=True, slots=True)
class BackendStatus:
    """Tell what has become of the workers."""

    availability: WorkerAvailability
    reason: str
    block_timing: BlockTiming | None = None  # READY: how their memory is cut
    model: str = ''
    trained: bool = False
    restart_count: int = 0
    query_per_commit: bool | None = None  # their rhythm; None: as configured
    latest_joint_state: bool | None = None
    can_decode_video: bool = True  # they can show what they predicted
    view_layout: str = ''  # of the predicted image; empty: unknown
    max_committed_rows: int = 0  # how many rows the model continues


def build_worker_spec(params: PolicyParams, checkpoint: str, base: str = '') -> WorkerSpec:
    """Return what to run; raises ValueError for a checkpoint or an address that cannot be.

    `base` is the complete checkpoint under a folder of adapters.
    """
    if params.backend == 'remote':
        return _build_remote_spec(params)
    place = checkpoints.resolve_checkpoint(select_checkpoint(checkpoint, params.embodiment))
    ground = checkpoints.resolve_base(base)
    asking = model_options.resolve_sampling(
        params.sampler,
        params.steps,
        params.guidance_scale,
        checkpoints.read_inference_defaults(place, ground),
    )
    arguments = {
        'checkpoint': place,
        'embodiment': params.embodiment,
        'memory-update': params.memory_update,
        'guidance-scale': asking.guidance_scale,
        'seed': params.seed,
        'threads': params.worker_threads,
        'engine': params.engine,
        'precision': params.precision,
        'kv-window': '' if params.kv_window == 'default' else params.kv_window,
        'base': ground,
        'sampler': asking.sampler,
        'steps': asking.steps,
        'guided-video': params.guided_video,
    }
    return WorkerSpec(
        devices=params.devices,
        guided=model_options.needs_unconditional_branch(
            asking.sampler, asking.steps, asking.guidance_scale, params.guided_video
        ),
        arguments=tuple(to_options(arguments)),
        program=(params.worker_python or sys.executable, '-m', 'wam_policy.workers.run_worker'),
        start_timeout_s=model_options.extend_start_timeout(params.start_timeout_s, params.engine),
    )


def select_checkpoint(checkpoint: str, robot_name: str) -> str:
    """Return `checkpoint`, or what stands in where the default one was not trained on `robot`."""
    return checkpoints.select_for_robot(
        checkpoint, embodiment.load_embodiment(robot_name).model_tag
    )


def _build_remote_spec(params: PolicyParams) -> WorkerSpec:
    """Return the worker that asks a far server: one, whatever runs behind it."""
    python = params.worker_python or sys.executable
    if not params.server:
        raise ValueError('server: backend remote needs an address, for example ws://HOST:PORT')
    arguments = {
        'server': params.server,
        'embodiment': params.embodiment,
        'query-timeout': f'{REMOTE_TIMEOUT_SHARE * params.query_timeout_s:g}',
        'reset-timeout': f'{REMOTE_TIMEOUT_SHARE * params.reset_timeout_s:g}',
        'server-profile': params.server_profile,
    }
    return WorkerSpec(
        devices=('cpu',),
        guided=False,
        arguments=tuple(to_options(arguments)),
        program=(python, '-m', 'wam_policy.servers.run_remote_worker'),
        max_failed_starts=None,  # a server may come up at any time
        start_timeout_s=params.start_timeout_s,
        # it waits for the server by itself, so a start is only due when a connection is lost
        max_restart_delay_s=0.5,
    )


class WorkerBackend:
    """Hold one pair of workers and speak the policy's language with it."""

    def __init__(
        self,
        spec: WorkerSpec,
        params: PolicyParams,
        on_log_line: Callable[[int, str], None],
        on_backend_status: Callable[[BackendStatus], None],
    ) -> None:
        """Take listeners for the workers' stderr lines and news; another thread calls them."""
        self._noise_seeds = NoiseSeeds(params.seed, params.new_noise)
        self._execution = params.execution
        self._timeouts_s = {'reset': params.reset_timeout_s}  # by kind of request
        self._query_timeout_s = params.query_timeout_s
        self._worker_timeouts_s: Mapping[str, float] = {}  # what a remote worker may need
        self._has_answered = False  # since the workers are ready
        self._latest_images_configured = self._send_latest_images = params.query_images == 'latest'
        self._on_backend_status = on_backend_status
        self._last_failure = ''  # why the last generation ended
        self._supervisor = WorkerSupervisor(spec, on_log_line, self._on_worker_status)

    def start(self) -> None:
        """Begin to start the workers and return."""
        self._supervisor.start()

    def close(self) -> None:
        self._supervisor.close()

    def interrupt(self) -> None:
        """Give up the request that is under way."""
        self._supervisor.interrupt()

    def execute(self, request: Request) -> CacheStatus | QueryResult | None:
        """Ask and wait; raises what Pair.request raises."""
        if isinstance(request, Reset):
            self._noise_seeds.on_reset()
            self._send_request(
                'reset', {'session': request.session, 'instruction': request.instruction}
            )
            return None
        if isinstance(request, Commit):
            joints = request.block.stack_joints()
            answer = self._send_request(
                'commit',
                {
                    'session': request.session,
                    'block': request.number,
                    'stamps_ns': list(request.block.stamps_ns),
                },
                {
                    f'frames/{camera}': pixels
                    for camera, pixels in request.block.stack_pixels().items()
                }
                | ({} if joints is None else {'joints': joints}),
            )
            return CacheStatus(
                answer.fields['cached_blocks'],
                answer.fields['window_fill'],
                answer.fields['rebuilds'],
                answer.fields.get('imagination_error'),
            )
        return self._execute_query(request)

    def decode_video(self) -> np.ndarray:
        """Return the newest prediction as pixels, uint8 [frames height width 3]."""
        return self._send_request('video', {}).arrays['frames']

    def _execute_query(self, query: Query) -> QueryResult:
        seen = query.observation
        arrays = {'joints': seen.joints.position}
        fields: dict[str, Any] = {}
        if query.committed is not None:
            arrays['committed'], fields['delay'] = query.committed, len(query.committed)
        if self._send_latest_images:
            arrays |= {f'newest/{frame.camera}': frame.rgb for frame in seen.frames}
        answer = self._send_request(
            'query',
            {
                'session': query.session,
                'sequence': query.sequence,
                'stamp_ns': seen.stamp_ns,
                'seed': self._noise_seeds.next_seed(),
                **fields,
            },
            arrays,
        )
        return QueryResult(
            answer.fields['step_dt_s'],
            answer.arrays['targets'],
            answer.arrays['reference'],
            answer.fields['timings_ms'],
        )

    def _send_request(
        self, kind: str, fields: Mapping[str, Any], arrays: Mapping[str, np.ndarray] | None = None
    ) -> Any:
        is_first = kind == 'query' and not self._has_answered
        timeout_s = max(
            self._timeouts_s.get(kind, self._query_timeout_s),
            self._worker_timeouts_s.get('first_query' if is_first else kind, 0.0),
        )
        answer = self._supervisor.request(kind, fields, arrays, timeout_s=timeout_s)
        self._has_answered |= kind == 'query'
        return answer

    def _on_worker_status(self, status: WorkerStatus) -> None:
        self._on_backend_status(self._to_backend_status(status))

    def _to_backend_status(self, status: WorkerStatus) -> BackendStatus:
        if status.state is WorkerState.READY:
            self._last_failure = ''
            facts = status.info
            geometry = facts['geometry']
            rows = read_max_committed_rows(facts.get('rtc'))
            if self._execution == 'trained_prefix' and not rows:
                return BackendStatus(
                    WorkerAvailability.FAILED,
                    f'execution trained_prefix: {facts["model"]} was not trained to continue '
                    'committed rows; train it with ./wam train --committed-rows N, or set '
                    'execution to blended or rolled_forward',
                    restart_count=status.restarts,
                )
            # the model of a server may have to be compiled for the first answer
            self._has_answered = False
            self._worker_timeouts_s = {
                kind: seconds / REMOTE_TIMEOUT_SHARE
                for kind, seconds in facts.get('timeouts_s', {}).items()
            }
            grid = BlockTiming(
                geometry['frames_per_block'],
                round(geometry['frame_period_s'] * 1e9),
                geometry['window_blocks'],
                geometry.get('follows_chunks', False),
            )
            # a far server says how it wants to be asked; local workers do as they were told
            query_images = facts.get('query_images')
            self._send_latest_images = self._latest_images_configured or query_images == 'latest'
            return BackendStatus(
                WorkerAvailability.READY,
                '',
                grid,
                facts['model'],
                facts['trained'],
                status.restarts,
                None if query_images is None else facts['memory_update'] == 'released',
                None if query_images is None else not self._send_latest_images,
                facts.get('video', True),
                facts.get('view_layout', ''),
                rows,
            )
        if status.state in (WorkerState.FAILED, WorkerState.STOPPED):
            self._last_failure = status.reason
            down = status.state is WorkerState.FAILED and status.retry_s is not None
            return BackendStatus(
                WorkerAvailability.DOWN if down else WorkerAvailability.FAILED,
                status.reason,
                restart_count=status.restarts,
            )
        reason = f'workers are {status.state}: {status.reason}'
        if self._last_failure:
            return BackendStatus(
                WorkerAvailability.DOWN,
                f'{self._last_failure}; {reason}',
                restart_count=status.restarts,
            )
        return BackendStatus(WorkerAvailability.STARTING, reason, restart_count=status.restarts)
