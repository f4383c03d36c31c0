"""A double of python-can, for the emulated bus: the same errors where a bus fails."""

import os
import socket
import struct
from dataclasses import dataclass
from types import SimpleNamespace

FRAME = struct.Struct('<IB8s')


class CanError(Exception):
    """Base of python-can's errors."""


class CanOperationError(CanError):
    """The bus was open and does not work."""


@dataclass
class Message:
    """One frame."""

    arbitration_id: int
    data: bytes
    is_extended_id: bool = False


class Bus:
    """Connect to a channel of the folder in the environment variable WAM_EMULATED_CAN."""

    def __init__(self, channel: str, **_: object) -> None:
        self.channel_info, self.state = f'emulated channel {channel!r}', 'active'
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            self._socket.connect(os.path.join(os.environ['WAM_EMULATED_CAN'], channel))
        except OSError as error:
            self._socket.close()
            raise OSError(19, 'No such device') from error

    def send(self, message: Message) -> None:
        packet = FRAME.pack(message.arbitration_id, len(message.data), bytes(message.data))
        try:
            self._socket.send(packet)
        except OSError as error:
            raise CanOperationError(
                'Failed to transmit: Network is down [Error Code 100]'
            ) from error

    def recv(self, timeout: float) -> Message | None:
        self._socket.settimeout(timeout)
        try:
            packet = self._socket.recv(FRAME.size)
        except TimeoutError:
            return None
        except OSError as error:
            raise CanOperationError('Error receiving: Network is down [Error Code 100]') from error
        if not packet:
            raise CanOperationError('Error receiving: Network is down [Error Code 100]')
        can_id, length, data = FRAME.unpack(packet)
        return Message(can_id, data[:length])

    def shutdown(self) -> None:
        self._socket.close()


interface = SimpleNamespace(Bus=Bus)
