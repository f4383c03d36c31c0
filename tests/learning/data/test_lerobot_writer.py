"""The layout on disk, read back without the code that wrote it."""

import json
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.learning import played
from wam_learning.data import dataset_validation, gear_metadata
from wam_learning.data.dataset_validation import find_issues
from wam_learning.data.lerobot_writer import LeRobotWriter
from wam_learning.data.time_sync import SynchronizedSample
from wam_learning.data.video_files import VideoWriter, read_frame_times
from wam_policy.core.robot import embodiment, transforms
from wam_policy.core.types import Frame, JointState, Observation

ODD_SIZES = ((64, 48), (40, 30), (33, 47))
SIZE = (64, 48)


def make_sample(robot, index, size=SIZE, instruction='wave', gripper=None):
    rgb = np.full((size[1], size[0], 3), 20 + index * 3 % 200, np.uint8)
    names, rest = robot.observed, robot.home_positions(robot.observed).copy()
    rest[0] += 0.01 * index
    targets = rest[: len(robot.commanded)] + 0.05
    targets[[robot.commanded.index(g.name) for g in robot.grippers]] = (
        index % 2 if gripper is None else gripper
    )
    frames = tuple(Frame(camera.key, index, rgb) for camera in robot.cameras)
    return SynchronizedSample(
        index, Observation(index, frames, JointState(index, names, rest)), targets, instruction
    )


def write_dataset(folder, name='agibot_g1', lengths=(40, 30), **changes):
    robot = embodiment.load_embodiment(name)
    into = LeRobotWriter(folder, robot)
    for number, length in enumerate(lengths):
        for index in range(length):
            into.add_sample(
                make_sample(robot, index, instruction=('wave', 'lift')[number % 2], **changes)
            )
        into.end_episode()
    into.finalize({'robot': name})
    return robot


