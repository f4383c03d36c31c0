"""Reports as a Markdown table: a row per question, a column per report."""

from collections.abc import Mapping, Sequence
from typing import Any

from wam_sim.tasks.task_families import LEARNED_FAMILIES

#  row -> (prefix of the figures, figure); a report without it leaves the cell empty
RATES = (
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
PLAIN = (
    ('time to success, p50 / p90', ('time_to_success_p50_s', 'time_to_success_p90_s'), '.1f', 's'),
    ('chunks', ('chunk_rate_hz',), '.1f', 'Hz'),
    ('observation to chunk, p50 / p99', ('latency_p50_ms', 'latency_p99_ms'), '.0f', 'ms'),
    ('jerk against its limit', ('jerk_ratio',), '.4f', ''),
    ('predicted picture, first / last frame', ('psnr_db_frame_1', 'psnr_db_frame_4'), '.1f', 'dB'),
    ('- structural similarity', ('ssim_frame_1', 'ssim_frame_4'), '.2f', ''),
)


BEGIN, END = '<!-- evaluation -->', '<!-- /evaluation -->'


def placed(table: str, document: str) -> str:
    """Return `document` with `table` between its marks; ValueError where they are missing."""
    before, begin, rest = document.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f'the document needs {BEGIN} and, after it, {END}')
    return f'{before}{begin}\n{table}\n{end}{after}'


def markdown(reports: Sequence[Mapping[str, Any]]) -> str:
    """Return a table of what the reports say; rows that no report knows are left out."""
    heads = [_head(report) for report in reports]
    lines = ['| | ' + ' | '.join(heads) + ' |', '|---' * (len(heads) + 1) + '|']
    rows = [(name, [_rate(report, figure) for report in reports]) for name, figure in RATES]
    rows += [
        (name, [_values(report, figures, form, unit) for report in reports])
        for name, figures, form, unit in PLAIN
    ]
    lines += [f'| {name} | ' + ' | '.join(cells) + ' |' for name, cells in rows if any(cells)]
    return '\n'.join(lines)


def _head(report: Mapping[str, Any]) -> str:
    path = 'through ROS' if report.get('path') == 'ros' else 'direct'
    families = report.get('families', LEARNED_FAMILIES)
    only = ', '.join(families) + ' only' if set(families) < set(LEARNED_FAMILIES) else ''
    untrained = '' if report.get('trained') else ' (untrained)'
    return ', '.join(filter(None, (f'{report["robot"]}{untrained}', path, only)))


def _rate(report: Mapping[str, Any], figure: str) -> str:
    if not report.get(f'{figure}_trials'):
        return ''
    rate, low, high = (100 * report[f'{figure}_{part}'] for part in ('rate', 'low', 'high'))
    return f'{rate:.0f} % ({low:.0f}–{high:.0f}, n = {report[f"{figure}_trials"]})'


def _values(report: Mapping[str, Any], figures: Sequence[str], form: str, unit: str) -> str:
    if any(figure not in report for figure in figures):
        return ''
    return f'{" / ".join(format(report[figure], form) for figure in figures)} {unit}'.rstrip()
