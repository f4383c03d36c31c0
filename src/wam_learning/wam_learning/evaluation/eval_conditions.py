"""The conditions of an evaluation: which trials to run, and what is changed or ablated for them.

`main` is the unchanged policy. Every other condition varies one thing, on the same scenes.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import numpy as np

from wam_learning.evaluation.trials import Trial, family_time_limit_s
from wam_sim.physics import scene as scenes
from wam_sim.physics.sim_robot import SimRobot
from wam_sim.tasks import task_families
from wam_sim.tasks.task_families import Task

INSTRUCTION_CHANGE_S = 1.0  # arms move, no goal is reached yet
# random streams; 0 and 1 place objects and sample tasks
INSTRUCTION_CHANGE_STREAM, INSTRUCTION_SWAP_STREAM = 2, 3
MAX_SKIPPED_SCENES = 500  # consecutive scenes without such a task


@dataclass(frozen=True, slots=True)
class EvalCondition:
    """Describe one condition: how its trials are made and which policy runs them."""

    name: str
    description: str
    families: tuple[str, ...]  # to which the condition applies
    make_trial: Callable[[SimRobot, str, int, str], Trial]
    ablation: str = ''  # one of ablations.ABLATIONS
    # fields of InferenceOptions
    inference_options: Mapping[str, Any] = field(default_factory=dict)
    checkpoint: str = ''  # option that names its checkpoint; empty: the one under test


def make_plain_trial(
    robot: SimRobot, family: str, seed: int, name: str, task_split: str = task_families.TRAIN_SPLIT
) -> Trial:
    """Return a trial of the task of scene `seed`; raise ValueError if it has no such task."""
    task = task_families.sample_task(family, scenes.sample_scene(robot, seed), seed, task_split)
    return _make_trial(name, seed, task_split, ((0.0, task.instruction),), (task,))


def make_held_out_trial(robot: SimRobot, family: str, seed: int, name: str) -> Trial:
    """Return a trial with a combination of words and places that was held out of training."""
    return make_plain_trial(robot, family, seed, name, task_families.HELD_OUT_SPLIT)


def make_instruction_swap_trial(robot: SimRobot, family: str, seed: int, name: str) -> Trial:
    """Return a trial whose instruction names another object than the sampled task."""
    task, other = _sample_two_tasks(robot, family, seed, INSTRUCTION_SWAP_STREAM)
    instructions = ((0.0, other.instruction),)
    return _make_trial(name, seed, task_families.TRAIN_SPLIT, instructions, (other, task))


def make_instruction_change_trial(robot: SimRobot, family: str, seed: int, name: str) -> Trial:
    """Return a trial that names another object while the arm moves to the first one."""
    task, other = _sample_two_tasks(robot, family, seed, INSTRUCTION_CHANGE_STREAM)
    instructions = ((0.0, task.instruction), (INSTRUCTION_CHANGE_S, other.instruction))
    return _make_trial(name, seed, task_families.TRAIN_SPLIT, instructions, (other, task))


def _sample_two_tasks(robot: SimRobot, family: str, seed: int, stream: int) -> tuple[Task, Task]:
    """Return the task of a scene, and one of the same family with another object."""
    scene, split = scenes.sample_scene(robot, seed), task_families.TRAIN_SPLIT
    task = task_families.sample_task(family, scene, seed, split)
    rng = np.random.default_rng([seed, stream])
    return task, task_families.sample_other_task(task, scene, rng, split)


def _make_trial(
    name: str,
    seed: int,
    task_split: str,
    instructions: tuple[tuple[float, str], ...],
    goals: tuple[Task, ...],
) -> Trial:
    family = goals[0].family
    limit_s = family_time_limit_s(family)
    return Trial(name, seed, family, task_split, instructions, goals, limit_s)


NAMED_OBJECT_FAMILIES = ('touch', 'push', 'lift')  # families that name their object
ALL_FAMILIES = (*NAMED_OBJECT_FAMILIES, 'recall')


def make_condition(
    name: str, description: str = '', families: tuple[str, ...] = ALL_FAMILIES, **named: Any
) -> EvalCondition:
    """Return a condition with plain trials; `named` are further fields of EvalCondition."""
    return EvalCondition(name, description, families, make_plain_trial, **named)


MAIN = make_condition('main', 'the unchanged policy')
CONDITIONS: Mapping[str, EvalCondition] = {
    condition.name: condition
    for condition in (
        MAIN,
        EvalCondition(
            'instruction_swap',
            'the instruction names another object',
            NAMED_OBJECT_FAMILIES,
            make_instruction_swap_trial,
        ),
        EvalCondition(
            'instruction_change',
            f'the instruction changes after {INSTRUCTION_CHANGE_S:g} s, in motion',
            NAMED_OBJECT_FAMILIES,
            make_instruction_change_trial,
        ),
        EvalCondition(
            'held_out',
            'known words in combinations that were never trained',
            NAMED_OBJECT_FAMILIES,
            make_held_out_trial,
        ),
        make_condition(
            'memory_reset',
            'memory reset to the newest frame before every block',
            ('recall', 'touch'),
            ablation='memory_reset',
        ),
        make_condition(
            'imagined_context',
            'predicted latents replace observed ones in the memory',
            ablation='imagined_context',
        ),
        make_condition('steps_1', 'one denoising step', inference_options={'steps': 1}),
        make_condition('steps_4', 'four denoising steps', inference_options={'steps': 4}),
        make_condition('steps_full', 'sixteen denoising steps', inference_options={'steps': 16}),
        make_condition(
            'guided', 'with classifier-free guidance', inference_options={'guidance': 2.0}
        ),
        make_condition(
            'flash',
            'one step of a model trained for it (Flash)',
            inference_options={'steps': 1},
            checkpoint='flash_checkpoint',
        ),
        make_condition(
            'behavior_cloning',
            'behavior cloning without video, same model size',
            checkpoint='bc_checkpoint',
        ),
    )
}
DEPRECATED_NAMES = {
    'swapped': 'instruction_swap',
    'changed': 'instruction_change',
    'forgetful': 'memory_reset',
    'imagined': 'imagined_context',
    'cloned': 'behavior_cloning',
}


def make_trials(
    condition: EvalCondition, robot: SimRobot, families: Sequence[str], episodes: int, seed: int
) -> list[Trial]:
    """Return `episodes` trials with increasing seeds from `seed` on, families in turn.

    Skip scenes that do not offer the task. Raise ValueError if the condition applies to none of
    `families`, or if MAX_SKIPPED_SCENES scenes in a row do not offer the task.
    """
    chosen = [family for family in families if family in condition.families]
    if not chosen:
        raise ValueError(
            f'{condition.name} has no trials of {", ".join(families)}; it applies to '
            f'{", ".join(condition.families)}'
        )
    streams = [_iter_trials(condition, robot, family, seed) for family in chosen]
    return [next(streams[number % len(chosen)]) for number in range(episodes)]


def _iter_trials(
    condition: EvalCondition, robot: SimRobot, family: str, seed: int
) -> Iterator[Trial]:
    """Yield the trials of one family; all conditions use the same seeds where possible."""
    skipped = 0
    for turn in count(seed + ALL_FAMILIES.index(family), len(ALL_FAMILIES)):
        try:
            trial = condition.make_trial(robot, family, turn, condition.name)
        except ValueError as error:  # this scene offers no such task
            skipped += 1
            if skipped == MAX_SKIPPED_SCENES:
                raise ValueError(
                    f'{condition.name}: {skipped} scenes offer no such {family}: {error}'
                ) from error
            continue
        skipped = 0
        yield trial
