"""Serve our engine to OpenPI clients: load a checkpoint once, answer many sessions.

Listens on this machine only unless --host says otherwise. GET /healthz tells that it is up,
GET /metrics what it did, for Prometheus.
"""

import argparse
import asyncio
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from wam_policy.core import embodiment
from wam_policy.core.embodiment import Embodiment
from wam_policy.remote import agreement, flavour
from wam_policy.remote.flavour import Flavour
from wam_policy.serve.desk import Desk, Policy
from wam_policy.serve.server import Limits, Server
from wam_policy.worker import exits

TOKEN = 'WAM_TOKEN'         # nosec B105: the variable's name
MEBIBYTE = 1024 * 1024
RECIPES = ('full16', 'static8', 'dynamic4', 'one_step')
LOOPBACK = ('127.0.0.1', '::1', 'localhost')


def parser() -> argparse.ArgumentParser:
    """Describe the command line."""
    made = argparse.ArgumentParser(
        prog='wam serve', description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument('--checkpoint', required=True, metavar='DIR',
                      help='checkpoint folder, or preset:NAME for random weights')
    made.add_argument('--embodiment', required=True, choices=embodiment.names(),
                      help='robot whose clients are served')
    made.add_argument('--flavour', default='', metavar='NAME',
                      help=f'keys of the messages: {", ".join(flavour.names())}, or a .yaml file '
                      "(default: the robot's own)")
    place = made.add_argument_group('place')
    place.add_argument('--host', default='127.0.0.1',
                       help='address to listen on (default: %(default)s)')
    place.add_argument('--port', type=int, default=8000,
                       help='0 takes a free one (default: %(default)s)')
    place.add_argument('--token', default=os.environ.get(TOKEN, ''),
                       help=f'what clients must send as Authorization: Api-Key TOKEN (default: '
                       f'the environment variable {TOKEN}, which other users cannot see)')
    model = made.add_argument_group('model')
    model.add_argument('--device', default='cpu', help='cpu or cuda:N (default: %(default)s)')
    model.add_argument('--dtype', choices=('auto', 'float32', 'bfloat16'), default='auto',
                       help='auto: bfloat16 on cuda, else float32')
    model.add_argument('--threads', type=int, default=len(os.sched_getaffinity(0)), metavar='N',
                       help='CPU threads of the model (default: one per core, %(default)s)')
    model.add_argument('--recipe', choices=RECIPES, default='static8',
                       help='how often the network is asked per query (default: %(default)s)')
    model.add_argument('--steps', type=int, metavar='K', help='ask it at each of K steps instead')
    model.add_argument('--cfg', type=float, default=5.0, metavar='SCALE',
                       help='guidance scale; 1: no guidance (default: %(default)s)')
    model.add_argument('--window', choices=('restart', 'slide'), default='restart',
                       help='what a full memory does (default: %(default)s)')
    model.add_argument('--seed', type=int, default=0, help='of random weights')
    bound = made.add_argument_group('limits')
    bound.add_argument('--sessions', type=int, default=4, metavar='N',
                       help='memories kept; one more ends the one unused for longest '
                       '(default: %(default)s)')
    bound.add_argument('--connections', type=int, default=64, metavar='N',
                       help='open at a time (default: %(default)s)')
    bound.add_argument('--message-mib', type=int, default=64, metavar='N',
                       help='largest request (default: %(default)s)')
    bound.add_argument('--grace', type=float, default=5.0, metavar='SECONDS',
                       help='for a request under way when stopped (default: %(default)s)')
    made.add_argument('--quiet', action='store_true', help='no line for each request')
    return made


def settings(given: Sequence[str] | None) -> argparse.Namespace:
    """Parse a command line; exits with a message like every command if it is wrong."""
    made = parser()
    chosen = made.parse_args(given)
    for name in ('threads', 'sessions', 'connections', 'message_mib', 'grace'):
        if not getattr(chosen, name) > 0:
            made.error(f'--{name.replace("_", "-")}: want more than 0, got '
                       f'{getattr(chosen, name):g}')
    if not 0 <= chosen.port < 65536:
        made.error(f'--port: want 0 to 65535, got {chosen.port}')
    if not chosen.token.isascii():
        made.error('--token: want ASCII, as a header carries it')
    return chosen


def say(text: str) -> None:
    """Write a line for people."""
    print(f'{time.strftime("%H:%M:%S")} wam-serve: {text}', file=sys.stderr, flush=True)


def loaded(chosen: argparse.Namespace, robot: Embodiment, spoken: Flavour,
           ) -> tuple[Callable[[bool], Policy], dict]:
    """Load the weights; give what makes a policy on them, and the configuration to announce.

    Raises ValueError or FileNotFoundError for what will never work.
    """
    for variable in ('OMP_NUM_THREADS', 'MKL_NUM_THREADS'):
        os.environ[variable] = str(chosen.threads)

    import torch

    from wam_policy.model import checkpoint
    from wam_policy.model.policy import Choice
    from wam_policy.model.policy import Policy as Torch

    torch.set_num_threads(chosen.threads)
    device = torch.device(chosen.device)
    if device.type == 'cuda' and (device.index or 0) >= torch.cuda.device_count():
        raise ValueError(f'no device {chosen.device}: torch sees {torch.cuda.device_count()} '
                         'CUDA devices')
    automatic = 'bfloat16' if device.type == 'cuda' else 'float32'
    dtype = getattr(torch, automatic if chosen.dtype == 'auto' else chosen.dtype)
    weights = checkpoint.load(chosen.checkpoint, device, dtype, None, chosen.seed)
    clocked = Choice(chosen.recipe, chosen.steps, chosen.cfg, 'clocked', chosen.window)
    released = replace(clocked, mode='reference')

    def make(on_clock: bool) -> Policy:
        return Torch(weights, robot, clocked if on_clock else released)

    # the first pass through a model is many times slower than the others
    from wam_policy.worker.main import warmed
    first = Torch(weights, robot, clocked)
    warmed(first, chosen.seed)
    geometry, fits = first.geometry, spoken.horizon
    if geometry.horizon != fits or abs(geometry.step_dt_s * spoken.step_hz - 1.0) > 1e-6:
        raise ValueError(f'{chosen.checkpoint} predicts {geometry.horizon} rows at '
                         f'{1 / geometry.step_dt_s:g} Hz, flavour {spoken.name} says {fits} rows '
                         f'at {spoken.step_hz:g} Hz: serve with another --flavour')
    return make, agreement.offered(
        spoken, robot, {'model': weights.design.name, 'trained': weights.trained},
        {'kind': agreement.CLOCKED, 'first_frames': geometry.first_frames,
         'frames_per_block': geometry.frames_per_block,
         'frame_period_s': geometry.frame_period_s, 'window_blocks': geometry.window_blocks})


async def serving(server: Server, chosen: argparse.Namespace, ready: str) -> None:
    """Serve until a signal asks to stop."""
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, server.stop)
    await server.run(chosen.host, chosen.port, lambda port: say(
        f'{ready} at ws://{chosen.host}:{port}; health: http://{chosen.host}:{port}/healthz'))
    say('stopped')


