"""Every series draws its trials from the same scenes and asks what its name says."""

import pytest

from wam_learning.evaluation.eval_conditions import (
    ALL_FAMILIES,
    CONDITIONS,
    MAIN,
    NAMED_OBJECT_FAMILIES,
    make_trials,
)
from wam_sim.physics import scene as scenes
from wam_sim.physics import sim_robot as robots
from wam_sim.tasks import task_families

SEED = 9_000_000


@pytest.fixture(scope='module')
def robot():
    return robots.load('agibot_g1')


def test_families_take_turns_and_scenes_are_those_of_every_series(robot):
    trials = make_trials(MAIN, robot, ALL_FAMILIES, 12, SEED)
    assert [trial.family for trial in trials[:5]] == ['touch', 'push', 'lift', 'recall', 'touch']
    assert len({trial.seed for trial in trials}) == 12
    alone = make_trials(CONDITIONS['steps_1'], robot, ('push',), 3, SEED)
    assert [trial.seed for trial in alone] == [
        trial.seed for trial in trials if trial.family == 'push'
    ]
    assert trials == make_trials(MAIN, robot, ALL_FAMILIES, 12, SEED)


def test_trained_words_are_kept_apart_from_those_held_out(robot):
    for trial in make_trials(CONDITIONS['held_out'], robot, NAMED_OBJECT_FAMILIES, 6, SEED):
        scene, task = scenes.sample_scene(robot, trial.seed), trial.goals[0]
        assert task_families.is_held_out(
            task.family, scene, scene.find_object(task.slot), task.side
        )
    for trial in make_trials(MAIN, robot, NAMED_OBJECT_FAMILIES, 12, SEED):
        scene, task = scenes.sample_scene(robot, trial.seed), trial.goals[0]
        assert not task_families.is_held_out(
            task.family, scene, scene.find_object(task.slot), task.side
        )


@pytest.mark.parametrize('name', ['instruction_swap', 'instruction_change'])
def test_another_object_is_named_and_the_first_one_watched(robot, name):
    for trial in make_trials(CONDITIONS[name], robot, NAMED_OBJECT_FAMILIES, 9, SEED):
        named, original = trial.goals
        assert named.slot != original.slot and named.family == original.family == trial.family
        assert trial.instructions[-1][1] == named.instruction
        assert trial.last_instruction_s == trial.instructions[-1][0]
        first = make_trials(
            MAIN, robot, (trial.family,), 1, trial.seed - ALL_FAMILIES.index(trial.family)
        )[0]
        assert original == first.goals[0]
    assert (len(trial.instructions) == 2) == (name == 'instruction_change')


def test_a_family_without_use_is_refused(robot):
    with pytest.raises(ValueError, match='instruction_swap has no trials of recall'):
        make_trials(CONDITIONS['instruction_swap'], robot, ('recall',), 1, SEED)


def test_recall_shows_a_mark_and_says_no_colour(robot):
    trial = make_trials(MAIN, robot, ('recall',), 1, SEED)[0]
    scene = scenes.sample_scene(robot, trial.seed)
    assert trial.goals[0].mark_s > 0
    assert not any(cube.color in trial.instructions[0][1] for cube in scene.cubes)
    assert trial.limit_s == 9.0
