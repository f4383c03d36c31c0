"""A double of LingBot-VA's server, from wan_va/wan_va_server.py and its RoboTwin configuration.

It holds the state that the model holds: the number of latent frames, which an inference reads and
a commit advances, and the last answer. What would put pictures and actions out of step without an
error there (other images than latents, rows of another shape, a commit before an answer) is an
assertion here. It answers with joints that it was never told: those of `home`, swayed.
"""

import threading
import traceback

import numpy as np
from openpi_client import msgpack_numpy
from websockets.exceptions import ConnectionClosed
from websockets.sync.server import serve

from wam_policy.core.robot import embodiment
from wam_policy.servers import server_profile

FRAMES, ROWS, IMAGES_PER_LATENT = 2, 16, 4
CAMERAS = [f'observation.images.cam_{name}' for name in ('high', 'left_wrist', 'right_wrist')]


class LingBotDouble:
    def __init__(self, name='lingbot_va_yam', sway_rad=0.0, port=0):
        self.profile = server_profile.load(name)
        robot = embodiment.load_embodiment(self.profile.robot)
        order = [joint for group in self.profile.action_columns for joint in group.joints]
        self.home = robot.home_positions(order)
        self.arms = np.array([robot.joint(joint).kind != 'gripper' for joint in order])
        self.sway_rad, self.fault = sway_rad, ''
        self.prompts, self.states, self.inferences = [], [], []  # states: [C F H] of commits
        self.closing = threading.Event()
        self.server = serve(
            self.handle,
            '127.0.0.1',
            port,
            compression=None,
            max_size=None,
            ping_interval=None,
            close_timeout=0.5,
        )
        self.url = f'ws://127.0.0.1:{self.server.socket.getsockname()[1]}'
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self):
        self.closing.set()
        self.server.shutdown()

    def handle(self, connection):
        connection.send(msgpack_numpy.packb({}))
        try:
            for body in connection:
                answer = self.answer(msgpack_numpy.unpackb(body))
                connection.send(
                    msgpack_numpy.packb({**answer, 'server_timing': {'infer_ms': 2.0}})
                )
        except ConnectionClosed:
            pass
        except Exception:
            connection.send(traceback.format_exc())
            connection.close(1011, 'Internal server error. Traceback included in previous frame.')

    def answer(self, message):
        if message.get('reset', False):
            self.latents, self.answered = 0, None
            self.prompts.append(message['prompt'])
            return {}
        if message.get('compute_kv_cache', False):
            self.commit(message['obs'], message['state'])
            return {}
        return {'action': self.infer(message['obs'])}

    def infer(self, images):
        """Return [C F H]; before a reset there is no state to infer from."""
        if self.fault == 'crash':
            raise RuntimeError('CUDA out of memory')
        latents = self.latents
        images = images if isinstance(images, list) else [images]
        assert len(images) == 1 and all(images[0][key].ndim == 3 for key in CAMERAS)
        self.inferences.append(latents)
        ramp = np.linspace(0.0, self.sway_rad, FRAMES * ROWS)
        if len(self.inferences) % 2 == 0:
            ramp = ramp[::-1]
        rows = self.home + ramp[:, None] * self.arms
        if not latents:
            rows[:ROWS] = 7.0  # conditioned on zeros: a client that executes it would be seen
        self.answered = rows.T.reshape(-1, FRAMES, ROWS).astype(np.float32)
        return self.answered

    def commit(self, images, state):
        assert self.answered is not None, 'a commit before an inference'
        latents = FRAMES - (self.latents == 0)  # the first latent frame is the first image
        assert len(images) == latents * IMAGES_PER_LATENT, (len(images), latents)
        assert all(image[key].shape[2:] == (3,) for image in images for key in CAMERAS)
        assert state.shape == self.answered.shape and state.dtype == np.float32
        if self.latents == 0:
            np.testing.assert_array_equal(state[:, 0], self.answered[:, 0])
        self.states.append(np.array(state))
        self.latents += latents + (self.latents == 0)
        self.answered = None
