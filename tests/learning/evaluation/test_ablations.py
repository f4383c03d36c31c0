"""An ablated policy lacks what its name says and is the same in everything else."""

import numpy as np
import pytest
import torch

from wam_learning.evaluation.ablations import make_ablated_policy
from wam_learning.evaluation.eval_metrics import compute_psnr_db
from wam_learning.evaluation.video_metrics import VideoPredictionMetrics
from wam_policy.core.robot import embodiment
from wam_policy.model.checkpoint import checkpoint_folder
from wam_policy.model.robot_policy import InferenceOptions

OPTIONS = InferenceOptions('full16', 2, 1.0)


@pytest.fixture(scope='module')
def loaded():
    torch.set_num_threads(1)
    return checkpoint_folder.load('preset:mini', torch.device('cpu'), torch.float32)


@pytest.fixture(scope='module')
def robot():
    return embodiment.load_embodiment('agibot_g1')


def make_views(robot, count, seed):
    random = np.random.default_rng(seed)
    return {
        camera.key: random.integers(0, 256, (count, 24, 32, 3), dtype=np.uint8)
        for camera in robot.cameras
    }


def run_episode(policy, robot, seeds):
    """Live an episode whose blocks are drawn from `seeds`; return the answers."""
    posture, found = robot.home_positions(robot.observed), []
    policy.reset('touch the red cube with the left hand')
    for number, seed in enumerate(seeds):
        policy.commit(make_views(robot, 4 if number else 1, seed))
        found.append(policy.query(posture, 0).targets)
    return found


def test_who_imagines_does_not_see_what_came_later(loaded, robot):
    policy = make_ablated_policy('imagined_context', loaded, robot, OPTIONS)
    one, other = run_episode(policy, robot, (1, 2, 3)), run_episode(policy, robot, (1, 9, 8))
    assert all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))
    whole = make_ablated_policy('', loaded, robot, OPTIONS)
    one, other = run_episode(whole, robot, (1, 2, 3)), run_episode(whole, robot, (1, 9, 8))
    assert np.array_equal(one[0], other[0]) and not np.allclose(one[1], other[1])


def test_who_imagines_starts_from_what_is_real(loaded, robot):
    policy = make_ablated_policy('imagined_context', loaded, robot, OPTIONS)
    whole = make_ablated_policy('', loaded, robot, OPTIONS)
    assert np.array_equal(run_episode(policy, robot, (1,))[0], run_episode(whole, robot, (1,))[0])
    assert not np.allclose(
        run_episode(policy, robot, (1,))[0], run_episode(policy, robot, (2,))[0]
    )


def test_who_forgets_knows_the_newest_frame_only(loaded, robot):
    policy = make_ablated_policy('memory_reset', loaded, robot, OPTIONS)
    one, other = run_episode(policy, robot, (1, 2, 3)), run_episode(policy, robot, (7, 8, 3))
    assert np.array_equal(one[-1], other[-1])
    assert policy.memory.frames == 1 and policy.memory.commits == 3
    whole = make_ablated_policy('', loaded, robot, OPTIONS)
    one, other = run_episode(whole, robot, (1, 2, 3)), run_episode(whole, robot, (7, 8, 3))
    assert not np.allclose(one[-1], other[-1]) and whole.memory.frames == 3


def test_an_unknown_ablation_is_refused(loaded, robot):
    with pytest.raises(ValueError, match='known: imagined_context, memory_reset'):
        make_ablated_policy('blind', loaded, robot, OPTIONS)


def test_predictions_are_compared_with_what_came(loaded, robot, tmp_path):
    policy = make_ablated_policy('', loaded, robot, OPTIONS)
    foresight = VideoPredictionMetrics(policy)
    assert foresight.compute_psnr_ssim() == ((), ()) and not foresight.write_strip(
        tmp_path / 'none.png'
    )
    policy.reset('x')
    for number in range(3):
        seen = make_views(robot, 4 if number else 1, number)
        policy.commit(seen)
        foresight.on_commit(seen)
        policy.query(robot.home_positions(robot.observed), 0)
        foresight.on_prediction()
    psnr_db, ssim = foresight.compute_psnr_ssim()
    assert len(foresight.pairs) == 2 and len(psnr_db) == len(ssim) == len(
        policy.decode_prediction()
    )
    found = compute_psnr_db([foresight.sum_squared_errors()])
    assert found['predicted_psnr_db_mean'] == pytest.approx(np.mean(psnr_db))
    assert set(found) == {
        f'{method}_psnr_db_{over}'
        for method in ('predicted', 'copied', 'reconstructed')
        for over in ('all', 'moving', 'mean')
    }
    assert all(3 < value < 30 for value in psnr_db) and all(-0.5 < value < 0.9 for value in ssim)
    assert (
        foresight.write_strip(tmp_path / 'strip.png') and (tmp_path / 'strip.png').stat().st_size
    )
