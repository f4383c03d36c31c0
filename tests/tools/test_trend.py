"""Slopes that noise and outliers do not tilt."""

import numpy as np
import pytest

from wam_tools.trend import fit_trend

AT_S = np.arange(0.0, 3600.0, 10.0)
NOISE = np.random.default_rng(3).normal(0.0, 0.5, len(AT_S))


def test_noise_is_flat():
    found = fit_trend(AT_S, 100.0 + NOISE)
    assert found.is_flat and abs(found.per_hour) < 0.5


def test_a_leak_is_found_and_measured():
    found = fit_trend(AT_S, 100.0 + 3.0 * AT_S / 3600.0 + NOISE)
    assert not found.is_flat
    assert found.low < 3.0 < found.high
    assert found.per_hour == pytest.approx(3.0, abs=0.5)


def test_a_few_odd_samples_do_not_tilt_it():
    value = 100.0 + NOISE
    value[-8:] += 500.0
    assert fit_trend(AT_S, value).is_flat


def test_a_figure_that_never_changes_is_flat():
    found = fit_trend(AT_S, np.full(len(AT_S), 31.0))
    assert found.is_flat and found.per_hour == 0.0


def test_too_few_samples_tell_nothing():
    assert fit_trend(AT_S[:3], NOISE[:3]) is None
    assert fit_trend(AT_S[:4], NOISE[:4]) is not None
