"""Look at a finished data set from outside: does it hold what its metadata promises?"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet as pq

from wam_learning.data import gear_metadata
from wam_learning.data.video_files import decoded
from wam_policy.core.robot.embodiment import Embodiment

STILL = 1e-6  # a gripper whose whole range is smaller has not moved
LATE_S = 1e-3  # between the time of a row and of its picture


@dataclass(frozen=True, slots=True)
class Finding:
    """Name one thing that is wrong, or only looks wrong (a warning)."""

    where: str
    what: str
    warning: bool = False

    def __str__(self) -> str:
        return f'{"warning" if self.warning else "error"}: {self.where}: {self.what}'


def findings(folder: Path, robot: Embodiment) -> Iterator[Finding]:
    """Yield what is wrong with a data set; nothing means that it can be trained on."""
    info = json.loads((folder / 'meta' / 'info.json').read_text())
    episodes = _lines(folder / 'meta' / 'episodes.jsonl')
    tasks = _lines(folder / 'meta' / 'tasks.jsonl')
    if (
        len(episodes) != info['total_episodes']
        or sum(e['length'] for e in episodes) != info['total_frames']
    ):
        yield Finding('meta', 'episodes.jsonl and info.json disagree about their totals')
    every = []
    for episode in episodes:
        number = episode['episode_index']
        place = {'episode_chunk': number // info['chunks_size'], 'episode_index': number}
        table = pq.read_table(folder / info['data_path'].format(**place))
        yield from _table(f'episode {number}', table, episode['length'], info, len(tasks))
        for camera in robot.cameras:
            path = folder / info['video_path'].format(
                video_key=gear_metadata.VIDEO + camera.key, **place
            )
            yield from _video(path.relative_to(folder).as_posix(), path, table)
        every.append(np.stack(table[gear_metadata.ACTION].to_numpy()))
    yield from _grippers(robot, np.concatenate(every))


def _table(
    where: str,
    table: pyarrow.Table,
    length: int,
    info: dict,
    tasks: int,
) -> Iterator[Finding]:
    if len(table) != length:
        yield Finding(where, f'{len(table)} rows, episodes.jsonl says {length}')
    lacking = [
        name
        for name, feature in info['features'].items()
        if feature['dtype'] != 'video' and name not in table.column_names
    ]
    if lacking:
        yield Finding(where, f'no column {", ".join(lacking)}')
    times_s = table['timestamp'].to_numpy().astype(np.float64)
    steps_s = np.diff(times_s)
    if (np.abs(steps_s - 1.0 / info['fps']) > LATE_S).any():
        yield Finding(
            where,
            f'time steps from {steps_s.min():.4f} to {steps_s.max():.4f} s, want '
            f'{1.0 / info["fps"]:.4f}',
        )
    for name in (gear_metadata.STATE, gear_metadata.ACTION):
        values = np.stack(table[name].to_numpy())
        if values.shape[1:] != tuple(info['features'][name]['shape']):
            yield Finding(where, f'{name} has shape {list(values.shape[1:])}')
        if not np.isfinite(values).all():
            yield Finding(where, f'{name} is not finite')
    chosen = table['task_index'].to_numpy()
    if not 0 <= chosen.min() <= chosen.max() < tasks:
        yield Finding(where, 'task_index points outside tasks.jsonl')


def _video(where: str, path: Path, table: pyarrow.Table) -> Iterator[Finding]:
    if not path.exists():
        yield Finding(where, 'is not there')
        return
    count, times_s = decoded(path)
    if count != len(table):
        yield Finding(where, f'{count} frames for {len(table)} rows')
    elif (np.abs(np.array(times_s) - table['timestamp'].to_numpy()) > LATE_S).any():
        yield Finding(where, 'frames are not at the times of their rows')


def _grippers(robot: Embodiment, actions: np.ndarray) -> Iterator[Finding]:
    columns = gear_metadata.names(robot.action_keys)
    for gripper in robot.grippers:
        values = actions[:, columns.index(gripper.name)]
        if np.ptp(values) < STILL:
            yield Finding(
                gripper.name,
                f'never moves, it stays at {values[0]:.3f}; was it commanded at all?',
                warning=True,
            )


def _lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]
