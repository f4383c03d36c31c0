"""Our server in the words of others: HTTP `/act`, GR00T's ZeroMQ and vla-eval's episodes.

The clients here are written from the public definitions of these protocols, with the packages
that define the encodings; docs/how-to/serve-your-model.md says which real clients were tried.
"""

import http.client
import io
import json
import threading
import time

import json_numpy
import msgpack
import numpy as np
import pytest
import websockets.sync.client
import zmq

from tests.servers.fake_engine import ServerThread
from wam_policy.servers import value_mapping
from wam_policy.servers.codecs import text_key_codec
from wam_policy.servers.transports.websocket_server import ServerLimits


@pytest.fixture
def serve(request):
    started = []

    def start(name, **options):
        started.append(ServerThread(name, **options))
        return started[-1]

    yield start
    for made in started:
        made.stop()


def make_observation(served, value=0):
    robot, size = served.robot, (32, 24)
    views = {
        key: np.full((1, size[1], size[0], 3), value, np.uint8) for key in served.profile.cameras
    }
    return value_mapping.encode_request(
        served.profile, robot, views, robot.home_positions(robot.observed), 'fold it'
    )


# ---- HTTP


def http_request(served, method, path, body=None, **headers):
    client = http.client.HTTPConnection('127.0.0.1', served.port, timeout=5)
    client.request(method, path, body, headers)
    answer = client.getresponse()
    return answer.status, json_numpy.loads(answer.read())


def test_act_answers_arrays_and_says_whether_it_is_ready(serve):
    served = serve('molmoact2_yam')
    status, said = http_request(served, 'GET', '/act')
    assert (status, said['status'], said['embodiment']) == (200, 'ok', 'yam')
    status, found = http_request(
        served, 'POST', '/act', json_numpy.dumps(make_observation(served, 3))
    )
    assert status == 200 and found['actions'].shape == (24, 14) and found['dt_ms'] >= 0
    state = make_observation(served)['state']
    np.testing.assert_allclose(found['actions'][0], state + 0.01, atol=1e-6)
    as_lists = json.dumps(
        {
            key: getattr(value, 'tolist', lambda v=value: v)()
            for key, value in make_observation(served).items()
        }
    )
    assert http_request(served, 'POST', '/act', as_lists)[0] == 200
    assert http_request(served, 'POST', '/reset', '{}')[0] == 200
    served.backend.not_ready_reason = 'workers are failed'
    assert http_request(served, 'GET', '/healthz')[0] == 503


def test_go1s_client_gets_rows_although_it_sends_no_head_and_waist(serve):
    served = serve('go1')
    observation = make_observation(served, 3)
    status, found = http_request(served, 'POST', '/act', json_numpy.dumps(observation))
    assert status == 200 and np.shape(found) == (24, 16)  # lists, as its own server answers
    np.testing.assert_allclose(found[0][:7], observation['state'][:7] + 0.01, atol=1e-6)
    home = served.robot.home_positions(served.robot.observed)
    np.testing.assert_allclose(served.backend.queries[-1].joints, home, atol=1e-6)


@pytest.mark.parametrize(
    ('status', 'path', 'body', 'headers'),
    [
        (400, '/act', b'{"__numpy__": "AA==", "dtype": "|O", "shape": [1]}', {}),
        (400, '/act', b'<html>', {}),
        (400, '/act', b'[1]', {}),
        (400, '/act', b'{"instruction": "x"}', {}),
        (404, '/kill', b'{}', {}),
        (413, '/act', b'x' * 70_000, {}),
        (403, '/act', b'{}', {'Origin': 'https://example.org'}),
        (401, '/act', b'{}', {'Authorization': 'Bearer guess'}),
    ],
)
def test_act_refuses_what_is_invalid_with_a_status_and_the_reason(
    serve, status, path, body, headers
):
    served = serve('molmoact2_yam', token='sesame', limits=ServerLimits(64, 65_536))
    headers = {'Authorization': 'Bearer sesame', **headers}
    found, said = http_request(served, 'POST', path, body, **headers)
    assert found == status and said['error']
    good = json_numpy.dumps(make_observation(served))
    assert http_request(served, 'POST', '/act', good, Authorization='Bearer sesame')[0] == 200


