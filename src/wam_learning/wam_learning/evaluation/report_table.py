"""`./wam eval-table`: write evaluation reports as a Markdown table, one column per report.

Also what the commands share whose report is a table made in parts (eval-ablations, eval-delays):
reading an earlier one to continue it, and printing.
"""

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from wam_learning.evaluation.eval_conditions import DEPRECATED_NAMES
from wam_sim.tasks.task_families import LEARNED_FAMILIES

# row, prefix of the report keys; the cell is empty if a report lacks them
RATE_ROWS = (
    ('success', 'success'),
    ('- touch', 'success_touch'),
    ('- push', 'success_push'),
    ('- lift', 'success_lift'),
    ('- recall (needs memory)', 'success_recall'),
    ('untrained combinations of known words', 'held_out_success'),
    ('instruction names another object: that one reached', 'instruction_swap_success'),
    ('- the original one reached', 'instruction_swap_original'),
    ('instruction changes in mid-motion: new one reached', 'instruction_change_success'),
    ('- the old one reached', 'instruction_change_original'),
    ('recall, memory reset at every block', 'memory_reset_success_recall'),
    ('recall, imagined frames kept', 'imagined_context_success_recall'),
    ('all, imagined frames kept', 'imagined_context_success'),
    ('one step', 'steps_1_success'),
    ('four steps', 'steps_4_success'),
    ('sixteen steps', 'steps_full_success'),
    ('one step, Flash', 'flash_success'),
    ('with guidance', 'guided_success'),
    ('behavior cloning, no video', 'behavior_cloning_success'),
)


def _psnr_keys(method: str) -> tuple[str, ...]:
    return tuple(f'{method}_psnr_db_{over}' for over in ('all', 'moving', 'mean'))


VALUE_ROWS = (
    ('time to success, p50 / p90', ('time_to_success_p50_s', 'time_to_success_p90_s'), '.1f', 's'),
    ('chunks', ('chunk_rate_hz',), '.1f', 'Hz'),
    ('observation to chunk, p50 / p99', ('latency_p50_ms', 'latency_p99_ms'), '.0f', 'ms'),
    ('jerk against its limit', ('jerk_ratio',), '.4f', ''),
    ('predicted image, first / last frame', ('psnr_db_frame_1', 'psnr_db_frame_4'), '.1f', 'dB'),
    ('- structural similarity', ('ssim_frame_1', 'ssim_frame_4'), '.2f', ''),
    *(
        (f'- {text}: all / moving pixels / mean of frames', _psnr_keys(method), '.1f', 'dB')
        for method, text in (
            ('predicted', 'predicted'),
            ('copied', 'last real frame copied'),
            ('reconstructed', 'limit of the autoencoder'),
        )
    ),
)


# options that must be the same for parts to stand in one report
PART_SETTINGS = (
    *('robot', 'checkpoint', 'base', 'seed', 'episodes', 'families', 'steps', 'held_rows'),
    *('noise_scale', 'new_noise', 'query_hz', 'no_planning'),
)
BEGIN_MARK, END_MARK = '<!-- evaluation -->', '<!-- /evaluation -->'


def insert_table(table: str, document: str) -> str:
    """Return `document` with `table` between its marks; raise ValueError if they are missing."""
    before, begin, rest = document.partition(BEGIN_MARK)
    _, end, after = rest.partition(END_MARK)
    if not begin or not end:
        raise ValueError(f'the document needs {BEGIN_MARK} and, after it, {END_MARK}')
    return f'{before}{begin}\n{table}\n{end}{after}'


def format_markdown(reports: Sequence[Mapping[str, Any]]) -> str:
    """Return a Markdown table of the reports, without rows that are empty in all of them."""
    reports = [_upgrade_keys(report) for report in reports]
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


def _upgrade_keys(report: Mapping[str, Any]) -> dict[str, Any]:
    """Return a report with the present condition names in its keys."""
    result = {}
    for key, value in report.items():
        prefix, underscore, rest = key.partition('_')
        result[DEPRECATED_NAMES.get(prefix, prefix) + underscore + rest] = value
    return result


def replace_eval_options(arguments: Sequence[str]) -> list[str]:
    """Translate the deprecated `eval --table FILES [--into FILE]` into options of this command."""
    sys.stderr.write(
        'warning: eval --table is deprecated and will be removed in the next release: '
        'use eval-table FILES [--update FILE]\n'
    )
    result = []
    for argument in arguments:
        name, equals, value = argument.partition('=')
        if name == '--table':
            result += [value] if equals else []
        else:
            result.append(('--update' if name == '--into' else name) + equals + value)
    return result


def get_settings(options: argparse.Namespace, *further: str) -> dict[str, Any]:
    """Return PART_SETTINGS and `further` options, as JSON has them.

    The checkpoint is its folder's name.
    """
    found = {name: getattr(options, name) for name in (*PART_SETTINGS, *further)}
    return found | {
        'checkpoint': Path(options.checkpoint).name,
        'families': list(options.families),
    }


def read_earlier(path: Path | None, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the report that `path` has, {} if there is none.

    Raise ValueError if it is not such a report or has other settings.
    """
    if path is None or not path.exists():
        return {}
    try:
        found = json.loads(path.read_text())
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise ValueError(f'{path} is not a report of this command: name another --report')
    for name, value in settings.items():
        if found.get(name) != value:
            raise ValueError(
                f'{path} has {name} {found.get(name)!r}, asked for {value!r}: name another '
                '--report, or repeat its settings to continue it'
            )
    return found


def print_table(
    command: str,
    options: argparse.Namespace,
    run: Callable[[argparse.Namespace], dict[str, Any]],
    format_report: Callable[[Mapping[str, Any]], str],
) -> int:
    """Run, write --report as JSON and Markdown, print the Markdown; return the exit status."""
    try:
        report = run(options)
    except (ValueError, OSError, RuntimeError) as error:
        sys.stderr.write(f'{command}: {error}\n')
        return 1
    except KeyboardInterrupt:
        return 130
    text = format_report(report)
    if options.report:
        options.report.write_text(json.dumps(report, indent=1) + '\n')
        options.report.with_suffix('.md').write_text(text + '\n')
    print(text, flush=True)
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table or write it into a Markdown file; return the exit status."""
    parser = argparse.ArgumentParser(prog='./wam eval-table', description=__doc__)
    parser.add_argument(
        'reports', type=Path, nargs='+', metavar='FILE', help='of ./wam eval --report'
    )
    parser.add_argument(
        '--update',
        type=Path,
        metavar='FILE',
        help=f'replace the text between {BEGIN_MARK} and {END_MARK} in this file',
    )
    options = parser.parse_args(arguments)
    try:
        text = format_markdown([json.loads(path.read_text()) for path in options.reports])
        if options.update is None:
            print(text)
        else:
            options.update.write_text(insert_table(text, options.update.read_text()))
    except (ValueError, OSError) as error:
        print(f'eval-table: {error}', file=sys.stderr)
        return 1
    return 0


if __name__ == '__main__':
    sys.exit(main())
