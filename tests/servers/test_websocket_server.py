"""Our server, driven by the openpi-client package and by clients that mean no good."""

import http.client
import re
import threading
import time
from dataclasses import dataclass
from functools import partial

import msgpack
import numpy as np
import pytest
import websockets.sync.client
from openpi_client import msgpack_numpy
from openpi_client.websocket_client_policy import WebsocketClientPolicy
from websockets.exceptions import ConnectionClosed, InvalidStatus

from tests.servers.fake_engine import ServerThread
from wam_policy.servers import value_mapping
from wam_policy.servers.transports.websocket_server import ServerLimits


@pytest.fixture
def served():
    made = ServerThread()
    yield made
    made.stop()


def make_observation(served, value=0, count=1, **more):
    robot = served.robot
    size = served.profile.image_size or (32, 24)
    views = {
        key: np.full((count, size[1], size[0], 3), value, np.uint8)
        for key in served.profile.cameras
    }
    return {
        **value_mapping.encode_request(
            served.profile, robot, views, robot.home_positions(robot.observed), 'fold it'
        ),
        **more,
    }


def connect_client(served, **options):
    return WebsocketClientPolicy('127.0.0.1', served.port, **options)


def connect_raw(served, **options):
    end = websockets.sync.client.connect(
        f'ws://127.0.0.1:{served.port}',
        compression=None,
        max_size=None,
        proxy=None,
        legacy=True,
        **options,
    )
    end.recv(5)
    return end


@pytest.mark.parametrize(
    ('path', 'headers'), [('/?metadata=full', {}), ('/', {'WAM-Metadata': 'full'})]
)
def test_all_metadata_is_sent_to_who_asks_for_it(served, path, headers):
    address = f'ws://127.0.0.1:{served.port}{path}'
    with websockets.sync.client.connect(address, additional_headers=headers) as connection:
        said = msgpack_numpy.unpackb(connection.recv(5))
    assert said['action_horizon'] == 24 and said['memory']['kind'] == 'clocked'
    with websockets.sync.client.connect(
        f'ws://127.0.0.1:{served.port}/?metadata=some'
    ) as connection:
        assert 'memory' not in msgpack_numpy.unpackb(connection.recv(5))


def request(connection, **message):
    """Send a message and return the answer: a text, or what was packed."""
    connection.send(msgpack_numpy.packb(message))
    answer = connection.recv(5)
    return answer if isinstance(answer, str) else msgpack_numpy.unpackb(answer)


def http_get(served, path, **headers):
    talk = http.client.HTTPConnection('127.0.0.1', served.port, timeout=5)
    talk.request('GET', path, headers=headers)
    answer = talk.getresponse()
    return answer.status, answer.read().decode()


def test_the_openpi_client_gets_its_configuration_and_actions(served):
    far = connect_client(served)
    said = far.get_server_metadata()
    assert said == dict(served.profile.configuration)
    actions = far.infer(make_observation(served, session_id='a'))
    assert actions.shape == (24, 14) and actions.dtype == np.float32
    assert np.isfinite(actions).all()


@dataclass
class ReleasedServerConfig:
    """The record that the released DreamZero client makes of the greeting, field by field."""

    image_resolution: list[int]
    needs_wrist_camera: bool
    n_external_cameras: int
    needs_stereo_camera: bool
    needs_session_id: bool
    action_space: str


def test_the_released_keys_are_served_with_their_size():
    droid = ServerThread('dreamzero_droid')
    far = connect_client(droid)
    config = ReleasedServerConfig(**far.get_server_metadata())
    assert config.image_resolution == [180, 320] and config.n_external_cameras == 2
    # their client sends what its robot has, also what this server does not need
    far.infer(
        {
            **make_observation(droid, session_id='z'),
            'observation/cartesian_position': np.zeros(6, np.float32),
        }
    )
    actions = far.infer(make_observation(droid, session_id='a'))
    assert actions.shape == (24, 8)
    # 0 is open for this server; the robot rests with an open hand (1 for us), plus what was seen
    np.testing.assert_allclose(actions[:, 7], 0.0 - 0.01, atol=1e-6)
    droid.stop()


