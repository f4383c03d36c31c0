"""The table and its objects: one model for all scenes, one placement per seed.

Objects are slots whose color and position change, so a new scene needs no new model. A scene is a
pure function of robot and seed.
"""

from dataclasses import dataclass

import mujoco
import numpy as np

from wam_sim.physics.mjcf_model import EXTERNAL_VIEW_GROUP, HIDDEN_GROUP, OBJECT_BIT, TABLE_BIT
from wam_sim.physics.sim_robot import BOTH_HANDS, SimRobot

PALETTE = {
    'red': (0.86, 0.09, 0.09),
    'green': (0.1, 0.62, 0.18),
    'blue': (0.1, 0.27, 0.9),
    'yellow': (0.96, 0.8, 0.05),
    'purple': (0.55, 0.16, 0.72),
    'orange': (0.98, 0.45, 0.04),
}
CUBE_HALF_M = 0.025
CAN_RADIUS_M, CAN_HALF_M = 0.024, 0.035
PAD_RADIUS_M, PAD_HALF_M = 0.06, 0.001
MARK_RADIUS_M = 0.06  # shown around a cube for a limited time, for memory tasks
YAW_RAD = 0.35  # so that fingers open along y fit around every cube
SPACING_M = 0.11  # between centers, so that fingers fit between two cubes
MAX_PLACEMENT_TRIES = 100_000
CUBES = ('cube_0', 'cube_1', 'cube_2')
CAN, PAD, MARK = 'can', 'pad', 'mark'
OBJECTS = (*CUBES, CAN)  # slots that move freely
HIDDEN_POSITION = (0.0, 0.0, -1.0)  # m, under the floor


@dataclass(frozen=True, slots=True)
class SceneObject:
    """One object on the table, frame: world."""

    slot: str
    kind: str  # cube, can or pad
    color: str
    x_m: float
    y_m: float
    yaw_rad: float


@dataclass(frozen=True, slots=True)
class Scene:
    """Objects of one seed."""

    seed: int
    objects: tuple[SceneObject, ...]
    middle_x_m: float  # of the workspace; larger x counts as far
    hand_sides: tuple[str, ...] = BOTH_HANDS  # of the robot

    @property
    def cubes(self) -> tuple[SceneObject, ...]:
        return tuple(item for item in self.objects if item.kind == 'cube')

    def find_object(self, slot: str) -> SceneObject:
        return next(item for item in self.objects if item.slot == slot)


def sample_scene(robot: SimRobot, seed: int) -> Scene:
    """Return the scene of `seed`: three cubes, a can and a pad, SPACING_M apart."""
    rng = np.random.default_rng(seed)
    x_low, x_high, y_low, y_high = robot.workspace
    low, high = np.array([x_low, y_low]), np.array([x_high, y_high])
    colors = rng.permutation(list(PALETTE))
    for _ in range(MAX_PLACEMENT_TRIES):
        places = rng.uniform(low, high, size=(len(OBJECTS) + 1, 2))
        gaps = np.linalg.norm(places[:, None] - places[None], axis=2)
        if gaps[np.triu_indices(len(places), 1)].min() >= SPACING_M:
            break
    else:
        raise ValueError(
            f'{robot.name}: the workspace {robot.workspace} is too small for '
            f'{len(places)} objects {SPACING_M} m apart; widen it in robot.yaml'
        )
    yaws = rng.uniform(-YAW_RAD, YAW_RAD, len(places))
    kinds = ('cube', 'cube', 'cube', 'can', 'pad')
    return Scene(
        seed,
        tuple(
            SceneObject(
                slot,
                kind,
                'grey' if kind == 'pad' else str(color),
                float(x),
                float(y),
                float(yaw),
            )
            for slot, kind, color, (x, y), yaw in zip(
                (*OBJECTS, PAD), kinds, colors[: len(kinds)], places, yaws, strict=True
            )
        ),
        (x_low + x_high) / 2,
        robot.hand_sides,
    )


def add_scene(spec: mujoco.MjSpec, robot: SimRobot, *, high_quality: bool) -> None:
    """Add floor, lights, table and object slots to `spec`; `high_quality` for screenshots."""
    _add_lights(spec)
    _add_floor(spec, high_quality)
    _add_table(spec, robot)
    for slot in OBJECTS:
        body = spec.worldbody.add_body(name=slot, pos=HIDDEN_POSITION)
        body.add_freejoint(name=slot)
        is_can = slot == CAN
        body.add_geom(
            name=slot,
            mass=0.06 if is_can else 0.08,
            type=mujoco.mjtGeom.mjGEOM_CYLINDER if is_can else mujoco.mjtGeom.mjGEOM_BOX,
            size=[CAN_RADIUS_M, CAN_HALF_M, 0.0] if is_can else [CUBE_HALF_M] * 3,
            contype=OBJECT_BIT,
            conaffinity=OBJECT_BIT | TABLE_BIT,
            friction=[0.9, 0.01, 0.0002],
            condim=4,
        )
    pad = spec.worldbody.add_body(name=PAD, mocap=True)
    pad.add_geom(
        name=PAD,
        type=mujoco.mjtGeom.mjGEOM_CYLINDER,
        contype=0,
        conaffinity=0,
        size=[PAD_RADIUS_M, PAD_HALF_M, 0.0],
        rgba=[0.3, 0.32, 0.36, 1.0],
    )
    mark = spec.worldbody.add_body(name=MARK, mocap=True, pos=HIDDEN_POSITION)
    spec.add_material(name=MARK, rgba=[1.0, 1.0, 1.0, 1.0], emission=1.0)
    mark.add_geom(
        name=MARK,
        type=mujoco.mjtGeom.mjGEOM_CYLINDER,
        contype=0,
        conaffinity=0,
        size=[MARK_RADIUS_M, 1.5 * PAD_HALF_M, 0.0],
        material=MARK,
    )


