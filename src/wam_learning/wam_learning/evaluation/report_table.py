"""Reports as a Markdown table: a row per question, a column per report."""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from wam_sim.tasks.task_families import LEARNED_FAMILIES

#  row -> (prefix of the figures, figure); a report without it leaves the cell empty
RATE_ROWS = (
    ('success', 'success'),
    ('- touch', 'success_touch'),
    ('- push', 'success_push'),
    ('- lift', 'success_lift'),
    ('- recall (needs memory)', 'success_recall'),
    ('untrained combinations of known words', 'held_out_success'),
    ('instruction names another object: that one reached', 'swapped_success'),
    ('- the original one reached', 'swapped_original'),
    ('instruction changes in mid-motion: new one reached', 'changed_success'),
    ('- the old one reached', 'changed_original'),
    ('recall, memory reset at every block', 'forgetful_success_recall'),
    ('recall, imagined frames kept', 'imagined_success_recall'),
    ('all, imagined frames kept', 'imagined_success'),
    ('one step', 'steps_1_success'),
    ('four steps', 'steps_4_success'),
    ('sixteen steps', 'steps_full_success'),
    ('one step, Flash', 'flash_success'),
    ('with guidance', 'guided_success'),
    ('behaviour cloning, no video', 'cloned_success'),
)
VALUE_ROWS = (
    ('time to success, p50 / p90', ('time_to_success_p50_s', 'time_to_success_p90_s'), '.1f', 's'),
    ('chunks', ('chunk_rate_hz',), '.1f', 'Hz'),
    ('observation to chunk, p50 / p99', ('latency_p50_ms', 'latency_p99_ms'), '.0f', 'ms'),
    ('jerk against its limit', ('jerk_ratio',), '.4f', ''),
    ('predicted picture, first / last frame', ('psnr_db_frame_1', 'psnr_db_frame_4'), '.1f', 'dB'),
    ('- structural similarity', ('ssim_frame_1', 'ssim_frame_4'), '.2f', ''),
)


BEGIN_MARK, END_MARK = '<!-- evaluation -->', '<!-- /evaluation -->'


def insert_table(table: str, document: str) -> str:
    """Return `document` with `table` between its marks; ValueError where they are missing."""
    before, begin, rest = document.partition(BEGIN_MARK)
    _, end, after = rest.partition(END_MARK)
    if not begin or not end:
        raise ValueError(f'the document needs {BEGIN_MARK} and, after it, {END_MARK}')
    return f'{before}{begin}\n{table}\n{end}{after}'


def format_markdown(reports: Sequence[Mapping[str, Any]]) -> str:
    """Return a table of what the reports say; rows that no report knows are left out."""
    heads = [_format_header(report) for report in reports]
    lines = ['| | ' + ' | '.join(heads) + ' |', '|---' * (len(heads) + 1) + '|']
    rows = [
        (name, [_format_rate(report, figure) for report in reports]) for name, figure in RATE_ROWS
    ]
    rows += [
        (name, [_format_values(report, figures, form, unit) for report in reports])
        for name, figures, form, unit in VALUE_ROWS
    ]
    lines += [f'| {name} | ' + ' | '.join(cells) + ' |' for name, cells in rows if any(cells)]
    return '\n'.join(lines)


def _format_header(report: Mapping[str, Any]) -> str:
    path = 'through ROS' if report.get('path') == 'ros' else 'direct'
    families = report.get('families', LEARNED_FAMILIES)
    only = ', '.join(families) + ' only' if set(families) < set(LEARNED_FAMILIES) else ''
    untrained = '' if report.get('trained') else ' (untrained)'
    return ', '.join(filter(None, (f'{report["robot"]}{untrained}', path, only)))


def _format_rate(report: Mapping[str, Any], metric: str) -> str:
    if not report.get(f'{metric}_trials'):
        return ''
    rate, low, high = (100 * report[f'{metric}_{part}'] for part in ('rate', 'low', 'high'))
    return f'{rate:.0f} % ({low:.0f}–{high:.0f}, n = {report[f"{metric}_trials"]})'


def _format_values(
    report: Mapping[str, Any], metrics: Sequence[str], format_spec: str, unit: str
) -> str:
    if any(figure not in report for figure in metrics):
        return ''
    return (
        f'{" / ".join(format(report[figure], format_spec) for figure in metrics)} {unit}'.rstrip()
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Print reports as a table, or write the table into a Markdown file; return the exit code."""
    parser = argparse.ArgumentParser(prog='./wam eval-table', description=__doc__)
    parser.add_argument('reports', nargs='+', type=Path, metavar='FILE', help='of ./wam eval')
    parser.add_argument(
        '--update',
        type=Path,
        metavar='DOCUMENT',
        help=f'replace the text between {BEGIN_MARK} and {END_MARK} in this file instead',
    )
    options = parser.parse_args(argv)
    try:
        table = format_markdown([json.loads(path.read_text()) for path in options.reports])
        if options.update:
            options.update.write_text(insert_table(table, options.update.read_text()))
        else:
            sys.stdout.write(table + '\n')
    except (OSError, ValueError, KeyError) as error:
        sys.stderr.write(f'eval-table: {error}\n')
        return 1
    return 0


if __name__ == '__main__':
    sys.exit(main())
