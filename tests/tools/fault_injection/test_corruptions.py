"""What the relay does to messages: each corruption on real bytes."""

import numpy as np
import pytest

pytest.importorskip('rclpy', reason='needs a ROS 2 environment: run ./wam test')
from rclpy.serialization import deserialize_message, serialize_message
from sensor_msgs.msg import Image, JointState

from wam_msgs.msg import ActionChunk
from wam_policy.nodes import message_conversion
from wam_policy.nodes.images import image_conversion
from wam_tools.fault_injection import corruptions

pytestmark = pytest.mark.ros
PIXELS = np.arange(8 * 6 * 3, dtype=np.uint8).reshape(6, 8, 3)


def make_image_bytes(stamp_ns=5_000_000_007):
    return serialize_message(image_conversion.image_to_msg(PIXELS, stamp_ns, 'camera'))


def make_joint_state_bytes(stamp_ns=5_000_000_007):
    msg = JointState(name=['a', 'b', 'c'], position=[1.0, 2.0, 3.0], velocity=[0.1, 0.2, 0.3])
    msg.header.stamp = message_conversion.time_to_msg(stamp_ns)
    return serialize_message(msg)


def make_chunk_bytes(session='x-2', sequence=1):
    return serialize_message(
        ActionChunk(
            session=session,
            sequence=sequence,
            horizon=5,
            joint_names=list('abcd'),
            positions=[0.0] * 20,
        )
    )


def make_gripper_state_bytes():
    names = ['a', 'left_gripper', 'right_gripper', 'waist']
    return serialize_message(JointState(name=names, position=[1.0, 2.0, 3.0, 4.0]))


def apply_corruption(name, raw, *values):
    return corruptions.CORRUPTIONS[name](*values)(raw)


@pytest.mark.parametrize('raw', [make_image_bytes(), make_joint_state_bytes()])
def test_a_stamp_is_moved_and_nothing_else(raw):
    kind = Image if raw == make_image_bytes() else JointState
    (late,) = apply_corruption('shift', raw, -1.5)
    msg = deserialize_message(late, kind)
    assert message_conversion.to_ns(msg.header.stamp) == 3_500_000_007
    assert corruptions.replace_stamp(late, corruptions.read_stamp_ns(raw)) == raw


def test_a_covered_lens_is_a_whole_picture_of_one_color():
    (dark,) = apply_corruption('blacken', make_image_bytes())
    frame = image_conversion.frame_from_msg(deserialize_message(dark, Image), 'top')
    assert frame.rgb.shape == PIXELS.shape and not frame.rgb.any()


def test_a_joint_state_in_two_parts_is_whole_together():
    parts = [
        deserialize_message(raw, JointState)
        for raw in apply_corruption('split', make_joint_state_bytes())
    ]
    assert [list(part.name) for part in parts] == [['a', 'c'], ['b']]
    assert parts[1].position[0] == 2.0 and parts[0].header == parts[1].header


def test_degrees_and_a_missing_effort_are_of_a_whole_joint_state():
    (degrees,) = apply_corruption('degrees', make_joint_state_bytes())
    assert deserialize_message(degrees, JointState).position[0] == pytest.approx(57.2957795)
    (partial,) = apply_corruption('nan effort', make_gripper_state_bytes())
    effort = deserialize_message(partial, JointState).effort
    assert [effort[i] for i in (0, 1, 3)] == [0.0] * 3 and np.isnan(effort[2])


def test_efforts_and_positions_are_spoilt_as_the_row_is_called():
    def corrupt(name):
        (raw,) = apply_corruption(name, make_gripper_state_bytes())
        return deserialize_message(raw, JointState)

    both = corrupt('large and nan effort').effort
    assert both[0] == 1e3 and both[1] == 0.0 and np.isnan(both[2])
    assert len(corrupt('no effort').effort) == 0
    assert corrupt('far').position.tolist() == [1.0, 62.0, 3.0, 4.0]
    assert corrupt('millimeters').position.tolist() == [1.0, 2.0, 45.0, 4.0]


