"""Plot of a soak test: memory, descriptors and threads, latency, chunk rate and losses."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use('Agg')
from matplotlib import pyplot as plt  # noqa: E402 - the backend comes first


def plot_report(report: Mapping[str, Any], path: Path) -> None:
    """Plot the report of a run into a PNG."""
    samples = report['samples']
    minutes = [each['at_s'] / 60 for each in samples]
    names = sorted({name for each in samples for name in each['processes']})
    figure, axes = plt.subplots(4, 1, figsize=(9, 11), sharex=True, layout='constrained')
    for name in names:
        for axis, key in ((axes[0], report['verdict']['memory']), (axes[1], 'fds')):
            axis.plot(
                minutes, [each['processes'].get(name, {}).get(key) for each in samples], label=name
            )
    axes[1].plot(
        minutes,
        [sum(process['threads'] for process in each['processes'].values()) for each in samples],
        'k--',
        label='threads, all',
    )
    axes[0].set_ylabel('private memory, MB')
    axes[1].set_ylabel('open files')
    for key, label in (('latency_p50_ms', 'p50'), ('latency_p99_ms', 'p99')):
        axes[2].plot(minutes, [each[key] for each in samples], label=label)
    axes[2].set_ylabel('observation to chunk, ms')
    axes[2].set_ylim(bottom=0)
    axes[3].plot(minutes[1:], [each['chunk_hz'] for each in samples[1:]], label='chunks per s')
    axes[3].plot(minutes, [each['underruns'] for each in samples], label='underruns, sum')
    axes[3].plot(minutes, [each['load'] for each in samples], ':', label='load of the machine')
    axes[3].set_ylim(bottom=0)
    axes[3].set_xlabel('minutes since the first chunk')
    for axis in axes:
        axis.legend(fontsize=7, ncols=4)
        axis.grid(alpha=0.3)
    total = report['verdict']['total_mb']
    slope = (
        f'{total["per_hour"]:+.2f} MB/h [{total["low"]:+.2f}, {total["high"]:+.2f}]'
        if total
        else 'too short for a slope'
    )
    axes[0].set_title(
        f'{report["robot"]}, {report["model"]}: memory {slope} after '
        f'{report["verdict"]["warm_up_s"]:.0f} s of warm-up',
        fontsize=10,
    )
    figure.savefig(path, dpi=110)
    plt.close(figure)
