"""Make a small data set of moving arms, and the flaws that data sets of others have."""

import json
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tests.learning.played import read_frames
from wam_learning.data.lerobot.convert_v30 import convert_to_v30
from wam_learning.data.lerobot_writer import LeRobotWriter
from wam_learning.data.time_sync import SynchronizedSample
from wam_learning.data.video_files import VideoWriter
from wam_policy.core.robot import embodiment
from wam_policy.core.types import Frame, JointState, Observation

ROBOT = embodiment.load_embodiment('yam')
EPISODES, ROWS, SIZE = 4, 60, (64, 48)
STATE, ACTION = 'observation.state', 'action'
CAMERA = f'observation.images.{ROBOT.cameras[0].key}'
RIGHT_ARM = 7  # first column of the right arm


def positions(row, episode):
    """Return joint positions: every joint moves in its own way."""
    names = ROBOT.observed
    phase = np.arange(len(names)) * 0.7 + episode
    rest = ROBOT.home_positions(names)
    moved = 0.25 * np.sin(row / ROWS * (3 + np.arange(len(names)) % 5) + phase)
    grippers = [name in {g.name for g in ROBOT.grippers} for name in names]
    return np.where(grippers, 0.5 + moved, rest + moved)


def picture(row, camera):
    """Return an orange block that moves over wood."""
    rgb = np.full((SIZE[1], SIZE[0], 3), (150, 110, 70), np.uint8)
    rgb[camera * 8 : camera * 8 + 20, row % 40 : row % 40 + 20] = (230, 120, 20)
    return rgb


def write_dataset(folder, version='v2.1', text='put the block into the box'):
    writer = LeRobotWriter(folder, ROBOT, version)
    for episode in range(EPISODES):
        for row in range(ROWS):
            frames = tuple(
                Frame(camera.key, row, picture(row, i)) for i, camera in enumerate(ROBOT.cameras)
            )
            state = JointState(row, ROBOT.observed, positions(row, episode))
            targets = positions(row + 3, episode)[: len(ROBOT.commanded)]
            writer.add_sample(
                SynchronizedSample(row, Observation(row, frames, state), targets, text)
            )
        writer.end_episode()
    return writer.finalize({'actions': 'setpoints'})


# ---- changes


def edit_json(path, change):
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def edit_rows(folder, change, episodes=slice(None)):
    """Let `change` alter the arrays of some episodes, column by column: {name: [rows ...]}."""
    for path in sorted(folder.glob('data/*/*.parquet'))[episodes]:
        table = pq.read_table(path)
        arrays = {name: np.stack(table[name].to_numpy()) for name in table.column_names}
        change(arrays)
        columns = {
            name: pa.FixedSizeListArray.from_arrays(pa.array(a.ravel()), a.shape[1])
            if a.ndim > 1
            else pa.array(a)
            for name, a in arrays.items()
        }
        pq.write_table(pa.table(columns), path)


def edit_videos(folder, change, episodes=slice(None)):
    for path in sorted(folder.glob(f'videos/*/{CAMERA}/*.mp4'))[episodes]:
        images = change(read_frames(path))
        writer = VideoWriter(path, SIZE, 30.0)
        for rgb in images:
            writer.add(np.ascontiguousarray(rgb))
        writer.close()


def stand_still(arrays):
    for name in (STATE, ACTION):
        arrays[name][5:55] = arrays[name][5]


def skip_time(arrays):
    arrays['timestamp'][30:] += 0.5


def clip_joint(arrays):
    arrays[ACTION][:20, 1] = ROBOT.joint('left_joint2').lower


def use_degrees(arrays):
    for name in (STATE, ACTION):
        arrays[name][:, :6] = np.rad2deg(arrays[name][:, :6])


def jump(arrays):
    arrays[STATE][30:, RIGHT_ARM] += 0.7


def copy_state(arrays):
    arrays[ACTION] = arrays[STATE].copy()


def take_next_state(arrays):
    arrays[ACTION] = np.concatenate([arrays[STATE][1:], arrays[STATE][-1:]])


def swap_arms(arrays):
    arrays[ACTION] = np.roll(arrays[ACTION], RIGHT_ARM, axis=1)


def break_value(arrays):
    arrays[STATE][7, 3] = np.nan


def name_unknown_task(arrays):
    arrays['task_index'][:] = 9


def close_gripper(arrays):
    arrays[ACTION][:, RIGHT_ARM - 1] = 1.0


def swap_colors_without_statistics(folder):
    edit_videos(folder, lambda images: images[..., ::-1])
    (folder / 'meta/episodes_stats.jsonl').unlink()


def lower_minimum(path):
    entries = [json.loads(line) for line in path.read_text().splitlines()]
    entries[1]['stats'][ACTION]['min'][2] -= 1.0
    path.write_text(''.join(json.dumps(entry) + '\n' for entry in entries))


