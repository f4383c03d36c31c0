"""Servers that learn what was executed of their answers: LingBot-VA and Praxis-1."""

import numpy as np
import pytest

from tests.servers.lingbot_double import ROWS, LingBotDouble
from tests.servers.profile_double import ProfileDouble
from tests.servers.test_server_profiles import SIZE, NodeSide
from wam_policy.servers.client.executed_rows import resample_rows

LINGBOT = ('lingbot_va_yam', 'lingbot_va_agibot')


@pytest.fixture
def connect(request):
    opened = []

    def connect(double, timeout_s=5.0):
        request.addfinalizer(double.close)
        node = NodeSide(double, timeout_s)
        opened.append(node)
        return node

    yield connect
    for node in opened:
        node.close()


def commit_executed(node, joints, sent=None):
    """Commit a block whose image number i is of the color i; `sent` replaces the joints."""
    count = len(joints)
    colors = np.arange(count, dtype=np.uint8)[:, None, None, None]
    frames = {
        f'frames/{camera}': np.tile(colors, (1, *SIZE, 3)) for camera in node.profile.cameras
    }
    fields = {'session': 's', 'block': node.block}
    answer = node.request('commit', fields, {**frames, 'joints': joints if sent is None else sent})
    node.block += answer.kind == 'committed'
    return answer


def follow(node, answer, offset_rad=0.0):
    """Return the joint positions [rows observed] of a robot that executed an answer."""
    robot = node.robot
    joints = np.tile(robot.home_positions(robot.observed), (len(answer.arrays['targets']), 1))
    columns = [robot.observed.index(name) for name in robot.commanded]
    arms = [robot.joint(name).kind != 'gripper' for name in robot.commanded]
    joints[:, columns] = answer.arrays['targets'] + offset_rad * np.array(arms)
    return joints


@pytest.mark.parametrize('name', LINGBOT)
def test_lingbot_gets_what_was_executed_with_the_images_of_its_rows(connect, name):
    double = LingBotDouble(name, sway_rad=0.1)
    node = connect(double)
    node.start(prompt='fold the towel')
    for number in range(4):
        answer = node.query()
        assert answer.kind == 'chunk', (answer.fields, node.lines)
        targets = answer.arrays['targets']
        # the first latent frame of a session is the image that it begins with
        assert len(targets) == (1 if number == 0 else 2) * ROWS and targets.max() < 6.0
        committed = commit_executed(node, follow(node, answer, offset_rad=0.02))
        assert committed.kind == 'committed', (committed.fields, node.lines)
        # the arms followed: the rows are those of the answer, as its own client sends them
        assert double.states[-1].shape == (len(double.home), 2, ROWS)
    assert double.inferences == [0, 2, 4, 6] and double.prompts == ['fold the towel']


def test_where_the_arm_did_not_follow_the_measured_positions_are_sent(connect):
    double = LingBotDouble(sway_rad=0.1)
    node = connect(double)
    node.start()
    joints = follow(node, node.query())
    joints[8:] = joints[7] + 0.5  # stopped, and pushed away
    assert commit_executed(node, joints).kind == 'committed'
    sent = double.states[0].reshape(14, -1).T[ROWS:]
    order = [joint for group in double.profile.action_columns for joint in group.joints]
    measured = joints[:, [node.robot.observed.index(joint) for joint in order]]
    np.testing.assert_allclose(sent[8:], measured[8:], atol=1e-6)
    np.testing.assert_allclose(sent[:8], measured[:8], atol=1e-6)  # as answered, and followed


def test_the_images_are_those_after_every_fourth_row(connect):
    double = ProfileDouble('lingbot_va_yam')
    node = connect(double)
    node.start()
    for rows, wanted in ((16, [3, 7, 11, 15]), (32, [3, 7, 11, 15, 19, 23, 27, 31])):
        commit_executed(node, follow(node, node.query()))
        name, message = double.calls[-1]
        colors = [image['observation.images.cam_high'][0, 0, 0] for image in message['obs']]
        assert name == 'commit' and colors == wanted and message['state'].shape == (14, 2, 16)
        assert rows == wanted[-1] + 1


def test_requests_out_of_order_are_refused_and_nothing_is_sent(connect):
    double = LingBotDouble()
    node = connect(double)
    node.start()
    joints = np.tile(node.robot.home_positions(node.robot.observed), (16, 1))
    assert 'query first' in commit_executed(node, joints).fields['what']
    assert node.query().kind == 'chunk'
    assert 'one query per chunk' in node.query().fields['what']
    assert 'want joints [16 14]' in commit_executed(node, joints, joints[:3]).fields['what']
    assert not double.states


def test_a_server_that_lost_its_state_is_reset(connect):
    double = LingBotDouble()
    node = connect(double)
    node.start()
    double.fault = 'crash'
    answer = node.query()
    assert answer.kind == 'error' and 'CUDA out of memory' in answer.fields['what']
    double.fault = ''
    node.start()
    assert node.query().kind == 'chunk' and len(double.prompts) == 2


@pytest.mark.parametrize('name', ['praxis1_yam', 'praxis1_droid'])
def test_praxis_gets_the_images_and_poses_of_25_instants(connect, name):
    double = ProfileDouble(name)
    node = connect(double)
    node.start()
    every = round(1 / 15 / node.robot.step_dt_s)
    for number in range(3):
        answer = node.query()
        assert answer.kind == 'chunk', (answer.fields, node.lines)
        assert len(answer.arrays['targets']) == 24 * every
        _, message = double.calls[-1]
        image = message['images']['exterior']
        count = 1 if number == 0 else 25
        assert message['pose'].shape == (count, double.profile.action_dim)
        assert np.isfinite(message['pose']).all() and message['session_id'] == 's'
        if number:
            assert image.shape[0] == 25
            colors = image[:, 0, 0, 0].astype(int)
            # the last of the block before, then those after each row of 1/15 s
            assert list(colors[1:]) == [every * (i + 1) - 1 for i in range(24)]
            assert colors[0] == (1 if number == 1 else 24 * every - 1)
        commit_executed(node, follow(node, answer))


def test_rows_of_another_rate_get_the_robots_and_the_same_duration():
    rows = np.arange(24.0)[:, None] * [1.0, -2.0]
    found = resample_rows(rows, 1 / 15, 1 / 30)
    assert found.shape == (48, 2)
    np.testing.assert_allclose(found[::2], rows)
    np.testing.assert_allclose(found[1:-1:2], (rows[:-1] + rows[1:]) / 2)
    np.testing.assert_allclose(found[-1], rows[-1])  # held
    assert resample_rows(rows, 1 / 30, 1 / 30) is rows
    assert resample_rows(rows, 1 / 50, 1 / 30).shape == (14, 2)
