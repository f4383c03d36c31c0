"""The questions of an evaluation: which trials, and what is taken away or changed for them.

`main` is the policy as it is. Every other series varies one thing, on the same scenes.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import numpy as np

from wam_learning.evaluation.trials import Trial, limit_s
from wam_sim.physics import scene as scenes
from wam_sim.physics.sim_robot import Robot
from wam_sim.tasks import task_families

CHANGED_S = 1.0  # in mid-motion: arms move, nothing is reached yet
CHANGE_STREAM, SWAP_STREAM = 2, 3  # of random numbers; 0 and 1 place and draw tasks
MISSED_AT_MOST = 500  # scenes in a row that offer no such task


@dataclass(frozen=True, slots=True)
class Series:
    """Ask one question with many trials."""

    name: str
    question: str
    families: tuple[str, ...]  # of those asked for, the ones it makes sense for
    made: Callable[[Robot, str, int, str], Trial]
    ablation: str = ''  # of learn.ablations
    choice: Mapping[str, Any] = field(default_factory=dict)  # of model.policy.Choice
    checkpoint: str = ''  # which other one; empty: the one under test


def plain(
    robot: Robot, family: str, seed: int, name: str, combinations: str = task_families.TRAINED
) -> Trial:
    """Ask what the scene of `seed` asks for; ValueError if it asks no such thing."""
    task = task_families.sampled(family, scenes.sampled(robot, seed), seed, combinations)
    return Trial(
        name, seed, family, combinations, ((0.0, task.instruction),), (task,), limit_s(family)
    )


def held_out(robot: Robot, family: str, seed: int, name: str) -> Trial:
    """Ask for a combination of words and places that was kept out of training."""
    return plain(robot, family, seed, name, task_families.UNTRAINED)


def swapped(robot: Robot, family: str, seed: int, name: str) -> Trial:
    """Name another object of the scene than the one it was drawn for."""
    scene = scenes.sampled(robot, seed)
    task = task_families.sampled(family, scene, seed, task_families.TRAINED)
    other = task_families.swapped(
        task, scene, np.random.default_rng([seed, SWAP_STREAM]), task_families.TRAINED
    )
    return Trial(
        name,
        seed,
        family,
        task_families.TRAINED,
        ((0.0, other.instruction),),
        (other, task),
        limit_s(family),
    )


def changed(robot: Robot, family: str, seed: int, name: str) -> Trial:
    """Name another object while the arm is on its way to the first."""
    scene = scenes.sampled(robot, seed)
    task = task_families.sampled(family, scene, seed, task_families.TRAINED)
    other = task_families.swapped(
        task, scene, np.random.default_rng([seed, CHANGE_STREAM]), task_families.TRAINED
    )
    return Trial(
        name,
        seed,
        family,
        task_families.TRAINED,
        ((0.0, task.instruction), (CHANGED_S, other.instruction)),
        (other, task),
        limit_s(family),
    )


NAMED = ('touch', 'push', 'lift')  # families that name their object
EVERY = (*NAMED, 'recall')
MAIN = Series('main', 'the policy as it is', EVERY, plain)
SERIES: Mapping[str, Series] = {
    series.name: series
    for series in (
        MAIN,
        Series('swapped', 'the instruction names another object', NAMED, swapped),
        Series('changed', f'it does so after {CHANGED_S:g} s, in mid-motion', NAMED, changed),
        Series('held_out', 'known words in combinations never trained', NAMED, held_out),
        Series(
            'forgetful',
            'memory reset to the newest frame at every block',
            ('recall', 'touch'),
            plain,
            ablation='forgetful',
        ),
        Series(
            'imagined', 'imagined latents stay in the memory', EVERY, plain, ablation='imagined'
        ),
        Series('steps_1', 'one denoising step', EVERY, plain, choice={'steps': 1}),
        Series('steps_4', 'four denoising steps', EVERY, plain, choice={'steps': 4}),
        Series('steps_full', 'sixteen denoising steps', EVERY, plain, choice={'steps': 16}),
        Series('guided', 'with classifier-free guidance', EVERY, plain, choice={'guidance': 2.0}),
        Series(
            'flash',
            'one step of a model trained for it (Flash)',
            EVERY,
            plain,
            choice={'steps': 1},
            checkpoint='flash',
        ),
        Series(
            'cloned',
            'behaviour cloning without video, same size',
            EVERY,
            plain,
            checkpoint='cloned',
        ),
    )
}


def drawn(
    series: Series, robot: Robot, families: Sequence[str], episodes: int, seed: int
) -> list[Trial]:
    """Return `episodes` trials, families in turn, from seeds from `seed` on.

    Scenes that cannot ask for what the series wants are passed over. ValueError where a family
    is asked for that the series has no use for, or that never occurs.
    """
    chosen = [family for family in families if family in series.families]
    if not chosen:
        raise ValueError(
            f'{series.name} has no trials of {", ".join(families)}; it is made of '
            f'{", ".join(series.families)}'
        )
    drawing = [_trials(series, robot, family, seed) for family in chosen]
    return [next(drawing[number % len(chosen)]) for number in range(episodes)]


def _trials(series: Series, robot: Robot, family: str, seed: int) -> Iterator[Trial]:
    """Yield the trials of one family: the same seeds in every series that can use them."""
    missed = 0
    for turn in count(seed + EVERY.index(family), len(EVERY)):
        try:
            trial = series.made(robot, family, turn, series.name)
        except ValueError as error:  # this scene offers no such task: the next one
            missed += 1
            if missed == MISSED_AT_MOST:
                raise ValueError(
                    f'{series.name}: {missed} scenes offer no such {family}: {error}'
                ) from error
            continue
        missed = 0
        yield trial
