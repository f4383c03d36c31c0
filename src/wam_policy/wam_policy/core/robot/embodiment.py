"""Description of a robot, loaded from its folder with strict checks, immutable afterwards.

Positions are rad (revolute), m (prismatic) or 0 closed .. 1 open (gripper). The `vendor` block is
not interpreted here; `stream_node` uses it.
"""

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from wam_policy.core.robot.safety_limits import SafetyConfig
from wam_policy.core.robot.strict_yaml import StrictMapping, parse_float

ROBOTS_DIR = Path(__file__).resolve().parents[2] / 'robots'
JOINT_KINDS = ('revolute', 'prismatic', 'gripper')


@dataclass(frozen=True, slots=True)
class Joint:
    """Limits of one joint: of the hardware (hw_*) and for this stack (max_*)."""

    name: str
    kind: str  # one of JOINT_KINDS
    lower: float
    upper: float
    hw_velocity: float  # per s
    hw_effort: float  # Nm or N
    max_velocity: float  # per s
    max_acceleration: float  # per s^2
    max_jerk: float  # per s^3
    max_step: float  # largest difference between command and measurement


@dataclass(frozen=True, slots=True)
class Gripper:
    """Conversion of one gripper between 0 closed .. 1 open, driver values and model values."""

    name: str
    side: str
    command_name: str  # joint name the driver expects
    raw_open: float
    raw_closed: float
    raw_range: tuple[float, float]  # readings outside have a wrong unit
    model_open: float
    model_closed: float

    def to_raw(self, opening: float | np.ndarray) -> float | np.ndarray:
        """Return the driver's value; the opening is clipped to 0..1."""
        return self.raw_closed + np.clip(opening, 0.0, 1.0) * (self.raw_open - self.raw_closed)

    def from_raw(self, raw: float | np.ndarray) -> float | np.ndarray:
        """Return the opening; readings beyond an end stop are clipped to 0..1."""
        return np.clip((raw - self.raw_closed) / (self.raw_open - self.raw_closed), 0.0, 1.0)

    def to_model(self, opening: float | np.ndarray) -> float | np.ndarray:
        return self.model_closed + opening * (self.model_open - self.model_closed)

    def from_model(self, value: float | np.ndarray) -> float | np.ndarray:
        """Return the opening of a model value, not clipped, so that limit checks can count it."""
        return (value - self.model_closed) / (self.model_open - self.model_closed)

    def is_valid_raw(self, raw: float) -> bool:
        """Return whether a driver reading is in `raw_range`."""
        return bool(self.raw_range[0] <= raw <= self.raw_range[1])


@dataclass(frozen=True, slots=True)
class Camera:
    """One camera view of the model."""

    key: str  # name of the view in the model
    topic: str
    info_topic: str
    frame_id: str  # optical frame: x right, y down, z forward
    size: tuple[int, int]  # width, height
    fps: float
    max_age_s: float


@dataclass(frozen=True, slots=True)
class Controller:
    """One trajectory controller and its joints, in its order."""

    name: str
    topic: str  # trajectory_msgs/JointTrajectory
    state_topic: str  # control_msgs/JointTrajectoryControllerState
    joints: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ModelKey:
    """One key of the model's state or action vector."""

    key: str
    joints: tuple[str, ...]  # empty: no joints of this robot
    size: int
    relative: bool = False  # action = target - state at the observation
    masked: bool = False  # predicted by the model, but the current value is held


@dataclass(frozen=True, slots=True, eq=False)
class JointLimits:
    """Limits of joints as vectors [joints], in the order of `names`."""

    names: tuple[str, ...]
    lower: np.ndarray
    upper: np.ndarray
    velocity: np.ndarray
    acceleration: np.ndarray
    jerk: np.ndarray
    step: np.ndarray