# a change of the data set, and words of the finding
FLAWS = {
    'idle': (lambda f: edit_rows(f, stand_still), 'idle rows', '% of the rows'),
    'gaps': (lambda f: edit_rows(f, skip_time, slice(1, 2)), 'gaps', 'longest 0.533 s'),
    'clipped': (lambda f: edit_rows(f, clip_joint), 'action left_joint2', 'clipped: 33.3 %'),
    'degrees': (lambda f: edit_rows(f, use_degrees), 'state left_joint', 'is it in degrees?'),
    'jumps': (lambda f: edit_rows(f, jump), 'state right_joint1', '4 jumps between rows'),
    'copies': (lambda f: edit_rows(f, copy_state), 'action', 'equals observation.state'),
    'next states': (lambda f: edit_rows(f, take_next_state), 'action', 'one row later'),
    'swapped arms': (
        lambda f: edit_rows(f, swap_arms),
        'action left_joint',
        'follows state right',
    ),
    'dead gripper': (lambda f: edit_rows(f, close_gripper), 'action left_gripper', 'never moves'),
    'swapped colors of an episode': (
        lambda f: edit_videos(f, lambda images: images[..., ::-1], slice(2, 3)),
        f'episode 2, {CAMERA}',
        'swapped color channels',
    ),
    'swapped colors of a camera': (
        lambda f: edit_videos(f, lambda images: images[..., ::-1]),
        CAMERA,
        'swapped color channels',
    ),
    'swapped colors of a camera without statistics': (
        swap_colors_without_statistics,
        CAMERA,
        'exchanged this camera looks like the others',
    ),
    'frozen camera': (
        lambda f: edit_videos(f, lambda images: images[:1].repeat(len(images), axis=0)),
        CAMERA,
        'frozen: the picture stays the same in 100 %',
    ),
    'statistics': (
        lambda f: edit_json(f / 'meta/stats.json', lambda c: c[ACTION]['mean'].reverse()),
        'meta/stats.json',
        'mean of action',
    ),
    'statistics of others': (
        lambda f: edit_json(f / 'meta/stats.json', lambda c: c.pop(STATE)),
        'meta/stats.json',
        'has no entry for observation.state',
    ),
    'relative statistics': (
        lambda f: edit_json(
            f / 'meta/relative_stats_dreamzero.json', lambda c: c['left_joint_pos']['max'].sort()
        ),
        'meta/relative_stats_dreamzero.json',
        'max of left_joint_pos',
    ),
    'episode statistics': (
        lambda f: lower_minimum(f / 'meta/episodes_stats.jsonl'),
        'meta/episodes_stats.jsonl',
        'min of',
    ),
    'totals': (
        lambda f: edit_json(f / 'meta/info.json', lambda c: c.update(total_frames=1)),
        'meta/info.json',
        'total_frames is 1',
    ),
}


def first(folder, pattern):
    return sorted(folder.glob(pattern))[0]


def damage(path, content=b'\0\xff damaged'):
    path.write_bytes(content)


def halve(path):
    damage(path, path.read_bytes()[: path.stat().st_size // 2])


# what prevents training
OBSTACLES = {
    'NaN': (lambda f: edit_rows(f, break_value, slice(1)), 'episode 0', 'left_joint4'),
    'unknown task': (lambda f: edit_rows(f, name_unknown_task, slice(1)), 'episode 0', '1 tasks'),
    'table is missing': (
        lambda f: first(f, 'data/*/*.parquet').unlink(),
        'episode 0',
        'cannot be read',
    ),
    'table is damaged': (
        lambda f: damage(first(f, 'data/*/*.parquet')),
        'episode 0',
        'cannot be read',
    ),
    'table is truncated': (
        lambda f: halve(first(f, 'data/*/*.parquet')),
        'episode 0',
        'cannot be read',
    ),
    'video is missing': (
        lambda f: first(f, f'videos/*/{CAMERA}/*.mp4').unlink(),
        'episode_000000.mp4 (episode 0)',
        'is missing',
    ),
    'video is damaged': (
        lambda f: damage(first(f, f'videos/*/{CAMERA}/*.mp4')),
        'episode_000000.mp4 (episode 0)',
        'cannot be opened',
    ),
    'video is truncated': (
        lambda f: halve(first(f, f'videos/*/{CAMERA}/*.mp4')),
        'episode_000000.mp4 (episode 0)',
        'cannot be',
    ),
    'video is too short': (
        lambda f: edit_videos(f, lambda images: images[:30], slice(1)),
        'episode_000000.mp4 (episode 0)',
        'images are missing',
    ),
    'info.json is damaged': (lambda f: damage(f / 'meta/info.json'), '', 'is not JSON'),
    'info.json is missing': (lambda f: (f / 'meta/info.json').unlink(), '', 'is not a data set'),
    'episodes are damaged': (lambda f: damage(f / 'meta/episodes.jsonl'), '', 'is not JSON lines'),
    'episodes say nothing': (
        lambda f: damage(f / 'meta/episodes.jsonl', b'{}\n'),
        '',
        "no 'episode_index'",
    ),
    'tasks are missing': (lambda f: (f / 'meta/tasks.jsonl').unlink(), '', 'tasks.jsonl: missing'),
    'no pattern of paths': (
        lambda f: edit_json(f / 'meta/info.json', lambda c: c.update(video_path=None)),
        '',
        'video_path is None',
    ),
    'shapes are no numbers': (
        lambda f: edit_json(f / 'meta/info.json', lambda c: c['features'][STATE].update(shape=3)),
        '',
        f'the shape of {STATE} is 3',
    ),
    'modality.json is malformed': (
        lambda f: edit_json(f / 'meta/modality.json', lambda c: c['state'].update(arm=3)),
        '',
        'state arm is 3',
    ),
    'a robot that nobody knows': (
        lambda f: edit_json(f / 'meta/info.json', lambda c: c.update(robot_type='bimanual')),
        'yam',
        'set robot_type to "yam"',
    ),
    'an old version': (
        lambda f: edit_json(f / 'meta/info.json', lambda c: c.update(codebase_version='v1.6')),
        '',
        "codebase_version 'v1.6'",
    ),
}


def convert(folder, version):
    """Turn a v2.1 data set into another version."""
    if version == 'v3.0':
        convert_to_v30(folder)
    if version == 'v2.0':  # statistics of the whole set alone
        (folder / 'meta/episodes_stats.jsonl').unlink()
        edit_json(folder / 'meta/info.json', lambda c: c.update(codebase_version='v2.0'))
    return folder


def copy(source, target):
    return shutil.copytree(source, target)
