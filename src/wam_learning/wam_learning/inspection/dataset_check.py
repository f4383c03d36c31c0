"""Check a data set as a whole: what it is, what can train on it, and every finding."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from wam_learning.data.finding import ERROR, NOTE, Finding
from wam_learning.data.lerobot.column_mapping import list_value_names
from wam_learning.data.lerobot.dataset_metadata import DatasetMetadata, read_dataset_metadata
from wam_learning.inspection import column_checks, stats_checks, training_fit, video_checks
from wam_learning.inspection.dataset_reader import (
    EpisodeColumns,
    check_totals,
    list_vector_names,
    read_episodes,
)
from wam_learning.inspection.training_fit import TrainingFit
from wam_policy import robot_folders
from wam_policy.core.robot.embodiment import Embodiment

READERS = {
    'v2.0': "DreamZero's and GR00T's trainers; LeRobot after conversion",
    'v2.1': "DreamZero's and GR00T's trainers; LeRobot after conversion",
    'v3.0': 'LeRobot 0.4 and newer',
}


@dataclass(frozen=True, slots=True, eq=False)
class DatasetReport:
    """Hold what a check has found; `metadata` is None if the set cannot be read at all."""

    folder: Path
    metadata: DatasetMetadata | None
    episodes: tuple[EpisodeColumns, ...]
    robot: Embodiment | None
    idle_share: float
    actions: str  # what an action is, from provenance.json
    robots: tuple[TrainingFit, ...]
    models: tuple[TrainingFit, ...]
    findings: tuple[Finding, ...]

    @property
    def can_train(self) -> bool:
        """Return whether a robot fits and nothing prevents training."""
        return any(not fit.reasons for fit in self.robots) and not any(
            finding.level == ERROR for finding in self.findings
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the report as JSON values."""
        return {
            'folder': str(self.folder),
            'can_train': self.can_train,
            'robot': self.robot.name if self.robot else None,
            'idle_share': round(self.idle_share, 4),
            'actions': self.actions,
            **(_summarize(self.metadata) if self.metadata else {}),
            'robots': {fit.name: list(fit.reasons) for fit in self.robots},
            'models': {fit.name: list(fit.reasons) for fit in self.models},
            'findings': [asdict(finding) for finding in self.findings],
        }

    def format_lines(self) -> Iterator[str]:
        """Yield the report as lines of text, one per finding."""
        if self.metadata is not None:
            yield from _describe(self.metadata, self.idle_share, self.actions)
        yield from (f'robot {fit}' for fit in self.robots)
        yield from (f'model {fit}' for fit in self.models)
        yield from map(str, self.findings)
        yield f'{self.folder}: {"can be trained on" if self.can_train else "cannot be trained on"}'


def check_dataset(folder: Path, decoded: int, robot_name: str | None = None) -> DatasetReport:
    """Check a data set; decode the videos of at most `decoded` episodes.

    With `robot_name`, check for that robot alone. What is damaged becomes a finding.
    """
    try:
        metadata = read_dataset_metadata(folder)
    except (OSError, ValueError) as error:
        text = str(error).removeprefix(f'{folder}').lstrip('/: ')
        finding = Finding(ERROR, str(folder), text)
        return DatasetReport(folder, None, (), None, 0.0, '', (), (), (finding,))
    findings = list(check_totals(metadata))
    episodes = tuple(read_episodes(metadata, findings))
    fits = tuple(
        fit
        for fit in training_fit.check_robots(metadata)
        if robot_name is None or fit.name == robot_name
    )
    robot = (
        robot_folders.load_robot(robot_name)
        if robot_name
        else training_fit.choose_robot(metadata, fits)
    )
    findings += column_checks.check_columns(metadata, episodes)
    if robot is not None and episodes:
        findings += _check_for_robot(metadata, episodes, robot)
    findings += stats_checks.check_stats(metadata, episodes)
    findings += stats_checks.check_episode_stats(metadata, episodes)
    means = stats_checks.read_image_means(metadata)
    findings += video_checks.check_videos(metadata, episodes, decoded, means)
    if len(episodes) > decoded:
        findings.append(
            Finding(
                NOTE,
                'videos',
                f'of {decoded} of {len(episodes)} episodes were decoded',
                fix=f'--videos {len(episodes)} decodes all',
            )
        )
    return DatasetReport(
        folder,
        metadata,
        episodes,
        robot,
        column_checks.compute_idle_share(metadata, episodes),
        _read_actions(folder),
        fits,
        tuple(training_fit.check_models(metadata, robot)),
        tuple(findings),
    )


def _check_for_robot(
    metadata: DatasetMetadata, episodes: Sequence[EpisodeColumns], robot: Embodiment
) -> Iterator[Finding]:
    sources = training_fit.map_robot(metadata, robot)
    columns = {source.column for group in sources or () for source in group}
    if sources is None or not columns <= set(episodes[0].vectors):
        return  # said by the fit of the robot
    state, action = (
        column_checks.find_joints(group, keys)
        for group, keys in zip(sources, (robot.state_keys, robot.action_keys), strict=True)
    )
    yield from column_checks.check_joints(metadata, episodes, robot, state, action)
    yield from stats_checks.check_relative_stats(metadata.folder, episodes, robot, sources)


def _read_actions(folder: Path) -> str:
    try:
        return str(
            json.loads((folder / 'meta/provenance.json').read_text()).get('actions', 'not stated')
        )
    except (OSError, ValueError, AttributeError):
        return 'not stated'


def _summarize(metadata: DatasetMetadata) -> dict[str, Any]:
    rows = sum(entry.length for entry in metadata.episodes)
    return {
        'version': metadata.version,
        'robot_type': metadata.robot_type,
        'fps': metadata.fps,
        'episodes': len(metadata.episodes),
        'rows': rows,
        'duration_s': round(rows / metadata.fps, 3),
        'tasks': list(metadata.tasks),
        'columns': {
            name: list_value_names(metadata.features[name]) or metadata.features[name]['shape']
            for name in list_vector_names(metadata)
        },
        'cameras': {name: metadata.features[name]['shape'] for name in metadata.video_features},
    }


def _describe(metadata: DatasetMetadata, idle_share: float, actions: str) -> Iterator[str]:
    summary = _summarize(metadata)
    yield (
        f'{metadata.folder}: LeRobot {metadata.version} (read by {READERS[metadata.version]}), '
        f'robot_type "{metadata.robot_type}"'
    )
    yield (
        f'  {summary["episodes"]} episodes, {summary["rows"]} rows at {metadata.fps:g} Hz '
        f'({summary["duration_s"]:.0f} s), {len(metadata.tasks)} instructions, '
        f'{100 * idle_share:.0f} % idle, actions: {actions}'
    )
    for name, values in summary['columns'].items():
        yield f'  {name}: {", ".join(map(str, values))}'
    for name, shape in summary['cameras'].items():
        yield f'  {name}: {" x ".join(map(str, shape))}'