@dataclass(frozen=True, slots=True, eq=False)
class Embodiment:
    """All data of one robot."""

    name: str
    title: str
    model_tag: str  # selects prompt, view layout and statistics
    language_key: str
    step_dt_s: float  # between two rows of a chunk
    horizon: int  # rows that the released weights predict
    joints: tuple[Joint, ...]  # in the order of `observed`
    commanded: tuple[str, ...]  # arms, then grippers
    observed: tuple[str, ...]  # commanded joints, then measured-only joints
    grippers: tuple[Gripper, ...]
    cameras: tuple[Camera, ...]  # in the model's order of views
    controllers: tuple[Controller, ...]
    state_keys: tuple[ModelKey, ...]  # in the model's order
    action_keys: tuple[ModelKey, ...]
    home: Mapping[str, float]  # home position of each observed joint
    safety: SafetyConfig
    vendor: Mapping[str, Any]  # used by stream_node only
    config_hash: str  # SHA-256 of the folder's document

    def joint(self, name: str) -> Joint:
        return self.joints[self.observed.index(name)]

    def gripper(self, name: str) -> Gripper:
        return next(gripper for gripper in self.grippers if gripper.name == name)

    def limits(self, names: Sequence[str] | None = None) -> JointLimits:
        """Return the limits of `names` (default: the commanded joints) as read-only vectors."""
        names = self.commanded if names is None else tuple(names)
        rows = [self.joint(name) for name in names]
        return JointLimits(
            names,
            *(
                _readonly_vector([getattr(joint, field) for joint in rows])
                for field in (
                    'lower',
                    'upper',
                    'max_velocity',
                    'max_acceleration',
                    'max_jerk',
                    'max_step',
                )
            ),
        )

    def with_controllers(self, names: Sequence[str]) -> 'Embodiment':
        """Return the part of the robot that the controllers `names` command.

        Raises ValueError for a controller that the robot does not have.
        """
        known = [controller.name for controller in self.controllers]
        unknown = [name for name in names if name not in known]
        if unknown:
            raise ValueError(
                f'{self.name} has no controller {", ".join(unknown)}; known: {", ".join(known)}'
            )
        kept = tuple(each for each in self.controllers if each.name in names)
        joints = {name for controller in kept for name in controller.joints}
        commanded = tuple(name for name in self.commanded if name in joints)
        return replace(
            self,
            joints=tuple(self.joint(name) for name in commanded),
            commanded=commanded,
            observed=commanded,
            grippers=tuple(gripper for gripper in self.grippers if gripper.name in joints),
            controllers=kept,
        )

    def home_positions(self, names: Sequence[str]) -> np.ndarray:
        """Return the home positions of `names`, [names]."""
        return _readonly_vector([self.home[name] for name in names])


def list_robots(folder: Path = ROBOTS_DIR) -> tuple[str, ...]:
    """Return the names of the robots, sorted."""
    return tuple(sorted(path.parent.name for path in folder.glob('*/embodiment.yaml')))


def load_embodiment(name: str, folder: Path = ROBOTS_DIR) -> Embodiment:
    """Load one robot; raises ValueError with file, key and fix."""
    known = list_robots(folder)
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f'; did you mean {near[0]}?' if near else ''
        raise ValueError(f'no robot {name!r}; known: {", ".join(known)}{hint}')
    document = StrictMapping.load(folder / name / 'embodiment.yaml')
    robot = _parse_embodiment(document)
    document.reject_unknown_keys()
    if robot.name != name:
        raise ValueError(
            f'{document.key_path("name")}: {robot.name!r} differs from the folder {name!r}; '
            'make them equal'
        )
    return robot


def load_urdf(name: str, folder: Path = ROBOTS_DIR) -> str:
    """Return the URDF of a robot; raises ValueError with the file and the fix."""
    path = folder / name / 'robot.urdf'
    try:
        return path.read_text(encoding='utf-8')
    except OSError as error:
        raise ValueError(
            f'{path}: cannot be read: {error.strerror}; for a simulated robot run '
            f'python -m wam_sim.physics.robot_description {name}'
        ) from error


def _parse_embodiment(document: StrictMapping) -> Embodiment:
    joints = _parse_joints(document.read_mapping('joints'))
    commanded, state_only = (
        document.read_strs('commanded'),
        document.read_strs('state_only', allow_empty=True),
    )
    observed = commanded + state_only
    _require_same_names(document.key_path('commanded, state_only'), observed, tuple(joints))
    grippers = document.read_mappings('grippers', _parse_gripper)
    _require_same_names(
        document.key_path('grippers'),
        tuple(gripper.name for gripper in grippers),
        tuple(name for name in joints if joints[name].kind == 'gripper'),
    )
    controllers = document.read_mappings(
        'controllers',
        lambda name, table: Controller(
            name, table.read_str('topic'), table.read_str('state_topic'), table.read_strs('joints')
        ),
    )
    _require_same_names(
        document.key_path('controllers'),
        tuple(name for controller in controllers for name in controller.joints),
        commanded,
    )
    model = document.read_mapping('model')
    keys = [_parse_model_keys(model, key, observed) for key in ('state_keys', 'action_keys')]
    driven = tuple(name for key in keys[1] if not key.masked for name in key.joints)
    _require_same_names(model.key_path('action_keys (not masked)'), driven, commanded)
    robot = Embodiment(
        name=document.read_str('name'),
        title=document.read_str('title'),
        model_tag=model.read_str('tag'),
        language_key=model.read_str('language_key'),
        step_dt_s=1.0 / model.read_float('step_hz', above=0.0),
        horizon=model.read_int('horizon'),
        joints=tuple(joints[name] for name in observed),
        commanded=commanded,
        observed=observed,
        grippers=grippers,
        cameras=document.read_mappings('cameras', _parse_camera),
        controllers=controllers,
        state_keys=keys[0],
        action_keys=keys[1],
        home=_parse_home(document, joints),
        safety=SafetyConfig.from_mapping(document.read_mapping('safety')),
        vendor=document.read_frozen('vendor'),
        config_hash=document.compute_sha256(),
    )
    model.reject_unknown_keys()
    return robot


