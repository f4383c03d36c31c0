"""One YAM arm through i2rt's robot object: open it, watch its threads, command it, close it.

What that driver does (read in i2rt v1.2.4), and what follows from it here:
- opening an arm with a linear gripper drives the gripper from end to end;
- it fails in many ways: AssertionError for a motor without power, can.CanError or OSError for a
  bus that is down, RuntimeError for a joint outside its limits. What it had opened stays open;
- one thread exchanges frames with the motors, a second one turns commands into them. Where one of
  them has ended, what the other one holds stays as it is;
- it stamps a state when it is read from memory, not when the motors answered;
- it hands out temperatures only while `temp_record_flag` is set, which no option of it does;
- `command_joint_pos` clips the array it is given in place, and the command is repeated for ever;
- ending it (`close`, or the process) cuts torque after the motors' time-out, and the arm sags.
"""

import importlib
import time
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np

MAX_REASON_CHARACTERS = 300
COMMANDER_END_S = 1.0  # it turns 500 times a second
EXCHANGE_END_S = 0.05  # a turn takes 4 ms; a motor that does not answer takes 10 ms of it


class DriverFault(Exception):
    """Tell in one sentence what is wrong with an arm's driver."""


@dataclass(frozen=True, slots=True)
class ArmReading:
    """Hold what one arm measured; the gripper comes last."""

    measured_ns: int  # monotonic
    position: np.ndarray  # [7], rad; gripper 0 closed .. 1 open
    velocity: np.ndarray  # [7], per s
    effort: np.ndarray  # [<= 7], Nm; shorter where the driver does not tell the rest
    hottest_c: float | None  # of all motors and their electronics; None: not reported


class I2rtArm:
    """Drive one arm, and know when its motors answered last."""

    def __init__(
        self, side: str, channel: str, open_robot: Callable[..., Any], stale_after_ns: int
    ) -> None:
        """Open the arm on CAN `channel`; ValueError says why it does not open, and the fix.

        `open_robot` takes `channel`; a motor without an answer for `stale_after_ns` is a fault.
        """
        self._side, self._stale_after_ns = side, stale_after_ns
        try:
            self._robot = open_robot(channel=channel)
        except Exception as error:
            close_leftovers(error)
            raise ValueError(
                f'{side} arm on {channel} does not open: {describe_error(error)}; is the CAN '
                'interface up (ip link), the arm powered, its zero position set and not in use '
                'by another program?'
            ) from error
        self._robot.temp_record_flag = True
        self._parts: list[Any] = [None, None]
        self._changed_ns = [0, 0]

    def read(self, now_ns: int) -> ArmReading:
        """Return what the arm measured last; `now_ns` is monotonic.

        DriverFault: a thread of the driver has ended, or its values have not been renewed.
        """
        self._check_threads()
        try:
            seen = self._robot.get_observations()
            reading = ArmReading(
                self._find_measured_ns(seen, now_ns),
                np.concatenate([seen['joint_pos'], seen['gripper_pos']]),
                np.concatenate([seen['joint_vel'], seen.get('gripper_vel', [0.0])]),
                np.concatenate([seen.get('joint_eff', []), seen.get('gripper_eff', [])]),
                _find_hottest(seen),
            )
        except Exception as error:
            raise DriverFault(
                f'{self._side} arm: the driver fails: {describe_error(error)}'
            ) from error
        age_ns = now_ns - reading.measured_ns
        if age_ns > self._stale_after_ns:
            raise DriverFault(
                f'{self._side} arm: its motors have not answered for more than '
                f'{self._stale_after_ns / 1e9:g} s; see power and CAN bus'
            )
        return reading

    def command(self, position: np.ndarray) -> None:
        """Command joints and gripper, [7]; the array may be changed by the driver."""
        self._robot.command_joint_pos(position)

    @property
    def is_driven(self) -> bool:
        """Tell whether the driver still sends frames to the motors."""
        return bool(getattr(getattr(self._robot, 'motor_chain', None), 'running', True))

    def close(self) -> str:
        """End the driver, which cuts torque; return what went wrong with that, if anything."""
        chain = getattr(self._robot, 'motor_chain', None)
        stop = getattr(self._robot, '_stop_event', None)
        commander = getattr(self._robot, '_server_thread', None)
        try:
            # in this order, or the threads end with tracebacks: a bus that closes under one
            if stop is not None and commander is not None:
                stop.set()
                commander.join(COMMANDER_END_S)
                _end_exchange(chain)
            self._robot.close()
        except Exception as error:  # noqa: BLE001 - the other arm has to be closed all the same
            close_leftovers(error)
            return f'{self._side} arm does not close: {describe_error(error)}'
        return ''

    def _check_threads(self) -> None:
        chain = getattr(self._robot, 'motor_chain', None)
        commander = getattr(self._robot, '_server_thread', None)
        if not getattr(chain, 'running', True):
            stopped = 'exchanges frames with the motors'
        elif commander is not None and not commander.is_alive():
            stopped = 'turns commands into motor frames'
        else:
            return
        raise DriverFault(
            f'{self._side} arm: the driver has stopped: its thread that {stopped} ended and the '
            'arm may have lost torque; support it, see the messages above, then restart'
        )

    def _find_measured_ns(self, seen: Mapping[str, Any], now_ns: int) -> int:
        """Return when the values in memory were renewed last, seen from here.

        Each exchange with the motors puts a new object into the chain, each turn of the second
        thread one into the robot. A driver that has neither is watched by its values.
        """
        chain = getattr(self._robot, 'motor_chain', None)
        parts = [getattr(chain, 'state', None), getattr(self._robot, '_joint_state', None)]
        if all(part is None for part in parts):
            values = np.concatenate([seen['joint_pos'], seen['joint_vel'], seen['gripper_pos']])
            is_new = [values.tobytes() != self._parts[0]] * 2
            parts = [values.tobytes()] * 2
        else:
            is_new = [
                part is None or part is not old
                for part, old in zip(parts, self._parts, strict=True)
            ]
        self._parts = parts
        self._changed_ns = [
            now_ns if new else before_ns
            for new, before_ns in zip(is_new, self._changed_ns, strict=True)
        ]
        return min(self._changed_ns)


