"""Serve a model to clients of policy servers: start its workers, answer requests of sessions.

Speaks the OpenPI protocol on --port, and with each --listen the protocol of another profile: HTTP
(`/act`), ZeroMQ (Isaac-GR00T) or vla-eval's. Listens on 127.0.0.1 unless --host is given. GET
/healthz returns 200 if the workers are ready, 503 and the reason if not; GET /metrics returns
Prometheus metrics.
"""

import argparse
import asyncio
import os
import re
import signal
import socket
import sys
import time
from collections.abc import Sequence
from typing import Any

from wam_policy import robot_folders
from wam_policy.command_line import CommandParser, add_value
from wam_policy.core.robot import checkpoints
from wam_policy.core.robot.embodiment import Embodiment
from wam_policy.servers import profile_service, server_profile
from wam_policy.servers.server_profile import ServerProfile
from wam_policy.servers.serving_engine import ServerBackend, make_worker_spec
from wam_policy.servers.transports.policy_transport import TOKEN_VARIABLE
from wam_policy.servers.transports.websocket_server import ServerLimits
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
TIMEOUTS = ('shutdown_timeout', 'start_timeout', 'query_timeout')
LOOPBACK = ('127.0.0.1', '::1', 'localhost')


def make_parser() -> CommandParser:
    parser = CommandParser('wam serve', __doc__, RENAMED_OPTIONS)
    parser.add_argument(
        '--server-profile',
        default='',
        metavar='NAME',
        help=f'keys of the messages: {", ".join(server_profile.list_names())}, or a .yaml file '
        "(default: the robot's own)",
    )
    _add_address_options(parser.add_argument_group('place'))
    model_options.add_arguments(parser, needs_checkpoint=False)
    parser.set_defaults(max_sessions=DEFAULT_SESSIONS)
    _add_limit_options(parser.add_argument_group('limits'))
    parser.add_argument('--quiet', action='store_true', help='no log line per request')
    return parser


def _add_address_options(place: argparse._ArgumentGroup) -> None:
    add_value(place, '--host', '127.0.0.1', 'address to listen on')
    add_value(place, '--port', 8000, '0: any free port')
    place.add_argument(
        '--listen',
        action='append',
        default=[],
        metavar='PROFILE:PORT',
        help='also serve the messages of another profile, by its transport and encoding, for '
        'example molmoact2_yam:8202 (HTTP) or groot_yam:5555 (ZeroMQ); may be repeated',
    )
    place.add_argument(
        '--token',
        default=os.environ.get(TOKEN_VARIABLE, ''),
        help=f'token that clients send as Authorization: Api-Key TOKEN (default: '
        f'the environment variable {TOKEN_VARIABLE}, which other users cannot read)',
    )
    add_value(
        place,
        '--devices',
        'cpu,cpu',
        'one device per worker, cpu or cuda:N: one runs both branches of guidance, two '
        'run one each',
        'LIST',
    )


