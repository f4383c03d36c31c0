"""Instructed tasks: what a scene asks for, in words and as a predicate over the state.

Predicates are pure: they see where objects and tools are now and were at the start. Left and
right are the robot's own, left is +y. No task is solvable without its instruction: every scene
holds three cubes and both hands reach them all.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from wam_sim.scene import CUBE_HALF_M, PAD, PAD_RADIUS_M, Item, Scene

TOUCH_M = 0.02                              # tool point to the cube's surface
PUSH_M = 0.06
LIFT_M = 0.06
ON_TABLE_M = 0.01                           # change of height of what still lies flat
STACK_OFF_M = 0.02                          # sideways, centre to centre

SIDES = ('left', 'right')
TEXTS: Mapping[str, tuple[str, ...]] = {
    'touch': ('touch the {colour} cube with the {side} hand',
              'put the {side} hand on the {colour} cube',
              'use the {side} hand to touch the {colour} cube',
              '{side} hand: touch the {colour} cube'),
    'push': ('push the {colour} cube to the {side}',
             'move the {colour} cube to the {side}',
             'slide the {colour} cube {side}',
             'shove the {colour} cube over to the {side}'),
    'lift': ('lift the {colour} cube',
             'pick up the {colour} cube',
             'raise the {colour} cube off the table',
             'take the {colour} cube up'),
    'pad': ('push the {colour} cube onto the {other} pad',
            'put the {colour} cube on the {other} pad',
            'bring the {colour} cube to the {other} pad'),
    'stack': ('stack the {colour} cube on the {other} cube',
              'put the {colour} cube on top of the {other} cube',
              'place the {colour} cube on the {other} cube'),
}
FAMILIES = tuple(TEXTS)
ANY = 'any'


@dataclass(frozen=True, slots=True, eq=False)
class State:
    """Hold where things are, m in the world frame."""

    objects: Mapping[str, np.ndarray]       # slot -> centre [3]
    rotations: Mapping[str, np.ndarray]     # slot -> body axes as columns [3 3]
    tools: Mapping[str, np.ndarray]         # side -> point between the finger pads [3]


@dataclass(frozen=True, slots=True)
class Task:
    """Ask for one thing to be done to one cube."""

    family: str                             # one of FAMILIES
    instruction: str
    slot: str                               # the cube it is about
    side: str                               # hand (touch) or direction (push); else empty
    onto: str                               # slot it goes onto (pad, stack); else empty

    def done(self, now: State, start: State) -> bool:
        """Tell whether the goal holds now; `start` is the state at the beginning."""
        centre, first = now.objects[self.slot], start.objects[self.slot]
        flat = abs(centre[2] - first[2]) < ON_TABLE_M
        if self.family == 'touch':
            return distance_to_cube(now, self.slot, now.tools[self.side]) < TOUCH_M
        if self.family == 'push':
            way = 1.0 if self.side == 'left' else -1.0
            return bool(flat and way * (centre[1] - first[1]) >= PUSH_M)
        if self.family == 'lift':
            return bool(centre[2] - first[2] >= LIFT_M)
        beside = np.linalg.norm((centre - now.objects[self.onto])[:2])
        if self.family == 'pad':
            return bool(flat and beside < PAD_RADIUS_M)
        above = centre[2] - now.objects[self.onto][2] - 2 * CUBE_HALF_M
        return bool(beside < STACK_OFF_M and abs(above) < ON_TABLE_M)


def distance_to_cube(state: State, slot: str, point: np.ndarray) -> float:
    """Return how far `point` is from the surface of a cube, m; 0 inside."""
    local = state.rotations[slot].T @ (point - state.objects[slot])
    return float(np.linalg.norm(np.maximum(np.abs(local) - CUBE_HALF_M, 0.0)))


def sampled(family: str, scene: Scene, seed: int) -> Task:
    """Return the task of `seed`; family 'any' draws one. ValueError lists the families."""
    if family not in (ANY, *FAMILIES):
        raise ValueError(f'no task {family!r}; known: {ANY}, {", ".join(FAMILIES)}')
    rng = np.random.default_rng([seed, 1])          # not the stream that placed the objects
    if family == ANY:
        family = str(rng.choice(FAMILIES))
    cubes = [scene.cubes[i] for i in rng.permutation(len(scene.cubes))]
    cube, side, onto = cubes[0], '', ''
    if family == 'touch':
        side = str(rng.choice(SIDES))
    elif family == 'push':
        side = _open_side(scene, cube)
    elif family == 'pad':
        onto = PAD
    elif family == 'stack':
        onto = cubes[1].slot
    text = str(rng.choice(TEXTS[family]))
    other = scene.item(onto).colour if onto else ''
    return Task(family, text.format(colour=cube.colour, side=side, other=other), cube.slot, side,
                onto)


def _open_side(scene: Scene, cube: Item) -> str:
    """Return the side with more room before the next object or the end of the workspace."""
    near = [item.y_m - cube.y_m for item in scene.items if item.slot not in (cube.slot, PAD)
            and abs(item.x_m - cube.x_m) < 4 * CUBE_HALF_M]
    room = {'left': min([gap for gap in near if gap > 0], default=1.0),
            'right': min([-gap for gap in near if gap <= 0], default=1.0)}
    room['left'] -= max(0.0, cube.y_m)      # away from the middle is away from the other hand
    room['right'] -= max(0.0, -cube.y_m)
    return max(room, key=room.__getitem__)
