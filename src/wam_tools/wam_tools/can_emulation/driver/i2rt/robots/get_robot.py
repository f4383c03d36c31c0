"""Open an arm: its chain, its gripper's range, and the thread that turns commands into frames."""

import os
import threading
import time
from types import SimpleNamespace

import numpy as np

from i2rt.motor_drivers.dm_driver import DMChainCanInterface

KP = np.array([80.0, 80.0, 80.0, 10.0, 10.0, 10.0, 20.0])
KD = np.array([5.0, 5.0, 5.0, 1.5, 1.5, 1.5, 0.5])
GRAVITY_NM = np.array([0.0, 4.0, 3.0, 0.0, 0.0, 0.0, 0.0])  # of the emulated arm
LIMITS = np.array(
    [
        [-2.61799, 3.14159],
        [0.0, 3.66519],
        [0.0, 3.14159],
        [-1.69297, 1.5708],
        [-1.5708, 1.5708],
        [-2.0944, 2.0944],
    ]
) + [-0.15, 0.15]
LIMIT_BUFFER_RAD = 0.1
GRIPPER_TEST_TORQUE_NM = 0.5


class MotorChainRobot:
    """Turn joint positions into motor frames, with gravity compensation."""

    def __init__(self, motor_chain: DMChainCanInterface, zero_gravity_mode: bool) -> None:
        self.motor_chain, self.temp_record_flag = motor_chain, False
        self._closed, self._open = find_gripper_range(motor_chain)
        self._lock = threading.Lock()
        self._targets = np.zeros(7), np.zeros(7), np.zeros(7)  # position, kp, kd
        self._joint_state = self._convert(motor_chain.read_states())
        self._check_limits()
        self._stop_event = threading.Event()
        self._server_thread = threading.Thread(target=self._serve, name='robot_server')
        self._server_thread.start()
        if not zero_gravity_mode:
            self.command_joint_pos(self._joint_state.pos)

    def command_joint_pos(self, joint_pos: np.ndarray) -> None:
        """Repeat this command for ever; the array's arm joints are clipped in place."""
        joint_pos[:6] = np.clip(joint_pos[:6], LIMITS[:, 0], LIMITS[:, 1])
        raw = np.append(joint_pos[:6], self._closed + joint_pos[6] * (self._open - self._closed))
        with self._lock:
            self._targets = raw, KP, KD

    def get_observations(self) -> dict[str, np.ndarray]:
        state = self._joint_state
        seen = {
            'joint_pos': state.pos[:6],
            'joint_vel': state.vel[:6],
            'joint_eff': state.eff[:6],
            'gripper_pos': state.pos[6:],
            'gripper_vel': state.vel[6:],
            'gripper_eff': state.eff[6:],
        }
        if self.temp_record_flag:
            seen |= {'temp_mos': state.temp_mos, 'temp_rotor': state.temp_rotor}
        return seen

    def close(self) -> None:
        self._stop_event.set()
        self._server_thread.join()
        self.motor_chain.close()

    def _serve(self) -> None:
        ended = os.path.join(
            os.environ['WAM_EMULATED_CAN'], f'{self.motor_chain.channel}.end_commands'
        )
        while not self._stop_event.is_set():
            if os.path.exists(ended):
                os.remove(ended)
                raise RuntimeError('planted: the robot server ends')
            with self._lock:
                position, kp, kd = self._targets
            torque = GRAVITY_NM * np.cos(self._joint_state.pos)
            commands = np.stack([position, np.zeros(7), kp, kd, torque], axis=1)
            self._joint_state = self._convert(self.motor_chain.set_commands(commands))
            self._check_limits()
            if not self.motor_chain.running:
                raise RuntimeError('motor chain is not running, exiting the robot server')
            time.sleep(0.005)  # 0.001 in the real one

    def _convert(self, motors: list[SimpleNamespace]) -> SimpleNamespace:
        pos, vel, eff, mos, rotor = (
            np.array([getattr(motor, name) for motor in motors])
            for name in ('pos', 'vel', 'torque', 'temp_mos', 'temp_rotor')
        )
        pos[6] = (pos[6] - self._closed) / (self._open - self._closed)
        vel[6] /= self._open - self._closed
        return SimpleNamespace(pos=pos, vel=vel, eff=eff, temp_mos=mos, temp_rotor=rotor)

    def _check_limits(self) -> None:
        pos = self._joint_state.pos[:6]
        outside = (pos < LIMITS[:, 0] - LIMIT_BUFFER_RAD) | (pos > LIMITS[:, 1] + LIMIT_BUFFER_RAD)
        if outside.any():
            self.motor_chain.running = False
            raise RuntimeError(f'Joint limit violation detected: joints {np.flatnonzero(outside)}')


def find_gripper_range(motor_chain: DMChainCanInterface) -> list[float]:
    """Drive the gripper against both ends; return the closed and the open motor position."""
    ends = []
    for torque in (GRIPPER_TEST_TORQUE_NM, -GRIPPER_TEST_TORQUE_NM):
        commands = motor_chain.commands.copy()
        commands[6, 4] = torque
        last = None
        while (now := motor_chain.set_commands(commands)[6].pos) != last:
            last = now
            time.sleep(0.05)
        ends.append(now)
    return ends


def get_yam_robot(
    channel: str, arm_type: object, gripper_type: object, zero_gravity_mode: bool
) -> MotorChainRobot:
    """Open the arm on a channel; there is one type of arm and gripper here."""
    motor_chain = DMChainCanInterface(channel)
    motor_chain.start_thread()
    return MotorChainRobot(motor_chain, zero_gravity_mode)
