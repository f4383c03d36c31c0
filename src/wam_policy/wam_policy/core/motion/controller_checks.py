"""What a joint_trajectory_controller must be for its motion to be the one that was planned.

Each setting below changes what a controller makes of a trajectory from its topic. Names, defaults
and effects: joint_trajectory_controller 4.42, branch jazzy, compared with its `update()`. The
figures are set-point accelerations of that controller beside those of jtc_emulator.
A check that could not be done is listed with the reason, see `find_inactive_checks`: it is the
check `controller_settings` of core.robot.safety_checks.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from wam_policy.core.robot.embodiment import Controller

# At another factor the set-point and ours drift apart: 1e-6 of 1 rad/s over the 0.14 s between
# two chunks is 1.4e-7 rad, below what reports are compared with (command_tracker)
SPEED_SCALING_TOLERANCE = 1e-6
# Reports are matched within 12 ms of their stamp (command_tracker); below 100 Hz none would match
MIN_UPDATE_RATE_HZ = 100
INITIAL_SCALING = 'speed_scaling.initial_scaling_factor'


@dataclass(frozen=True, slots=True)
class ControllerReading:
    """Hold what is known of one controller; None: it could not be read."""

    controller: Controller
    parameters: Mapping[str, Any] | None = None  # declared ones only
    is_active: bool | None = None
    subscriber_count: int = 1  # of its trajectory topic, recorders aside
    other_publishers: tuple[str, ...] = ()  # nodes, beside our own, on its trajectory topic
    action_goals: int = 0  # of FollowJointTrajectory clients, accepted and not yet over
    speed_scaling: float | None = None  # newest in its state

    @property
    def node_name(self) -> str:
        """Return the full name of the controller's node: its topics lie below it."""
        return self.controller.topic.rpartition('/')[0]

    @property
    def supports_scaling(self) -> bool:
        """Tell whether it declares speed scaling; versions before 4.24 report 0.0 for ever."""
        return self.parameters is not None and INITIAL_SCALING in self.parameters

    @property
    def speed_factor(self) -> float | None:
        """Return how fast trajectories pass, 0 to 1; 1 if it is not told, None for nonsense."""
        factor = self.speed_scaling
        if factor is None or factor == 0.0 and not self.supports_scaling:
            return 1.0
        return min(factor, 1.0) if 0.0 <= factor <= 1.0 + SPEED_SCALING_TOLERANCE else None


@dataclass(frozen=True, slots=True)
class ControllerFault:
    """Say what is wrong with a controller, in a sentence with the fix."""

    text: str
    # the trajectory being executed is not where the clock says: a new one would make it jump
    timing_unknown: bool = False


@dataclass(frozen=True, slots=True)
class SettingRule:
    """State what a parameter must be; `{joint}` in its name stands for each joint."""

    parameter: str
    wanted: str
    is_met: Callable[[Any, ControllerReading], bool]
    why: str  # what a controller does otherwise


def _is_zero(value: Any, _: ControllerReading) -> bool:
    return value == 0.0


_HOLDS = 'and then holds the measured posture in place of the trajectory'
SETTING_RULES = (
    SettingRule(
        'joints',
        'the joints of the robot description, each once',
        lambda value, reading: sorted(value) == sorted(reading.controller.joints),
        'it rejects every trajectory',
    ),
    SettingRule(
        'interpolation_method',
        'splines',
        lambda value, _: value == 'splines',
        'set-points jump from point to point, with 371 times the acceleration limit',
    ),
    SettingRule(
        'interpolate_from_desired_state',
        'true (or open_loop_control)',
        lambda value, reading: value or bool((reading.parameters or {}).get('open_loop_control')),
        'a hold begins at the measured posture, which lags behind the set-point: it jumps',
    ),
    SettingRule('cmd_timeout', '0.0', _is_zero, f'it waits so long after the last point {_HOLDS}'),
    SettingRule(
        'constraints.goal_time',
        '0.0',
        _is_zero,
        f'it waits so long for the goal tolerance {_HOLDS}',
    ),
    SettingRule(
        'constraints.{joint}.trajectory',
        '0.0',
        _is_zero,
        f'it applies this tolerance to trajectories of the topic too {_HOLDS}; motion_node '
        'watches the tracking error',
    ),
    SettingRule(
        'update_rate',
        f'at least {MIN_UPDATE_RATE_HZ}, or 0 for the rate of the controller manager',
        lambda value, _: value == 0 or value >= MIN_UPDATE_RATE_HZ,
        'its set-points are too far apart to be compared with what was sent',
    ),
    SettingRule(
        INITIAL_SCALING,
        '1.0',
        lambda value, reading: value == 1.0 or reading.speed_scaling is not None,
        'it executes trajectories at another speed',
    ),
)
# what a controller of an older version need not have
OPTIONAL_PARAMETERS = ('open_loop_control', INITIAL_SCALING)


