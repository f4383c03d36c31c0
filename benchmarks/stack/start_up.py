"""Measure how long the demo takes from the command to its first chunk, phase by phase.

`./wam bench start_up --output FILE` runs `./wam demo --headless` several times, one after another,
and reports when each phase was reached (StartUpPhases of wam_tools.run_metrics). The first run
after a build compiles kernels; it is listed and does not count in the median.
"""

import json
import os
import statistics
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from wam_policy.command_line import CommandParser
from wam_policy.provenance import collect_provenance

ROOT = Path(__file__).resolve().parents[2]
DURATION_S = 3.0  # of each run after its first chunk


def run_demo(robot: str, report: Path) -> dict[str, float]:
    """Return s from the command to each phase of one run; exit with its messages if it fails."""
    done = subprocess.run(
        [
            ROOT / 'wam',
            'demo',
            '--headless',
            '--robot',
            robot,
            '--duration',
            str(DURATION_S),
            '--report',
            report,
        ],
        check=False,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise SystemExit(f'the demo failed: {done.stdout[-2000:]}{done.stderr[-2000:]}')
    return json.loads(report.read_text())['start_up_phases_s']


def summarize(rows: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Return median, least and most of each phase over the runs that count."""
    summary = {}
    for phase in rows[0]['phases_s']:
        values = [row['phases_s'][phase] for row in rows if row['counts']]
        summary[phase] = {
            'median': statistics.median(values),
            'low': min(values),
            'high': max(values),
        }
    return summary


def main() -> None:
    parser = CommandParser(description='Measure the start-up of the demo')
    parser.add_argument('--robot', default='agibot_g1')
    parser.add_argument('--rounds', type=int, default=5, help='after the first; default 5')
    parser.add_argument('--output', type=Path, help='write the figures as JSON')
    options = parser.parse_args()
    parser.require_positive(options, 'rounds')
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for number in range(options.rounds + 1):
            phases_s = run_demo(options.robot, Path(folder, 'report.json'))
            load = os.getloadavg()[0]
            rows.append({'counts': number > 0, 'load_average': load, 'phases_s': phases_s})
            print(rows[-1], flush=True)
    summary = summarize(rows)
    for phase, values in summary.items():
        print(
            f'{phase:16s} {values["median"]:6.2f} s ({values["low"]:.2f} to {values["high"]:.2f})'
        )
    if options.output:
        report = {'robot': options.robot, 'summary_s': summary, 'rows': rows}
        options.output.write_text(json.dumps({**collect_provenance(), **report}, indent=1) + '\n')


if __name__ == '__main__':
    main()