def import_driver(arm_type: str, gripper_type: str) -> Callable[..., Any]:
    """Return a function of a CAN `channel` that opens an arm, floating until the first command.

    ValueError: i2rt is missing, does not import, or does not know the type.
    """
    try:
        opener = importlib.import_module('i2rt.robots.get_robot').get_yam_robot
        kinds = importlib.import_module('i2rt.robots.utils')
    except ImportError as error:
        if (error.name or 'i2rt').partition('.')[0] != 'i2rt':
            raise ValueError(f'i2rt does not import: {describe_error(error)}') from error
        raise ValueError(
            "i2rt is not installed in this node's Python, and YAM arms are driven through it: "
            "pip install the i2rt package of the arms' maker (version 1.2 or newer)"
        ) from error
    except Exception as error:
        raise ValueError(f'i2rt does not import: {describe_error(error)}') from error
    chosen = {}
    for key, kind, name in (
        ('arm_type', kinds.ArmType, arm_type),
        ('gripper_type', kinds.GripperType, gripper_type),
    ):
        try:
            chosen[key] = kind[name.upper()]
        except KeyError as error:
            raise ValueError(f'vendor: i2rt knows no {key} {name!r}') from error
    return lambda channel: opener(channel=channel, zero_gravity_mode=True, **chosen)


def close_leftovers(error: BaseException) -> None:
    """Close the motor chains that the driver made before it failed: it hands none out.

    A chain has a thread and the CAN socket. It is found in the frames of the error's traceback.
    """
    for frame, _ in traceback.walk_tb(error.__traceback__):
        for value in list(frame.f_locals.values()):
            if 'motor_interface' in getattr(value, '__dict__', {}):
                with suppress(Exception):
                    _end_exchange(value)
                    value.close()


def describe_error(error: BaseException) -> str:
    """Return an exception as part of a sentence: its message on one line, else its type."""
    text = ' '.join(str(error).split()).rstrip('.')
    return text[:MAX_REASON_CHARACTERS] or type(error).__name__


def _end_exchange(chain: Any) -> None:
    """Let the thread that exchanges frames with the motors finish its turn and end."""
    if getattr(chain, 'running', False):
        chain.running = False
        time.sleep(EXCHANGE_END_S)


def _find_hottest(seen: Mapping[str, Any]) -> float | None:
    temperatures_c = [np.max(seen[part]) for part in ('temp_rotor', 'temp_mos') if part in seen]
    return float(max(temperatures_c)) if temperatures_c else None
