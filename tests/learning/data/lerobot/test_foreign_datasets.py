"""Data sets that others wrote: other rates, column orders, sizes and layouts."""

import json
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.learning import played
from wam_learning.data import episode_arrays, gear_metadata
from wam_learning.data.dataset_validation import find_issues
from wam_learning.data.lerobot.convert_v30 import convert_to_v30
from wam_learning.data.lerobot.dataset_metadata import read_dataset_metadata
from wam_learning.data.video_files import VideoWriter, read_frames_at
from wam_policy.core.robot import embodiment

ROBOT = embodiment.load_embodiment('yam')
TABLE = 'data/chunk-000/episode_000000.parquet'


@pytest.fixture(scope='module')
def written(tmp_path_factory):
    return played.write_dataset(tmp_path_factory.mktemp('set') / 'a', 2, robot_name='yam')


@pytest.fixture
def copied(written, tmp_path):
    """Give a copy of the data set that a test may change."""
    return shutil.copytree(written, tmp_path / 'a')


def read(folder):
    return episode_arrays.read_datasets([folder], played.make_tiny_policy().spec)


def edit_json(path, change):
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def permute_columns(folder, order, *, names=True, modality=True):
    """Reorder the values of state and action, and what describes them."""
    info, slices = folder / 'meta/info.json', folder / 'meta/modality.json'
    for path in folder.glob('data/*/*.parquet'):
        table = pq.read_table(path)
        for column in (gear_metadata.OBS_STATE, gear_metadata.ACTION):
            rows = np.stack(table[column].to_numpy())[:, order]
            values = pa.FixedSizeListArray.from_arrays(pa.array(rows.ravel()), rows.shape[1])
            table = table.set_column(table.column_names.index(column), column, values)
        pq.write_table(table, path)

    def rename(content):
        for column in (gear_metadata.OBS_STATE, gear_metadata.ACTION):
            feature = content['features'][column]
            feature['names'] = [feature['names'][i] for i in order] if names else None

    edit_json(info, rename)
    if modality:

        def move(content):
            for group in ('state', 'action'):
                for part in content[group].values():
                    length = part['end'] - part['start']
                    part['start'] = order.index(part['start'])
                    part['end'] = part['start'] + length

        edit_json(slices, move)
    else:
        slices.unlink()


RIGHT_ARM_FIRST = [*range(7, 14), *range(7)]


@pytest.mark.parametrize(
    'described', [{}, {'names': False}, {'modality': False}], ids=['both', 'modality', 'names']
)
def test_columns_in_another_order_are_mapped_by_what_describes_them(written, copied, described):
    permute_columns(copied, RIGHT_ARM_FIRST, **described)
    expected, found = read(written), read(copied)
    assert np.array_equal(found.state, expected.state)
    assert np.array_equal(found.action, expected.action)
    assert not np.array_equal(found.state[:, :7], found.state[:, 7:])


def test_joints_in_another_order_within_a_key_are_mapped_by_name(written, copied):
    permute_columns(copied, [2, 1, 0, *range(3, 14)], modality=False)
    assert np.array_equal(read(copied).state, read(written).state)


def test_columns_that_nothing_describes_are_refused(copied):
    permute_columns(copied, RIGHT_ARM_FIRST, names=False, modality=False)
    with pytest.raises(ValueError, match='have no names in meta/info.json'):
        read(copied)


def test_descriptions_that_contradict_each_other_are_refused(copied):
    def swap(content):
        arms = content['state']
        arms['left_joint_pos'], arms['right_joint_pos'] = (
            arms['right_joint_pos'],
            arms['left_joint_pos'],
        )

    edit_json(copied / 'meta/modality.json', swap)
    with pytest.raises(ValueError, match=r'left_joint_pos is observation.state\[7:13\], which'):
        read(copied)


def test_vectors_in_columns_of_their_own_are_found(written, copied):
    """GR00T's converters write one column per arm; modality.json names it."""
    for path in copied.glob('data/*/*.parquet'):
        table = pq.read_table(path)
        rows = np.stack(table[gear_metadata.OBS_STATE].to_numpy())
        right = pa.array(list(rows[:, 7:]), type=pa.list_(pa.float32()))
        pq.write_table(table.append_column('observation.right', right), path)

    def split(content):
        for name, (start, end) in {
            'right_joint_pos': (0, 6),
            'right_gripper_pos': (6, 7),
        }.items():
            content['state'][name] |= {
                'original_key': 'observation.right',
                'start': start,
                'end': end,
            }

    edit_json(copied / 'meta/modality.json', split)
    feature = {'dtype': 'float32', 'shape': [7], 'names': None}
    edit_json(
        copied / 'meta/info.json', lambda c: c['features'].update({'observation.right': feature})
    )
    assert np.array_equal(read(copied).state, read(written).state)


def test_a_video_under_another_name_is_found_and_a_missing_one_named(written, copied):
    camera = ROBOT.cameras[0].key
    old, new = f'observation.images.{camera}', 'observation.images.cam_high'
    (copied / 'videos/chunk-000' / old).rename(copied / 'videos/chunk-000' / new)
    edit_json(
        copied / 'meta/info.json', lambda c: c['features'].update({new: c['features'].pop(old)})
    )
    with pytest.raises(ValueError, match=f'has no video {camera} .* its videos: .*cam_high'):
        read(copied)
    edit_json(
        copied / 'meta/modality.json',
        lambda c: c['video'].update({camera: {'original_key': new}}),
    )
    assert np.array_equal(read(copied).canvases[0], read(written).canvases[0])


