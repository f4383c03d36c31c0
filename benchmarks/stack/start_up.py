"""Measure how long the demo takes from the command to its first chunk, phase by phase.

`./wam bench start_up --output FILE` runs `./wam demo --headless` several times, one after another,
and reports when each phase was reached (StartUpPhases of wam_tools.run_metrics). The first run
after a build compiles kernels; it is listed and does not count in the median.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT)]

from benchmarks import record

DURATION_S = 3.0  # of each run after its first chunk


def run_demo(robot: str, report: Path) -> dict[str, float]:
    """Return s from the command to each phase of one run; exit with its messages if it fails."""
    done = subprocess.run(
        [
            *(ROOT / 'wam', 'demo', '--headless', '--robot', robot),
            *('--duration', str(DURATION_S), '--report', report),
        ],
        check=False,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise SystemExit(f'the demo failed: {done.stdout[-2000:]}{done.stderr[-2000:]}')
    return json.loads(report.read_text())['start_up_phases_s']


def main() -> None:
    parser = record.make_parser('Measure the start-up of the demo', '--output')
    parser.add_argument('--robot', default='agibot_g1')
    parser.add_argument('--rounds', type=int, default=5, help='after the first; default 5')
    options = parser.parse_args()
    parser.require_positive(options, 'rounds')
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for number in range(options.rounds + 1):
            phases_s = run_demo(options.robot, Path(folder, 'report.json'))
            load = os.getloadavg()[0]
            rows.append({'counts': number > 0, 'load_average': load, 'phases_s': phases_s})
            print(rows[-1], flush=True)
    counted = [row['phases_s'] for row in rows if row['counts']]
    summary = {
        phase: record.summarize_range(row[phase] for row in counted) for phase in counted[0]
    }
    for phase, values in summary.items():
        print(
            f'{phase:16s} {values["median"]:6.2f} s ({values["low"]:.2f} to {values["high"]:.2f})'
        )
    report = {'robot': options.robot, 'summary_s': summary, 'rows': rows}
    record.write_report(options.output, report)


if __name__ == '__main__':
    main()
