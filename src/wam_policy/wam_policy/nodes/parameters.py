"""Parameters of the nodes: type, default, description, unit and range of each in one line.

A frozen dataclass per node is declared to ROS as it stands and read back validated. A value out
of range is refused with the reason, at start and at run time.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar, Protocol

from rcl_interfaces.msg import (
    ParameterDescriptor,
    SetParametersResult,
)
from rclpy.exceptions import (
    InvalidParameterTypeException,
    InvalidParameterValueException,
    ParameterUninitializedException,
)
from rclpy.node import Node
from rclpy.parameter import Parameter

from wam_policy.core.robot import safety_checks
from wam_policy.core.session.delay_compensation import EXECUTIONS
from wam_policy.nodes.parameter_fields import (
    describe_expected,
    make_descriptor,
    parameter,
    validate_fields,
)
from wam_policy.nodes.robot_parameters import joint_states_parameter, robot_namespace_parameter

USE_SIM_TIME = 'use_sim_time'  # declared by rclpy in every node


class Params(Protocol):
    """Match any dataclass whose fields are made by `parameter`."""

    __dataclass_fields__: ClassVar[dict[str, Any]]


@dataclasses.dataclass(frozen=True, slots=True)
class PolicyParams:
    """Configure policy_node."""

    embodiment: str = parameter('agibot_g1', 'robot: a folder of wam_policy/robots')
    robot_namespace: str = robot_namespace_parameter()
    backend: str = parameter(
        'local',
        'where inference runs: workers on this machine, or a policy server',
        choices=('local', 'remote'),
    )
    server: str = parameter(
        '',
        'address of the policy server: ws://host:port, wss://, http://, https:// or zmq+tcp://, '
        'as its server profile needs it',
        pattern=r'((wss?|https?|zmq\+tcp)://\S+)?',
    )
    server_profile: str = parameter(
        '',
        'wire format of the policy server: a name of wam_policy/servers/profiles or a .yaml '
        "file; empty: the robot's default",
        deprecated_name='flavour',
    )
    checkpoint: str = parameter(
        'mini', 'weights: a folder, the name of a shipped model, or preset:<name> for random ones'
    )
    base: str = parameter(
        '',
        'complete checkpoint that the adapters (LoRA) in `checkpoint` were trained on: a folder '
        'or the name of a shipped model; empty: `checkpoint` is complete',
    )
    devices: tuple[str, ...] = parameter(
        ('cpu', 'cpu'),
        'one device per worker: cpu or cuda:<n>; one entry runs both branches of the '
        'classifier-free guidance in one worker, two entries run one branch each',
        pattern=r'cpu|cuda:\d+',
    )
    guidance_scale: float = parameter(
        0.0,
        'scale of the classifier-free guidance; 1.0 disables it; 0.0: the default of the '
        'checkpoint, else 5.0',
        low=0.0,
        high=20.0,
        deprecated_name='cfg',
    )
    sampler: str = parameter(
        '',
        'denoising steps that evaluate the network: full16 all of 16, static8 and static4 8 and 4 '
        'of them, dynamic4 those where velocities change (at least 4), one_step a single one, '
        'with video noisier than actions; empty: the default of the checkpoint, else static8',
        choices=('', 'full16', 'static8', 'static4', 'dynamic4', 'one_step'),
        deprecated_name='recipe',
    )
    steps: int = parameter(
        0,
        'denoising steps per query, each a network evaluation; 0: the default of the checkpoint, '
        "else the sampler's",
        low=0,
        high=100,
    )
    guided_video: bool = parameter(
        False, 'guide the predicted video also in steps where the actions no longer need it'
    )
    seed: int = parameter(0, 'seed of the sampling noise', low=0, high=2**31 - 1)
    new_noise: str = parameter(
        'session',
        'when the sampler starts from other noise: in every session (each instruction begins '
        'one), in every query, or never',
        choices=('session', 'query', 'never'),
    )
    execution: str = parameter(
        'blended',
        'where a query starts while the robot moves on until its answer: blended, at the '
        'observation; rolled_forward, at the setpoint when the answer is expected; '
        'trained_prefix, with the rows executed until then, for a model trained to continue them',
        choices=EXECUTIONS,
    )
    memory_update: str = parameter(
        'streaming',
        'when observed frames enter the KV cache: streaming commits each block when it has '
        'elapsed, released commits with each query, as the released server does',
        choices=('streaming', 'released'),
        deprecated_name='mode',
        deprecated_values={'clocked': 'streaming', 'reference': 'released'},
    )
    query_images: str = parameter(
        'none',
        'images sent with a query: none, it reads the committed blocks only; latest, also the '
        'frames since the last block, for one more encoding and KV update per query',
        choices=('none', 'latest'),
        deprecated_name='sight',
        deprecated_values={'memory': 'none', 'newest': 'latest'},
    )
    kv_window: str = parameter(
        'default',
        'a full KV cache restarts from the newest frame, or slides over its oldest block; '
        'default: that of the checkpoint, else restart',
        choices=('default', 'restart', 'slide'),
        deprecated_name='window',
        deprecated_values={'advised': 'default'},
    )
    engine: str = parameter(
        'eager',
        'how the network runs: eager, compiled (slow start, CUDA '
        'graphs on a GPU), or tensorrt:<folder of a built engine>; on a GPU none was ever run by '
        'this project',
        pattern=r'eager|compiled|tensorrt:.+',
    )
    precision: str = parameter(
        'full',
        'of the large linear layers: full, fp8 or int8 with a scale per token, or the path of '
        'a calibration file; 8 bits are experimental, nvfp4 is refused',
        pattern='.+',
    )
    worker_python: str = parameter('', "Python that runs the workers; empty: the node's own")
    worker_threads: int = parameter(1, 'CPU threads per worker', low=1, high=256)
    start_timeout_s: float = parameter(
        300.0,
        'longest time for loading and warm-up of the workers; 1500 s more for an engine that '
        'compiles',
        unit='s',
        low=1.0,
        high=7200.0,
    )
    query_timeout_s: float = parameter(
        10.0,
        'longest time until an answer; then the workers are restarted',
        unit='s',
        low=0.1,
        high=600.0,
    )
    reset_timeout_s: float = parameter(
        30.0,
        'the same for the start of a session, in which a server may write a video',
        unit='s',
        low=0.1,
        high=600.0,
    )
    max_query_rate_hz: float = parameter(
        12.5,
        'upper bound of the query rate; 0: no bound',
        unit='Hz',
        low=0.0,
        high=100.0,
        dynamic=True,
    )
    max_frame_gap_s: float = parameter(
        2.0,
        'a longer gap between the frames of a camera starts a new session',
        unit='s',
        low=0.1,
        high=60.0,
        deprecated_name='reset_gap_s',
    )
    instruction: str = parameter('', 'instruction at start; empty: wait for one')
    max_instruction_length: int = parameter(
        400, 'longest instruction that is accepted', unit='characters', low=1, high=10000
    )
    image_transport: str = parameter(
        'raw',
        'raw subscribes to the topics of the cameras, compressed to <topic>/compressed; a topic '
        'that ends with /compressed is taken as it is',
        pattern=r'\w+',
        deprecated_name='compressed_images',
        deprecated_values={True: 'compressed', False: 'raw'},
    )
    allow_mono_images: bool = parameter(
        False, 'accept cameras without color; gray is repeated in red, green and blue'
    )
    detect_frozen_images: bool = parameter(
        True,
        'treat a camera as stale that sends the same picture, or one color, for 0.4 s; false for '
        'simulators whose images have no noise',
    )
    joint_states_topic: str = joint_states_parameter()
    __post_init__ = validate_fields


@dataclasses.dataclass(frozen=True, slots=True)
class MotionParams:
    """Configure motion_node."""

    embodiment: str = parameter('agibot_g1', 'robot: a folder of wam_policy/robots')
    robot_namespace: str = robot_namespace_parameter()
    enable_motion: bool = parameter(
        False, 'publish to the controllers; false: dry run on ~/dry_run_trajectory'
    )
    rate_hz: float = parameter(100.0, 'control loop', unit='Hz', low=20.0, high=500.0)
    speed_scale: float = parameter(
        1.0, 'share of every velocity limit that may be used', low=0.05, high=1.0
    )
    min_speed_scaling: float = parameter(
        1.0,
        'smallest speed scaling factor of ros2_control controllers to move with; at factors below '
        '1.0 the arm moves in steps that end at rest, and every stop waits for the end of a step; '
        '1.0: stop at any other factor',
        low=0.2,
        high=1.0,
    )
    use_deadman: bool = parameter(False, 'move only while the topic deadman says true')
    joy_deadman_button: int = parameter(
        -1,
        'button of the joystick on the topic joy that must be held, counted from 0; letting it go '
        'disables; -1: none',
        low=-1,
        high=63,
    )
    joy_estop_button: int = parameter(
        -1, 'button of the joystick that latches the e-stop; -1: none', low=-1, high=63
    )
    joy_timeout_s: float = parameter(
        -1.0,
        'without a message of the joystick for so long, motion is disabled; -1.0: deadman_lease_s '
        'of the robot',
        unit='s',
        low=-1.0,
        high=5.0,
    )
    collision_check: str = parameter(
        'table',
        'what plans must not collide with: table (and the robot itself), robot (itself only), '
        'none (no check)',
        choices=('table', 'robot', 'none'),
        deprecated_name='contact_check',
    )
    table_height_m: float = parameter(
        -1.0,
        "top of the table above the collision model's origin; -1.0: as in the model",
        unit='m',
        low=-1.0,
        high=3.0,
    )
    accept_missing: tuple[str, ...] = parameter(
        ('',),
        'safety checks that may lack their inputs when a real robot is enabled, by name; '
        "motion_status lists those that do; '': none",
        pattern='|'.join(('', *safety_checks.CHECKS)),
    )
    status_rate_hz: float = parameter(10.0, 'motion_status', unit='Hz', low=1.0, high=50.0)
    joint_states_topic: str = joint_states_parameter()
    __post_init__ = validate_fields


@dataclasses.dataclass(frozen=True, slots=True)
class StreamParams:
    """Configure stream_node."""

    embodiment: str = parameter('agibot_g1', 'robot: a folder of wam_policy/robots')
    robot_namespace: str = robot_namespace_parameter()
    enable_motion: bool = parameter(False, 'send setpoints to the robot; false only reads it')
    joint_states_topic: str = joint_states_parameter(
        'where the measured joint positions are published'
    )
    __post_init__ = validate_fields


@dataclasses.dataclass(frozen=True, slots=True)
class RecorderParams:
    """Configure recorder_node."""

    embodiment: str = parameter('agibot_g1', 'robot: a folder of wam_policy/robots')
    robot_namespace: str = robot_namespace_parameter()
    output_dir: str = parameter(
        'episodes',
        'folder of the episodes, one bag each; ~ is the home folder',
        pattern='.+',
        deprecated_name='folder',
    )
    auto_record: bool = parameter(
        False,
        'record an episode for every instruction; false waits for the services or the action',
        deprecated_name='each_instruction',
    )
    images: str = parameter(
        'jpeg',
        'jpeg compresses the cameras here, raw keeps them as they come, '
        'compressed subscribes to <topic>/compressed',
        choices=('jpeg', 'raw', 'compressed'),
    )
    allow_mono_images: bool = parameter(
        False, 'accept cameras without color; gray is repeated in red, green and blue'
    )
    jpeg_quality: int = parameter(90, 'quality of the images compressed here', low=1, high=100)
    jpeg_threads: int = parameter(2, 'threads that compress images', low=1, high=64)
    predicted_video: bool = parameter(
        False,
        'record predicted_video as JPEG; the workers then decode every prediction, which slows '
        'queries down',
    )
    min_free_mb: int = parameter(
        500, 'an episode is closed when the disk has less free space', unit='MB', low=0, high=10**9
    )
    joint_states_topic: str = joint_states_parameter()
    __post_init__ = validate_fields


@dataclasses.dataclass(frozen=True, slots=True)
class DescriptionParams:
    """Configure description_node."""

    embodiment: str = parameter('agibot_g1', 'robot: a folder of wam_policy/robots')
    robot_namespace: str = robot_namespace_parameter()
    publish_frames: bool = parameter(
        True,
        "publish /robot_description, /tf and /tf_static; false where the robot's driver or "
        'robot_state_publisher does',
    )
    frame_rate_hz: float = parameter(
        15.0,
        'frames of the links on /tf, while somebody subscribes',
        unit='Hz',
        low=1.0,
        high=60.0,
    )
    plan_rate_hz: float = parameter(
        5.0, 'plan/*, while somebody subscribes', unit='Hz', low=0.5, high=20.0
    )
    collision_check: str = parameter(
        'table',
        "what plan/contacts looks at, as motion_node's parameter: table, robot or none",
        choices=('table', 'robot', 'none'),
    )
    table_height_m: float = parameter(
        -1.0,
        "top of the table, as motion_node's parameter; -1.0: as in the model",
        unit='m',
        low=-1.0,
        high=3.0,
    )
    joint_states_topic: str = joint_states_parameter()
    __post_init__ = validate_fields


def read[T: Params](node: Node, params_class: type[T]) -> T:
    """Declare what is not yet declared and return the values; ValueError names a wrong one."""
    values = {}
    for field in dataclasses.fields(params_class):
        if not node.has_parameter(field.name):
            _declare_parameter(node, field)
        value = _to_tuple(node.get_parameter(field.name).value)
        values[field.name] = _replace_deprecated_value(node, field, value)
    return params_class(**values)


def add_on_change_callback[T: Params](
    node: Node,
    params_class: type[T],
    is_active: Callable[[], bool],
    on_change: Callable[[T], None],
) -> None:
    """Validate every change at run time: reject it with a reason, or pass on the new values.

    While `is_active` returns true, only dynamic parameters may change, and use_sim_time not at
    all: every stamp and age of a moving robot would jump with the clock.
    """
    fields = {field.name: field for field in dataclasses.fields(params_class)}

    def on_set(changes: list[Parameter]) -> SetParametersResult:
        ours = {
            change.name: _replace_deprecated_value(
                node, fields[change.name], _to_tuple(change.value)
            )
            for change in changes
            if change.name in fields
        }
        present = {
            name: _to_tuple(node.get_parameter(name).value) for name in (*ours, USE_SIM_TIME)
        }
        fixed = [
            name
            for name, value in ours.items()
            if not fields[name].metadata['dynamic'] and value != present[name]
        ]
        fixed += [
            USE_SIM_TIME
            for change in changes
            if change.name == USE_SIM_TIME and change.value != present[USE_SIM_TIME]
        ]
        if fixed and is_active():
            return SetParametersResult(
                successful=False,
                reason=(
                    f'{", ".join(fixed)} cannot change while the node is active; '
                    'deactivate it first'
                ),
            )
        if not ours:
            return SetParametersResult(successful=True)
        try:
            changed = dataclasses.replace(read(node, params_class), **ours)
        except ValueError as error:
            return SetParametersResult(successful=False, reason=str(error))
        on_change(changed)
        return SetParametersResult(successful=True)

    node.add_on_set_parameters_callback(on_set)


def _declare_parameter(node: Node, field: dataclasses.Field) -> None:
    default = _replace_deprecated_value(node, field, _read_deprecated_parameter(node, field))
    if default is None:
        default = list(field.default) if isinstance(field.default, tuple) else field.default
    try:
        node.declare_parameter(field.name, default, make_descriptor(field))
    except (
        InvalidParameterTypeException,
        InvalidParameterValueException,
        ParameterUninitializedException,
    ) as error:
        raise ValueError(f'{field.name}: want {describe_expected(field)}: {error}') from error


def _read_deprecated_parameter(node: Node, field: dataclasses.Field) -> Any:
    """Return what was given under the old name of a parameter, with a warning; None without.

    A value under the new name overrides it.
    """
    old_name = field.metadata['deprecated_name']
    if not old_name:
        return None
    node.declare_parameter(old_name, descriptor=ParameterDescriptor(dynamic_typing=True))
    value = node.get_parameter(old_name).value
    node.undeclare_parameter(old_name)
    if value is not None:
        node.get_logger().warning(
            f'parameter {old_name} is deprecated and will be removed in the next release: '
            f'use {field.name}'
        )
    return value


def _replace_deprecated_value(node: Node, field: dataclasses.Field, value: Any) -> Any:
    """Return the new form of an old value, with a warning; other values unchanged."""
    renamed = field.metadata['deprecated_values']
    if not renamed or value not in renamed:
        return value
    node.get_logger().warning(
        f'{field.name}: value {value!r} is deprecated and will be removed in the next release: '
        f'use {renamed[value]!r}'
    )
    return renamed[value]


def _to_tuple(value: Any) -> Any:
    """Return lists as tuples: what is read is frozen."""
    return tuple(value) if isinstance(value, list) or hasattr(value, 'tolist') else value