def place_objects(
    model: mujoco.MjModel, data: mujoco.MjData, robot: SimRobot, scene: Scene
) -> None:
    """Set position and color of every object of `scene`, at rest."""
    top = robot.table.height_m
    for item in scene.objects:
        if item.kind == 'pad':
            data.mocap_pos[model.body(PAD).mocapid[0]] = [item.x_m, item.y_m, top + PAD_HALF_M]
            continue
        half = CAN_HALF_M if item.kind == 'can' else CUBE_HALF_M
        joint = data.joint(item.slot)
        joint.qpos[:] = [
            item.x_m,
            item.y_m,
            top + half,
            np.cos(item.yaw_rad / 2),
            0.0,
            0.0,
            np.sin(item.yaw_rad / 2),
        ]
        joint.qvel[:] = 0.0
        model.geom(item.slot).rgba[:3] = PALETTE[item.color]


def set_mark(
    model: mujoco.MjModel, data: mujoco.MjData, robot: SimRobot, item: SceneObject | None
) -> None:
    """Show the mark around `item`, or hide it if None."""
    data.mocap_pos[model.body(MARK).mocapid[0]] = (
        HIDDEN_POSITION
        if item is None
        else [item.x_m, item.y_m, robot.table.height_m + PAD_HALF_M]
    )


def _add_lights(spec: mujoco.MjSpec) -> None:
    head = spec.visual.headlight
    head.ambient, head.diffuse, head.specular = [0.4] * 3, [0.14] * 3, [0.0] * 3
    for pos, strength, shadow in (([0.9, -0.9, 3.2], 0.42, True), ([1.4, 1.8, 2.6], 0.2, False)):
        light = spec.worldbody.add_light(
            pos=pos,
            dir=np.array([0.6, 0.0, 0.7]) - pos,
            castshadow=shadow,
            type=mujoco.mjtLightType.mjLIGHT_DIRECTIONAL,
        )
        light.diffuse, light.specular, light.ambient = [strength] * 3, [0.2] * 3, [0.0] * 3


def _add_floor(spec: mujoco.MjSpec, high_quality: bool) -> None:
    """Add the floor: tiles for screenshots, the top of a flat box for the robot's cameras.

    In software rendering a plane takes half the time of a small image, a box almost none.
    """
    spec.add_texture(
        name='sky',
        type=mujoco.mjtTexture.mjTEXTURE_SKYBOX,
        width=256,
        height=1536,
        builtin=mujoco.mjtBuiltin.mjBUILTIN_GRADIENT,
        rgb1=[0.86, 0.89, 0.92],
        rgb2=[0.55, 0.6, 0.68],
    )
    spec.visual.rgba.haze = [0.86, 0.89, 0.92, 1.0]
    floor = spec.add_material(name='floor', rgba=[0.76, 0.775, 0.79, 1.0], specular=0.1)
    if high_quality:
        spec.add_texture(
            name='tiles',
            type=mujoco.mjtTexture.mjTEXTURE_2D,
            width=512,
            height=512,
            builtin=mujoco.mjtBuiltin.mjBUILTIN_FLAT,
            mark=mujoco.mjtMark.mjMARK_EDGE,
            markrgb=[0.88, 0.9, 0.92],
            rgb1=[1.0, 1.0, 1.0],
            rgb2=[1.0, 1.0, 1.0],
        )
        floor.textures[mujoco.mjtTextureRole.mjTEXROLE_RGB] = 'tiles'
        floor.texrepeat, floor.texuniform, floor.reflectance = [1.6, 1.6], True, 0.06
    else:
        spec.worldbody.add_geom(
            type=mujoco.mjtGeom.mjGEOM_BOX,
            size=[20.0, 20.0, 0.05],
            pos=[0.0, 0.0, -0.05],
            material='floor',
            contype=0,
            conaffinity=0,
        )
    spec.worldbody.add_geom(
        name='floor',
        type=mujoco.mjtGeom.mjGEOM_PLANE,
        size=[0.0, 0.0, 0.1],
        material='floor',
        contype=TABLE_BIT,
        conaffinity=OBJECT_BIT,
        group=0 if high_quality else HIDDEN_GROUP,
    )


def _add_table(spec: mujoco.MjSpec, robot: SimRobot) -> None:
    table = robot.table
    (x, y), (half_x, half_y), thick = table.center, table.half, 0.02
    spec.add_material(name='table', rgba=[0.87, 0.78, 0.66, 1.0], specular=0.15, shininess=0.3)
    spec.add_material(name='legs', rgba=[0.32, 0.34, 0.37, 1.0], specular=0.3, shininess=0.4)
    spec.worldbody.add_geom(
        name='table',
        type=mujoco.mjtGeom.mjGEOM_BOX,
        size=[half_x, half_y, thick],
        pos=[x, y, table.height_m - thick],
        material='table',
        contype=TABLE_BIT,
        conaffinity=OBJECT_BIT,
        friction=[0.8, 0.01, 0.0002],
    )
    for side_x in (-1, 1):
        for side_y in (-1, 1):
            leg = [x + side_x * (half_x - 0.05), y + side_y * (half_y - 0.05)]
            spec.worldbody.add_geom(
                type=mujoco.mjtGeom.mjGEOM_CYLINDER,
                size=[0.025, 0.0, 0.0],
                material='legs',
                fromto=[*leg, 0.0, *leg, table.height_m - 2 * thick],
                contype=0,
                conaffinity=0,
                group=EXTERNAL_VIEW_GROUP,
            )
