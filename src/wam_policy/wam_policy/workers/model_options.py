"""Command line options of a model and of its queries, shared by every program that runs one."""

import argparse
from dataclasses import dataclass

from wam_policy import robot_folders
from wam_policy.core.robot import checkpoints
from wam_policy.core.robot.checkpoints import InferenceDefaults

SAMPLERS = ('full16', 'static8', 'static4', 'dynamic4', 'one_step')
# where neither the user nor the checkpoint chooses
DEFAULT_SAMPLER, DEFAULT_GUIDANCE_SCALE = 'static8', 5.0
COMPILE_TIMEOUT_S = 1500.0  # 18 cold compilations and 36 recorded graphs of a 14B model
RENAMED_OPTIONS = {
    '--recipe': '--sampler',
    '--cfg': '--guidance-scale',
    '--window': '--kv-window',
    '--sessions': '--max-sessions',
}


def add_arguments(parser: argparse.ArgumentParser, *, needs_checkpoint: bool = True) -> None:
    """Add the options of the model and of its queries to `parser`."""
    _add_model_arguments(parser.add_argument_group('model'), needs_checkpoint)
    _add_query_arguments(parser.add_argument_group('queries'))


def _add_model_arguments(model: argparse._ArgumentGroup, needs_checkpoint: bool) -> None:
    model.add_argument(
        '--checkpoint',
        required=needs_checkpoint,
        default='',
        metavar='DIR',
        help='checkpoint folder, or preset:NAME for random weights'
        + ('' if needs_checkpoint else ' (default: the shipped model that knows the robot)'),
    )
    model.add_argument(
        '--base',
        default='',
        metavar='DIR',
        help='complete checkpoint that the adapters (LoRA) in --checkpoint were trained on: a '
        'folder or the name of a shipped model',
    )
    model.add_argument(
        '--embodiment',
        required=True,
        metavar='NAME',
        help='robot that the cameras and joints belong to',
    )
    model.add_argument(
        '--dtype',
        choices=('auto', 'float32', 'bfloat16'),
        default='auto',
        help='data type of weights and arithmetic; auto: bfloat16 on cuda, else float32',
    )
    model.add_argument(
        '--precision',
        default='full',
        metavar='P',
        help='precision of the large linear layers: full, fp8 or int8 with a scale per token, '
        'or the file of a calibration; all but full are experimental: never run on a GPU by '
        'this project (default: %(default)s)',
    )
    model.add_argument(
        '--engine',
        default='eager',
        metavar='E',
        help='eager, compiled, or tensorrt:FOLDER of a built engine; compiled on CUDA (graphs) '
        'and tensorrt are experimental: never run on a GPU by this project '
        '(default: %(default)s)',
    )
    model.add_argument('--seed', type=int, default=0, metavar='S', help='seed of random weights')
    model.add_argument(
        '--threads',
        type=int,
        default=1,
        metavar='N',
        help='CPU threads of torch in each worker (default: %(default)s)',
    )
    model.add_argument(
        '--max-sessions',
        type=int,
        default=1,
        metavar='N',
        help='maximum sessions; the least recently used is evicted (default: %(default)s)',
    )


def _add_query_arguments(query: argparse._ArgumentGroup) -> None:
    query.add_argument(
        '--sampler',
        choices=SAMPLERS,
        help='which denoising steps evaluate the network (default: that of the checkpoint, '
        f'else {DEFAULT_SAMPLER})',
    )
    query.add_argument(
        '--steps',
        type=int,
        metavar='K',
        help='evaluate the network at each of K steps instead '
        '(default: that of the checkpoint, if no sampler is given)',
    )
    query.add_argument(
        '--guidance-scale',
        type=float,
        metavar='SCALE',
        help='scale of classifier-free guidance; 1: no guidance (default: that of the '
        f'checkpoint, else {DEFAULT_GUIDANCE_SCALE:g})',
    )
    query.add_argument(
        '--kv-window',
        choices=('restart', 'slide'),
        help='what a full KV cache does (default: that of the checkpoint, else restart)',
    )
    query.add_argument(
        '--guided-video',
        action='store_true',
        help='guide the predicted image also where the actions no longer need it',
    )


def to_argv(arguments: argparse.Namespace) -> tuple[str, ...]:
    """Return the command line that passes these options on to another program."""
    parser = argparse.ArgumentParser(add_help=False)
    add_arguments(parser)
    found: list[str] = []
    for action in parser._actions:
        value = getattr(arguments, action.dest)
        if value is True:
            found.append(action.option_strings[0])
        elif value not in (None, False, ''):
            found += [action.option_strings[0], str(value)]
    return tuple(found)


@dataclass(frozen=True, slots=True)
class SamplingOptions:
    """Hold how queries are sampled; None leaves the choice to the worker, which has the model."""

    sampler: str | None
    steps: int | None
    guidance_scale: float


def resolve_sampling(
    sampler: str | None,
    steps: int | None,
    guidance_scale: float | None,
    defaults: InferenceDefaults,
) -> SamplingOptions:
    """Return what a user chose, else the defaults of the checkpoint; 0 and '' choose nothing.

    A chosen sampler comes with its own number of steps. Raises ValueError for a guidance scale
    below 1.
    """
    if guidance_scale and guidance_scale < 1.0:
        raise ValueError(
            'guidance scale: want 1 or more, or nothing for that of the checkpoint; '
            f'got {guidance_scale:g}'
        )
    return SamplingOptions(
        sampler or defaults.recipe,
        steps or (None if sampler else defaults.steps),
        guidance_scale or defaults.guidance or DEFAULT_GUIDANCE_SCALE,
    )


def resolve_defaults(arguments: argparse.Namespace) -> None:
    """Resolve the checkpoint in `arguments` and fill in its defaults for what was not given.

    Raises ValueError if the robot, the checkpoint or its base does not exist.
    """
    tag = robot_folders.load_robot(arguments.embodiment).model_tag
    arguments.checkpoint = checkpoints.resolve_checkpoint(arguments.checkpoint, tag)
    arguments.base = checkpoints.resolve_base(arguments.base)
    sampling = resolve_sampling(
        arguments.sampler,
        arguments.steps,
        arguments.guidance_scale,
        checkpoints.read_inference_defaults(arguments.checkpoint, arguments.base),
    )
    arguments.sampler = sampling.sampler or DEFAULT_SAMPLER
    arguments.steps, arguments.guidance_scale = sampling.steps, sampling.guidance_scale


def extend_start_timeout(start_timeout_s: float, engine: str) -> float:
    """Return the limit of a start; one that compiles, or loads a plan, takes much longer."""
    return start_timeout_s if engine == 'eager' else start_timeout_s + COMPILE_TIMEOUT_S


def needs_unconditional_branch(
    sampler: str | None, steps: int | None, guidance_scale: float, guided_video: bool
) -> bool:
    """Return whether the output of the unconditional branch is used at all.

    With a single evaluation the actions are final before guidance could change them.
    """
    evaluated_once = steps == 1 or (not steps and sampler == 'one_step')
    return guidance_scale > 1.0 and (guided_video or not evaluated_once)
