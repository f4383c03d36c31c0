"""Every shipped profile drives its robot through its own transport, and survives its servers.

The worker runs in a thread on a socket pair, as the node sees it; the servers are doubles made
from the profiles. One profile per server sees every fault; the others hold the robot.
"""

import json
import re
import socket
import threading

import numpy as np
import pytest
import yaml

from tests.servers import transcript
from tests.servers.fake_engine import ServerThread
from tests.servers.profile_double import FAULTS, ProfileDouble
from wam_policy.core.robot import embodiment
from wam_policy.servers import server_profile
from wam_policy.servers.client.policy_client import PolicyClient, make_server_url
from wam_policy.servers.remote_worker import RemoteWorker
from wam_policy.workers import protocol
from wam_policy.workers.protocol import WorkerMessage

# dreamzero and vllm_omni: tests/servers/test_remote_worker.py against the released double too
PROFILES = server_profile.list_names()
FAULTY = (  # one profile of each server
    'agibot_act',
    'cosmos3_droid',
    'cosmos_policy_yam',
    'go1',
    'groot_droid',
    'groot_n15_yam',
    'groot_yam',
    'lingbot_va_yam',
    'long_wam_yam',
    'molmoact2_yam',
    'openpi',
    'praxis1_yam',
    'sglang_pi_yam',
    'vla_eval_yam',
    'vllm_omni_cosmos3',
    'vllm_omni_groot_yam',
    'vllm_omni_pi_yam',
    'xpolicylab_yam',
)
WRONG_ANSWERS = ('error_key', 'garbage', 'nan', 'narrow', 'far')
SIZE = (24, 32)  # of the camera images: height, width


class NodeSide:
    """Ask a remote worker as policy_node does, in the order its geometry states."""

    def __init__(self, double, timeout_s=1.0, **options):
        self.profile = double.profile
        self.robot = embodiment.load_embodiment(self.profile.robot)
        self.lines, self.sequence, self.rows = [], 0, 0
        near, far = self.socket, self.far = socket.socketpair()
        url = make_server_url(double.url, self.profile)
        self.worker = RemoteWorker(
            far,
            self.profile,
            self.robot,
            lambda: PolicyClient(self.profile, url, **options),
            timeout_s,
            timeout_s,
            self.lines.append,
        )
        # a fault is to be seen in a second, whatever the profile allows the first answer
        self.worker._first_timeout_s = self.worker._answer_timeout_s = timeout_s
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()
        self.info = protocol.receive(near, 10).fields

    def run(self):
        try:
            self.worker.serve()
        finally:
            self.worker.close()

    def request(self, kind, fields, arrays=None):
        self.sequence += 1
        protocol.send(
            self.socket, WorkerMessage(kind, {**fields, 'id': self.sequence}, arrays or {})
        )
        answer = protocol.receive(self.socket, 20)
        assert answer.fields['id'] == self.sequence
        return answer

    def start(self, session='s', prompt='fold the towel'):
        answer = self.request('reset', {'session': session, 'instruction': prompt})
        assert answer.kind == 'ok', answer
        self.block = 0
        return self.commit(session, 1)

    def commit(self, session='s', count=None):
        count = count or self.rows or self.info['geometry']['frames_per_block']
        frames = {
            f'frames/{camera}': np.full((count, *SIZE, 3), 10 * self.block + 1, np.uint8)
            for camera in self.profile.cameras
        }
        if self.info['geometry']['follows_chunks']:
            rest = self.robot.home_positions(self.robot.observed)
            frames['joints'] = np.tile(rest, (count, 1))
        answer = self.request('commit', {'session': session, 'block': self.block}, frames)
        assert answer.kind == 'committed', answer
        self.block += 1
        return answer

    def query(self, session='s', **more):
        arrays = {'joints': self.robot.home_positions(self.robot.observed), **more}
        if self.info['query_images'] == 'latest':
            arrays |= {
                f'newest/{camera}': np.full((*SIZE, 3), 7, np.uint8)
                for camera in self.profile.cameras
            }
        fields = {'session': session, 'sequence': self.sequence, 'stamp_ns': 5, 'seed': 3}
        answer = self.request('query', fields, arrays)
        if self.info['geometry']['follows_chunks'] and answer.kind == 'chunk':
            self.rows = len(answer.arrays['targets'])  # a block is what was executed of it
        return answer

    def close(self):
        self.socket.close()
        self.thread.join(5)
        self.far.close()
        assert not self.thread.is_alive()


@pytest.fixture
def connect(request):
    opened = []

    def connect(name, timeout_s=5.0, **options):
        double = ProfileDouble(name)
        request.addfinalizer(double.close)
        node = NodeSide(double, timeout_s, **options)
        opened.append(node)
        return double, node

    yield connect
    for node in opened:
        node.close()


