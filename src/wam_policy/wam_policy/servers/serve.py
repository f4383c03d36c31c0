"""Serve our engine to OpenPI clients: start its workers once, answer many sessions.

Listens on this machine only unless --host says otherwise. GET /healthz tells whether it can
answer, GET /metrics what it did, for Prometheus.
"""

import argparse
import asyncio
import os
import re
import signal
import sys
import time
from collections.abc import Sequence
from typing import Any

from wam_policy.core.robot import embodiment
from wam_policy.core.robot.embodiment import Embodiment
from wam_policy.deprecated_options import replace_deprecated
from wam_policy.servers import handshake, server_profile
from wam_policy.servers.server_profile import ServerProfile
from wam_policy.servers.serving_engine import ServedModel, ServerBackend, make_worker_spec
from wam_policy.servers.session_manager import SessionManager
from wam_policy.servers.transports.websocket_client import TOKEN_VARIABLE
from wam_policy.servers.transports.websocket_server import PolicyServer, ServerLimits
from wam_policy.workers import model_options, protocol
from wam_policy.workers.supervisor import WorkerState

MEBIBYTE = 1024 * 1024
DEFAULT_SESSIONS = 4
RENAMED_OPTIONS = {
    **model_options.RENAMED_OPTIONS,
    '--flavour': '--server-profile',
    '--connections': '--max-connections',
    '--message-mib': '--max-message-mib',
    '--grace': '--shutdown-timeout',
    '--answer-timeout': '--query-timeout',
}
LOOPBACK = ('127.0.0.1', '::1', 'localhost')


