"""Build engines from a checkpoint: calibrate linear layers, export passes, build TensorRT engines.

Experimental: never run on a GPU by this project.

Observations come from a file (`./wam engine record-observations` writes one from the simulator or
a bag) and run through the same session as in a worker, so the calibration covers what queries
compute.
"""

import argparse
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from wam_policy import robot_folders
from wam_policy.command_line import CommandParser, add_value
from wam_policy.core.robot import checkpoints
from wam_policy.model.checkpoint import checkpoint_folder
from wam_policy.model.execution import onnx_export, quantization, tensorrt_engine
from wam_policy.model.robot_policy import InferenceOptions, Policy

DTYPES = {'fp32': torch.float32, 'fp16': torch.float16, 'bf16': torch.bfloat16}
SURROUNDING_DTYPE = torch.bfloat16  # of everything but the 8-bit linear layers


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one of the commands; print an error as one line and return the exit status."""
    chosen = make_parser().parse_args(arguments)
    warnings.filterwarnings('ignore', module='modelopt|torch')
    try:
        chosen.run(chosen)
    except (ValueError, FileNotFoundError) as error:
        print(f'wam engine: {error}', file=sys.stderr)
        return 1
    return 0


def make_parser() -> argparse.ArgumentParser:
    parser = CommandParser('wam engine', __doc__)
    commands = parser.add_subparsers(required=True, metavar='COMMAND')

    def command(name: str, run: object, text: str) -> argparse.ArgumentParser:
        one = commands.add_parser(name, help=text, description=text)
        one.set_defaults(run=run)
        one.add_argument('checkpoint', help='folder, or preset:NAME for random weights')
        one.add_argument('--base', default='', metavar='DIR', help='checkpoint under adapters')
        one.add_argument('--device', default='cuda:0' if torch.cuda.is_available() else 'cpu')
        one.add_argument('--out', type=Path, required=True)
        return one

    one = command(
        'calibrate',
        calibrate,
        'record input ranges of the large linear layers on real observations',
    )
    add_value(
        one,
        '--scheme',
        'fp8',
        'fp8 and int8 are executed in 8 bits; nvfp4 is only simulated, on CUDA, in '
        'bfloat16: workers refuse it',
        choices=quantization.SCHEMES,
    )
    one.add_argument('--observations', type=Path, required=True, metavar='FILE')
    one.add_argument('--embodiment', required=True, metavar='NAME')
    one = command('export', export, 'write a pass as ONNX')
    one.add_argument(
        '--pass', dest='kind', type=parse_pass, choices=onnx_export.PASSES, default='denoise'
    )
    add_precision_argument(one)
    one = command(
        'build',
        build,
        'build a TensorRT engine for the GPU of this machine (never done by this project)',
    )
    add_precision_argument(one)
    return parser


def parse_pass(name: str) -> str:
    """Return the name of a pass; an old name is replaced, with a warning on stderr."""
    if name != 'remember':
        return name
    sys.stderr.write(
        'warning: --pass remember is deprecated and will be removed in the next release: '
        'use --pass append_kv\n'
    )
    return 'append_kv'


def add_precision_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        '--precision',
        default='bf16',
        metavar='P',
        help=f'{", ".join(DTYPES)}, or the file of a calibration (default: bf16)',
    )


def load_checkpoint(
    arguments: argparse.Namespace, dtype: torch.dtype
) -> checkpoint_folder.WorldActionModel:
    base = checkpoints.resolve_base(arguments.base)
    return checkpoint_folder.load(
        arguments.checkpoint, torch.device(arguments.device), dtype, Path(base) if base else None
    )


def calibrate(arguments: argparse.Namespace) -> None:
    """Run the observations through the model under modelopt; write the calibration."""
    policy = Policy(
        load_checkpoint(
            arguments, torch.float32 if arguments.device == 'cpu' else SURROUNDING_DTYPE
        ),
        robot_folders.load_robot(arguments.embodiment),
        InferenceOptions(pack_weights=False),
    )
    observations = RecordedObservations.load(arguments.observations)
    found = quantization.calibrate(
        policy.model.dit, arguments.scheme, lambda: observations.run(policy)
    )
    found.save(arguments.out)
    print(
        f'{arguments.out}: {found.scheme}, {len(found.input_amax)} linears, '
        f'{len(observations.joint_positions)} queries'
    )


def load_with_precision(arguments: argparse.Namespace) -> checkpoint_folder.WorldActionModel:
    """Load a checkpoint in the requested precision."""
    if arguments.precision in DTYPES:
        return load_checkpoint(arguments, DTYPES[arguments.precision])
    calibration = quantization.load_calibration(arguments.precision)
    policy = load_checkpoint(arguments, SURROUNDING_DTYPE)
    if calibration is not None:
        quantization.install_quantized_linears(policy.dit, calibration)
    return policy


def export(arguments: argparse.Namespace) -> None:
    onnx_export.export_pass(load_with_precision(arguments).dit, arguments.kind, arguments.out)
    print(f'{arguments.out}: pass {arguments.kind}')


def build(arguments: argparse.Namespace) -> None:
    """Build a TensorRT engine; fail before loading the checkpoint if TensorRT is missing."""
    trt = tensorrt_engine.import_tensorrt()
    folder = tensorrt_engine.build_engine(
        load_with_precision(arguments).dit, arguments.out, arguments.precision, trt
    )
    print(f'{folder}: run workers with --engine tensorrt:{folder}')


class RecordedObservations:
    """Hold recorded blocks of images and the joint positions at the end of each.

    `views` maps a camera to uint8 [1 + blocks*frames h w 3]: one frame first, then whole
    blocks at the model's frame rate. `joint_positions` is [1 + blocks observed].
    """

    def __init__(
        self, instruction: str, views: dict[str, np.ndarray], joint_positions: np.ndarray
    ) -> None:
        self.instruction, self.views, self.joint_positions = instruction, views, joint_positions

    def save(self, path: Path) -> None:
        arrays: dict[str, Any] = {f'frames/{key}': view for key, view in self.views.items()}
        np.savez_compressed(
            path, instruction=np.array(self.instruction), joints=self.joint_positions, **arrays
        )

    @classmethod
    def load(cls, path: Path) -> 'RecordedObservations':
        """Load a file that `save` wrote; raise ValueError if it is another kind of file."""
        if not path.is_file():
            raise FileNotFoundError(
                f'no observations {path}: create them with ./wam engine record-observations'
            )
        with np.load(path, allow_pickle=False) as file:
            if not {'instruction', 'joints'} <= set(file):
                raise ValueError(
                    f'{path} contains no observations: create them with ./wam engine '
                    'record-observations'
                )
            views = {
                name.removeprefix('frames/'): file[name]
                for name in file
                if name.startswith('frames/')
            }
            return cls(str(file['instruction']), views, file['joints'])

    def run(self, policy: Policy) -> list[np.ndarray]:
        """Commit every block and query after each; return the targets [horizon commanded]."""
        first, block = 1, policy.geometry.frames_per_block
        missing = set(policy.geometry.cameras) - set(self.views)
        if missing:
            raise ValueError(f'observations lack {", ".join(sorted(missing))}')
        count = len(next(iter(self.views.values())))
        if count < first + block or (count - first) % block:
            raise ValueError(
                f'observations of {count} frames; this model commits 1, then {block} at a time'
            )
        policy.reset(self.instruction)
        found = []
        for number, positions in enumerate(self.joint_positions[: 1 + (count - first) // block]):
            start = 0 if number == 0 else first + (number - 1) * block
            stop = first if number == 0 else start + block
            policy.commit({key: self.views[key][start:stop] for key in policy.geometry.cameras})
            targets = policy.query(positions, number).targets
            assert targets is not None  # both branches run here
            found.append(targets)
        return found


if __name__ == '__main__':
    sys.exit(main())
