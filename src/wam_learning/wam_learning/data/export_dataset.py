"""`./wam export`: convert recorded episodes into a data set for DreamZero's trainer and LeRobot.

Prints what was dropped and why, and the errors of the result. Exit status: 0 success, 1 nothing
usable or an error in the result, 2 invalid arguments.
"""

import argparse
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wam_learning.data import dataset_validation
from wam_learning.data.bag_replay import NEXT_STATE, TRAJECTORIES, BagReplay, ReplayOptions
from wam_learning.data.finding import ERROR
from wam_learning.data.lerobot_writer import VERSIONS, LeRobotWriter
from wam_learning.data.time_sync import NO_INSTRUCTION, DroppedSample, SynchronizedSample
from wam_policy import robot_folders
from wam_policy.command_line import CommandParser, add_value
from wam_policy.core.robot.embodiment import Embodiment
from wam_policy.recording import bag_access

DEPRECATED_FLAGS = {
    '--successful': '--success-only',
    '--min-rows': '--min-samples',
    '--joint-states': '--joint-states-topic',
}


@dataclass(slots=True)
class BagExportReport:
    """Count the samples, dropped samples and rejected messages of one bag."""

    bag: str
    success: str = 'unknown'
    error: str = ''  # why the rest of the bag is left out
    episodes: list[int] = field(default_factory=list)
    rows: int = 0
    # camera: rows with the previous frame
    repeated_frames: Counter[str] = field(default_factory=Counter)
    bridged_rows: int = 0  # a camera lost frames within its age limit
    dropped_samples: Counter[str] = field(default_factory=Counter)  # by reason
    invalid_messages: dict[str, int] = field(default_factory=dict)  # by reason
    rejected_commands: dict[str, int] = field(default_factory=dict)  # by reason

    def format_lines(self) -> Iterator[str]:
        """Yield the report as lines of text."""
        yield f'{self.bag}: {self.rows} rows in {len(self.episodes)} episodes'
        for what, counts in (
            ('dropped rows', self.dropped_samples),
            ('invalid messages', self.invalid_messages),
            ('rejected commands', self.rejected_commands),
        ):
            for reason, count in counts.items():
                yield f'  {what}: {count} ({reason})'
        if self.bridged_rows:
            yield f'  bridged rows: {self.bridged_rows} (a camera lost frames)'
        for camera, count in self.repeated_frames.items():
            if count:
                yield (
                    f'  {camera}: {100 * count / max(1, self.rows):.0f} % of the rows repeat '
                    'the previous frame'
                )


def export_bag(
    replay: BagReplay, writer: LeRobotWriter, min_rows: int, report: BagExportReport
) -> None:
    """Add the episodes of one bag and count into `report`.

    Sequences of fewer than `min_rows` rows are dropped. Raise ValueError if the bag does not fit;
    the episodes completed before stay.
    """
    last: SynchronizedSample | None = None
    for item in replay.read_samples():
        if isinstance(item, DroppedSample):
            report.dropped_samples[item.reason] += 1
            continue
        if last is not None and item.index != last.index + 1:
            _end_episode(writer, report, min_rows)
            last = None
        if last is not None:
            for before, now in zip(last.observation.frames, item.observation.frames, strict=True):
                report.repeated_frames[now.camera] += before.stamp_ns == now.stamp_ns
        writer.add_sample(item)
        last = item
    _end_episode(writer, report, min_rows)
    report.bridged_rows = replay.synchronizer.buffer.bridged_observations
    report.invalid_messages = dict(replay.invalid_messages)
    report.rejected_commands = dict(Counter(replay.synchronizer.rejected_commands))


def _end_episode(writer: LeRobotWriter, report: BagExportReport, min_rows: int) -> None:
    rows = writer.current_length
    if rows >= min_rows:
        report.episodes.append(writer.end_episode())
        report.rows += rows
    elif rows:
        writer.discard_episode()
        report.dropped_samples[f'in a sequence of fewer than {min_rows} rows'] += rows


