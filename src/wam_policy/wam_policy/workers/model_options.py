"""Options of a model and of its queries, alike for every program that runs one."""

import argparse
from dataclasses import dataclass
from pathlib import Path

from wam_policy.core.robot import checkpoints
from wam_policy.core.robot.checkpoints import InferenceDefaults

SAMPLERS = ('full16', 'static8', 'dynamic4', 'one_step')
DEFAULT_SAMPLER, DEFAULT_GUIDANCE_SCALE = (
    'static8',
    5.0,
)  # where neither the user nor the checkpoint says anything


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe what is run, and how often it is asked."""
    model = parser.add_argument_group('model')
    model.add_argument(
        '--checkpoint',
        required=True,
        metavar='DIR',
        help='checkpoint folder, or preset:NAME for random weights',
    )
    model.add_argument(
        '--base', type=Path, metavar='DIR', help='complete checkpoint under a folder of adapters'
    )
    model.add_argument(
        '--embodiment',
        required=True,
        metavar='NAME',
        help='robot whose cameras and joints are sent',
    )
    model.add_argument(
        '--dtype',
        choices=('auto', 'float32', 'bfloat16'),
        default='auto',
        help='of weights and arithmetic; auto: bfloat16 on cuda, else float32',
    )
    model.add_argument(
        '--precision',
        default='full',
        metavar='P',
        help='of the large linears: full, fp8 or int8 with a scale per token, or '
        'the file of a calibration (default: %(default)s)',
    )
    model.add_argument(
        '--engine',
        default='eager',
        metavar='E',
        help='eager, compiled, or tensorrt:FOLDER of a built engine (default: %(default)s)',
    )
    model.add_argument('--seed', type=int, default=0, metavar='S', help='of random weights')
    model.add_argument(
        '--threads',
        type=int,
        default=1,
        metavar='N',
        help='CPU threads of torch in each worker (default: %(default)s)',
    )
    model.add_argument(
        '--sessions',
        type=int,
        default=1,
        metavar='N',
        help='memories; one session more ends the one unused for longest (default: %(default)s)',
    )
    query = parser.add_argument_group('queries')
    query.add_argument(
        '--recipe',
        choices=SAMPLERS,
        help='how often the network is asked per query (default: what the '
        f'checkpoint advises, else {DEFAULT_SAMPLER})',
    )
    query.add_argument(
        '--steps',
        type=int,
        metavar='K',
        help='ask it at each of K steps instead '
        '(default: what the checkpoint advises, if no recipe is given)',
    )
    query.add_argument(
        '--cfg',
        type=float,
        metavar='SCALE',
        help='guidance scale; 1: no guidance (default: what the checkpoint '
        f'advises, else {DEFAULT_GUIDANCE_SCALE:g})',
    )
    query.add_argument(
        '--window',
        choices=('restart', 'slide'),
        help='what a full memory does (default: what the checkpoint advises, else restart)',
    )
    query.add_argument(
        '--guided-video',
        action='store_true',
        help='guide the predicted picture also where actions no longer need it',
    )


def to_argv(arguments: argparse.Namespace) -> tuple[str, ...]:
    """Give the command line that says the same to another program with these options."""
    made = argparse.ArgumentParser(add_help=False)
    add_arguments(made)
    found: list[str] = []
    for action in made._actions:
        value = getattr(arguments, action.dest)
        if value is True:
            found.append(action.option_strings[0])
        elif value is not None and value is not False:
            found += [action.option_strings[0], str(value)]
    return tuple(found)


@dataclass(frozen=True, slots=True)
class SamplingOptions:
    """Say how queries are asked; None is left to the worker, which knows the model."""

    sampler: str | None
    steps: int | None
    guidance_scale: float


def resolve_sampling(
    sampler: str | None,
    steps: int | None,
    guidance_scale: float | None,
    defaults: InferenceDefaults,
) -> SamplingOptions:
    """Return what a user chose, else what the checkpoint advises; 0 and '' choose nothing.

    A recipe that is chosen comes with its own number of steps. Raises ValueError for a guidance
    that is none.
    """
    if guidance_scale and guidance_scale < 1.0:
        raise ValueError(
            'cfg: want 1 or more, or nothing for what the checkpoint advises; '
            f'got {guidance_scale:g}'
        )
    return SamplingOptions(
        sampler or defaults.recipe,
        steps or (None if sampler else defaults.steps),
        guidance_scale or defaults.guidance or DEFAULT_GUIDANCE_SCALE,
    )


def resolve_defaults(arguments: argparse.Namespace) -> None:
    """Find the checkpoint and take its advice for what was not given.

    Raises ValueError for a checkpoint that is none.
    """
    arguments.checkpoint = checkpoints.resolve_checkpoint(arguments.checkpoint)
    asking = resolve_sampling(
        arguments.recipe,
        arguments.steps,
        arguments.cfg,
        checkpoints.read_inference_defaults(arguments.checkpoint),
    )
    arguments.recipe = asking.sampler or DEFAULT_SAMPLER
    arguments.steps, arguments.cfg = asking.steps, asking.guidance_scale


def needs_unconditional_branch(
    sampler: str | None, steps: int | None, guidance_scale: float, guided_video: bool
) -> bool:
    """Tell whether a second branch is read at all.

    What is asked once has its actions before guidance could reach them.
    """
    asked_once = steps == 1 or (not steps and sampler == 'one_step')
    return guidance_scale > 1.0 and (guided_video or not asked_once)
