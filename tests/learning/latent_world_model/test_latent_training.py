"""A latent world model from data to a policy in the simulator, at toy size."""

import csv
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.learning import played
from tests.learning.training.resumed_training import check_resumed_equals_whole
from wam_learning.data import episode_arrays, latent_cache
from wam_learning.evaluation.eval_conditions import MAIN, make_trials
from wam_learning.evaluation.eval_worker import EvalJob, make_policy_factory, run_job
from wam_learning.latent_world_model import latent_checkpoint, latent_training
from wam_learning.latent_world_model.latent_data import MOTION_SCALE, LatentSampler
from wam_learning.latent_world_model.latent_network import LatentNetworkConfig
from wam_learning.latent_world_model.latent_policy import LatentPolicy
from wam_learning.latent_world_model.rssm import RssmConfig
from wam_learning.training import train
from wam_learning.training.grounding_loss import GroundingTargets
from wam_learning.training.trainer import TrainerConfig
from wam_policy.core.robot import embodiment
from wam_policy.model.checkpoint import checkpoint_folder
from wam_policy.model.encoders.text_encoder import PromptTooLong
from wam_sim.physics import sim_robot as robots

TOY = LatentNetworkConfig(RssmConfig(24, 4, 4, 24), 16, 2, 1)


@pytest.fixture(scope='module', autouse=True)
def toy_sizes():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(latent_training, 'DEFAULT_CONFIG', TOY)
        yield


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    return played.write_dataset(tmp_path_factory.mktemp('data') / 'a')


@pytest.fixture(scope='module')
def autoencoder(data, tmp_path_factory):
    """Return an untrained autoencoder with the statistics of the data."""
    folder = tmp_path_factory.mktemp('ae')
    tiny = played.save_tiny_checkpoint(folder / 'tiny')
    words = [data, '--out', folder / 'ae', '--init', tiny, '--stage', 'autoencoder']
    assert train.main([*map(str, words), '--autoencoder-steps', '1', '--no-bf16']) == 0
    return folder / 'ae'


def run_training(data, out, init, *more, steps=2):
    words = [data, '--out', out, '--init', init, '--stage', 'latent', '--steps', steps]
    words += ['--batch-size', 4, '--device', 'cpu', '--no-bf16', *more]
    return train.main([str(word) for word in words])


@pytest.fixture(scope='module')
def trained(data, autoencoder, tmp_path_factory, toy_sizes):
    out = tmp_path_factory.mktemp('latent') / 'out'
    assert run_training(data, out, autoencoder) == 0
    return out


def make_stage(data, autoencoder, **settings):
    policy = checkpoint_folder.load(autoencoder, torch.device('cpu'), torch.float32)
    arrays = episode_arrays.read_datasets([data], policy.spec)
    config = TrainerConfig(**{'rate': 3e-3, 'warm_up': 5, 'bf16': False, **settings})
    return latent_training.make_latent_stage(policy, arrays, config, 0, 4)


def test_every_loss_falls_on_one_batch(data, autoencoder):
    stage = make_stage(data, autoencoder, decay_share=0.0)
    batch = stage.sample()
    losses = [stage.trainer.train_step(batch, 0.0)._asdict() for _ in range(150)]
    for name, share in {'total': 0.5, 'action': 0.5, 'image': 0.9, 'place': 0.5}.items():
        first, last = (
            np.mean([float(x[name]) for x in part]) for part in (losses[:5], losses[-5:])
        )
        assert last < share * first, name
    assert float(losses[-1]['patch']) < 0.95 * float(losses[0]['patch'])


def test_a_sequence_has_one_text_and_one_episode_and_its_delays(data, autoencoder):
    policy = checkpoint_folder.load(autoencoder, torch.device('cpu'), torch.float32)
    arrays, spec = episode_arrays.read_datasets([data], policy.spec), policy.spec
    robot = arrays.robot
    layout = spec.canvas.make_layout(robot.model_tag, tuple(c.key for c in robot.cameras))
    sampler = LatentSampler(
        arrays,
        latent_cache.load_or_encode(arrays, policy.encoders.vae),
        policy.make_normalizer(robot),
        spec.model,
        GroundingTargets.from_data(arrays, layout, spec.model),
    )
    starts, none = sampler.find_episode_starts()[:2], np.zeros((2, 16), int)
    batch = sampler.build_batch(starts, 16, none, none + 2)
    assert batch.image.shape[:2] == (2, 16) and batch.action.shape == (2, 16, 24, 24)
    # 70 rows, an image every 6: 12 images; the text of the second episode changes at row 40
    assert batch.seen.sum(1).tolist() == [12, 7] and batch.texts == played.TEXTS
    assert batch.seen[1, :7].all() and not batch.action_mask[~batch.seen].any()
    torch.testing.assert_close(
        batch.motion[:, 1:], MOTION_SCALE * (batch.joints[:, 1:] - batch.joints[:, :-1])
    )
    assert not batch.motion[:, 0].any()
    later = sampler.build_batch(starts, 16, none + 2, none + 2)
    torch.testing.assert_close(later.joints, batch.query_joints)
    assert not torch.equal(later.joints, batch.joints)
    # of a shown goal only later images say where it is
    known = (batch.patch_target.sum(-1) > 0)[1].tolist()
    assert batch.families == ('touch', 'recall') and known[:7] == [False] * 3 + [True] * 4


def test_a_continued_training_equals_an_uninterrupted_one(
    data, autoencoder, tmp_path, monkeypatch
):
    def run(out, steps):
        return run_training(data, out, autoencoder, steps=steps)

    check_resumed_equals_whole(run, tmp_path, monkeypatch, steps=4)


