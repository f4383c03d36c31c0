"""What the state messages of an AgiBot G1 say beside positions: faults, warnings, efforts, names.

Pure functions of messages. `vendor` is the vendor block of the robot's embodiment.yaml, which has
the codes. Fields that older firmware does not have (arm_state, err_code) are read where they are.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

# a hand's status that limits its current, as a firm grip does; 5 is a hand that does not move on
HAND_CURRENT_LIMITED = 3
# the side in a joint's name: l, left, r or right between separators
_SIDE = re.compile(r'(?:^|_)(l|left|r|right)(?=_|$)', re.IGNORECASE)
_NUMBER = re.compile(r'joint_?(\d+)', re.IGNORECASE)


def find_arm_faults(msg: Any, vendor: Mapping[str, Any]) -> list[str]:
    """Return what in an ArmState must stop the robot: its state, error codes, flags and heat."""
    state = getattr(msg, 'arm_state', None)
    faults = [f'error {msg.system_error}'] if msg.system_error else []
    if state in vendor['arm_state_faults']:
        faults.append(f'{vendor["arm_state_faults"][state]} (arm_state {state:#06x})')
    for motor in msg.motor_states:
        flags = motor.status & ~vendor['motor_warning_flags']
        if flags:
            faults.append(f'motor {motor.id} has fault flags {flags:#x}')
        if getattr(motor, 'err_code', 0):
            faults.append(f'motor {motor.id} has error code {motor.err_code:#x}')
        if not getattr(motor, 'enable', True):
            faults.append(f'motor {motor.id} is not enabled')
        if motor.temperature > vendor['max_motor_temperature_c']:
            faults.append(f'motor {motor.id} has {motor.temperature:.0f} degrees')
    return faults


def find_arm_warnings(msg: Any, vendor: Mapping[str, Any]) -> list[str]:
    """Return what in an ArmState is worth a look and stops nothing."""
    return [
        f'motor {motor.id} has warning flags {motor.status & vendor["motor_warning_flags"]:#x}'
        for motor in msg.motor_states
        if motor.status & vendor['motor_warning_flags']
    ]


def find_motion_control_faults(msg: Any, vendor: Mapping[str, Any]) -> list[str]:
    """Return what in a MotionControlStatus must stop the robot: an error, or another planner."""
    faults = []
    if getattr(msg, 'error_code', 0):
        faults.append(f'error {msg.error_code}: {getattr(msg, "error_msg", "") or "no message"}')
    if getattr(msg, 'mode', None) == vendor['planning_mode']:
        faults.append("mode PLANNING: the robot's own planner moves the arms; end it")
    return faults


def find_motion_control_warnings(msg: Any, vendor: Mapping[str, Any]) -> list[str]:
    """Return what in a MotionControlStatus is worth a look and stops nothing."""
    mode = getattr(msg, 'mode', None)
    name = vendor['motion_control_modes'].get(mode)
    if name is None:
        return [f'mode {mode} is unknown']
    return ['mode STOP: commands may be ignored'] if name == 'STOP' else []


def find_hand_warnings(msg: Any) -> list[str]:
    """Return what in an EndState is worth a look; a hand that grips limits its current."""
    hand = msg.end_state[0]
    warnings = []
    if getattr(hand, 'status', 0) == HAND_CURRENT_LIMITED:
        warnings.append('its current is limited')
    if getattr(hand, 'err_code', 0):
        warnings.append(f'error code {hand.err_code:#x}')
    if not getattr(msg, 'controlled', True):
        warnings.append('not controlled: commands are ignored')
    return warnings


def find_blind_checks(messages: Iterable[Any], limit_joints: int) -> dict[str, str]:
    """Return which checks the newest ArmStates of both arms give no input for, with the reason.

    `limit_joints` is how many motors an arm has.
    """
    blind = {}
    for msg in messages:
        motors = msg.motor_states
        if len(motors) < limit_joints:
            blind['driver_faults'] = f'{len(motors)} motors reported, of {limit_joints}'
            blind['temperature'] = blind['driver_faults']
        elif not any(motor.temperature for motor in motors if np.isfinite(motor.temperature)):
            blind['temperature'] = 'every temperature is exactly 0 or NaN: not measured'
    return blind


def read_efforts(msg: Any, count: int) -> np.ndarray:
    """Return the efforts of an arm's `count` motors in Nm, NaN where they are not reported."""
    if len(msg.motor_states) != count:
        return np.full(count, np.nan)
    return np.array([getattr(motor, 'effort', np.nan) for motor in msg.motor_states], dtype=float)


def read_body(msg: Any, joints: Sequence[str], names: Mapping[str, str]) -> dict[str, float]:
    """Return the positions of head or waist by our names.

    `names` maps the vendor's names to ours. A message without names is in the order of `joints`.
    ValueError: the number of values or a name is unknown, or a value is not finite.
    """
    positions = [motor.position for motor in msg.motor_states]
    given = [name for name in msg.name if name]
    if not given:
        if len(positions) != len(joints):
            raise ValueError(f'{len(positions)} values without names, want {len(joints)}')
        given = list(joints)
    ours = [name if name in joints else names.get(name, '') for name in given]
    if len(ours) != len(positions) or sorted(ours) != sorted(joints):
        raise ValueError(
            f'{len(positions)} values named {", ".join(given)}; want {", ".join(joints)}: '
            "add the robot's names to vendor.joint_names"
        )
    wrong = [name for name, value in zip(ours, positions, strict=True) if not np.isfinite(value)]
    if wrong:
        raise ValueError(f'{", ".join(wrong)} not finite')
    return dict(zip(ours, positions, strict=True))


def check_arm_order(names: Sequence[str]) -> str | None:
    """Return why arm joints named like this are not left 1 to 7, right 1 to 7; None if they are.

    Names that tell neither side nor number are not judged: some builds send any.
    """
    sides = [match and match[1].lower()[0] for match in map(_SIDE.search, names)]
    numbers = [match and int(match[1]) for match in map(_NUMBER.search, names)]
    half = len(names) // 2
    if None in numbers:
        return None
    if None in sides:
        wanted = list(range(1, len(names) + 1))
        right_order = numbers == wanted or len(set(numbers)) != len(names)
    else:
        right_order = sides == ['l'] * half + ['r'] * half and numbers == [
            *range(1, half + 1),
            *range(1, half + 1),
        ]
    if right_order:
        return None
    return f'arm joints come as {", ".join(names)}; want the left arm, then the right, 1 to {half}'
