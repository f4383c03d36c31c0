"""Observations come out of a bag as they went in, and go through a session."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks import observations
from wam_policy.core.robot import embodiment
from wam_policy.workers.export_engine import RecordedObservations, main

ROBOT = embodiment.load_embodiment('yam')


def write_bag(folder: Path, encoding: str = 'rgb8') -> np.ndarray:
    """Write three seconds at 10 Hz in which pictures brighten and joints turn."""
    from rosbags.rosbag2 import StoragePlugin, Writer
    from rosbags.typesys import Stores, get_typestore

    store = get_typestore(Stores.ROS2_JAZZY)
    types = store.types
    pixels = np.zeros((30, 4, 6, 3), np.uint8) + np.arange(30, dtype=np.uint8)[:, None, None, None]
    pixels[..., 0] += 100
    with Writer(folder, version=9, storage_plugin=StoragePlugin.MCAP) as writer:
        image, joints = 'sensor_msgs/msg/Image', 'sensor_msgs/msg/JointState'
        topics = {
            camera.topic: writer.add_connection(camera.topic, image, typestore=store)
            for camera in ROBOT.cameras
        }
        states = writer.add_connection('/joint_states', joints, typestore=store)
        time = types['builtin_interfaces/msg/Time']
        for i in range(30):
            now_ns = 10**9 + i * 10**8
            header = types['std_msgs/msg/Header'](time(now_ns // 10**9, now_ns % 10**9), '')
            written = pixels[i] if encoding == 'rgb8' else pixels[i, ..., ::-1]
            for connection in topics.values():
                writer.write(
                    connection,
                    now_ns,
                    store.serialize_cdr(
                        types[image](
                            header, 4, 6, encoding, 0, 18, np.ascontiguousarray(written).ravel()
                        ),
                        image,
                    ),
                )
            writer.write(
                states,
                now_ns,
                store.serialize_cdr(
                    types[joints](
                        header,
                        list(ROBOT.observed),
                        np.full(len(ROBOT.observed), i / 100),
                        np.array([]),
                        np.array([]),
                    ),
                    joints,
                ),
            )
    return pixels


@pytest.mark.parametrize('encoding', ['rgb8', 'bgr8'])
def test_a_bag_is_sampled_at_the_models_rate(tmp_path: Path, encoding: str) -> None:
    pixels = write_bag(tmp_path / 'bag', encoding)
    seen = list(observations.read_bag(ROBOT, tmp_path / 'bag', 5.0))
    assert len(seen) == 15
    for i, (pictures, posture) in enumerate(seen):
        assert set(pictures) == {camera.key for camera in ROBOT.cameras}
        assert all(np.array_equal(picture, pixels[2 * i]) for picture in pictures.values())
        assert posture == pytest.approx(2 * i / 100)


def test_samples_are_cut_into_blocks_and_kept(tmp_path: Path) -> None:
    seen = [({'top': np.full((2, 2, 3), i, np.uint8)}, np.full(4, i)) for i in range(11)]
    made = observations.stack_blocks('lift it', seen, 4)
    assert made.views['top'].shape == (9, 2, 2, 3) and made.joint_positions[:, 0].tolist() == [
        0,
        4,
        8,
    ]
    made.save(tmp_path / 'seen.npz')
    read = RecordedObservations.load(tmp_path / 'seen.npz')
    assert read.instruction == 'lift it'
    np.testing.assert_array_equal(read.views['top'], made.views['top'])
    np.testing.assert_array_equal(read.joint_positions, made.joint_positions)


@pytest.mark.parametrize(
    'arguments, said',
    [
        (['build', 'preset:tiny', '--out', 'x'], 'TensorRT needs an NVIDIA GPU'),
        (
            [
                'calibrate',
                'preset:tiny',
                '--embodiment',
                'yam',
                '--observations',
                'none.npz',
                '--out',
                'x',
            ],
            'no observations none.npz',
        ),
        (['export', 'preset:tiny', '--precision', 'fp8', '--out', 'x'], 'calibrate first'),
    ],
)
def test_refusals_are_one_line(arguments, said: str, capsys, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([*arguments, '--device', 'cpu']) == 1
    err = capsys.readouterr().err
    assert said in err and err.count('\n') == 1
