"""Run a remote worker: connect to a policy server and answer the node's requests on a socket.

The protocol on the socket is that of the local workers. Without --fd the program connects, checks
the server, logs its model and exits. The token for the server is read from the environment
variable WAM_TOKEN, which other users of the machine cannot read.
"""

import argparse
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence

from wam_policy import robot_folders
from wam_policy.command_line import CommandParser, add_value
from wam_policy.servers import server_profile
from wam_policy.servers.client.policy_client import PolicyClient, make_server_url
from wam_policy.servers.handshake import IncompatibleServer
from wam_policy.servers.remote_worker import RemoteWorker
from wam_policy.servers.transports.policy_transport import (
    TOKEN_VARIABLE,
    ConnectionRejected,
    ServerUnreachable,
    TransportError,
)
from wam_policy.workers import protocol
from wam_policy.workers.protocol import WorkerMessage

RENAMED_OPTIONS = {
    '--flavour': '--server-profile',
    '--timeout': '--query-timeout',
    '--world': '--world-size',
    '--exchange': '--dist-backend',
}
RETRY_PERIOD_S = 0.25  # between tries to connect; one that is refused takes about 1 ms
DISCONNECT_GRACE_S = 0.2  # from the closing of the socket to the exit during a request


def make_parser() -> CommandParser:
    parser = CommandParser(
        'python -m wam_policy.servers.run_remote_worker', __doc__, RENAMED_OPTIONS
    )
    parser.add_argument(
        '--server',
        required=True,
        metavar='URL',
        help='ws://HOST:PORT, wss://, http://, https:// or zmq+tcp://, as the profile needs it',
    )
    parser.add_argument(
        '--embodiment',
        required=True,
        metavar='NAME',
        help='robot whose images and joint positions are sent',
    )
    parser.add_argument(
        '--server-profile',
        default='',
        metavar='NAME',
        help=(
            f"{', '.join(server_profile.list_names())}, or a .yaml file (default: the robot's own)"
        ),
    )
    add_value(
        parser,
        '--query-timeout',
        8.0,
        'limit for one answer; then the connection is closed',
        'SECONDS',
    )
    add_value(
        parser,
        '--reset-timeout',
        30.0,
        'the same for a reset, in which a server may write a video',
        'SECONDS',
    )
    parser.add_argument('--fd', type=int, metavar='N', help='inherited socket to answer on')
    # the supervisor passes these to every worker; a remote worker ignores them
    for name in ('--rank', '--world-size', '--role', '--device', '--dist-backend', '--rendezvous'):
        parser.add_argument(name, help=argparse.SUPPRESS)
    return parser


def log(text: str) -> None:
    """Write a log line to stderr; the supervisor keeps the last lines for its error report."""
    print(f'wam-remote: {text}', file=sys.stderr, flush=True)


def run(arguments: argparse.Namespace) -> int:
    """Serve the node, or only check the server if there is no --fd; return the exit status."""
    robot = robot_folders.load_robot(arguments.embodiment)
    profile = server_profile.load_for_robot(arguments.server_profile, robot)
    url = make_server_url(arguments.server, profile)

    def connect() -> PolicyClient:
        return PolicyClient(profile, url, os.environ.get(TOKEN_VARIABLE, ''))

    peer, sock = (
        socket.socketpair()
        if arguments.fd is None
        else (None, protocol.adopt_socket(arguments.fd, DISCONNECT_GRACE_S))
    )
    worker = connect_worker(
        lambda: RemoteWorker(
            sock, profile, robot, connect, arguments.query_timeout, arguments.reset_timeout, log
        ),
        None if peer is not None else sock,
    )
    try:
        log(f'{profile.name}: {worker.build_worker_info()["reason"]}')
        if peer is None:
            worker.serve()
    finally:
        worker.close()
    return protocol.EXIT_OK


def connect_worker(
    make_worker: Callable[[], RemoteWorker], node: socket.socket | None
) -> RemoteWorker:
    """Try to connect until the server answers, and report to the node why it does not.

    The supervisor's start timeout ends the wait. Without a node the first failure is raised.
    """
    reported = ''
    while True:
        try:
            return make_worker()
        except ServerUnreachable as error:
            if node is None:
                raise
            if str(error) != reported:
                reported = str(error)
                log(reported)
                protocol.send(node, WorkerMessage('loading', {'reason': reported, 'id': 0}))
            time.sleep(RETRY_PERIOD_S)


def main(argv: Sequence[str] | None = None) -> int:
    """Run; return the exit status (see workers.protocol)."""
    parser = make_parser()
    arguments = parser.parse(argv)
    parser.require_positive(arguments, 'query_timeout', 'reset_timeout', unit=' s')
    try:
        return run(arguments)
    except (ValueError, ConnectionRejected, IncompatibleServer) as error:
        log(f'error: {error}')
        return protocol.EXIT_PERMANENT_FAILURE
    except (TransportError, OSError, protocol.ProtocolError) as error:
        log(f'error: {error}')
        return protocol.EXIT_FAILED
    except KeyboardInterrupt:
        return 128 + signal.SIGINT


if __name__ == '__main__':
    sys.exit(main())
