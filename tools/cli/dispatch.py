"""Table of sub-commands: each runs a module of the stack or a file of `cli.commands`."""

import difflib
import importlib
import os
import signal
import sys
from dataclasses import dataclass
from types import FrameType

from cli import domain
from cli.failure import CommandError, describe_oserror
from cli.progress import print_status


@dataclass(frozen=True, slots=True)
class Command:
    """One sub-command; without a module, `cli.commands.<name>.main(arguments)` runs it."""

    help: str
    module: str = ''  # run by `python -m` in the environment of the stack
    own_domain: bool = False  # run in a ROS domain that no other program on this machine uses


COMMANDS = {
    'setup': Command('install ROS 2 (unless installed) and the Python packages'),
    'build': Command('colcon build over src/'),
    'demo': Command('run a simulated robot with a World Action Model', 'wam_tools.demo'),
    'serve': Command(
        'run the model as a policy server (OpenPI protocol)', 'wam_policy.servers.serve'
    ),
    'test': Command('run the tests; arguments go to pytest; --all includes the slow ones'),
    'faults': Command(
        'inject faults into a running stack; --list names them',
        'wam_tools.fault_injection.run_faults',
        own_domain=True,
    ),
    'soak': Command(
        'run the simulated stack for hours; plot memory, files, threads, latency',
        'wam_tools.soak',
    ),
    'record': Command(
        'record an episode of a running stack into an MCAP bag',
        'wam_policy.nodes.recorder.record_command',
    ),
    'episode': Command(
        'write an HTML page of an episode, readable offline',
        'wam_tools.episode_view.episode_command',
    ),
    'bag': Command(
        'repair interrupted episodes; list what bags contain', 'wam_policy.recording.bag_command'
    ),
    'export': Command(
        'convert episodes into a data set (LeRobot layout, GEAR metadata)',
        'wam_learning.data.export_dataset',
    ),
    'dataset': Command(
        'check a data set of any origin, or write a page with its pictures',
        'wam_learning.inspection.dataset_command',
    ),
    'generate-demos': Command(
        'write a data set of demonstrations by a scripted expert in the simulator',
        'wam_learning.demonstrations.generate_demos',
    ),
    'train': Command(
        'train a checkpoint on data sets: a new wam-mini, or a fine-tuned model',
        'wam_learning.training.train',
    ),
    'plot-training': Command(
        'plot losses, validation errors and success of a training over its steps',
        'wam_learning.training.plot_training',
    ),
    'recipe': Command('train the shipped models from scratch', 'wam_learning.training.recipe'),
    'eval': Command(
        'evaluate a policy in closed loop on held-out scenes, with confidence intervals',
        'wam_learning.evaluation.evaluate',
    ),
    'eval-ablations': Command(
        'write one table of what each component of a World Action Model is worth',
        'wam_learning.evaluation.ablation_table',
    ),
    'eval-delays': Command(
        'write tables of success and jerk by the delay from request to answer',
        'wam_learning.evaluation.delay_table',
    ),
    'eval-imagination': Command(
        'measure whether the actions of a checkpoint follow its imagined video',
        'wam_learning.evaluation.imagination_gate',
    ),
    'eval-table': Command(
        'write evaluation reports as a Markdown table', 'wam_learning.evaluation.report_table'
    ),
    'inspect': Command(
        'show contents, missing files, memory and supported robots of a checkpoint',
        'wam_policy.model.checkpoint.inspect_checkpoint',
    ),
    'random-checkpoint': Command(
        'write random weights in the layout of a released checkpoint',
        'wam_policy.model.checkpoint.random_checkpoint',
    ),
    'engine': Command('calibrate a checkpoint, export it to ONNX, build it with TensorRT'),
    'bench': Command('measure chunk latency, quantization error, worker round trip, ...'),
    'shell': Command('open a shell in which ros2 works; -c COMMAND runs one command'),
    'doctor': Command('show what is installed and what is missing, with the fix'),
    'clean': Command('remove the results of setup and build; --all also removes downloads'),
}
# until the next release
DEPRECATED_COMMANDS = {
    'check': 'inspect',
    'curves': 'plot-training',
    'play': 'generate-demos',
    'reproduce': 'recipe',
    'synthetic': 'random-checkpoint',
}


def format_usage() -> str:
    """Return the usage text, with one line per sub-command."""
    width = max(map(len, COMMANDS))
    lines = [f'  {name:<{width}} {command.help}' for name, command in COMMANDS.items()]
    return '\n'.join(['usage: ./wam COMMAND [ARGUMENTS]', '', *lines, ''])


def format_unknown_command(name: str) -> str:
    """Return the error for an unknown sub-command, with the nearest known one."""
    near = difflib.get_close_matches(name, COMMANDS, n=1, cutoff=0.5)
    hint = f'did you mean {near[0]}?' if near else f'known: {", ".join(COMMANDS)}'
    return f'no command {name!r}: {hint}'


def run_command(name: str, arguments: list[str]) -> int:
    """Run a sub-command; a module of the stack replaces this process."""
    command = COMMANDS[name]
    if not command.module:
        return importlib.import_module(f'cli.commands.{name}').main(arguments)
    from cli.exec_module import exec_module

    if command.own_domain:
        os.environ['ROS_DOMAIN_ID'] = str(domain.find_free_domain(os.getpid()))
    return exec_module(command.module, arguments)


def on_sigterm(number: int, frame: FrameType | None) -> None:
    """Raise KeyboardInterrupt as for Ctrl-C, so that programs started by setup end too."""
    raise KeyboardInterrupt


def main(arguments: list[str]) -> int:
    """Run one sub-command and return its exit code; print a CommandError as one line."""
    if not arguments or arguments[0] in ('help', '-h', '--help'):
        sys.stdout.write(format_usage())
        return 0
    name, *rest = arguments
    if name in DEPRECATED_COMMANDS:
        new_name = DEPRECATED_COMMANDS[name]
        print_status(
            f'warning: {name} is deprecated and will be removed in the next release: '
            f'use {new_name}'
        )
        name = new_name
    if name not in COMMANDS:
        print_status(format_unknown_command(name))
        return 2
    signal.signal(signal.SIGTERM, on_sigterm)
    try:
        return run_command(name, rest)
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
