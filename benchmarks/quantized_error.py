"""Compare joint targets of 8-bit linears with those of float32 on real observations.

Experimental: never run on a GPU by this project.

Run from the repository root: python benchmarks/quantized_error.py --observations FILE [--json
FILE] (./wam engine record-observations writes the file; default: the simulator).
All variants use the same blocks and queries; float32 is the reference.
"""

import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), *(str(ROOT / 'src' / name) for name in ('wam_policy', 'wam_sim'))]

from benchmarks import observations, record
from wam_policy.core.robot import embodiment
from wam_policy.model.checkpoint import checkpoint_folder
from wam_policy.model.execution import quantization
from wam_policy.model.robot_policy import InferenceOptions, Policy
from wam_policy.workers.export_engine import RecordedObservations

COLUMNS = ('variant', 'cosine', 'lowest_cosine', 'max_abs_rad', 'mean_abs_rad')
Prepare = Callable[[Policy], None]


def main() -> int:
    """Measure, print a table and write JSON."""
    parser = record.make_parser(__doc__)
    parser.add_argument('--checkpoint', default='preset:tiny')
    parser.add_argument('--embodiment', default='yam', choices=embodiment.list_robots())
    parser.add_argument('--observations', type=Path)
    parser.add_argument('--recipe', default='static8')
    parser.add_argument(
        '--blocks', type=int, default=8, help='from the simulator, without --observations'
    )
    options = parser.parse_args()
    warnings.filterwarnings('ignore')
    robot = embodiment.load_embodiment(options.embodiment)

    def policy(dtype: torch.dtype = torch.float32, precision: str = 'full') -> Policy:
        loaded = checkpoint_folder.load(options.checkpoint, torch.device('cpu'), dtype)
        return Policy(loaded, robot, InferenceOptions(options.recipe, precision=precision))

    plain = policy()
    if options.observations:
        recorded = RecordedObservations.load(options.observations)
    else:
        frames = plain.geometry.frames_per_block
        instruction, samples = observations.simulate(
            robot, plain.model.dit.config.video_hz, 0, 1 + options.blocks * frames
        )
        recorded = observations.stack_blocks(instruction, list(samples), frames)
    want = np.stack(recorded.run(plain))
    offsets = (
        want - recorded.joint_positions[: len(want), None][..., find_commanded_columns(plain)]
    )
    rows = []
    for name, live in make_variants(policy, recorded):
        rows.append(
            {'variant': name, **compare_targets(np.stack(recorded.run(live)), want, offsets)}
        )
    print(
        f'{options.checkpoint}, {options.recipe}, {len(want)} queries of {robot.name}, targets '
        f'move {np.abs(offsets).mean():.4f} rad on average'
    )
    record.show(
        options.json,
        rows,
        COLUMNS,
        checkpoint=options.checkpoint,
        trained=plain.model.is_trained,
        embodiment=robot.name,
        recipe=options.recipe,
        queries=len(want),
        mean_offset_rad=float(np.abs(offsets).mean()),
    )
    return 0


def find_commanded_columns(policy: Policy) -> list[int]:
    return [policy.robot.observed.index(name) for name in policy.robot.commanded]


def make_variants(
    policy: Callable[..., Policy], samples: RecordedObservations
) -> list[tuple[str, Policy]]:
    """Make every variant, calibrated on the observations where needed."""
    found = [('bf16', policy(torch.bfloat16))]
    for scheme in quantization.NUMBER_FORMATS:
        watched = policy()
        calibration = quantization.calibrate(
            watched.model.dit, scheme, lambda live=watched: samples.run(live)
        )
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / 'calibration.json'
            calibration.save(path)
            found += [
                (f'{scheme}, simulated by modelopt', watched),
                (f'{scheme}, calibrated', policy(precision=str(path))),
                (f'{scheme}, a scale per token', policy(precision=scheme)),
            ]
    return found


def compare_targets(
    targets: np.ndarray, reference: np.ndarray, offsets: np.ndarray
) -> dict[str, float]:
    """Compare targets [queries horizon joints]; cosines are of offsets from the positions.

    The cosine of absolute positions would be near 1 for any model.
    """
    moved = offsets + (targets - reference)
    cosines = [
        float(a.ravel() @ b.ravel() / np.linalg.norm(a) / np.linalg.norm(b))
        for a, b in zip(moved, offsets, strict=True)
    ]
    apart = np.abs(targets - reference)
    return {
        'cosine': round(float(np.mean(cosines)), 6),
        'lowest_cosine': round(min(cosines), 6),
        'max_abs_rad': round(float(apart.max()), 6),
        'mean_abs_rad': round(float(apart.mean()), 7),
    }


if __name__ == '__main__':
    sys.exit(main())
