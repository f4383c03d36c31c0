"""Put results of evaluate.py into a table of docs/reference/benchmarks.md, one column each.

python benchmarks/metaworld/format_results.py A.json B.json ... [--update FILE]
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

MARKS = ('<!-- metaworld -->', '<!-- /metaworld -->')


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('reports', nargs='+', type=Path)
    parser.add_argument('--update', type=Path, metavar='FILE', help='replace the table there')
    options = parser.parse_args(argv)
    table = format_table([json.loads(path.read_text()) for path in options.reports])
    if options.update is None:
        print(table)
        return 0
    text = options.update.read_text()
    before, mark, rest = text.partition(MARKS[0])
    _, end, after = rest.partition(MARKS[1])
    if not mark or not end:
        print(f'{options.update}: want the lines {" and ".join(MARKS)}', file=sys.stderr)
        return 1
    options.update.write_text(f'{before}{mark}\n{table}\n{end}{after}')
    return 0


def format_table(reports: list[dict[str, Any]]) -> str:
    """Return Markdown: a row per task and one of the mean, a column per report."""
    columns = [{row['task']: row for row in report['tasks']} for report in reports]
    lines = [['task', *(report['options']['label'] for report in reports)]]
    lines.append(['---'] * len(lines[0]))
    for task in dict.fromkeys(task for column in columns for task in column):
        lines.append([task, *(_format_rate(column.get(task)) for column in columns)])
    lines.append(['**mean of tasks**', *map(_format_mean, reports)])
    return '\n'.join(f'| {" | ".join(cells)} |' for cells in lines)


def _format_rate(row: dict[str, Any] | None) -> str:
    if row is None:
        return 'not run'
    low, high = round(100 * row['low']), round(100 * row['high'])
    return f'{row["success"]} of {row["episodes"]} ({low}–{high} %)'


def _format_mean(report: dict[str, Any]) -> str:
    whole = report['all']
    low, high = round(100 * whole['low']), round(100 * whole['high'])
    return f'**{100 * report["mean_of_tasks"]:.1f} %** ({low}–{high}, n = {whole["episodes"]})'


if __name__ == '__main__':
    sys.exit(main())