def make_parser() -> argparse.ArgumentParser:
    """Describe the command line."""
    made = argparse.ArgumentParser(
        prog='wam serve', description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument(
        '--server-profile',
        default='',
        metavar='NAME',
        help=f'keys of the messages: {", ".join(server_profile.list_names())}, or a .yaml file '
        "(default: the robot's own)",
    )
    place = made.add_argument_group('place')
    place.add_argument(
        '--host', default='127.0.0.1', help='address to listen on (default: %(default)s)'
    )
    place.add_argument(
        '--port', type=int, default=8000, help='0 takes a free one (default: %(default)s)'
    )
    place.add_argument(
        '--token',
        default=os.environ.get(TOKEN_VARIABLE, ''),
        help=f'what clients must send as Authorization: Api-Key TOKEN (default: '
        f'the environment variable {TOKEN_VARIABLE}, which other users cannot see)',
    )
    place.add_argument(
        '--devices',
        default='cpu,cpu',
        metavar='LIST',
        help='one device per worker, cpu or cuda:N: one runs both branches of '
        'guidance, two run one each (default: %(default)s)',
    )
    model_options.add_arguments(made)
    made.set_defaults(max_sessions=DEFAULT_SESSIONS)
    bound = made.add_argument_group('limits')
    bound.add_argument(
        '--max-connections',
        type=int,
        default=64,
        metavar='N',
        help='open at a time (default: %(default)s)',
    )
    bound.add_argument(
        '--max-message-mib',
        type=int,
        default=64,
        metavar='N',
        help='largest request (default: %(default)s)',
    )
    bound.add_argument(
        '--shutdown-timeout',
        type=float,
        default=5.0,
        metavar='SECONDS',
        help='for a request under way when stopped (default: %(default)s)',
    )
    bound.add_argument(
        '--start-timeout',
        type=float,
        default=300.0,
        metavar='SECONDS',
        help='for the workers to load (default: %(default)s)',
    )
    bound.add_argument(
        '--query-timeout',
        type=float,
        default=30.0,
        metavar='SECONDS',
        help='for the workers to answer; then they are started again (default: %(default)s)',
    )
    made.add_argument('--quiet', action='store_true', help='no line for each request')
    return made


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse a command line; exits with a message like every command if it is wrong."""
    made = make_parser()
    chosen = made.parse_args(
        replace_deprecated(sys.argv[1:] if argv is None else argv, RENAMED_OPTIONS)
    )
    for name in (
        'threads',
        'max_sessions',
        'max_connections',
        'max_message_mib',
        'shutdown_timeout',
        'start_timeout',
        'query_timeout',
    ):
        if not getattr(chosen, name) > 0:
            made.error(
                f'--{name.replace("_", "-")}: want more than 0, got {getattr(chosen, name):g}'
            )
    if not 0 <= chosen.port < 65536:
        made.error(f'--port: want 0 to 65535, got {chosen.port}')
    chosen.devices = tuple(chosen.devices.split(','))
    if not 1 <= len(chosen.devices) <= 2 or not all(
        re.fullmatch(r'cpu|cuda:\d+', device) for device in chosen.devices
    ):
        made.error(f'--devices: want one or two of cpu and cuda:N, got {",".join(chosen.devices)}')
    if not chosen.token.isascii():
        made.error('--token: want ASCII, as a header carries it')
    return chosen


def log(text: str) -> None:
    """Write a line for people."""
    print(f'{time.strftime("%H:%M:%S")} wam-serve: {text}', file=sys.stderr, flush=True)


def make_checked_metadata(
    profile: ServerProfile, robot: Embodiment, model: ServedModel
) -> dict[str, Any]:
    """Return the metadata to announce; ValueError if the server profile does not match it."""
    if model.horizon != profile.horizon or abs(model.step_dt_s * profile.step_hz - 1.0) > 1e-6:
        raise ValueError(
            f'{model.name} predicts {model.horizon} rows at '
            f'{1 / model.step_dt_s:g} Hz, server profile {profile.name} says '
            f'{profile.horizon} rows at {profile.step_hz:g} Hz: serve with another '
            '--server-profile'
        )
    return handshake.make_server_metadata(
        profile,
        robot,
        {'model': model.name, 'trained': model.trained},
        {
            'kind': handshake.STREAMING_MEMORY,
            'first_frames': model.first_frames,
            'frames_per_block': model.frames_per_block,
            'frame_period_s': model.frame_period_s,
            'window_blocks': model.window_blocks,
        },
    )


def run(
    arguments: argparse.Namespace,
    robot: Embodiment,
    profile: ServerProfile,
    backend: ServerBackend,
) -> int:
    """Start the workers and serve until a signal asks to stop; return the exit status."""
    status = backend.start()
    if status.state is not WorkerState.READY:
        log(f'error: {status.reason}')
        return protocol.EXIT_PERMANENT_FAILURE if status.retry_s is None else protocol.EXIT_FAILED
    model = backend.model
    configuration = make_checked_metadata(profile, robot, model)
    server = PolicyServer(
        SessionManager(profile, robot, backend, model, arguments.max_sessions, log),
        configuration,
        token=arguments.token,
        log=log,
        log_requests=not arguments.quiet,
        backend=backend,
        limits=ServerLimits(
            arguments.max_connections,
            arguments.max_message_mib * MEBIBYTE,
            arguments.shutdown_timeout,
        ),
    )
    if arguments.host not in LOOPBACK and not arguments.token:
        log('anyone who reaches this address can use it: set a token')
    trained = '' if model.trained else 'UNTRAINED '
    try:
        asyncio.run(
            serve_until_stopped(
                server,
                backend,
                arguments,
                f'{trained}{model.name} for {robot.name}, {profile.name},',
            )
        )
    except OSError as error:
        log(f'error: cannot listen on {arguments.host}:{arguments.port}: {error}')
        return protocol.EXIT_FAILED
    return protocol.EXIT_FAILED if backend.has_failed_permanently else protocol.EXIT_OK


async def serve_until_stopped(
    server: PolicyServer, backend: ServerBackend, arguments: argparse.Namespace, description: str
) -> None:
    """Serve until a signal asks to stop, or until the workers are gone for good."""
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, server.stop)
    backend.set_permanent_failure_callback(lambda: loop.call_soon_threadsafe(server.stop))
    await server.run(
        arguments.host,
        arguments.port,
        lambda port: log(
            f'{description} at ws://{arguments.host}:{port}; '
            f'health: http://{arguments.host}:{port}/healthz'
        ),
    )
    backend.set_permanent_failure_callback(lambda: None)
    log('stopped')


def main(argv: Sequence[str] | None = None) -> int:
    """Run; return the exit status."""
    chosen = parse_arguments(argv)
    try:
        robot = embodiment.load_embodiment(chosen.embodiment)
        profile = server_profile.load_for_robot(chosen.server_profile, robot)
        model_options.resolve_defaults(chosen)
        guided = model_options.needs_unconditional_branch(
            chosen.sampler, chosen.steps, chosen.guidance_scale, chosen.guided_video
        )
        engine = ServerBackend(
            make_worker_spec(
                chosen.devices, model_options.to_argv(chosen), guided, chosen.start_timeout
            ),
            chosen.query_timeout,
            log,
        )
        try:
            return run(chosen, robot, profile, engine)
        finally:
            engine.close()
    except ValueError as error:
        log(f'error: {error}')
        return protocol.EXIT_PERMANENT_FAILURE
    except KeyboardInterrupt:
        return 128 + signal.SIGINT


if __name__ == '__main__':
    sys.exit(main())