def read_jsonl(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize('name', embodiment.list_robots())
def test_the_layout_is_what_its_metadata_says(tmp_path, name):
    robot = write_dataset(tmp_path / 'out', name)
    root = tmp_path / 'out'
    info = json.loads((root / 'meta/info.json').read_text())
    assert info['codebase_version'] == 'v2.1' and info['fps'] == round(1 / robot.step_dt_s)
    assert (info['total_episodes'], info['total_frames'], info['total_tasks']) == (2, 70, 2)
    assert info['total_videos'] == 2 * len(robot.cameras)
    assert read_jsonl(root / 'meta/tasks.jsonl') == [
        {'task_index': 0, 'task': 'wave'},
        {'task_index': 1, 'task': 'lift'},
    ]
    assert [e['length'] for e in read_jsonl(root / 'meta/episodes.jsonl')] == [40, 30]
    first = pq.read_table(root / 'data/chunk-000/episode_000000.parquet')
    second = pq.read_table(root / 'data/chunk-000/episode_000001.parquet')
    assert set(first.column_names) == {
        key for key, value in info['features'].items() if value['dtype'] != 'video'
    }
    assert second['index'].to_pylist() == list(range(40, 70))
    assert second['frame_index'].to_pylist() == list(range(30))
    assert set(second[robot.language_key].to_pylist()) == {1}
    assert np.allclose(first['timestamp'].to_numpy(), np.arange(40) * robot.step_dt_s)
    for camera in robot.cameras:
        feature = info['features'][f'observation.images.{camera.key}']
        assert feature['shape'] == [48, 64, 3]
        path = root / f'videos/chunk-000/observation.images.{camera.key}/episode_000000.mp4'
        seen = played.read_frames(path)
        assert seen.shape == (40, 48, 64, 3)
        assert abs(seen[:, 24, 32, 0].astype(int) - (20 + np.arange(40) * 3 % 200)).max() <= 3
    assert not list(dataset_validation.find_issues(root, robot))


@pytest.mark.parametrize('name', embodiment.list_robots())
def test_modality_slices_give_back_what_the_robot_did(tmp_path, name):
    robot = write_dataset(tmp_path / 'out', name, lengths=(30,))
    modality = json.loads((tmp_path / 'out/meta/modality.json').read_text())
    table = pq.read_table(tmp_path / 'out/data/chunk-000/episode_000000.parquet')
    state, action = (np.stack(table[key].to_numpy()) for key in ('observation.state', 'action'))
    assert list(modality['state']) == [key.key for key in robot.state_keys]
    assert list(modality['action']) == [key.key for key in robot.action_keys]
    assert [(v['original_key']) for v in modality['video'].values()] == [
        f'observation.images.{camera.key}' for camera in robot.cameras
    ]
    (annotation,) = modality['annotation'].items()
    assert f'annotation.{annotation[0]}' == robot.language_key == annotation[1]['original_key']
    for i in (0, 7, 29):
        wanted = make_sample(robot, i)
        cut = {
            key: state[i, part['start'] : part['end']] for key, part in modality['state'].items()
        }
        posture = transforms.from_model_state(robot, cut)
        assert posture == pytest.approx(wanted.observation.joints.position, abs=1e-6)
        cut = {
            key: action[i, part['start'] : part['end']] for key, part in modality['action'].items()
        }
        assert transforms.from_model_actions(robot, cut) == pytest.approx(wanted.targets, abs=1e-6)
        for key in robot.action_keys:
            if key.masked and key.joints:  # held where it is
                assert cut[key.key] == pytest.approx(
                    wanted.observation.joints.positions(key.joints), abs=1e-6
                )
            elif key.masked:
                assert not cut[key.key].any()
    tag = json.loads((tmp_path / 'out/meta/embodiment.json').read_text())
    assert tag == {'robot_type': name, 'embodiment_tag': robot.model_tag}


def test_statistics_are_those_of_the_columns(tmp_path):
    robot = write_dataset(tmp_path / 'out')
    meta = tmp_path / 'out/meta'
    tables = [
        pq.read_table(tmp_path / f'out/data/chunk-000/episode_00000{i}.parquet') for i in (0, 1)
    ]
    actions = [np.stack(t['action'].to_numpy()) for t in tables]
    states = [np.stack(t['observation.state'].to_numpy()) for t in tables]
    stats = json.loads((meta / 'stats.json').read_text())
    assert stats['action']['mean'] == pytest.approx(np.concatenate(actions).mean(0), abs=1e-6)
    assert stats['observation.state']['q99'] == pytest.approx(
        np.quantile(np.concatenate(states), 0.99, axis=0), abs=1e-6
    )
    relative = json.loads((meta / 'relative_stats_dreamzero.json').read_text())
    assert set(relative) == {key.key for key in robot.action_keys if key.relative}
    cut = gear_metadata.key_slices(robot.state_keys)['left_arm_joint_position']
    pairs = np.concatenate(
        [
            a[i : i + 24, cut] - s[i, cut]
            for s, a in zip(states, actions, strict=True)
            for i in range(len(s) - 23)
        ]
    )
    for name, figure in (('max', pairs.max(0)), ('mean', pairs.mean(0))):
        assert relative['left_arm_joint_position'][name] == pytest.approx(figure, abs=1e-5)
    per_episode = read_jsonl(meta / 'episodes_stats.jsonl')
    assert [entry['episode_index'] for entry in per_episode] == [0, 1]
    for entry in per_episode:
        for camera in robot.cameras:
            seen = entry['stats'][f'observation.images.{camera.key}']
            assert np.shape(seen['mean']) == (3, 1, 1)
        assert entry['stats']['action']['count'] == [len(states[entry['episode_index']])]


def test_nothing_that_is_there_is_written_over(tmp_path):
    (tmp_path / 'out').mkdir()
    with pytest.raises(FileExistsError, match='name another'):
        LeRobotWriter(tmp_path / 'out', embodiment.load_embodiment('yam'))


def test_an_abandoned_data_set_leaves_nothing(tmp_path):
    robot = embodiment.load_embodiment('yam')
    into = LeRobotWriter(tmp_path / 'out', robot)
    into.add_sample(make_sample(robot, 0))
    into.abort()
    assert not list(tmp_path.iterdir())
    with pytest.raises(ValueError, match='no episode to write'):
        LeRobotWriter(tmp_path / 'out', robot).finalize({})


def test_a_camera_keeps_its_size_and_others_have_their_own(tmp_path):
    robot = embodiment.load_embodiment('yam')
    into = LeRobotWriter(tmp_path / 'out', robot)
    sizes = {camera.key: size for camera, size in zip(robot.cameras, ODD_SIZES, strict=True)}

    def resize(sample, changed):
        frames = tuple(
            replace(frame, rgb=np.full((*changed[frame.camera][::-1], 3), 90, np.uint8))
            for frame in sample.observation.frames
        )
        return replace(sample, observation=replace(sample.observation, frames=frames))

    for index in range(30):
        into.add_sample(resize(make_sample(robot, index), sizes))
    into.end_episode()
    smaller = sizes | {robot.cameras[1].key: (32, 32)}
    with pytest.raises(ValueError, match=f'{robot.cameras[1].key} 32x32, want 40x30'):
        into.add_sample(resize(make_sample(robot, 1), smaller))
    into.finalize({})
    info = json.loads((tmp_path / 'out/meta/info.json').read_text())
    for camera, (width, height) in sizes.items():
        shape = info['features'][f'observation.images.{camera}']['shape']
        assert shape == [height - height % 2, width - width % 2, 3]
    assert not [i for i in find_issues(tmp_path / 'out', robot) if i.level == 'error']
    with pytest.raises(ValueError, match='even'):
        VideoWriter(tmp_path / 'x' / 'odd.mp4', (33, 32), 30.0)


@pytest.mark.parametrize(
    ('harm', 'complaint'),
    [
        ('frames', 'frames for 40 rows'),
        ('nan', 'not finite'),
        ('time', 'time steps'),
        ('length', '39 rows of episode 0, its metadata says 40'),
        ('video', 'is missing'),
        ('task', 'task_index'),
    ],
)
def test_the_inspection_finds_planted_faults(tmp_path, harm, complaint):
    robot = write_dataset(tmp_path / 'out')
    path = tmp_path / 'out/data/chunk-000/episode_000000.parquet'
    clip = (
        tmp_path
        / 'out/videos/chunk-000'
        / f'{gear_metadata.OBS_IMAGES_PREFIX}{robot.cameras[0].key}'
        / 'episode_000000.mp4'
    )
    table = pq.read_table(path).to_pydict()
    if harm == 'frames':
        short = VideoWriter(clip, SIZE, 30.0)
        for _ in range(39):
            short.add(np.zeros((48, 64, 3), np.uint8))
        short.close()
    elif harm == 'video':
        clip.unlink()
    else:
        if harm == 'nan':
            table['action'][3][2] = float('nan')
        elif harm == 'time':
            table['timestamp'][5] += 0.5
        elif harm == 'task':
            table['task_index'][5] = 9
        else:
            table = {key: values[:-1] for key, values in table.items()}
        pq.write_table(pa.table(table), path)
    found = [
        str(f)
        for f in dataset_validation.find_issues(tmp_path / 'out', robot)
        if f.level == 'error'
    ]
    assert any(complaint in text for text in found), found


def test_a_gripper_that_never_moves_is_a_warning(tmp_path):
    robot = write_dataset(tmp_path / 'out', gripper=1.0)
    found = list(dataset_validation.find_issues(tmp_path / 'out', robot))
    assert {f.item for f in found} == {'left_gripper', 'right_gripper'}
    assert all(f.level == 'warning' for f in found)


def test_frames_come_out_at_exact_times(tmp_path):
    clip = VideoWriter(tmp_path / 'a' / 'clip.mp4', SIZE, 30.0)
    for i in range(97):
        clip.add(np.full((48, 64, 3), i, np.uint8))
    clip.close()
    count, times_s = read_frame_times(tmp_path / 'a' / 'clip.mp4')
    assert count == 97 and np.allclose(times_s, np.arange(97) / 30, atol=1e-6)


def test_labels_become_columns_and_are_the_same_for_all_rows(tmp_path):
    robot = embodiment.load_embodiment('yam')
    into = LeRobotWriter(tmp_path / 'out', robot)
    for index in range(30):
        into.add_sample(
            make_sample(robot, index),
            {'good': index > 3, 'place': np.array([index, 1.0 if index % 3 else np.nan])},
        )
    with pytest.raises(ValueError, match='all rows of a data set must have the same'):
        into.add_sample(make_sample(robot, 30))
    into.end_episode({'seed': 7})
    into.finalize({})
    info = json.loads((tmp_path / 'out/meta/info.json').read_text())
    assert info['features']['good'] == {'dtype': 'bool', 'shape': [1], 'names': None}
    assert info['features']['place'] == {'dtype': 'float32', 'shape': [2], 'names': None}
    table = pq.read_table(tmp_path / 'out/data/chunk-000/episode_000000.parquet')
    assert table['good'].to_pylist() == [index > 3 for index in range(30)]
    assert not np.isnan(np.stack(table['place'].to_numpy())).any()
    assert np.stack(table['place'].to_numpy())[:, 0].tolist() == [
        i if i % 3 else 0 for i in range(30)
    ]
    assert table['place_valid'].to_pylist() == [index % 3 > 0 for index in range(30)]
    assert read_jsonl(tmp_path / 'out/meta/episodes.jsonl')[0]['seed'] == 7
    statistics = (tmp_path / 'out/meta/episodes_stats.jsonl').read_text()
    assert 'NaN' not in statistics and 'place' not in statistics
