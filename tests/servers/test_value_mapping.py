"""Each server profile says the same in both directions, and what does not fit it is refused."""

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from wam_policy.core.robot import embodiment
from wam_policy.servers import image_resize, server_profile, value_mapping
from wam_policy.servers.codecs.codec_table import CODECS
from wam_policy.servers.mapping.pose_mapping import PoseMapper

PROFILES = {name: server_profile.load(name) for name in server_profile.list_names()}
FEW_EXAMPLES = settings(deadline=None, max_examples=3)  # images take their time
SEEDS = st.integers(0, 2**32 - 1)


def load_robot(profile):
    return embodiment.load_embodiment(profile.robot)


def make_views(profile, count, seed, size=None):
    width, height = size or profile.image_size or (32, 24)
    random = np.random.default_rng(seed)
    return {
        camera: random.integers(0, 256, (count, height, width, 3), np.uint8)
        for camera in profile.cameras
    }


def make_joint_positions(robot, seed):
    random, limits = np.random.default_rng(seed), robot.limits(robot.observed)
    return random.uniform(limits.lower, limits.upper)


@pytest.mark.parametrize('name', PROFILES)
@FEW_EXAMPLES
@given(seed=SEEDS, count=st.integers(1, 4))
def test_a_request_round_trips(name, seed, count):
    spoken = PROFILES[name]
    codec, robot = CODECS[spoken.codec], load_robot(spoken)
    one = spoken.image_axes is not None and 'time' not in spoken.image_axes
    shown = make_views(spoken, 1 if one or spoken.image_encoding == 'lists' else count, seed)
    measured = make_joint_positions(robot, seed)
    poses = PoseMapper(spoken, robot)
    message = codec.unpack(
        codec.pack(
            value_mapping.encode_request(spoken, robot, shown, measured, 'fold the shirt', poses)
        )
    )
    seen = value_mapping.decode_request(spoken, robot, message)
    # where no key of the request is the prompt's, the message of the operation carries it
    assert seen.prompt == ('fold the shirt' if spoken.prompt_key is not None else '')
    assert seen.views.keys() == shown.keys()
    for camera in shown:
        np.testing.assert_array_equal(seen.views[camera], shown[camera])
    carried = {joint for group in spoken.state for joint in group.joints}
    known = [joint in carried for joint in robot.observed]
    assert np.isnan(seen.joint_positions[np.invert(known)]).all()
    # a clipped gripper loses nothing within its range
    np.testing.assert_allclose(seen.joint_positions[known], measured[known], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize('name', [name for name in PROFILES if not PROFILES[name].tools])
@FEW_EXAMPLES
@given(seed=SEEDS)
def test_an_answer_round_trips(name, seed):
    spoken = PROFILES[name]
    codec, robot, random = CODECS[spoken.codec], load_robot(spoken), np.random.default_rng(seed)
    measured = make_joint_positions(robot, seed)
    start = measured[[robot.observed.index(joint) for joint in robot.commanded]]
    # rates up to 0.2 rad per row are what every server profile here can say
    targets = start + np.cumsum(
        random.uniform(-0.199, 0.199, (spoken.horizon, len(start))), axis=0
    )
    if spoken.clips_grippers:
        named = [joint in spoken.gripper_ranges for joint in robot.commanded]
        targets[:, named] = np.clip(targets[:, named], 0.0, 1.0)
    answer = codec.unpack(
        codec.pack(value_mapping.encode_actions(spoken, robot, targets, measured))
    )
    found = value_mapping.decode_actions(spoken, robot, answer, measured)
    np.testing.assert_allclose(found, targets, atol=1e-4)


def test_grippers_close_by_the_convention_of_the_server():
    for name, closed in (
        ('dreamzero_droid', 1.0),
        ('dreamzero_agibot', 1.0),
        ('dreamzero_yam', 0.0),
        ('openpi', 1.0),
        ('openpi_yam', 0.0),
    ):
        spoken = PROFILES[name]
        robot = load_robot(spoken)
        measured = robot.home_positions(robot.observed).copy()
        hands = [gripper.name for gripper in robot.grippers]
        measured[[robot.observed.index(hand) for hand in hands]] = 0.0
        message = value_mapping.encode_state(spoken, robot, measured)
        for span in spoken.state:
            for column, joint in enumerate(span.joints):
                if joint in hands:
                    assert message[span.key[0]][column] == closed, name


def test_joints_are_sent_in_the_order_of_the_server():
    spoken = PROFILES['openpi_yam']
    robot = load_robot(spoken)
    measured = np.arange(14) / 14.0
    sent = value_mapping.encode_state(spoken, robot, measured)['state']
    names = (
        [f'left_joint{i}' for i in range(1, 7)]
        + ['left_gripper']
        + [f'right_joint{i}' for i in range(1, 7)]
        + ['right_gripper']
    )
    wanted = [measured[robot.observed.index(name)] for name in names]
    np.testing.assert_allclose(sent, wanted, rtol=1e-6)
    agibot = PROFILES['dreamzero_agibot']
    g1 = load_robot(agibot)
    sent = value_mapping.encode_state(agibot, g1, g1.home_positions(g1.observed))
    np.testing.assert_allclose(
        sent['state.waist_position'],
        [g1.home['idx02_body_joint2'], g1.home['idx01_body_joint1']],
        rtol=1e-6,
    )


def test_rates_add_up_from_the_joint_positions_and_a_row_keeps_its_direction():
    spoken = PROFILES['openpi']
    robot = load_robot(spoken)
    measured = robot.home_positions(robot.observed)
    actions = np.zeros((15, 8), np.float32)
    actions[:, 0] = 0.5
    actions[1, :2] = [4.0, -2.0]
    actions[:, 7] = 0.25
    found = value_mapping.decode_actions(spoken, robot, {'actions': actions}, measured) - measured
    np.testing.assert_allclose(found[:3, 0], [0.1, 0.3, 0.4], atol=1e-6)
    np.testing.assert_allclose(found[1:, 1], -0.1, atol=1e-6)
    np.testing.assert_allclose(found[:, 7] + measured[7], 0.75, atol=1e-6)


def test_relative_actions_start_from_the_joint_positions_of_the_request(tmp_path):
    document = yaml.safe_load((server_profile.PROFILE_FOLDER / 'dreamzero_yam.yaml').read_text())
    document['name'] = 'mine'
    document['grippers'] = {'open': 0.0, 'closed': 2.0}
    for column in document['actions']['columns']:
        column['kind'] = 'relative'
    (tmp_path / 'mine.yaml').write_text(yaml.safe_dump(document))
    spoken = server_profile.load(str(tmp_path / 'mine.yaml'))
    robot = load_robot(spoken)
    measured = robot.home_positions(robot.observed)
    start = measured[[robot.observed.index(joint) for joint in robot.commanded]]
    still = value_mapping.decode_actions(spoken, robot, np.zeros((24, 14), np.float32), measured)
    np.testing.assert_allclose(still, np.tile(start, (24, 1)), atol=1e-6)
    targets = start + 0.1 * np.sin(np.arange(24))[:, None]
    answer = value_mapping.encode_actions(spoken, robot, targets, measured)
    np.testing.assert_allclose(
        value_mapping.decode_actions(spoken, robot, answer, measured), targets, atol=1e-6
    )
    assert answer[:, 6] == pytest.approx(-0.2 * np.sin(np.arange(24)), abs=1e-6)


@pytest.mark.parametrize(
    ('answer', 'words'),
    [
        (np.zeros((10, 8), np.float32), 'want actions [24, 8]'),
        (np.zeros((24, 7), np.float32), 'want actions [24, 8]'),
        (np.zeros((24, 8), np.int32), 'want actions [24, 8]'),
        (np.full((24, 8), np.nan, np.float32), 'NaN or infinity'),
        ([[0.0] * 7] * 24, 'want actions'),
        ([[0.0] * 8, [0.0] * 7], 'want actions'),
        ({}, 'want actions'),
        (None, 'want actions'),
    ],
)
def test_a_wrong_answer_is_refused(answer, words):
    spoken = PROFILES['dreamzero_droid']
    robot = load_robot(spoken)
    with pytest.raises(value_mapping.ProfileMismatch) as refused:
        value_mapping.decode_actions(spoken, robot, answer, robot.home_positions(robot.observed))
    assert words in str(refused.value)


@pytest.mark.parametrize(
    ('key', 'value', 'words'),
    [
        ('observation/wrist_image_left', np.zeros((180, 320), np.uint8), 'want images'),
        ('observation/wrist_image_left', np.zeros((180, 320, 3), np.float32), 'want images'),
        ('observation/wrist_image_left', np.zeros((180, 321, 3), np.uint8), 'want 320x180'),
        (
            'observation/wrist_image_left',
            np.zeros((2, 180, 320, 3), np.uint8),
            'same number of images',
        ),
        ('observation/wrist_image_left', np.zeros((0, 180, 320, 3), np.uint8), 'want images'),
        ('observation/wrist_image_left', 'x', 'want images'),
        ('observation/joint_position', np.zeros(6), 'want 7 finite'),
        ('observation/joint_position', np.full(7, np.inf), 'want 7 finite'),
        ('observation/joint_position', ['0.0'] * 7, 'want 7 finite'),
        ('prompt', 5, 'want a string'),
        ('prompt', None, 'want a string'),
    ],
)
def test_a_wrong_request_is_refused_with_its_key(key, value, words):
    spoken = PROFILES['dreamzero_droid']
    robot = load_robot(spoken)
    message = value_mapping.encode_request(
        spoken, robot, make_views(spoken, 1, 0), make_joint_positions(robot, 0), 'wave'
    )
    for broken in ({**message, key: value}, {k: v for k, v in message.items() if k != key}):
        with pytest.raises(value_mapping.ProfileMismatch) as refused:
            value_mapping.decode_request(spoken, robot, broken)
        if broken.keys() == message.keys():
            assert words in str(refused.value)
        else:
            assert f'{key} is missing' in str(refused.value)


@pytest.mark.parametrize('size', [(640, 480), (320, 240), (100, 300), (224, 224)])
def test_images_are_padded_evenly_or_stretched(size):
    white = np.full((2, size[1], size[0], 3), 255, np.uint8)
    assert (image_resize.resize(white, (320, 180), 'stretch') == 255).all()
    padded = image_resize.resize(white, (224, 224), 'pad')
    assert padded.shape == (2, 224, 224, 3)
    rows, columns = (padded[0, :, :, 0].any(axis=axis).sum() for axis in (1, 0))
    assert max(rows, columns) == 224
    assert columns / rows == pytest.approx(size[0] / size[1], rel=0.01)
    for axis in (1, 2):
        lit = np.flatnonzero(padded.any(axis=(0, 3 - axis, 3)))
        assert abs(lit[0] - (223 - lit[-1])) <= 1  # an odd border has a pixel over


@pytest.mark.parametrize(
    ('change', 'words'),
    [
        ({'robot': 'yma'}, 'did you mean yam'),
        ({'pictures': {}}, 'size'),
        ({'cameras': {'eye': 'x'}}, 'want cameras of yam'),
        ({'name': 'other'}, 'differs from the file name'),
        ({'frames': {'block_steps': 24, 'offsets': [-24, 0], 'window': 4}}, 'want more than -24'),
        ({'frames': {'block_steps': 24, 'offsets': [0, -1], 'window': 4}}, 'ascending'),
        ({'grippers': {'open': 1.0, 'closed': 1.0}}, 'open equals closed'),
        (
            {
                'actions': {
                    'key': None,
                    'horizon': 24,
                    'step_hz': 30.0,
                    'columns': [{'joints': ['left_joint1'], 'kind': 'absolute'}],
                }
            },
            'want each of',
        ),
        (
            {
                'actions': {
                    'key': None,
                    'horizon': 24,
                    'step_hz': 30.0,
                    'columns': [{'joints': ['left_joint1'], 'kind': 'torque'}],
                }
            },
            'want one of absolute',
        ),
        ({'state': [{'key': 'state', 'joints': ['elbow']}]}, 'unknown joint elbow'),
        ({'spelling': 1}, 'not a known key'),
    ],
)
def test_an_invalid_profile_is_rejected(tmp_path, change, words):
    document = yaml.safe_load((server_profile.PROFILE_FOLDER / 'dreamzero_yam.yaml').read_text())
    (tmp_path / 'mine.yaml').write_text(yaml.safe_dump({**document, 'name': 'mine', **change}))
    with pytest.raises(ValueError, match=words):
        server_profile.load(str(tmp_path / 'mine.yaml'))


def test_a_state_may_come_as_a_list_of_numbers():
    profile, robot = PROFILES['dreamzero_yam'], embodiment.load_embodiment('yam')
    joints = robot.home_positions(robot.observed)
    message = value_mapping.encode_state(profile, robot, joints)
    wanted = value_mapping.decode_state(profile, robot, message)
    as_lists = {key: value.tolist() for key, value in message.items()}
    np.testing.assert_array_equal(value_mapping.decode_state(profile, robot, as_lists), wanted)
    key = next(iter(as_lists))
    for bad in (['1.0'] * 6, [[1.0], [1.0, 2.0]], [None] * 6, [1.0, 2**2000], 'six numbers', {}):
        with pytest.raises(value_mapping.ProfileMismatch, match='finite numbers'):
            value_mapping.decode_state(profile, robot, {**as_lists, key: bad})


def test_each_robot_has_one_default_profile():
    for name in embodiment.list_robots():
        robot = embodiment.load_embodiment(name)
        mine = [
            spoken for spoken in PROFILES.values() if spoken.robot == name and spoken.is_default
        ]
        assert len(mine) == 1 and server_profile.load_for_robot('', robot).name == mine[0].name
        assert mine[0].horizon == robot.horizon
        assert mine[0].step_hz == pytest.approx(1 / robot.step_dt_s)
        # the model's own sense of the grippers is what its servers speak
        for gripper in robot.grippers:
            assert (gripper.model_open, gripper.model_closed) == (
                mine[0].gripper_open,
                mine[0].gripper_closed,
            )
    with pytest.raises(ValueError, match='is for droid, not for yam'):
        server_profile.load_for_robot('openpi', embodiment.load_embodiment('yam'))
    with pytest.raises(ValueError, match='did you mean vllm_omni'):
        server_profile.load('vllm')