@pytest.mark.parametrize('fps', [15, 20, 60])
def test_rows_of_another_rate_are_resampled(written, copied, fps):
    edit_json(copied / 'meta/info.json', lambda c: c.update(fps=fps))
    for path in copied.glob('videos/*/*/*.mp4'):
        rewrite_video(path, fps)
    given, found = read(written), read(copied)
    rows = given.episodes[0].row_count
    expected = int((rows - 1) / fps * 30 + 1e-6) + 1
    assert found.episodes[0].row_count == expected
    assert found.state.shape[0] == sum(span.row_count for span in found.episodes)
    at = np.arange(expected) * fps / 30
    for column in range(found.state.shape[1]):
        values = np.interp(at, np.arange(rows), given.state[:rows, column])
        assert found.state[:expected, column] == pytest.approx(values, abs=1e-5)
    assert len(found.canvases[0]) == found.frame_count


def rewrite_video(path, fps):
    """Give the same images at another rate."""
    images = played.read_frames(path)
    writer = VideoWriter(path, images.shape[2:0:-1], fps)
    for rgb in images:
        writer.add(rgb)
    writer.close()


def test_chosen_frames_are_the_ones_asked_for(written):
    path = next(written.glob('videos/*/*/*.mp4'))
    every = read_frames_at(path, range(played.ROWS), 30.0)
    chosen = read_frames_at(path, [3, 3, 40, 69], 30.0)
    assert np.array_equal(chosen, every[[3, 3, 40, 69]])
    offset = read_frames_at(path, [0, 5], 30.0, start_s=1.5)  # of a video of several episodes
    assert np.array_equal(offset, every[[45, 50]])
    with pytest.raises(ValueError, match='1 of 2 images are missing, the first is image 70'):
        read_frames_at(path, [69, 70], 30.0)


def test_v30_says_the_same_as_v21(written, copied):
    convert_to_v30(copied)
    metadata = read_dataset_metadata(copied)
    assert metadata.version == 'v3.0' and metadata.tasks == played.TEXTS
    assert not [issue for issue in find_issues(copied, ROBOT) if issue.level == 'error']
    assert not list(copied.rglob('*.jsonl')) and not list(copied.glob('data/*/episode_*'))
    given, found = read(written), read(copied)
    for name in ('state', 'action', 'task', 'supervised', 'pixel', 'place'):
        assert np.array_equal(getattr(found, name), getattr(given, name), equal_nan=True), name
    assert found.episodes == given.episodes and found.texts == given.texts
    assert np.array_equal(found.canvases[0], given.canvases[0])
    stats = json.loads((copied / 'meta/stats.json').read_text())
    rows = np.concatenate(
        [np.stack(metadata.read_rows(e)['action'].to_numpy()) for e in metadata.episodes]
    )
    for name, share in (('q01', 0.01), ('q50', 0.5), ('q99', 0.99)):
        assert stats['action'][name] == pytest.approx(np.quantile(rows, share, axis=0), abs=1e-6)


def test_episodes_of_one_file_are_told_apart(copied, written):
    """v3.0 of LeRobot itself puts many episodes into one table."""
    convert_to_v30(copied)
    files = sorted(copied.glob('data/*/*.parquet'))
    whole = pa.concat_tables([pq.read_table(path) for path in files])
    for path in files[1:]:
        path.unlink()
    pq.write_table(whole, files[0])
    path = next(copied.glob('meta/episodes/*/*.parquet'))
    table = pq.read_table(path)
    at = table.column_names.index('data/file_index')
    pq.write_table(table.set_column(at, 'data/file_index', pa.array([0, 0])), path)
    assert np.array_equal(read(copied).state, read(written).state)


@pytest.mark.parametrize(
    ('change', 'words'),
    [
        (lambda c: c.update(codebase_version='v1.6'), "codebase_version 'v1.6' is not one of"),
        (lambda c: c.pop('fps'), 'has no fps'),
        (lambda c: c.update(fps=0), 'fps is 0, want a number'),
        (lambda c: c.update(robot_type='so100'), 'so100'),
    ],
)
def test_metadata_that_does_not_fit_is_refused_by_name(copied, change, words):
    edit_json(copied / 'meta/info.json', change)
    with pytest.raises(ValueError, match=words):
        read(copied)


@pytest.mark.parametrize(
    ('path', 'words'),
    [
        ('meta/info.json', 'is not JSON'),
        ('meta/episodes.jsonl', 'is not JSON lines'),
        ('meta/tasks.jsonl', 'is not JSON lines'),
        (TABLE, 'cannot be read'),
    ],
)
def test_damaged_files_are_refused_by_name(copied, path, words):
    (copied / path).write_bytes(b'\0damaged')
    with pytest.raises(ValueError, match=words):
        read(copied)


def test_no_column_has_nan(written):
    for path in written.glob('data/*/*.parquet'):
        for name, column in zip((t := pq.read_table(path)).column_names, t.columns, strict=True):
            values = column.combine_chunks()
            flat = values.flatten() if hasattr(values, 'flatten') else values
            if pa.types.is_floating(flat.type):
                assert np.isfinite(flat.to_numpy(zero_copy_only=False)).all(), name
