"""A double of the released policy server, from its documented behaviour and the openpi package.

Configuration on connect; `infer` gives an array, `reset` a text; an exception is sent as a text,
then code 1011 closes. Per camera the newest four pictures are kept, the first call of a session
sees one. It answers with the posture it was shown, and misbehaves as `act` says.
"""

import threading
import time
import traceback

import numpy as np
from openpi_client import msgpack_numpy
from websockets.exceptions import ConnectionClosed
from websockets.sync.server import serve

from wam_policy.servers import server_profile

DROID = {
    'image_resolution': (180, 320),
    'needs_wrist_camera': True,
    'n_external_cameras': 2,
    'needs_stereo_camera': False,
    'needs_session_id': True,
    'action_space': 'joint_position',
}

WRONG = {'garbage': b'\xc1\x00\xff', 'text': 'queue is full', 'huge': bytes(17 << 20)}


class Double:
    def __init__(self, views, state, config=None, port=0):
        self.views, self.state, self.config = views, state, DROID if config is None else config
        self.act, self.calls, self.seen, self.buffers, self.session = '', [], [], {}, None
        self.server = serve(self.talk, '127.0.0.1', port, compression=None, max_size=None)
        self.port = self.server.socket.getsockname()[1]
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def talk(self, end):
        end.send(msgpack_numpy.packb(self.config))
        try:
            while True:
                message = msgpack_numpy.unpackb(end.recv())
                self.calls.append(message.pop('endpoint'))
                if self.calls[-1] == 'reset':
                    self.buffers, self.session = {}, None
                    end.send('reset successful')
                else:
                    self.reply(end, self.infer(message))
        except ConnectionClosed:
            pass
        except Exception:
            end.send(traceback.format_exc())
            end.close(1011, 'Internal server error. Traceback included in previous frame.')

    def infer(self, message):
        if message['session_id'] != self.session:
            self.buffers, self.session = {}, message['session_id']
        if self.act == 'crash':
            raise RuntimeError('CUDA error: device-side assert triggered')
        time.sleep(5.0 if self.act == 'slow' else 0.0)
        shown = {}
        for key in self.views:
            new = message[key] if message[key].ndim == 4 else message[key][None]
            first, kept = key not in self.buffers, self.buffers.get(key, [])
            self.buffers[key] = kept = [*kept, *new]
            shown[key] = kept[-1:] if first else ([kept[0]] * 4 + kept)[-4:]
        self.seen.append((message['prompt'], shown))
        actions = np.tile(np.concatenate([message[key] for key in self.state]), (24, 1))
        actions = actions[:10] if self.act == 'horizon' else actions
        return (actions * (np.nan if self.act == 'nan' else 1.0)).astype(np.float32)

    def reply(self, end, actions):
        if self.act == 'vanish':
            end.socket.close()
        elif self.act in WRONG:
            end.send(WRONG[self.act])
        else:
            end.send(msgpack_numpy.packb(actions))

    def close(self):
        self.server.shutdown()


class FlavourDouble(Double):
    """The same behaviour under the keys of another robot; it sways the joints, to and fro."""

    def __init__(self, name, port=0, sway_rad=0.0):
        self.spoken, self.sway_rad = server_profile.load(name), sway_rad
        driven = {joint for span in self.spoken.columns for joint in span.joints}
        super().__init__(
            [key[0] for key in self.spoken.cameras.values()],
            [span.key[0] for span in self.spoken.state if driven.issuperset(span.joints)],
            dict(self.spoken.configuration),
            port,
        )

    def infer(self, message):
        actions = super().infer({**message, 'prompt': message[self.spoken.prompt_key[0]]})
        self.sway_rad = -self.sway_rad
        ramp = np.linspace(0.0, self.sway_rad, 24, dtype=np.float32)[: len(actions), None]
        return actions + ramp * self.arms

    @property
    def arms(self):
        """Tell which columns are joints of an arm: a gripper has no room to sway when open."""
        return np.array(
            ['gripper' not in joint for span in self.spoken.columns for joint in span.joints],
            np.float32,
        )
