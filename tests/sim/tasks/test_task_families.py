"""Scenes are functions of the seed; predicates say what their instruction says."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wam_sim.physics import scene as scenes
from wam_sim.physics import sim_robot as robots
from wam_sim.physics.scene import CAN, CUBE_HALF_M, OBJECTS, PAD, SPACING_M
from wam_sim.tasks import task_families
from wam_sim.tasks.task_families import SceneState, Task

ROBOTS = [robots.load(name) for name in robots.list_robots()]
TOP_M = 0.75


def make_state(scene: scenes.Scene) -> SceneState:
    """Put everything where the scene says and the hands far above."""
    places = {
        item.slot: np.array([item.x_m, item.y_m, TOP_M + CUBE_HALF_M]) for item in scene.objects
    }
    return SceneState(
        places,
        {slot: np.eye(3) for slot in OBJECTS},
        {'left': np.array([0.3, 0.3, 1.3]), 'right': np.array([0.3, -0.3, 1.3])},
    )


def shift_object(state: SceneState, slot: str, by: tuple[float, float, float]) -> SceneState:
    return replace(state, objects={**state.objects, slot: state.objects[slot] + by})


@given(st.integers(0, 2**31), st.sampled_from(ROBOTS))
@settings(max_examples=60, deadline=None)
def test_objects_lie_apart_inside_the_workspace(seed: int, robot: robots.SimRobot) -> None:
    scene = scenes.sample_scene(robot, seed)
    x_low, x_high, y_low, y_high = robot.workspace
    places = np.array([(item.x_m, item.y_m) for item in scene.objects])
    assert ((places >= [x_low, y_low]) & (places <= [x_high, y_high])).all()
    gaps = [np.linalg.norm(a - b) for i, a in enumerate(places) for b in places[:i]]
    assert min(gaps) >= SPACING_M
    assert len({item.color for item in scene.objects}) == len(scene.objects)
    assert [item.kind for item in scene.objects] == ['cube', 'cube', 'cube', 'can', 'pad']


def test_the_same_seed_is_the_same_scene_and_another_is_not() -> None:
    first, again, other = (scenes.sample_scene(ROBOTS[0], seed) for seed in (4, 4, 5))
    assert first == again
    assert first.objects != other.objects
    assert task_families.sample_task('any', first, 4) == task_families.sample_task('any', again, 4)


@given(st.integers(0, 2**31), st.sampled_from(task_families.FAMILIES))
@settings(max_examples=100, deadline=None)
def test_no_task_is_done_at_the_start_and_each_names_its_cube(seed: int, family: str) -> None:
    scene = scenes.sample_scene(ROBOTS[0], seed)
    task = task_families.sample_task(family, scene, seed)
    state = make_state(scene)
    assert task.family == family
    assert family == 'recall' or scene.find_object(task.slot).color in task.instruction
    assert task.slot != CAN and task.onto != CAN
    assert not task.is_done(state, state)


def test_any_draws_every_family_and_every_wording() -> None:
    scene = scenes.sample_scene(ROBOTS[0], 0)
    drawn = [task_families.sample_task('any', scene, seed) for seed in range(1500)]
    assert {task.family for task in drawn} == set(task_families.FAMILIES)
    wordings = {task.instruction for task in drawn if task.family == 'touch'}
    assert len(wordings) == 3 * 2 * 4  # cubes, hands, templates


def test_unknown_family_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match='touch, push, lift'):
        task_families.sample_task('juggle', scenes.sample_scene(ROBOTS[0], 0), 0)


def test_touch_wants_the_named_hand_at_the_named_cube() -> None:
    start = make_state(scenes.sample_scene(ROBOTS[0], 1))
    task = Task('touch', '', 'cube_1', 'left', '')
    beside = start.objects['cube_1'] + [CUBE_HALF_M + 0.015, 0.0, 0.0]
    assert task.is_done(replace(start, tools={**start.tools, 'left': beside}), start)
    assert not task.is_done(replace(start, tools={**start.tools, 'right': beside}), start)
    far = beside + [0.01, 0.0, 0.0]
    assert not task.is_done(replace(start, tools={**start.tools, 'left': far}), start)
    other = replace(start, tools={**start.tools, 'left': start.objects['cube_0']})
    assert not task.is_done(other, start)


def test_touch_measures_from_the_surface_of_a_turned_cube() -> None:
    start = make_state(scenes.sample_scene(ROBOTS[0], 1))
    c = np.sqrt(0.5)
    turned = replace(
        start,
        rotations={**start.rotations, 'cube_0': np.array([[c, -c, 0], [c, c, 0], [0, 0, 1.0]])},
    )
    corner = start.objects['cube_0'] + [np.sqrt(2) * CUBE_HALF_M + 0.005, 0.0, 0.0]
    assert task_families.distance_to_cube(turned, 'cube_0', corner) == pytest.approx(
        0.005, abs=1e-9
    )


@pytest.mark.parametrize('side, way', [('left', 1.0), ('right', -1.0)])
def test_push_wants_the_direction_and_the_table(side: str, way: float) -> None:
    start = make_state(scenes.sample_scene(ROBOTS[0], 2))
    task = Task('push', '', 'cube_0', side, '')
    assert task.is_done(shift_object(start, 'cube_0', (0.0, way * 0.061, 0.0)), start)
    assert not task.is_done(shift_object(start, 'cube_0', (0.0, way * 0.059, 0.0)), start)
    assert not task.is_done(shift_object(start, 'cube_0', (0.0, -way * 0.1, 0.0)), start)
    assert not task.is_done(shift_object(start, 'cube_0', (0.0, way * 0.1, 0.05)), start)
    assert not task.is_done(shift_object(start, 'cube_1', (0.0, way * 0.1, 0.0)), start)


def test_lift_wants_height() -> None:
    start = make_state(scenes.sample_scene(ROBOTS[0], 2))
    task = Task('lift', '', 'cube_2', '', '')
    assert task.is_done(shift_object(start, 'cube_2', (0.0, 0.0, 0.061)), start)
    assert not task.is_done(shift_object(start, 'cube_2', (0.0, 0.0, 0.059)), start)


def test_pad_wants_the_cube_flat_on_it() -> None:
    start = make_state(scenes.sample_scene(ROBOTS[0], 2))
    task = Task('pad', '', 'cube_0', '', PAD)
    over = start.objects[PAD] - start.objects['cube_0']
    assert task.is_done(shift_object(start, 'cube_0', (over[0] + 0.05, over[1], 0.0)), start)
    assert not task.is_done(shift_object(start, 'cube_0', (over[0] + 0.07, over[1], 0.0)), start)
    assert not task.is_done(shift_object(start, 'cube_0', (over[0], over[1], 0.1)), start)


def test_stack_wants_one_cube_upon_the_other() -> None:
    start = make_state(scenes.sample_scene(ROBOTS[0], 2))
    task = Task('stack', '', 'cube_0', '', 'cube_1')
    over = start.objects['cube_1'] - start.objects['cube_0']
    assert task.is_done(shift_object(start, 'cube_0', (over[0], over[1], 2 * CUBE_HALF_M)), start)
    assert not task.is_done(shift_object(start, 'cube_0', (over[0], over[1], 0.1)), start)
    assert not task.is_done(shift_object(start, 'cube_0', (over[0] + 0.03, over[1], 0.05)), start)


@given(st.integers(0, 2**31), st.sampled_from(task_families.LEARNED_FAMILIES))
@settings(max_examples=100, deadline=None)
def test_trained_and_held_out_share_no_combination(seed: int, family: str) -> None:
    scene = scenes.sample_scene(ROBOTS[0], seed)
    for combinations in (task_families.TRAIN_SPLIT, task_families.HELD_OUT_SPLIT):
        if not task_families.is_available(family, scene, combinations):
            with pytest.raises(ValueError, match='use another seed'):
                task_families.sample_task(family, scene, seed, combinations)
            continue
        task = task_families.sample_task(family, scene, seed, combinations)
        held_out = task_families.is_held_out(
            family, scene, scene.find_object(task.slot), task.side
        )
        assert held_out == (combinations == task_families.HELD_OUT_SPLIT)


def test_every_word_of_a_held_out_combination_is_trained() -> None:
    said = {'touch': set(), 'push': set()}
    for seed in range(400):
        scene = scenes.sample_scene(ROBOTS[0], seed)
        for family, words in said.items():
            if task_families.is_available(family, scene, task_families.TRAIN_SPLIT):
                task = task_families.sample_task(family, scene, seed, task_families.TRAIN_SPLIT)
                words.add((scene.find_object(task.slot).color, task.side))
    for family, pairs in task_families.HELD_OUT_PAIRS.items():
        for color, side in pairs:
            assert any(color == c for c, _ in said[family])
            assert any(side == s for _, s in said[family])
            assert (color, side) not in said[family]


@given(st.integers(0, 2**31), st.sampled_from(['touch', 'lift', 'recall']))
@settings(max_examples=60, deadline=None)
def test_a_swapped_task_names_another_cube(seed: int, family: str) -> None:
    scene = scenes.sample_scene(ROBOTS[0], seed)
    task = task_families.sample_task(family, scene, seed)
    try:
        other = task_families.sample_other_task(task, scene, np.random.default_rng(seed))
    except ValueError:
        return  # one cube alone is clear of the middle
    assert (other.family, other.slot != task.slot) == (family, True)


def test_recall_names_no_colour_and_marks_for_its_time() -> None:
    for seed in range(40):
        task = task_families.sample_task('recall', scenes.sample_scene(ROBOTS[0], seed), seed)
        assert not any(color in task.instruction for color in scenes.PALETTE)
        assert task.side in task.instruction
        assert task_families.MARK_S[0] <= task.mark_s <= task_families.MARK_S[1]
        # the first picture of a memory does not show it, and two blocks of 0.8 s hold all of it
        assert task.mark_from_s > 0.2 and task.mark_end_s < 1.6