def test_images_are_buffered_as_the_released_server_does(served):
    far = connect_client(served)
    for value, count in ((1, 1), (2, 1), (3, 4), (9, 2)):
        far.infer(make_observation(served, value, count, session_id='a'))
    commits = [call[1] for call in served.backend.calls_of('memory 0') if call[0] == 'commit']
    assert commits == [[1], [1, 1, 1, 2], [3, 3, 3, 3], [3, 3, 9, 9]]
    far.infer(make_observation(served, 5, 4, session_id='b'))  # another id is another session
    assert served.backend.calls_of('memory 1')[:2] == [
        ('reset', 'fold it', 'released'),
        ('commit', [5]),
    ]
    assert len(served.session_manager.active_sessions) == 2


def test_a_reset_and_a_new_prompt_start_a_new_memory(served):
    ask = partial(request, connect_raw(served))
    ask(**make_observation(served, 1, session_id='a', endpoint='infer'))
    assert ask(endpoint='reset', session_id='a') == 'reset successful'
    assert served.session_manager.active_sessions == ()
    ask(**make_observation(served, 2, 4, session_id='a'))
    assert served.backend.calls_of('memory 0')[3:5] == [
        ('reset', 'fold it', 'released'),
        ('commit', [2]),
    ]
    ask(**make_observation(served, 3, session_id='a', **{'annotation.task': 'sort it'}))
    assert served.backend.calls_of('memory 0')[6:8] == [
        ('reset', 'sort it', 'released'),
        ('commit', [2, 2, 2, 3]),
    ]
    assert ask(endpoint='reset') == 'reset successful'  # of a session that never was


def test_streaming_sessions_commit_once_and_in_order(served):
    end = connect_raw(served)
    ask = partial(request, end, session_id='c')
    shown = {key: value for key, value in make_observation(served, 7).items() if 'video' in key}
    assert (
        ask(endpoint='reset', memory='clocked', **{'annotation.task': 'fold it'})
        == 'reset successful'
    )
    assert ask(endpoint='commit', block=0, **shown)['cached_blocks'] == 0
    block = {key: value for key, value in make_observation(served, 8, 4).items() if 'video' in key}
    said = ask(endpoint='commit', block=1, **block)
    assert said['cached_blocks'] == 1 and said['window_fill'] == pytest.approx(0.4)
    blind = {key: value for key, value in make_observation(served).items() if 'video' not in key}
    np.testing.assert_allclose(
        ask(**blind, seed=5)[0, 0], served.robot.home['left_joint1'] + 0.02, atol=1e-6
    )
    ask(**make_observation(served, 9, 3), seed=6)
    assert [call for _, call in served.backend.calls if call[0] != 'commit'] == [
        ('reset', 'fold it', 'streaming'),
        ('query', 5, None),
        ('query', 6, 3),
    ]
    assert 'next is 2' in ask(endpoint='commit', block=1, **block)
    with pytest.raises(ConnectionClosed):
        end.recv(5)
    assert end.close_code == 1007


def test_an_error_of_the_model_is_reported_and_closes_with_1011(served):
    served.behavior['fault'] = RuntimeError('device lost')
    far = connect_client(served)
    with pytest.raises(RuntimeError, match='Traceback(.|\n)*device lost'):
        far.infer(make_observation(served))
    with pytest.raises(ConnectionClosed):
        far.infer(make_observation(served))
    assert far._ws.close_code == 1011
    del served.behavior['fault']
    assert connect_client(served).infer(make_observation(served)).shape == (24, 14)