def main(given: Sequence[str] | None = None) -> int:
    """Run; return the exit status."""
    chosen = settings(given)
    try:
        robot = embodiment.load(chosen.embodiment)
        spoken = flavour.chosen(chosen.flavour, robot)
        make, configuration = loaded(chosen, robot, spoken)
        desk = Desk(spoken, robot, make, chosen.sessions, say)
    except (ValueError, FileNotFoundError) as error:
        say(f'error: {error}')
        return exits.REFUSED
    if chosen.host not in LOOPBACK and not chosen.token:
        say('anyone who reaches this address can use it: set a token')
    server = Server(desk, configuration, token=chosen.token, say=say, each=not chosen.quiet,
                    limits=Limits(chosen.connections, chosen.message_mib * MEBIBYTE,
                                  chosen.grace))
    trained = '' if configuration['trained'] else 'UNTRAINED '
    try:
        asyncio.run(serving(server, chosen, f'{trained}{configuration["model"]} for '
                                            f'{robot.name}, {spoken.name},'))
    except OSError as error:
        say(f'error: cannot listen on {chosen.host}:{chosen.port}: {error}')
        return exits.FAILED
    return exits.OK


if __name__ == '__main__':
    # no interpreter shutdown: a request that outlived its grace must not hold the exit up
    status = main()
    sys.stdout.flush()
    os._exit(status)
