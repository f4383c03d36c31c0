"""Run one worker: load a model onto a device, warm it up, answer requests on a socket.

Without --fd it runs a benchmark instead: it loads, answers a few queries on gray images and prints
how long they took.
"""

import ctypes
import gc
import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

from wam_policy import robot_folders
from wam_policy.command_line import CommandParser, add_value
from wam_policy.core.robot import checkpoints
from wam_policy.workers import model_options, protocol

if TYPE_CHECKING:  # torch takes seconds to import: --help and usage errors need not wait
    import torch

    from wam_policy.model.robot_policy import Policy, Views

# parameters of glibc's mallopt, <malloc.h>; both values fit an int
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
KEPT_BYTES, LARGEST_KEPT_BLOCK = 2**31 - 1, 2**30
DISCONNECT_GRACE_S = 1.0  # from the closing of the socket to an exit in the middle of a query
RENAMED_OPTIONS = {
    **model_options.RENAMED_OPTIONS,
    '--mode': '--memory-update',
    '--core': '--cpu-affinity',
    '--world': '--world-size',
    '--exchange': '--dist-backend',
    '--queries': '--benchmark-queries',
}
RENAMED_MEMORY_UPDATES = {'clocked': 'streaming', 'reference': 'released'}


@dataclass(frozen=True, slots=True)
class WorkerSettings:
    """Hold a parsed command line; `make_parser` describes each field."""

    checkpoint: str
    embodiment: str
    base: str
    device: str
    dtype: str
    role: str
    sampler: str | None
    steps: int | None
    guidance_scale: float | None
    memory_update: str
    kv_window: str | None
    guided_video: bool
    engine: str
    precision: str
    seed: int
    threads: int
    max_sessions: int
    cpu_affinity: int | None
    fd: int | None
    rank: int
    world_size: int
    dist_backend: str
    rendezvous: str
    start_timeout: float
    peer_timeout: float
    benchmark_queries: int


def make_parser() -> CommandParser:
    """Describe the command line."""
    parser = CommandParser('python -m wam_policy.workers.run_worker', __doc__, RENAMED_OPTIONS)
    model_options.add_arguments(parser)
    parser.add_argument(
        '--memory-update',
        type=lambda text: RENAMED_MEMORY_UPDATES.get(text, text),
        choices=('streaming', 'released'),
        default='streaming',
        help='streaming: commit real frames at their own rate, query at any time; released: as '
        'the released server, one query per commit (default: %(default)s)',
    )
    place = parser.add_argument_group('process')
    add_value(place, '--device', 'cpu', 'cpu or cuda:N')
    place.add_argument('--cpu-affinity', type=int, metavar='N', help='run on this CPU core only')
    place.add_argument(
        '--fd', type=int, metavar='N', help='inherited socket to answer on; without it, benchmark'
    )
    add_value(place, '--benchmark-queries', 5, 'queries of a benchmark', 'N')
    pair = parser.add_argument_group('pair')
    add_value(
        pair,
        '--role',
        'both',
        'branches of guidance to run here',
        choices=('both', 'cond', 'uncond'),
    )
    pair.add_argument('--rank', type=int, default=0, metavar='R')
    pair.add_argument('--world-size', type=int, default=1, metavar='W', help='number of workers')
    add_value(
        pair, '--dist-backend', 'gloo', 'torch.distributed backend', choices=('gloo', 'nccl')
    )
    pair.add_argument(
        '--rendezvous',
        default='',
        metavar='URL',
        help='file:///folder/name of the rendezvous, which must not exist yet',
    )
    add_value(pair, '--start-timeout', 300.0, 'limit for the other worker to load', 'SECONDS')
    add_value(pair, '--peer-timeout', 30.0, 'limit for one exchange of velocities', 'SECONDS')
    return parser


def parse_settings(argv: Sequence[str]) -> WorkerSettings:
    """Parse a command line; exit with a usage error if it is wrong."""
    parser = make_parser()
    options = parser.parse(argv)
    parser.require_positive(
        options, 'threads', 'max_sessions', 'benchmark_queries', 'start_timeout', 'peer_timeout'
    )
    if options.world_size == 2 and options.role == 'both':
        parser.error('--role both needs no second worker: use --world-size 1')
    return WorkerSettings(
        **{field.name: getattr(options, field.name) for field in fields(WorkerSettings)}
    )


def log(role: str, text: str) -> None:
    """Write a log line to stderr; the parent process keeps the last lines."""
    print(f'wam-worker {role}: {text}', file=sys.stderr, flush=True)


def configure_process(settings: WorkerSettings) -> None:
    """Set threads, CPU affinity and where kernels are kept; call this before torch is imported."""
    # the default is below /tmp, which a restart of the machine empties
    cache = os.environ.get('XDG_CACHE_HOME') or str(Path.home() / '.cache')
    os.environ.setdefault('TORCHINDUCTOR_CACHE_DIR', str(Path(cache, 'wam', 'inductor')))
    for variable in ('OMP_NUM_THREADS', 'MKL_NUM_THREADS'):
        os.environ[variable] = str(settings.threads)
    if settings.cpu_affinity is not None:
        os.sched_setaffinity(0, {settings.cpu_affinity})