def _parse_joints(table: StrictMapping) -> dict[str, Joint]:
    joints = {}
    for name in table:
        spot, row = table.key_path(name), table.read(name)
        if not isinstance(row, list) or len(row) != 9 or row[0] not in JOINT_KINDS:
            raise ValueError(
                f'{spot}: want [kind, lower, upper, hw_velocity, hw_effort, '
                f'max_velocity, max_acceleration, max_jerk, max_step] with kind one '
                f'of {", ".join(JOINT_KINDS)}, got {row!r}'
            )
        lower, upper = (parse_float(value, spot) for value in row[1:3])
        if lower >= upper:
            raise ValueError(f'{spot}: lower {lower:g} is not below upper {upper:g}; swap them')
        caps = [parse_float(value, spot, above=0.0) for value in row[3:]]
        if caps[2] > caps[0]:
            raise ValueError(
                f'{spot}: max_velocity {caps[2]:g} is above hw_velocity {caps[0]:g}; lower it'
            )
        if row[0] == 'gripper' and (lower, upper) != (0.0, 1.0):
            raise ValueError(
                f'{spot}: a gripper goes from 0 (closed) to 1 (open); raw units '
                'belong under grippers'
            )
        joints[name] = Joint(name, row[0], lower, upper, *caps)
    return joints


def _parse_gripper(name: str, table: StrictMapping) -> Gripper:
    low, high = table.read_floats('raw_range', 2)
    gripper = Gripper(
        name=name,
        side=table.read_str('side'),
        command_name=table.read_str('command_name'),
        raw_open=table.read_float('raw_open'),
        raw_closed=table.read_float('raw_closed'),
        raw_range=(low, high),
        model_open=table.read_float('model_open'),
        model_closed=table.read_float('model_closed'),
    )
    for sense in ('raw', 'model'):
        if getattr(gripper, f'{sense}_open') == getattr(gripper, f'{sense}_closed'):
            raise ValueError(
                f'{table.key_path(f"{sense}_open")} equals {sense}_closed; measure both ends'
            )
    if not (gripper.is_valid_raw(gripper.raw_open) and gripper.is_valid_raw(gripper.raw_closed)):
        raise ValueError(
            f'{table.key_path("raw_range")}: {list(gripper.raw_range)} does not contain '
            'raw_open and raw_closed; widen it'
        )
    return gripper


def _parse_camera(key: str, table: StrictMapping) -> Camera:
    width, height = table.read_floats('size', 2)
    if min(width, height) < 1 or width % 1 or height % 1:
        raise ValueError(f'{table.key_path("size")}: want [width, height] in pixels')
    return Camera(
        key=key,
        topic=table.read_str('topic'),
        info_topic=table.read_str('info_topic'),
        frame_id=table.read_str('frame_id'),
        size=(int(width), int(height)),
        fps=table.read_float('fps', above=0.0),
        max_age_s=table.read_float('max_age_s', above=0.0),
    )


def _parse_model_keys(
    model: StrictMapping, which: str, observed: Sequence[str]
) -> tuple[ModelKey, ...]:
    def read(key: str, table: StrictMapping) -> ModelKey:
        joints = table.read_strs('joints', allow_empty=True)
        unknown = [name for name in joints if name not in observed]
        if unknown:
            raise ValueError(
                f'{table.key_path("joints")}: unknown joint {", ".join(unknown)}; use '
                'names from the joints table'
            )
        if which == 'state_keys':
            return ModelKey(key, joints, len(joints))
        size = len(joints) or table.read_int('size')
        masked = _read_bool(table, 'masked')
        if not joints and not masked:
            raise ValueError(
                f'{table.key_path("masked")}: without joints there is nothing to '
                'drive; set it to true'
            )
        return ModelKey(key, joints, size, _read_bool(table, 'relative'), masked)

    return model.read_mappings(which, read)


def _read_bool(table: StrictMapping, key: str) -> bool:
    value = table.read(key)
    if not isinstance(value, bool):
        raise ValueError(f'{table.key_path(key)}: want true or false, got {value!r}')
    return value


def _parse_home(document: StrictMapping, joints: Mapping[str, Joint]) -> Mapping[str, float]:
    table = document.read_mapping('rest')
    _require_same_names(table.location, tuple(table), tuple(joints))
    for name, joint in joints.items():
        if not joint.lower <= table.read_float(name) <= joint.upper:
            raise ValueError(
                f'{table.key_path(name)}: {table.read_float(name):g} is outside '
                f'[{joint.lower:g}, {joint.upper:g}]; move it inside'
            )
    return document.read_frozen('rest')


def _require_same_names(key_path: str, given: Sequence[str], expected: Sequence[str]) -> None:
    """Require the same names, each once, in any order."""
    missing, unknown = sorted(set(expected) - set(given)), sorted(set(given) - set(expected))
    twice = sorted({name for name in given if given.count(name) > 1})
    for names_, what in ((unknown, 'unknown'), (missing, 'missing'), (twice, 'named twice')):
        if names_:
            raise ValueError(
                f'{key_path}: {", ".join(names_)} {what}; want each of {", ".join(expected)} once'
            )


def _readonly_vector(values: Sequence[float]) -> np.ndarray:
    vector = np.array(values, dtype=np.float64)
    vector.setflags(write=False)
    return vector
