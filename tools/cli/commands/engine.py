"""`./wam engine COMMAND`: calibrate a checkpoint, export it to ONNX, build a TensorRT engine."""

import sys
from typing import NoReturn

from cli import exec_module
from cli.failure import CommandError
from cli.progress import print_status

MODULE = 'wam_policy.workers.export_engine'
SUBCOMMANDS = {
    'record-observations': 'record observations from the simulator or a bag',
    'calibrate': 'calibrate the large linear layers; workers use the result by --precision FILE',
    'export': 'export one forward pass of the network as ONNX',
    'build': 'build a TensorRT engine; workers run it with --engine tensorrt:FOLDER',
}


def main(arguments: list[str]) -> int | NoReturn:
    """Run the program of the sub-command in place of this process."""
    if not arguments or arguments[0] in ('-h', '--help'):
        lines = [f'  {name:<20} {text}' for name, text in SUBCOMMANDS.items()]
        sys.stdout.write('\n'.join(['usage: ./wam engine COMMAND [ARGUMENTS]', '', *lines, '']))
        return 0
    name, *rest = arguments
    if name == 'observe':
        print_status(
            'warning: engine observe is deprecated and will be removed in the next release: '
            'use engine record-observations'
        )
        name = 'record-observations'
    if name not in SUBCOMMANDS:
        raise CommandError(f'no command engine {name!r}; known: {", ".join(SUBCOMMANDS)}')
    if name == 'record-observations':
        return exec_module.exec_file('benchmarks/observations.py', rest)
    return exec_module.exec_module(MODULE, [name, *rest])
