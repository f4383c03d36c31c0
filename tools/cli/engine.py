"""`./wam engine COMMAND`: calibrate a checkpoint, export its passes, build it for this GPU."""

import sys
from typing import NoReturn

from cli import exec_module
from cli.failure import CommandError

MODULE = 'wam_policy.workers.export_engine'
SUBCOMMANDS = {
    'observe': 'record real observations from the simulator or a bag',
    'calibrate': 'watch the large linears on observations; --precision FILE uses the result',
    'export': 'write a pass of the network as ONNX',
    'build': 'build a TensorRT engine; workers run it with --engine tensorrt:FOLDER',
}


def main(arguments: list[str]) -> int | NoReturn:
    """Become the command's program."""
    if not arguments or arguments[0] in ('-h', '--help'):
        lines = [f'  {name:<10} {text}' for name, text in SUBCOMMANDS.items()]
        sys.stdout.write('\n'.join(['usage: ./wam engine COMMAND [ARGUMENTS]', '', *lines, '']))
        return 0
    if arguments[0] not in SUBCOMMANDS:
        raise CommandError(
            f'no command engine {arguments[0]!r}: there are {", ".join(SUBCOMMANDS)}'
        )
    if arguments[0] == 'observe':
        return exec_module.exec_file('benchmarks/observations.py', arguments[1:])
    return exec_module.exec_module(MODULE, arguments)
