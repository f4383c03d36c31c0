"""The simulator's parameters: type, default, range and description in one place."""

from dataclasses import dataclass, field, fields
from typing import Any

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor
from rclpy.node import Node

from wam_sim.physics import sim_robot
from wam_sim.tasks import task_families


def _make_field(
    default: Any,
    description: str,
    low: float | None = None,
    high: float | None = None,
    choices: tuple[str, ...] = (),
) -> Any:
    return field(
        default=default,
        metadata={'text': description, 'low': low, 'high': high, 'choices': choices},
    )


@dataclass(frozen=True, slots=True)
class SimParams:
    """State how one simulator runs; ValueError at start names what is wrong."""

    robot: str = _make_field('agibot_g1', 'Robot to simulate.', choices=sim_robot.list_robots())
    task: str = _make_field(
        task_families.ANY,
        'Task family of every episode; any draws one, learned one '
        'of those that models are trained on.',
        choices=(*task_families.GROUPS, *task_families.FAMILIES),
    )
    combinations: str = _make_field(
        task_families.ALL_SPLIT,
        'Ask for all combinations of words and places, or '
        'only those in training, or those kept out of it.',
        choices=task_families.TASK_SPLITS,
    )
    instruction_topic: str = _make_field(
        'wam/instruction',
        'Where the robot is told its task. A mark on a cube comes soon after that.',
    )
    seed: int = _make_field(0, 'Seed of the first scene; episode n uses seed + n.', 0, 2**31)
    camera_hz: float = _make_field(
        15.0, 'Pictures per second and camera, in wall time.', 1.0, 60.0
    )
    image_width: int = _make_field(320, 'Width of every picture in pixels.', 32, 640)
    image_height: int = _make_field(240, 'Height of every picture in pixels.', 24, 480)
    publish_clock: bool = _make_field(
        False, 'Publish /clock and stamp with simulated time; other nodes need use_sim_time.'
    )
    viewer: bool = _make_field(False, 'Open a window on the scene if there is a display.')
    reset_arms: bool = _make_field(
        False, 'On sim/reset put the arms at rest at once. Disable motion first: they jump.'
    )

    def __post_init__(self) -> None:
        for entry in fields(self):
            choices, value = entry.metadata['choices'], getattr(self, entry.name)
            if choices and value not in choices:
                raise ValueError(f'{entry.name}: no {value!r}; choose one of {", ".join(choices)}')


def declare_parameters(node: Node) -> SimParams:
    """Declare every parameter, read-only, and return the values given."""
    given: dict[str, Any] = {
        entry.name: node.declare_parameter(
            entry.name, entry.default, _make_descriptor(entry)
        ).value
        for entry in fields(SimParams)
    }
    return SimParams(**given)


def _make_descriptor(entry: Any) -> ParameterDescriptor:
    meta = entry.metadata
    descriptor = ParameterDescriptor(description=meta['text'], read_only=True)
    if meta['choices']:
        descriptor.additional_constraints = f'one of {", ".join(meta["choices"])}'
    if meta['low'] is None:
        return descriptor
    if isinstance(entry.default, int):
        descriptor.integer_range = [
            IntegerRange(from_value=meta['low'], to_value=meta['high'], step=1)
        ]
    else:
        descriptor.floating_point_range = [
            FloatingPointRange(from_value=meta['low'], to_value=meta['high'], step=0.0)
        ]
    return descriptor
