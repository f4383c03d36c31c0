"""Whether a figure that was watched for long grows: a slope that a few odd samples cannot tilt.

Theil-Sen: the median of the slopes between all pairs of points, with a confidence interval from
the ranks. Neighboring samples resemble each other, which makes such an interval too narrow; the
samples are therefore put together over stretches of time first, to their median or, where buffers
come and go, to the least, which only what is never given back can raise.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.stats import theilslopes

CONFIDENCE = 0.95
MAX_INTERVALS = 60  # at most; slopes of 1,770 pairs


@dataclass(frozen=True, slots=True)
class Trend:
    """Hold a slope per hour and the interval that contains it with 95 % confidence."""

    per_hour: float
    low: float
    high: float

    @property
    def is_flat(self) -> bool:
        """Tell whether the slope is indistinguishable from 0."""
        return self.low <= 0.0 <= self.high


def fit_trend(
    at_s: np.ndarray,
    value: np.ndarray,
    max_intervals: int = MAX_INTERVALS,
    aggregate: Callable[[np.ndarray], float] = np.median,
) -> Trend | None:
    """Return the trend of `value` [samples] over `at_s` [samples], s; None below 4 samples.

    Time is cut into at most so many stretches; `stands_for` makes one figure of what is in one.
    """
    if len(at_s) < 4:
        return None
    parts = np.array_split(np.arange(len(at_s)), min(max_intervals, max(4, len(at_s) // 3)))
    hours = np.array([np.median(at_s[part]) for part in parts]) / 3600.0
    figures = np.array([aggregate(value[part]) for part in parts])
    slope, _, low, high = theilslopes(figures, hours, CONFIDENCE)
    return Trend(float(slope) + 0.0, float(low) + 0.0, float(high) + 0.0)  # no -0.0
