"""Turn an episode into one HTML page that needs no network: videos and data are in the file."""

import base64
import json
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from wam_tools.episode_view.episode_reader import Episode, ImageTrack, JointSeries, StateTrack
from wam_tools.episode_view.video_encoder import encode_video

TEMPLATE = Path(__file__).with_name('page.html')
MAX_MB_PER_MINUTE = 10.0
# of it for videos, as base64 a third larger; the rest is for joints, states and events
VIDEO_SHARE = 0.8
MIN_BIT_RATE = 40_000
DIGITS = 4  # of positions: 0.1 mrad
# words of a state -> color; the first that occurs in it counts
TONES = (
    ('estop', 'stop'),
    ('protective', 'stop'),
    ('error', 'stop'),
    ('stopping', 'attention'),
    ('stop', 'stop'),
    ('stale', 'attention'),
    ('warning', 'attention'),
    ('starting', 'attention'),
    ('waiting', 'attention'),
    ('first_move', 'attention'),
    ('running', 'ok'),
    ('tracking', 'ok'),
    ('done', 'ok'),
    ('success', 'ok'),
    ('hold', 'rest'),
    ('idle', 'rest'),
    ('instruction', 'rest'),
)
SUCCESS_BADGES = {'yes': ('success', 'ok'), 'no': ('no success', 'stop')}


def make_page(episode: Episode) -> str:
    """Return the page; raise ValueError if there is nothing to show."""
    cameras = _make_cameras(episode)
    metadata = episode.metadata
    document = {
        'title': _find_instruction(episode) or episode.name,
        'subtitle': _make_subtitle(episode),
        'duration': max(episode.duration_s, 0.1),
        'badges': _make_badges(episode),
        'remarks': episode.remarks,
        'cameras': cameras,
        'tracks': [_make_track(episode, track) for track in episode.tracks.values()],
        'events': [
            [_seconds(episode, at_ns), find_tone(f'{kind} {text}'), text]
            for at_ns, kind, text in sorted(episode.events)
        ],
        'joints': [
            _make_joints(episode, each)
            for each in sorted(episode.joints.values(), key=lambda each: not each.commanded)
        ],
        'topics': [[topic, f'{count:,}'] for topic, count in sorted(episode.counts.items())],
        'metadata': [[key, value] for key, value in metadata.items()],
        'footer': f'{episode.name}, made by ./wam episode view',
    }
    # '<' as an escape: no text of a bag can end the script element
    text = json.dumps(document, ensure_ascii=False, separators=(',', ':'))
    text = text.replace('<', '\\u003c')
    return TEMPLATE.read_text(encoding='utf-8').replace('@DATA@', text)


def find_tone(text: str) -> str:
    """Return the color of a state or an event: ok, rest, attention, stop or none."""
    plain = text.lower()
    return next((tone for word, tone in TONES if word in plain), '')


def _make_cameras(episode: Episode) -> list[dict[str, Any]]:
    """Return titles and videos; one whose images cannot be read is a remark."""
    sources = [(camera, False) for _, camera in sorted(episode.cameras.items())]
    if episode.prediction is not None:
        sources.append((episode.prediction, True))
    if not sources:
        return []
    budget = MAX_MB_PER_MINUTE * 1e6 * 8 / 60 * VIDEO_SHARE * 3 / 4 / len(sources)
    made = []
    for camera, is_predicted in sources:
        try:
            video, unreadable = encode_video(
                camera.stamps_ns,
                camera.images,
                episode.start_ns,
                episode.end_ns,
                max(budget, MIN_BIT_RATE),
            )
        except ValueError as error:
            episode.remarks.append(f'{camera.topic}: {error}')
            continue
        if unreadable:
            episode.remarks.append(f'{camera.topic}: {unreadable} images cannot be read')
        note = _describe_rate(episode, camera)
        if is_predicted:
            ahead_s = float(np.percentile(episode.predicted_ahead_s, 90))
            note = f'up to {ahead_s:.1f} s ahead' if ahead_s > 0.0 else 'came too late'
        made.append(
            {
                'topic': camera.topic,
                'title': 'predicted by the model' if is_predicted else _shorten(camera.topic),
                'note': note,
                'predicted': is_predicted,
                'video': base64.b64encode(video).decode('ascii'),
            }
        )
    return made


def _describe_rate(episode: Episode, camera: ImageTrack) -> str:
    topics = (camera.topic, f'{camera.topic}/compressed')
    count = sum(episode.counts.get(topic, 0) for topic in topics)
    return f'{count / max(episode.duration_s, 0.1):.0f} images/s'


def _shorten(topic: str) -> str:
    """Return the telling part of a camera's topic."""
    parts = [part for part in topic.split('/') if part]
    kept = [part for part in parts if part not in ('image_raw', 'image', 'color', 'camera')]
    return ' '.join(kept or parts).replace('_', ' ')


def _find_instruction(episode: Episode) -> str:
    given = episode.metadata.get('instruction', '')
    if given or 'instruction' not in episode.tracks:
        return given
    return next((text for _, text in episode.tracks['instruction'].changes if text), '')


def _make_subtitle(episode: Episode) -> str:
    start = datetime.fromtimestamp(episode.start_ns / 1e9, UTC).strftime('%Y-%m-%d %H:%M:%S UTC')
    parts = [
        episode.metadata.get('robot', ''),
        start,
        f'{episode.duration_s:.1f} s',
        episode.metadata.get('note', ''),
    ]
    return ' · '.join(part for part in parts if part)


def _make_badges(episode: Episode) -> list[tuple[str, str]]:
    badges = []
    metadata = episode.metadata
    if metadata.get('success') in SUCCESS_BADGES:
        badges.append(SUCCESS_BADGES[metadata['success']])
    if metadata.get('ended'):
        badges.append((metadata['ended'], 'plain'))
    labels = [
        (f'{key.removeprefix("label.")}: {value}', 'plain')
        for key, value in metadata.items()
        if key.startswith('label.')
    ]
    if int(metadata.get('dropped') or 0):
        badges.append((f'{metadata["dropped"]} messages lost', 'attention'))
    return badges + labels


def _make_track(episode: Episode, track: StateTrack) -> dict[str, Any]:
    ends_ns = [at_ns for at_ns, _ in track.changes[1:]] + [episode.end_ns]
    return {
        'title': track.title,
        'parts': [
            [
                _seconds(episode, at_ns),
                _seconds(episode, end_ns),
                text or '–',
                find_tone('instruction' if track.title == 'instruction' and text else text),
            ]
            for (at_ns, text), end_ns in zip(track.changes, ends_ns, strict=True)
        ],
    }


def _make_joints(episode: Episode, series: JointSeries) -> dict[str, Any]:
    return {
        'source': series.source.strip('/').replace('_', ' '),
        'names': list(series.names),
        'times': [_seconds(episode, at_ns) for at_ns in series.stamps_ns],
        'measured': _round(series.measured),
        'commanded': _round(series.commanded) if series.commanded else None,
    }


def _round(rows: Sequence[Sequence[float]]) -> list[list[float]]:
    """Return rows with few digits; what is not finite repeats the value before it, at first 0."""
    values = np.array(rows, dtype=np.float64)
    for row in range(len(values)):
        missing = ~np.isfinite(values[row])
        values[row, missing] = values[row - 1, missing] if row else 0.0
    return np.round(values, DIGITS).tolist()


def _seconds(episode: Episode, at_ns: int) -> float:
    return round(float(np.clip((at_ns - episode.start_ns) / 1e9, 0.0, episode.duration_s)), 3)
