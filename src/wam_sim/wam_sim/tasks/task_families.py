"""Instructed tasks: an instruction for a scene, and a success predicate over the state.

Predicates use only the positions of objects and tools, now and at the start. Left and right are
the robot's, left is +y; the side of a single hand is 'only'. No task can be solved without its
instruction: every scene has three cubes and every hand reaches all of them. Some combinations of
known words are held out of training, to measure whether a model generalizes over words.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from wam_sim.physics.scene import CUBE_HALF_M, PAD, PAD_RADIUS_M, Scene, SceneObject
from wam_sim.physics.sim_robot import BOTH_HANDS, SINGLE_HAND

TOUCH_M = 0.02  # tool point to the cube's surface
PUSH_M = 0.06
LIFT_M = 0.06
ON_TABLE_M = 0.01  # height change of an object that is still on the table
STACK_OFF_M = 0.02  # sideways, center to center
# A mark appears after the first image of the memory and is hidden before its second block ends
MARK_FROM_S = (0.25, 0.45)  # after the instruction was sent
MODEL_BLOCK_S = 0.8  # of the model's memory; hands wait for the end of a block
MARK_S = (0.5, 1.1)  # shortest and longest time that a cube is marked
MIDDLE_M = 0.02  # a cube this close to y = 0 is assigned to no hand
PUSH_ROOM_M = 0.16  # to the center of the next object in the push direction
PUSH_END_M = 0.21  # from the middle; still visible and reachable

SIDES, ONLY = BOTH_HANDS, SINGLE_HAND[0]
INSTRUCTION_TEMPLATES: Mapping[str, tuple[str, ...]] = {
    'touch': (
        'touch the {color} cube with the {side} hand',
        'put the {side} hand on the {color} cube',
        'use the {side} hand to touch the {color} cube',
        '{side} hand: touch the {color} cube',
    ),
    'push': (
        'push the {color} cube to the {side}',
        'move the {color} cube to the {side}',
        'slide the {color} cube {side}',
        'shove the {color} cube over to the {side}',
    ),
    'lift': (
        'lift the {color} cube',
        'pick up the {color} cube',
        'raise the {color} cube off the table',
        'take the {color} cube up',
    ),
    'recall': (
        'touch the cube that was marked with the {side} hand',
        'put the {side} hand on the cube that was marked',
        'use the {side} hand to touch the cube that was marked',
        '{side} hand: touch the cube that was marked',
    ),
    'pad': (
        'push the {color} cube onto the {other} pad',
        'put the {color} cube on the {other} pad',
        'bring the {color} cube to the {other} pad',
    ),
    'stack': (
        'stack the {color} cube on the {other} cube',
        'put the {color} cube on top of the {other} cube',
        'place the {color} cube on the {other} cube',
    ),
}
SINGLE_HAND_TEMPLATES: Mapping[str, tuple[str, ...]] = {  # of families that name a hand
    'touch': (
        'touch the {color} cube',
        'put the gripper on the {color} cube',
        'move to the {color} cube and touch it',
        'use the gripper to touch the {color} cube',
    ),
    'recall': (
        'touch the cube that was marked',
        'put the gripper on the cube that was marked',
        'move to the cube that was marked and touch it',
        'use the gripper to touch the cube that was marked',
    ),
}
FAMILIES = tuple(INSTRUCTION_TEMPLATES)
LEARNED_FAMILIES = ('touch', 'push', 'lift', 'recall')
ANY, LEARNED = 'any', 'learned'  # groups: sample one of all families, or of those used in training
GROUPS = {ANY: FAMILIES, LEARNED: LEARNED_FAMILIES}

# family -> (color, side) not in the training data, although each word is
HELD_OUT_PAIRS: Mapping[str, frozenset[tuple[str, str]]] = {
    'touch': frozenset({('purple', 'left'), ('orange', 'right')}),
    'push': frozenset({('red', 'left'), ('blue', 'right')}),
}
HELD_OUT_LIFT_COLOR = 'yellow'  # if the cube is far and left
ALL_SPLIT, TRAIN_SPLIT, HELD_OUT_SPLIT = 'all', 'trained', 'held_out'
TASK_SPLITS = (ALL_SPLIT, TRAIN_SPLIT, HELD_OUT_SPLIT)


@dataclass(frozen=True, slots=True, eq=False)
class SceneState:
    """Positions of objects and tools, m in the world frame."""

    objects: Mapping[str, np.ndarray]  # slot -> center [3]
    rotations: Mapping[str, np.ndarray]  # slot -> body axes as columns [3 3]
    tools: Mapping[str, np.ndarray]  # side -> point between the finger pads [3]


@dataclass(frozen=True, slots=True)
class Task:
    """One task for one cube."""

    family: str  # one of FAMILIES
    instruction: str
    slot: str  # of the cube
    side: str  # hand (touch, recall: left, right, only) or direction (push); else empty
    onto: str  # slot of the target (pad, stack); else empty
    mark_s: float = 0.0  # how long the cube is marked at the start (recall)
    mark_from_s: float = 0.0  # start of the mark, after the instruction was sent

    @property
    def mark_end_s(self) -> float:
        """Return when the mark is hidden, s after the instruction was sent; 0 without a mark."""
        return self.mark_from_s + self.mark_s

    @property
    def hands_start_s(self) -> float:
        """Return when hands may start, s after the instruction: mark hidden and block ended."""
        return float(np.ceil(self.mark_end_s / MODEL_BLOCK_S) * MODEL_BLOCK_S)

    def is_done(self, now: SceneState, start: SceneState) -> bool:
        """Return whether the goal holds now; `start` is the state at the start."""
        center, first = now.objects[self.slot], start.objects[self.slot]
        flat = abs(center[2] - first[2]) < ON_TABLE_M
        if self.family in ('touch', 'recall'):
            return distance_to_cube(now, self.slot, now.tools[self.side]) < TOUCH_M
        if self.family == 'push':
            way = 1.0 if self.side == 'left' else -1.0
            return bool(flat and way * (center[1] - first[1]) >= PUSH_M)
        if self.family == 'lift':
            return bool(center[2] - first[2] >= LIFT_M)
        beside = np.linalg.norm((center - now.objects[self.onto])[:2])
        if self.family == 'pad':
            return bool(flat and beside < PAD_RADIUS_M)
        above = center[2] - now.objects[self.onto][2] - 2 * CUBE_HALF_M
        return bool(beside < STACK_OFF_M and abs(above) < ON_TABLE_M)


def distance_to_cube(state: SceneState, slot: str, point: np.ndarray) -> float:
    """Return the distance of `point` [3] from the surface of a cube, m; 0 inside."""
    local = state.rotations[slot].T @ (point - state.objects[slot])
    return float(np.linalg.norm(np.maximum(np.abs(local) - CUBE_HALF_M, 0.0)))


def sample_task(family: str, scene: Scene, seed: int, task_split: str = ALL_SPLIT) -> Task:
    """Return the task of `seed`; for a group ('any', 'learned') sample a family.

    Raises ValueError for an unknown family or if the scene has no such combination.
    """
    if family not in (*GROUPS, *FAMILIES):
        raise ValueError(f'no task {family!r}; want one of {", ".join((*GROUPS, *FAMILIES))}')
    rng = np.random.default_rng([seed, 1])  # a stream different from that of the placement
    if family in GROUPS:
        found = find_available_families(GROUPS[family], scene, task_split)
        if not found:
            raise ValueError(
                f'scene {scene.seed} has no task of split {task_split}; use another seed'
            )
        family = str(rng.choice(found))
    return _make_task(family, scene, _find_choices(family, scene, task_split), rng)


def sample_other_task(
    task: Task, scene: Scene, rng: np.random.Generator, task_split: str = ALL_SPLIT
) -> Task:
    """Return a task of the same family for another cube of the same scene."""
    choices = [
        (cube, side)
        for cube, side in _find_choices(task.family, scene, task_split)
        if cube.slot != task.slot
    ]
    return _make_task(task.family, scene, choices, rng)


def find_available_families(
    families: tuple[str, ...], scene: Scene, task_split: str = ALL_SPLIT
) -> list[str]:
    """Return which of `families` are possible in the scene and split."""
    return [family for family in families if _find_choices(family, scene, task_split)]


def is_available(task: str, scene: Scene, task_split: str = ALL_SPLIT) -> bool:
    """Return whether a family or group is possible in the scene and split."""
    return bool(find_available_families(GROUPS.get(task, (task,)), scene, task_split))


def is_held_out(family: str, scene: Scene, cube: SceneObject, side: str) -> bool:
    """Return whether the combination of words and position is held out of training."""
    if family == 'lift':
        return bool(
            cube.color == HELD_OUT_LIFT_COLOR and cube.y_m > 0 and cube.x_m > scene.middle_x_m
        )
    return (cube.color, side) in HELD_OUT_PAIRS.get(family, ())


def _make_task(
    family: str, scene: Scene, choices: list[tuple[SceneObject, str]], rng: np.random.Generator
) -> Task:
    if not choices:
        raise ValueError(
            f'scene {scene.seed} has no {family} task of this split; use another seed'
        )
    cube, side = choices[rng.integers(len(choices))]
    onto = ''
    if family == 'pad':
        onto = PAD
    elif family == 'stack':
        onto = str(rng.choice([other.slot for other in scene.cubes if other != cube]))
    templates = SINGLE_HAND_TEMPLATES if side == ONLY else INSTRUCTION_TEMPLATES
    text = str(rng.choice(templates[family]))
    marked = family == 'recall'
    mark_s, mark_from_s = (
        round(float(rng.uniform(*span)), 3) if marked else 0.0 for span in (MARK_S, MARK_FROM_S)
    )
    other = scene.find_object(onto).color if onto else ''
    return Task(
        family,
        text.format(color=cube.color, side=side, other=other),
        cube.slot,
        side,
        onto,
        mark_s,
        mark_from_s,
    )


def _find_choices(family: str, scene: Scene, task_split: str) -> list[tuple[SceneObject, str]]:
    """Return all pairs of cube and side that are possible for the family and split."""
    if task_split not in TASK_SPLITS:
        raise ValueError(f'no task split {task_split!r}; want one of {", ".join(TASK_SPLITS)}')
    cubes = scene.cubes
    if family in ('push', 'lift'):  # one hand must be closer
        cubes = tuple(cube for cube in cubes if abs(cube.y_m) >= MIDDLE_M)
    sides = {
        cube.slot: _find_free_sides(scene, cube)
        if family == 'push'
        else scene.hand_sides
        if family in ('touch', 'recall')
        else ('',)
        for cube in cubes
    }
    found = [(cube, side) for cube in cubes for side in sides[cube.slot]]
    if task_split == ALL_SPLIT:
        return found
    wanted = task_split == HELD_OUT_SPLIT
    return [pair for pair in found if is_held_out(family, scene, *pair) == wanted]


def _find_free_sides(scene: Scene, cube: SceneObject) -> tuple[str, ...]:
    """Return the sides to which a cube can be pushed, at least the one with more room."""
    near = [
        item.y_m - cube.y_m
        for item in scene.objects
        if item.slot not in (cube.slot, PAD) and abs(item.x_m - cube.x_m) < 4 * CUBE_HALF_M
    ]
    gaps = {
        'left': min([gap for gap in near if gap > 0], default=1.0),
        'right': min([-gap for gap in near if gap <= 0], default=1.0),
    }
    ends = {'left': cube.y_m + PUSH_M, 'right': PUSH_M - cube.y_m}
    room = {side: min(gaps[side] - PUSH_ROOM_M, PUSH_END_M - ends[side]) for side in SIDES}
    return tuple(side for side in SIDES if room[side] >= 0) or (max(room, key=room.__getitem__),)