INVALID_MESSAGES = {
    'no message': b'\xc1\xc1',
    'empty': b'',
    'a list': msgpack.packb([1, 2]),
    'text': 'infer',
    'objects': msgpack.packb(
        {'x': {b'__ndarray__': True, b'dtype': '|O', b'shape': [1], b'data': b'\0' * 8}}
    ),
    'a claim of 8 EB': msgpack.packb(
        {'x': {b'__ndarray__': True, b'dtype': '<f8', b'shape': [2**30, 2**30], b'data': b''}}
    ),
    'an unknown endpoint': msgpack.packb({'endpoint': 'exec'}),
    'an endpoint that is no text': msgpack.packb({'endpoint': ['infer']}),
    'an id that is no text': msgpack.packb({'endpoint': 'infer', 'session_id': 7}),
    'an endless id': msgpack.packb({'endpoint': 'infer', 'session_id': 'x' * 200}),
    'no images': msgpack.packb({'endpoint': 'infer', 'session_id': 'a'}),
}


@pytest.mark.parametrize('message', INVALID_MESSAGES.values(), ids=INVALID_MESSAGES)
def test_an_invalid_request_is_declined_with_the_reason(served, message):
    with connect_raw(served) as end:
        end.send(message)
        assert re.match(
            r'(MalformedMessage|ProfileMismatch|InvalidClientRequest): .{10,}', end.recv(5)
        )
        with pytest.raises(ConnectionClosed):
            end.recv(5)
        assert end.close_code == 1007
    assert connect_client(served).infer(make_observation(served)).shape == (24, 14)


@pytest.mark.parametrize(
    'change',
    [
        {'video.top_camera-images-rgb': np.zeros((24, 32), np.uint8)},
        {'video.top_camera-images-rgb': np.zeros((24, 32, 3), np.float32)},
        {'video.top_camera-images-rgb': np.zeros((1, 4097, 3), np.uint8)},
        {'state.left_joint_pos': np.full(6, np.nan)},
        {'state.left_joint_pos': np.zeros(7)},
        {'annotation.task': 3},
        {'seed': -1},
        {'seed': 1.5},
        {'seed': True},
    ],
)
def test_wrong_shapes_and_values_are_declined(served, change):
    with connect_raw(served) as end:
        end.send(msgpack_numpy.packb(make_observation(served, session_id='a', **change)))
        assert re.match(r'(ProfileMismatch|InvalidClientRequest): .*want', end.recv(5))
    assert served.backend.calls == []


def test_a_message_of_100_mb_is_refused_before_it_is_read(served):
    with connect_raw(served) as end:
        with pytest.raises(ConnectionClosed):
            end.send(b'\0' * 100_000_000)
            end.recv(5)
        assert end.close_code in (1009, 1006)
    assert connect_client(served).infer(make_observation(served)).shape == (24, 14)


def test_only_the_right_token_is_accepted():
    served = ServerThread(token='sesame')
    for options in ({}, {'api_key': 'Sesame'}, {'api_key': ''}):
        with pytest.raises(InvalidStatus) as refused:
            connect_client(served, **options)
        assert refused.value.response.status_code == 401
    assert connect_client(served, api_key='sesame').infer(make_observation(served)).shape == (
        24,
        14,
    )
    assert http_get(served, '/healthz') == (200, 'OK\n')
    assert http_get(served, '/metrics')[0] == 401
    assert http_get(served, '/metrics', Authorization='Bearer sesame')[0] == 200
    served.stop()


def test_a_web_page_cannot_reach_it(served):
    with pytest.raises(InvalidStatus) as refused:
        connect_raw(served, origin='https://example.org')
    assert refused.value.response.status_code == 403


