"""Write one self-contained HTML page of a data set: findings, pictures and plots."""

import base64
import io
from collections.abc import Iterator
from html import escape
from pathlib import Path

import cv2
import numpy as np
from matplotlib.figure import Figure

from wam_learning.data.lerobot.dataset_metadata import DatasetMetadata
from wam_learning.inspection.dataset_check import DatasetReport
from wam_learning.inspection.dataset_reader import EpisodeColumns, list_names
from wam_learning.inspection.video_checks import (
    READ_ERRORS,
    choose_episodes,
    list_instants,
    read_instants,
)

MARK = '<!-- written by wam dataset view -->'
PICTURES = 5  # per episode and camera
PICTURE_WIDTH = 240  # pixels
STYLE = """
body{font:15px/1.45 system-ui,sans-serif;margin:2rem auto;max-width:1300px;padding:0 1rem}
h2{margin-top:2.5rem;border-top:1px solid #ccc;padding-top:1rem}
table{border-collapse:collapse} td,th{padding:.2rem .6rem;text-align:left;vertical-align:top}
tr+tr{border-top:1px solid #ddd} figure{display:inline-block;margin:.2rem}
figcaption{font-size:12px;color:#666} img{display:block;max-width:100%}
.error td:first-child{color:#b00020;font-weight:600} .warning td:first-child{color:#9a6700}
"""


def write_page(report: DatasetReport, path: Path, most: int) -> int:
    """Write the page with at most `most` episodes; return how many it shows.

    Raise ValueError if another file has this name.
    """
    if path.exists() and (path.is_dir() or MARK not in path.read_text(errors='replace')[:200]):
        raise ValueError(f'{path} exists and is not such a page; name another file with --out')
    chosen = [report.episodes[i] for i in choose_episodes(len(report.episodes), most)]
    parts = [
        '<!doctype html>',
        MARK,
        f'<html lang="en"><meta charset="utf-8"><title>{escape(report.folder.name)}</title>',
        f'<style>{STYLE}</style>',
        f'<h1>{escape(report.folder.name)}</h1>',
        *_format_summary(report),
    ]
    for episode in chosen:
        parts += _format_episode(report, episode)
    path.write_text('\n'.join(parts) + '\n', encoding='utf-8')
    return len(chosen)


def _format_summary(report: DatasetReport) -> Iterator[str]:
    text = [line for line in report.format_lines() if not line.startswith(('error', 'warning'))]
    yield f'<pre style="white-space:pre-wrap">{escape(chr(10).join(text))}</pre>'
    if not report.findings:
        return
    yield '<table><tr><th></th><th>item</th><th>value</th><th>limit</th><th>fix</th></tr>'
    for finding in report.findings:
        fields = (finding.level, finding.item, finding.value, finding.limit, finding.fix)
        cells = ''.join(f'<td>{escape(field)}</td>' for field in fields)
        yield f'<tr class="{finding.level}">{cells}</tr>'
    yield '</table>'


def _format_episode(report: DatasetReport, episode: EpisodeColumns) -> Iterator[str]:
    metadata, entry = report.metadata, episode.entry
    assert metadata is not None  # an episode has been read
    yield f'<h2>Episode {entry.index}</h2>'
    tasks = [int(i) for i in dict.fromkeys(episode.scalars['task_index'].tolist())]
    texts = [metadata.tasks[i] if 0 <= i < len(metadata.tasks) else f'task {i}' for i in tasks]
    length = f'{entry.length} rows, {entry.length / metadata.fps:.1f} s'
    yield f'<p>{length}: {escape("; ".join(texts))}</p>'
    for name in metadata.video_features:
        yield f'<h3>{escape(name)}</h3>'
        rows = list_instants(entry.length, PICTURES)
        try:
            images = read_instants(metadata, entry, name, rows)
        except READ_ERRORS as error:
            yield f'<p class="error">{escape(f"cannot be decoded: {error}")}</p>'
            continue
        for row, image in zip(rows, images, strict=True):
            caption = f'{row / metadata.fps:.1f} s'
            yield f'<figure><img src="{_encode_picture(image)}" alt="{escape(name)} at {caption}">'
            yield f'<figcaption>{caption}</figcaption></figure>'
    yield f'<p><img src="{_plot(metadata, episode)}" alt="states and actions"></p>'


def _encode_picture(rgb: np.ndarray) -> str:
    """Return a JPEG of an image as a data URL, at most PICTURE_WIDTH wide."""
    height, width = rgb.shape[:2]
    if width > PICTURE_WIDTH:
        size = (PICTURE_WIDTH, max(1, round(height * PICTURE_WIDTH / width)))
        rgb = cv2.resize(rgb, size, interpolation=cv2.INTER_AREA)
    _, data = cv2.imencode('.jpg', cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR))
    return f'data:image/jpeg;base64,{base64.b64encode(data.tobytes()).decode()}'


def _plot(metadata: DatasetMetadata, episode: EpisodeColumns) -> str:
    """Return the plot of all vectors over time as a data URL."""
    count = max(1, len(episode.vectors))
    figure = Figure(figsize=(13, 2.6 * count), layout='constrained')
    axes = figure.subplots(count, 1, squeeze=False, sharex=True)[:, 0]
    times_s = np.arange(episode.rows) / metadata.fps
    for axis, (name, values) in zip(axes, episode.vectors.items(), strict=False):
        labels = [n.split()[-1] for n in list_names(metadata, name, values.shape[1])]
        axis.plot(times_s, values, linewidth=0.8, label=labels)
        axis.legend(loc='center left', bbox_to_anchor=(1, 0.5), fontsize=6, ncols=2)
        axis.set_title(name, loc='left', fontsize=9)
        axis.grid(alpha=0.3)
    axes[-1].set_xlabel('s')
    data = io.BytesIO()
    figure.savefig(data, format='png', dpi=80)
    return f'data:image/png;base64,{base64.b64encode(data.getvalue()).decode()}'
