"""A double of the released policy server, from its documented behavior and the openpi package.

Configuration on connect; `infer` gives an array, `reset` a text; an exception is sent as a text,
then code 1011 closes. Per camera the newest four images are kept, the first call of a session
sees one. It answers with the joint positions of the request; `fault` selects an error.
"""

import threading
import traceback

import numpy as np
from openpi_client import msgpack_numpy
from websockets.exceptions import ConnectionClosed
from websockets.sync.server import serve

from wam_policy.servers import server_profile

DROID_METADATA = {
    'image_resolution': (180, 320),
    'needs_wrist_camera': True,
    'n_external_cameras': 2,
    'needs_stereo_camera': False,
    'needs_session_id': True,
    'action_space': 'joint_position',
}

INVALID_REPLIES = {'garbage': b'\xc1\x00\xff', 'text': 'queue is full', 'huge': bytes(17 << 20)}


class FakeReleasedServer:
    def __init__(self, view_keys, state_keys, metadata=None, port=0):
        self.view_keys, self.state_keys, self.metadata = (
            view_keys,
            state_keys,
            DROID_METADATA if metadata is None else metadata,
        )
        self.fault, self.calls, self.observations, self.buffers, self.session = (
            '',
            [],
            [],
            {},
            None,
        )
        self.connections = []
        self.reset_s = 0.0  # a reset in which the released server writes its video
        self.server = serve(
            self.handle_connection,
            '127.0.0.1',
            port,
            compression=None,
            max_size=None,
            close_timeout=0.5,  # of the closing handshake, which a half-open connection ignores
        )
        self._closing = threading.Event()
        self.port = self.server.socket.getsockname()[1]
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def handle_connection(self, connection):
        self.connections.append(connection)
        connection.send(msgpack_numpy.packb(self.metadata))
        try:
            while True:
                message = msgpack_numpy.unpackb(connection.recv())
                self.calls.append(message.pop('endpoint'))
                if self.calls[-1] == 'reset':
                    self._closing.wait(self.reset_s)
                    self.buffers, self.session = {}, None
                    connection.send('reset successful')
                else:
                    self.reply(connection, self.infer(message))
        except ConnectionClosed:
            pass
        except Exception:
            connection.send(traceback.format_exc())
            connection.close(1011, 'Internal server error. Traceback included in previous frame.')

    def infer(self, message):
        if message['session_id'] != self.session:
            self.buffers, self.session = {}, message['session_id']
        if self.fault == 'crash':
            raise RuntimeError('CUDA error: device-side assert triggered')
        if self.fault == 'slow':
            self._closing.wait(5.0)
        shown = {}
        for key in self.view_keys:
            new = message[key] if message[key].ndim == 4 else message[key][None]
            first, kept = key not in self.buffers, self.buffers.get(key, [])
            self.buffers[key] = kept = [*kept, *new]
            shown[key] = kept[-1:] if first else ([kept[0]] * 4 + kept)[-4:]
        self.observations.append((message['prompt'], shown))
        actions = np.tile(np.concatenate([message[key] for key in self.state_keys]), (24, 1))
        actions = actions[:10] if self.fault == 'horizon' else actions
        return (actions * (np.nan if self.fault == 'nan' else 1.0)).astype(np.float32)

    def reply(self, connection, actions):
        if self.fault == 'vanish':
            connection.socket.close()
        elif self.fault in INVALID_REPLIES:
            connection.send(INVALID_REPLIES[self.fault])
        else:
            connection.send(msgpack_numpy.packb(actions))

    def close_connections(self):
        """Close as vLLM-Omni does after 30 s without a message."""
        for connection in self.connections:
            connection.close(1001, 'idle')
        self.connections = []

    def close(self):
        self._closing.set()
        self.server.shutdown()


class FakeProfileServer(FakeReleasedServer):
    """The same behavior under the keys of another robot; the joints alternate by `sway_rad`."""

    def __init__(self, name, port=0, sway_rad=0.0):
        self.profile, self.sway_rad = server_profile.load(name), sway_rad
        driven = {joint for span in self.profile.action_columns for joint in span.joints}
        super().__init__(
            [key[0] for key in self.profile.cameras.values()],
            [span.key[0] for span in self.profile.state if driven.issuperset(span.joints)],
            dict(self.profile.configuration),
            port,
        )

    def infer(self, message):
        actions = super().infer({**message, 'prompt': message[self.profile.prompt_key[0]]})
        self.sway_rad = -self.sway_rad
        ramp = np.linspace(0.0, self.sway_rad, 24, dtype=np.float32)[: len(actions), None]
        return actions + ramp * self.arm_mask

    @property
    def arm_mask(self):
        """Return 1 for columns of arm joints, 0 for grippers, which may be at a limit."""
        return np.array(
            [
                'gripper' not in joint
                for span in self.profile.action_columns
                for joint in span.joints
            ],
            np.float32,
        )
