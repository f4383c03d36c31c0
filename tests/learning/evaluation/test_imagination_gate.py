"""The gate tells whether actions follow the video of their block."""

import json

import numpy as np
import pytest
import torch

from tests.learning import played
from wam_learning.evaluation import imagination_gate
from wam_learning.evaluation.imagination_gate import VIDEOS, ImaginationGate, summarize
from wam_learning.training.training_model import TextBatch
from wam_policy.model.network.video_action_dit import TrainingPrediction


class RecognizingModel:
    """Answer with the right actions where it is shown the video that leads to them."""

    def __init__(self, batch, follows: bool) -> None:
        self.batch, self.follows = batch, follows
        self.video_times: list[float] = []

    def predict(self, batch, texts, action, video):
        found = torch.zeros_like(batch.action)
        if video is None:
            return TrainingPrediction(None, found.flatten(1, 2), found, found)
        self.video_times.append(float(video.timestep.unique()))
        shown = video.noised.transpose(1, 2)
        is_true = (shown == self.batch.visual.future).flatten(1).all(1)
        if self.follows:
            found = torch.where(is_true[:, None, None, None], action.noised - batch.action, found)
        return TrainingPrediction(shown, found.flatten(1, 2), found, found)


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp('gate')
    return played.write_dataset(folder / 'data'), played.save_tiny_checkpoint(folder / 'tiny')


def make_batch(data):
    policy = played.make_tiny_policy()
    read = imagination_gate.episode_arrays.read_datasets([data[0]], policy.spec)
    setup = imagination_gate.training_setup
    policy = setup.with_statistics(policy, read, np.random.default_rng(0))
    return setup.make_sampler(policy, read).sample(8, 2, np.random.default_rng(0))


@pytest.mark.parametrize('follows', [True, False])
def test_actions_are_measured_with_the_video_that_is_shown(data, follows):
    batch = make_batch(data)
    columns = torch.zeros(batch.action.shape[-1], dtype=torch.bool)
    columns[:3] = True
    model = RecognizingModel(batch, follows)
    gate = ImaginationGate(
        model,
        lambda texts: TextBatch(torch.zeros(8), torch.ones(8, dtype=torch.bool), None, None, None),
        columns,
        2,
        0,
    )
    errors = gate.compute_errors(batch)
    assert tuple(errors) == VIDEOS
    known = batch.action_mask[:, -1].any(1)
    wanted = (batch.action[:, -1, :, :3].square().mean(-1) * batch.action_mask[:, -1]).sum(
        1
    ) / batch.action_mask[:, -1].sum(1)
    for name in ('noise', 'none', 'own_imagination'):
        torch.testing.assert_close(errors[name][known], wanted[known])
    assert (errors['true_future'][known] == 0).all() == follows
    # two steps of the imagination, then true, own, noise, other
    assert model.video_times[2:] == [0.0, 0.0, 999.0, 0.0]


def test_the_gate_needs_half_of_the_error_with_confidence():
    noise = np.random.default_rng(0).exponential(1.0, 400)
    errors = dict.fromkeys(VIDEOS, noise)
    found = summarize(errors, 0)
    assert not found['passes'] and found['true_future_ratio']['mean'] == 1
    assert found['noise']['low'] < found['noise']['mean'] < found['noise']['high']
    assert summarize({**errors, 'true_future': 0.3 * noise}, 0)['passes']
    unsure = summarize({**errors, 'true_future': 0.49 * noise[::-1]}, 0)
    assert unsure['true_future_ratio']['mean'] < 0.5 and not unsure['passes']


def test_the_command_writes_a_table_and_a_report(data, tmp_path, capsys):
    report = tmp_path / 'gate.json'
    given = [data[0], '--checkpoint', data[1], '--windows', 8, '--steps', 2, '--report', report]
    policy = played.make_tiny_policy()
    read = imagination_gate.episode_arrays.read_datasets([data[0]], policy.spec)
    with_statistics = imagination_gate.training_setup.with_statistics
    policy = with_statistics(policy, read, np.random.default_rng(0))
    imagination_gate.training_setup.checkpoint_folder.save(policy, data[1])
    assert imagination_gate.main([str(word) for word in given]) == 0
    found = json.loads(report.read_text())
    assert found['windows'] <= 8 and all(np.isfinite(found[name]['mean']) for name in VIDEOS)
    assert '| own imagination |' in capsys.readouterr().out
    assert imagination_gate.main([str(word) for word in (*given, '--blocks', 9)]) == 1
    assert '--blocks 9' in capsys.readouterr().err
