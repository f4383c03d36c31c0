"""An emulated CAN bus: one socket per channel, seven motors behind each, in a process of its own.

Motors are punctual whatever the computer does: the process has real-time priority where it may.
The driver connects through `driver/can.py`; its process may be killed, the motors stay.
"""

import multiprocessing
import os
import selectors
import socket
import struct
import time
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from wam_tools.can_emulation.dm_motors import ANSWER_ID_OFFSET, STEP_S, DmMotor, make_arm

FRAME = struct.Struct('<IB8s')  # id, length, data
MAX_CATCH_UP_S = 0.2  # of a process that did not run; the motors then stand still
REALTIME_PRIORITY = 20


@dataclass(frozen=True)
class ChannelState:
    """Show one arm as its motors have it."""

    position: list[float]  # [7] rad
    velocity: list[float]  # [7] rad/s
    max_speed: float  # rad/s, of the arm's joints since the last `forget_speed`
    errors: list[list[int]]  # of each motor: its error codes, in order
    holds: bool  # every motor has power, no error, and gains
    client_count: int


class CanChannel:
    """One arm's bus: its motors, and whoever is connected."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.motors: list[DmMotor] = make_arm()
        self.is_silent = False  # frames get lost, as with a wire that is cut
        self.max_speed = 0.0
        self.clients: list[socket.socket] = []
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.listener.bind(str(path))
        self.listener.listen()

    def state(self) -> ChannelState:
        return ChannelState(
            [motor.position for motor in self.motors],
            [motor.velocity for motor in self.motors],
            self.max_speed,
            [list(motor.errors) for motor in self.motors],
            all(motor.holds for motor in self.motors),
            len(self.clients),
        )

    def forget_speed(self) -> None:
        self.max_speed = 0.0

    def forget_errors(self) -> None:
        for motor in self.motors:
            motor.errors.clear()

    def cut_wire(self) -> None:
        """Lose every frame from now on."""
        self.is_silent = True

    def cut_power(self, motor: int) -> None:
        """Take the power of one motor, counted from 1."""
        self.motors[motor - 1].has_power = False

    def restore_power(self, motor: int) -> None:
        """Give one motor its power back; it is not enabled."""
        self.motors[motor - 1].has_power = True

    def heat(self, motor: int, rotor_c: int) -> None:
        """Heat the rotor of one motor, counted from 1."""
        self.motors[motor - 1].temperature_rotor_c = rotor_c

    def remove(self) -> None:
        """Take the interface away: nobody can connect any more."""
        self.path.unlink()

    def go_down(self) -> None:
        """Take the interface down: whoever is connected gets an error."""
        for client in self.clients:
            client.shutdown(socket.SHUT_RDWR)

    def step(self, now_s: float) -> None:
        for motor in self.motors:
            motor.step(now_s)
        fastest = max(abs(motor.velocity) for motor in self.motors[:6])
        self.max_speed = max(self.max_speed, fastest)

    def on_frame(self, client: socket.socket, now_s: float) -> bool:
        """Answer one frame; return whether the client is still there."""
        try:
            packet = client.recv(FRAME.size)
        except OSError:
            packet = b''
        if not packet:
            return False
        can_id, length, data = FRAME.unpack(packet)
        motor = next((m for m in self.motors if m.can_id == can_id), None)
        answer = motor.answer(data[:length], now_s) if motor and not self.is_silent else None
        if answer is not None:
            try:
                client.send(FRAME.pack(can_id + ANSWER_ID_OFFSET, len(answer), answer))
            except OSError:
                return False
        return True


class EmulatedCanBus:
    """Serve the channels under `folder` until closed; use as a context manager."""

    def __init__(self, folder: Path, names: tuple[str, ...]) -> None:
        self.names = names
        start = multiprocessing.get_context('spawn')
        self._connection, other_end = start.Pipe()
        self._process = start.Process(
            target=run_bus, args=(folder, names, other_end), daemon=True, name='can'
        )

    def __enter__(self) -> 'EmulatedCanBus':
        self._process.start()
        self.call(self.names[0], 'state')  # it runs
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(BrokenPipeError):  # Ctrl-C ends that process, too
            self._connection.send(None)
        self._process.join(5.0)
        self._process.kill()

    def call(self, name: str, method: str, *args: int) -> Any:
        """Call a method of a channel there."""
        self._connection.send((name, method, args))
        return self._connection.recv()

    def states(self) -> list[ChannelState]:
        return [self.call(name, 'state') for name in self.names]


def run_bus(folder: Path, names: tuple[str, ...], connection: Connection) -> None:
    """Be the bus until told to end."""
    with suppress(PermissionError):
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(REALTIME_PRIORITY))
    channels = {name: CanChannel(folder / name) for name in names}
    waiting = selectors.DefaultSelector()
    waiting.register(connection, selectors.EVENT_READ)
    for channel in channels.values():
        waiting.register(channel.listener, selectors.EVENT_READ, channel)
    stepped_s = time.monotonic()
    while True:
        for key, _ in waiting.select(STEP_S):
            channel: CanChannel = key.data
            source: Any = key.fileobj  # a socket or the connection
            if source is connection:
                request = connection.recv()
                if request is None:
                    return
                name, method, args = request
                connection.send(getattr(channels[name], method)(*args))
            elif source is channel.listener:
                client, _ = source.accept()
                channel.clients.append(client)
                waiting.register(client, selectors.EVENT_READ, channel)
            elif not channel.on_frame(source, time.monotonic()):
                waiting.unregister(source)
                channel.clients.remove(source)
                source.close()
        now_s = time.monotonic()
        pause_s = now_s - MAX_CATCH_UP_S - stepped_s
        if pause_s > 0.0:  # this process's own: no motor missed a frame because of it
            stepped_s += pause_s
            for channel in channels.values():
                for motor in channel.motors:
                    motor.last_frame_s += pause_s
        while stepped_s + STEP_S <= now_s:
            stepped_s += STEP_S
            for channel in channels.values():
                channel.step(stepped_s)
