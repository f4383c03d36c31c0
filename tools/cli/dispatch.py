"""The table of sub-commands: a new one is a line here and a file with `main(arguments)`."""

import difflib
import importlib
import os
import signal
import sys
from types import FrameType

from cli.failure import CommandError, describe_oserror
from cli.progress import print_status

COMMANDS = {
    'setup': 'get ROS 2 (unless installed) and the Python packages; a no-op when done',
    'build': 'colcon build over src/',
    'demo': 'a simulated robot, moved by a World Action Model under ROS 2',
    'serve': 'the engine as a policy server (OpenPI protocol); --help tells more',
    'test': 'run the tests; arguments go to pytest',
    'faults': 'inject faults into a running stack, one row each; --list names them',
    'soak': 'the simulated stack for hours: memory, files, threads, latency, plotted',
    'record': 'record an episode beside a running stack, one MCAP bag each',
    'bag': 'repair interrupted episodes; tell what is in bags',
    'export': 'turn episodes into a data set (LeRobot layout, GEAR metadata)',
    'play': 'let an expert play in the simulator: a data set to learn from',
    'train': 'turn data sets into a checkpoint: a fresh wam-mini, or a fine-tuned model',
    'curves': "draw a training's losses, held-out errors and success over its steps",
    'recipe': 'make the shipped models again, from nothing, step by step',
    'eval': 'try a policy in closed loop on scenes it never saw; report with intervals',
    'check': 'what a checkpoint folder is, lacks, needs and can drive',
    'synthetic': 'write random weights in the layout of a released checkpoint',
    'engine': 'calibrate a checkpoint, export it to ONNX, build it with TensorRT',
    'bench': 'measure: chunk latency, cost of fewer bits, worker round trip, ...',
    'shell': 'a shell in which ros2 works; -c COMMAND runs one command',
    'doctor': 'what is found, what is missing, and the fix',
    'clean': 'remove what setup and build made; --all also removes downloads',
}


def format_usage() -> str:
    """Describe every sub-command in a line."""
    lines = [f'  {name:<9} {text}' for name, text in COMMANDS.items()]
    return '\n'.join(['usage: ./wam COMMAND [ARGUMENTS]', '', *lines, ''])


def format_unknown_command(name: str) -> str:
    """Say that there is no such sub-command, and which was probably meant."""
    near = difflib.get_close_matches(name, COMMANDS, n=1, cutoff=0.5)
    hint = f'did you mean {near[0]}?' if near else f'there are: {", ".join(COMMANDS)}'
    return f'no command {name!r}: {hint}'


def on_sigterm(number: int, frame: FrameType | None) -> None:
    """Unwind as Ctrl-C does, so that the programs that setup has started end too."""
    raise KeyboardInterrupt


def main(arguments: list[str]) -> int:
    """Run one sub-command and return its exit code; a Failure becomes one line."""
    if not arguments or arguments[0] in ('help', '-h', '--help'):
        sys.stdout.write(format_usage())
        return 0
    name, *rest = arguments
    if name not in COMMANDS:
        print_status(format_unknown_command(name))
        return 2
    signal.signal(signal.SIGTERM, on_sigterm)
    try:
        return importlib.import_module(f'cli.{name}').main(rest)
    except CommandError as e:
        print_status(str(e))
        return 1
    except OSError as e:
        if os.environ.get('WAM_TRACEBACK'):
            raise
        print_status(f'{name}: {describe_oserror(e)}')
        return 1
    except KeyboardInterrupt:
        print_status(f'{name}: interrupted')
        return 130
