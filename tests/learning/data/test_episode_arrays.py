"""Data sets as arrays."""

import json
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from tests.learning import played
from wam_learning.data import episode_arrays
from wam_policy.model.encoders import view_layout


def test_a_data_set_is_read_as_it_was_written(tmp_path):
    policy = played.make_tiny_policy()
    data = episode_arrays.read_datasets([played.write_dataset(tmp_path / 'a', 2)], policy.spec)
    assert data.frame_stride == 6 and data.robot.name == 'agibot_g1'
    assert [(s.row_count, s.frame_count, s.family) for s in data.episodes] == [
        (70, 12, 'touch'),
        (70, 12, 'recall'),
    ]
    assert data.episodes[1].first_row == 70 and data.episodes[1].first_frame == 12
    assert data.texts == played.TEXTS
    assert data.task[[0, 70, 109, 110]].tolist() == [0, 1, 1, 0]
    assert data.supervised.sum() == 140 - len(played.PERTURBED_ROWS)
    assert data.pixel[[0, 70], 0] == pytest.approx([0.25, 0.75]) and data.has_grounding
    # the live canvas of the very pictures that were written, but for the video's losses
    row = played._make_sample(data.robot, 6, 1, '')
    layout = policy.spec.canvas.make_layout('agibot', tuple(c.key for c in data.robot.cameras))
    views = {f.camera: torch.from_numpy(f.rgb[None]) for f in row.observation.frames}
    live = view_layout.compose_views(views, layout)[0].numpy().astype(int)
    assert np.abs(data.frame_store[12 + 1].astype(int) - live).mean() < 3


def test_pictures_are_decoded_once(tmp_path):
    policy, folder = played.make_tiny_policy(), played.write_dataset(tmp_path / 'a', 2)
    first = episode_arrays.read_datasets([folder], policy.spec)
    for video in folder.rglob('*.mp4'):
        video.unlink()
    again = episode_arrays.read_datasets([folder], policy.spec)
    assert np.array_equal(again.canvases[0], first.canvases[0])


def test_trainings_that_begin_at_the_same_time_do_not_disturb_each_other(tmp_path, monkeypatch):
    policy, folder, decoded = (
        played.make_tiny_policy(),
        played.write_dataset(tmp_path / 'a', 2),
        [],
    )
    pictures = episode_arrays.read_frames_at

    def slowly(path, *arguments):
        decoded.append(path)
        time.sleep(0.05)
        return pictures(path, *arguments)

    monkeypatch.setattr(episode_arrays, 'read_frames_at', slowly)
    with ThreadPoolExecutor(3) as pool:
        found = list(
            pool.map(lambda _: episode_arrays.read_datasets([folder], policy.spec), range(3))
        )
    assert len(decoded) == len(set(decoded)) > 0
    assert all(np.array_equal(one.canvases[0], found[0].canvases[0]) for one in found)


def test_several_data_sets_and_shards_become_one(tmp_path):
    policy = played.make_tiny_policy()
    played.write_dataset(tmp_path / 'shards' / '000', 1)
    played.write_dataset(tmp_path / 'shards' / '001', 2)
    other = played.write_dataset(tmp_path / 'b', 1)
    data = episode_arrays.read_datasets([tmp_path / 'shards', other], policy.spec)
    assert len(data.episodes) == 4 and data.frame_count == 48 and len(data.task) == 280
    assert data.episodes[3].first_frame == 36 and data.episodes[3].first_row == 210
    assert np.array_equal(data.frame_store[36], data.canvases[2][0])
    part = episode_arrays.select_episodes(data, [1, 3])
    assert part.episodes == (data.episodes[1], data.episodes[3]) and part.state is data.state


def test_a_data_set_of_a_real_robot_lacks_labels(tmp_path):
    data = episode_arrays.read_datasets(
        [played.write_dataset(tmp_path / 'a', 1, labels=False)], played.make_tiny_policy().spec
    )
    assert data.supervised.all() and not data.has_grounding


def test_what_is_no_data_set_is_named(tmp_path):
    design = played.make_tiny_policy().spec
    with pytest.raises(FileNotFoundError, match='is not a data set'):
        episode_arrays.read_datasets([tmp_path], design)
    with pytest.raises(ValueError, match='no data set given'):
        episode_arrays.read_datasets([], design)
    folder = played.write_dataset(tmp_path / 'a', 1)
    other = played.write_dataset(tmp_path / 'b', 1, robot_name='yam')
    with pytest.raises(ValueError, match='different robots: agibot_g1, yam'):
        episode_arrays.read_datasets([folder, other], design)
    info = folder / 'meta' / 'info.json'
    info.write_text(info.read_text().replace('agibot_g1', 'yam'))
    with pytest.raises(ValueError, match='modality.json: state has no left_joint_pos'):
        episode_arrays.read_datasets([folder], design)
    info.write_text(json.dumps(json.loads(info.read_text()) | {'robot_type': 'agibot_g1'}))
    next(folder.rglob('*.mp4')).write_bytes(b'no video')
    (tmp_path / 'a.clips' / 'key.json').unlink()
    with pytest.raises(ValueError, match='cannot be decoded'):
        episode_arrays.read_datasets([folder], design)