def _add_limit_options(limits: argparse._ArgumentGroup) -> None:
    add_value(limits, '--max-connections', 64, 'open at a time', 'N')
    add_value(
        limits,
        '--max-batch',
        8,
        'queries that are computed together if they wait for each other; 1: none',
        'N',
    )
    add_value(limits, '--max-message-mib', 64, 'largest request', 'N')
    add_value(
        limits, '--shutdown-timeout', 5.0, 'limit for a request in progress at shutdown', 'SECONDS'
    )
    add_value(
        limits,
        '--start-timeout',
        300.0,
        'limit for loading the model; 1500 s more for an engine that compiles',
        'SECONDS',
    )
    add_value(
        limits,
        '--query-timeout',
        30.0,
        'limit for an answer of the workers; then they restart',
        'SECONDS',
    )


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line; exits with status 2 and a message if it is invalid."""
    parser = make_parser()
    arguments = parser.parse(argv)
    counts = ('threads', 'max_sessions', 'max_connections', 'max_batch', 'max_message_mib')
    parser.require_positive(arguments, *counts, *TIMEOUTS)
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


def load_listeners(arguments: argparse.Namespace, robot: Embodiment) -> list[tuple[Any, int]]:
    """Return the profiles and ports to serve, the OpenPI one first; raises ValueError."""
    found = [(server_profile.load_for_robot(arguments.server_profile, robot), arguments.port)]
    for text in arguments.listen:
        name, _, port = text.rpartition(':')
        if not name or not port.isdecimal() or not 0 <= int(port) < 65536:
            raise ValueError(f'--listen {text!r}: want PROFILE:PORT, for example groot_yam:5555')
        found.append((server_profile.load_for_robot(name, robot), int(port)))
    return found


def check_ports(host: str, ports: Sequence[int]) -> None:
    """Raise OSError if a port cannot be had, before minutes of loading weights."""
    for port in ports:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        socket.create_server(address[:2], family=family).close()


def run(
    arguments: argparse.Namespace,
    robot: Embodiment,
    listeners: Sequence[tuple[ServerProfile, int]],
    backend: ServerBackend,
) -> int:
    """Start the workers and serve until SIGINT or SIGTERM; return the exit status."""
    try:
        check_ports(arguments.host, [port for _, port in listeners])
    except OSError as error:
        log(f'error: cannot listen on {arguments.host}: {error}')
        return protocol.EXIT_FAILED
    status = backend.start()
    if status.state is not WorkerState.READY:
        log(f'error: {status.reason}')
        return protocol.EXIT_PERMANENT_FAILURE if status.retry_s is None else protocol.EXIT_FAILED
    model = backend.model
    for profile, _ in listeners:
        for warning in profile_service.check_profile(profile, robot, model):
            log(f'warning: {warning}')
    if arguments.host not in LOOPBACK and not arguments.token:
        log(f'warning: no token, every client that reaches {arguments.host} is accepted')
    service = profile_service.ProfileService(
        robot,
        backend,
        model,
        ServerLimits(
            arguments.max_connections,
            arguments.max_message_mib * MEBIBYTE,
            arguments.shutdown_timeout,
        ),
        max_sessions=arguments.max_sessions,
        max_batch=arguments.max_batch,
        token=arguments.token,
        log=log,
        log_requests=not arguments.quiet,
    )
    try:
        asyncio.run(serve_until_stopped(service, listeners, backend, arguments.host))
    except OSError as error:
        log(f'error: cannot listen on {arguments.host}: {error}')
        return protocol.EXIT_FAILED
    finally:
        service.close()
    return protocol.EXIT_FAILED if backend.has_failed_permanently else protocol.EXIT_OK


async def serve_until_stopped(
    service: profile_service.ProfileService,
    listeners: Sequence[tuple[ServerProfile, int]],
    backend: ServerBackend,
    host: str,
) -> None:
    """Serve until SIGINT or SIGTERM, or until the workers have failed permanently."""
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, service.stop)
    backend.set_permanent_failure_callback(lambda: loop.call_soon_threadsafe(service.stop))
    await service.run(host, listeners)
    backend.set_permanent_failure_callback(lambda: None)
    log('stopped')


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return the exit status."""
    arguments = parse_arguments(argv)
    try:
        robot = robot_folders.load_robot(arguments.embodiment)
        listeners = load_listeners(arguments, robot)
        # random weights are served only where they are asked for
        arguments.checkpoint = arguments.checkpoint or checkpoints.DEFAULT_CHECKPOINT
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
            return run(arguments, robot, listeners, backend)
        finally:
            backend.close()
    except ValueError as error:
        log(f'error: {error}')
        return protocol.EXIT_PERMANENT_FAILURE
    except KeyboardInterrupt:
        return 128 + signal.SIGINT


if __name__ == '__main__':
    sys.exit(main())