def test_what_is_frozen_repeats_with_its_own_stamp_or_with_theirs():
    freeze, stick = corruptions.CORRUPTIONS['freeze'](), corruptions.CORRUPTIONS['stick']()
    for corruption in (freeze, stick):
        assert list(corruption(make_joint_state_bytes(1))) == [make_joint_state_bytes(1)]
    assert list(freeze(make_joint_state_bytes(9))) == [make_joint_state_bytes(1)]
    (stuck,) = stick(make_joint_state_bytes(9))
    assert corruptions.read_stamp_ns(stuck) == 9
    assert corruptions.replace_stamp(stuck, 1) == make_joint_state_bytes(1)


def test_losses_are_of_the_size_asked_for():
    half = corruptions.CORRUPTIONS['lose'](0.5)
    assert 400 < sum(len(half(b'x')) for _ in range(1000)) < 600
    assert apply_corruption('lose', b'x', 1.0) == ()
    slow = corruptions.CORRUPTIONS['slow'](10)
    assert sum(len(slow(b'x')) for _ in range(100)) == 10


@pytest.mark.parametrize(
    ('name', 'complaint'), [('recode', "encoding 'mono16'"), ('cut', '72 bytes of data')]
)
def test_a_spoilt_picture_is_refused_at_the_door(name, complaint):
    (raw,) = apply_corruption(name, make_image_bytes())
    with pytest.raises(ValueError, match=complaint):
        image_conversion.frame_from_msg(deserialize_message(raw, Image), 'camera')


def test_a_halved_picture_is_a_whole_one():
    (raw,) = apply_corruption('resize', make_image_bytes())
    frame = image_conversion.frame_from_msg(deserialize_message(raw, Image), 'camera')
    assert np.array_equal(frame.rgb, PIXELS[::2, ::2])


@pytest.mark.parametrize(
    ('name', 'complaint'),
    [
        ('nan', 'position of b is not finite'),
        ('rename', 'a, b, c missing'),
        ('omit', 'a, b missing'),
    ],
)
def test_spoilt_joint_states_are_refused_at_the_door(name, complaint):
    (raw,) = apply_corruption(name, make_joint_state_bytes())
    with pytest.raises(ValueError, match=complaint):
        message_conversion.joint_state_from_msg(
            deserialize_message(raw, JointState), ('a', 'b', 'c')
        )


def test_reordered_joint_states_say_the_same():
    (raw,) = apply_corruption('reorder', make_joint_state_bytes())
    state = message_conversion.joint_state_from_msg(
        deserialize_message(raw, JointState), ('a', 'b', 'c')
    )
    assert state.position.tolist() == [1.0, 2.0, 3.0]
    assert state.velocity.tolist() == [0.1, 0.2, 0.3]


def test_chunks_come_twice_in_another_order_or_from_another_session():
    assert list(apply_corruption('duplicate', make_chunk_bytes())) == [
        make_chunk_bytes(),
        make_chunk_bytes(),
    ]
    swap = corruptions.CORRUPTIONS['disorder']()
    assert list(swap(make_chunk_bytes(sequence=1))) == []
    assert list(swap(make_chunk_bytes(sequence=2))) == [
        make_chunk_bytes(sequence=2),
        make_chunk_bytes(sequence=1),
    ]
    raw, old = (
        deserialize_message(each, ActionChunk)
        for each in apply_corruption('session', make_chunk_bytes(), 'x-1', 7)
    )
    assert (raw.session, message_conversion.to_ns(raw.header.stamp)) == ('x-2', 0)
    assert (old.session, message_conversion.to_ns(old.header.stamp), old.sequence) == ('x-1', 7, 1)


@pytest.mark.parametrize(
    ('name', 'check'),
    [
        ('poison', lambda msg: np.isnan(msg.positions[17])),
        ('shorten', lambda msg: msg.horizon == 6 and len(msg.positions) == 20),
        ('misname', lambda msg: msg.joint_names[3] == 'elbow'),
    ],
)
def test_a_chunk_is_spoilt_as_said(name, check):
    (raw,) = apply_corruption(name, make_chunk_bytes())
    assert check(deserialize_message(raw, ActionChunk))


def test_garbage_has_the_length_and_not_the_content():
    (raw,) = apply_corruption('garbage', make_image_bytes())
    assert len(raw) == len(make_image_bytes()) and raw != make_image_bytes()
    assert (
        raw[:4] == make_image_bytes()[:4]
    )  # else DDS refuses the packet and no node sees any of it