def test_validation_reports_words_and_imagined_images(data, autoencoder, tmp_path, capsys):
    # seed 2 holds out a `touch`, whose text does not change
    assert run_training(data, tmp_path / 'out', autoencoder, '--seed', 2) == 0
    assert 'imagined 4 ahead' in capsys.readouterr().out
    with (tmp_path / 'out/training/heldout.csv').open(newline='') as file:
        found = list(csv.DictReader(file))[-1]
    assert {'action', 'action_other_colour', 'image_imagined', 'image_repeated'} <= found.keys()
    assert 0 < float(found['image_imagined']) < 10 and float(found['touch/action']) > 0


def test_steps_one_by_one_equal_the_training_pass(data, autoencoder):
    stage = make_stage(data, autoencoder)
    model, batch = stage.trainer.model, stage.sample()
    with torch.no_grad():
        encoded = model.encode(batch, stage.trainer.prompt_encoder(batch.texts))
        whole = model.network.observe(encoded, batch.joints, batch.motion)
        state, features = None, []
        for i in range(3):
            one = slice(i, i + 1)
            found = model.network.observe(
                encoded._replace(tokens=encoded.tokens[:, one]),
                batch.joints[:, one],
                batch.motion[:, one],
                state,
            )
            state = found.last
            features.append(found.features)
    torch.testing.assert_close(torch.cat(features, 1), whole.features[:, :3])


@pytest.fixture
def policy(trained):
    return LatentPolicy(latent_checkpoint.load(trained), embodiment.load_embodiment('agibot_g1'))


def make_views(robot, value):
    return {camera.key: np.full((1, 48, 64, 3), value, np.uint8) for camera in robot.cameras}


def test_the_policy_answers_from_what_it_remembers(policy):
    robot = policy.robot
    joints = robot.home_positions(robot.observed)
    with pytest.raises(RuntimeError, match='call reset first'):
        policy.commit(make_views(robot, 0))
    policy.reset(played.TEXTS[0])
    with pytest.raises(RuntimeError, match='call commit first'):
        policy.query(joints, 0)
    policy.commit(make_views(robot, 0))
    first = policy.query(joints, 0)
    assert first.targets.shape == (24, 16) and np.isfinite(first.targets).all()
    np.testing.assert_array_equal(policy.query(joints, 1).targets, first.targets)
    policy.commit(make_views(robot, 250))
    policy.commit(make_views(robot, 0))
    assert policy.memory.commits == 3
    later = policy.query(joints, 0).targets
    assert not np.array_equal(later, first.targets)  # the same image, another past
    policy.reset(played.TEXTS[0])
    policy.commit(make_views(robot, 0))
    np.testing.assert_array_equal(policy.query(joints, 0).targets, first.targets)
    with pytest.raises(PromptTooLong):
        policy.reset('x' * 40)


def test_a_trial_runs_in_the_simulator(trained):
    robot = robots.load('agibot_g1')
    (trial,) = make_trials(MAIN, robot, ['touch'], 1, 5)
    short = replace(trial, limit_s=1.5)
    (result,) = run_job(robot, EvalJob(str(trained), (short,), pace={'fast': True}))
    assert result.chunks >= 5 and result.stop_reason == ''


def damage_weights(folder):
    tensors = load_file(folder / 'model.safetensors')
    tensors.pop('network.place.bias')
    save_file(tensors, folder / 'model.safetensors')


def truncate_weights(folder):
    path = folder / 'model.safetensors'
    path.write_bytes(path.read_bytes()[:100])


def remove_weights(folder):
    (folder / 'model.safetensors').unlink()


def change_config(folder):
    content = json.loads((folder / 'config.json').read_text())
    content['latent_world_model']['rssm']['width'] = 3
    (folder / 'config.json').write_text(json.dumps(content))


@pytest.mark.parametrize(
    ('damage', 'words'),
    [
        (damage_weights, r'model.safetensors: 1 tensors are missing.*network.place.bias.*write'),
        (truncate_weights, r'model.safetensors: .*write or copy it again'),
        (change_config, r'config.json: latent_world_model: .*width.*--stage latent'),
        (
            lambda folder: (folder / 'model.safetensors').unlink(),
            r'No such file.*model.safetensors',
        ),
    ],
)
def test_what_cannot_be_loaded_is_one_sentence(trained, tmp_path, damage, words):
    folder = tmp_path / 'copy'
    folder.mkdir()
    for path in trained.rglob('*'):
        if path.is_file():
            goal = folder / path.relative_to(trained)
            goal.parent.mkdir(parents=True, exist_ok=True)
            goal.write_bytes(path.read_bytes())
    damage(folder)
    with pytest.raises((ValueError, FileNotFoundError), match=words) as refused:
        latent_checkpoint.load(folder)
    assert '\n' not in str(refused.value)


def test_other_programs_say_what_it_is(trained):
    with pytest.raises(ValueError, match='latent world model, which only `./wam eval'):
        checkpoint_folder.load(trained, torch.device('cpu'), torch.float32)


def test_a_robot_without_statistics_is_named(trained):
    with pytest.raises(ValueError, match='no statistics for tag .* of yam'):
        make_policy_factory(robots.load('yam'), EvalJob(str(trained), ()))


def test_adapters_are_refused(data, autoencoder, tmp_path, capsys):
    assert run_training(data, tmp_path / 'out', autoencoder, '--lora-rank', 4) == 1
    assert 'complete weights in one process' in capsys.readouterr().err
