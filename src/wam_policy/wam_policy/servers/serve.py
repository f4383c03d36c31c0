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
from wam_policy.servers import handshake, server_profile
from wam_policy.servers.server_profile import Flavour
from wam_policy.servers.serving_engine import Engine, Model, plan
from wam_policy.servers.session_manager import Desk
from wam_policy.servers.transports.websocket_client import TOKEN
from wam_policy.servers.transports.websocket_server import Limits, Server
from wam_policy.workers import exit_codes, model_options
from wam_policy.workers.supervisor import State

MEBIBYTE = 1024 * 1024
SESSIONS = 4
LOOPBACK = ('127.0.0.1', '::1', 'localhost')


def parser() -> argparse.ArgumentParser:
    """Describe the command line."""
    made = argparse.ArgumentParser(
        prog='wam serve', description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument(
        '--flavour',
        default='',
        metavar='NAME',
        help=f'keys of the messages: {", ".join(server_profile.names())}, or a .yaml file '
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
        default=os.environ.get(TOKEN, ''),
        help=f'what clients must send as Authorization: Api-Key TOKEN (default: '
        f'the environment variable {TOKEN}, which other users cannot see)',
    )
    place.add_argument(
        '--devices',
        default='cpu,cpu',
        metavar='LIST',
        help='one device per worker, cpu or cuda:N: one runs both branches of '
        'guidance, two run one each (default: %(default)s)',
    )
    model_options.add(made)
    made.set_defaults(sessions=SESSIONS)
    bound = made.add_argument_group('limits')
    bound.add_argument(
        '--connections',
        type=int,
        default=64,
        metavar='N',
        help='open at a time (default: %(default)s)',
    )
    bound.add_argument(
        '--message-mib',
        type=int,
        default=64,
        metavar='N',
        help='largest request (default: %(default)s)',
    )
    bound.add_argument(
        '--grace',
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
        '--answer-timeout',
        type=float,
        default=30.0,
        metavar='SECONDS',
        help='for the workers to answer; then they are started again (default: %(default)s)',
    )
    made.add_argument('--quiet', action='store_true', help='no line for each request')
    return made


def settings(given: Sequence[str] | None) -> argparse.Namespace:
    """Parse a command line; exits with a message like every command if it is wrong."""
    made = parser()
    chosen = made.parse_args(given)
    for name in (
        'threads',
        'sessions',
        'connections',
        'message_mib',
        'grace',
        'start_timeout',
        'answer_timeout',
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


def say(text: str) -> None:
    """Write a line for people."""
    print(f'{time.strftime("%H:%M:%S")} wam-serve: {text}', file=sys.stderr, flush=True)


def offered(spoken: Flavour, robot: Embodiment, model: Model) -> dict[str, Any]:
    """Give the configuration to announce; ValueError if the flavour promises something else."""
    if model.horizon != spoken.horizon or abs(model.step_dt_s * spoken.step_hz - 1.0) > 1e-6:
        raise ValueError(
            f'{model.name} predicts {model.horizon} rows at '
            f'{1 / model.step_dt_s:g} Hz, flavour {spoken.name} says '
            f'{spoken.horizon} rows at {spoken.step_hz:g} Hz: serve with another '
            '--flavour'
        )
    return handshake.offered(
        spoken,
        robot,
        {'model': model.name, 'trained': model.trained},
        {
            'kind': handshake.CLOCKED,
            'first_frames': model.first_frames,
            'frames_per_block': model.frames_per_block,
            'frame_period_s': model.frame_period_s,
            'window_blocks': model.window_blocks,
        },
    )


def run(chosen: argparse.Namespace, robot: Embodiment, spoken: Flavour, engine: Engine) -> int:
    """Start the workers and serve until a signal asks to stop; return the exit status."""
    status = engine.start()
    if status.state is not State.READY:
        say(f'error: {status.reason}')
        return exit_codes.REFUSED if status.retry_s is None else exit_codes.FAILED
    model = engine.model
    configuration = offered(spoken, robot, model)
    server = Server(
        Desk(spoken, robot, engine, model, chosen.sessions, say),
        configuration,
        token=chosen.token,
        say=say,
        each=not chosen.quiet,
        engine=engine,
        limits=Limits(chosen.connections, chosen.message_mib * MEBIBYTE, chosen.grace),
    )
    if chosen.host not in LOOPBACK and not chosen.token:
        say('anyone who reaches this address can use it: set a token')
    trained = '' if model.trained else 'UNTRAINED '
    try:
        asyncio.run(
            serving(
                server, engine, chosen, f'{trained}{model.name} for {robot.name}, {spoken.name},'
            )
        )
    except OSError as error:
        say(f'error: cannot listen on {chosen.host}:{chosen.port}: {error}')
        return exit_codes.FAILED
    return exit_codes.FAILED if engine.over else exit_codes.OK


async def serving(server: Server, engine: Engine, chosen: argparse.Namespace, ready: str) -> None:
    """Serve until a signal asks to stop, or until the workers are gone for good."""
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, server.stop)
    engine.when_over(lambda: loop.call_soon_threadsafe(server.stop))
    await server.run(
        chosen.host,
        chosen.port,
        lambda port: say(
            f'{ready} at ws://{chosen.host}:{port}; health: http://{chosen.host}:{port}/healthz'
        ),
    )
    engine.when_over(lambda: None)
    say('stopped')


def main(given: Sequence[str] | None = None) -> int:
    """Run; return the exit status."""
    chosen = settings(given)
    try:
        robot = embodiment.load(chosen.embodiment)
        spoken = server_profile.chosen(chosen.flavour, robot)
        model_options.filled(chosen)
        guided = model_options.guided(chosen.recipe, chosen.steps, chosen.cfg, chosen.guided_video)
        engine = Engine(
            plan(chosen.devices, model_options.words(chosen), guided, chosen.start_timeout),
            chosen.answer_timeout,
            say,
        )
        try:
            return run(chosen, robot, spoken, engine)
        finally:
            engine.close()
    except ValueError as error:
        say(f'error: {error}')
        return exit_codes.REFUSED
    except KeyboardInterrupt:
        return 128 + signal.SIGINT


if __name__ == '__main__':
    sys.exit(main())
