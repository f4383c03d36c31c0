"""Serve a model to OpenPI clients: start its workers and answer requests of several sessions.

Listens on 127.0.0.1 unless --host is given. GET /healthz returns 200 if the workers are ready, 503
and the reason if not; GET /metrics returns Prometheus metrics.
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
from wam_policy.servers.transports.policy_transport import TOKEN_VARIABLE
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
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        prog='wam serve', description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        '--server-profile',
        default='',
        metavar='NAME',
        help=f'keys of the messages: {", ".join(server_profile.list_names())}, or a .yaml file '
        "(default: the robot's own)",
    )
    server_group = parser.add_argument_group('place')
    server_group.add_argument(
        '--host', default='127.0.0.1', help='address to listen on (default: %(default)s)'
    )
    server_group.add_argument(
        '--port', type=int, default=8000, help='0: any free port (default: %(default)s)'
    )
    server_group.add_argument(
        '--token',
        default=os.environ.get(TOKEN_VARIABLE, ''),
        help=f'token that clients send as Authorization: Api-Key TOKEN (default: '
        f'the environment variable {TOKEN_VARIABLE}, which other users cannot read)',
    )
    server_group.add_argument(
        '--devices',
        default='cpu,cpu',
        metavar='LIST',
        help='one device per worker, cpu or cuda:N: one runs both branches of '
        'guidance, two run one each (default: %(default)s)',
    )
    model_options.add_arguments(parser)
    parser.set_defaults(max_sessions=DEFAULT_SESSIONS)
    limit_group = parser.add_argument_group('limits')
    limit_group.add_argument(
        '--max-connections',
        type=int,
        default=64,
        metavar='N',
        help='open at a time (default: %(default)s)',
    )
    limit_group.add_argument(
        '--max-message-mib',
        type=int,
        default=64,
        metavar='N',
        help='largest request (default: %(default)s)',
    )
    limit_group.add_argument(
        '--shutdown-timeout',
        type=float,
        default=5.0,
        metavar='SECONDS',
        help='limit for a request in progress at shutdown (default: %(default)s)',
    )
    limit_group.add_argument(
        '--start-timeout',
        type=float,
        default=300.0,
        metavar='SECONDS',
        help='limit for loading the model; 1500 s more for an engine that compiles '
        '(default: %(default)s)',
    )
    limit_group.add_argument(
        '--query-timeout',
        type=float,
        default=30.0,
        metavar='SECONDS',
        help='limit for an answer of the workers; then they restart (default: %(default)s)',
    )
    parser.add_argument('--quiet', action='store_true', help='no log line per request')
    return parser


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line; exits with status 2 and a message if it is invalid."""
    parser = make_parser()
    arguments = parser.parse_args(
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
        if not getattr(arguments, name) > 0:
            parser.error(
                f'--{name.replace("_", "-")}: want more than 0, got {getattr(arguments, name):g}'
            )
    if not 0 <= arguments.port < 65536:
        parser.error(f'--port: want 0 to 65535, got {arguments.port}')
    arguments.devices = tuple(arguments.devices.split(','))
    if not 1 <= len(arguments.devices) <= 2 or not all(
        re.fullmatch(r'cpu|cuda:\d+', device) for device in arguments.devices
    ):
        parser.error(
            f'--devices: want one or two of cpu and cuda:N, got {",".join(arguments.devices)}'
        )
    if not arguments.token.isascii():
        parser.error('--token: want ASCII characters only, because an HTTP header carries it')
    return arguments


def log(text: str) -> None:
    """Write a log line with the time to stderr."""
    print(f'{time.strftime("%H:%M:%S")} wam-serve: {text}', file=sys.stderr, flush=True)


def make_checked_metadata(
    profile: ServerProfile, robot: Embodiment, model: ServedModel
) -> dict[str, Any]:
    """Return the metadata to send on connect; ValueError if model and server profile differ."""
    if model.horizon != profile.horizon or abs(model.step_dt_s * profile.step_hz - 1.0) > 1e-6:
        raise ValueError(
            f'{model.name} predicts {model.horizon} rows at '
            f'{1 / model.step_dt_s:g} Hz, server profile {profile.name} has '
            f'{profile.horizon} rows at {profile.step_hz:g} Hz: select another '
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
    """Start the workers and serve until SIGINT or SIGTERM; return the exit status."""
    status = backend.start()
    if status.state is not WorkerState.READY:
        log(f'error: {status.reason}')
        return protocol.EXIT_PERMANENT_FAILURE if status.retry_s is None else protocol.EXIT_FAILED
    model = backend.model
    configuration = make_checked_metadata(profile, robot, model)
    server = PolicyServer(
        SessionManager(profile, robot, backend, model, arguments.max_sessions, log),
        handshake.make_greeting(profile),
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
        log(f'warning: no token, every client that reaches {arguments.host} is accepted')
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
    """Serve until SIGINT or SIGTERM, or until the workers have failed permanently."""
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
    """Run the command; return the exit status."""
    arguments = parse_arguments(argv)
    try:
        robot = embodiment.load_embodiment(arguments.embodiment)
        profile = server_profile.load_for_robot(arguments.server_profile, robot)
        model_options.resolve_defaults(arguments)
        guided = model_options.needs_unconditional_branch(
            arguments.sampler, arguments.steps, arguments.guidance_scale, arguments.guided_video
        )
        backend = ServerBackend(
            make_worker_spec(
                arguments.devices,
                model_options.to_argv(arguments),
                guided,
                model_options.extend_start_timeout(arguments.start_timeout, arguments.engine),
            ),
            arguments.query_timeout,
            log,
        )
        try:
            return run(arguments, robot, profile, backend)
        finally:
            backend.close()
    except ValueError as error:
        log(f'error: {error}')
        return protocol.EXIT_PERMANENT_FAILURE
    except KeyboardInterrupt:
        return 128 + signal.SIGINT


if __name__ == '__main__':
    sys.exit(main())