def main(arguments: Sequence[str] | None = None) -> int:
    """Export, print the report and the issues found; return the exit status."""
    options = _parse_arguments(arguments)
    try:
        replay_options = _make_replay_options(options)
        folders = [path for given in options.bags for path in bag_access.find_bags(given)]
        robot = _resolve_robot(folders, options.robot)
        writer = LeRobotWriter(options.out, robot, options.format)
    except (ValueError, OSError) as error:
        print(f'export: {error}', file=sys.stderr)
        return 2
    try:
        reports = list(_export_bags(folders, writer, options, replay_options))
        found = writer.finalize(_build_provenance(robot, reports, replay_options))
    except (ValueError, OSError) as error:
        writer.abort()
        print(f'export: {error}', file=sys.stderr)
        return 1
    except BaseException:
        writer.abort()
        raise
    unfit = [report for report in reports if report.error]
    wrong = list(dataset_validation.find_issues(found, robot))
    print(
        f'{found}: {sum(a.rows for a in reports)} rows in {writer.episode_count} episodes at '
        f'{writer.fps:g} Hz, from {len(reports) - len(unfit)} of {len(reports)} bags'
    )
    for finding in wrong:
        print(finding)
    return int(bool(unfit) or any(finding.level == ERROR for finding in wrong))


def _export_bags(
    folders: Sequence[Path],
    writer: LeRobotWriter,
    options: argparse.Namespace,
    replay_options: ReplayOptions,
) -> Iterator[BagExportReport]:
    shortest = options.min_samples or writer.robot.horizon + 1
    for folder in folders:
        report = BagExportReport(folder.name)
        try:
            metadata = bag_access.read_metadata(folder)
            report.success = metadata.get('success', 'unknown')
            if options.success_only and report.success != 'yes':
                print(f'{folder.name}: skipped: success is {report.success}')
                continue
            _check_metadata(folder.name, metadata, writer.robot)
            replay = BagReplay(folder, writer.robot, replay_options)
            export_bag(replay, writer, shortest, report)
            if not report.rows:
                raise ValueError(_explain_no_rows(report, replay))
        except ValueError as error:  # of this bag: the others go on
            writer.discard_episode()
            report.error = str(error)
            print(f'export: {report.bag}: left out: {error}', file=sys.stderr)
        print('\n'.join(report.format_lines()), flush=True)
        yield report


def _explain_no_rows(report: BagExportReport, replay: BagReplay) -> str:
    """Return the most frequent reason why a bag has no usable row."""
    reasons = Counter(report.invalid_messages) + report.dropped_samples
    if replay.clock_offset:
        return f'no usable row: {replay.clock_offset}'
    if not reasons:
        return 'no usable row: no instant at which every camera and the joints have data'
    reason, count = reasons.most_common(1)[0]
    fix = '; give one with --instruction' if reason == NO_INSTRUCTION else ''
    return f'no usable row: {reason} ({count} times){fix}'


def _make_replay_options(options: argparse.Namespace) -> ReplayOptions:
    remap = {}
    for pair in options.remap:
        theirs, separator, ours = pair.partition(':=')
        if not separator or not theirs.startswith('/') or not ours.startswith('/'):
            raise ValueError(f'--remap {pair}: want /TOPIC/IN/BAG:=/TOPIC/OF/ROBOT')
        remap[theirs] = ours
    actions = tuple(dict.fromkeys(options.actions or (TRAJECTORIES,)))
    for name in actions:
        if name not in (TRAJECTORIES, NEXT_STATE) and not name.startswith('/'):
            raise ValueError(f'--actions {name}: want {TRAJECTORIES}, {NEXT_STATE} or a /topic')
    if len(actions) > 1 and {TRAJECTORIES, NEXT_STATE} & set(actions):
        raise ValueError(
            f'--actions {", ".join(actions)}: {TRAJECTORIES} and {NEXT_STATE} go with nothing '
            'else; only topics may be several'
        )
    return ReplayOptions(
        options.joint_states_topic,
        options.instruction,
        actions,
        remap,
        options.use_reception_time,
        options.robot_namespace,
    )


