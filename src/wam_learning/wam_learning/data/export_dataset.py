"""Turn recorded episodes into a data set that DreamZero's trainer and LeRobot can read.

`python -m wam_learning.data.export_dataset BAGS... OUT` prints what was dropped and why, and what
is wrong with the result. Exit status: 0 fine, 1 nothing usable or an error in the result, 2
arguments.
"""

import argparse
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wam_learning.data import bag_reader, dataset_validation
from wam_learning.data.bag_replay import BagReplay
from wam_learning.data.lerobot_writer import LeRobotWriter
from wam_learning.data.time_sync import DroppedSample, Sample
from wam_policy.core.robot import embodiment
from wam_policy.core.robot.embodiment import Embodiment
from wam_policy.recording import bag_folder


@dataclass(slots=True)
class BagExportReport:
    """Count what became of one bag."""

    bag: str
    success: str = 'unknown'
    episodes: list[int] = field(default_factory=list)
    rows: int = 0
    repeated_frames: Counter[str] = field(default_factory=Counter)  # camera: the same frame again
    dropped_samples: Counter[str] = field(default_factory=Counter)  # instants, by reason
    invalid_messages: dict[str, int] = field(default_factory=dict)  # messages, by reason
    rejected_commands: dict[str, int] = field(default_factory=dict)  # commands, by reason

    def format_lines(self) -> Iterator[str]:
        """Yield it for a person."""
        yield f'{self.bag}: {self.rows} rows in {len(self.episodes)} episodes'
        for what, counts in (
            ('dropped rows', self.dropped_samples),
            ('refused messages', self.invalid_messages),
            ('rejected commands', self.rejected_commands),
        ):
            for reason, count in counts.items():
                yield f'  {what}: {count} ({reason})'
        for camera, count in self.repeated_frames.items():
            if count:
                yield (
                    f'  {camera}: {100 * count / max(1, self.rows):.0f} % of the rows repeat '
                    'the frame before'
                )


def export_bag(
    folder: Path, replay: BagReplay, writer: LeRobotWriter, min_rows: int
) -> BagExportReport:
    """Add the episodes of one bag; stretches of fewer than `shortest` rows are dropped."""
    said = bag_reader.read_metadata(folder)
    account = BagExportReport(folder.name, said.get('success', 'unknown'))
    last: Sample | None = None
    for item in replay.read_samples():
        if isinstance(item, DroppedSample):
            account.dropped_samples[item.reason] += 1
            continue
        if last is not None and item.index != last.index + 1:
            _end_episode(writer, account, min_rows)
            last = None
        if last is not None:
            for before, now in zip(last.observation.frames, item.observation.frames, strict=True):
                account.repeated_frames[now.camera] += before.stamp_ns == now.stamp_ns
        writer.add_sample(item)
        last = item
    _end_episode(writer, account, min_rows)
    account.invalid_messages = dict(replay.invalid_messages)
    account.rejected_commands = dict(Counter(replay.synchronizer.rejected_commands))
    return account


def _end_episode(writer: LeRobotWriter, report: BagExportReport, min_rows: int) -> None:
    rows = writer.current_length
    if rows >= min_rows:
        report.episodes.append(writer.end_episode())
        report.rows += rows
    elif rows:
        writer.discard_episode()
        report.dropped_samples[f'in a stretch of fewer than {min_rows} rows'] += rows


def main(arguments: Sequence[str] | None = None) -> int:
    """Export, print the account and the findings, return the exit status."""
    options = _parse_arguments(arguments)
    try:
        folders = [path for given in options.bags for path in _find_bags(given)]
        if not folders:
            raise ValueError('no bag in what was given; a bag is a folder with metadata.yaml')
        robot = _resolve_robot(folders, options.robot)
        into = LeRobotWriter(options.out, robot)
    except (ValueError, OSError) as error:
        print(f'export: {error}', file=sys.stderr)
        return 2
    try:
        accounts = list(_export_bags(folders, into, options))
        found = into.finalize(_build_provenance(robot, accounts))
    except (ValueError, OSError) as error:
        into.abort()
        print(f'export: {error}', file=sys.stderr)
        return 1
    except BaseException:
        into.abort()
        raise
    wrong = list(dataset_validation.find_issues(found, robot))
    print(
        f'{found}: {sum(a.rows for a in accounts)} rows in {into.episode_count} episodes at '
        f'{into.fps:g} Hz, from {len(accounts)} bags'
    )
    for finding in wrong:
        print(finding)
    return int(any(not finding.is_warning for finding in wrong))


