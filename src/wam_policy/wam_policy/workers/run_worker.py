"""Run one worker: load a model onto a device, warm it up, answer on a socket.

By hand, without --fd, it rehearses: it loads, answers a few queries about grey pictures and says
how long they took.
"""

import argparse
import gc
import json
import os
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

from wam_policy.core.robot import embodiment
from wam_policy.workers import exit_codes, model_options, parent_socket, protocol

if TYPE_CHECKING:  # torch takes seconds to import: --help and refusals need not wait for it
    from wam_policy.model.robot_policy import Policy, Views

DISCONNECT_GRACE_S = 1.0  # from the other end's closing to leaving in the middle of a query


@dataclass(frozen=True, slots=True)
class WorkerSettings:
    """Hold a parsed command line; the parser describes each."""

    checkpoint: str
    embodiment: str
    base: Path | None
    device: str
    dtype: str
    role: str
    recipe: str | None
    steps: int | None
    cfg: float | None
    mode: str
    window: str | None
    guided_video: bool
    engine: str
    precision: str
    seed: int
    threads: int
    sessions: int
    core: int | None
    fd: int | None
    rank: int
    world: int
    exchange: str
    rendezvous: str
    start_timeout: float
    peer_timeout: float
    queries: int


def make_parser() -> argparse.ArgumentParser:
    """Describe the command line."""
    made = argparse.ArgumentParser(
        prog='python -m wam_policy.workers.run_worker',
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    model_options.add_arguments(made)
    made.add_argument(
        '--mode',
        choices=('clocked', 'reference'),
        default='clocked',
        help='clocked: memory on its own clock; reference: the released rhythm',
    )
    place = made.add_argument_group('process')
    place.add_argument('--device', default='cpu', help='cpu or cuda:N (default: %(default)s)')
    place.add_argument('--core', type=int, metavar='N', help='stay on this CPU core')
    place.add_argument(
        '--fd', type=int, metavar='N', help='inherited socket to answer on; without it, rehearse'
    )
    place.add_argument(
        '--queries',
        type=int,
        default=5,
        metavar='N',
        help='queries of a rehearsal (default: %(default)s)',
    )
    pair = made.add_argument_group('pair')
    pair.add_argument(
        '--role',
        choices=('both', 'cond', 'uncond'),
        default='both',
        help='branches of guidance run here (default: %(default)s)',
    )
    pair.add_argument('--rank', type=int, default=0, metavar='R')
    pair.add_argument('--world', type=int, default=1, metavar='W', help='workers in all')
    pair.add_argument(
        '--exchange',
        choices=('gloo', 'nccl'),
        default='gloo',
        help='torch.distributed backend (default: %(default)s)',
    )
    pair.add_argument(
        '--rendezvous',
        default='',
        metavar='URL',
        help='file:///folder/name where the workers meet',
    )
    pair.add_argument(
        '--start-timeout',
        type=float,
        default=300.0,
        metavar='SECONDS',
        help='for the other worker to load (default: %(default)s)',
    )
    pair.add_argument(
        '--peer-timeout',
        type=float,
        default=30.0,
        metavar='SECONDS',
        help='for one swap of velocities (default: %(default)s)',
    )
    return made


def parse_settings(argv: Sequence[str]) -> WorkerSettings:
    """Parse a command line; exits with a message like every command if it is wrong."""
    made = make_parser()
    values = vars(made.parse_args(argv))
    for name in ('threads', 'sessions', 'queries', 'start_timeout', 'peer_timeout'):
        if not values[name] > 0:
            made.error(f'--{name.replace("_", "-")}: want more than 0, got {values[name]}')
    if values['world'] == 2 and values['role'] == 'both':
        made.error('--role both needs no second worker: use --world 1')
    return WorkerSettings(**{field.name: values[field.name] for field in fields(WorkerSettings)})


def log(role: str, text: str) -> None:
    """Write a line for people; whoever started this worker keeps the last ones."""
    print(f'wam-worker {role}: {text}', file=sys.stderr, flush=True)


def configure_threads(settings: WorkerSettings) -> None:
    """Arrange core and threads, before torch is imported."""
    for variable in ('OMP_NUM_THREADS', 'MKL_NUM_THREADS'):
        os.environ[variable] = str(settings.threads)
    if settings.core is not None:
        os.sched_setaffinity(0, {settings.core})


def build_policy(settings: WorkerSettings) -> 'Policy':
    """Load the model and meet the other worker.

    Raises ValueError or FileNotFoundError for what will never work.
    """
    robot = embodiment.load_embodiment(settings.embodiment)

    import torch

    from wam_policy.model.checkpoint import checkpoint_folder
    from wam_policy.model.network.cfg import CfgRole
    from wam_policy.model.robot_policy import InferenceOptions, Policy
    from wam_policy.workers.velocity_exchange import ExchangeConfig, VelocityExchange

    torch.set_num_threads(settings.threads)
    seat = ExchangeConfig(
        settings.rank,
        settings.world,
        settings.exchange,
        settings.rendezvous,
        settings.start_timeout,
        settings.peer_timeout,
    )
    device = torch.device(settings.device)
    if device.type == 'cuda':
        if not torch.cuda.is_available() or (device.index or 0) >= torch.cuda.device_count():
            raise ValueError(
                f'no device {settings.device}: torch sees {torch.cuda.device_count()} CUDA devices'
            )
        torch.cuda.set_device(device)
    automatic = 'bfloat16' if device.type == 'cuda' else 'float32'
    dtype = getattr(torch, automatic if settings.dtype == 'auto' else settings.dtype)
    loaded = checkpoint_folder.load(
        settings.checkpoint, device, dtype, settings.base, settings.seed
    )
    choice = InferenceOptions.from_defaults(
        loaded.spec.inference,
        recipe=settings.recipe,
        steps=settings.steps,
        guidance=settings.cfg,
        mode=settings.mode,
        window=settings.window,
        guided_video=settings.guided_video,
        engine=settings.engine,
        precision=settings.precision,
    )
    exchange = VelocityExchange(seat, device) if seat.world_size == 2 else None
    return Policy(loaded, robot, choice, role=CfgRole(settings.role), exchange=exchange)


def make_gray_frames(policy: 'Policy', count: int) -> 'Views':
    """Give so many grey frames of every camera."""
    import numpy as np

    size = {camera.key: camera.size for camera in policy.robot.cameras}
    return {
        key: np.full((count, size[key][1], size[key][0], 3), 128, np.uint8)
        for key in policy.geometry.cameras
    }


def warm_up_full_window(policy: 'Policy', seed: int) -> None:
    """Live through a whole window and past its end, so that no pass is new to the engine later."""
    model, rest = policy.model.dit.config, policy.robot.home_positions(policy.robot.observed)
    clocked = policy.options.mode == 'clocked'
    policy.reset('')
    for block in range(policy.geometry.window_blocks + 2):
        policy.commit(make_gray_frames(policy, policy.geometry.frames_per_block if block else 1))
        policy.query(rest, seed)
        # newer frames than the last commit come as one latent frame, or as several
        for latents in range(1, model.frames_per_block + 1) if clocked else ():
            policy.query(
                rest, seed, make_gray_frames(policy, latents * model.pixel_frames_per_latent)
            )
    policy.reset('')


def warm_up(policy: 'Policy', seed: int, queries: int = 1) -> list[float]:
    """Live a short grey episode and forget it; return each query's seconds."""
    geometry, robot = policy.geometry, policy.robot
    policy.reset('')
    policy.commit(make_gray_frames(policy, geometry.first_frames))
    taken_s = []
    for number in range(queries):
        if policy.options.mode == 'reference' or number == 0:
            policy.commit(make_gray_frames(policy, geometry.frames_per_block))
        start_s = time.perf_counter()
        policy.query(robot.home_positions(robot.observed), seed + number)
        taken_s.append(time.perf_counter() - start_s)
    policy.reset('')
    return taken_s


def serve(settings: WorkerSettings, started_s: float) -> None:
    """Answer on the inherited socket until told to stop."""
    assert settings.fd is not None
    end = parent_socket.adopt_socket(settings.fd, DISCONNECT_GRACE_S)
    policy = build_policy(settings)

    from wam_policy.workers.request_server import WorkerServer, build_worker_info

    told = build_worker_info(policy, settings.device)
    protocol.send(
        end, protocol.WorkerMessage('warming', {'id': 0, 'reason': f'{told["model"]} warms up'})
    )
    policies = [policy, *(policy.with_shared_weights() for _ in range(settings.sessions - 1))]
    if settings.engine == 'eager':
        warm_up(policy, settings.seed)  # what is new to torch once is new to it no more
    else:
        for each in policies:  # what engines record, they record for each memory
            warm_up_full_window(each, settings.seed)
    told['start_s'] = round(time.perf_counter() - started_s, 3)
    log(settings.role, f'ready in {told["start_s"]:.1f} s: {told["reason"]}')
    # Tuples that torch makes are not taken from the list to which Python puts them when they are
    # done with: it keeps up to 2000 of each length, 0.8 MB within an hour. A collection empties
    # it, and what is frozen here it does not walk.
    gc.collect()
    gc.freeze()
    WorkerServer(end, policies, told, lambda line: log(settings.role, line), gc.collect).serve()


def benchmark(settings: WorkerSettings, started_s: float) -> None:
    """Load, ask and report on standard output."""
    policy = build_policy(settings)

    from wam_policy.workers.request_server import build_worker_info

    (warm_up if settings.engine == 'eager' else warm_up_full_window)(policy, settings.seed)
    ready_s = time.perf_counter() - started_s
    taken_ms = [1e3 * s for s in warm_up(policy, settings.seed, settings.queries)]
    print(json.dumps(build_worker_info(policy, settings.device), indent=1))
    print(
        f'ready in {ready_s:.1f} s; {len(taken_ms)} queries: median '
        f'{sorted(taken_ms)[len(taken_ms) // 2]:.1f} ms, worst {max(taken_ms):.1f} ms'
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run; return the exit status (see exits)."""
    started_s = time.perf_counter()
    chosen = parse_settings(sys.argv[1:] if argv is None else argv)
    try:
        configure_threads(chosen)
        (benchmark if chosen.fd is None else serve)(chosen, started_s)
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except (ValueError, FileNotFoundError) as error:
        log(chosen.role, f'error: {error}')
        return exit_codes.PERMANENT_FAILURE
    except (RuntimeError, OSError, MemoryError, protocol.ProtocolError) as error:
        log(chosen.role, f'error: {type(error).__name__}: {error}')
        return exit_codes.FAILED
    except exit_codes.PeerLost as error:
        log(chosen.role, f'error: {error}')
        return exit_codes.PEER_LOST
    return exit_codes.OK


if __name__ == '__main__':
    # no interpreter shutdown: it may wait for threads of torch that wait for a lost peer
    status = main()
    sys.stdout.flush()
    os._exit(status)