def build_policy(settings: WorkerSettings) -> 'Policy':
    """Load the model and join the other worker, if there is one.

    Raises ValueError or FileNotFoundError for arguments that can never work.
    """
    robot = robot_folders.load_robot(settings.embodiment)
    base = checkpoints.resolve_base(settings.base)

    import torch

    from wam_policy.model.checkpoint import checkpoint_folder
    from wam_policy.model.network.cfg import CfgRole
    from wam_policy.model.robot_policy import InferenceOptions, Policy
    from wam_policy.workers.velocity_exchange import ExchangeConfig, VelocityExchange

    torch.set_num_threads(settings.threads)
    exchange_config = ExchangeConfig(
        settings.rank,
        settings.world_size,
        settings.dist_backend,
        settings.rendezvous,
        model_options.extend_start_timeout(settings.start_timeout, settings.engine),
        settings.peer_timeout,
    )
    device = select_device(settings.device)
    auto_dtype = 'bfloat16' if device.type == 'cuda' else 'float32'
    dtype = getattr(torch, auto_dtype if settings.dtype == 'auto' else settings.dtype)
    loaded = checkpoint_folder.load(
        settings.checkpoint, device, dtype, Path(base) if base else None, settings.seed
    )
    options = InferenceOptions.from_defaults(
        loaded.spec.inference,
        recipe=settings.sampler,
        steps=settings.steps,
        guidance=settings.guidance_scale,
        mode=settings.memory_update,
        window=settings.kv_window,
        guided_video=settings.guided_video,
        engine=settings.engine,
        precision=settings.precision,
    )
    if device.type == 'cpu':
        keep_freed_memory()  # not before: what loading frees goes back
    exchange = (
        VelocityExchange(exchange_config, device) if exchange_config.world_size == 2 else None
    )
    return Policy(loaded, robot, options, role=CfgRole(settings.role), exchange=exchange)


def keep_freed_memory() -> None:
    """Let malloc reuse large blocks instead of returning them to the kernel.

    The kernel clears every page that it hands out again: the autoencoder of the 14B model spent
    0.4 of its time so. Memory stays at its peak. Without glibc this does nothing.
    """
    set_option = getattr(ctypes.CDLL(None), 'mallopt', None)
    if set_option is not None:
        set_option(M_MMAP_THRESHOLD, LARGEST_KEPT_BLOCK)
        set_option(M_TRIM_THRESHOLD, KEPT_BYTES)


def select_device(name: str) -> 'torch.device':
    """Return a device with an index, current if it is CUDA; ValueError if there is none.

    NCCL needs the index, and `cuda` alone would mean whatever device is current later.
    """
    import torch

    device = torch.device(name)
    if device.type != 'cuda':
        return device
    device = torch.device('cuda', device.index or 0)
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if device.index >= count:
        raise ValueError(f'no device {name}: torch reports {count} CUDA devices')
    torch.cuda.set_device(device)
    return device


def make_gray_frames(policy: 'Policy', count: int) -> 'Views':
    """Return `count` gray frames of every camera, uint8 [count height width 3]."""
    import numpy as np

    size = {camera.key: camera.size for camera in policy.robot.cameras}
    return {
        key: np.full((count, size[key][1], size[key][0], 3), 128, np.uint8)
        for key in policy.geometry.cameras
    }


def warm_up_full_window(policy: 'Policy', seed: int) -> None:
    """Run a whole window and past its end, so that the engine meets no new pass later."""
    config, home = policy.model.dit.config, policy.robot.home_positions(policy.robot.observed)
    streaming = policy.options.mode == 'streaming'
    policy.reset('')
    for block in range(policy.geometry.window_blocks + 2):
        policy.commit(make_gray_frames(policy, policy.geometry.frames_per_block if block else 1))
        policy.query(home, seed)
        # newer frames than the last commit come as one latent frame, or as several
        for latents in range(1, config.frames_per_block + 1) if streaming else ():
            policy.query(
                home, seed, make_gray_frames(policy, latents * config.pixel_frames_per_latent)
            )
    if policy.role.value != 'uncond' and config.predicts_video:  # a viewer may come at any time
        policy.decode_prediction()
    policy.reset('')


def warm_up(policy: 'Policy', seed: int, queries: int = 1) -> list[float]:
    """Warm up on gray frames; return the latency of each query in seconds."""
    geometry, robot = policy.geometry, policy.robot
    policy.reset('')
    policy.commit(make_gray_frames(policy, geometry.first_frames))
    latencies_s = []
    for number in range(queries):
        if policy.options.mode == 'released' or number == 0:
            policy.commit(make_gray_frames(policy, geometry.frames_per_block))
        start_s = time.perf_counter()
        policy.query(robot.home_positions(robot.observed), seed + number)
        latencies_s.append(time.perf_counter() - start_s)
    policy.reset('')
    return latencies_s