def _export_bags(
    folders: Sequence[Path], writer: LeRobotWriter, options: argparse.Namespace
) -> Iterator[BagExportReport]:
    shortest = options.min_rows or writer.robot.horizon + 1
    for folder in folders:
        success = bag_reader.read_metadata(folder).get('success', 'unknown')
        if options.successful and success != 'yes':
            print(f'{folder.name}: left out, success is {success}')
            continue
        replay = BagReplay(folder, writer.robot, options.joint_states, options.instruction)
        account = export_bag(folder, replay, writer, shortest)
        print('\n'.join(account.format_lines()), flush=True)
        yield account


def _parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog='./wam export',
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        'bags', nargs='+', type=Path, metavar='BAGS', help='bags, or folders of bags'
    )
    parser.add_argument('out', type=Path, metavar='OUT', help='new folder of the data set')
    parser.add_argument('--robot', help='embodiment, where the bags do not tell it')
    parser.add_argument(
        '--successful', action='store_true', help='only episodes that were stored as a success'
    )
    parser.add_argument('--instruction', help='words for all rows, instead of what was recorded')
    parser.add_argument(
        '--min-rows',
        type=int,
        default=0,
        metavar='N',
        help='shortest episode; default: one row more than the horizon',
    )
    parser.add_argument(
        '--joint-states', default='/joint_states', metavar='TOPIC', help='(default: %(default)s)'
    )
    return parser.parse_args(arguments)


def _find_bags(path: Path) -> list[Path]:
    """Return the bag itself, or the bags of a folder; interrupted ones are an error."""
    if (path / bag_folder.METADATA_FILE).exists():
        return [path]
    broken = bag_folder.find_interrupted(path) or ([path] if list(path.glob('*.mcap')) else [])
    if broken:
        raise ValueError(
            f'{", ".join(path.name for path in broken)} was interrupted: ./wam bag repair {path}'
        )
    return sorted(path.parent for path in path.glob(f'*/{bag_folder.METADATA_FILE}'))


def _resolve_robot(folders: Sequence[Path], name: str | None) -> Embodiment:
    """Return the robot of all bags; ValueError where they are of several or tell nothing."""
    said = {folder: bag_reader.read_metadata(folder) for folder in folders}
    told = sorted({about['robot'] for about in said.values() if 'robot' in about})
    if name is None and len(told) != 1:
        raise ValueError(
            f'the bags are of {", ".join(told) or "an unknown robot"}: name one with '
            f'--robot ({", ".join(embodiment.list_robots())})'
        )
    robot = embodiment.load_embodiment(name or told[0])
    wrong = [
        folder.name
        for folder, about in said.items()
        if about.get('robot', robot.name) != robot.name
    ]
    if wrong:
        raise ValueError(f'{", ".join(wrong)}: recorded from another robot than {robot.name}')
    for folder, about in said.items():
        if about.get('contract', robot.config_hash) != robot.config_hash:
            print(
                f'{folder.name}: the description of {robot.name} has changed since it was '
                'recorded; limits and names of today are used',
                file=sys.stderr,
            )
    return robot


def _build_provenance(robot: Embodiment, reports: Sequence[BagExportReport]) -> dict[str, Any]:
    """Say what the data set was made from."""
    return {
        'robot': robot.name,
        'contract': robot.config_hash,
        'bags': [
            {
                'bag': a.bag,
                'success': a.success,
                'episodes': a.episodes,
                'rows': a.rows,
                'dropped': dict(a.dropped_samples),
                'refused': a.invalid_messages,
                'rejected': a.rejected_commands,
                'repeated_frames': dict(a.repeated_frames),
            }
            for a in reports
        ],
    }


if __name__ == '__main__':
    sys.exit(main())
