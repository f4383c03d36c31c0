"""Check states, actions and times of the rows: idle parts, gaps, limits, copies, unknown tasks."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import maximum_filter1d, minimum_filter1d

from wam_learning.data import gear_metadata
from wam_learning.data.finding import ERROR, NOTE, WARNING, Finding
from wam_learning.data.lerobot.column_mapping import KeySource
from wam_learning.data.lerobot.dataset_metadata import DatasetMetadata
from wam_learning.inspection.dataset_reader import EpisodeColumns, list_names
from wam_policy.core.robot.embodiment import Embodiment, ModelKey

IDLE_WINDOW_S = 1.0
IDLE_RANGE = 0.02  # of a column's range in the data set; less is no motion
MIN_MOTION = 0.002  # rad, m, or gripper stroke; below it is noise
MAX_IDLE_SHARE = 0.3
MAX_STEP_ERROR_S = 1e-3
LIMIT_MARGIN = 0.002  # of a joint's range: nearer counts as at the limit
MAX_CLIPPED_SHARE = 0.05
OUTSIDE_MARGIN = 0.02  # of a joint's range
JUMP_FACTOR, JUMP_MARGIN = 1.5, 0.02  # of the hardware's speed; rad or m
COPY_TOLERANCE = 1e-6


@dataclass(frozen=True, slots=True)
class MappedJoint:
    """Locate one joint of a robot in a column."""

    name: str
    column: str
    element: int


def check_columns(
    metadata: DatasetMetadata, episodes: Sequence[EpisodeColumns]
) -> Iterator[Finding]:
    """Yield what can be checked without knowing the robot."""
    for episode in episodes:
        yield from _check_values(metadata, episode)
        yield from _check_tasks(metadata, episode)
    yield from _check_times(metadata, episodes)
    yield from _check_copies(episodes)
    share = compute_idle_share(metadata, episodes)
    if share > MAX_IDLE_SHARE:
        yield Finding(
            WARNING,
            'idle rows',
            f'{100 * share:.0f} % of the rows: no column moves for {IDLE_WINDOW_S:g} s',
            f'{100 * MAX_IDLE_SHARE:.0f} %',
            'cut waiting at the start and end of episodes, or record again: a policy learns to '
            'wait',
        )


def compute_idle_share(metadata: DatasetMetadata, episodes: Sequence[EpisodeColumns]) -> float:
    """Return the share of rows in spans of IDLE_WINDOW_S in which no column moves."""
    size = max(2, round(IDLE_WINDOW_S * metadata.fps))
    rows = [np.concatenate(list(e.vectors.values()), axis=1) for e in episodes if e.vectors]
    if not rows:
        return 0.0
    whole = np.nan_to_num(np.concatenate(rows))
    allowed = np.maximum(IDLE_RANGE * np.ptp(whole, axis=0), MIN_MOTION)
    idle = 0
    for values in map(np.nan_to_num, rows):
        if len(values) < size:
            continue
        spread = maximum_filter1d(values, size, axis=0) - minimum_filter1d(values, size, axis=0)
        # the filters are centered: index 0 of `still` is the window of the first `size` rows
        still = (spread <= allowed).all(axis=1)[size // 2 :][: len(values) - size + 1]
        idle += int((np.convolve(still, np.ones(size)) > 0.5).sum())
    return idle / len(whole)


def find_joints(sources: Sequence[KeySource], keys: Sequence[ModelKey]) -> tuple[MappedJoint, ...]:
    """Return where the joints of a robot are, of keys that the model drives or observes."""
    return tuple(
        MappedJoint(name, source.column, element)
        for source, key in zip(sources, keys, strict=True)
        if not key.masked
        for name, element in zip(key.joints, source.elements, strict=True)
    )


def check_joints(
    metadata: DatasetMetadata,
    episodes: Sequence[EpisodeColumns],
    robot: Embodiment,
    state: Sequence[MappedJoint],
    action: Sequence[MappedJoint],
) -> Iterator[Finding]:
    """Yield joints beyond or at their limits, too fast, or that never move."""
    grippers = {gripper.name for gripper in robot.grippers}
    for what, joints in (('state', state), ('action', action)):
        for joint in joints:
            values = _gather(episodes, joint)
            item = f'{what} {joint.name}'
            if joint.name in grippers:
                yield from _check_gripper(item, values, robot, joint.name)
                continue
            limits = robot.joint(joint.name)
            yield from _check_limits(item, values, limits.lower, limits.upper)
            if what == 'state':
                speed = JUMP_FACTOR * limits.hw_velocity / metadata.fps + JUMP_MARGIN
                yield from _check_jumps(item, episodes, joint, speed)
    yield from _check_order(episodes, state, action)


def _gather(episodes: Sequence[EpisodeColumns], joint: MappedJoint) -> np.ndarray:
    return np.concatenate([e.vectors[joint.column][:, joint.element] for e in episodes])


def _check_values(metadata: DatasetMetadata, episode: EpisodeColumns) -> Iterator[Finding]:
    for name, values in episode.vectors.items():
        broken = ~np.isfinite(values)
        if broken.any():
            names = list_names(metadata, name, values.shape[1])
            which = [names[i] for i in np.flatnonzero(broken.any(axis=0))[:3]]
            yield Finding(
                ERROR,
                f'episode {episode.entry.index}',
                f'{int(broken.any(axis=1).sum())} rows with NaN or infinity in {", ".join(which)}',
                'none: trainers reject NaN',
                'remove these rows or the episode',
            )


def _check_tasks(metadata: DatasetMetadata, episode: EpisodeColumns) -> Iterator[Finding]:
    where, tasks = f'episode {episode.entry.index}', episode.scalars['task_index']
    known = len(metadata.tasks)
    if not (tasks >= 0).all() or not (tasks < known).all():
        yield Finding(
            ERROR,
            where,
            f'task_index from {tasks.min()} to {tasks.max()}',
            f'{known} tasks in meta/tasks',
            'add the missing texts',
        )
    elif not all(metadata.tasks[int(i)].strip() for i in np.unique(tasks)):
        yield Finding(
            WARNING, where, 'rows with an empty instruction', 'a text', 'add it to meta/tasks'
        )


def _check_times(
    metadata: DatasetMetadata, episodes: Sequence[EpisodeColumns]
) -> Iterator[Finding]:
    step_s = 1.0 / metadata.fps
    gaps, longest_s, where = 0, 0.0, []
    for episode in episodes:
        times_s = episode.scalars.get('timestamp')
        frames = episode.scalars.get('frame_index')
        wrong = np.zeros(max(episode.rows - 1, 0), bool)
        if times_s is not None:
            steps_s = np.diff(times_s.astype(np.float64))
            wrong |= np.abs(steps_s - step_s) > MAX_STEP_ERROR_S
            longest_s = max(longest_s, float(steps_s.max(initial=0.0)))
        if frames is not None:
            wrong |= np.diff(frames) != 1
        gaps += int(wrong.sum())
        where += [episode.entry.index] if wrong.any() else []
    if gaps:
        yield Finding(
            WARNING,
            'gaps',
            f'{gaps} steps of rows are not {step_s:.4f} s (longest {longest_s:.3f} s), in '
            f'{len(where)} episodes, first episode {where[0]}',
            f'1/fps with fps {metadata.fps:g}',
            'split the episodes there, or correct fps in meta/info.json: rows are trained as '
            'equally spaced',
        )


def _check_copies(episodes: Sequence[EpisodeColumns]) -> Iterator[Finding]:
    pairs = [
        (e.vectors[gear_metadata.OBS_STATE], e.vectors[gear_metadata.ACTION])
        for e in episodes
        if {gear_metadata.OBS_STATE, gear_metadata.ACTION} <= set(e.vectors)
    ]
    pairs = [(s, a) for s, a in pairs if s.shape == a.shape and len(s) > 1 and np.ptp(s) > 0]
    if not pairs:
        return
    if all(np.allclose(s, a, rtol=0, atol=COPY_TOLERANCE) for s, a in pairs):
        yield Finding(
            WARNING,
            'action',
            'equals observation.state of the same row in every row',
            'commanded positions, or positions measured later',
            'export again with what was commanded: a policy learns to stay where it is',
        )
    elif all(np.allclose(s[1:], a[:-1], rtol=0, atol=COPY_TOLERANCE) for s, a in pairs):
        yield Finding(
            NOTE, 'action', 'is the position measured one row later, not what was commanded'
        )


def _check_gripper(
    item: str, values: np.ndarray, robot: Embodiment, name: str
) -> Iterator[Finding]:
    gripper = robot.gripper(name)
    low, high = sorted((gripper.model_open, gripper.model_closed))
    span = high - low
    outside = (values < low - 0.1 * span) | (values > high + 0.1 * span)
    if outside.any():
        yield Finding(
            WARNING,
            item,
            f'{_percent(outside)} of the rows outside ({values.min():.3g} to {values.max():.3g})',
            f'{low:g} to {high:g}',
            f'convert it: {gripper.model_open:g} is open, {gripper.model_closed:g} is closed',
        )
    if np.ptp(values) < 1e-6:
        yield Finding(
            WARNING, item, f'never moves, it stays at {values[0]:.3f}', fix='was it recorded?'
        )


def _check_limits(item: str, values: np.ndarray, lower: float, upper: float) -> Iterator[Finding]:
    span = upper - lower
    outside = (values < lower - OUTSIDE_MARGIN * span) | (values > upper + OUTSIDE_MARGIN * span)
    if outside.any():
        largest = np.abs(values).max()
        guess = 'is it in degrees? ' if largest > 4 * max(abs(lower), abs(upper)) else ''
        yield Finding(
            WARNING,
            item,
            f'{_percent(outside)} of the rows outside ({values.min():.3g} to {values.max():.3g})',
            f'{lower:g} to {upper:g}',
            f'{guess}check unit, zero and sign of the joint',
        )
        return
    for limit, side in ((lower, 'lower'), (upper, 'upper')):
        clipped = np.abs(values - limit) <= LIMIT_MARGIN * span
        if clipped.mean() > MAX_CLIPPED_SHARE:
            yield Finding(
                WARNING,
                item,
                f'clipped: {_percent(clipped)} of the rows at the {side} limit {limit:g}',
                f'{100 * MAX_CLIPPED_SHARE:.0f} % of the rows',
                'record with the joint away from its stop',
            )


def _check_jumps(
    item: str, episodes: Sequence[EpisodeColumns], joint: MappedJoint, allowed: float
) -> Iterator[Finding]:
    steps = {
        e.entry.index: np.abs(np.diff(e.vectors[joint.column][:, joint.element]))
        for e in episodes
        if e.rows > 1
    }
    jumps = Counter({index: int((step > allowed).sum()) for index, step in steps.items()})
    count = sum(jumps.values())
    if count:
        largest = max(float(step.max()) for step in steps.values())
        yield Finding(
            WARNING,
            item,
            f'{count} jumps between rows (largest {largest:.3g}), most in episode '
            f'{jumps.most_common(1)[0][0]}',
            f'{allowed:.3g} per row, from the speed of the hardware',
            'split the episodes where rows are missing; unwrap angles',
        )


def _check_order(
    episodes: Sequence[EpisodeColumns],
    state: Sequence[MappedJoint],
    action: Sequence[MappedJoint],
) -> Iterator[Finding]:
    """Yield joints whose action follows another joint's state much better than its own."""
    states = {joint.name: joint for joint in state}
    driven = [joint for joint in action if joint.name in states]
    if len(driven) < 2:
        return
    moved = np.stack([_gather(episodes, states[joint.name]) for joint in driven])
    wanted = np.stack([_gather(episodes, joint) for joint in driven])
    with np.errstate(invalid='ignore', divide='ignore'):
        both = np.nan_to_num(np.corrcoef(wanted, moved)[: len(driven), len(driven) :])
    for i, joint in enumerate(driven):
        best = int(both[i].argmax())
        if best != i and both[i, best] > 0.9 and both[i, i] < 0.5 and both[best, i] > 0.9:
            yield Finding(
                WARNING,
                f'action {joint.name}',
                f'follows state {driven[best].name} (correlation {both[i, best]:.2f}), not its '
                f'own ({both[i, i]:.2f})',
                'its own',
                'are the arms or joints swapped in one of the two columns?',
            )


def _percent(mask: np.ndarray) -> str:
    return f'{100 * mask.mean():.1f} %'
