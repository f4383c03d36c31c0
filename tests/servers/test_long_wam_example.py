"""examples/servers/long_wam.py behind the profile `long_wam_yam`: every control step, no gap."""

import importlib.util
import threading
from http.server import ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from tests.servers.test_server_profiles import NodeSide
from wam_policy.servers import server_profile
from wam_policy.servers.codecs import json_numpy_codec

EXAMPLE = Path(__file__).resolve().parents[2] / 'examples/servers/long_wam.py'


def load_example():
    spec = importlib.util.spec_from_file_location('long_wam', EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


long_wam = load_example()


class StepRecorder(long_wam.HoldPolicy):
    """Refuse gaps, as the released policy does, and note the steps and one pixel of each."""

    def __init__(self):
        self.steps, self.pixels, self.anchors, self.resets = [], [], [], []

    def reset(self, episode, instruction):
        super().reset(episode, instruction)
        self.steps, self.pixels = [], []
        self.resets.append(instruction)

    def observe(self, episode, step, observation):
        if step != len(self.steps):
            raise ValueError(f'step {step} after {len(self.steps)} steps')
        assert set(observation) == {
            'observation/top',
            'observation/left_wrist',
            'observation/right_wrist',
            'observation/state',
        }
        self.steps.append(step)
        self.pixels.append(int(observation['observation/top'][0, 0, 0]))
        super().observe(episode, step, observation)

    def infer(self, anchor):
        assert anchor == self.steps[-1]
        self.anchors.append(anchor)
        return np.tile(self.state, (32, 1))


class ServedExample:
    profile = server_profile.load('long_wam_yam')

    def __init__(self):
        self.policy = StepRecorder()
        self.service = long_wam.PolicyService(self.policy)
        self.server = ThreadingHTTPServer(('127.0.0.1', 0), long_wam.make_handler(self.service))
        self.server.daemon_threads = True
        self.url = f'http://127.0.0.1:{self.server.server_address[1]}'
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()

    def close(self):
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def served():
    made = ServedExample()
    yield made
    made.close()


def test_the_policy_sees_every_control_step_once(served):
    node = NodeSide(served, timeout_s=5.0)
    geometry = node.info['geometry']
    assert geometry['frames_per_block'] == 16 and geometry['window_blocks'] == 3
    assert geometry['frame_period_s'] == pytest.approx(1 / 30)
    assert node.info['memory_update'] == 'released' and node.info['query_images'] == 'none'
    node.start()
    rest = node.robot.home_positions(node.robot.commanded)
    for steps in (1, 17, 33):
        answer = node.query()
        assert answer.kind == 'chunk', node.lines
        assert served.policy.steps == list(range(steps))
        node.commit()
    np.testing.assert_allclose(answer.arrays['targets'], np.tile(rest, (32, 1)), atol=1e-6)
    assert served.policy.anchors == [0, 16, 32]
    assert served.policy.pixels == [1] + [11] * 16 + [21] * 16 + [31] * 15
    node.start('t', 'another task')
    assert node.query('t').kind == 'chunk' and served.policy.steps == [0]
    assert served.policy.resets == ['fold the towel', 'another task']
    node.close()


def make_request(step, count=None, **changes):
    image = np.zeros((4, 6, 3) if count is None else (count, 4, 6, 3), np.uint8)
    return {
        'session_id': 's',
        'instruction': 'x',
        'step': step,
        'state': np.zeros(14, np.float32),
        **dict.fromkeys(long_wam.CAMERAS, image),
        **changes,
    }


@pytest.mark.parametrize(
    ('path', 'request_map', 'status'),
    [
        ('/act', make_request(1), 409),  # a gap
        ('/observe', make_request(5, 4), 409),
        ('/act', make_request(0, session_id='other'), 409),
        ('/act', make_request(0, instruction='y'), 409),
        ('/act', make_request(0, state=np.full(14, np.nan, np.float32)), 400),
        ('/act', make_request(0, state=np.zeros(13, np.float32)), 400),
        ('/act', make_request(0, top_cam=np.zeros((4, 6), np.uint8)), 400),
        ('/act', make_request(0, top_cam=np.zeros((4, 6, 3), np.float32)), 400),
        ('/act', make_request(4, 5), 400),  # more than four images
        ('/act', make_request(-1), 400),
        ('/kill', make_request(0), 404),
        ('/act', {}, 400),
    ],
)
def test_what_does_not_fit_is_refused_and_the_session_goes_on(served, path, request_map, status):
    service = served.service
    service.handle('/reset', {'session_id': 's', 'instruction': 'x'})
    with pytest.raises(long_wam.RequestError) as refused:
        service.handle(path, request_map)
    assert refused.value.status == status
    assert service.handle('/act', make_request(0))['anchor'] == 0
    assert service.handle('/act', make_request(0))['anchor'] == 0  # repeated: observed once
    assert service.handle('/observe', make_request(4, 4))['step'] == 4
    assert served.policy.steps == [0, 1, 2, 3, 4]


def test_its_arrays_are_those_of_json_numpy():
    value = {'a': np.arange(6, dtype=np.float32).reshape(2, 3)}
    raw = long_wam.json.dumps(value, default=long_wam.encode)
    np.testing.assert_array_equal(json_numpy_codec.unpack(raw)['a'], value['a'])
    back = long_wam.json.loads(json_numpy_codec.pack(value), object_hook=long_wam.decode)
    np.testing.assert_array_equal(back['a'], value['a'])
    for bad in ({'dtype': '|O'}, {'shape': [7]}, {'shape': 6}, {'__numpy__': '!'}):
        with pytest.raises(ValueError):
            long_wam.decode({**long_wam.encode(value['a']), **bad})