def test_act_reports_an_error_of_the_model_and_goes_on(serve):
    served = serve('molmoact2_yam')
    served.behavior['fault'] = RuntimeError('CUDA error')
    body = json_numpy.dumps(make_observation(served))
    status, said = http_request(served, 'POST', '/act', body)
    assert status == 500 and 'CUDA error' in said['error']
    del served.behavior['fault']
    assert http_request(served, 'POST', '/act', body)[0] == 200


# ---- ZeroMQ


def encode_npy(value):
    file = io.BytesIO()
    np.save(file, value, allow_pickle=False)
    return {'__ndarray_class__': True, 'as_npy': file.getvalue()}


def decode_npy(found):
    if '__ndarray_class__' in found:
        return np.load(io.BytesIO(found['as_npy']), allow_pickle=False)
    return found['as_json'] if '__ModalityConfig_class__' in found else found


class GrootClient:
    def __init__(self, served, token=None):
        self.socket, self.token = zmq.Context.instance().socket(zmq.REQ), token
        self.socket.setsockopt(zmq.RCVTIMEO, 5000)
        self.socket.setsockopt(zmq.LINGER, 0)
        self.socket.connect(f'tcp://127.0.0.1:{served.port}')

    def call(self, endpoint, **data):
        request = {'endpoint': endpoint, **({'data': data} if data else {})}
        if self.token:
            request['api_token'] = self.token
        return self.call_raw(msgpack.packb(request, default=encode_npy))

    def call_raw(self, body):
        self.socket.send(body)
        return msgpack.unpackb(self.socket.recv(), object_hook=decode_npy)


def test_groots_endpoints_are_served(serve):
    served = serve('groot_yam')
    client = GrootClient(served)
    assert client.call('ping')['status'] == 'ok'
    config = client.call('get_modality_config')
    assert config['video']['modality_keys'] == ['top', 'left_wrist', 'right_wrist']
    assert config['state']['modality_keys'] == config['action']['modality_keys']
    assert config['language']['modality_keys'] == ['annotation.human.task_description']
    assert client.call('reset', options=None) == {}
    actions, info = client.call('get_action', observation=make_observation(served), options=None)
    assert info == {} and actions['left_arm'].shape == (1, 16, 6)
    assert actions['left_gripper'].shape == (1, 16, 1)
    assert served.backend.calls_of('memory 0')[0] == ('reset', 'fold it', 'released')


@pytest.mark.parametrize(
    ('body', 'words'),
    [
        (msgpack.packb({'endpoint': 'kill'}), 'want one of'),
        (b'\xc1', 'cannot decode'),
        (msgpack.packb({'endpoint': 'get_action', 'data': {'observation': {}}}), 'missing'),
        (msgpack.packb({'endpoint': 'get_action'}), 'want a map'),
        (msgpack.packb({'endpoint': ['x']}), 'want one of'),
    ],
)
def test_groots_errors_are_maps_and_the_server_goes_on(serve, body, words):
    client = GrootClient(serve('groot_yam'))
    assert words in client.call_raw(body)['error']
    assert client.call('ping')['status'] == 'ok'


def test_groots_token_is_a_field_of_the_request(serve):
    served = serve('groot_yam', token='sesame')
    for token in ('guess', None):
        assert 'Unauthorized' in GrootClient(served, token).call('ping')['error']
    assert GrootClient(served, 'sesame').call('ping')['status'] == 'ok'


# ---- vla-eval