def list_parameters(controller: Controller) -> tuple[str, ...]:
    """Return the names of the parameters that the rules look at."""
    names = {
        rule.parameter.format(joint=joint) for rule in SETTING_RULES for joint in controller.joints
    }
    return tuple(sorted(names | set(OPTIONAL_PARAMETERS)))


def find_faults(
    reading: ControllerReading, min_speed_scaling: float = 1.0
) -> tuple[ControllerFault, ...]:
    """Return why motion must not be enabled with this controller, and must stop if it is.

    `min_speed_scaling` is the smallest factor that motion goes on with.
    """
    name, topic = reading.controller.name, reading.controller.topic
    faults = []
    if reading.subscriber_count == 0:
        faults.append(
            f'{name}: no controller subscribes to {topic}: load and activate it, or correct the '
            'name in the robot description'
        )
    elif reading.is_active is False:
        faults.append(
            f'{name} is not active: ros2 control set_controller_state {name} active; '
            'it ignores trajectories'
        )
    if reading.other_publishers:
        faults.append(
            f'{name}: {", ".join(reading.other_publishers)} also publishes on {topic}: end it '
            '(one that was killed is seen for up to 10 s more); its messages replace ours'
        )
    if reading.action_goals:
        faults.append(
            f'{name}: another client has a goal of {reading.node_name}/follow_joint_trajectory: '
            'cancel it; trajectories of the topic do not preempt it'
        )
    scaling = _find_scaling_fault(reading, min_speed_scaling)
    found = [ControllerFault(text) for text in (*faults, *_find_wrong_settings(reading))]
    return (scaling, *found) if scaling else tuple(found)


def find_inactive_checks(reading: ControllerReading) -> tuple[str, ...]:
    """Return which checks of this controller cannot be done, each with the reason.

    Whether it is active and at what speed it runs is not known either where it reports nothing:
    that is the check `controller_reports` of core.robot.safety_checks.
    """
    name, parameters = reading.controller.name, reading.parameters
    missing = []
    if parameters is None:
        missing.append(
            f'{name}: settings are not checked: {reading.node_name}/get_parameters does not answer'
        )
    else:
        absent = [
            parameter
            for parameter in list_parameters(reading.controller)
            if parameter not in parameters and parameter not in OPTIONAL_PARAMETERS
        ]
        if absent:
            missing.append(f'{name}: {", ".join(absent)} is not checked: it is not declared')
    if reading.speed_scaling == 0.0 and not reading.supports_scaling:
        missing.append(
            f'{name}: speed scaling is not watched: it reports 0.0 and does not declare '
            f'{INITIAL_SCALING}'
        )
    return tuple(missing)


def find_speed_difference(readings: Sequence[ControllerReading]) -> str:
    """Return which controllers run at different speeds; empty if none do."""
    factors = {
        reading.controller.name: factor
        for reading in readings
        if (factor := reading.speed_factor) is not None
    }
    if max(factors.values(), default=1.0) - min(factors.values(), default=1.0) <= (
        SPEED_SCALING_TOLERANCE
    ):
        return ''
    listed = ', '.join(f'{name} {factor:g}' for name, factor in factors.items())
    return (
        f'speed scaling differs between controllers ({listed}): set the same for all; the arms '
        'would meet where the collision check found them apart'
    )


def _find_scaling_fault(
    reading: ControllerReading, min_speed_scaling: float
) -> ControllerFault | None:
    """Compare the reported factor with what is allowed."""
    factor = reading.speed_factor
    if factor is not None and factor >= min_speed_scaling - SPEED_SCALING_TOLERANCE:
        return None
    wanted = '1' if min_speed_scaling == 1.0 else f'{min_speed_scaling:g} to 1'
    return ControllerFault(
        f'{reading.controller.name}: speed scaling is {reading.speed_scaling:g}, want {wanted} '
        f'(min_speed_scaling of motion_node): set it back (speed slider of the robot, or '
        f'{reading.node_name}/speed_scaling_input); nothing is sent, what is being executed goes '
        'to its end',
        timing_unknown=True,
    )


def _find_wrong_settings(reading: ControllerReading) -> list[str]:
    """Return a sentence for each parameter that is not what its rule wants."""
    if reading.parameters is None:
        return []
    found = []
    for rule in SETTING_RULES:
        names = dict.fromkeys(
            rule.parameter.format(joint=joint) for joint in reading.controller.joints
        )
        wrong = [
            f'{name} is {_format_value(reading.parameters[name])}'
            for name in names
            if name in reading.parameters and not rule.is_met(reading.parameters[name], reading)
        ]
        if wrong:
            found.append(
                f'{reading.controller.name}: {", ".join(wrong)}, want {rule.wanted}: set it so in '
                f'the parameters of {reading.node_name}; otherwise {rule.why}'
            )
    return found


def _format_value(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return ' '.join(map(str, value)) if isinstance(value, list | tuple) else str(value)
