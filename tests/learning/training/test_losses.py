"""Noise levels and the losses on them."""

from dataclasses import replace

import pytest
import torch

from wam_learning.training.losses import (
    BEHAVIOR_CLONING,
    CLEAN_WITHOUT_TEXT,
    FLASH,
    JOINT,
    NEARLY_CLEAN_LEVEL,
    RELEASED,
    action_loss,
    add_noise,
    give_committed_rows,
    sample_noise_levels,
    sample_noise_like,
    video_loss,
)
from wam_policy.model.network.video_action_dit import TrainingPrediction


def sample_levels(objective, batch=400, has_text=True):
    given = torch.full((batch,), has_text)
    return sample_noise_levels(objective, given, 2, 6, torch.Generator().manual_seed(0))


def test_video_and_actions_of_a_block_share_their_level() -> None:
    found = sample_levels(JOINT)
    assert torch.equal(found.action, found.video[..., None].expand(-1, -1, 6))
    pure = (found.video == 0).float().mean()
    assert JOINT.pure < float(pure) < JOINT.pure + 0.06
    assert not sample_levels(BEHAVIOR_CLONING).action.any()
    assert float((sample_levels(RELEASED).video == 0).float().mean()) < 0.02


def test_decoupled_levels_keep_the_video_near_noise() -> None:
    found = sample_levels(replace(FLASH, pure=0.0))
    share = found.video.float().mean() / 1000
    assert float(share) == pytest.approx(0.25, abs=0.02)  # 1 - mean of Beta(3, 1)
    assert float(found.action.float().mean() / 1000) == pytest.approx(0.5, abs=0.02)
    assert (found.action[:, :, 0] != found.action[:, :, 1]).float().mean() > 0.9
    whole = sample_levels(replace(FLASH, pure=1.0))
    assert not whole.action.any() and whole.video.any()


def test_the_network_reads_the_time_that_inference_gives() -> None:
    data, noise = torch.randn(2, 3, 4, 5), torch.randn(2, 3, 4, 5)
    index = torch.tensor([[0, 500, 999], [0, 1, 2]])
    found = add_noise(data, noise, index, JOINT)
    assert torch.equal(found.noised[0, 0], noise[0, 0])
    assert torch.equal(found.velocity, noise - data)
    assert found.timestep[0].tolist() == [999, 750, 2]  # 3 * 0.5 / (1 + 2 * 0.5), below 1000
    sigma = 0.75
    torch.testing.assert_close(found.noised[0, 1], (1 - sigma) * data[0, 1] + sigma * noise[0, 1])
    assert found.weight.unique().tolist() == [1]
    bell = add_noise(data, noise, index, RELEASED)
    assert float(bell.weight[0, 1]) > float(bell.weight[0, 0])


def test_masked_rows_and_blocks_do_not_count() -> None:
    data = torch.randn(2, 2, 3, 4)
    wanted = add_noise(
        data, sample_noise_like(data, torch.Generator()), torch.zeros(2, 2, 3).long(), JOINT
    )
    mask = torch.zeros(2, 2, 3, dtype=torch.bool)
    mask[0, 1, 2] = True
    columns = torch.tensor([True, True, False, False])
    answer = wanted.velocity.clone()
    answer[~mask] += 7
    answer[..., :2] += 0.5

    def loss(velocity):
        found = TrainingPrediction(None, velocity.flatten(1, 2), torch.empty(0), torch.empty(0))
        return float(action_loss(found, wanted, mask, columns))

    assert loss(answer) == pytest.approx(0.25 * 2 / 2.2)  # padding weighs a tenth
    assert loss(wanted.velocity) == 0
    future = torch.randn(2, 4, 3, 2, 2)
    wanted_video = add_noise(future, future * 0, torch.zeros(2, 4).long(), JOINT)
    blocks = torch.tensor([[True, False], [False, False]])
    wrong = wanted_video.velocity.clone()
    wrong[0, 2:] += 3
    wrong[1] += 3
    assert float(video_loss(wrong, wanted_video, blocks)) == 0
    assert float(video_loss(wrong + 1, wanted_video, blocks)) == pytest.approx(1)


def test_committed_rows_are_clean_at_time_zero() -> None:
    data = torch.randn(2, 1, 4, 5)
    noised = add_noise(data, torch.randn_like(data), torch.full((2, 1, 4), 500), JOINT)
    committed = torch.tensor([[[True, True, False, False]], [[False] * 4]])
    found = give_committed_rows(noised, data, committed)
    assert torch.equal(found.noised[0, 0, :2], data[0, 0, :2])
    assert torch.equal(found.noised[0, 0, 2:], noised.noised[0, 0, 2:])
    assert torch.equal(found.noised[1], noised.noised[1])
    assert found.timestep.tolist() == [[[0, 0, 750, 750]], [[750] * 4]]


@pytest.mark.parametrize(('has_text', 'share'), [(True, 0.3), (False, CLEAN_WITHOUT_TEXT)])
def test_actions_are_learned_from_nearly_clean_video_in_a_share_of_the_blocks(
    has_text: bool, share: float
) -> None:
    found = sample_levels(replace(JOINT, pure=0.0, clean_video=0.3), 2000, has_text)
    own = found.video != found.action[:, :, 0]
    assert float(own.float().mean()) == pytest.approx(share, abs=0.03)
    assert not found.action[own].any() and int(found.video[own].min()) >= NEARLY_CLEAN_LEVEL