class Runner:
    def __init__(self, served):
        self.connection = websockets.sync.client.connect(
            f'ws://127.0.0.1:{served.port}', compression=None, max_size=None, legacy=True
        )
        self.seq = 0

    def send(self, kind, **payload):
        self.seq += 1
        message = {'type': kind, 'payload': payload, 'seq': self.seq, 'timestamp': time.time()}
        self.connection.send(text_key_codec.pack(message))

    def receive(self):
        return text_key_codec.unpack(self.connection.recv(5))

    def call(self, kind, **payload):
        self.send(kind, **payload)
        answer = self.receive()
        assert answer['seq'] == self.seq
        return answer


def make_png_observation(served, value=0):
    found = make_observation(served, value)
    found['images'] = {
        key: text_key_codec.encode_image(image) for key, image in found['images'].items()
    }
    return found


def test_an_episode_gets_one_row_per_observation(serve):
    served = serve('vla_eval_yam')
    runner = Runner(served)
    hello = runner.call('hello', harness_version='0.8.0', protocol_version=1)
    assert hello['type'] == 'hello' and hello['payload']['protocol_version'] == 1
    runner.send('episode_start', task={'name': 'fold'})
    rows = [
        runner.call('observation', **make_png_observation(served))['payload']['actions']
        for _ in range(17)
    ]
    assert {row.shape for row in rows} == {(14,)}
    assert len(served.backend.queries) == 2  # 16 rows of one chunk, then another
    runner.send('episode_end', success=True)
    wrong = runner.call('observation', images={}, task_description='x')
    assert wrong['type'] == 'error' and 'observation_failed' in wrong['payload']['error']
    assert runner.call('observation', **make_png_observation(served))['type'] == 'action'
    assert runner.call('dance')['type'] == 'error'


def test_a_live_episode_gets_the_row_that_is_due(serve):
    served = serve('vla_eval_yam')
    served.behavior['seconds'] = 0.1
    runner = Runner(served)
    runner.send('episode_start', task={}, mode='live')
    for _ in range(10):  # at 20 Hz: none of these waits for an answer
        runner.send('observation', **make_png_observation(served))
        time.sleep(0.05)
    answers = [runner.receive() for _ in range(5)]
    assert {answer['type'] for answer in answers} == {'action'}
    seqs = [answer['seq'] for answer in answers]
    assert seqs[0] == 2 and seqs == sorted(seqs)  # the first message was episode_start
    # a chunk of 16 rows at 30 Hz lasts 0.53 s, and half of it is used before the next
    assert 1 <= len(served.backend.queries) <= 3


# ---- sessions of all transports


def test_requests_that_wait_for_each_other_are_answered_together(serve):
    served = serve('groot_yam', capacity=6)
    clients = [GrootClient(served) for _ in range(6)]
    observation = make_observation(served)
    for client in clients:
        client.call('get_action', observation=observation)
    served.backend.batches.clear()
    served.behavior.update({'seconds': 0.1, 'failing seed': 7})
    found = {}

    def ask(number):
        given = {**observation, 'seed': 7} if number == 3 else observation
        found[number] = clients[number].call('get_action', observation=given)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert sum(served.backend.batches) == 6 and len(served.backend.batches) <= 3
    assert 'of a test' in found[3]['error']  # and nobody else's request failed
    assert all(isinstance(found[number], list) for number in (0, 1, 2, 4, 5))


def test_committed_rows_and_delay_reach_the_workers(serve):
    served = serve('molmoact2_yam')
    rows = np.zeros((3, 14), np.float32)
    given = {**make_observation(served), 'rtc_committed': rows, 'rtc_delay': 3}
    status, found = http_request(served, 'POST', '/act', json_numpy.dumps(given))
    assert status == 200 and found['rtc'] == {'first_row': 3, 'committed': 'ignored'}
    query = served.backend.queries[-1]
    assert query.delay == 3 and query.committed.shape == (3, 14)
    for wrong in ({'rtc_delay': 24}, {'rtc_delay': True}, {'rtc_committed': rows[:, :5]}):
        status, said = http_request(served, 'POST', '/act', json_numpy.dumps(given | wrong))
        assert status == 400 and 'rtc_' in said['error']
