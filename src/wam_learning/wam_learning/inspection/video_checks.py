"""Check the videos: missing and damaged files, frames, frozen cameras, swapped color channels.

Some episodes are decoded at a few instants; of the others only the files are opened.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.error import FFmpegError

from wam_learning.data.finding import ERROR, WARNING, Finding
from wam_learning.data.lerobot.dataset_metadata import DatasetMetadata, EpisodeEntry
from wam_learning.data.video_files import read_frames_at
from wam_learning.inspection.dataset_reader import EpisodeColumns, shorten

INSTANTS = 12  # decoded per episode and camera
FROZEN_DIFFERENCE = 0.25  # mean of the absolute differences, of 255: less is the same picture
MAX_FROZEN_SHARE = 0.5  # of the instants between which joints move
MIN_MOTION = 0.02  # rad, m or stroke, of the joint that moves most between two instants
PIXEL_STEP = 4  # pixels between those that are compared
CHROMA_BINS = 24
MIN_COLOR = 8  # of 255: less colored pixels say nothing about the order of channels
# A camera whose histogram of colors is at least this far from its reference, and less than half
# as far with red and blue exchanged, has them exchanged.
MIN_CHROMA_DISTANCE, SWAPPED_RATIO = 0.5, 0.5
COLOR_FIX = 'exchange red and blue in these videos, or record again as rgb8'
READ_ERRORS = (OSError, FFmpegError, ValueError, IndexError, AttributeError, KeyError)


@dataclass(slots=True, eq=False)
class CameraSamples:
    """Hold what the decoded instants of one camera show."""

    histograms: dict[int, np.ndarray] = field(default_factory=dict)  # episode -> [bins bins]
    means: list[np.ndarray] = field(default_factory=list)  # [3] per episode, 0 to 1
    moving: int = 0  # pairs of instants between which joints move
    frozen: int = 0  # of these, pairs with the same picture
    same: list[int] = field(default_factory=list)  # episodes with a frozen pair


def choose_episodes(count: int, most: int) -> list[int]:
    """Return the positions of at most `most` episodes, evenly spread."""
    return sorted({int(i) for i in np.linspace(0, count - 1, min(count, most))}) if most else []


def list_instants(length: int, count: int = INSTANTS) -> np.ndarray:
    """Return row numbers from the first to the last, evenly spread."""
    return np.unique(np.linspace(0, length - 1, min(length, count)).astype(int))


def check_videos(
    metadata: DatasetMetadata,
    episodes: Sequence[EpisodeColumns],
    decoded: int,
    image_means: Mapping[str, np.ndarray],
) -> Iterator[Finding]:
    """Yield the findings of all videos; decode those of `decoded` episodes at some instants.

    `image_means` are the mean colors that the statistics of the data set state, [3] from 0 to 1.
    """
    chosen = {episodes[i].entry.index for i in choose_episodes(len(episodes), decoded)}
    by_index = {episode.entry.index: episode for episode in episodes}
    cameras: dict[str, CameraSamples] = {}
    for name in metadata.video_features:
        samples = cameras[name] = CameraSamples()
        opened: dict[Path, str] = {}
        flaws: dict[tuple[Path, str], list[int]] = {}
        for entry in metadata.episodes:
            path = entry.videos[name].path
            if path not in opened:
                opened[path] = _find_file_flaw(path, metadata, name)
            flaw = opened[path]
            if not flaw and entry.index in chosen:
                flaw = _sample(metadata, by_index[entry.index], name, samples)
            if flaw:
                flaws.setdefault((path, flaw), []).append(entry.index)
        for (path, flaw), indices in flaws.items():
            span = f'{indices[0]} to {indices[-1]}' if len(indices) > 1 else str(indices[0])
            yield Finding(
                ERROR,
                f'{shorten(metadata, path)} (episode {span})',
                flaw,
                fix='copy the file again, or remove the episode',
            )
        yield from _judge_motion(name, samples)
        yield from _judge_colors(name, samples, image_means.get(name))
    yield from _compare_cameras(cameras)


def _find_file_flaw(path: Path, metadata: DatasetMetadata, name: str) -> str:
    """Return why a file cannot be used or does not fit info.json; empty if it can."""
    if not path.is_file():
        return 'is missing'
    try:
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            size = (stream.height, stream.width)
            rate = float(stream.average_rate or 0)
    except READ_ERRORS as error:
        return f'cannot be opened: {error}'
    wanted = _find_size(metadata.features[name])
    if wanted and size != wanted:
        return f'{size[1]}x{size[0]} pixels, meta/info.json says {wanted[1]}x{wanted[0]}'
    if rate and abs(rate / metadata.fps - 1) > 0.01:
        return f'{rate:g} images per second, meta/info.json says fps {metadata.fps:g}'
    return ''


def _find_size(feature: Mapping[str, Any]) -> tuple[int, int] | None:
    """Return height and width of a feature; None if its shape is described in another way."""
    shape = feature['shape']
    names: list[str] = list(feature.get('names') or ())
    if {'height', 'width'} <= set(names) and len(names) == len(shape):
        return int(shape[names.index('height')]), int(shape[names.index('width')])
    return None


def _sample(
    metadata: DatasetMetadata, episode: EpisodeColumns, name: str, samples: CameraSamples
) -> str:
    """Decode some instants into `samples`; return why that is impossible, or an empty text."""
    entry = episode.entry
    rows = list_instants(entry.length)
    try:
        images = read_instants(metadata, entry, name, rows)
    except READ_ERRORS as error:
        return f'cannot be decoded: {error}'
    small = images[:, ::PIXEL_STEP, ::PIXEL_STEP].astype(np.int16)
    samples.histograms[entry.index] = _chroma_histogram(small)
    samples.means.append(small.mean((0, 1, 2)) / 255)
    if episode.vectors:
        states = np.concatenate(list(episode.vectors.values()), axis=1)[rows]
        moves = np.abs(np.diff(states, axis=0)).max(axis=1) > MIN_MOTION
        differences = np.abs(np.diff(small, axis=0)).mean((1, 2, 3))
        frozen = moves & (differences < FROZEN_DIFFERENCE)
        samples.moving += int(moves.sum())
        samples.frozen += int(frozen.sum())
        samples.same += [entry.index] if frozen.any() else []
    return ''


def read_instants(
    metadata: DatasetMetadata, entry: EpisodeEntry, name: str, rows: np.ndarray
) -> np.ndarray:
    """Decode the images of some rows: uint8 [rows height width 3]."""
    video = entry.videos[name]
    return read_frames_at(video.path, rows, metadata.fps, video.start_s)


def _judge_motion(name: str, samples: CameraSamples) -> Iterator[Finding]:
    share = samples.frozen / samples.moving if samples.moving else 0.0
    if share > MAX_FROZEN_SHARE:
        yield Finding(
            WARNING,
            name,
            f'frozen: the picture stays the same in {100 * share:.0f} % of the moments in which '
            f'joints move, first in episode {samples.same[0]}',
            f'{100 * MAX_FROZEN_SHARE:.0f} %',
            'look at it (./wam dataset view): remove the episodes if the camera hung',
        )


def _judge_colors(
    name: str, samples: CameraSamples, stats_mean: np.ndarray | None
) -> Iterator[Finding]:
    for index, histogram in samples.histograms.items():
        rest = [other for key, other in samples.histograms.items() if key != index]
        # against the median of at least two others, one swapped episode stands out, not the rest
        if len(rest) >= 2 and is_swapped(histogram, np.median(rest, axis=0)):
            yield Finding(
                WARNING,
                f'episode {index}, {name}',
                'swapped color channels: with red and blue exchanged it looks like the other '
                'episodes',
                'one order of channels',
                COLOR_FIX,
            )
    if stats_mean is None or not samples.means:
        return
    mean = np.mean(samples.means, axis=0)
    apart, exchanged = np.abs(mean - stats_mean).sum(), np.abs(mean[::-1] - stats_mean).sum()
    if apart > 0.05 and exchanged < SWAPPED_RATIO * apart:
        yield Finding(
            WARNING,
            name,
            f'swapped color channels: mean red, green, blue {_rgb(mean)}, the statistics say '
            f'{_rgb(stats_mean)}',
            'one order of channels',
            COLOR_FIX,
        )


def _compare_cameras(cameras: Mapping[str, CameraSamples]) -> Iterator[Finding]:
    """Yield cameras that look like the others only with red and blue exchanged."""
    histograms = {
        name: np.mean(list(samples.histograms.values()), axis=0)
        for name, samples in cameras.items()
        if samples.histograms
    }
    for name, histogram in histograms.items():
        rest = [other for key, other in histograms.items() if key != name]
        if rest and is_swapped(histogram, np.mean(rest, axis=0)):
            others = 'others' if len(rest) > 1 else 'other one, so one of the two is swapped'
            yield Finding(
                WARNING,
                name,
                'swapped color channels: with red and blue exchanged this camera looks like the '
                f'{others}',
                'one order of channels',
                COLOR_FIX,
            )


def is_swapped(histogram: np.ndarray, reference: np.ndarray) -> bool:
    """Return whether colors fit a reference much better with red and blue exchanged."""
    if not histogram.any() or not reference.any():
        return False
    histogram, reference = histogram / histogram.sum(), reference / reference.sum()
    apart = np.abs(histogram - reference).sum()
    exchanged = np.abs(histogram[::-1] - reference).sum()
    return bool(apart > MIN_CHROMA_DISTANCE and exchanged < SWAPPED_RATIO * apart)


def _chroma_histogram(pixels: np.ndarray) -> np.ndarray:
    """Return the histogram of red - blue and green - (red + blue) / 2 of colored pixels.

    Exchanging red and blue reverses its first axis. All zeros if nothing is colored.
    """
    red, green, blue = (pixels[..., i].ravel() for i in range(3))
    warm, lush = red - blue, green - (red + blue) // 2
    colored = np.maximum(np.abs(warm), np.abs(lush)) >= MIN_COLOR
    edges = np.linspace(-255, 255, CHROMA_BINS + 1)
    found, _, _ = np.histogram2d(warm[colored], lush[colored], bins=(edges, edges))
    return found / found.sum() if found.any() else found


def _rgb(values: np.ndarray) -> str:
    return ' '.join(f'{value:.2f}' for value in values)