@pytest.mark.parametrize('name', PROFILES)
def test_the_robot_is_held_and_a_wrong_answer_is_refused_before_anything_moves(connect, name):
    double, node = connect(name)
    node.start()
    rest = node.robot.home_positions(node.robot.commanded)
    for asked in range(2):
        answer = node.query()
        assert answer.kind == 'chunk', (answer, node.lines)
        step_dt_s = answer.fields['step_dt_s']
        assert step_dt_s == pytest.approx(node.robot.step_dt_s)
        skipped = double.profile.rows_per_frame * (double.profile.skips_first_frame and not asked)
        seconds = (double.profile.horizon - skipped) / double.profile.step_hz
        assert len(answer.arrays['targets']) == round(seconds / step_dt_s)
        # poses are solved to a millimeter
        tolerance = 0.02 if double.profile.tools else 1e-5
        for row in answer.arrays['targets']:
            np.testing.assert_allclose(row, rest, atol=tolerance)
        node.commit()
    assert double.prompts and set(double.prompts) == {'fold the towel'}
    schedule = double.profile.frames
    count = len(schedule.offsets) if schedule.repeats_first else 1
    assert double.image_counts[0] == dict.fromkeys(double.profile.cameras, count)
    for fault in WRONG_ANSWERS:
        # rates are limited, so they start at the measured positions whatever they are
        if fault == 'far' and double.profile.action_columns[0].kind == 'rate':
            continue
        node.start(fault)
        double.fault = fault
        answer = node.query(fault)
        assert answer.kind == 'error', (fault, answer)
        assert re.search(FAULTS[fault], answer.fields['what']), answer.fields['what']
        double.fault = ''


@pytest.mark.parametrize('name', FAULTY)
def test_every_fault_is_reported_and_the_next_session_works(connect, name):
    double, node = connect(name, timeout_s=1.0)
    is_rate = double.profile.action_columns[0].kind == 'rate'
    for fault, words in FAULTS.items():
        # rates are limited, so they start at the measured positions whatever they are
        if is_rate and fault in ('far', 'degrees'):
            continue
        node.start(fault)
        double.fault = fault
        answer = node.query(fault)
        assert answer.kind == 'error', (fault, answer)
        assert re.search(words, answer.fields['what']), (fault, answer.fields['what'])
        double.fault = ''
        node.start(f'after {fault}')
        assert node.query(f'after {fault}').kind == 'chunk', (fault, node.lines)


@pytest.mark.parametrize('name', PROFILES)
def test_the_messages_are_those_of_the_transcript(name):
    wanted = json.loads((transcript.FOLDER / f'{name}.json').read_text())
    assert json.loads(json.dumps(transcript.make_transcript(name))) == wanted


def test_rows_that_are_executed_until_the_answer_travel_with_the_query(tmp_path):
    document = yaml.safe_load((server_profile.PROFILE_FOLDER / 'molmoact2_yam.yaml').read_text())
    document['name'] = 'rtc'
    document['operations']['infer']['message'] |= {'prefix': '$committed', 'delay': '$delay'}
    (tmp_path / 'rtc.yaml').write_text(yaml.safe_dump(document))
    double = ProfileDouble(str(tmp_path / 'rtc.yaml'))
    node = NodeSide(double, timeout_s=5.0)
    node.start()
    node.query()
    assert not {'prefix', 'delay'} & set(double.calls[-1][1])  # the first continues nothing
    node.query()
    sent = double.calls[-1][1]
    assert sent['delay'] >= 1 and sent['prefix'].shape == (sent['delay'], 14)
    np.testing.assert_allclose(
        sent['prefix'], np.tile(sent['state'], (sent['delay'], 1)), atol=1e-5
    )
    node.start('t')
    node.query('t')
    assert 'prefix' not in double.calls[-1][1]
    node.close()
    double.close()


def test_our_own_server_gets_the_rows_that_the_node_chooses():
    """By itself the worker sends none: blended queries start at the measured joints."""
    served = ServerThread('dreamzero_yam')
    served.url = f'ws://127.0.0.1:{served.port}?metadata=full'
    node = NodeSide(served, timeout_s=5.0)
    rows = np.full((3, 14), 0.125)
    try:
        assert node.info['rtc'] == {'delay': 'first_row', 'committed': 'held', 'max_rows': 4}
        node.start()
        for _ in range(2):
            assert node.query().kind == 'chunk', node.lines
        assert node.query(committed=rows).kind == 'chunk', node.lines
        *plain, given = served.backend.queries
        assert [(query.delay, query.committed) for query in plain] == [(0, None)] * 2
        assert given.delay == 3
        np.testing.assert_array_equal(given.committed, rows)
    finally:
        node.close()
        served.stop()


@pytest.mark.parametrize(
    ('url', 'words'),
    [
        ('ws://127.0.0.1:1', 'want http://HOST:PORT or https://HOST:PORT for the server profile'),
        ('grpc://127.0.0.1:8080', 'carries pickles'),
        ('127.0.0.1:8202', 'want http://'),
    ],
)
def test_a_wrong_address_names_the_right_one(url, words):
    with pytest.raises(ValueError, match=words):
        make_server_url(url, server_profile.load('molmoact2_yam'))