class LoadError(Exception):
    """Tell why the model cannot run with these arguments; another try would end the same way."""


@contextmanager
def describe_load_errors(settings: WorkerSettings) -> Iterator[None]:
    """Raise whatever a library raises while the model loads as one LoadError with the fix.

    The loss of the other worker and of the parent pass: another try may succeed.
    """
    try:
        yield
    except (protocol.PeerLost, protocol.ProtocolError):
        raise
    except (ValueError, FileNotFoundError) as error:
        raise LoadError(str(error)) from error
    except ImportError as error:
        raise LoadError(
            f'{error}: {sys.executable} lacks a package of the model; run ./wam setup, or name '
            'another interpreter with worker_python'
        ) from error
    except Exception as error:
        from wam_policy.model.checkpoint.load_errors import describe_error, is_out_of_memory

        what = f'{settings.checkpoint} on {settings.device}'
        if is_out_of_memory(error):
            raise LoadError(
                f'not enough memory to run {what}: {describe_error(error)}; free memory, use '
                'another device, --dtype bfloat16 or fewer --max-sessions'
            ) from error
        raise LoadError(
            f'{what} does not run (engine {settings.engine}, precision {settings.precision}): '
            f'{describe_error(error)}; the traceback is above'
        ) from error


def serve(settings: WorkerSettings, started_s: float) -> None:
    """Answer on the inherited socket until asked to stop."""
    assert settings.fd is not None
    end = protocol.adopt_socket(settings.fd, DISCONNECT_GRACE_S)
    with describe_load_errors(settings):
        policy = build_policy(settings)

        from wam_policy.workers.request_server import WorkerServer, build_worker_info
        from wam_policy.workers.velocity_exchange import VelocityExchange

        info = build_worker_info(policy, settings.device)
        protocol.send(
            end,
            protocol.WorkerMessage('warming', {'id': 0, 'reason': f'{info["model"]} warms up'}),
        )
        policies = [
            policy,
            *(policy.with_shared_weights() for _ in range(settings.max_sessions - 1)),
        ]
        if settings.engine == 'eager':
            warm_up(policy, settings.seed)  # torch initializes lazily
        else:
            for policy in policies:  # engines record graphs for each memory
                warm_up_full_window(policy, settings.seed)
        if isinstance(policy.exchange, VelocityExchange):
            policy.exchange.end_start()
    info['start_s'] = round(time.perf_counter() - started_s, 3)
    log(settings.role, f'ready in {info["start_s"]:.1f} s: {info["reason"]}')
    # Tuples that torch creates are not reused from Python's free list, which keeps up to 2000
    # freed ones of each length, 0.8 MB within an hour. A collection empties that list; the
    # objects frozen here are not traversed by it.
    gc.collect()
    gc.freeze()
    WorkerServer(end, policies, info, lambda line: log(settings.role, line), gc.collect).serve()


def benchmark(settings: WorkerSettings, started_s: float) -> None:
    """Load, run queries and print a report to standard output."""
    with describe_load_errors(settings):
        policy = build_policy(settings)

        from wam_policy.workers.request_server import build_worker_info

        (warm_up if settings.engine == 'eager' else warm_up_full_window)(policy, settings.seed)
    ready_s = time.perf_counter() - started_s
    latencies_ms = [1e3 * s for s in warm_up(policy, settings.seed, settings.benchmark_queries)]
    print(json.dumps(build_worker_info(policy, settings.device), indent=1))
    print(
        f'ready in {ready_s:.1f} s; {len(latencies_ms)} queries: median '
        f'{sorted(latencies_ms)[len(latencies_ms) // 2]:.1f} ms, worst {max(latencies_ms):.1f} ms'
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run; return the exit status (see protocol)."""
    started_s = time.perf_counter()
    settings = parse_settings(sys.argv[1:] if argv is None else argv)
    try:
        configure_process(settings)
        (benchmark if settings.fd is None else serve)(settings, started_s)
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except LoadError as error:
        if not isinstance(error.__cause__, ValueError | OSError | ImportError):
            traceback.print_exception(error.__cause__)
        log(settings.role, f'error: {error}')
        return protocol.EXIT_PERMANENT_FAILURE
    except protocol.PeerLost as error:
        log(settings.role, f'error: {error}')
        return protocol.EXIT_PEER_LOST
    except Exception as error:  # noqa: BLE001  one line for the parent, which starts another
        log(settings.role, f'error: {type(error).__name__}: {error}')
        return protocol.EXIT_FAILED
    return protocol.EXIT_OK


if __name__ == '__main__':
    # no interpreter shutdown: it may wait for threads of torch that wait for a lost peer
    status = main()
    sys.stdout.flush()
    os._exit(status)
