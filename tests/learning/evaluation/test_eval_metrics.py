"""Rates come with Wilson's intervals; what must not happen is counted apart."""

import pytest

from wam_learning.evaluation import eval_metrics
from wam_learning.evaluation.trials import Trial, TrialResult
from wam_sim.tasks.task_families import Task

NAMED_TASK = Task('touch', 'touch the red cube with the left hand', 'cube_0', 'left', '')
OTHER_TASK = Task('touch', 'touch the blue cube with the left hand', 'cube_1', 'left', '')


def make_result(family='touch', reached_s=(2.0,), **changes) -> TrialResult:
    goals = (NAMED_TASK, OTHER_TASK)[: len(reached_s)]
    trial = Trial('main', 1, family, 'trained', ((0.0, NAMED_TASK.instruction),), goals, 8.0)
    fields = {
        'duration_s': 4.0,
        'chunks': 30,
        'jerk_ratio': 0.5,
        'stop_reason': '',
        'latency_ms': (90.0, 110.0),
        'psnr_db': (),
        'ssim': (),
    }
    return TrialResult(trial, tuple(reached_s), **{**fields, **changes})


@pytest.mark.parametrize(
    ('successes', 'trials', 'low', 'high'),
    [
        (0, 0, 0.0, 1.0),
        (0, 10, 0.0, 0.2775),
        (10, 10, 0.7225, 1.0),
        (90, 100, 0.8256, 0.9448),
        (190, 200, 0.9104, 0.9726),
    ],
)
def test_the_interval_is_wilsons(successes, trials, low, high):
    assert eval_metrics.wilson_interval(successes, trials) == pytest.approx((low, high), abs=1e-3)


def test_an_impossible_count_is_refused():
    with pytest.raises(ValueError, match='3 successes in 2'):
        eval_metrics.wilson_interval(3, 2)


def test_figures_are_flat_and_per_family():
    found = eval_metrics.compute_metrics(
        [make_result(), make_result(reached_s=(None,)), make_result('push', (4.0,))], 'x_'
    )
    assert found['x_success_rate'] == pytest.approx(2 / 3)
    assert found['x_success_touch_rate'] == 0.5 and found['x_success_touch_trials'] == 2
    assert found['x_success_push_rate'] == 1.0
    assert found['x_time_to_success_p50_s'] == 3.0
    assert found['x_chunk_rate_hz'] == 7.5 and found['x_latency_p50_ms'] == 100.0
    assert all(isinstance(value, int | float) for value in found.values())
    assert not any('original' in name or 'psnr' in name for name in found)


def test_the_original_goal_is_counted_apart():
    found = eval_metrics.compute_metrics(
        [
            make_result(reached_s=(2.0, None)),
            make_result(reached_s=(None, 3.0)),
            make_result(reached_s=(2.0, 1.0)),
            make_result(reached_s=(None, None)),
        ]
    )
    assert found['success_rate'] == 0.5 and found['original_rate'] == 0.5
    assert found['original_trials'] == 4


def test_predicted_pictures_are_judged_frame_by_frame():
    found = eval_metrics.compute_metrics(
        [
            make_result(psnr_db=(20.0, 10.0), ssim=(0.9, 0.5)),
            make_result(psnr_db=(30.0, 20.0), ssim=(0.7, 0.3)),
            make_result(),
        ]
    )
    assert (found['psnr_db_frame_1'], found['psnr_db_frame_2']) == (25.0, 15.0)
    assert found['ssim_frame_2'] == pytest.approx(0.4)


def test_a_stop_of_its_own_is_counted():
    assert (
        eval_metrics.compute_metrics([make_result(stop_reason='a limit'), make_result()])[
            'stopped_by_itself'
        ]
        == 1
    )


def test_results_travel_as_lines():
    before = make_result(reached_s=(None, 1.5), psnr_db=(20.0,), ssim=(0.9,))
    assert TrialResult.from_json(before.to_json()) == before
