"""A chain of motors on one bus, and the thread that exchanges frames with them."""

import sys
import threading
import time
from types import SimpleNamespace

import can
import numpy as np

from wam_tools.can_emulation.dm_motors import (
    ANSWER_ID_OFFSET,
    DM4310,
    DM4340,
    ENABLED,
    pack_command,
    unpack_answer,
)

MOTOR_TYPES = (DM4340, DM4340, DM4340, DM4310, DM4310, DM4310, DM4310)
ANSWER_TIMEOUT_S = 0.01
MAX_RETRIES, MAX_CONTROL_RETRIES = 5, 15
PERIOD_S = 0.005  # the real one is as fast as its bus, about 250 Hz


class MotorInterface:
    """Send a frame to one motor and wait for its answer."""

    def __init__(self, channel: str) -> None:
        self.channel = channel
        self.bus = can.interface.Bus(bustype='socketcan', channel=channel, bitrate=1000000)

    def exchange(self, motor_id: int, data: bytes, retries: int) -> can.Message:
        for _ in range(retries):
            try:
                self.bus.send(can.Message(motor_id, data))
                answer = self.bus.recv(timeout=ANSWER_TIMEOUT_S)
                if answer and answer.arbitration_id == motor_id + ANSWER_ID_OFFSET:
                    return answer
                self.bus.recv(timeout=ANSWER_TIMEOUT_S)  # of one that came late
            except can.CanError:
                pass  # the real one logs and retries
            time.sleep(0.001)
        raise AssertionError(
            f'fail to communicate with the motor {motor_id} on yam_real at can channel '
            f'{self.bus.channel_info}'
        )

    def turn_on(self, motor_id: int) -> can.Message:
        """Enable the motor; clear its error first where it has one."""
        while True:
            answer = self.exchange(motor_id, b'\xff' * 7 + b'\xfc', MAX_RETRIES)
            if answer.data[0] >> 4 == ENABLED:
                return answer
            self.bus.send(can.Message(motor_id, b'\xff' * 7 + b'\xfb'))
            self.bus.recv(timeout=ANSWER_TIMEOUT_S)


class DMChainCanInterface:
    """Keep the newest state of every motor and send the newest command, again and again."""

    def __init__(self, channel: str) -> None:
        self.channel, self.motor_interface = channel, MotorInterface(channel)
        self.command_lock, self.state_lock = threading.RLock(), threading.Lock()
        self.running = False
        self.state = [
            self._parse(self.motor_interface.turn_on(motor_id), motor_id)
            for motor_id in range(1, 8)
        ]
        self.running = True
        self.commands = np.zeros((7, 5))
        self.commands[:, 4] = [motor.torque for motor in self.state]

    def start_thread(self) -> None:
        threading.Thread(target=self._run).start()
        time.sleep(0.1)

    def set_commands(self, commands: np.ndarray) -> list[SimpleNamespace]:
        """Take position, velocity, kp, kd and torque of each motor, [7 5]."""
        with self.command_lock:
            self.commands = commands
        return self.read_states()

    def read_states(self) -> list[SimpleNamespace]:
        """Return the newest states, stamped now: not when they were measured."""
        with self.state_lock:
            return [SimpleNamespace(**vars(motor), timestamp=time.time()) for motor in self.state]

    def close(self) -> None:
        self.running = False
        self.motor_interface.bus.shutdown()

    def _run(self) -> None:
        while self.running:
            try:
                with self.command_lock:
                    state = [self._set_control(i, row) for i, row in enumerate(self.commands)]
                with self.state_lock:
                    self.state = state
                time.sleep(PERIOD_S)
            except Exception as error:
                sys.stderr.write(f'DM Error in control loop: {error}\n')
                self.running = False
                raise

    def _set_control(self, index: int, row: np.ndarray) -> SimpleNamespace:
        data = pack_command(MOTOR_TYPES[index], *row)
        answer = self.motor_interface.exchange(index + 1, data, MAX_CONTROL_RETRIES)
        return self._parse(answer, index + 1)

    def _parse(self, answer: can.Message, motor_id: int) -> SimpleNamespace:
        error, position, velocity, torque, mos, rotor = unpack_answer(
            MOTOR_TYPES[motor_id - 1], answer.data
        )
        if error != ENABLED:
            raise RuntimeError(f'Motor error detected: motor id: {motor_id}, error: {error:#x}')
        return SimpleNamespace(
            pos=position,
            vel=velocity,
            torque=torque,
            temp_mos=float(mos),
            temp_rotor=float(rotor),
        )