def test_fifty_connections_are_served_and_memories_stay_bounded():
    served = ServerThread(capacity=4, limits=ServerLimits(max_connections=50))
    ends, found, lock = [connect_raw(served) for _ in range(50)], [], threading.Lock()
    with pytest.raises(InvalidStatus) as refused:
        connect_raw(served)
    assert refused.value.response.status_code == 503

    def ask(end, number):
        end.send(msgpack_numpy.packb(make_observation(served, number, session_id=f's{number}')))
        with lock:
            found.append(msgpack_numpy.unpackb(end.recv(20)).shape)

    threads = [
        threading.Thread(target=ask, args=pair) for pair in zip(ends, range(50), strict=True)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert found == [(24, 14)] * 50
    assert (
        len(served.session_manager.active_sessions) == 4
        and served.session_manager.eviction_count == 46
    )
    for end in ends:
        end.close()
    end_s = time.monotonic() + 5
    while served.session_manager.active_sessions:
        assert time.monotonic() < end_s
        time.sleep(0.02)
    served.stop()


def test_the_least_recently_used_session_is_ended():
    served = ServerThread(capacity=2)
    far = connect_client(served)
    for name in ('a', 'b', 'a', 'c'):
        far.infer(make_observation(served, session_id=name))
    assert [session.name for session in served.session_manager.active_sessions] == ['a', 'c']
    assert any(
        'session b: 1 answers' in line and 'all memories were in use' in line
        for line in served.lines
    )
    served.stop()


def test_sessions_end_with_the_workers_that_held_them(served):
    far = connect_client(served)
    far.infer(make_observation(served, session_id='a'))
    served.backend.generation += 1
    far.infer(
        make_observation(served, 3, 4, session_id='a')
    )  # one picture first, as in any session
    assert [call for _, call in served.backend.calls if call[0] != 'query'][2:] == [
        ('reset', 'fold it', 'released'),
        ('commit', [3]),
    ]
    assert any('was lost when the workers restarted' in line for line in served.lines)


def test_healthz_reports_the_workers(served):
    served.backend.not_ready_reason, served.backend.restarts = (
        'workers are failed: killed by SIGKILL',
        2,
    )
    assert http_get(served, '/healthz') == (503, 'workers are failed: killed by SIGKILL\n')
    page = http_get(served, '/metrics')[1].splitlines()
    assert 'wam_workers_ready 0.0' in page and 'wam_worker_restarts_total 2.0' in page


def test_requests_of_a_closed_connection_are_skipped(served):
    served.behavior['seconds'] = 0.4
    first, second = connect_raw(served), connect_raw(served)
    first.send(msgpack_numpy.packb(make_observation(served, session_id='a')))
    time.sleep(0.1)  # until it is executed: at the same time both were executed together
    second.send(msgpack_numpy.packb(make_observation(served, session_id='b')))
    time.sleep(0.1)
    second.close()
    first.recv(5)
    time.sleep(0.5)
    assert sum(call[0] == 'query' for _, call in served.backend.calls) == 1


def test_health_and_metrics_match_the_requests(served):
    assert http_get(served, '/healthz') == (200, 'OK\n')
    far = connect_client(served)
    for _ in range(3):
        far.infer(make_observation(served, session_id='a"\n'))
    with connect_raw(served) as end:
        end.send(b'\xc1')
        end.recv(5)
    status, page = http_get(served, '/metrics')
    assert status == 200
    for line in (
        'wam_requests_total{endpoint="infer",outcome="ok"} 3.0',
        'wam_requests_total{endpoint="other",outcome="declined"} 1.0',
        'wam_sessions 1.0',
        'wam_evictions_total 0.0',
        'wam_session_answers{session="0 a\\"\\n"} 3.0',
        'wam_request_seconds_count{endpoint="infer",part="work"} 3.0',
    ):
        assert line in page.splitlines(), page
    assert re.search(r'wam_session_median_seconds{session="0 a.*"} 0\.\d', page)
    assert sum('infer' in line and 'ms' in line for line in served.lines) == 3
    assert http_get(served, '/else')[0] in (400, 426)


def test_it_stops_after_the_answer_in_progress():
    served = ServerThread()
    busy, idle = connect_raw(served), connect_raw(served)
    served.behavior['seconds'] = 0.5
    busy.send(msgpack_numpy.packb(make_observation(served, session_id='a')))
    time.sleep(0.2)
    served.stop()
    assert msgpack_numpy.unpackb(busy.recv(5)).shape == (24, 14)
    for end in (busy, idle):
        with pytest.raises(ConnectionClosed):
            end.recv(5)
        assert end.close_code == 1001
    with pytest.raises(OSError):
        connect_raw(served)
