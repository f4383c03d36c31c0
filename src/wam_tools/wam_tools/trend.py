"""Robust trend of a time series (Theil-Sen): tests whether a metric grows.

The slope is the median of the slopes between all pairs of points, with a confidence interval from
the ranks. Neighboring samples are correlated, which makes that interval too narrow. Samples are
therefore aggregated over time intervals first: by the median, or for memory by the minimum, which
only memory that is never freed raises.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.stats import theilslopes

CONFIDENCE = 0.95
MAX_INTERVALS = 60  # 1,770 pairs


@dataclass(frozen=True, slots=True)
class Trend:
    """Slope per hour and its 95 % confidence interval."""

    per_hour: float
    low: float
    high: float

    @property
    def is_flat(self) -> bool:
        """Return whether the confidence interval contains 0."""
        return self.low <= 0.0 <= self.high


def fit_trend(
    at_s: np.ndarray,
    value: np.ndarray,
    max_intervals: int = MAX_INTERVALS,
    aggregate: Callable[[np.ndarray], float] = np.median,
) -> Trend | None:
    """Return the trend of `value` [samples] over `at_s` [samples], s; None below 4 samples.

    Time is divided into at most `max_intervals`; `aggregate` reduces the samples of each to one.
    """
    if len(at_s) < 4:
        return None
    parts = np.array_split(np.arange(len(at_s)), min(max_intervals, max(4, len(at_s) // 3)))
    hours = np.array([np.median(at_s[part]) for part in parts]) / 3600.0
    figures = np.array([aggregate(value[part]) for part in parts])
    slope, _, low, high = map(float, theilslopes(figures, hours, CONFIDENCE))
    return Trend(slope + 0.0, low + 0.0, high + 0.0)  # no -0.0
