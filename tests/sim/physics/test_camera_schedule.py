import numpy as np
import pytest

from wam_sim.physics.camera_schedule import CameraSchedule

KEYS = ('head', 'left', 'right')


def collect_times(schedule, end_s):
    times = {key: [] for key in KEYS}
    while schedule.due_s < end_s:
        now_s = schedule.due_s
        for key in schedule.pop_due(now_s):
            times[key].append(now_s)
    return {key: np.array(value) for key, value in times.items()}


def test_triggered_cameras_are_due_together():
    schedule = CameraSchedule(KEYS, 0.1, start_s=5.0)
    assert schedule.due_s == 5.0
    assert schedule.pop_due(5.0) == KEYS
    assert schedule.due_s == pytest.approx(5.1)


def test_free_cameras_keep_their_rate_and_spread_over_the_period():
    times = collect_times(CameraSchedule(KEYS, 0.1, 1.0, 0.1, seed=1), 100.0)
    for i, key in enumerate(KEYS):
        assert abs(len(times[key]) - 1000) <= 1
        offsets_s = times[key][:900] - 0.1 * np.arange(900) - i / 30
        assert np.abs(offsets_s).max() <= 0.01 + 1e-9
        assert offsets_s.std() == pytest.approx(0.02 / np.sqrt(12), rel=0.1)


def test_a_late_camera_skips_what_it_missed():
    schedule = CameraSchedule(KEYS, 0.1)
    assert schedule.pop_due(0.35) == KEYS
    assert schedule.pop_due(0.36) == ()
    assert schedule.due_s == pytest.approx(0.4)
