"""Run a remote worker: connect to a policy server, agree with it, answer on a socket.

It speaks the wire of the local workers, so the node cannot tell them apart. Without --fd it only
connects, says what it agreed on, and leaves. A token for the server is read from the environment
variable WAM_TOKEN, where other users of the machine cannot see it.
"""

import argparse
import os
import signal
import socket
import sys
from collections.abc import Sequence

from wam_policy.core.robot import embodiment
from wam_policy.deprecated_options import replace_deprecated
from wam_policy.servers import server_profile
from wam_policy.servers.handshake import IncompatibleServer
from wam_policy.servers.remote_worker import RemoteWorker
from wam_policy.servers.server_profile import ServerProfile
from wam_policy.servers.transports.websocket_client import (
    TOKEN_VARIABLE,
    ConnectionRejected,
    WebSocketClient,
    WebSocketClientError,
)
from wam_policy.workers import protocol

RENAMED_OPTIONS = {
    '--flavour': '--server-profile',
    '--timeout': '--query-timeout',
    '--world': '--world-size',
    '--exchange': '--dist-backend',
}
DISCONNECT_GRACE_S = 0.2  # from the closing of the socket to an exit in the middle of a request


def make_parser() -> argparse.ArgumentParser:
    """Describe the command line."""
    made = argparse.ArgumentParser(
        prog='python -m wam_policy.servers.run_remote_worker',
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument('--server', required=True, metavar='URL', help='ws://HOST:PORT or wss://...')
    made.add_argument(
        '--embodiment',
        required=True,
        metavar='NAME',
        help='robot whose cameras and joints are sent',
    )
    made.add_argument(
        '--server-profile',
        default='',
        metavar='NAME',
        help=(
            f"{', '.join(server_profile.list_names())}, or a .yaml file (default: the robot's own)"
        ),
    )
    made.add_argument(
        '--query-timeout',
        type=float,
        default=8.0,
        metavar='SECONDS',
        help='for one answer; then the connection is closed (default: %(default)s)',
    )
    made.add_argument('--fd', type=int, metavar='N', help='inherited socket to answer on')
    # a pair of workers is started with these; a far server is one, whatever runs behind it
    for name in ('--rank', '--world-size', '--role', '--device', '--dist-backend', '--rendezvous'):
        made.add_argument(name, help=argparse.SUPPRESS)
    return made


def log(text: str) -> None:
    """Write a line for people; whoever started this worker keeps the last ones."""
    print(f'wam-remote: {text}', file=sys.stderr, flush=True)


def make_server_url(server: str, profile: ServerProfile) -> str:
    """Complete a server's address with the server profile's path; ValueError if it is none."""
    scheme, _, rest = server.partition('://')
    if scheme not in ('ws', 'wss') or not rest:
        raise ValueError(f'server {server!r}: want ws://HOST:PORT or wss://HOST:PORT')
    return server if '/' in rest.rstrip('/') else server.rstrip('/') + profile.url_path


def run(arguments: argparse.Namespace) -> int:
    """Serve the node, or tell what a server is like; returns the exit status."""
    robot = embodiment.load_embodiment(arguments.embodiment)
    chosen = server_profile.load_for_robot(arguments.server_profile, robot)
    where = make_server_url(arguments.server, chosen)

    def connect() -> WebSocketClient:
        return WebSocketClient(where, os.environ.get(TOKEN_VARIABLE, ''))

    near, end = (
        socket.socketpair()
        if arguments.fd is None
        else (None, protocol.adopt_socket(arguments.fd, DISCONNECT_GRACE_S))
    )
    relay = RemoteWorker(end, chosen, robot, connect, arguments.query_timeout, log)
    try:
        log(f'{chosen.name}: {relay.build_worker_info()["reason"]}')
        if near is None:
            relay.serve()
    finally:
        relay.close()
    return protocol.EXIT_OK


def main(argv: Sequence[str] | None = None) -> int:
    """Run; return the exit status (see workers.protocol)."""
    made = make_parser()
    arguments = made.parse_args(
        replace_deprecated(sys.argv[1:] if argv is None else argv, RENAMED_OPTIONS)
    )
    if not arguments.query_timeout > 0:
        made.error(f'--query-timeout: want more than 0 s, got {arguments.query_timeout:g}')
    try:
        return run(arguments)
    except (ValueError, ConnectionRejected, IncompatibleServer) as error:
        log(f'error: {error}')
        return protocol.EXIT_PERMANENT_FAILURE
    except (WebSocketClientError, OSError, protocol.ProtocolError) as error:
        log(f'error: {error}')
        return protocol.EXIT_FAILED
    except KeyboardInterrupt:
        return 128 + signal.SIGINT


if __name__ == '__main__':
    sys.exit(main())