def _parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = CommandParser('./wam export', __doc__, DEPRECATED_FLAGS)
    parser.add_argument(
        'bags', nargs='+', type=Path, metavar='BAGS', help='bags, or folders of bags'
    )
    parser.add_argument('out', type=Path, metavar='OUT', help='new folder of the data set')
    parser.add_argument('--robot', help='embodiment, if the bags do not name it')
    parser.add_argument(
        '--success-only', action='store_true', help='only episodes that are marked as a success'
    )
    add_value(
        parser,
        '--format',
        VERSIONS[0],
        "LeRobot version of the data set; DreamZero's and GR00T's trainers read v2.1",
        choices=VERSIONS,
    )
    parser.add_argument(
        '--instruction', help='instruction for all samples; overrides the recorded one'
    )
    parser.add_argument(
        '--min-samples',
        type=int,
        default=0,
        metavar='N',
        help='shortest episode; default: one row more than the horizon',
    )
    parser.add_argument(
        '--joint-states-topic',
        default='/joint_states',
        metavar='TOPIC',
        help='(default: %(default)s)',
    )
    parser.add_argument(
        '--actions',
        action='append',
        metavar='SOURCE',
        help=f'what the actions are: {TRAJECTORIES} (setpoints of the controllers, the default), '
        'a topic of commanded joint states (repeat it for several arms), or '
        f'{NEXT_STATE} (joint positions measured one row later); provenance.json says which',
    )
    parser.add_argument(
        '--remap',
        action='append',
        default=[],
        metavar='FROM:=TO',
        help='read topic FROM of the bags as topic TO of the robot; may be repeated',
    )
    parser.add_argument(
        '--robot-namespace',
        default='',
        metavar='NAME',
        help='namespace of the robot in bags of other recorders, as robot_1; ours say theirs',
    )
    parser.add_argument(
        '--use-reception-time',
        action='store_true',
        help='use the time of reception instead of header stamps, where stamps are 0 or of '
        'another clock',
    )
    return parser.parse(arguments)


def _resolve_robot(folders: Sequence[Path], name: str | None) -> Embodiment:
    """Return the robot of all bags; raise ValueError if they name several or none."""
    if name is not None:
        return robot_folders.load_robot(name)
    names = set()
    for folder in folders:
        with suppress(ValueError):  # said when the bag is exported
            names.add(bag_access.read_metadata(folder).get('robot'))
    names.discard(None)
    if len(names) != 1:
        raise ValueError(
            f'the bags are of {", ".join(sorted(map(str, names))) or "an unknown robot"}: name '
            f'one with --robot ({", ".join(robot_folders.list_robots())})'
        )
    return robot_folders.load_robot(str(names.pop()))


def _check_metadata(bag: str, metadata: Mapping[str, str], robot: Embodiment) -> None:
    """Raise ValueError if a bag is of another robot; print where its configuration has changed."""
    recorded = metadata.get('robot', robot.name)
    if recorded != robot.name:
        raise ValueError(f'recorded from {recorded}, the data set is of {robot.name}')
    if metadata.get('contract', robot.config_hash) != robot.config_hash:
        print(
            f'{bag}: the configuration of {robot.name} has changed since the recording; its '
            'present limits and names are used',
            file=sys.stderr,
        )


def _build_provenance(
    robot: Embodiment, reports: Sequence[BagExportReport], options: ReplayOptions
) -> dict[str, Any]:
    """Describe the sources of the data set for provenance.json."""
    return {
        'actions': options.describe_actions(),
        'stamps': 'time of reception' if options.use_reception_time else 'header',
        'robot': robot.name,
        'contract': robot.config_hash,
        'bags': [
            {
                'bag': a.bag,
                'success': a.success,
                'error': a.error,
                'episodes': a.episodes,
                'rows': a.rows,
                'dropped': dict(a.dropped_samples),
                'bridged': a.bridged_rows,
                'refused': a.invalid_messages,
                'rejected': a.rejected_commands,
                'repeated_frames': dict(a.repeated_frames),
            }
            for a in reports
        ],
    }


if __name__ == '__main__':
    sys.exit(main())
