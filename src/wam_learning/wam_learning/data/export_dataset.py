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
from wam_learning.data.bag_replay import Replay
from wam_learning.data.lerobot_writer import Dataset
from wam_learning.data.time_sync import Gap, Row
from wam_policy.core.robot import embodiment
from wam_policy.core.robot.embodiment import Embodiment
from wam_policy.recording import bag_folder


@dataclass(slots=True)
class Account:
    """Count what became of one bag."""

    bag: str
    success: str = 'unknown'
    episodes: list[int] = field(default_factory=list)
    rows: int = 0
    repeated: Counter[str] = field(default_factory=Counter)  # camera: the same frame again
    dropped: Counter[str] = field(default_factory=Counter)  # instants, by reason
    refused: dict[str, int] = field(default_factory=dict)  # messages, by reason
    rejected: dict[str, int] = field(default_factory=dict)  # commands, by reason

    def lines(self) -> Iterator[str]:
        """Yield it for a person."""
        yield f'{self.bag}: {self.rows} rows in {len(self.episodes)} episodes'
        for what, counts in (
            ('dropped rows', self.dropped),
            ('refused messages', self.refused),
            ('rejected commands', self.rejected),
        ):
            for reason, count in counts.items():
                yield f'  {what}: {count} ({reason})'
        for camera, count in self.repeated.items():
            if count:
                yield (
                    f'  {camera}: {100 * count / max(1, self.rows):.0f} % of the rows repeat '
                    'the frame before'
                )


def export(folder: Path, replay: Replay, into: Dataset, shortest: int) -> Account:
    """Add the episodes of one bag; stretches of fewer than `shortest` rows are dropped."""
    said = bag_reader.about(folder)
    account = Account(folder.name, said.get('success', 'unknown'))
    last: Row | None = None
    for item in replay.rows():
        if isinstance(item, Gap):
            account.dropped[item.reason] += 1
            continue
        if last is not None and item.index != last.index + 1:
            _end(into, account, shortest)
            last = None
        if last is not None:
            for before, now in zip(last.observation.frames, item.observation.frames, strict=True):
                account.repeated[now.camera] += before.stamp_ns == now.stamp_ns
        into.add(item)
        last = item
    _end(into, account, shortest)
    account.refused = dict(replay.refused)
    account.rejected = dict(Counter(replay.timeline.rejected))
    return account


def _end(into: Dataset, account: Account, shortest: int) -> None:
    rows = into.rows
    if rows >= shortest:
        account.episodes.append(into.end())
        account.rows += rows
    elif rows:
        into.drop()
        account.dropped[f'in a stretch of fewer than {shortest} rows'] += rows


def main(arguments: Sequence[str] | None = None) -> int:
    """Export, print the account and the findings, return the exit status."""
    options = _options(arguments)
    try:
        folders = [path for given in options.bags for path in _bags(given)]
        if not folders:
            raise ValueError('no bag in what was given; a bag is a folder with metadata.yaml')
        robot = _robot(folders, options.robot)
        into = Dataset(options.out, robot)
    except (ValueError, OSError) as error:
        print(f'export: {error}', file=sys.stderr)
        return 2
    try:
        accounts = list(_accounts(folders, into, options))
        found = into.close(_provenance(robot, accounts))
    except (ValueError, OSError) as error:
        into.abandon()
        print(f'export: {error}', file=sys.stderr)
        return 1
    except BaseException:
        into.abandon()
        raise
    wrong = list(dataset_validation.findings(found, robot))
    print(
        f'{found}: {sum(a.rows for a in accounts)} rows in {into.episodes} episodes at '
        f'{into.fps:g} Hz, from {len(accounts)} bags'
    )
    for finding in wrong:
        print(finding)
    return int(any(not finding.warning for finding in wrong))


def _accounts(
    folders: Sequence[Path], into: Dataset, options: argparse.Namespace
) -> Iterator[Account]:
    shortest = options.min_rows or into.robot.horizon + 1
    for folder in folders:
        success = bag_reader.about(folder).get('success', 'unknown')
        if options.successful and success != 'yes':
            print(f'{folder.name}: left out, success is {success}')
            continue
        replay = Replay(folder, into.robot, options.joint_states, options.instruction)
        account = export(folder, replay, into, shortest)
        print('\n'.join(account.lines()), flush=True)
        yield account


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
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


def _bags(given: Path) -> list[Path]:
    """Return the bag itself, or the bags of a folder; interrupted ones are an error."""
    if (given / bag_folder.METADATA).exists():
        return [given]
    broken = bag_folder.interrupted(given) or ([given] if list(given.glob('*.mcap')) else [])
    if broken:
        raise ValueError(
            f'{", ".join(path.name for path in broken)} was interrupted: ./wam bag repair {given}'
        )
    return sorted(path.parent for path in given.glob(f'*/{bag_folder.METADATA}'))


def _robot(folders: Sequence[Path], asked: str | None) -> Embodiment:
    """Return the robot of all bags; ValueError where they are of several or tell nothing."""
    said = {folder: bag_reader.about(folder) for folder in folders}
    told = sorted({about['robot'] for about in said.values() if 'robot' in about})
    if asked is None and len(told) != 1:
        raise ValueError(
            f'the bags are of {", ".join(told) or "an unknown robot"}: name one with '
            f'--robot ({", ".join(embodiment.names())})'
        )
    robot = embodiment.load(asked or told[0])
    wrong = [
        folder.name
        for folder, about in said.items()
        if about.get('robot', robot.name) != robot.name
    ]
    if wrong:
        raise ValueError(f'{", ".join(wrong)}: recorded from another robot than {robot.name}')
    for folder, about in said.items():
        if about.get('contract', robot.contract) != robot.contract:
            print(
                f'{folder.name}: the description of {robot.name} has changed since it was '
                'recorded; limits and names of today are used',
                file=sys.stderr,
            )
    return robot


def _provenance(robot: Embodiment, accounts: Sequence[Account]) -> dict[str, Any]:
    """Say what the data set was made from."""
    return {
        'robot': robot.name,
        'contract': robot.contract,
        'bags': [
            {
                'bag': a.bag,
                'success': a.success,
                'episodes': a.episodes,
                'rows': a.rows,
                'dropped': dict(a.dropped),
                'refused': a.refused,
                'rejected': a.rejected,
                'repeated_frames': dict(a.repeated),
            }
            for a in accounts
        ],
    }


if __name__ == '__main__':
    sys.exit(main())
