"""The questions of an evaluation: which trials, and what is taken away or changed for them.

`main` is the policy as it is. Every other series varies one thing, on the same scenes.
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

INSTRUCTION_CHANGE_S = 1.0  # in mid-motion: arms move, nothing is reached yet
INSTRUCTION_CHANGE_STREAM, INSTRUCTION_SWAP_STREAM = (
    2,
    3,
)  # of random numbers; 0 and 1 place and draw tasks
MAX_SKIPPED_SCENES = 500  # scenes in a row that offer no such task


@dataclass(frozen=True, slots=True)
class EvalCondition:
    """Ask one question with many trials."""

    name: str
    description: str
    families: tuple[str, ...]  # of those asked for, the ones it makes sense for
    make_trial: Callable[[SimRobot, str, int, str], Trial]
    ablation: str = ''  # of learn.ablations
    inference_options: Mapping[str, Any] = field(default_factory=dict)  # of model.policy.Choice
    checkpoint: str = ''  # which other one; empty: the one under test


def make_plain_trial(
    robot: SimRobot, family: str, seed: int, name: str, task_split: str = task_families.TRAIN_SPLIT
) -> Trial:
    """Ask what the scene of `seed` asks for; ValueError if it asks no such thing."""
    task = task_families.sample_task(family, scenes.sample_scene(robot, seed), seed, task_split)
    return Trial(
        name,
        seed,
        family,
        task_split,
        ((0.0, task.instruction),),
        (task,),
        family_time_limit_s(family),
    )


def make_held_out_trial(robot: SimRobot, family: str, seed: int, name: str) -> Trial:
    """Ask for a combination of words and places that was kept out of training."""
    return make_plain_trial(robot, family, seed, name, task_families.HELD_OUT_SPLIT)


def make_instruction_swap_trial(robot: SimRobot, family: str, seed: int, name: str) -> Trial:
    """Name another object of the scene than the one it was drawn for."""
    scene = scenes.sample_scene(robot, seed)
    task = task_families.sample_task(family, scene, seed, task_families.TRAIN_SPLIT)
    other = task_families.sample_other_task(
        task,
        scene,
        np.random.default_rng([seed, INSTRUCTION_SWAP_STREAM]),
        task_families.TRAIN_SPLIT,
    )
    return Trial(
        name,
        seed,
        family,
        task_families.TRAIN_SPLIT,
        ((0.0, other.instruction),),
        (other, task),
        family_time_limit_s(family),
    )


def make_instruction_change_trial(robot: SimRobot, family: str, seed: int, name: str) -> Trial:
    """Name another object while the arm is on its way to the first."""
    scene = scenes.sample_scene(robot, seed)
    task = task_families.sample_task(family, scene, seed, task_families.TRAIN_SPLIT)
    other = task_families.sample_other_task(
        task,
        scene,
        np.random.default_rng([seed, INSTRUCTION_CHANGE_STREAM]),
        task_families.TRAIN_SPLIT,
    )
    return Trial(
        name,
        seed,
        family,
        task_families.TRAIN_SPLIT,
        ((0.0, task.instruction), (INSTRUCTION_CHANGE_S, other.instruction)),
        (other, task),
        family_time_limit_s(family),
    )


NAMED_OBJECT_FAMILIES = ('touch', 'push', 'lift')  # families that name their object
ALL_FAMILIES = (*NAMED_OBJECT_FAMILIES, 'recall')
MAIN = EvalCondition('main', 'the policy as it is', ALL_FAMILIES, make_plain_trial)
CONDITIONS: Mapping[str, EvalCondition] = {
    series.name: series
    for series in (
        MAIN,
        EvalCondition(
            'swapped',
            'the instruction names another object',
            NAMED_OBJECT_FAMILIES,
            make_instruction_swap_trial,
        ),
        EvalCondition(
            'changed',
            f'it does so after {INSTRUCTION_CHANGE_S:g} s, in mid-motion',
            NAMED_OBJECT_FAMILIES,
            make_instruction_change_trial,
        ),
        EvalCondition(
            'held_out',
            'known words in combinations never trained',
            NAMED_OBJECT_FAMILIES,
            make_held_out_trial,
        ),
        EvalCondition(
            'forgetful',
            'memory reset to the newest frame at every block',
            ('recall', 'touch'),
            make_plain_trial,
            ablation='forgetful',
        ),
        EvalCondition(
            'imagined',
            'imagined latents stay in the memory',
            ALL_FAMILIES,
            make_plain_trial,
            ablation='imagined',
        ),
        EvalCondition(
            'steps_1',
            'one denoising step',
            ALL_FAMILIES,
            make_plain_trial,
            inference_options={'steps': 1},
        ),
        EvalCondition(
            'steps_4',
            'four denoising steps',
            ALL_FAMILIES,
            make_plain_trial,
            inference_options={'steps': 4},
        ),
        EvalCondition(
            'steps_full',
            'sixteen denoising steps',
            ALL_FAMILIES,
            make_plain_trial,
            inference_options={'steps': 16},
        ),
        EvalCondition(
            'guided',
            'with classifier-free guidance',
            ALL_FAMILIES,
            make_plain_trial,
            inference_options={'guidance': 2.0},
        ),
        EvalCondition(
            'flash',
            'one step of a model trained for it (Flash)',
            ALL_FAMILIES,
            make_plain_trial,
            inference_options={'steps': 1},
            checkpoint='flash',
        ),
        EvalCondition(
            'cloned',
            'behaviour cloning without video, same size',
            ALL_FAMILIES,
            make_plain_trial,
            checkpoint='cloned',
        ),
    )
}


def make_trials(
    condition: EvalCondition, robot: SimRobot, families: Sequence[str], episodes: int, seed: int
) -> list[Trial]:
    """Return `episodes` trials, families in turn, from seeds from `seed` on.

    Scenes that cannot ask for what the series wants are passed over. ValueError where a family
    is asked for that the series has no use for, or that never occurs.
    """
    chosen = [family for family in families if family in condition.families]
    if not chosen:
        raise ValueError(
            f'{condition.name} has no trials of {", ".join(families)}; it is made of '
            f'{", ".join(condition.families)}'
        )
    drawing = [_iter_trials(condition, robot, family, seed) for family in chosen]
    return [next(drawing[number % len(chosen)]) for number in range(episodes)]


def _iter_trials(
    condition: EvalCondition, robot: SimRobot, family: str, seed: int
) -> Iterator[Trial]:
    """Yield the trials of one family: the same seeds in every series that can use them."""
    missed = 0
    for turn in count(seed + ALL_FAMILIES.index(family), len(ALL_FAMILIES)):
        try:
            trial = condition.make_trial(robot, family, turn, condition.name)
        except ValueError as error:  # this scene offers no such task: the next one
            missed += 1
            if missed == MAX_SKIPPED_SCENES:
                raise ValueError(
                    f'{condition.name}: {missed} scenes offer no such {family}: {error}'
                ) from error
            continue
        missed = 0
        yield trial
